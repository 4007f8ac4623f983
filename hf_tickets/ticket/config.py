"""`TicketConfig`: where a ticket comes from, as `ticket_config.json`."""

import json
import logging
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_tickets.errors import TicketFileError
from hf_tickets.files import write_atomically
from hf_tickets.paths import is_local

CONFIG_FILE = "ticket_config.json"
FORMAT_VERSION = 1

logger = logging.getLogger(__name__)


@dataclass
class TicketConfig:
    """Provenance of a ticket, and what is needed to apply it.

    Args:
        base_model: Hub id or folder of the model whose weights are θ0.
        base_model_revision: Resolved commit of the base model on the Hub.
        base_config: transformers' configuration of the base model, to build it where it is not on the Hub.
        theta0_digest: SHA-256 of the backbone's θ0 (`hf_tickets.ticket.theta.backbone_digest`).
        theta_digest: SHA-256 of the θ that travels with the ticket, written by `save_pretrained`; None where θ0
            is a model that others can load.
        model_type: transformers' `model_type` of the backbone; None for timm and plain torch models.
        optional_modules: Parts of the backbone that some heads leave out, such as BERT's pooler: a model may
            lack them, and a ticket may leave them dense.
        pruning: Fields of the `PruningConfig`.
        rewind: Fields of the `RewindConfig`.
        control: What was changed where this is a control that tickets are compared with: name, seed, and of a control
            of masks the digest of the mask that it stands beside.
        task: What was trained on: family, dataset, columns, metric.
        training: Training arguments of one round that differ from transformers' defaults.
        recipe: The recipe that found the ticket, where it was found by one.
        license: Licence of the base model, as the Hub names it.
        seeds: Seeds by name.
        dense: The dense round that the rungs are compared with, in the same form as a rung.
        default_sparsity: Sparsity of the rung to use where none is named (default: the last).
        rungs: One dictionary a rung: round, sparsity, kept, digest, metrics, steps, seconds.
        versions: Versions of the libraries that found the ticket.
        format_version: Version of the file format.
    """

    base_model: str | None = None
    base_model_revision: str | None = None
    base_config: dict[str, Any] = field(default_factory=dict)
    theta0_digest: str | None = None
    theta_digest: str | None = None
    model_type: str | None = None
    optional_modules: list[str] = field(default_factory=lambda: ["pooler"])
    pruning: dict[str, Any] = field(default_factory=dict)
    rewind: dict[str, Any] = field(default_factory=dict)
    control: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    license: str | None = None
    seeds: dict[str, int] = field(default_factory=dict)
    dense: dict[str, Any] = field(default_factory=dict)
    default_sparsity: float | None = None
    rungs: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def hub_base(self) -> str | None:
        """Hub id of the base model; None where it is a folder of this machine, or none is named."""
        return None if self.base_model is None or is_local(self.base_model) else self.base_model

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TicketConfig":
        """Build a config from JSON values; keys of a later version are dropped with a warning.

        Args:
            values: What `to_dict` gave.

        Raises:
            TicketFileError: The format version is unknown, or a value has the wrong type.
        """
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise TicketFileError(f"format version {version!r:.40} is not known here; upgrade hf_tickets")
        _check_plain(values)
        known = {item.name: item for item in fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            names = ", ".join(repr(name)[1:-1] for name in unknown)  # a stranger's: no line breaks or terminal codes
            logger.warning("%s: keys not known to this version are ignored: %.500s", CONFIG_FILE, names)
        for name in set(values) & set(known):
            _check_type(name, values[name])
        return cls(**{name: values[name] for name in values if name in known})

    def to_json(self) -> bytes:
        """Return the content of `ticket_config.json`; metrics that are NaN or infinite become null.

        Raises:
            TicketFileError: A value is not one that JSON knows.
        """
        try:
            text = json.dumps(without_nan(self.to_dict()), indent=2, ensure_ascii=False, allow_nan=False)
        except TypeError as error:
            raise TicketFileError(f"the ticket's config cannot be written as JSON: {error}") from None
        return f"{text}\n".encode()

    def save(self, folder: Path) -> None:
        """Write `ticket_config.json` into a folder."""
        write_atomically(folder / CONFIG_FILE, self.to_json())

    @classmethod
    def load(cls, folder: Path) -> "TicketConfig":
        """Read `ticket_config.json` from a folder.

        Raises:
            TicketFileError: The file is missing or damaged.
        """
        path = folder / CONFIG_FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise TicketFileError(f"{folder} is no ticket: it has no {CONFIG_FILE}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise TicketFileError(f"{path} cannot be read as JSON: {error}") from None
        if not isinstance(values, dict):
            raise TicketFileError(f"{path} must hold a JSON object")
        return cls.from_dict(values)


_TYPES: dict[str, type] = {
    **dict.fromkeys(("base_model", "base_model_revision", "theta0_digest", "theta_digest", "model_type"), str),
    **dict.fromkeys(("pruning", "rewind", "task", "training", "seeds", "dense", "versions"), dict),
    **dict.fromkeys(("base_config", "control", "recipe"), dict),
    **dict.fromkeys(("optional_modules", "rungs"), list),
    "license": str,
    "default_sparsity": float,
    "format_version": int,
}
_MOST_NESTED = 50
_ITEM_TYPES: dict[str, type] = {"optional_modules": str, "rungs": dict}


def _check_plain(value: Any, depth: int = 0) -> None:
    """Refuse what JSON can hold and later steps cannot: deep nesting, and text that is not Unicode."""
    if depth > _MOST_NESTED:
        raise TicketFileError(f"{CONFIG_FILE}: values are nested more than {_MOST_NESTED} deep")
    if isinstance(value, (dict, list)):
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_plain(item, depth + 1)
    elif isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise TicketFileError(f"{CONFIG_FILE}: {value!r:.60} is not Unicode text")


def _check_type(name: str, value: Any) -> None:
    expected = _TYPES[name]
    if value is None and expected in (str, float):
        return
    items = value if expected is list and isinstance(value, list) else []
    if not isinstance(value, expected) or not all(isinstance(item, _ITEM_TYPES[name]) for item in items):
        raise TicketFileError(f"{CONFIG_FILE}: {name} must be {expected.__name__}, not {value!r:.60}")


def without_nan(value: Any) -> Any:
    """Put None for what JSON has no number for, such as the correlation with a constant prediction."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
