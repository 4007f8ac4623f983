"""The same mask under the ways of training that users combine it with."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    Held,
    Snapshots,
    arguments,
    bert,
    different,
    mask_of,
    revived,
    search,
    sentences,
    snapshot,
    stock,
    timeless,
)
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from hf_tickets import PruningCallback, PruningConfig, Ticket, TicketTrainer

# transformers renamed the argument between the lower bound and now.
ACTIVATION_CHECKPOINTING = next(
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if name in TrainingArguments.__dataclass_fields__
)
STEPWISE = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
WAYS: dict[str, dict[str, Any]] = {
    "best model": {**STEPWISE, "load_best_model_at_end": True, "save_total_limit": 1, "learning_rate": 0.05},
    "activation checkpointing": {ACTIVATION_CHECKPOINTING: True},
    "bf16": {"bf16": True},
    "compiled": {"torch_compile": True, "torch_compile_backend": "aot_eager"},
    "early stopping": {**STEPWISE, "metric_for_best_model": "loss", "learning_rate": 0.05},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "neftune": {"neftune_noise_alpha": 5.0},
}


def callbacks_for(way: str) -> list[TrainerCallback]:
    return [EarlyStoppingCallback(1)] if way == "early stopping" else []


@pytest.mark.parametrize("way", WAYS)
def test_a_ticket_is_held(tmp_path: Path, way: str) -> None:
    model, mask = bert(), mask_of(bert())
    held = Held(mask)
    args = arguments(tmp_path, num_train_epochs=2, weight_decay=0.1, **WAYS[way])
    data = {"train_dataset": sentences(), "eval_dataset": sentences(12, 40)}
    trainer = TicketTrainer(model, args, ticket=mask, callbacks=[*callbacks_for(way), held], **data)
    trainer.train()
    assert held.steps == 12 or (way == "early stopping" and 2 < held.steps < 12)
    assert held.faults == []
    assert revived(trainer.model, mask) == []
    trainer.save_model()
    assert Ticket.from_pretrained(tmp_path).mask.digest == mask.digest
    with torch.no_grad():
        trainer.evaluate()
    assert revived(trainer.model, mask) == []


@pytest.mark.parametrize("way", WAYS)
def test_a_search_holds_its_masks(tmp_path: Path, way: str) -> None:
    changes = {**WAYS[way], "eval_dataset": sentences(12, 40)}
    trainer = search(tmp_path, callbacks_for(way), **changes)
    trainer.train()
    assert revived(trainer.model, trainer.tickets[-1].mask) == []
    assert [result.digest for result in trainer.history[1:]] == [ticket.mask.digest for ticket in trainer.tickets]
    assert Ticket.from_pretrained(tmp_path).mask == trainer.tickets[-1].mask


def test_the_compiler_of_users_holds_a_mask_too(tmp_path: Path) -> None:
    """With torch's default backend, which builds C++ here: on the smallest of models, for it takes its time."""
    model = bert(0.0, num_hidden_layers=1)
    mask = mask_of(model)
    held = Held(mask)
    args = arguments(tmp_path, max_steps=2, torch_compile=True)
    TicketTrainer(model, args, train_dataset=sentences(), ticket=mask, callbacks=[held]).train()
    assert (held.steps, held.faults) == (2, [])


@pytest.mark.parametrize("way", ["activation checkpointing", "compiled"])
def test_ways_that_only_compute_otherwise_find_the_same_ticket(tmp_path: Path, way: str) -> None:
    """Without dropout, of which compiled code draws other numbers."""
    trainers = [
        search(tmp_path / name, model=bert(0.0), max_steps=2, **changes)
        for name, changes in (("plain", {}), ("other", WAYS[way]))
    ]
    for trainer in trainers:
        trainer.train()
    first, second = (trainer.tickets[0].mask for trainer in trainers)
    assert first.overlap(second) > 0.99
    if way == "activation checkpointing":
        assert first == second


def test_the_best_model_is_the_best_checkpoint_of_its_round(tmp_path: Path) -> None:
    kept: list[dict[int, dict[str, torch.Tensor]]] = []
    best: list[int] = []

    class Steps(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            kept.append({})

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            kept[-1][state.global_step] = snapshot(kwargs["model"])

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            best.append(state.best_global_step)
            assert different(snapshot(kwargs["model"]), kept[-1][best[-1]]) == []

    trainer = search(
        tmp_path, [Steps()], eval_dataset=sentences(12, 40), **{**WAYS["best model"], "learning_rate": 0.002}
    )
    trainer.train()
    assert len(best) == 3
    assert min(best) < 6  # else the last model would do as well
    # importance is that of the best model, as is what round 0 reports
    losses = {e["step"]: e["eval_loss"] for e in trainer.history[0].log_history if "eval_loss" in e and e["step"]}
    mask = trainer.tickets[0].mask
    weights = torch.cat([kept[0][best[0]][f"bert.{name}"].abs().reshape(-1) for name in mask])
    cut = weights.kthvalue(mask.numel - mask.kept).values
    assert all(torch.equal(kept[0][best[0]][f"bert.{name}"].abs() > cut, mask[name]) for name in mask)
    assert trainer.history[0].metrics["loss"] == pytest.approx(min(losses.values()), rel=1e-6)


def test_patience_begins_anew_in_each_round(tmp_path: Path) -> None:
    stopping = EarlyStoppingCallback(2)
    begun = []

    class Patience(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begun.append(stopping.early_stopping_patience_counter)

    changes = {**WAYS["early stopping"], "num_train_epochs": 6, "eval_dataset": sentences(12, 40)}
    snapshots = Snapshots()
    trainer = search(tmp_path / "search", [stopping, Patience(), snapshots], **changes)
    trainer.train()
    assert begun == [0, 0, 0]
    assert stopping.early_stopping_patience_counter >= 2
    assert max(result.steps for result in trainer.history) < 36
    changes.pop("eval_dataset")
    args = arguments(tmp_path / "alone", **changes)
    last = PruningCallback(trainer.ticket)
    alone = stock(bert(), args, sentences(), last, EarlyStoppingCallback(2), eval_dataset=sentences(12, 40))
    alone.train()
    assert alone.state.global_step == trainer.history[2].steps
    assert different(snapshot(alone.model), snapshots.ended[2]) == []
    assert timeless(alone.state.log_history) == timeless(trainer.history[2].log_history)


def test_a_model_in_bf16_and_one_that_is_partly_frozen(tmp_path: Path) -> None:
    model = bert().to(torch.bfloat16)
    mask = mask_of(model)
    TicketTrainer(model, arguments(tmp_path), train_dataset=sentences(), ticket=mask).train()
    assert all(
        not model.bert.get_parameter(name).detach().view(torch.int16)[~kept].any() for name, kept in mask.items()
    )
    frozen = bert()
    frozen.bert.encoder.layer[0].requires_grad_(False)
    held = Held(mask)
    args = arguments(tmp_path, weight_decay=0.1)
    TicketTrainer(frozen, args, train_dataset=sentences(), ticket=mask, callbacks=[held]).train()
    assert (held.steps, held.faults) == (6, [])


def test_a_search_in_bf16_weights_prunes_exactly(tmp_path: Path) -> None:
    trainer = search(tmp_path, model=bert().to(torch.bfloat16), pruning=PruningConfig(amount=0.5, rounds=2))
    trainer.train()
    for ticket, share in zip(trainer.tickets, (0.5, 0.75), strict=True):
        assert abs(ticket.mask.numel - ticket.mask.kept - share * ticket.mask.numel) <= 1
