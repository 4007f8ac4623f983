"""Controls: what a ticket is compared with, as tickets of their own, at the same sparsity."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hf_tickets.errors import PruningError, RecipeError, TicketMismatchError
from hf_tickets.pruning import shuffling
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.controls import FLIPPED, WEIGHT_CONTROLS
from hf_tickets.pruning.initialisation import drawn_anew
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.prune import prune_parts
from hf_tickets.pruning.scope import prunable_weights
from hf_tickets.pruning.shards import assemble, is_spread
from hf_tickets.studies.perturbation import flipped
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.matching import canonical_parameters
from hf_tickets.ticket.names import canonical
from hf_tickets.ticket.theta import backbone_state, theta0_digest
from hf_tickets.ticket.ticket import Ticket


def control(name: str, ticket: Ticket, model: nn.Module, sparsity: float | None = None, seed: int = 0) -> Ticket:
    """Make a control of a ticket: another mask on the same weights, or its mask on other weights.

    Masks: "random", "random_layerwise", "oneshot", "reverse". Weights, which then travel with the control:
    "reinitialised" and "reinitialised_prunable" (θ0′), "shuffled" and "shuffled_elements" (θ0″). The mask of another
    task is no control to be made: give that task's ticket itself.

    Args:
        name: What to change.
        ticket: The ticket.
        model: A model with the ticket's base weights, under any head; it is not changed.
        sparsity: Rung of the ticket (default: the selected one).
        seed: Of what is drawn; the same seed gives the same control on every machine.

    Returns:
        A ticket of one rung, whose config names the control.

    Raises:
        RecipeError: There is no such control.
        PruningError: The model allows no such control.
        TicketMismatchError: The ticket does not fit the model, or the model lacks weights that the control needs.
        SparsityError: The ticket has no rung at that sparsity.

    Example:
        >>> other = control("shuffled", ticket, model, sparsity=0.7, seed=1)
        >>> TicketTrainer(model=model, ticket=other, args=args, train_dataset=data).train()
    """
    check_controls([name])
    made = CONTROLS[name](ticket, model, ticket.sparsity if sparsity is None else sparsity, seed)
    if made is None:
        raise RecipeError(f"{name} is no ticket: train the model without one")
    return made


def change_weights_(name: str, model: nn.Module, pruning: PruningConfig, seed: int = 0) -> dict[str, Any]:
    """Put the weights of a control into the backbone of a model, for a search that starts from them.

    Args:
        name: A control of weights.
        model: The model; it is changed.
        pruning: Says which weights may be pruned.
        seed: Of what is drawn.

    Returns:
        What a ticket's config says of the control.

    Raises:
        RecipeError: It is a control of masks, and a search finds its own.
        PruningError: The model allows no such control; nothing is changed then.
    """
    check_weight_control(name)
    weights = prunable_weights(model, pruning)
    everything = Mask({entry: torch.ones(weight.shape, dtype=torch.bool) for entry, weight in weights.items()})
    made = control(name, Ticket(everything, TicketConfig(pruning=pruning.to_dict())), model, seed=seed)
    made.apply(model)
    return made.config.control


def found(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """The ticket itself."""
    return ticket.at(sparsity)


def dense(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> None:
    """The full model."""
    _whole(ticket, model)


def random(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """A mask drawn at random over all weights of the ticket (BERT tickets, m_RP)."""
    config = replace(_scope(ticket), criterion="random", pruning_seed=seed)
    return _pruned(ticket.at(sparsity), model, config, {"name": "random", "seed": seed})


def random_layerwise(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """A mask drawn at random that keeps in each layer exactly as many weights as the ticket."""
    _whole(ticket, model)
    config = replace(_scope(ticket), criterion="random", pruning_seed=seed)
    mask = ticket.at(sparsity).mask
    made = {"name": "random_layerwise", "seed": seed, "of_mask": mask.digest}
    return Ticket(shuffling.random_layerwise(mask, seed), _origin(ticket, config, made))


def oneshot(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """θ0 pruned once by global magnitude, without any training (BERT tickets, figure 2)."""
    return _pruned(ticket.at(sparsity), model, _scope(ticket), {"name": "oneshot"})


def reverse(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """The weights that the ticket prunes, in place of those that it keeps (CV tickets, 1 − m).

    Its sparsity is one minus the ticket's.
    """
    _whole(ticket, model)
    mask = ticket.at(sparsity).mask
    return Ticket(~mask, _origin(ticket, _scope(ticket), {"name": "reverse", "of_mask": mask.digest}))


def reinitialised(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """The ticket's mask on a backbone drawn anew (BERT tickets, θ0′)."""
    weights = _theta(ticket, model)
    return _on_weights(ticket.at(sparsity), model, _anew(model, weights, seed), "reinitialised", seed)


def reinitialised_prunable(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """The ticket's mask where only the weights that it covers are drawn anew."""
    theta = _theta(ticket, model)
    covered = {entry: theta[entry] for entry in _weights(ticket, model)}
    theta |= _anew(model, covered, seed)
    return _on_weights(ticket.at(sparsity), model, theta, "reinitialised_prunable", seed)


def shuffled(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """The ticket's mask where whole layers have traded their matrices (BERT tickets, θ0″)."""
    return _traded(ticket, model, sparsity, seed, "shuffled", shuffling.shuffled)


def shuffled_elements(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """The ticket's mask where the entries of each matrix have traded places."""
    return _traded(ticket, model, sparsity, seed, "shuffled_elements", shuffling.shuffled_elements)


def flips(share: float, name: str) -> Callable[[Ticket, nn.Module, float, int], Ticket]:
    """Return the control whose mask has a share of its entries flipped, at the same sparsity (CV tickets).

    Args:
        share: Share of all entries, 0 to 1; half of them prune and half restore.
        name: The control's name.
    """

    def flipped_ticket(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
        _whole(ticket, model)
        mask = ticket.at(sparsity).mask
        made = {"name": name, "seed": seed, "of_mask": mask.digest}
        return Ticket(flipped(mask, share, seed), _origin(ticket, _scope(ticket), made))

    return flipped_ticket


CONTROLS: dict[str, Callable[[Ticket, nn.Module, float, int], Ticket | None]] = {
    "ticket": found,
    "random": random,
    "random_layerwise": random_layerwise,
    "oneshot": oneshot,
    "dense": dense,
    "reverse": reverse,
    "reinitialised": reinitialised,
    "reinitialised_prunable": reinitialised_prunable,
    "shuffled": shuffled,
    "shuffled_elements": shuffled_elements,
    **{name: flips(share, name) for name, share in FLIPPED.items()},
}


def check_controls(names: Iterable[str]) -> None:
    """Refuse a name that is not registered.

    Raises:
        RecipeError: The message lists the names there are.
    """
    for name in names:
        if name not in CONTROLS:
            raise RecipeError(f"controls must be among {', '.join(CONTROLS)}, not {name!r}")


def check_weight_control(name: str) -> None:
    """Refuse what a search cannot start from.

    Raises:
        RecipeError: It is no control of weights.
    """
    check_controls([name])
    if name not in WEIGHT_CONTROLS:
        raise RecipeError(
            f"{name} is no control of weights, and a search finds its own masks: choose one of "
            f"{', '.join(WEIGHT_CONTROLS)}, or train {name} beside the ticket by `transfer.controls`"
        )


def _weights(ticket: Ticket, model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the model's weights that the ticket covers, by the ticket's names."""
    parameters = canonical_parameters(model)
    first: dict[str, nn.Parameter] = {}
    for place, entry in ticket.match(model).matched.items():
        first.setdefault(entry, parameters[place])
    return {entry: first[entry] for entry in ticket.ladder.shapes if entry in first}


def _whole(ticket: Ticket, model: nn.Module) -> dict[str, nn.Parameter]:
    """Return what `_weights` returns, of a model that has values for what the ticket prunes too.

    Raises:
        TicketMismatchError: All of them are zero.
    """
    weights = _weights(ticket, model)
    if any(map(is_spread, weights.values())):
        return weights  # ZeRO-3: no process sees all of them
    pruned = {entry: ~kept for entry, kept in ticket.ladder.mask(0).items() if entry in weights}
    there = any(bool(weights[entry].detach().cpu()[gone].any()) for entry, gone in pruned.items())
    if not there and any(bool(gone.any()) for gone in pruned.values()):
        raise TicketMismatchError(
            "the model's weights are zero wherever the ticket prunes, and this control needs them: load the base "
            "model itself (a ticket that carries its weights has only those that it keeps)"
        )
    return weights


def _scope(ticket: Ticket) -> PruningConfig:
    """Global magnitude over the weights that the ticket covers."""
    keys = ("scope", "target_modules", "exclude_modules")
    given: dict[str, Any] = {key: ticket.config.pruning[key] for key in keys if key in ticket.config.pruning}
    return PruningConfig(**given)


def _pruned(ticket: Ticket, model: nn.Module, config: PruningConfig, made: dict[str, Any]) -> Ticket:
    weights, mask = _whole(ticket, model), ticket.mask
    # Of the very weights that the ticket covers, exactly as many are pruned.
    beside = Mask({entry: mask[entry] for entry in weights})
    parts = prune_parts(weights, config, beside.sparsity)
    chosen = Mask({entry: assemble(part, weights[entry]).cpu() for entry, part in parts.items()})
    return Ticket(chosen, _origin(ticket, config, {**made, "of_mask": mask.digest}))


def _origin(ticket: Ticket, config: PruningConfig, made: dict[str, Any]) -> TicketConfig:
    return TicketConfig(
        base_model=ticket.config.base_model,
        base_model_revision=ticket.config.base_model_revision,
        base_config=ticket.config.base_config,
        theta0_digest=ticket.config.theta0_digest,
        model_type=ticket.config.model_type,
        optional_modules=ticket.config.optional_modules,
        license=ticket.config.license,
        pruning=config.to_dict(),
        control=made,
    )


def _traded(
    ticket: Ticket,
    model: nn.Module,
    sparsity: float,
    seed: int,
    name: str,
    trade: Callable[[dict[str, Tensor], int], dict[str, Tensor]],
) -> Ticket:
    theta = _theta(ticket, model)
    theta |= trade({entry: theta[entry] for entry in _whole(ticket, model)}, seed)
    return _on_weights(ticket.at(sparsity), model, theta, name, seed)


def _theta(ticket: Ticket, model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the backbone's weights and buffers on the CPU, by the names that the ticket has for them."""
    entries = {canonical(entry): entry for entry in ticket.ladder.shapes}
    state = {canonical(name): tensor for name, tensor in backbone_state(model).items()}
    if ticket.config.pruning.get("scope") == "model":
        raise PruningError("a control of weights changes the backbone alone; find the ticket with scope=backbone")
    if any(map(is_spread, state.values())):
        raise PruningError("a control of weights needs them whole in each process; train it on one, or under DDP")
    return {entries.get(name, name): tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}


def _anew(model: nn.Module, theta: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return new values for weights and buffers of a model's backbone.

    Raises:
        PruningError: A backbone made anew has them not, or in another shape.
    """
    fresh = {canonical(name): tensor for name, tensor in drawn_anew(model, seed).state_dict().items()}
    result = {}
    for name, tensor in theta.items():
        drawn = fresh.get(canonical(name))
        if drawn is None or drawn.shape != tensor.shape:
            raise PruningError(f"{name} is not in a backbone made anew, or in another shape: it cannot be drawn anew")
        result[name] = drawn.detach().to(tensor.dtype)
    return result


def _on_weights(ticket: Ticket, model: nn.Module, theta: dict[str, Tensor], name: str, seed: int) -> Ticket:
    """Return the selected rung on other weights; what its training reached says nothing of these."""
    config = replace(
        ticket.rung().config,
        rungs=[],
        dense={},
        control={"name": name, "seed": seed},
        theta0_digest=theta0_digest(theta, ticket.config),
    )
    weights, mask = _weights(ticket, model), ticket.mask
    if len(weights) < len(mask):  # a head without the pooler
        return Ticket(Mask({entry: mask[entry] for entry in weights}), config, theta)
    return Ticket(ticket.rung().ladder, config, theta)
