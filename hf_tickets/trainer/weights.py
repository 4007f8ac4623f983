"""Weights on disk: θ0 and the weights that later rounds start from, read back in place."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hf_tickets.errors import RunFolderError
from hf_tickets.files import replacing
from hf_tickets.pruning.scope import plain_name, unwrap
from hf_tickets.pruning.shards import cut_rows, is_spread, local, rows
from hf_tickets.ticket.theta import backbone_state, state_digest
from hf_tickets.trainer.backends import trained_weight


def save_weights(model: nn.Module, path: Path, leads: bool = True) -> None:
    """Write every parameter and buffer of a model, tied ones once; under DeepSpeed the optimizer's float32 copies.

    Args:
        model: Any module, wrapped or not. Where its weights are spread over processes, every process must call
            this; one tensor at a time is made whole.
        path: File to write; it appears whole or not at all.
        leads: Whether this process writes; the others hold no more than one whole tensor.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in unwrap(model).state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        whole = trained_weight(tensor).detach()
        if leads:
            tensors[plain_name(name)] = whole.cpu().contiguous()
    if leads:
        with replacing(path) as temporary:
            save_file(_unshared(tensors), temporary, metadata={"format": "pt"})


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy what shares memory with another tensor, which safetensors does not take."""
    storages: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        result[name] = tensor if whole and storage not in storages else tensor.clone()
        storages.add(storage)
    return result


@torch.no_grad()
def load_weights_(model: nn.Module, path: Path, choose: Callable[[str], bool] = lambda name: True) -> None:
    """Read weights back into a model in place, one tensor at a time from the memory-mapped file.

    Args:
        model: The model that `save_weights` wrote, or one like it; of weights that are spread over processes, each
            reads its own rows.
        path: File to read.
        choose: Which names to read (default: all).

    Raises:
        RunFolderError: The file is missing or damaged, or was written from another model.
    """
    state = {plain_name(name): tensor for name, tensor in unwrap(model).state_dict(keep_vars=True).items()}
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if choose(name)]  # noqa: SIM118 (not a mapping)
            unknown = [name for name in names if name not in state]
            if unknown:
                raise RunFolderError(f"{path} holds {unknown[0]}, which this model lacks: another model's run folder")
            for name in names:
                target = state[name]
                part = file.get_slice(name)[rows(target)] if is_spread(target) else file.get_tensor(name)
                local(target).copy_(cut_rows(part, target))
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
