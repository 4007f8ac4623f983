"""Without pruning and ticket, TicketTrainer is Trainer, upstream faults included."""

from pathlib import Path
from typing import Any

import pytest
from tiny import Crash, CrashAt, arguments, bert, different, images, resnet, sentences, snapshot, timeless
from transformers import EarlyStoppingCallback, Trainer

from hf_tickets import TicketTrainer

SETTINGS: dict[str, dict[str, Any]] = {
    "accumulation": {"gradient_accumulation_steps": 2, "num_train_epochs": 2},
    "evaluation and best model": {
        **{"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2},
        **{"load_best_model_at_end": True, "save_total_limit": 1, "num_train_epochs": 3, "eval_on_start": True},
    },
    "saves at ends of epochs": {
        **{"save_strategy": "steps", "save_steps": 3, "eval_strategy": "epoch", "num_train_epochs": 3},
        **{"save_total_limit": 2, "gradient_accumulation_steps": 2},
    },
    "sgd": {"optim": "sgd", "weight_decay": 0.1, "max_grad_norm": 0.05, "lr_scheduler_type": "cosine"},
}


def train(kind: type[Trainer], folder: Path, settings: str, *callbacks: Any, resume: bool = False) -> Trainer:
    changes = SETTINGS[settings]
    own: list[Any] = [EarlyStoppingCallback(2)] if "best model" in settings else []
    args = arguments(folder, **changes)
    data = {"train_dataset": sentences(), "eval_dataset": sentences(12, 40)}
    trainer = kind(bert(), args, callbacks=[*own, *callbacks], **data)
    trainer.train(resume_from_checkpoint=resume or None)
    return trainer


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("settings", SETTINGS)
def test_weights_logs_and_files_are_those_of_trainer(tmp_path: Path, settings: str) -> None:
    theirs = train(Trainer, tmp_path / "theirs", settings)
    ours = train(TicketTrainer, tmp_path / "ours", settings)
    assert different(snapshot(ours.model), snapshot(theirs.model)) == []
    assert timeless(ours.state.log_history) == timeless(theirs.state.log_history)
    assert [set(entry) for entry in ours.state.log_history] == [set(entry) for entry in theirs.state.log_history]
    if (tmp_path / "theirs").exists():
        assert files(tmp_path / "ours") == files(tmp_path / "theirs")
    ours.save_model(str(tmp_path / "saved"))
    assert not (tmp_path / "saved" / "ticket_config.json").exists()


def test_the_upstream_loss_scale_is_kept(tmp_path: Path) -> None:
    losses = {}
    for accumulation in (1, 4):
        args = arguments(tmp_path, per_device_train_batch_size=4 // accumulation, max_steps=1)
        args.gradient_accumulation_steps = accumulation
        trainer = TicketTrainer(bert(0.0), args, train_dataset=sentences())
        trainer.train()
        losses[accumulation] = trainer.state.log_history[0]["loss"]
    assert losses[4] == pytest.approx(4 * losses[1], rel=1e-5)


def test_resuming_is_that_of_trainer(tmp_path: Path) -> None:
    """Even where Trainer resumes with a step too many, or without an epoch's evaluation."""
    logs = []
    for kind in (Trainer, TicketTrainer):
        folder = tmp_path / kind.__name__
        with pytest.raises(Crash):
            train(kind, folder, "saves at ends of epochs", CrashAt("on_epoch_end", 6))
        logs.append(timeless(train(kind, folder, "saves at ends of epochs", resume=True).state.log_history))
    assert logs[0] == logs[1]


def test_a_model_made_anew_for_each_training_is_that_of_trainer(tmp_path: Path) -> None:
    weights = []
    for kind in (Trainer, TicketTrainer):
        args = arguments(tmp_path)
        trainer = kind(model_init=lambda: resnet(seed=2), args=args, train_dataset=images(12))
        trainer.train()
        weights.append(snapshot(trainer.model))
    assert different(*weights) == []


def test_nothing_is_said_of_rounds(tmp_path: Path) -> None:
    trainer = TicketTrainer(bert(), arguments(tmp_path), train_dataset=sentences(8))
    output = trainer.train()
    assert "round" not in output.metrics
    assert (trainer.history, trainer.ticket, trainer.tickets) == ([], None, [])
