"""θ: digests of weights, and the weights that travel with a ticket whose θ0 is not on the Hub."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_tickets.errors import TicketFileError
from hf_tickets.files import replacing
from hf_tickets.pruning.mask import Mask

THETA_FILE = "theta.safetensors"


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of names.

    Args:
        state: Tensors by name, as `state_dict()` gives them.
    """
    hasher = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {'x'.join(map(str, tensor.shape))}\n".encode())
        hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def save_theta(theta: Mapping[str, Tensor], mask: Mask, path: Path) -> None:
    """Write weights and buffers, of the pruned ones only those that a mask keeps.

    Args:
        theta: Parameters and buffers of the backbone by name, names as in the mask.
        mask: The densest mask of the ticket.
        path: File to write.
    """
    compact = {
        name: (tensor.detach().cpu()[mask[name].cpu()] if name in mask else tensor.detach().cpu()).contiguous()
        for name, tensor in theta.items()
    }
    with replacing(path) as temporary:
        save_file(compact, temporary, metadata={"format": "pt", "mask": mask.digest})


def load_theta(path: Path, mask: Mask) -> dict[str, Tensor]:
    """Read what `save_theta` wrote; pruned weights come back as zeros.

    Args:
        path: File to read.
        mask: The densest mask of the ticket.

    Raises:
        TicketFileError: The file is damaged or belongs to another mask.
    """
    try:
        compact = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise TicketFileError(f"{path} is not a whole safetensors file: {error}") from None
    kept = mask.kept_by_layer
    for name in mask:
        if name not in compact or tuple(compact[name].shape) != (kept[name],):
            raise TicketFileError(f"{path}: {name} does not hold the {kept[name]} weights that the mask keeps")
    theta = {}
    for name, values in compact.items():
        theta[name] = values
        if name in mask:
            theta[name] = torch.zeros(mask[name].shape, dtype=values.dtype)
            theta[name][mask[name]] = values
    return theta
