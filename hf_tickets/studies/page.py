"""What a report's page shows: tables of linked text, and pictures, made from a study's numbers."""

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pandas

from hf_tickets.studies.comparisons import CELL, DENSE, SHARED, TICKET, dark_counts
from hf_tickets.studies.formatting import NOTHING, decimal, number, percent, probability, signed, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120
_CELL_NAMES = ("source", "target", "control")
_WIDE, _NARROW = 92, 62  # pixels that an inch of a figure takes on a wide screen, and at least


@dataclass(frozen=True)
class Entry:
    """A cell of a table.

    Args:
        text: What it says.
        href: Where it leads.
        note: What stands beside it in small.
        kind: Class of the style sheet: "winning", "dark", "failed", "heading", or none.
        title: What is shown on pointing at it.
    """

    text: str
    href: str | None = None
    note: str = ""
    kind: str = ""
    title: str = ""


@dataclass(frozen=True)
class PageTable:
    """A table of the page.

    Args:
        header: Names of the columns.
        rows: Entries of each row.
        anchors: Names that links lead to, one a row, or none.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    anchors: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A picture of the page, that also lies beside it.

    Args:
        name: Name of the file, without ending.
        caption: What it shows.
        png: The file.
        width: Width on a wide screen, in pixels.
        least: Width on a narrow one, where it scrolls.
    """

    name: str
    caption: str
    png: bytes = field(repr=False)
    width: int
    least: int

    @property
    def uri(self) -> str:
        """The picture as text that a page holds."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


def picture(name: str, caption: str, figure: "Figure") -> Picture:
    """Draw a figure.

    Args:
        name: Name of the file, without ending.
        caption: What it shows.
        figure: The figure.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    inches = figure.get_size_inches()[0]
    return Picture(name, caption, buffer.getvalue(), round(inches * _WIDE), round(inches * _NARROW))


class Links:
    """Where numbers lead: a single run's folder, or the row that lists the runs behind a mean.

    Args:
        trainings: What `finished_trainings` returned.
        up: Path from the page to the study's folder.
    """

    def __init__(self, trainings: pandas.DataFrame, up: str = "..") -> None:
        self.up = up
        self._folders: dict[tuple[Any, ...], list[str]] = {
            cell: list(rows["folder"]) for cell, rows in trainings.groupby(CELL, sort=False)
        }
        self._numbers = {cell: number for number, cell in enumerate(self._folders, 1)}

    def folder(self, folder: Any) -> str | None:
        """Return the link to a run's folder, given relative to the study's."""
        return f"{self.up}/{quote(folder)}/" if isinstance(folder, str) and folder else None

    def anchor(self, cell: Sequence[Any]) -> str:
        """Return the name of the row that lists a cell's runs, or "" where nothing leads to it."""
        number = self._numbers.get(tuple(cell))
        return f"runs-{number}" if number else ""

    def cell(self, row: Mapping[Any, Any]) -> str | None:
        """Return where the number of a row with source, target, control and wanted leads."""
        cell = tuple(row[name] for name in CELL)
        folders = self._folders.get(cell, [])
        if len(folders) == 1:
            return self.folder(folders[0])
        return f"#{self.anchor(cell)}" if folders else None


def pair_name(source: str, target: str) -> str:
    """Return what a ticket of a source on a target is called."""
    return target if source in (target, SHARED) else f"{source} → {target}"


def table2_page(table: pandas.DataFrame, controls: Sequence[str], links: Links) -> PageTable:
    """Return the page's table of `table2`."""
    header = ["task", "metric", "highest winning sparsity", "dense", *controls]
    rows = []
    for (source, target), lines in table.groupby(["source", "target"], sort=False):
        first = lines.iloc[0]
        by_control = {line["control"]: line for line in lines.to_dict("records")}
        entries = [heading(pair_name(source, target)), Entry(first["metric"], kind="text"), _highest(first)]
        for control in ("dense", *controls):
            line = by_control.get(control)
            entries.append(Entry(NOTHING) if line is None else _measured(line, source, target, links))
        if not first["sparsity"] > 0 and isinstance(first["shown"], float):
            notes = [note for note in (entries[2].note, f"shown at {percent(first['shown'])}") if note]
            entries[2] = Entry(entries[2].text, note="; ".join(notes))
        rows.append(entries)
    return PageTable(header, rows)


def highest_page(table: pandas.DataFrame, sources: Sequence[str], targets: Sequence[str]) -> PageTable:
    """Return the page's table of `highest_table`: sources down, targets across."""
    pairs = {(row["source"], row["target"]): row for row in table.to_dict("records")}
    rows = [[heading(source), *[_highest(pairs.get((source, target))) for target in targets]] for source in sources]
    return PageTable(["source \\ target", *targets], rows)


def transfer_page(matrix: pandas.DataFrame, targets: Sequence[str], links: Links) -> PageTable:
    """Return the page's table of `transfer_matrix`."""
    counts = dark_counts(matrix)
    cells = {(row["row"], row["target"]): row for row in matrix.to_dict("records")}
    countable = any(possible for _, possible in counts.values())
    rows = []
    for name in dict.fromkeys(matrix["row"]):
        entries = [heading(name)]
        for target in targets:
            cell = cells.get((name, target))
            if cell is None:
                entries.append(Entry(NOTHING))
                continue
            kind = "dark" if cell["dark"] is True else ""
            text = NOTHING if math.isnan(cell["difference"]) else signed(cell["difference"])
            entries.append(Entry(text, links.cell(cell), spread(cell), kind, f"n = {cell['n']}"))
        rows.append([*entries, *([Entry("{} of {}".format(*counts[name]))] if countable else [])])
    return PageTable(["source \\ target", *targets, *(["dark cells"] if countable else [])], rows)


def controls_page(table: pandas.DataFrame, links: Links, margin: float | None) -> PageTable:
    """Return the page's table of `controls_table` at one sparsity."""
    equivalence = [] if margin is None else [f"equivalent within {margin:g}: p", f"not worse by {margin:g}: p"]
    header = [
        "task",
        "mask",
        "result",
        "n",
        "difference from dense [95\u00a0%]",
        "Welch p",
        "Hedges' g [95\u00a0%]",
        *equivalence,
        "wins",
    ]
    rows = []
    for row in table.to_dict("records"):
        verdict = {True: "yes", False: "no"}.get(row["winning"], NOTHING)
        tests = [] if margin is None else [Entry(probability(row[name])) for name in ("p_equivalent", "p_not_inferior")]
        rows.append(
            [
                heading(pair_name(row["source"], row["target"])),
                Entry(row["control"], kind="text"),
                Entry(spread(row), links.cell(row)),
                Entry(str(row["n"])),
                _between(row["difference"], row["low"], row["high"], signed),
                Entry(probability(row["p"])),
                _between(row["g"], row["g_low"], row["g_high"], lambda value: decimal(value, 2)),
                *tests,
                Entry(verdict, kind="winning" if row["winning"] is True else ""),
            ]
        )
    return PageTable(header, rows)


def overlap_page(table: pandas.DataFrame) -> PageTable:
    """Return the page's table of `mask_overlap`."""
    rows = [
        [
            heading(f"{row['first']}, {row['second']}"),
            *[Entry(percent(row[name])) for name in ("first_sparsity", "second_sparsity")],
            *[Entry(f"{row[name]:.4f}") for name in ("jaccard", "chance", "layer_chance")],
            Entry(f"{row['relative']:.2f}"),
        ]
        for row in table.to_dict("records")
    ]
    header = ["masks", "sparsity", "sparsity", "overlap (Jaccard)", "by chance", "by chance, each layer", "× chance"]
    return PageTable(header, rows)


def searches_page(rounds: pandas.DataFrame, links: Links) -> PageTable:
    """Return the page's table of the rounds of every search.

    Args:
        rounds: Rows of `load_results` of kind "search".
        links: Where numbers lead.
    """
    rows = [
        [
            heading(str(row["source"])),
            Entry(str(row["seed"])),
            Entry(percent(row["sparsity"])),
            Entry(number(row["value"]), links.folder(row["folder"]), title=repr(row["value"])),
            Entry(str(row["metric"]), kind="text"),
            Entry(f"{row['steps']:,.0f}"),
            Entry(f"{row['seconds'] / 60:,.1f}"),
        ]
        for row in rounds.to_dict("records")
    ]
    return PageTable(["source", "seed", "sparsity", "result", "metric", "steps", "minutes"], rows)


def cost_page(table: pandas.DataFrame) -> PageTable:
    """Return the page's table of `cost_table`."""
    rows = [
        [
            heading(row["what"]),
            Entry(f"{row['trainings']:,}"),
            Entry(f"{row['steps']:,}"),
            Entry(f"{row['minutes']:,.1f}"),
        ]
        for row in table.to_dict("records")
    ]
    return PageTable(["kind", "trainings", "steps", "minutes"], rows)


def holes_page(table: pandas.DataFrame, links: Links) -> PageTable:
    """Return the page's table of `holes_table`."""
    rows = [
        [
            Entry(row["status"], links.folder(row["folder"]), kind="failed" if row["status"] == "failed" else ""),
            *[Entry(row[name] if isinstance(row[name], str) else NOTHING, kind="text") for name in _CELL_NAMES],
            Entry(percent(row["wanted"])),
            Entry(str(row["seed"])),
            Entry(row["reason"], kind="reason"),
        ]
        for row in table.to_dict("records")
    ]  # fmt: skip
    return PageTable(["cell", "source", "target", "mask", "sparsity", "seed", "why"], rows)


def runs_page(runs: pandas.DataFrame, links: Links) -> PageTable:
    """Return the page's table of all trainings on one target, a row a cell and a column a seed.

    Args:
        runs: Rows of `load_results` of kind "training" and of one target, with sources as in `finished_trainings`.
        links: Where numbers lead.
    """
    seeds = sorted(runs["seed"].unique())
    rows, anchors = [], []
    for cell, of_cell in runs.groupby(CELL, sort=False):
        source, _, control, wanted = cell
        by_seed: dict[Any, list[Entry]] = {}
        for run in of_cell.to_dict("records"):
            by_seed.setdefault(run["seed"], []).append(_run(run, links))
        found = [by_seed.get(seed, [Entry(NOTHING)])[0] for seed in seeds]
        label = "dense" if control == DENSE else percent(wanted)
        rows.append([heading(source or "all"), Entry(control, kind="text"), Entry(label), *found])
        anchors.append(links.anchor(cell))
    return PageTable(["source", "mask", "sparsity", *[f"seed {seed}" for seed in seeds]], rows, anchors)


def heading(text: str) -> Entry:
    """Return the entry that names a row."""
    return Entry(text, kind="heading")


def _run(run: Mapping[Any, Any], links: Links) -> Entry:
    href = links.folder(run["folder"])
    if run["status"] != "done":
        kind = "failed" if run["status"] == "failed" else ""
        return Entry(run["status"], href, kind=kind, title=run["error"] if isinstance(run["error"], str) else "")
    return Entry(number(run["value"]), href, title=repr(float(run["value"])))


def _measured(line: Mapping[Any, Any], source: str, target: str, links: Links) -> Entry:
    """Return a result that leads to the runs of its source, or to those that sources share."""
    wanted = 0.0 if line["control"] == DENSE else line["shown"]
    places = [
        {"source": name, "target": target, "control": line["control"], "wanted": wanted} for name in (source, SHARED)
    ]
    href = next((href for href in map(links.cell, places) if href), None)
    kind = "winning" if line["winning"] is True and line["control"] == TICKET else ""
    deviation = f"± {number(line['std'])}, " if math.isfinite(line["std"]) else ""
    return Entry(number(line["mean"]), href, f"{deviation}n = {line['n']}", kind)


def _highest(row: Mapping[Any, Any] | None) -> Entry:
    if row is None:
        return Entry(NOTHING)
    text = "none" if row["sparsity"] == 0 else percent(row["sparsity"])
    ends = [("none" if end == 0 else f"{100 * end:.4g}") for end in (row["low"], row["high"])]
    moved = math.isfinite(row["low"]) and row["low"] != row["high"]
    return Entry(text, note=f"{ends[0]} to {ends[1]}" if moved else "", kind="winning" if row["sparsity"] > 0 else "")


def _between(value: float, low: float, high: float, show: Callable[[float], str]) -> Entry:
    if not math.isfinite(value):
        return Entry(NOTHING)
    return Entry(show(value), note=f"[{show(low)}, {show(high)}]" if math.isfinite(low) else "")
