"""Upstream faults that do not reach our users while a mask is held."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    Crash,
    CrashAt,
    Snapshots,
    arguments,
    bert,
    different,
    images,
    mask_of,
    outcome,
    resnet,
    revived,
    search,
    sentences,
    snapshot,
    stock,
    timeless,
)
from torch import nn
from transformers import (
    DetrConfig,
    DetrForObjectDetection,
    GPT2Config,
    GPT2LMHeadModel,
    TimmBackboneConfig,
)

from hf_tickets import PruningCallback, PruningConfig, RewindConfig, Ticket, TicketTrainer, prune


def first_log(folder: Path, model: nn.Module, data: list[Any], size: int, **own: Any) -> tuple[float, float]:
    args = arguments(folder, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size, max_steps=1)
    trainer = TicketTrainer(model, args, train_dataset=data, ticket=mask_of(model), **own)
    trainer.train()
    entry = trainer.state.log_history[0]
    return entry["loss"], entry["grad_norm"]


def test_the_loss_does_not_depend_on_accumulation(tmp_path: Path) -> None:
    """Trainer doubles and quadruples loss and gradient here (transformers issue 47688)."""
    found = [first_log(tmp_path, bert(0.0), sentences(), size) for size in (4, 2, 1)]
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert found[2] == pytest.approx(found[0], rel=1e-4)
    args = arguments(tmp_path, per_device_train_batch_size=4, max_steps=1)
    plain = stock(bert(0.0), args, sentences(), PruningCallback(mask_of(bert())))
    plain.train()
    assert found[0] == (plain.state.log_history[0]["loss"], plain.state.log_history[0]["grad_norm"])


def language_model() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(GPT2Config(vocab_size=65, n_positions=16, n_embd=32, n_layer=2, n_head=2, **dropout))


def uneven(first_is_empty: bool = False) -> list[dict[str, torch.Tensor]]:
    """Four texts of which 3, 7, 11 and 15 words count; the first may count none."""
    data = []
    for row, example in enumerate(sentences(4)):
        labels = example["input_ids"].clone()
        labels[4 + 4 * row :] = -100
        if first_is_empty and row == 0:
            labels[:] = -100
        data.append({"input_ids": example["input_ids"], "labels": labels})
    return data


@pytest.mark.parametrize("first_is_empty", [False, True])
def test_a_language_model_keeps_its_mean_over_tokens(tmp_path: Path, first_is_empty: bool) -> None:
    """It does use num_items_in_batch: each token counts the same, however texts fall into batches."""
    data, found = uneven(first_is_empty), []
    for size in (4, 2, 1):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size, "max_steps": 1}
        args = arguments(tmp_path, train_sampling_strategy="sequential", **settings)
        model = language_model()
        ours = TicketTrainer(model, args, train_dataset=data, ticket=mask_of(model))
        ours.train()
        theirs = stock(language_model(), args, data, PruningCallback(mask_of(model)))
        theirs.train()
        assert timeless(ours.state.log_history) == timeless(theirs.state.log_history)
        found.append(ours.state.log_history[0])
    assert [entry["loss"] for entry in found] == pytest.approx([found[0]["loss"]] * 3, rel=1e-4)
    assert [entry["grad_norm"] for entry in found] == pytest.approx([found[0]["grad_norm"]] * 3, rel=1e-3)


def test_asking_the_head_changes_neither_weights_nor_random_state(tmp_path: Path) -> None:
    """With dropout and BatchNorm-like state in play, accumulation of one batch equals no accumulation."""
    runs = []
    for probe in (True, False):
        model = bert()
        args = arguments(tmp_path, gradient_accumulation_steps=2)
        trainer = TicketTrainer(model, args, train_dataset=sentences(), ticket=mask_of(model))
        if not probe:
            trainer._probed_loss, trainer.model_accepts_loss_kwargs = True, False
        trainer.train()
        runs.append((snapshot(model), timeless(trainer.state.log_history)))
    assert different(runs[0][0], runs[1][0]) == []
    assert runs[0][1] == runs[1][1]


def test_a_loss_of_the_users_own_is_left_alone(tmp_path: Path) -> None:
    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    found = [first_log(tmp_path, bert(0.0), sentences(), size, compute_loss_func=loss) for size in (4, 1)]
    assert found[1] == pytest.approx(found[0], rel=1e-4)


def detector() -> DetrForObjectDetection:
    """A DETR whose checkpoint names the backbone's weights otherwise than the model in memory."""
    torch.manual_seed(0)
    backbone = TimmBackboneConfig(backbone="test_resnet", out_indices=[1, 2, 3, 4])
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 4, "encoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "num_labels": 2}
    return DetrForObjectDetection(DetrConfig(backbone_config=backbone, use_timm_backbone=False, **sizes, **heads))


def scenes(count: int = 4) -> list[dict[str, Any]]:
    labels = {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.4, 0.6]])}
    return [
        {"pixel_values": nn.functional.interpolate(row["pixel_values"][None], 64)[0], "labels": labels}
        for row in images(count)
    ]


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": [row["labels"] for row in rows],
    }


def detection(folder: Path, *callbacks: Any, **changes: Any) -> TicketTrainer:
    model = detector()
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 2, "remove_unused_columns": False, **changes}
    args = arguments(folder, save_strategy="steps", save_steps=2, **settings)
    data: dict[str, Any] = {"train_dataset": scenes(), "eval_dataset": scenes(2), "data_collator": collate}
    ticket = Ticket(prune(model, PruningConfig(criterion="random"), sparsity=0.5))
    return TicketTrainer(model, args, ticket=ticket, callbacks=list(callbacks), **data)


def test_renamed_weights_are_all_resumed(tmp_path: Path) -> None:
    whole = detection(tmp_path / "whole")
    whole.train()
    with pytest.raises(Crash):
        detection(tmp_path / "parts", CrashAt("on_step_end", 3)).train()
    resumed = detection(tmp_path / "parts")
    resumed.train(resume_from_checkpoint=True)
    assert different(snapshot(resumed.model), snapshot(whole.model)) == []
    assert different(snapshot(detector()), snapshot(whole.model)) != []
    assert revived(resumed.model, resumed.ticket.mask) == []


def test_renamed_weights_are_all_those_of_the_best_model(tmp_path: Path) -> None:
    snapshots = Snapshots(2)
    changes = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "learning_rate": 0.5}
    trainer = detection(tmp_path, snapshots, metric_for_best_model="eval_loss", **changes)
    trainer.train()
    assert trainer.state.best_global_step in (2, 4)
    expected = snapshots.reached if trainer.state.best_global_step == 2 else snapshots.ended[0]
    assert trainer.state.best_global_step == 2, "the first evaluation should be the better one at this learning rate"
    assert different(snapshot(trainer.model), expected) == []


@pytest.mark.parametrize("rewind", [RewindConfig(), RewindConfig(rewind_statistics=False, rewind_head=False)])
def test_a_search_on_a_network_that_saves_other_names_resumes(tmp_path: Path, rewind: RewindConfig) -> None:
    changes = {
        "save_strategy": "steps",
        "save_steps": 2,
        "rewind": rewind,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
    }
    search(tmp_path / "whole", model=resnet(), **changes).train()
    with pytest.raises(Crash):
        search(tmp_path / "parts", [CrashAt("on_step_end", 5, 1)], model=resnet(), **changes).train()
    search(tmp_path / "parts", model=resnet(), **changes).train()
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
