"""What a run depends on: its settings, to refuse a changed configuration and to describe a ticket."""

from __future__ import annotations

import dataclasses
from enum import Enum
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from transformers import PretrainedConfig
from transformers.trainer_callback import ExportableState
from transformers.trainer_pt_utils import AcceleratorConfig

from hf_tickets import __version__
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.schedules import sparsity_schedule
from hf_tickets.pruning.scope import unwrap
from hf_tickets.trainer.incidental import is_incidental
from hf_tickets.trainer.rewind import RewindConfig

if TYPE_CHECKING:
    from hf_tickets.trainer.trainer import TicketTrainer

LIBRARIES = ("torch", "transformers", "timm", "accelerate", "datasets", "safetensors")

# What transformers writes into a model's config by itself.
_INCIDENTAL_CONFIG = ("_name_or_path", "architectures", "problem_type", "transformers_version", "use_cache")


def describe(
    trainer: TicketTrainer, pruning: PruningConfig, rewind: RewindConfig, provenance: dict[str, Any]
) -> dict[str, Any]:
    """Return the settings that decide a run's result, as plain JSON values.

    Args:
        trainer: The trainer.
        pruning: How masks are chosen.
        rewind: What is rewound.
        provenance: What the caller adds; its `task` and `control` count as settings.
    """
    train_dataset = trainer.train_dataset
    return {
        "model": type(unwrap(trainer.model)).__name__,
        "model_config": _model_config(trainer),
        "processes": trainer.args.world_size,
        "backend": _backend(trainer),
        "examples": len(train_dataset) if hasattr(train_dataset, "__len__") else None,
        "task": provenance.get("task", {}),
        **({"control": provenance["control"]} if provenance.get("control") else {}),
        "pruning": pruning.to_dict(),
        "sparsities": list(sparsity_schedule(pruning)),
        "rewind": rewind.to_dict(),
        "training": significant_arguments(trainer.args),
        "head_learning_rate": trainer.head_learning_rate,
        "optimizer": _plain(trainer.optimizer_cls_and_kwargs),
        "callbacks": [
            {type(callback).__name__: _plain(callback.state()["args"])}
            for callback in trainer.callback_handler.callbacks
            if isinstance(callback, ExportableState)
        ],
        "seeds": {
            "seed": trainer.args.seed,
            "pruning_seed": pruning.pruning_seed,
            **provenance.get("seeds", {}),
        },
    }


def significant_arguments(args: Any) -> dict[str, Any]:
    """Return the training arguments that differ from their defaults and bear on the result."""
    values = {}
    for field in dataclasses.fields(args):
        value = getattr(args, field.name)
        default = field.default
        if default is dataclasses.MISSING or is_incidental(field.name):
            continue
        if field.name == "accelerator_config" and value is not None:
            value = {name: item for name, item in vars(value).items() if item != getattr(AcceleratorConfig(), name)}
            default = {}
        if _plain(value) != _plain(default):
            values[field.name] = _plain(value)
    return values


def versions() -> dict[str, str]:
    """Return the versions of the libraries that bear on the result."""
    return {"hf_tickets": __version__, **{name: version(name) for name in LIBRARIES}}


def _backend(trainer: TicketTrainer) -> str | None:
    """Return what spreads the weights over processes, whose checkpoints no other can read."""
    if trainer.is_deepspeed_enabled:
        return f"ZeRO-{trainer.accelerator.state.deepspeed_plugin.zero_stage}"
    if trainer.is_fsdp_enabled:
        return f"FSDP{trainer.accelerator.state.fsdp_plugin.fsdp_version}"
    return None


def _model_config(trainer: TicketTrainer) -> dict[str, Any]:
    """Return what a transformers config says of the model, such as dropout; where it came from may change."""
    config = getattr(unwrap(trainer.model), "config", None)
    values = config.to_diff_dict() if isinstance(config, PretrainedConfig) else {}
    return {name: _plain(value) for name, value in values.items() if name not in _INCIDENTAL_CONFIG}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
