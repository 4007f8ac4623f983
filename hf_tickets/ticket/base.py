"""The base model of a ticket: whose weights θ0 are, and whether a model has them."""

import json
import logging
from pathlib import Path
from typing import Any, Literal

import transformers
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from hf_tickets.errors import TicketMismatchError
from hf_tickets.paths import is_folder, is_local
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.scope import backbone, unwrap
from hf_tickets.quiet import quiet_transformers
from hf_tickets.registration import register_models
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.hub_errors import loading_errors
from hf_tickets.ticket.theta import backbone_digest

logger = logging.getLogger(__name__)

Verify = Literal["warn", "error", "off"]


def describe_base(model: nn.Module, pruning: PruningConfig | None = None) -> TicketConfig:
    """Return the provenance that a model itself tells: where it comes from, its kind, the digest of its weights.

    Args:
        model: The model whose weights are θ0.
        pruning: How its mask is chosen.
    """
    return TicketConfig(
        **base_fields(model),
        theta0_digest=backbone_digest(model),
        pruning=pruning.to_dict() if pruning is not None else {},
    )


def base_fields(model: nn.Module) -> dict[str, Any]:
    """Return the fields of `TicketConfig` that say which model this is.

    Args:
        model: Any module, wrapped or not.
    """
    config = getattr(unwrap(model), "config", None)
    name = getattr(config, "_name_or_path", None) or None
    config = getattr(config, "encoder_config", None) or config  # of SimCLR and MoCo the encoder is what others load
    written = config.to_json_string() if isinstance(config, PretrainedConfig) else "{}"
    return {
        "base_model": str(Path(name).resolve()) if name and is_folder(name) else name,
        "base_model_revision": cached_commit(name) if name else None,
        "base_config": json.loads(written),
        "model_type": getattr(getattr(backbone(model), "config", None), "model_type", None),
    }


def cached_commit(model: str, revision: str | None = None) -> str | None:
    """Return the commit that a revision of a model on the Hub meant when it was last loaded here.

    Args:
        model: Hub id; for a folder there is none.
        revision: Branch, tag or commit (default: main).
    """
    if is_local(model):
        return None
    file = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


def load_as_saved(source: str, **where: Any) -> Any:
    """Load a model as the very class that was saved, its head included.

    Args:
        source: Folder or Hub id.
        **where: revision, token, cache_dir, local_files_only.

    Raises:
        HubError: It cannot be had.
    """
    register_models()
    where = {"trust_remote_code": False, **where}
    with loading_errors(source, where.get("revision"), where.get("token")), quiet_transformers():
        config = AutoConfig.from_pretrained(source, **where)
        saved: Any = getattr(transformers, (config.architectures or [""])[0], None)
        is_model = isinstance(saved, type) and issubclass(saved, PreTrainedModel)
        return (saved if is_model else AutoModel).from_pretrained(source, **where)


def verify_base(model: nn.Module, config: TicketConfig, verify: Verify) -> None:
    """Say whether a model has the weights that a ticket was found on.

    Args:
        model: Any module, wrapped or not.
        config: Provenance of the ticket; without a digest of θ0 nothing is said.
        verify: "warn", "error" or "off".

    Raises:
        TicketMismatchError: It has other weights, and `verify` is "error".
    """
    if verify not in ("warn", "error", "off"):
        raise TicketMismatchError(f'verify must be "warn", "error" or "off", not {verify!r}')
    if verify == "off" or config.theta0_digest is None:
        return
    if config.theta0_digest in (backbone_digest(model, config, as_loaded) for as_loaded in (False, True)):
        return
    whose = f"those of {config.base_model}" if config.base_model else "those"
    at = f" at {config.base_model_revision[:12]}" if config.base_model_revision else ""
    message = (
        f"the model's weights are not {whose}{at} that the ticket was found on, or not in that precision; "
        "load that model, or pass verify='off' for one that was trained since"
    )
    if verify == "error":
        raise TicketMismatchError(message)
    logger.warning(message)
