"""`AutoTicketModel…`: a base model at its pinned revision, with a ticket applied, in one call."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel

from hf_tickets.errors import HubError, TicketFileError
from hf_tickets.paths import is_local
from hf_tickets.quiet import quiet_transformers
from hf_tickets.ticket.base import Verify
from hf_tickets.ticket.hub_errors import hub_errors
from hf_tickets.ticket.ticket import Ticket

_PREFIX = "AutoTicketModel"

# What transformers raises for a configuration that makes no sense.
_BUILD_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    ImportError,
    RuntimeError,
    AssertionError,
    ArithmeticError,
)
# Keys by which a configuration can ask for code or weights from elsewhere.
_UNSAFE = ("auto_map", "attn_implementation", "experts_implementation", "quantization_config", "use_kernels")
_MOST_LAYERS = 10_000


class AutoTicketModel:
    """The base model of a ticket without a head, the ticket applied.

    Its siblings `AutoTicketModelForSequenceClassification`, … exist for each `AutoModelFor…` of transformers.
    The model is an ordinary one of transformers; its `ticket` says which weights `TicketTrainer` keeps at zero.

    Example:
        >>> model = AutoTicketModelForSequenceClassification.from_pretrained("me/ticket", num_labels=2)
        >>> TicketTrainer(model=model, args=args, train_dataset=data).train()
    """

    auto_class: Any = AutoModel

    @classmethod
    def from_pretrained(
        cls,
        ticket: str | Path | Ticket,
        *,
        sparsity: float | None = None,
        revision: str | None = None,
        subfolder: str = "",
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        verify: Verify = "warn",
        **kwargs: Any,
    ) -> nn.Module:
        """Load the base model that a ticket names, at the revision that it names, and apply the ticket.

        Args:
            ticket: A Hub id, a folder, or a `Ticket`.
            sparsity: As in `Ticket.from_pretrained`.
            revision: Revision of the ticket; that of the base model is in the ticket.
            subfolder: As in `Ticket.from_pretrained`.
            token: As in `Ticket.from_pretrained`; also for the base model.
            cache_dir: As in `Ticket.from_pretrained`; also for the base model.
            local_files_only: As in `Ticket.from_pretrained`; also for the base model.
            verify: What to do where the base model has other weights now: "warn", "error" or "off".
            **kwargs: For the base model: num_labels, dtype, device_map, attn_implementation, ...

        Returns:
            A model of transformers, with the `Ticket` of the chosen sparsity as its attribute `ticket`.

        Raises:
            HubError: Ticket or base model cannot be had.
            TicketMismatchError: The ticket does not fit the base model.
        """
        where: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        if not isinstance(ticket, Ticket):
            ticket = Ticket.from_pretrained(ticket, sparsity, revision=revision, subfolder=subfolder, **where)
        elif sparsity is not None:
            ticket = ticket.at(sparsity)
        model: Any = _load_base(cls.auto_class, ticket, where, {"trust_remote_code": False, **kwargs})
        # What comes from the commit that the ticket names needs no second look.
        config = ticket.config
        on_hub = config.base_model is not None and not is_local(config.base_model)
        pinned = verify == "warn" and on_hub and config.base_model_revision is not None
        ticket.apply(model, verify="off" if pinned else verify)
        model.ticket = ticket.rung()
        return model


def save_base(ticket: Ticket, folder: Path) -> None:
    """Write the base model that a ticket carries as a checkpoint of transformers, without a head.

    Args:
        ticket: A ticket with weights and the configuration of its base model.
        folder: Made if it is missing.

    Raises:
        TicketFileError: It carries no weights or no configuration.
    """
    if ticket.theta is None or "model_type" not in ticket.config.base_config:
        raise TicketFileError("the ticket names no base model on the Hub and carries none: ask its author for both")
    values = {name: value for name, value in ticket.config.base_config.items() if _is_safe(name, value)}
    try:
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        _check_size(config, ticket)
        with quiet_transformers():
            model = AutoModel.from_config(config, trust_remote_code=False)
    except _BUILD_ERRORS as error:
        raise TicketFileError(f"the ticket's base_config makes no model: {error!r:.300}") from None
    ticket.at(ticket.sparsities[0]).apply(model)
    model.save_pretrained(folder)


def _is_safe(name: str, value: Any) -> bool:
    return not name.startswith("_") and name not in _UNSAFE and not (isinstance(value, str) and "://" in value)


def _check_size(config: Any, ticket: Ticket) -> None:
    """Refuse a configuration of a model far larger than the weights that the ticket carries, before it is built."""
    if config.model_type == "timm_wrapper":
        return  # its architectures are timm's, of known sizes
    if any(
        "layers" in name and isinstance(value, int) and value > _MOST_LAYERS for name, value in vars(config).items()
    ):
        raise TicketFileError(f"the ticket's base_config asks for more than {_MOST_LAYERS:,} layers")
    with torch.device("meta"), quiet_transformers():
        size = sum(parameter.numel() for parameter in AutoModel.from_config(config).parameters())
    carried = sum(tensor.numel() for tensor in (ticket.theta or {}).values())
    if size > 2 * carried + 1_000_000:  # poolers and the like are not carried
        raise TicketFileError(f"the ticket's base_config asks for {size:,} weights, and it carries {carried:,}")


def _load_base(auto_class: Any, ticket: Ticket, where: dict[str, Any], kwargs: dict[str, Any]) -> nn.Module:
    config = ticket.config
    if config.base_model is not None:
        revision = config.base_model_revision or "main"
        with hub_errors(config.base_model, revision, where["token"]):
            try:
                return auto_class.from_pretrained(config.base_model, revision=revision, **where, **kwargs)
            except (OSError, ValueError) as error:
                message = str(error).splitlines()[0]
                raise HubError(f"the base model {config.base_model} cannot be loaded: {message}") from error
    with TemporaryDirectory() as folder:
        save_base(ticket, Path(folder))
        model: nn.Module = auto_class.from_pretrained(folder, **kwargs)
    return model


def __getattr__(name: str) -> type[AutoTicketModel]:
    """Make the sibling of one of transformers' auto classes."""
    auto_class = getattr(transformers, name.replace(_PREFIX, "AutoModel", 1), None)
    if not name.startswith(f"{_PREFIX}For") or auto_class is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    description = f"The base model of a ticket as `{auto_class.__name__}` loads it, the ticket applied."
    made = type(name, (AutoTicketModel,), {"auto_class": auto_class, "__doc__": description, "__module__": __name__})
    globals()[name] = made
    return made
