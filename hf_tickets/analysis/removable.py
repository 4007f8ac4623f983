"""What a mask would let one really remove: units that no path from input to output passes, and their FLOPs.

A weight that is kept may still do nothing: its output is read by nobody, or its input is always the same. Which do
is found on a copy of the model whose weights are drawn positive where kept, whose biases are zero and whose
normalisations are neutral: there a gradient is exactly zero where no path leads through a weight, and only there
(effective sparsity, Vysogorets and Kempe, Connectivity Matters, 2023).
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pandas
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

from hf_tickets.analysis.blocks import block_of, mark_blocks
from hf_tickets.analysis.units import connections
from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.scope import named_weights, unwrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Inputs = Tensor | Mapping[str, Any] | Sequence[Any]

_DRAWS = 2  # a gradient may vanish by chance once
_INPUTS_FIRST = (Conv1D, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.enable_grad()
def connected_weights(model: nn.Module, mask: Mask, inputs: Inputs) -> Mask:
    """Return the kept weights that lie on a path of kept weights from an input to an output.

    Args:
        model: The model that the mask is over; it is not changed. A copy in float64 is made.
        mask: A mask.
        inputs: An example of what the model is called with: a tensor, keyword arguments by name, or a sequence of
            arguments. Of floats only the shape matters: take images of the size that is used. Texts should have two
            tokens or more.

    Raises:
        PruningError: The mask is another model's, or the model returns nothing that depends on its weights.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> mask = Mask({"0.weight": torch.ones(2, 2).bool(), "2.weight": torch.tensor([[True, False]])})
        >>> connected_weights(model, mask, torch.ones(1, 2))["0.weight"]
        tensor([[ True,  True],
                [False, False]])
    """
    probe = _probe(model)
    weights = _weights(probe, mask)
    generator = torch.Generator().manual_seed(0)
    connected = {name: torch.zeros_like(kept) for name, kept in mask.items()}
    for _ in range(_DRAWS):
        _draw(probe, weights, mask, generator)
        for name, gradient in _gradients(probe, weights, inputs, generator).items():
            connected[name] |= (gradient != 0).to(connected[name].device)
    return Mask({name: connected[name] & mask[name] for name in mask})


def removable_table(model: nn.Module, mask: Mask, inputs: Inputs) -> pandas.DataFrame:
    """Count the units of each layer that can be removed, and the parameters and FLOPs that go with them.

    An output goes where no connected weight leads to it or nothing reads it, an input where its column has no
    connected weight. What a removed output was, a constant, belongs into the bias of what reads it; at a
    convolution's padded edge that is exact only where the constant is zero.

    Args:
        model: The model that the mask is over; it is not changed.
        mask: A mask.
        inputs: As in `connected_weights`; FLOPs are those of a forward pass of it.

    Returns:
        A row a layer, indexed by its name: block, weights, kept, connected (kept weights on a path), outputs,
        dead_outputs, inputs, dead_inputs, removable (weights in the rows and columns of dead units), flops
        (counted by torch, of the dense model), kept_flops (if every zero could be skipped), removable_flops
        (really saved by the smaller layer).

    Raises:
        PruningError: As in `connected_weights`.
    """
    connected = connected_weights(model, mask, inputs)
    flops = _flops(model, mask, inputs)
    owners = _owners(unwrap(model), _weights(unwrap(model), mask))
    rows = {name: _row(mask[name], connected[name], owners[name][0][1], flops[name]) for name in mask}
    return pandas.DataFrame.from_dict(rows, orient="index").assign(block=[block_of(name) for name in mask])[_COLUMNS]


def removable_figure(removable: pandas.DataFrame, title: str = "") -> "Figure":
    """Draw the share of each layer's FLOPs that smaller layers save, beside the share that meets zeros.

    Args:
        removable: What `removable_table` returned.
        title: Title of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    places = range(1, len(removable) + 1)
    flops = removable["flops"].clip(lower=1)
    for saved, label, marker in (
        (removable["flops"] - removable["kept_flops"], "multiplied by zero", "o"),
        (removable["removable_flops"], "removed with dead units", "s"),
    ):
        share = saved.sum() / flops.sum()
        axes.plot(places, 100 * saved / flops, marker=marker, markersize=4, label=f"{label} ({share:.1%} of all)")
    mark_blocks(axes, list(removable.index))
    axes.set_xlim(0.5, len(removable) + 0.5)
    axes.set_ylim(-2, 102)
    axes.set_xlabel("layer, from input to output", fontsize=12)
    axes.set_ylabel("FLOPs of the layer (%)", fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(axis="y", alpha=0.3)
    axes.set_title(title, fontsize=13)
    figure.legend(loc="outside lower center", ncols=2, fontsize=11)
    return figure


_COLUMNS = [
    "block",
    "weights",
    "kept",
    "connected",
    "outputs",
    "dead_outputs",
    "inputs",
    "dead_inputs",
    "removable",
    "flops",
    "kept_flops",
    "removable_flops",
]


def _row(kept: Tensor, connected: Tensor, layer: nn.Module, flops: int) -> dict[str, int]:
    groups = int(getattr(layer, "groups", 1))
    matrix = connections(connected)
    if isinstance(layer, _INPUTS_FIRST):
        # Their groups divide the first dimension, the inputs.
        matrix = matrix.reshape(groups, -1, matrix.shape[1]).transpose(1, 2).reshape(-1, matrix.shape[0] // groups)
    grouped = matrix.reshape(groups, matrix.shape[0] // groups, matrix.shape[1])
    outputs, inputs = grouped.any(2), grouped.any(1)
    live = int((outputs.sum(1) * inputs.sum(1)).sum())
    weights, count = kept.numel(), int(kept.count_nonzero())
    return {
        "weights": weights,
        "kept": count,
        "connected": int(connected.count_nonzero()),
        "outputs": outputs.numel(),
        "dead_outputs": int((~outputs).sum()),
        "inputs": inputs.numel(),
        "dead_inputs": int((~inputs).sum()),
        "removable": weights - weights * live // matrix.numel(),
        "flops": flops,
        "kept_flops": round(flops * count / weights),
        "removable_flops": flops - flops * live // matrix.numel(),
    }


def _probe(model: nn.Module) -> nn.Module:
    probe = deepcopy(unwrap(model)).double().eval()
    for parameter in probe.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    return probe


def _weights(model: nn.Module, mask: Mask) -> dict[str, Tensor]:
    weights = named_weights(model, list(mask))
    for name, weight in weights.items():
        if weight.shape != mask[name].shape:
            raise PruningError(f"{name} is {tuple(weight.shape)}, its mask {tuple(mask[name].shape)}: another model")
    return weights


def _owners(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, list[tuple[str, nn.Module]]]:
    """Return the modules that hold each weight: several where it is tied."""
    owners: dict[int, list[tuple[str, nn.Module]]] = {}
    for place, module in model.named_modules():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), []).append((place, module))
    return {name: owners[id(weight)] for name, weight in weights.items()}


@torch.no_grad()
def _draw(probe: nn.Module, weights: Mapping[str, Tensor], mask: Mask, generator: torch.Generator) -> None:
    """Draw weights that are positive where kept, so that no two paths cancel and no rectifier is shut."""
    names = {id(weight): name for name, weight in weights.items()}
    for place, parameter in probe.named_parameters():
        if not parameter.is_floating_point():
            continue
        if parameter.dim() < 2:
            parameter.fill_(0.0 if place.endswith("bias") else 1.0)
            continue
        values = _positive(parameter.shape, generator)
        if id(parameter) in names:
            values *= mask[names[id(parameter)]].cpu()
        # Rows that add up to one keep activations of the same size through any depth.
        sums = values.flatten(1).sum(1).clamp(min=1e-12).reshape(-1, *[1] * (values.dim() - 1))
        parameter.copy_(values / sums)
    for place, buffer in probe.named_buffers():
        if place.endswith(("running_mean", "running_var")):
            buffer.fill_(float(place.endswith("running_var")))


def _gradients(
    probe: nn.Module, weights: Mapping[str, Tensor], inputs: Inputs, generator: torch.Generator
) -> dict[str, Tensor]:
    plain = dict(inputs) if isinstance(inputs, Mapping) else inputs
    outputs = _call(probe, tree_map(lambda value: _drawn_like(value, generator), plain))
    found = [value for value in tree_leaves(outputs) if isinstance(value, Tensor) and value.requires_grad]
    if not found:
        raise PruningError(f"{type(probe).__name__} returns nothing that depends on its weights")
    total = torch.stack([(value * _positive(value.shape, generator).to(value.device)).sum() for value in found]).sum()
    gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(weights, gradients, strict=True))


def _flops(model: nn.Module, mask: Mask, inputs: Inputs) -> dict[str, int]:
    """FLOPs of the layers of a mask in one forward pass, a multiplication and an addition counted as two."""
    inner = unwrap(model)
    training = inner.training
    try:
        inner.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            _call(inner, inputs)
    finally:
        inner.train(training)
    counts = {place: sum(counted.values()) for place, counted in counter.get_flop_counts().items()}
    root = type(inner).__name__
    owners = _owners(inner, _weights(inner, mask))
    return {
        name: sum(counts.get(f"{root}.{place}" if place else root, 0) for place, _ in places)
        for name, places in owners.items()
    }


def _call(model: nn.Module, inputs: Inputs) -> Any:
    if isinstance(inputs, Tensor):
        return model(inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(*inputs)


def _drawn_like(value: Any, generator: torch.Generator) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return _positive(value.shape, generator).to(value.device)
    return value


def _positive(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
