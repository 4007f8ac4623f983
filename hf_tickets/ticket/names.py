"""Names of parameters as the plain, unflattened model has them."""

import re

from hf_tickets.pruning.scope import plain_name
from hf_tickets.ticket.config import TicketConfig

# timm's feature extractors flatten their first level: stages.0 becomes stages_0.
_FLATTENED = re.compile(r"(^|\.)(stem|stages|layers|blocks|features)_(\d+)(?=\.)")


def canonical(name: str) -> str:
    """Return a parameter's or module's name as the plain, unflattened model has it."""
    return _FLATTENED.sub(r"\1\2.\3", plain_name(name))


def is_optional(name: str, config: TicketConfig) -> bool:
    """Whether a parameter belongs to a part of the backbone that some heads leave out."""
    return any(name.startswith(f"{module}.") for module in config.optional_modules)
