"""What of a ticket may be published: no path of this machine, and weights that a stranger can get."""

import logging
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from huggingface_hub import HfApi

from hf_tickets.errors import HubError
from hf_tickets.paths import is_local, without_paths
from hf_tickets.ticket.base import base_fields, load_as_saved
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.hub_errors import hub_errors
from hf_tickets.ticket.theta import backbone_digest, backbone_state

if TYPE_CHECKING:
    from torch import Tensor

    from hf_tickets.ticket.ticket import Ticket

logger = logging.getLogger(__name__)


def publishable(ticket: "Ticket", token: str | bool | None = None) -> "Ticket":
    """Return a ticket as a stranger needs it.

    Where θ0 is not a model on the Hub, the weights come with the ticket. Paths of this machine become the name of
    what they lead to.

    Args:
        ticket: Any ticket.
        token: Token to ask the Hub about the base model with.

    Raises:
        HubError: The ticket does not say which weights it belongs to, or they cannot be had any more.
    """
    config, theta = ticket.config, ticket.theta
    if config.base_model is not None and not is_local(config.base_model):
        config = _pinned(config, token)
    elif theta is None or not config.base_config:
        config, loaded = _local_base(config)
        theta = theta if theta is not None else loaded
    return type(ticket)(ticket.ladder, public_config(config), theta, ticket.sparsity)


def public_config(config: TicketConfig) -> TicketConfig:
    """Return a config without paths of this machine: a folder's is its name, and a base model there is left out.

    Args:
        config: Provenance of a ticket.
    """
    values = {field.name: without_paths(getattr(config, field.name)) for field in fields(config)}
    local = config.base_model is not None and is_local(config.base_model)
    return TicketConfig(**{**values, "base_model": None if local else config.base_model})


def check_publishable(ticket: "Ticket") -> None:
    """Refuse what `publishable` would refuse, as far as this machine can tell without the Hub.

    Raises:
        HubError: The ticket does not say which weights it belongs to, or they cannot be had any more.
    """
    config = ticket.config
    on_hub = config.base_model is not None and not is_local(config.base_model)
    if not on_hub and (ticket.theta is None or not config.base_config):
        _local_base(config)


def _pinned(config: TicketConfig, token: str | bool | None) -> TicketConfig:
    """Resolve the base model's commit where it is not recorded, and its licence."""
    assert config.base_model is not None
    if config.base_model_revision is not None and config.license is not None:
        return config
    with hub_errors(config.base_model, config.base_model_revision, token):
        model = HfApi().model_info(config.base_model, revision=config.base_model_revision, token=token)
    card = model.card_data.to_dict() if model.card_data is not None else {}
    license_name = config.license or card.get("license")
    return replace(
        config,
        base_model_revision=config.base_model_revision or model.sha,
        license=license_name if isinstance(license_name, str) else None,
    )


def _local_base(config: TicketConfig) -> "tuple[TicketConfig, dict[str, Tensor]]":
    """Read θ0 and its configuration from the folder that the ticket was found on."""
    if config.base_model is None:
        raise HubError(
            "the ticket does not say which weights it belongs to: set ticket.config.base_model to a Hub id or a "
            "folder, or give the weights as Ticket(mask, config, theta=…) with config.base_config; a fine-tuned model "
            "is pushed as a model, by its trainer"
        )
    model = load_as_saved(config.base_model)
    if config.theta0_digest is not None and backbone_digest(model, config) != config.theta0_digest:
        raise HubError(f"{config.base_model} holds other weights now than those the ticket was found on")
    state = {name: tensor.detach().clone() for name, tensor in backbone_state(model).items()}
    return replace(config, base_config=base_fields(model)["base_config"]), state
