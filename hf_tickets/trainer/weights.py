"""Weights on disk: θ0 and the weights that later rounds start from, read back in place."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_model
from torch import nn

from hf_tickets.errors import RunFolderError
from hf_tickets.files import replacing
from hf_tickets.pruning.scope import unwrap
from hf_tickets.ticket.theta import backbone_state, state_digest


def save_weights(model: nn.Module, path: Path) -> None:
    """Write every parameter and buffer of a model, tied ones once.

    Args:
        model: Any module, wrapped or not.
        path: File to write; it appears whole or not at all.
    """
    with replacing(path) as temporary:
        save_model(unwrap(model), str(temporary))


@torch.no_grad()
def load_weights_(model: nn.Module, path: Path, choose: Callable[[str], bool] = lambda name: True) -> None:
    """Read weights back into a model in place, one tensor at a time from the memory-mapped file.

    Args:
        model: The model that `save_weights` wrote, or one like it.
        path: File to read.
        choose: Which names to read (default: all).

    Raises:
        RunFolderError: The file is missing or damaged, or was written from another model.
    """
    state = unwrap(model).state_dict(keep_vars=True)
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if choose(name)]  # noqa: SIM118 (not a mapping)
            unknown = [name for name in names if name not in state]
            if unknown:
                raise RunFolderError(f"{path} holds {unknown[0]}, which this model lacks: another model's run folder")
            for name in names:
                state[name].detach().copy_(file.get_tensor(name))
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from None


def file_digest(path: Path) -> str:
    """SHA-256 over the tensors of a weights file."""
    with safe_open(path, framework="pt") as file:
        return state_digest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def head_names(model: nn.Module) -> set[str]:
    """Return the names of parameters and buffers that are not the backbone's."""
    inside = {id(tensor) for tensor in backbone_state(model).values()}
    return {name for name, tensor in unwrap(model).state_dict(keep_vars=True).items() if id(tensor) not in inside}


def buffer_names(model: nn.Module) -> set[str]:
    """Return the names of buffers, such as BatchNorm statistics."""
    return {name for name, _ in unwrap(model).named_buffers()}
