"""Real models of a few thousand weights, real digits, and what the trainer's tests compare."""

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from sklearn.datasets import load_digits
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from hf_tickets import Mask, PruningConfig, Ticket, TicketTrainer, prune
from hf_tickets.ticket.matching import canonical_parameters

Example = dict[str, Any]
# Entries of a log that tell how long something took, and Trainer's mean loss, which a resumed run cannot know.
TIMES = ("runtime", "per_second", "preparation_time", "train_loss")


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    return load_digits(return_X_y=True)


def sentences(count: int = 24, start: int = 0) -> list[Example]:
    """Digits as 16 words, each the ink in a square of 2 by 2 pixels; the label says whether the digit is odd."""
    images, digits = _digits()
    words = images.reshape(-1, 4, 2, 4, 2).sum(axis=(2, 4)).reshape(-1, 16).astype(np.int64)
    rows = range(start, start + count)
    return [{"input_ids": torch.from_numpy(words[row]), "labels": int(digits[row]) % 2} for row in rows]


def images(count: int = 24, start: int = 0) -> list[Example]:
    """Digits as pictures of 3 by 16 by 16."""
    pixels, digits = _digits()
    pictures = torch.from_numpy(pixels.reshape(-1, 1, 8, 8) / 16 - 0.5).float()
    pictures = nn.functional.interpolate(pictures[start : start + count], scale_factor=2).expand(-1, 3, -1, -1)
    return [
        {"pixel_values": picture.clone(), "labels": int(digits[start + row])} for row, picture in enumerate(pictures)
    ]


def bert_config(dropout: float = 0.1, **changes: Any) -> BertConfig:
    sizes = {"vocab_size": 65, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertConfig(
        **{**sizes, "intermediate_size": 64, "max_position_embeddings": 16, **changes},
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )


def bert(dropout: float = 0.1, seed: int = 0, **changes: Any) -> BertForSequenceClassification:
    """A BERT of two layers, the same weights for the same seed."""
    torch.manual_seed(seed)
    return BertForSequenceClassification(bert_config(dropout, **changes))


def resnet(seed: int = 0) -> TimmWrapperForImageClassification:
    """timm's smallest ResNet under transformers' wrapper, with BatchNorm."""
    torch.manual_seed(seed)
    return TimmWrapperForImageClassification(TimmWrapperConfig(architecture="test_resnet", num_labels=10))


def arguments(folder: str | Path, **changes: Any) -> TrainingArguments:
    """Six quiet steps of four examples, logged one by one."""
    defaults: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 3,
        "log_level": "error",
    }
    return TrainingArguments(str(folder), **{**defaults, **changes})


def search(
    folder: str | Path,
    callbacks: Iterable[TrainerCallback] = (),
    model: nn.Module | None = None,
    pruning: PruningConfig | None = None,
    **changes: Any,
) -> TicketTrainer:
    """A search of two rounds on BERT; other keywords are TicketTrainer's or else TrainingArguments'."""
    model = bert() if model is None else model
    names = (
        "rewind",
        "provenance",
        "head_learning_rate",
        "eval_dataset",
        "optimizer_cls_and_kwargs",
        "optimizers",
        "compute_metrics",
    )
    own = {name: changes.pop(name) for name in names if name in changes}
    data = changes.pop("train_dataset", None) or (images() if hasattr(model, "timm_model") else sentences())
    return TicketTrainer(
        model,
        arguments(folder, **changes),
        train_dataset=data,
        callbacks=list(callbacks),
        pruning=pruning or PruningConfig(amount=0.4, rounds=2),
        **own,
    )


def mask_of(model: nn.Module, sparsity: float = 0.5) -> Mask:
    """A random mask, so that what is pruned are not just weights that hardly matter."""
    return prune(model, PruningConfig(criterion="random", pruning_seed=5), sparsity=sparsity)


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two tensors are equal byte for byte: -0 is not 0, and NaN is NaN."""
    if first.dtype != second.dtype or first.shape != second.shape:
        return False
    return torch.equal(
        first.contiguous().reshape(-1).view(torch.uint8), second.contiguous().reshape(-1).view(torch.uint8)
    )


def different(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that differ in any bit, or that only one side has."""
    names = sorted(set(first) | set(second))
    return [n for n in names if n not in first or n not in second or not same_bits(first[n], second[n])]


def revived(model: nn.Module, mask: Mask) -> list[str]:
    """Names of weights in which an entry that the mask prunes is anything but +0."""
    parameters = canonical_parameters(model)
    found = []
    for name, kept in mask.items():
        weight = next((p for full, p in parameters.items() if f".{full}".endswith(f".{name}")), None)
        if weight is None and name.startswith("pooler."):  # some heads leave it out
            continue
        assert weight is not None
        assert weight.shape == kept.shape
        if weight.detach().view(torch.int32)[~kept].any():
            found.append(name)
    return found


def timeless(log: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A log without what differs from run to run."""
    entries = [{k: v for k, v in entry.items() if not k.endswith(TIMES)} for entry in log]
    return [entry for entry in entries if not {"epoch", "step", "sparsity"} >= set(entry)]


def slightly_wrong(example: Example) -> Example:
    """Random augmentation: every word is another one with probability 0.1."""
    words = example["input_ids"]
    changed = torch.where(torch.rand(words.shape) < 0.1, torch.randint(65, words.shape), words)
    return {**example, "input_ids": changed}


def outcome(folder: Path) -> dict[str, Any]:
    """All that must not depend on how often a search was interrupted: what is on disk, times aside."""
    results = sorted(folder.glob("_run/round-*/result.json"))
    values = [json.loads(path.read_text()) for path in results]
    weights = {
        f"{path.relative_to(folder)}/{k}": v
        for path in folder.rglob("*.safetensors")
        for k, v in load_file(path).items()
    }
    return {
        "rounds": [(v["round"], v["sparsity"], v["digest"], v["steps"]) for v in values],
        "metrics": [v["metrics"] for v in values],
        "logs": [timeless(v["log_history"]) for v in values],
        "ticket": Ticket.from_pretrained(folder).mask.digest,
        "rungs": [(r["round"], r["digest"]) for r in Ticket.from_pretrained(folder).config.rungs],
        "weights": {
            name: hashlib.sha256(w.view(-1).view(torch.uint8).numpy()).hexdigest() for name, w in weights.items()
        },
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),
    }


class Held(TrainerCallback):
    """Counts the steps, and those after which a pruned weight was not +0."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self.steps = 0
        self.faults: list[tuple[int, list[str]]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.steps += 1
        if found := revived(kwargs["model"], self.mask):
            self.faults.append((state.global_step, found))


class Snapshots(TrainerCallback):
    """Keeps the weights with which each training begins and ends, and those after one step of the first."""

    def __init__(self, step: int = 0) -> None:
        self.step = step
        self.begun: list[dict[str, torch.Tensor]] = []
        self.ended: list[dict[str, torch.Tensor]] = []
        self.reached: dict[str, torch.Tensor] = {}
        self.rates: list[list[float]] = []
        self._trained = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun.append(snapshot(kwargs["model"]))
        self.rates.append([])

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates[-1].append(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step and not self.reached:
            self.reached = snapshot(kwargs["model"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended.append(snapshot(kwargs["model"]))


class Crash(Exception):
    """What a test raises to end a program."""


class CrashAt(TrainerCallback):
    """Raises at an event of a training, counted over rounds.

    Args:
        event: Name of the callback's method.
        step: The global step at which, or None for any.
        time: 0 for the first time that this happens.
    """

    def __init__(self, event: str, step: int | None = None, time: int = 0) -> None:
        self.step = step
        self.left = time
        setattr(self, event, self._strike)

    def _strike(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.step in (None, state.global_step):
            self.left -= 1
            if self.left < 0:
                raise Crash


def stock(
    model: nn.Module, args: TrainingArguments, data: list[Example], *callbacks: TrainerCallback, **own: Any
) -> Trainer:
    """transformers' own Trainer."""
    return Trainer(model, args, train_dataset=data, callbacks=list(callbacks), **own)
