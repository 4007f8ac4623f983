"""What goes back to which point between rounds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    Snapshots,
    bert,
    bert_config,
    different,
    images,
    resnet,
    revived,
    same_bits,
    search,
    sentences,
    snapshot,
)
from transformers import (
    BertForMaskedLM,
    BertForTokenClassification,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from hf_tickets import Mask, RewindConfig, Ticket, TicketsError


def masked(weights: dict[str, torch.Tensor], mask: Mask, prefix: str = "bert.") -> dict[str, torch.Tensor]:
    """The reference: weights where the mask keeps them, +0 elsewhere."""
    names = {f"{prefix}{name}": kept for name, kept in mask.items()}
    return {name: value.masked_fill(~names[name], 0.0) if name in names else value for name, value in weights.items()}


@pytest.mark.parametrize(
    ("rewind", "step"),
    [(RewindConfig(rewind_step=4), 4), (RewindConfig(rewind_share=0.5), 3), (RewindConfig(rewind_step=6), 6)],
    ids=["step", "share", "last step"],
)
def test_rounds_start_from_the_weights_of_a_step_of_round_zero(tmp_path: Path, rewind: RewindConfig, step: int) -> None:
    snapshots = Snapshots(step)
    trainer = search(tmp_path, [snapshots], rewind=rewind)
    trainer.train()
    for ticket, begun in zip(trainer.tickets, snapshots.begun[1:], strict=True):
        assert different(begun, masked(snapshots.reached, ticket.mask)) == []
    assert different(snapshots.begun[0], snapshot(bert())) == []


def test_a_share_of_less_than_half_a_step_is_the_initialisation(tmp_path: Path) -> None:
    snapshots = Snapshots()
    trainer = search(tmp_path, [snapshots], rewind=RewindConfig(rewind_share=0.05))
    trainer.train()
    assert different(snapshots.begun[2], masked(snapshot(bert()), trainer.tickets[1].mask)) == []


def test_a_step_after_the_last_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    snapshots = Snapshots()
    trainer = search(tmp_path, [snapshots], rewind=RewindConfig(rewind_step=7))
    with pytest.raises(TicketsError, match="7"):
        trainer.train()
    assert snapshots.ended == []


def test_the_ticket_of_early_rewinding_carries_its_weights_to_another_head(tmp_path: Path) -> None:
    snapshots = Snapshots(4)
    trainer = search(tmp_path, [snapshots], rewind=RewindConfig(rewind_step=4))
    trainer.train()
    ticket = Ticket.from_pretrained(tmp_path)
    model = BertForTokenClassification(bert_config())
    head = model.classifier.weight.detach().clone()
    ticket.apply(model)
    expected = masked(snapshots.reached, ticket.mask)
    found = snapshot(model)
    names = [name for name in expected if name.startswith("bert.") and "pooler" not in name]
    assert [name for name in names if not same_bits(expected[name], found[name])] == []
    assert same_bits(found["classifier.weight"], head)


def test_a_ticket_with_weights_covers_embeddings_that_are_tied_to_a_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BertForMaskedLM(bert_config())
    data = [{"input_ids": row["input_ids"], "labels": row["input_ids"]} for row in sentences()]
    snapshots = Snapshots(4)
    search(tmp_path, [snapshots], model=model, train_dataset=data, rewind=RewindConfig(rewind_step=4)).train()
    ticket = Ticket.from_pretrained(tmp_path)
    assert ticket.theta is not None
    assert set(ticket.theta) == set(model.bert.state_dict())
    fresh = bert(seed=8)
    ticket.apply(fresh)
    name = "bert.embeddings.word_embeddings.weight"
    assert same_bits(fresh.get_parameter(name).detach(), snapshots.reached[name])


def test_learning_rate_rewinding_goes_on_from_trained_weights_with_a_new_schedule(tmp_path: Path) -> None:
    snapshots = Snapshots()
    trainer = search(tmp_path, [snapshots], rewind=RewindConfig("learning_rate"))
    trainer.train()
    for index, ticket in enumerate(trainer.tickets, start=1):
        assert different(snapshots.begun[index], masked(snapshots.ended[index - 1], ticket.mask)) == []
    assert snapshots.rates[0] == pytest.approx([0.01 * (1 - step / 6) for step in range(6)])
    assert snapshots.rates == [snapshots.rates[0]] * 3


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_without_rewinding_one_schedule_spans_all_rounds(tmp_path: Path, kind: str) -> None:
    snapshots = Snapshots()
    settings = {"lr_scheduler_type": kind, "warmup_steps": 4}
    trainer = search(tmp_path, [snapshots], rewind=RewindConfig("none"), **settings)
    trainer.train()
    for index, ticket in enumerate(trainer.tickets, start=1):
        assert different(snapshots.begun[index], masked(snapshots.ended[index - 1], ticket.mask)) == []
    factory = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[kind]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    schedule, expected = factory(optimizer, 4, 18), []
    for _ in range(18):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    rates = [rate for of_round in snapshots.rates for rate in of_round]
    assert rates == pytest.approx(expected, rel=1e-12)
    logged = [entry["learning_rate"] for r in trainer.history for entry in r.log_history if "learning_rate" in entry]
    assert logged == rates


def test_a_schedule_that_cannot_span_rounds_is_refused(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}
    trainer = search(tmp_path, rewind=RewindConfig("none"), eval_dataset=sentences(4), **changes)
    with pytest.raises(TicketsError, match="ReduceLROnPlateau"):
        trainer.train()


def tensors(names: set[str], rewind: RewindConfig) -> set[str]:
    """Names that these settings leave trained in a TimmWrapper: its head `fc`, and BatchNorm's buffers."""
    head = {name for name in names if ".fc." in name}
    buffers = {name for name in names if "running" in name or "num_batches" in name}
    return (set() if rewind.rewind_head else head) | (set() if rewind.rewind_statistics else buffers)


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("statistics", [True, False])
def test_head_and_statistics_are_kept_exactly_where_asked(tmp_path: Path, head: bool, statistics: bool) -> None:
    rewind = RewindConfig(rewind_head=head, rewind_statistics=statistics)
    snapshots = Snapshots()
    trainer = search(tmp_path, [snapshots], model=resnet(), train_dataset=images(12), rewind=rewind)
    trainer.train()
    start = snapshot(resnet())
    kept = tensors(set(start), rewind)
    for index, ticket in enumerate(trainer.tickets, start=1):
        before = snapshots.ended[index - 1]
        expected = {name: before[name] if name in kept else start[name] for name in start}
        assert different(snapshots.begun[index], masked(expected, ticket.mask, "timm_model.")) == []
        assert all(not same_bits(before[name], start[name]) for name in kept)  # it had trained
    assert (len(kept) > 0) == (not head or not statistics)


def test_a_kept_head_of_bert_is_kept_and_nothing_else(tmp_path: Path) -> None:
    snapshots = Snapshots()
    trainer = search(tmp_path, [snapshots], rewind=RewindConfig(rewind_head=False, rewind_step=4))
    trainer.train()
    snapshots.step = 4
    last, mask = snapshots.begun[2], trainer.tickets[1].mask
    changed = different(last, snapshots.ended[1])
    assert not [name for name in changed if name.startswith("classifier")]
    assert revived(trainer.model, mask) == []
    backbones = [{k: v for k, v in begun.items() if k.startswith("bert.")} for begun in snapshots.begun[1:]]
    assert different(masked(backbones[0], mask), backbones[1]) == []  # θ_i again
