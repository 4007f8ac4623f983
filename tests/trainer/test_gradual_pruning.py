"""Pruning within one training, in a stock Trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Crash, CrashAt, arguments, bert, different, mask_of, revived, sentences, snapshot, stock, timeless
from transformers import Trainer, TrainerCallback

from hf_tickets import Mask, PruningCallback, PruningConfig, Ticket, TicketsError

PRUNING = PruningConfig(sparsities=[0.2, 0.4, 0.6, 0.8])
EPOCHS = 4  # 24 steps


class Watch(TrainerCallback):
    """Notes the mask of every step, and whether all it prunes is +0 and may stay so."""

    def __init__(self, pruning: PruningCallback) -> None:
        self.pruning = pruning
        self.masks: dict[int, Mask] = {}
        self.faults: list[int] = []
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        mask = self.pruning.mask
        if mask is not None:
            self.masks[state.global_step] = mask
            if revived(kwargs["model"], mask):
                self.faults.append(state.global_step)
        self.weights[state.global_step] = snapshot(kwargs["model"])


def train(folder: Path, *extra: TrainerCallback, resume: bool = False, **changes: Any) -> tuple[Trainer, Watch]:
    own = {name: changes.pop(name) for name in ("start", "end", "pruning", "ticket") if name in changes}
    callback = PruningCallback(**{"pruning": PRUNING, "start": 0.25, "end": 0.75, **own})
    watch = Watch(callback)
    args = arguments(folder, num_train_epochs=EPOCHS, weight_decay=0.1, **changes)
    trainer = stock(bert(), args, sentences(), callback, watch, *extra)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, watch


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "sgd", "adafactor"])
def test_sparsity_rises_at_the_steps_of_the_formula_and_zeros_hold(tmp_path: Path, optim: str) -> None:
    more = {"optim_args": "momentum=0.9"} if optim == "sgd" else {}
    trainer, watch = train(tmp_path, optim=optim, **more)
    # four prunings, evenly spaced from a quarter to three quarters of 24 steps
    expected = {6: 0.2, 10: 0.4, 14: 0.6, 18: 0.8}
    assert min(watch.masks) == 6
    for step in range(6, 25):
        last = max(place for place in expected if place <= step)
        assert watch.masks[step].sparsity == pytest.approx(expected[last], abs=1 / watch.masks[step].numel)
    assert watch.faults == []
    assert watch.masks[6] >= watch.masks[10] >= watch.masks[14] >= watch.masks[18]
    assert revived(trainer.model, watch.masks[24]) == []
    logged = {entry["step"]: entry.get("sparsity", 0.0) for entry in trainer.state.log_history}
    assert [step for step in range(2, 25) if logged[step] != logged[step - 1]] == [6, 10, 14, 18]


def test_the_smallest_live_weights_are_pruned(tmp_path: Path) -> None:
    _, watch = train(tmp_path)
    mask = watch.masks[6]
    # the weights are those after step 6 with the pruned ones zeroed, so the kept ones are the largest of step 6
    _, dense = train(tmp_path, pruning=PruningConfig(sparsities=[0.01]), start=0.9, end=0.9)
    weights = {name: dense.weights[6][f"bert.{name}"].abs() for name in mask}
    cut = torch.cat([w.reshape(-1) for w in weights.values()]).kthvalue(mask.numel - mask.kept).values
    assert Mask({name: weight > cut for name, weight in weights.items()}) == mask


def test_every_checkpoint_holds_its_ticket(tmp_path: Path) -> None:
    _, watch = train(tmp_path, save_strategy="steps", save_steps=4)
    for step in (4, 8, 12, 16, 20, 24):
        folder = tmp_path / f"checkpoint-{step}"
        if step < 6:
            assert not (folder / "ticket_config.json").exists()
        else:
            ticket = Ticket.from_pretrained(folder)
            assert ticket.mask == watch.masks[step]
            assert ticket.config.pruning["sparsities"] == PRUNING.sparsities


@pytest.mark.parametrize("step", [5, 9, 15, 23])
def test_a_stock_trainer_resumes_to_the_same_masks_and_weights(tmp_path: Path, step: int) -> None:
    whole, watched = train(tmp_path / "whole", save_strategy="steps", save_steps=4)
    with pytest.raises(Crash):
        train(tmp_path / "parts", CrashAt("on_step_end", step), save_strategy="steps", save_steps=4)
    resumed, watch = train(tmp_path / "parts", save_strategy="steps", save_steps=4, resume=True)
    assert watch.faults == []
    assert watch.masks == {step: mask for step, mask in watched.masks.items() if step in watch.masks}
    assert len(watch.weights) == 24 - step // 4 * 4
    assert different(snapshot(resumed.model), snapshot(whole.model)) == []
    assert timeless(resumed.state.log_history[:-1]) == timeless(whole.state.log_history[:-1])


def test_a_checkpoint_of_an_earlier_training_in_the_folder_does_not_keep_its_ticket(tmp_path: Path) -> None:
    train(tmp_path, save_strategy="steps", save_steps=8)
    _, watch = train(tmp_path, save_strategy="steps", save_steps=8, pruning=PruningConfig(sparsities=[0.5, 0.9]))
    for step in (8, 16, 24):
        assert Ticket.from_pretrained(tmp_path / f"checkpoint-{step}").mask == watch.masks[step]


def test_a_callback_that_trains_again_begins_again(tmp_path: Path) -> None:
    """As under hyperparameter search, or in a notebook's cell run twice."""
    callback = PruningCallback(pruning=PRUNING, start=0.25)
    masks = []
    for _ in range(2):
        trainer = stock(bert(), arguments(tmp_path, num_train_epochs=EPOCHS), sentences(), callback)
        trainer.train()
        masks.append(callback.mask)
    assert masks[0] == masks[1]
    assert len(callback.ticket.sparsities) == 4


def test_pruning_goes_on_from_a_ticket(tmp_path: Path) -> None:
    mask = mask_of(bert(), 0.3)
    _, watch = train(tmp_path, ticket=mask, pruning=PruningConfig(sparsities=[0.5, 0.7]))
    assert watch.masks[1] == mask
    assert watch.masks[24] <= mask
    assert watch.masks[24].sparsity == pytest.approx(0.7, abs=1e-4)
    assert watch.faults == []


def test_a_ticket_sparser_than_the_schedule_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(TicketsError, match=r"0\.5|50"):
        PruningCallback(mask_of(bert(), 0.5), PruningConfig(sparsities=[0.2, 0.8]))


def test_the_best_model_of_an_earlier_step_ends_as_sparse_as_the_last(tmp_path: Path) -> None:
    scores = iter(range(100, 0, -1))
    callback = PruningCallback(pruning=PRUNING, start=0.25)
    args = arguments(
        tmp_path,
        num_train_epochs=EPOCHS,
        eval_strategy="steps",
        eval_steps=4,
        save_strategy="steps",
        save_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
    )
    compute: dict[str, Any] = {"compute_metrics": lambda prediction: {"score": next(scores)}}
    trainer = stock(bert(), args, sentences(), callback, eval_dataset=sentences(12, 40), **compute)
    trainer.train()
    assert trainer.state.best_global_step == 4  # when nothing was pruned
    assert callback.mask.sparsity == pytest.approx(0.8, abs=1e-4)
    assert revived(trainer.model, callback.mask) == []


@pytest.mark.parametrize("places", [(0.0, 0.0, {1}), (1.0, 1.0, {24}), (0.0, 1.0, {1, 8, 16, 24})])
def test_start_and_end_may_lie_anywhere(tmp_path: Path, places: tuple[float, float, set[int]]) -> None:
    start, end, steps = places
    trainer, watch = train(tmp_path, start=start, end=end)
    changes = {step for step in range(1, 25) if watch.masks.get(step) != watch.masks.get(step - 1)}
    assert changes == steps
    assert watch.masks[24].sparsity == pytest.approx(0.8, abs=1e-4)
    assert revived(trainer.model, watch.masks[24]) == []


def test_arguments_that_cannot_be_are_refused() -> None:
    for values in ({}, {"pruning": PRUNING, "start": 0.8, "end": 0.5}, {"pruning": PRUNING, "start": -0.1}):
        with pytest.raises(TicketsError):
            PruningCallback(**values)
