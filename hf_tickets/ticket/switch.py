"""`TicketSwitch`: several tickets on one model, one of them in force at a time, or none."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from hf_tickets.errors import TicketsError
from hf_tickets.pruning.scope import unwrap
from hf_tickets.ticket.matching import canonical_parameters
from hf_tickets.ticket.ticket import Ticket

if TYPE_CHECKING:
    from typing import Self


class TicketSwitch:
    """Switch a model between tickets, and back to its own weights, exactly.

    A copy of the weights that the tickets change is kept on the CPU. Each switch starts from it: what was trained
    in between is not kept.

    Args:
        model: A model with the tickets' backbone under any head.
        prefix: Where the backbone lies, for models that hold several; one name or a list.

    Example:
        >>> switch = TicketSwitch(model).add("half", ticket.at(0.5)).add("most", ticket.at(0.9))
        >>> switch.enable("half")
        >>> with switch.disabled():
        ...     dense = model(**inputs)
    """

    def __init__(self, model: nn.Module, prefix: str | Sequence[str] | None = None) -> None:
        self.model = model
        self.prefix = prefix
        self.tickets: dict[str, Ticket] = {}
        self.active: str | None = None
        self._own: dict[str, Tensor] = {}

    def add(self, name: str, ticket: Ticket) -> "Self":
        """Add a ticket; it is not in force yet.

        Args:
            name: What to call it.
            ticket: A ticket that fits the model.

        Raises:
            TicketMismatchError: It does not fit.
            TicketsError: There is one of that name.
        """
        if name in self.tickets:
            raise TicketsError(f"there is a ticket named {name!r} already; its names are {', '.join(self.tickets)}")
        if self.active is not None:
            raise TicketsError("add tickets while none is in force: call disable() first")
        report = ticket.match(self.model, prefix=self.prefix)
        state = unwrap(self.model).state_dict(keep_vars=True) if ticket.theta is not None else {}
        changed = {**{name: tensor for name, tensor in self._parameters().items() if name in report.matched}, **state}
        for target, tensor in changed.items():
            if target not in self._own:
                self._own[target] = tensor.detach().to("cpu", copy=True)
        self.tickets[name] = ticket
        return self

    def enable(self, name: str) -> None:
        """Put a ticket in force, in place of the one that is.

        Args:
            name: What it was added as.

        Raises:
            TicketsError: There is none of that name.
        """
        if name not in self.tickets:
            raise TicketsError(f"there is no ticket named {name!r}; there are {', '.join(self.tickets) or 'none'}")
        self.disable()
        self.tickets[name].apply(self.model, prefix=self.prefix, verify="off")
        self.active = name

    @torch.no_grad()
    def disable(self) -> None:
        """Give the model its own weights back."""
        if self.active is None:
            return
        there = {**self._parameters(), **unwrap(self.model).state_dict(keep_vars=True)}
        for name, tensor in self._own.items():
            there[name].copy_(tensor)
        self.active = None

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Give the model its own weights back inside a `with` block."""
        active = self.active
        self.disable()
        try:
            yield
        finally:
            if active is not None:
                self.enable(active)

    def _parameters(self) -> dict[str, nn.Parameter]:
        return canonical_parameters(self.model)
