"""timm's optimizers and steps of the learning rate in an ordinary Trainer, and what small images need."""

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from transformers import Trainer, TrainingArguments

from hf_tickets import Ticket, prune
from hf_tickets.errors import DataError, RecipeError, TicketMismatchError
from hf_tickets.pruning.scope import prunable_weights
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.optimization import timm_optimizer
from hf_tickets.tasks.registry import prepare
from hf_tickets.ticket.base import describe_base


def config(**changes: Any) -> TaskConfig:
    keys = {"model": "test_resnet", "pretrained": False, "dataset": "sklearn/digits", "image_size": 32}
    return TaskConfig("image-classification", **{**keys, "maximum_evaluation_examples": 16, **changes})


def trainer(folder: Path, task_keys: dict[str, Any], **changes: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_steps": 10,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.5,
        "lr_scheduler_type": "constant_with_warmup",
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
        "max_grad_norm": 0.0,
    }
    args = TrainingArguments(str(folder), **{**defaults, **changes})
    task = prepare(config(**task_keys))
    return Trainer(task.model, args, **task.trainer_arguments(args))


def rates(trained: Trainer) -> list[float]:
    return [entry["learning_rate"] for entry in trained.state.log_history if "learning_rate" in entry]


def test_the_rate_falls_at_its_milestones_after_a_warm_up(tmp_path: Path) -> None:
    run = trainer(tmp_path, {"learning_rate_milestones": [0.5, 0.8]}, warmup_steps=2)
    run.train()
    assert rates(run) == pytest.approx([0.0, 0.25, 0.5, 0.5, 0.5, 0.05, 0.05, 0.05, 0.005, 0.005])


def test_the_rate_is_the_same_after_a_resume(tmp_path: Path) -> None:
    keys = {"learning_rate_milestones": [0.5], "learning_rate_decay": 0.2}
    whole = trainer(tmp_path, keys, save_strategy="steps", save_steps=4)
    whole.train()
    again = trainer(tmp_path, keys)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert rates(again) == pytest.approx(rates(whole))
    assert rates(whole) == pytest.approx([0.5] * 5 + [0.1] * 5)


def test_a_schedule_that_cannot_be_stepped_is_refused(tmp_path: Path) -> None:
    run = trainer(
        tmp_path, {"learning_rate_milestones": [0.5]}, lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps"
    )
    with pytest.raises(RecipeError, match="do not go with reduce_lr_on_plateau"):
        run.train()


def test_lars_is_its_papers_on_weights_and_plain_momentum_on_biases_and_norms(tmp_path: Path) -> None:
    """You et al. 2017: a layer's rate is scaled by trust · |w| / (|g| + decay · |w|)."""
    changes = {"optim_args": "momentum=0.9,trust_coeff=0.02", "weight_decay": 0.01, "lr_scheduler_type": "constant"}
    run = trainer(tmp_path, {"timm_optimizer": "lars"}, **changes, max_steps=1)
    optimizer = run.create_optimizer()
    assert isinstance(optimizer, timm.optim.Lars)
    before = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    for parameter in run.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for name, parameter in run.model.named_parameters():
        weight, gradient = before[name], parameter.grad
        if weight.dim() > 1:
            trust = 0.02 * weight.norm() / (gradient.norm() + 0.01 * weight.norm() + 1e-8)
            gradient = (gradient + 0.01 * weight) * (trust if weight.norm() > 0 else 1.0)
        assert torch.allclose(parameter, weight - 0.5 * gradient, atol=1e-5), name


def test_lars_follows_a_cosine(tmp_path: Path) -> None:
    run = trainer(tmp_path, {"timm_optimizer": "lars"}, lr_scheduler_type="cosine")
    run.train()
    expected = [0.25 * (1 + torch.cos(torch.tensor(step / 10 * torch.pi)).item()) for step in range(10)]
    assert rates(run) == pytest.approx(expected, abs=1e-6)


def test_an_unknown_optimizer_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="nearest: lars"):
        timm_optimizer("larss", TrainingArguments("out"))
    with pytest.raises(RecipeError, match="optim_args"):
        timm_optimizer("lars", TrainingArguments("out", optim_args="momentum=much"))


# Small images


def test_a_small_stem_keeps_the_resolution_and_all_weights_but_its_own(tmp_path: Path) -> None:
    full = prepare(config(model="resnet18"))
    full.model.save_pretrained(tmp_path / "base")
    small = prepare(config(model=str(tmp_path / "base"), pretrained=True, small_stem=True))
    assert small.model.timm_model.conv1.weight.shape == (64, 3, 3, 3)
    assert small.model.timm_model.conv1.stride == (1, 1)
    small.model.eval()
    assert small.model.timm_model.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)
    theirs, ours = full.model.timm_model.state_dict(), small.model.timm_model.state_dict()
    same = [name for name in theirs if torch.equal(theirs[name], ours[name])] if theirs.keys() == ours.keys() else []
    assert set(theirs) - set(same) <= {"conv1.weight", "fc.weight", "fc.bias"}
    spread = float(ours["conv1.weight"].std())
    assert spread == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # Kaiming's, over the outputs
    assert prunable_weights(full.model).keys() == prunable_weights(small.model).keys()


@pytest.mark.parametrize("model", ["test_resnet", "resnet10t"])
def test_under_a_new_small_stem_a_ticket_still_knows_its_base(model: str, tmp_path: Path) -> None:
    """`verify="error"` lets the new stem pass, and no other weight."""
    full = prepare(config(model=model)).model
    full.save_pretrained(tmp_path / "base")
    ticket = Ticket(prune(full, sparsity=0.5), describe_base(full))
    small = prepare(config(model=str(tmp_path / "base"), pretrained=True, small_stem=True)).model
    ticket.apply(copy.deepcopy(small), verify="error")
    small.timm_model.bn1.weight.data[0] += 1
    with pytest.raises(TicketMismatchError, match="not those"):
        ticket.apply(small, verify="error")


def test_a_small_stem_is_saved_and_loaded(tmp_path: Path) -> None:
    model = prepare(config(model="resnet18", small_stem=True)).model
    model.save_pretrained(tmp_path / "small")
    again = prepare(config(model=str(tmp_path / "small"), pretrained=True)).model
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    twice = prepare(config(model=str(tmp_path / "small"), pretrained=True, small_stem=True)).model
    assert torch.equal(twice.timm_model.conv1.weight, model.timm_model.conv1.weight)


def test_what_has_no_small_stem_is_refused() -> None:
    with pytest.raises(RecipeError, match="small_stem: vit_tiny_patch16_224"):
        prepare(config(model="vit_tiny_patch16_224", small_stem=True))


# Held-out images


def test_test_accuracy_is_that_of_the_best_validation_epoch(tmp_path: Path) -> None:
    best = {"load_best_model_at_end": True, "metric_for_best_model": "validation_accuracy"}
    every = {"eval_strategy": "epoch", "save_strategy": "epoch", "max_steps": -1, "num_train_epochs": 3}
    keys = {"validation_examples": 40, "maximum_training_examples": 104, "maximum_evaluation_examples": 60}
    run = trainer(tmp_path, keys, **best, **every, learning_rate=0.02)
    run.train()
    epochs: dict[float, dict[str, float]] = {}
    for entry in run.state.log_history:
        epochs.setdefault(entry["epoch"], {}).update({n: v for n, v in entry.items() if n.endswith("_accuracy")})
    scores = [scores for scores in epochs.values() if scores]
    assert len(scores) == 3
    winner = max(scores, key=lambda score: score["eval_validation_accuracy"])
    assert run.evaluate()["eval_test_accuracy"] == pytest.approx(winner["eval_test_accuracy"])


def test_held_out_images_are_the_same_for_every_seed_and_not_trained_on() -> None:
    one, two = (prepare(config(validation_examples=300, task_seed=seed)) for seed in (1, 2))
    held = one.evaluation_dataset["validation"].examples.rows.tolist()
    assert held == two.evaluation_dataset["validation"].examples.rows.tolist()
    trained = one.train_dataset.examples.rows.tolist()
    assert len(held) == 300
    assert sorted(held + trained) == list(range(1347))
    assert one.metric == "test_accuracy"


def test_holding_out_everything_is_refused() -> None:
    with pytest.raises(DataError, match="validation_examples 1347 leaves none of 1347"):
        prepare(config(validation_examples=1347))
