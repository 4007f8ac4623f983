"""What of a ticket's model could really be removed, counted on a model of that kind with random weights."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from hf_tickets.errors import PruningError

if TYPE_CHECKING:
    import pandas
    from rich.table import Table

    from hf_tickets.ticket.ticket import Ticket

_MOST_WEIGHTS = 400_000_000  # of which the count holds two copies of 8 bytes
_SIDE, _LARGEST = 224, 1024


def count_removable(ticket: "Ticket") -> "pandas.DataFrame":
    """Return `removable_table` for a ticket, of one image or text.

    Args:
        ticket: A ticket at the rung to count; it must tell its base model's configuration.

    Raises:
        TicketFileError: Its configuration makes no model.
        PruningError: The model is too large, or its mask is over other weights.
    """
    from hf_tickets.analysis.removable import removable_table
    from hf_tickets.ticket.auto import build_base

    if "model_type" not in ticket.config.base_config:
        raise PruningError("the ticket does not tell the configuration of its base model")
    model = build_base(ticket, _MOST_WEIGHTS)
    return removable_table(model, ticket.mask, _example(model, ticket.config.task))


def units_table(units: "pandas.DataFrame", removable: "pandas.DataFrame | None") -> "Table":
    """Return a table of what is pruned as a whole, a row a block.

    Args:
        units: What `unit_table` returned.
        removable: What `count_removable` returned; None without.
    """
    from rich.table import Table

    from hf_tickets.cli.inspect import plain

    shares = {"zero rows": ("zero_rows", "rows"), "zero columns": ("zero_columns", "columns")}
    counts = units
    if removable is not None:
        counts = units.join(removable.drop(columns="block"))
        shares |= {
            "dead outputs": ("dead_outputs", "outputs"),
            "dead inputs": ("dead_inputs", "inputs"),
            "weights gone": ("removable", "weights"),
            "FLOPs gone": ("removable_flops", "flops"),
        }
    blocks = counts.groupby("block", sort=False).sum(numeric_only=True)
    total = blocks.sum()
    table = Table(title="pruned units", show_footer=True)
    table.add_column("block", "total", overflow="fold")
    for header, (part, whole) in shares.items():
        table.add_column(header, _share(total, part, whole), justify="right")
    for block, row in blocks.iterrows():
        table.add_row(plain(block), *(_share(row, part, whole) for part, whole in shares.values()))
    if removable is not None:
        table.caption = "dead: no path of kept weights leads through; gone: with these units"
    return table


def _share(row: Any, part: str, whole: str) -> str:
    return f"{row[part] / row[whole]:.1%}" if row[whole] else "–"


def _example(model: Any, task: dict[str, Any]) -> Any:
    """One image of the size that the task has, or transformers' own short texts."""
    import torch

    if model.main_input_name != "pixel_values":
        return model.dummy_inputs
    stored = (getattr(model.config, "pretrained_cfg", None) or {}).get("input_size")
    own = getattr(model.config, "image_size", None)
    known = (task.get("image_size"), stored and stored[1:], own if isinstance(own, list) else [own, own])
    height, width = next(size for size in (*known, [_SIDE, _SIDE]) if _is_size(size))
    return {"pixel_values": torch.zeros(1, getattr(model.config, "num_channels", 3), height, width)}


def _is_size(size: Any) -> TypeGuard[Sequence[int]]:
    """Whether a size, which may be a stranger's, is one of images."""
    is_pair = isinstance(size, (list, tuple)) and len(size) == 2
    return is_pair and all(isinstance(side, int) and 0 < side <= _LARGEST for side in size)
