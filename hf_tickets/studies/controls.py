"""Controls: the masks a ticket is compared with, at the same sparsity."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from hf_tickets.errors import RecipeError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.ticket import Ticket


def found(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """The ticket itself."""
    return ticket.at(sparsity)


def random(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """A mask drawn at random over all weights in scope (BERT tickets, m_RP)."""
    return _pruned(ticket, model, sparsity, replace(_scope(ticket), criterion="random", pruning_seed=seed))


def oneshot(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """θ0 pruned once by global magnitude, without any training (BERT tickets, figure 2)."""
    return _pruned(ticket, model, sparsity, _scope(ticket))


def reverse(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> Ticket:
    """The weights that the ticket prunes, in place of those that it keeps (CV tickets, 1 − m).

    Its sparsity is one minus the ticket's.
    """
    return Ticket(~ticket.at(sparsity).mask, _origin(ticket, _scope(ticket)))


def dense(ticket: Ticket, model: nn.Module, sparsity: float, seed: int) -> None:
    """The full model."""


CONTROLS: dict[str, Callable[[Ticket, nn.Module, float, int], Ticket | None]] = {
    "ticket": found,
    "random": random,
    "oneshot": oneshot,
    "dense": dense,
    "reverse": reverse,
}


def check_controls(names: list[str]) -> None:
    """Refuse a name that is not registered.

    Raises:
        RecipeError: The message lists the names there are.
    """
    for name in names:
        if name not in CONTROLS:
            raise RecipeError(f"controls must be among {', '.join(CONTROLS)}, not {name!r}")


def _scope(ticket: Ticket) -> PruningConfig:
    """Global magnitude over the weights that the ticket covers."""
    keys = ("scope", "target_modules", "exclude_modules")
    given: dict[str, Any] = {key: ticket.config.pruning[key] for key in keys if key in ticket.config.pruning}
    return PruningConfig(**given)


def _pruned(ticket: Ticket, model: nn.Module, sparsity: float, config: PruningConfig) -> Ticket:
    # The rung's own sparsity, so that exactly as many weights are pruned as in the ticket.
    mask = prune(model, config, sparsity=ticket.at(sparsity).sparsity)
    return Ticket(mask, _origin(ticket, config))


def _origin(ticket: Ticket, config: PruningConfig) -> TicketConfig:
    return TicketConfig(
        base_model=ticket.config.base_model,
        base_model_revision=ticket.config.base_model_revision,
        theta0_digest=ticket.config.theta0_digest,
        model_type=ticket.config.model_type,
        optional_modules=ticket.config.optional_modules,
        pruning=config.to_dict(),
    )
