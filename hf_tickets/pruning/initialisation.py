"""Initialisation: a model's backbone with weights drawn anew."""

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import nn
from transformers import PreTrainedModel

from hf_tickets.errors import PruningError
from hf_tickets.pruning.scope import backbone, unwrap

# What of a timm model's arguments only says which of its feature maps are returned.
_OF_FEATURES = ("features_only", "out_indices")


def drawn_anew(model: nn.Module, seed: int) -> nn.Module:
    """Return the backbone of a model as its own code initialises it, on the CPU; the model is not changed.

    A model of transformers is made from its configuration, one of timm from its name, so that the result is that of
    `BertModel(config)` or `timm.create_model(name)` after `torch.manual_seed(seed)`. In any other module each layer's
    `reset_parameters` draws. The process's random state is left as it was.

    Args:
        model: Any module, wrapped or not.
        seed: Of the drawing.

    Raises:
        PruningError: The model cannot be made from its configuration, or a layer has no initialisation of its own.
    """
    root = backbone(model)
    timm_name, timm_arguments = _of_timm(model, root)
    with _seeded(seed), torch.device("cpu"):
        try:
            if timm_name is not None:
                made: nn.Module = timm.create_model(timm_name, pretrained=False, num_classes=0, **timm_arguments)
                return made
            if isinstance(root, PreTrainedModel):
                return type(root)(copy.deepcopy(root.config))
        except (TypeError, ValueError, RuntimeError) as error:
            raise PruningError(f"{type(root).__name__} cannot be made anew from its configuration: {error}") from error
        return _reset_(copy.deepcopy(root).to("cpu"))


def _of_timm(model: nn.Module, root: nn.Module) -> tuple[str | None, dict[str, Any]]:
    """Return the name and the arguments by which timm makes a backbone; None where it is not timm's."""
    for module in unwrap(model).modules():
        # transformers' wrappers say what they made; it need not be what the model inside calls itself.
        config = getattr(module, "config", None)
        name = getattr(config, "architecture", None) or getattr(config, "backbone", None)
        inside = {id(part) for child in module.children() for part in (child, getattr(child, "model", None))}
        if isinstance(name, str) and id(root) in inside and module is not root:
            arguments = getattr(config, "model_args", None) or {}
            return name, {key: value for key, value in arguments.items() if key not in _OF_FEATURES}
    own = getattr(root, "pretrained_cfg", None) or {}
    name = own.get("architecture") if isinstance(own, dict) else getattr(own, "architecture", None)
    return (name, {}) if isinstance(name, str) else (None, {})


def _reset_(root: nn.Module) -> nn.Module:
    for name, module in root.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if inspect.ismethod(reset):
            reset()
        elif any(True for _ in module.parameters(recurse=False)):
            raise PruningError(
                f"{name or 'the model'} ({type(module).__name__}) has no reset_parameters, so it cannot be drawn anew"
            )
    return root


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, and put its state back afterwards."""
    with torch.random.fork_rng(devices=[]):
        # not torch.manual_seed, which would reseed the accelerators too
        torch.default_generator.manual_seed(seed)
        yield
