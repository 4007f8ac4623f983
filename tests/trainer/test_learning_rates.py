"""Head and backbone learn at rates of their own, in every round and after a resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import arguments, bert, bert_config, images, resnet, search, sentences
from torch import nn
from transformers import BertForSequenceClassification

from hf_tickets import TicketTrainer


def by_hand(folder: Path, head: float, **changes: Any) -> nn.Module:
    """The reference: an optimizer whose groups are made here, in Trainer."""
    model = bert(0.0)
    inside = list(model.bert.parameters())
    groups = [{"params": inside, "lr": 1e-2}, {"params": model.classifier.parameters(), "lr": head}]
    args = arguments(folder, **changes)
    trainer = TicketTrainer(model, args, train_dataset=sentences(), optimizers=(torch.optim.SGD(groups, lr=1e-2), None))
    trainer.train()
    return model


@pytest.mark.parametrize("schedule", ["linear", "polynomial"])
def test_two_rates_are_two_parameter_groups(schedule: str, tmp_path: Path) -> None:
    model = bert(0.0)
    args = arguments(tmp_path / "own", optim="sgd", lr_scheduler_type=schedule)
    TicketTrainer(model, args, train_dataset=sentences(), head_learning_rate=0.3).train()
    expected = by_hand(tmp_path / "hand", 0.3, lr_scheduler_type=schedule)
    other = by_hand(tmp_path / "other", 1e-2, lr_scheduler_type=schedule)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name)), name
    assert not torch.equal(model.classifier.weight, other.classifier.weight)


def test_weight_decay_still_spares_biases_and_norms(tmp_path: Path) -> None:
    trainer = TicketTrainer(bert(), arguments(tmp_path, weight_decay=0.1), head_learning_rate=0.0)
    groups = trainer.create_optimizer().param_groups
    plain = [name for name, _ in bert().bert.named_parameters() if "bias" in name or "Norm" in name]
    decayed = len(list(bert().bert.parameters())) - len(plain)
    found = sorted((group["lr"], group["weight_decay"], len(group["params"])) for group in groups)
    assert found == [(0.0, 0.0, 1), (0.0, 0.1, 1), (0.01, 0.0, len(plain)), (0.01, 0.1, decayed)]


def test_the_classifier_inside_a_timm_model_is_head(tmp_path: Path) -> None:
    model = resnet()
    before = {name: value.clone() for name, value in model.named_parameters()}
    args = arguments(tmp_path, learning_rate=0.0, weight_decay=0.0)
    TicketTrainer(model, args, train_dataset=images(), head_learning_rate=0.1).train()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {"timm_model.fc.weight", "timm_model.fc.bias"}


def test_every_round_has_both_rates(tmp_path: Path) -> None:
    """With the backbone's rate at 0 the rounds differ in the head alone."""
    trainer = search(tmp_path, model=bert(0.0), learning_rate=0.0, head_learning_rate=0.1)
    start = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    mask = trainer.ticket.mask
    for name, value in trainer.model.named_parameters():
        kept = mask.get(name.removeprefix("bert."), torch.ones((), dtype=torch.bool))
        assert torch.equal(value, start[name] * kept) == (not name.startswith("classifier.")), name


def test_a_resumed_training_keeps_both_rates(tmp_path: Path) -> None:
    def train(folder: str, resume: str | None = None) -> nn.Module:
        torch.manual_seed(0)
        model = BertForSequenceClassification(bert_config(0.0))
        args = arguments(tmp_path / folder, save_strategy="steps", save_steps=3)
        trainer = TicketTrainer(model, args, train_dataset=sentences(), head_learning_rate=0.1)
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = train("whole")
    resumed = train("resumed", str(tmp_path / "whole" / "checkpoint-3"))
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name
