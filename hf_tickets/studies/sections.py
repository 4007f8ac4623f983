"""The sections of a report: each takes a study's numbers, and is left out where there are none for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas

from hf_tickets.analysis.overlap import overlap_figure
from hf_tickets.pruning.mask import Mask
from hf_tickets.studies import figures, page
from hf_tickets.studies.comparisons import (
    DENSE,
    SHARED,
    TICKET,
    all_trainings,
    compare_cells,
    dark_counts,
    finished_trainings,
    transfer_matrix,
)
from hf_tickets.studies.formatting import percent
from hf_tickets.studies.tables import (
    controls_table,
    cost_table,
    highest_table,
    holes_table,
    in_order,
    overlap_tables,
    table2,
)

_UNFOLDED = 3  # sparsities that are shown at once; of more, all but the last are folded
_LINES = 8  # curves that one panel can bear


@dataclass(frozen=True)
class Part:
    """A part of a section.

    Args:
        title: Its heading.
        text: Paragraphs.
        pictures: Pictures.
        tables: Tables.
        folded: Whether a reader has to open it; None where it cannot be folded.
    """

    title: str = ""
    text: Sequence[str] = ()
    pictures: Sequence[page.Picture] = ()
    tables: Sequence[page.PageTable] = ()
    folded: bool | None = None


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Args:
        anchor: Name that links lead to.
        title: Its heading.
        text: Paragraphs.
        parts: Its parts.
        files: Tables to write beside the page, by name without ending.
    """

    anchor: str
    title: str
    text: Sequence[str] = ()
    parts: Sequence[Part] = ()
    files: Mapping[str, pandas.DataFrame] = field(default_factory=dict)


class Study:
    """A study's numbers, in the order that its settings give.

    Args:
        results: Rows as `load_results` gives them.
        settings: As in study.json.
        masks: Masks by source and sparsity.
    """

    def __init__(
        self, results: pandas.DataFrame, settings: Mapping[str, Any], masks: Mapping[str, Mapping[float, Mask]]
    ) -> None:
        self.results, self.settings, self.masks = results, settings, masks
        self.margin: float | None = settings.get("margin")
        self.trainings = finished_trainings(results)
        self.links = page.Links(self.trainings)

    @cached_property
    def sources(self) -> list[str]:
        """Names of the sources that trainings have."""
        return in_order(
            [name for name in self.trainings["source"] if name != SHARED], self.settings.get("sources") or ()
        )

    @cached_property
    def targets(self) -> list[str]:
        """Names of the targets that trainings have."""
        return in_order(self.trainings["target"], self.settings.get("targets") or ())

    @cached_property
    def controls(self) -> list[str]:
        """Names of what is compared with the dense model, the ticket first."""
        names = [name for name in self.trainings["control"] if name != DENSE]
        return in_order(names, [TICKET, *(self.settings.get("controls") or ())])

    @cached_property
    def sparsities(self) -> list[float]:
        """Sparsities that there are trainings of, ascending."""
        return sorted(set(self.trainings["wanted"][self.trainings["control"] != DENSE]))

    @cached_property
    def cells(self) -> pandas.DataFrame:
        """What `compare_cells` returns, in order of targets, sources and controls."""
        found = compare_cells(self.trainings, self.margin)
        orders = {"target": self.targets, "source": self.sources, "control": self.controls}
        keys = list(orders)
        return found.sort_values(
            [*keys, "wanted"],
            key=lambda column: column.map(_places(orders[column.name])) if column.name in orders else column,
        ).reset_index(drop=True)

    @cached_property
    def highest(self) -> pandas.DataFrame:
        """What `highest_table` returns, in order."""
        found = highest_table(self.trainings)
        keys = {"target": _places(self.targets), "source": _places(self.sources)}
        return found.sort_values(list(keys), key=lambda column: column.map(keys[column.name])).reset_index(drop=True)


def winning_section(study: Study) -> Section | None:
    """Table 2: each task's highest winning sparsity, dense model, ticket and controls."""
    table = table2(study.cells, study.highest)
    if table.empty:
        return None
    text = [
        "A ticket wins where the dense model's mean is at most one standard deviation of the ticket better than the "
        "ticket's mean (the papers' rule; it needs two seeds). Results are mean ± standard deviation over n seeds, at "
        "the highest winning sparsity, or else at the sparsity named; below it, where it is not the same, the range "
        "that leaving out any one seed gives.",
    ]
    parts = [Part(tables=[page.table2_page(table, study.controls, study.links)])]
    if (study.highest["source"] != study.highest["target"]).any() and len(study.sparsities) > 1:
        matrix = page.highest_page(study.highest, study.sources, study.targets)
        parts.append(Part("Highest winning sparsity of every source on every target", tables=[matrix]))
    return Section(
        "winning", "Winning tickets", text, parts, {"table2": table, "highest-winning": study.highest}
    )  # fmt: skip


def transfer_section(study: Study) -> Section | None:
    """Figure 2: the transfer matrix at each sparsity."""
    tickets = study.cells[study.cells["control"] == TICKET]
    if (tickets["source"] == tickets["target"]).all():
        return None
    parts, files = [], {}
    for wanted, folded in _folding([value for value in study.sparsities if value in set(tickets["wanted"])]):
        matrix = transfer_matrix(study.cells, wanted, study.sources)
        name, title = f"transfer-{_short(wanted)}", f"Transfer at {percent(wanted)} sparsity"
        figure = figures.transfer_figure(matrix, study.targets, title)
        heat = page.picture(name, f"{title}: result less the dense model's on the same target.", figure)
        table = page.transfer_page(matrix, study.targets, study.links)
        parts.append(Part(title, pictures=[heat], tables=[table], folded=folded))
        counts = dark_counts(matrix)
        files[name] = matrix.assign(dark_count=[counts[row][0] for row in matrix["row"]])
    text = [
        "Rows are where the mask comes from, columns what is trained with it. A number is the mean result less that of "
        "the dense model; below it, mean ± standard deviation.",
    ]
    if (tickets["source"] == tickets["target"]).any():
        text.append(
            "Cells with a frame are dark in the paper's sense: the source's ticket does at least as well as the "
            "target's own. The diagonal is not counted. The row of a control that depends on the ticket is that of the "
            "target's own."
        )
    return Section("transfer", "Transfer", text, parts, files)


def accuracy_section(study: Study) -> Section | None:
    """Results against remaining weights: sources on each target, and controls beside the ticket."""
    if len(study.sparsities) < 2:
        return None
    cells = study.cells
    metrics = dict(zip(cells["target"], cells["metric"], strict=True))
    pairs = list(study.highest[["source", "target"]].itertuples(index=False, name=None))
    same = [pair for pair in pairs if pair[0] == pair[1]] or pairs
    pictures = []
    tickets = figures.ticket_panels(cells, study.targets, study.sources[:_LINES])
    if tickets:
        dense = {target: figures.dense_levels(cells, study.sources, target) for target in tickets}
        figure = figures.curves_figure(tickets, metrics, dense)
        caption = "Tickets of every source, by target. Bands are one standard deviation; dashed, the dense model."
        pictures.append(page.picture("accuracy", caption, figure))
    named = {
        page.pair_name(*pair): curves for pair, curves in figures.control_panels(cells, same, study.controls).items()
    }
    if named:
        of_pair = {page.pair_name(*pair): metrics[pair[1]] for pair in same}
        levels = {page.pair_name(*pair): figures.dense_levels(cells, pair[:1], pair[1]) for pair in same}
        dense = {name: dict(zip([""], found.values(), strict=False)) for name, found in levels.items()}
        figure = figures.curves_figure(named, of_pair, dense)
        pictures.append(page.picture("controls", "Each ticket beside its controls.", figure))
    return Section("accuracy", "Results against remaining weights", (), [Part(pictures=pictures)]) if pictures else None


def controls_section(study: Study) -> Section | None:
    """Every subnetwork beside the dense model, with tests."""
    table = controls_table(study.cells)
    if table.empty:
        return None
    margin = ""
    if study.margin is not None:
        margin = (
            f" Equivalence is two one-sided Welch tests (TOST) at a margin of {study.margin:g} in the metric's unit: a "
            "small p says that the two differ by less than that; the last p, that the mask is not worse by that much."
        )
    text = [
        "Each mask beside the dense model on the same task: the difference of the means with its 95 % confidence "
        "interval, Welch's t-test (a small p says that the two differ), and Hedges' g, the difference in standard "
        f"deviations.{margin} With few seeds a large p proves nothing. No p is corrected for how many there are.",
    ]
    parts = [
        Part(
            f"At {percent(wanted)} sparsity",
            tables=[page.controls_page(table[table["wanted"] == wanted], study.links, study.margin)],
            folded=folded,
        )
        for wanted, folded in _folding(study.sparsities)
    ]
    return Section("controls", "Masks and controls beside the dense model", text, parts, {"controls": table})


def overlap_section(study: Study) -> Section | None:
    """How much the masks of the sources have in common."""
    parts, files = [], {}
    tables = overlap_tables(study.masks)
    for wanted, folded in _folding(list(tables)):
        pictures, page_tables = [], []
        for number, table in enumerate(tables[wanted], 1):
            name = f"overlap-{_short(wanted)}" + (f"-{number}" if number > 1 else "")
            title = f"Overlap of masks at {percent(wanted)} sparsity"
            pictures.append(page.picture(name, f"{title}.", overlap_figure(table, title)))
            page_tables.append(page.overlap_page(table))
            files[name] = table
        parts.append(Part(f"At {percent(wanted)} sparsity", (), pictures, page_tables, folded))
    text = [
        "Share of the weights kept by either mask that both keep, beside what masks drawn at random would share. Masks "
        "are compared on the layers that all of them have; those of other architectures are not compared.",
    ]
    return Section("overlap", "Overlap of masks", text, parts, files) if parts else None


def searches_section(study: Study) -> Section | None:
    """The rounds of every search on its own task."""
    results = study.results
    rounds = results[(results["kind"] == "search") & (results["status"] == "done") & results["value"].notna()]
    rounds = rounds.drop_duplicates(["key", "sparsity", "source"])
    if rounds.empty:
        return None
    panels: dict[str, list[figures.Curve]] = {}
    metrics = {}
    for (source, seed), found in rounds.groupby(["source", "seed"], sort=False):
        ordered = found.sort_values("sparsity")
        nothing = [float("nan")] * len(ordered)
        panels.setdefault(source, []).append(
            figures.Curve(f"seed {seed}", list(ordered["sparsity"]), list(ordered["value"]), nothing)
        )
        metrics[source] = str(ordered["metric"].iloc[0])
    order = in_order(panels, study.settings.get("sources") or ())
    figure = figures.curves_figure({name: panels[name] for name in order}, metrics, {})
    caption = "Result of each round of a search, on the source's own task; the first is the dense model."
    table = page.searches_page(rounds, study.links)
    return Section(
        "searches",
        "Searches",
        (),
        [Part(pictures=[page.picture("searches", caption, figure)]), Part("Every round", tables=[table], folded=True)],
        {"searches": rounds.drop(columns="metrics", errors="ignore")},
    )


def cost_section(study: Study) -> Section | None:
    """What the study cost."""
    table = cost_table(study.results)
    text = ["What is finished, in trainings, optimizer steps and minutes; work that cells share counts once."]
    if not table["trainings"].iloc[-1]:
        return None
    return Section("cost", "Cost", text, [Part(tables=[page.cost_page(table)])], {"cost": table})


def holes_section(study: Study) -> Section | None:
    """Cells without a result, and why; those that failed come first."""
    table = holes_table(study.results)
    if table.empty:
        return None
    failed = table["status"] != "waiting"
    parts = [
        Part(title, tables=[page.holes_page(rows, study.links)], folded=folded)
        for title, rows, folded in (
            (f"Failed, or not finished ({failed.sum()})", table[failed], False),
            (f"Not run yet ({(~failed).sum()})", table[~failed], (~failed).sum() > 20),
        )
        if not rows.empty
    ]
    return Section("holes", "What is missing", (), parts, {"holes": table})


def runs_section(study: Study) -> Section | None:
    """Every training, with a link to its folder."""
    runs = all_trainings(study.results)
    if runs.empty:
        return None
    parts = [
        Part(f"{target}: {runs_of['metric'].dropna().iloc[0] if runs_of['metric'].notna().any() else 'no result yet'}",
             tables=[page.runs_page(runs_of, study.links)], folded=True)
        for target, runs_of in _by_target(runs, study.targets)
    ]  # fmt: skip
    text = ["Results of all trainings by seed; each number leads to the folder of its run."]
    return Section("runs", "Runs", text, parts)


SECTIONS: Sequence[Callable[[Study], Section | None]] = (
    winning_section,
    transfer_section,
    accuracy_section,
    controls_section,
    overlap_section,
    searches_section,
    cost_section,
    holes_section,
    runs_section,
)


def _by_target(runs: pandas.DataFrame, targets: Sequence[str]) -> list[tuple[str, pandas.DataFrame]]:
    return [(target, runs[runs["target"] == target]) for target in in_order(runs["target"], targets)]


def _folding(sparsities: Sequence[float]) -> list[tuple[float, bool | None]]:
    """Say of each sparsity whether its part is folded: none where there are few, else all but the highest."""
    few = len(sparsities) <= _UNFOLDED
    return [(value, None if few else value != sparsities[-1]) for value in sparsities]


def _places(names: Sequence[str]) -> dict[str, int]:
    return {DENSE: -1, SHARED: len(names), **{name: place for place, name in enumerate(names)}}


def _short(sparsity: float) -> str:
    return f"{100 * sparsity:.4g}"
