"""θ: digests of weights, and the weights that travel with a ticket whose θ0 is not on the Hub."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_tickets.errors import TicketFileError
from hf_tickets.files import replacing
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.scope import backbone, heads
from hf_tickets.pruning.shards import assemble, is_spread, local
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.names import canonical, is_optional

THETA_FILE = "theta.safetensors"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and the SHA-256 of the bytes of tensors, in the order of names.

    Args:
        state: Tensors by name, as `state_dict()` gives them. Where they are spread over processes, every process
            must call this.
    """

    def line(name: str) -> str:
        tensor = assemble(local(state[name]), state[name]).detach().cpu().contiguous()
        content = hashlib.sha256(tensor.reshape(-1).view(torch.uint8).numpy().data).hexdigest()
        return f"{name} {tensor.dtype} {'x'.join(map(str, tensor.shape))} {content}\n"

    # Hashing is outside the interpreter's lock; processes that exchange parts must do so in one order.
    threads = 1 if any(map(is_spread, state.values())) else torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        return hashlib.sha256("".join(pool.map(line, sorted(state))).encode()).hexdigest()


def backbone_state(model: nn.Module, as_loaded: bool = False) -> dict[str, Tensor]:
    """Return the live parameters and buffers of a model's backbone, without the head that a timm model holds.

    Args:
        model: Any module, wrapped or not.
        as_loaded: Return the weights of parts that were replaced by new ones, such as a stem for small images, as
            they were loaded: those in the backbone's `loaded_weights`.
    """
    root = backbone(model)
    inside_heads = {id(tensor) for head in heads(root) for tensor in head.state_dict(keep_vars=True).values()}
    state = {name: tensor for name, tensor in root.state_dict(keep_vars=True).items() if id(tensor) not in inside_heads}
    loaded: Any = getattr(root, "loaded_weights", {}) if as_loaded else {}
    replaced = {_first(name) for name in loaded}
    return {name: tensor for name, tensor in state.items() if _first(name) not in replaced} | loaded


def backbone_digest(model: nn.Module, config: TicketConfig | None = None, as_loaded: bool = False) -> str:
    """SHA-256 over the weights of a model's backbone: the same under any head.

    Args:
        model: Any module, wrapped or not.
        config: Its `optional_modules` are left out (default: those of an empty config).
        as_loaded: As in `backbone_state`.
    """
    return theta0_digest(backbone_state(model, as_loaded), config or TicketConfig())


def theta0_digest(theta: Mapping[str, Tensor], config: TicketConfig) -> str:
    """SHA-256 over the weights of a backbone that are the same under any head.

    Left out is what differs from head to head: modules that some heads leave out (BERT's pooler) and the counters
    of BatchNorm, which frozen ones lack.

    Args:
        theta: Parameters and buffers of the backbone by name.
        config: Its `optional_modules` are left out.
    """
    state = {canonical(name): tensor for name, tensor in theta.items() if tensor.is_floating_point()}
    return state_digest({name: tensor for name, tensor in state.items() if not is_optional(name, config)})


def save_theta(theta: Mapping[str, Tensor], mask: Mask, path: Path) -> str:
    """Write weights and buffers, of the pruned ones only those that a mask keeps; return their digest.

    Args:
        theta: Parameters and buffers of the backbone by name, names as in the mask.
        mask: The densest mask of the ticket.
        path: File to write.
    """
    compact: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in theta.items():
        value = tensor.detach().cpu()
        value = value[mask[name].cpu()] if name in mask else value.contiguous()
        # safetensors takes no tensors that share memory, as tied ones do.
        compact[name] = value.clone() if value.untyped_storage().data_ptr() in storages else value
        storages.add(value.untyped_storage().data_ptr())
    with replacing(path) as temporary:
        save_file(compact, temporary, metadata={"format": "pt"})
    return _digest(compact, mask)


def load_theta(path: Path, mask: Mask, digest: str | None) -> dict[str, Tensor]:
    """Read what `save_theta` wrote; pruned weights come back as zeros.

    Args:
        path: File to read.
        mask: The densest mask of the ticket.
        digest: What `save_theta` returned.

    Raises:
        TicketFileError: The file is missing, damaged, or belongs to another mask.
    """
    if not path.is_file():
        raise TicketFileError(f"{path} does not exist, and the ticket's mask is of no use on other weights")
    try:
        compact = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise TicketFileError(f"{path} is not a whole safetensors file: {error}") from None
    kept = mask.kept_by_layer
    for name in mask:
        if name not in compact or tuple(compact[name].shape) != (kept[name],):
            raise TicketFileError(f"{path}: {name} does not hold the {kept[name]} weights that the mask keeps")
        if compact[name].dtype not in _DTYPES:
            raise TicketFileError(f"{path}: {name} is {compact[name].dtype}, and weights must be floats")
    if _digest(compact, mask) != digest:
        raise TicketFileError(f"{path} does not have the digest that the ticket's config records: damaged or replaced")
    theta = {}
    for name, values in compact.items():
        theta[name] = values
        if name in mask:
            theta[name] = torch.zeros(mask[name].shape, dtype=values.dtype)
            theta[name][mask[name]] = values
    return theta


def _first(name: str) -> str:
    return name.partition(".")[0]


def _digest(compact: Mapping[str, Tensor], mask: Mask) -> str:
    """SHA-256 of the surviving weights and of where they belong."""
    return hashlib.sha256(f"{mask.digest} {state_digest(compact)}".encode()).hexdigest()
