"""A ticket and its base model as one ordinary checkpoint, with the zeros in it."""

import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import ModelCard, ModelCardData
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES
from transformers.utils import cached_file

from hf_tickets.ticket.auto import save_base
from hf_tickets.ticket.base import load_as_saved
from hf_tickets.ticket.card import CARD_FILE, TAGS, plain
from hf_tickets.ticket.ticket import Ticket

logger = logging.getLogger(__name__)

_PROCESSORS: dict[str, Any] = {"tokenizer_config.json": AutoTokenizer, "preprocessor_config.json": AutoImageProcessor}


def save_merged(ticket: Ticket, folder: Path, model: str | None = None) -> None:
    """Write a model with a ticket's zeros in its weights, its tokenizer or image processor, and a card.

    Args:
        ticket: At the rung to merge.
        folder: Made if it is missing.
        model: A model that was fine-tuned with the ticket, folder or Hub id (default: the ticket's base model).

    Raises:
        HubError: The model cannot be had.
        TicketMismatchError: The ticket does not fit the model.
    """
    if model is None and ticket.config.base_model is None:
        with TemporaryDirectory() as base:
            save_base(ticket, Path(base))
            _save_merged(ticket, folder, base, None)
        return
    revision = ticket.config.base_model_revision if model is None else None
    _save_merged(ticket, folder, model or str(ticket.config.base_model), revision, trained=model is not None)


def _save_merged(ticket: Ticket, folder: Path, source: str, revision: str | None, trained: bool = False) -> None:
    where: dict[str, Any] = {"revision": revision or "main"}
    merged = load_as_saved(source, **where)
    if trained:
        # θ belongs to the untrained model.
        Ticket(ticket.ladder, ticket.config, sparsity=ticket.sparsity).merge(merged, verify="off")
    else:
        ticket.merge(merged)
    merged.save_pretrained(folder)
    for file, processor in _PROCESSORS.items():
        # Without its file, some versions make up a tokenizer for a model that has none.
        if cached_file(source, file, _raise_exceptions_for_missing_entries=False, **where) is not None:
            processor.from_pretrained(source, trust_remote_code=False, **where).save_pretrained(folder)
    bare = {name for names in MODEL_MAPPING_NAMES.values() for name in ([names] if isinstance(names, str) else names)}
    has_head = type(merged).__name__ not in bare
    if not has_head:
        logger.warning("the checkpoint has no head, as its base model has none here: fine-tune it before it is of use")
    _merged_card(ticket, folder.name, has_head).save(folder / CARD_FILE)


def _merged_card(ticket: Ticket, name: str, has_head: bool) -> ModelCard:
    config = ticket.config
    base = config.hub_base
    data = ModelCardData(
        library_name="transformers",
        base_model=base,
        base_model_relation="finetune" if base else None,
        license=config.license,
        tags=list(TAGS),
        model_name=name,
    )
    of = f" of {plain(base)}" if base else ""
    without = "" if has_head else ", without a head: fine-tune it before it is of use"
    text = (
        f"# {plain(name)}\n\nA sparse checkpoint{of}: {100 * ticket.sparsity:.2f} % of "
        f"{ticket.ladder.numel:,} weights are zero, by the mask of a lottery ticket. It is an ordinary checkpoint of "
        f"transformers{without}. The zeros are not held when it is trained further: hf_tickets' "
        "`Ticket.from_model(model)` gives the ticket that does.\n"
    )
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}")
