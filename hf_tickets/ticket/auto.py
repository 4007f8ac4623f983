"""`AutoTicketModel…`: a base model at its pinned revision, with a ticket applied, in one call."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from transformers import AutoConfig, AutoModel

from hf_tickets.errors import TicketFileError, TicketMismatchError
from hf_tickets.quiet import quiet_transformers
from hf_tickets.registration import register_models
from hf_tickets.ticket.base import Verify
from hf_tickets.ticket.hub_errors import loading_errors
from hf_tickets.ticket.matching import canonical_parameters
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
    StrictDataclassError,
)
# Keys by which a configuration can ask for code or weights from elsewhere, and values that name a place.
_UNSAFE = (
    "auto_map",
    "attn_implementation",
    "experts_implementation",
    "quantization_config",
    "use_kernels",
    "use_pretrained_backbone",
)
_UNSAFE_FOR_TIMM = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
_ADDRESS = re.compile(r"[\w.+-]+:")
# The largest numbers a configuration may hold, by a part of its key: some are counted up to before a model is built.
_MOST = {"layer": 10_000, "depth": 10_000, "block": 10_000, "label": 1_000_000, "classes": 1_000_000}
_MOST_OF_ANYTHING = 1 << 25  # positions of the longest contexts
_MOST_PARTS = 1_000_000
_MOST_IN_BUFFERS = 100_000_000


class AutoTicketModel:
    """The base model of a ticket without a head, the ticket applied.

    Its siblings `AutoTicketModelForSequenceClassification`, … exist for each `AutoModelFor…` of transformers.
    The model is an ordinary one of transformers; its `ticket` says which weights `TicketTrainer` keeps at zero. Of a
    base model that SimCLR or MoCo trained, a sibling takes the encoder under a new head.

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
            TicketMismatchError: The ticket does not fit the base model, or this class loads no such models.
        """
        where: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        if not isinstance(ticket, Ticket):
            ticket = Ticket.from_pretrained(ticket, sparsity, revision=revision, subfolder=subfolder, **where)
        elif sparsity is not None:
            ticket = ticket.at(sparsity)
        model: Any = _load_base(cls.auto_class, ticket, where, {"trust_remote_code": False, **kwargs})
        # What comes from the commit that the ticket names needs no second look, unless it starts from other weights.
        config = ticket.config
        pinned = verify == "warn" and config.hub_base is not None and config.base_model_revision is not None
        pinned = pinned and not config.control
        _unmap_(model, ticket)
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
    carried = sum(tensor.numel() for tensor in ticket.theta.values())
    model = build_base(ticket, 2 * carried + 1_000_000)  # poolers and the like are not carried
    ticket.at(ticket.sparsities[0]).apply(model)
    model.save_pretrained(folder)


def build_base(ticket: Ticket, most: int) -> Any:
    """Return a model of the kind that a ticket was found on, without a head, its weights random.

    Args:
        ticket: A ticket with the configuration of its base model; it may be a stranger's.
        most: Weights that the model may have.

    Raises:
        TicketFileError: The configuration makes no model, or a larger one.
    """
    register_models()
    values = _safe(ticket.config.base_config)
    try:
        with quiet_transformers():
            config = AutoConfig.for_model(values.pop("model_type"), **values)
            with torch.device("meta"), _at_most(most):
                made = AutoModel.from_config(config, trust_remote_code=False)
            if sum(buffer.numel() for buffer in made.buffers()) > most + _MOST_IN_BUFFERS:
                raise ValueError("it has buffers that are larger than any model's")
            return AutoModel.from_config(config, trust_remote_code=False)
    except _BUILD_ERRORS as error:
        raise TicketFileError(f"the ticket's base_config makes no model: {error!r:.300}") from None


def _safe(value: Any, name: str = "base_config") -> Any:
    """Return a configuration without what asks for code or weights from elsewhere.

    Raises:
        TicketFileError: It asks for sizes that no model has.
    """
    if isinstance(value, dict):
        unsafe = (*_UNSAFE, *_UNSAFE_FOR_TIMM) if name == "model_args" else _UNSAFE
        return {
            key: _safe(item, key)
            for key, item in value.items()
            if not key.startswith("_") and key not in unsafe and not (isinstance(item, str) and _ADDRESS.match(item))
        }
    if isinstance(value, list):
        return [_safe(item, name) for item in value]
    most = next((limit for part, limit in _MOST.items() if part in name), _MOST_OF_ANYTHING)
    if isinstance(value, int) and value > most:
        raise TicketFileError(f"the ticket's base_config asks for {name} of more than {most:,}")
    return value


@contextmanager
def _at_most(weights: int) -> Iterator[None]:
    """Refuse a model of more weights, or of very many parts, while it is being built."""
    size, parts, thread = 0, 0, threading.get_ident()

    def count(module: nn.Module, name: str, part: nn.Module | nn.Parameter | None) -> None:
        nonlocal size, parts
        if part is None or threading.get_ident() != thread:
            return
        size += part.numel() if isinstance(part, nn.Parameter) else 0
        parts += 1
        if size > weights or parts > _MOST_PARTS:
            raise ValueError(f"it is larger than the {weights:,} weights that fit what the ticket carries")

    handles = [register_module_parameter_registration_hook(count), register_module_module_registration_hook(count)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _load_base(auto_class: Any, ticket: Ticket, where: dict[str, Any], kwargs: dict[str, Any]) -> nn.Module:
    config = ticket.config
    # A ticket fits any head: that of the base model may have other classes.
    kwargs = {"ignore_mismatched_sizes": "num_labels" in kwargs, **kwargs}
    register_models()
    if config.base_model is not None:
        revision = config.base_model_revision or "main"
        with loading_errors(config.base_model, revision, where["token"]):
            return _load_as(auto_class, config.base_model, {"revision": revision, **where}, kwargs)
    with TemporaryDirectory() as folder:
        save_base(ticket, Path(folder))
        return _load_as(auto_class, folder, {}, kwargs)


def _load_as(auto_class: Any, source: str, where: dict[str, Any], kwargs: dict[str, Any]) -> nn.Module:
    """Load a model by an auto class; of a kind that the class does not know, the encoder inside it."""
    model: Any
    try:
        model = auto_class.from_pretrained(source, **where, **kwargs)
        return model
    except ValueError:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
        if type(config) in auto_class._model_mapping:
            raise
    with quiet_transformers():
        whole = AutoModel.from_pretrained(source, trust_remote_code=False, **where)
    encoder = whole.base_model
    if type(encoder.config) not in auto_class._model_mapping:
        raise TicketMismatchError(_not_known(auto_class, config.model_type, {type(config), type(encoder.config)}))
    with TemporaryDirectory() as folder:
        encoder.save_pretrained(folder)
        model = auto_class.from_pretrained(folder, **kwargs)
    model.config.name_or_path = source
    return model


def _not_known(auto_class: Any, model_type: str, kinds: set[type]) -> str:
    """Say which of the siblings load a base model that an auto class does not know."""
    known = [
        name.replace("AutoModel", _PREFIX, 1)
        for name in dir(transformers)
        if name.startswith("AutoModelFor") and any(kind in getattr(transformers, name)._model_mapping for kind in kinds)
    ]
    return (
        f"the ticket's base model is a {model_type} model, and {auto_class.__name__} loads none; "
        f"take {', '.join([_PREFIX, *known])}"
    )


def _unmap_(model: nn.Module, ticket: Ticket) -> None:
    """Copy the weights that will be written to out of the file that transformers maps into memory.

    The kernel would copy them page by page as each is first written to, which takes ten times as long.
    """
    parameters = canonical_parameters(model)
    for name in ticket.match(model).matched:
        if parameters[name].device.type == "cpu":
            parameters[name].data = parameters[name].data.clone()


def __getattr__(name: str) -> type[AutoTicketModel]:
    """Make the sibling of one of transformers' auto classes."""
    auto_class = getattr(transformers, name.replace(_PREFIX, "AutoModel", 1), None)
    if not name.startswith(f"{_PREFIX}For") or auto_class is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    description = f"The base model of a ticket as `{auto_class.__name__}` loads it, the ticket applied."
    made = type(name, (AutoTicketModel,), {"auto_class": auto_class, "__doc__": description, "__module__": __name__})
    globals()[name] = made
    return made
