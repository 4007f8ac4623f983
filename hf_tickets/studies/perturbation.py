"""Perturbation: how a subnetwork's result falls as entries of its mask are flipped or its weights get noise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy
import pandas
import torch
from torch import Tensor, nn

from hf_tickets.analysis.blocks import lettering
from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.scope import named_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Evaluate = Callable[[nn.Module], float]


def flip_sensitivity(
    model: nn.Module,
    mask: Mask,
    evaluate: Evaluate,
    shares: Sequence[float] = (0, 0.01, 0.02, 0.05, 0.1, 0.2),
    seeds: Sequence[int] = (0, 1, 2),
    keep_sparsity: bool = True,
) -> pandas.DataFrame:
    """Measure a model with a growing share of its mask's entries flipped (CV tickets, perturbation).

    Args:
        model: The model with a value for every weight, those that the mask prunes too: θ0, say. It is the same
            afterwards.
        mask: Its mask.
        evaluate: Takes the model with the flipped mask applied, and returns the result, such as an accuracy. It may
            train the model; to hold the mask meanwhile, give `flipped(…)` to a `Ticket` instead.
        shares: Shares of all entries to flip, 0 to 1.
        seeds: One drawing each.
        keep_sparsity: Whether half of the flips prune and half restore; else any entry may flip.

    Returns:
        A row a measurement: share, seed, sparsity, result. Share 0 is measured once.

    Raises:
        PruningError: The mask is another model's, or a share is out of reach; nothing is measured then.
    """
    check_shares(mask, shares, keep_sparsity)
    rows = []
    for share in shares:
        for seed in seeds if share else seeds[:1]:
            changed = flipped(mask, share, seed, keep_sparsity)
            with _restored(model):
                changed.apply_(model)
                result = float(evaluate(model))
            rows.append({"share": share, "seed": seed, "sparsity": changed.sparsity, "result": result})
    return pandas.DataFrame(rows)


def noise_sensitivity(
    model: nn.Module,
    mask: Mask,
    evaluate: Evaluate,
    multiples: Sequence[float] = (0, 0.05, 0.1, 0.2, 0.5, 1.0),
    seeds: Sequence[int] = (0, 1, 2),
) -> pandas.DataFrame:
    """Measure a model with growing Gaussian noise on the weights that its mask keeps (CV tickets, perturbation).

    Args:
        model: The model; it is the same afterwards.
        mask: Its mask; what it prunes is zero throughout.
        evaluate: As in `flip_sensitivity`.
        multiples: Standard deviations of the noise, as multiples of that of each layer's kept weights.
        seeds: One drawing each.

    Returns:
        A row a measurement: multiple, seed, result. Multiple 0 is measured once.

    Raises:
        PruningError: The mask is another model's, or a multiple is negative or not finite; nothing is measured then.
    """
    check_multiples(multiples)
    rows = []
    for multiple in multiples:
        for seed in seeds if multiple else seeds[:1]:
            with _restored(model):
                mask.apply_(model)
                _add_noise_(named_weights(model, list(mask)), mask, multiple, seed)
                result = float(evaluate(model))
            rows.append({"multiple": multiple, "seed": seed, "result": result})
    return pandas.DataFrame(rows)


def flipped(mask: Mask, share: float, seed: int = 0, keep_sparsity: bool = True) -> Mask:
    """Return a mask with entries flipped that are drawn evenly from all layers.

    Args:
        mask: A mask.
        share: Share of all its entries to flip, 0 to 1.
        seed: Of the drawing; the same on every machine.
        keep_sparsity: Whether half of the flips prune and half restore; else any entry may flip.

    Raises:
        PruningError: The share is out of range, or more than the mask has entries to flip.

    Example:
        >>> mask = Mask({"weight": torch.tensor([True, False, False, False])})
        >>> flipped(mask, 0.5).kept, (flipped(mask, 0.5) & mask).kept
        (1, 0)
    """
    count = _flips(mask, share, keep_sparsity)
    generator = numpy.random.default_rng(seed)
    sides = [mask, ~mask] if keep_sparsity else [mask | ~mask]
    result = {name: kept.clone() for name, kept in mask.items()}
    for side in sides:
        for name, entries in _draw(side, count, generator):
            values = result[name].view(-1)
            values[entries] = ~values[entries]
    return Mask(result)


def check_shares(mask: Mask, shares: Sequence[float], keep_sparsity: bool = True) -> None:
    """Refuse shares that cannot be flipped; arguments as in `flip_sensitivity`.

    Raises:
        PruningError: A share is out of range, or more than the mask has entries to flip.
    """
    for share in shares:
        _flips(mask, share, keep_sparsity)


def check_multiples(multiples: Sequence[float]) -> None:
    """Refuse noise of no such strength; arguments as in `noise_sensitivity`.

    Raises:
        PruningError: A multiple is negative or not finite.
    """
    for multiple in multiples:
        if not 0 <= multiple < float("inf"):
            raise PruningError(f"noise is a multiple of at least 0, not {multiple}")


def sensitivity_figure(curves: Mapping[str, pandas.DataFrame], metric: str = "accuracy", title: str = "") -> "Figure":
    """Draw results against the perturbation: mean, and one standard deviation either side, over seeds.

    Args:
        curves: What `flip_sensitivity` or `noise_sensitivity` returned, by name of the curve.
        metric: Name of the result, for the axis.
        title: Title of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    flips = "share" in next(iter(curves.values()))
    for (name, table), marker in zip(curves.items(), "osD^v*PX" * len(curves), strict=False):
        found = table.groupby("share" if flips else "multiple")["result"].agg(["mean", "std"]).fillna({"std": 0})
        places = found.index.to_numpy() * (100 if flips else 1)
        (line,) = axes.plot(places, found["mean"], marker=marker, linewidth=2, label=lettering(name))
        low, high = found["mean"] - found["std"], found["mean"] + found["std"]
        axes.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xlabel("entries of the mask flipped (%)" if flips else "noise (multiple of the weights' σ)", fontsize=12)
    axes.set_ylabel(lettering(metric.replace("_", " ")), fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=13)
    axes.legend(fontsize=11)
    return figure


def _flips(mask: Mask, share: float, keep_sparsity: bool) -> int:
    """Return how many entries to flip, on each side where the sparsity is kept."""
    if not 0 <= share <= 1:
        raise PruningError(f"the share to flip is from 0 to 1, not {share}")
    if not keep_sparsity:
        return round(share * mask.numel)
    count, most = round(share * mask.numel / 2), min(mask.kept, mask.numel - mask.kept)
    if count > most:
        raise PruningError(
            f"at sparsity {mask.sparsity:.4f} at most {2 * most / mask.numel:.4f} of the entries can be flipped with "
            f"the sparsity kept, not {share}; give keep_sparsity=False"
        )
    return count


def _draw(flags: Mask, count: int, generator: numpy.random.Generator) -> Iterator[tuple[str, Tensor]]:
    """Draw `count` of the entries that are set, and give their flat indices by layer."""
    chosen = numpy.sort(generator.choice(flags.kept, count, replace=False, shuffle=False))
    first = 0
    for name, entries in flags.items():
        end = first + flags.kept_by_layer[name]
        low, high = numpy.searchsorted(chosen, (first, end))
        ranks = torch.from_numpy(chosen[low:high] - first).to(entries.device)
        yield name, entries.reshape(-1).nonzero().reshape(-1)[ranks]
        first = end


@torch.no_grad()
def _add_noise_(weights: Mapping[str, Tensor], mask: Mask, multiple: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, weight in weights.items():
        kept = mask[name].to(weight.device)
        noise = torch.randn(weight.shape, generator=generator).to(weight.device)
        if kept.any():
            sigma = weight[kept].float().std(correction=0)
            weight[kept] += (multiple * sigma * noise[kept]).to(weight.dtype)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Put back every parameter and buffer of a model when the block ends, and its training mode."""
    saved = [(tensor, tensor.detach().clone()) for tensor in (*model.parameters(), *model.buffers())]
    training = model.training
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, values in saved:
                tensor.copy_(values)
        model.train(training)
