"""Searching the Hub for tickets."""

from typing import Any

from huggingface_hub import HfApi

from hf_tickets.ticket.hub_errors import hub_errors


def find_tickets(base_model: str | None = None, author: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Return tickets on the Hub, the most downloaded first.

    Args:
        base_model: Only tickets of this model.
        author: Only tickets of this user or organisation.
        limit: How many at most.

    Returns:
        For each its id, base_model, sparsities, task, downloads; None or empty where its card does not say.

    Raises:
        HubError: The Hub cannot be reached.
    """
    tags = ["hf_tickets", "lottery-ticket", *([f"base_model:{base_model}"] if base_model else [])]
    with hub_errors("the search"):
        models = list(HfApi().list_models(filter=tags, author=author, sort="downloads", limit=limit, cardData=True))
    return [_entry(model) for model in models]


def _entry(model: Any) -> dict[str, Any]:
    card = model.card_data.to_dict() if model.card_data is not None else {}
    ticket = card.get("ticket")
    rungs = ticket.get("rungs") if isinstance(ticket, dict) else None
    base = card.get("base_model")
    return {
        "id": model.id,
        "base_model": base if isinstance(base, str) else None,
        "sparsities": [value for value in rungs or [] if isinstance(value, float)] if isinstance(rungs, list) else [],
        "task": model.pipeline_tag if isinstance(model.pipeline_tag, str) else None,
        "downloads": model.downloads,
    }
