"""What of a ticket may be published: no path of this machine, and weights that a stranger can get."""

import logging
from dataclasses import fields, replace
from pathlib import Path

from huggingface_hub import HfApi
from torch import Tensor

from hf_tickets.errors import HubError, TicketFileError
from hf_tickets.paths import is_folder, without_paths
from hf_tickets.ticket.base import base_fields, load_as_saved
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.hub_errors import hub_errors
from hf_tickets.ticket.theta import backbone_digest, backbone_state
from hf_tickets.ticket.ticket import Ticket

logger = logging.getLogger(__name__)


def publishable(ticket: Ticket, token: str | bool | None = None) -> Ticket:
    """Return a ticket as a stranger needs it.

    Where θ0 is not a model on the Hub, the weights come with the ticket. Paths of this machine become the name of
    what they lead to.

    Args:
        ticket: Any ticket.
        token: Token to ask the Hub about the base model with.

    Raises:
        HubError: The ticket does not say which weights it belongs to, or they cannot be had any more.
    """
    config, theta = _with_weights(ticket)
    if config.hub_base is not None:
        config = _pinned(config, config.hub_base, token)
    return Ticket(ticket.ladder, public_config(config), theta, ticket.sparsity)


def public_config(config: TicketConfig) -> TicketConfig:
    """Return a config without paths of this machine: a folder's is its name, and a base model there is left out.

    Args:
        config: Provenance of a ticket.
    """
    values = {field.name: without_paths(getattr(config, field.name)) for field in fields(config)}
    return TicketConfig(**{**values, "base_model": config.hub_base})


def check_publishable(ticket: Ticket) -> None:
    """Refuse what `publishable` would refuse, as far as this machine can tell without the Hub.

    Raises:
        HubError: The ticket does not say which weights it belongs to, or they cannot be had any more.
    """
    _with_weights(ticket)


def ticket_in(folder: str | Path) -> Ticket:
    """Read the ticket in a folder of this machine; the Hub is not asked for one of that name.

    Args:
        folder: A folder that `save_pretrained` wrote.

    Raises:
        TicketFileError: There is no such folder, or no whole ticket in it.
    """
    if not is_folder(folder):
        raise TicketFileError(f"there is no folder {folder}")
    return Ticket.from_pretrained(folder)


def _with_weights(ticket: Ticket) -> tuple[TicketConfig, dict[str, Tensor] | None]:
    """Return a ticket's config and θ, read from the folder of its base model where it is not on the Hub."""
    config, theta = ticket.config, ticket.theta
    if config.hub_base is not None or (theta is not None and config.base_config):
        return config, theta
    config, loaded = _local_base(config)
    return config, theta if theta is not None else loaded


def _pinned(config: TicketConfig, base: str, token: str | bool | None) -> TicketConfig:
    """Resolve the base model's commit where it is not recorded, and its licence."""
    if config.base_model_revision is not None and config.license is not None:
        return config
    with hub_errors(base, config.base_model_revision, token):
        model = HfApi().model_info(base, revision=config.base_model_revision, token=token)
    card = model.card_data.to_dict() if model.card_data is not None else {}
    license_name = config.license or card.get("license")
    return replace(
        config,
        base_model_revision=config.base_model_revision or model.sha,
        license=license_name if isinstance(license_name, str) else None,
    )


def _local_base(config: TicketConfig) -> tuple[TicketConfig, dict[str, Tensor]]:
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
