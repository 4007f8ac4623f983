"""Rounds that end once their mask has settled, and masks by what gradients add up to; both resumed to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import debug_launcher
from accelerate.state import AcceleratorState, GradientState
from tiny import Crash, CrashAt, arguments, bert, different, outcome, search, sentences, snapshot, stock
from transformers import TrainerCallback

from hf_tickets import Mask, PruningCallback, PruningConfig, RewindConfig, Ticket, TicketTrainer, prune
from hf_tickets.errors import PruningError, RunFolderError


class Masks(TrainerCallback):
    """Draws the masks that each step of a training would yield, by `prune` alone."""

    def __init__(self, sparsity: float) -> None:
        self.sparsity = sparsity
        self.masks: list[Mask] = []
        self.on = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.on:
            self.masks.append(prune(kwargs["model"], sparsity=self.sparsity))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on = False


def differing(first: Mask, second: Mask) -> float:
    """The share of weights in which two masks differ."""
    return sum(float((first[name] != second[name]).sum()) for name in first) / first.numel


def early(**changes: Any) -> PruningConfig:
    defaults = {"amount": 0.4, "rounds": 2, "early_bird_distance": 0.1, "early_bird_window": 2, "early_bird_steps": 1}
    return PruningConfig(**{**defaults, **changes})


# Early-bird rounds


def test_a_round_ends_when_the_last_distances_are_all_below_the_limit(tmp_path: Path) -> None:
    watch = Masks(0.4)
    dense = search(tmp_path / "dense", [watch], pruning=PruningConfig(amount=0.4, rounds=1), num_train_epochs=4)
    dense.train()
    distances = [differing(*pair) for pair in zip(watch.masks, watch.masks[1:], strict=False)]
    limit = sorted(distances)[len(distances) // 2]
    # the first step whose two last distances are below the median; a distance belongs to the later of two steps
    end = next(i for i in range(1, len(distances)) if max(distances[i - 1 : i + 1]) < limit) + 2
    assert 3 < end < 24
    trainer = search(tmp_path / "early", pruning=early(early_bird_distance=limit), num_train_epochs=4)
    trainer.train()
    assert trainer.history[0].steps == end
    assert trainer.history[2].steps == 24  # the last ticket is trained in full
    logged = [
        entry["early_bird_distance"]
        for entry in trainer.history[0].log_history
        if "loss" in entry and entry["step"] > 1
    ]
    assert logged == pytest.approx(distances[: end - 1])
    assert trainer.tickets[0].mask == watch.masks[end - 1]


def test_masks_are_drawn_at_the_end_of_each_epoch_by_default(tmp_path: Path) -> None:
    settled = {"early_bird_distance": 1.0, "early_bird_steps": None}
    trainer = search(tmp_path, pruning=early(**settled, early_bird_window=1), num_train_epochs=4)
    trainer.train()
    assert [result.steps for result in trainer.history] == [12, 12, 24]


def test_a_round_is_not_ended_before_the_step_to_rewind_to(tmp_path: Path) -> None:
    pruning = early(early_bird_distance=1.0, early_bird_window=1)
    trainer = search(tmp_path, pruning=pruning, rewind=RewindConfig(rewind_step=5))
    trainer.train()
    assert [result.steps for result in trainer.history] == [5, 2, 6]


def test_a_distance_that_is_never_reached_changes_nothing(tmp_path: Path) -> None:
    plain, other = search(tmp_path / "plain"), search(tmp_path / "early", pruning=early(early_bird_distance=1e-9))
    plain.train()
    other.train()
    assert different(snapshot(plain.model), snapshot(other.model)) == []
    assert plain.ticket.mask == other.ticket.mask


# Criteria of first order


class Sums(TrainerCallback):
    """Adds up −w · g of the first training from the optimizer's own parameters."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.on = True

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for name, weight in kwargs["model"].named_parameters() if self.on else ():
            step = -(weight.detach() * weight.grad)
            self.sums[name] = self.sums.get(name, 0) + step

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.on = False


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_search_keeps_the_weights_that_moved_away_from_zero(tmp_path: Path, accumulation: int) -> None:
    watch = Sums()
    pruning = PruningConfig(amount=0.4, rounds=1, criterion="movement")
    trainer = search(tmp_path, [watch], pruning=pruning, gradient_accumulation_steps=accumulation)
    trainer.train()
    mask = trainer.ticket.mask
    sums = {name: watch.sums[f"bert.{name}"] for name in mask}
    cut = torch.cat([values.flatten() for values in sums.values()]).kthvalue(mask.numel - mask.kept).values
    assert all(mask[name].equal(values > cut) for name, values in sums.items())
    assert trainer.ticket.config.pruning["criterion"] == "movement"


@pytest.mark.parametrize("criterion", ["snip", "movement"])
def test_gradual_pruning_by_gradients_resumes_to_the_same_masks(tmp_path: Path, criterion: str) -> None:
    def train(folder: Path, *extra: TrainerCallback, resume: bool = False) -> tuple[Any, Mask]:
        callback = PruningCallback(pruning=PruningConfig(sparsities=[0.3, 0.6], criterion=criterion), start=0.5)
        args = arguments(folder, save_strategy="steps", save_steps=2)
        trainer = stock(bert(), args, sentences(), callback, *extra)
        trainer.train(resume_from_checkpoint=resume)
        return trainer, callback.mask

    whole, mask = train(tmp_path / "whole")
    with pytest.raises(Crash):
        train(tmp_path / "parts", CrashAt("on_step_end", 3))
    resumed, again = train(tmp_path / "parts", resume=True)
    assert again == mask
    assert mask.sparsity == pytest.approx(0.6, abs=1e-3)
    assert different(snapshot(resumed.model), snapshot(whole.model)) == []


def of_two(folder: Path) -> None:
    """What each of two processes does."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    by_movement(folder, per_device_train_batch_size=2, ddp_backend="gloo")


def by_movement(folder: Path, **changes: Any) -> TicketTrainer:
    trainer = search(folder, model=bert(0.0), pruning=early(criterion="movement", rounds=1), **changes)
    trainer.train()
    return trainer


def test_two_processes_add_up_what_one_does(tmp_path: Path) -> None:
    alone = by_movement(tmp_path / "alone")
    debug_launcher(of_two, (tmp_path / "two",), num_processes=2)
    found = Ticket.from_pretrained(tmp_path / "two")
    assert found.config.dense["steps"] == alone.history[0].steps
    assert found.mask.overlap(alone.ticket.mask) > 0.98  # sums of floats in another order


# Interruptions and refusals


def interruptible(folder: Path, *callbacks: TrainerCallback) -> TicketTrainer:
    """Rounds that end early, ranked by movement: all that is drawn and added up must survive."""
    pruning = early(early_bird_distance=0.07, criterion="movement")
    saves = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 3}
    trainer = search(folder, callbacks, pruning=pruning, **saves)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    assert interruptible(folder).history[0].steps < 18
    return outcome(folder)


@pytest.mark.parametrize("event", [("on_step_end", 5, 0), ("on_train_end", None, 0), ("on_save", None, 3)])
def test_an_interrupted_search_ends_with_the_same_files(
    uninterrupted: dict[str, Any], tmp_path: Path, event: tuple[str, int | None, int]
) -> None:
    with pytest.raises(Crash):
        interruptible(tmp_path, CrashAt(*event))
    interruptible(tmp_path)
    assert outcome(tmp_path) == uninterrupted


def test_what_cannot_go_together_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="one schedule spans all rounds"):
        search(tmp_path, pruning=early(), rewind=RewindConfig("none"))
    with pytest.raises(PruningError, match="within one training"):
        PruningCallback(pruning=early())
    for wrong in ({"early_bird_distance": 0}, {"early_bird_distance": "x"}, {"early_bird_window": 0}):
        with pytest.raises(PruningError, match=next(iter(wrong))):
            early(**wrong)
    with pytest.raises(PruningError, match="early_bird_steps"):
        early(early_bird_steps=0)


def test_a_finished_search_with_early_ends_is_not_extended(tmp_path: Path) -> None:
    search(tmp_path, pruning=early(rounds=1)).train()
    with pytest.raises(RunFolderError, match="trained in full"):
        search(tmp_path, pruning=early(rounds=2)).train()


def test_a_run_folder_from_before_a_field_existed_goes_on(tmp_path: Path) -> None:
    search(tmp_path, pruning=PruningConfig(amount=0.4, rounds=1)).train()
    record = json.loads((tmp_path / "_run/run.json").read_text())
    assert record["settings"]["pruning"].pop("early_bird_window") == 5
    (tmp_path / "_run/run.json").write_text(json.dumps(record))
    trainer = search(tmp_path, pruning=PruningConfig(amount=0.4, rounds=2))
    trainer.train()
    assert len(trainer.history) == 3


# Gradual pruning within one training


def gradual(**changes: Any) -> PruningConfig:
    return PruningConfig(sparsities=[0.2, 0.5, 0.8], gradual=True, gradual_start=0.25, **changes)


@pytest.mark.parametrize("criterion", ["magnitude", "movement"])
def test_a_gradual_search_is_one_training_with_all_the_masks(tmp_path: Path, criterion: str) -> None:
    trainer = search(tmp_path / "search", pruning=gradual(criterion=criterion))
    start = snapshot(trainer.model)
    trainer.train()
    callback = PruningCallback(pruning=PruningConfig(sparsities=[0.2, 0.5, 0.8], criterion=criterion), start=0.25)
    stock(bert(), arguments(tmp_path / "stock"), sentences(), callback).train()
    assert [ticket.mask for ticket in trainer.tickets] == list(callback.ticket.masks)
    assert [result.steps for result in trainer.history] == [6]
    assert trainer.history[0].sparsity == pytest.approx(0.8, abs=1e-3)
    # what others train is a ticket of the weights it began with, of which nothing was measured yet
    found = Ticket.from_pretrained(tmp_path / "search")
    model = bert(seed=1)
    model.load_state_dict(start)
    found.at(found.sparsities[1]).apply(model)
    assert [rung["metrics"] for rung in found.config.rungs] == [{}, {}, {}]
    assert found.config.dense == {}
    again = search(tmp_path / "search", pruning=gradual(criterion=criterion))
    again.train()
    assert again.ticket.ladder.digests == found.ladder.digests
    with pytest.raises(RunFolderError, match="cannot be extended"):
        search(tmp_path / "search", pruning=PruningConfig(sparsities=[0.2, 0.5, 0.8, 0.9], gradual=True)).train()


@pytest.mark.parametrize("event", [("on_step_end", 4, 0), ("on_train_end", None, 0)])
def test_an_interrupted_gradual_search_ends_with_the_same_files(
    tmp_path: Path, event: tuple[str, int | None, int]
) -> None:
    def run(folder: Path, *callbacks: TrainerCallback) -> None:
        search(folder, callbacks, pruning=gradual(criterion="snip"), save_strategy="steps", save_steps=2).train()

    run(tmp_path / "whole")
    with pytest.raises(Crash):
        run(tmp_path / "parts", CrashAt(*event))
    run(tmp_path / "parts")
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_gradual_pruning_goes_with_rewinding_alone(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="one training"):
        search(tmp_path, pruning=gradual(), rewind=RewindConfig("learning_rate"))
    with pytest.raises(PruningError, match="early_bird"):
        gradual(early_bird_distance=0.1)
    with pytest.raises(PruningError, match="gradual_start"):
        gradual(gradual_end=0.1)
