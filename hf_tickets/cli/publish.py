"""`hf-tickets publish`: push a set of tickets as one collection."""

import argparse
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin, get_type_hints

if TYPE_CHECKING:
    from hf_tickets.ticket.ticket import Ticket


@dataclass(frozen=True)
class Entry:
    """One ticket of a manifest.

    Args:
        repo: Where it goes: "owner/name".
        folder: Run folder, or folder of the ticket.
        recipe: Recipe that found it, for the card.
        tags: More tags for the card.
        push_base: Upload the base model beside it, in place of weights in the ticket.
    """

    repo: str
    folder: str
    recipe: str | None = None
    tags: list[str] = field(default_factory=list)
    push_base: bool = False


@dataclass(frozen=True)
class Manifest:
    """A set of tickets to publish.

    Args:
        tickets: The tickets.
        collection: Title of the collection they are put in (default: none).
        namespace: Owner of the collection (default: you).
        private: Whether what is made is private.
    """

    tickets: list[Entry]
    collection: str | None = None
    namespace: str | None = None
    private: bool = False


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    parser = subparsers.add_parser(
        "publish",
        help="push a set of tickets as one collection",
        description=(
            "Check every ticket of a manifest and show what would be pushed; with --push, push them and put them in "
            "a collection. A manifest is YAML: `collection`, `namespace`, `private`, and `tickets`, each with "
            "`repo`, `folder` and, where wanted, `recipe`, `tags`, `push_base`."
        ),
    )
    parser.add_argument("manifest", metavar="MANIFEST", help="a YAML file")
    parser.add_argument("--push", action="store_true", help="push; without it nothing is sent")


def run(arguments: argparse.Namespace) -> int:
    """Show the plan; with --push, carry it out."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    import hf_tickets.tasks.image_models  # noqa: F401 (a base model may be one of SimCLR or MoCo)

    console = Console()
    manifest = load_manifest(Path(arguments.manifest))
    tickets = [_load(entry) for entry in manifest.tickets]
    table = Table("ticket", "folder", "base model", "sparsities")
    for entry, ticket in zip(manifest.tickets, tickets, strict=True):
        base = ticket.config.base_model or "in the ticket"
        sparsities = f"{len(ticket.sparsities)}, up to {ticket.sparsities[-1]:.4f}"
        table.add_row(escape(entry.repo), escape(entry.folder), escape(base), sparsities)
    console.print(table)
    if not arguments.push:
        console.print("nothing was sent; give --push to publish them")
        return 0
    for entry, ticket in zip(manifest.tickets, tickets, strict=True):
        commit = ticket.push_to_hub(entry.repo, private=manifest.private, tags=entry.tags, push_base=entry.push_base)
        console.print(f"pushed: {commit.repo_url.url}", soft_wrap=True, highlight=False)
    if manifest.collection is not None:
        url = _collect(manifest)
        console.print(f"collection: {url}", soft_wrap=True, highlight=False)
    return 0


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        RecipeError: The file cannot be read, or a key or value is wrong.
    """
    from hf_tickets.errors import RecipeError

    manifest = _build(Manifest, _read(path), str(path))
    if not isinstance(manifest.tickets, list) or not manifest.tickets:
        raise RecipeError(f"{path}: tickets must be a list of at least one ticket, each with repo and folder")
    entries = [_build(Entry, entry, f"{path}: ticket {index + 1}") for index, entry in enumerate(manifest.tickets)]
    repeated = {entry.repo for entry in entries if [other.repo for other in entries].count(entry.repo) > 1}
    if repeated:
        raise RecipeError(f"{path}: {sorted(repeated)[0]} occurs twice; each ticket needs a repository of its own")
    return replace(manifest, tickets=entries)


def _build(kind: type, values: Any, where: str) -> Any:
    from hf_tickets.errors import RecipeError

    known = [item.name for item in fields(kind)]
    if not isinstance(values, dict):
        raise RecipeError(f"{where}: not a mapping; its keys are {', '.join(known)}")
    unknown = [key for key in values if key not in known]
    if unknown:
        raise RecipeError(f"{where}: {unknown[0]}: unknown key; the keys are {', '.join(known)}")
    missing = [name for name in ("tickets", "repo", "folder") if name in known and name not in values]
    if missing:
        raise RecipeError(f"{where}: {' and '.join(missing)} missing")
    for name, value in values.items():
        expected = get_type_hints(kind)[name]
        if name != "tickets" and not _is(value, expected):
            raise RecipeError(f"{where}: {name} must be {getattr(expected, '__name__', expected)}, not {value!r:.60}")
    return kind(**values)


def _is(value: Any, expected: Any) -> bool:
    if get_origin(expected) is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, expected)


def _load(entry: Entry) -> "Ticket":
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    from hf_tickets.errors import RecipeError
    from hf_tickets.ticket.publishing import check_publishable, ticket_in

    try:
        validate_repo_id(entry.repo)
    except HFValidationError as error:
        raise RecipeError(f"{entry.repo!r} is not a name for a repository: {error}") from None
    ticket = ticket_in(entry.folder)
    if entry.recipe is not None:
        if not Path(entry.recipe).is_file():
            raise RecipeError(f"{entry.repo}: there is no recipe {entry.recipe}")
        recipe = _read(Path(entry.recipe))
        if not isinstance(recipe, dict):
            raise RecipeError(f"{entry.recipe}: not a mapping; a recipe has lines such as `learning_rate: 2e-5`")
        ticket.config = replace(ticket.config, recipe=recipe)
    check_publishable(ticket)
    return ticket


def _read(path: Path) -> Any:
    import yaml

    from hf_tickets.errors import RecipeError

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from None


def _collect(manifest: Manifest) -> str:
    from huggingface_hub import HfApi

    from hf_tickets.ticket.hub_errors import hub_errors

    api = HfApi()
    title = str(manifest.collection)
    with hub_errors(f"the collection {title!r}"):
        collection = api.create_collection(
            title, namespace=manifest.namespace, private=manifest.private, exists_ok=True
        )
        for entry in manifest.tickets:
            api.add_collection_item(collection.slug, item_id=entry.repo, item_type="model", exists_ok=True)
    return collection.url
