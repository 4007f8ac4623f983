"""Results of a study by cell, each beside the dense model: who wins, what transfers, and up to which sparsity."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas

from hf_tickets.studies.statistics import compare, summarize, winning

DENSE, TICKET = "dense", "ticket"
CELL = ["source", "target", "control", "wanted"]
SHARED = ""  # the source of what belongs to no source, such as a dense training


@dataclass(frozen=True)
class HighestWinning:
    """The highest sparsity at which a ticket wins, and how far one seed moves it.

    Args:
        sparsity: That sparsity; 0 where no ticket wins, NaN where no verdict is possible.
        low: The least that it becomes with any one seed left out; NaN with fewer than three seeds.
        high: The most.
        n: Seeds that dense model and tickets share.
    """

    sparsity: float
    low: float
    high: float
    n: int


def all_trainings(results: pandas.DataFrame) -> pandas.DataFrame:
    """Return the trainings of a study, each once, with the source "" where it belongs to none.

    A training that several sources share, such as one from a mask that does not depend on the ticket, belongs to none;
    so does the dense training on a target, unless sources that start from other weights have one each.

    Args:
        results: Rows as `load_results` gives them: kind, source, target, control, wanted, seed, value,
            greater_is_better, status, key and more.
    """
    rows = results[results["kind"] == "training"].copy()
    for name in ("value", "wanted"):
        rows[name] = pandas.to_numeric(rows[name]).astype(float)
    rows["source"] = rows["source"].astype(object).where(rows["source"].notna(), SHARED)
    of_key = rows.groupby(["key", "target", "control"])["source"].transform("nunique")
    of_target = rows.groupby(["target", "control"])["source"].transform("nunique")
    is_dense = rows["control"] == DENSE
    shared = ((of_key > 1) & (rows["control"] != TICKET)) | (is_dense & (of_target == 1))
    rows.loc[shared, "source"] = SHARED
    return rows.drop_duplicates([*CELL, "seed", "key"]).reset_index(drop=True)


def finished_trainings(results: pandas.DataFrame) -> pandas.DataFrame:
    """Return those of `all_trainings` that have a result.

    Args:
        results: Rows as `load_results` gives them.
    """
    rows = all_trainings(results)
    return rows[(rows["status"] == "done") & rows["value"].notna()].reset_index(drop=True)


def compare_cells(trainings: pandas.DataFrame, margin: float | None = None) -> pandas.DataFrame:
    """Summarise the seeds of every cell and compare it with the dense model on the same target.

    Args:
        trainings: What `finished_trainings` returned.
        margin: Of the equivalence test, in the metric's unit; None leaves it out.

    Returns:
        A row a cell: source, target, control, wanted, metric, greater_is_better, mean, std, n, winning (True, False, or
        None without a verdict), and the fields of `Comparison`; those are NaN for the dense model itself.
    """
    rows = []
    for cell, measured in trainings.groupby(CELL, sort=False):
        source, target, control, _ = cell
        greater = bool(measured["greater_is_better"].iloc[0])
        found, level = summarize(measured["value"]), summarize(dense_of(trainings, source, target)["value"])
        against = summarize([]) if control == DENSE else level
        rows.append(
            {
                **dict(zip(CELL, cell, strict=True)),
                "metric": measured["metric"].iloc[0],
                "greater_is_better": greater,
                **asdict(found),
                "winning": winning(found, against, greater),
                **asdict(compare(found, against, margin, greater)),
            }
        )
    return pandas.DataFrame(rows, columns=_COLUMNS).astype({"winning": object})


def highest_winning(trainings: pandas.DataFrame, source: str, target: str, control: str = TICKET) -> HighestWinning:
    """Return the highest sparsity at which a source's ticket wins on a target.

    Its uncertainty is the range over leaving out one seed at a time, of dense model and tickets alike. Bootstrapping
    over three to five seeds would mostly draw seeds twice, which shrinks the deviation that the rule measures by.

    Args:
        trainings: What `finished_trainings` returned.
        source: Name of the source.
        target: Name of the target.
        control: Name of the control.
    """
    dense = dense_of(trainings, source, target)
    tickets = trainings[_is(trainings, source, target, control)]
    seeds = sorted(set(dense["seed"]) & set(tickets["seed"]))
    without = [
        _highest_winning(tickets[tickets["seed"] != seed], dense[dense["seed"] != seed])
        for seed in (seeds if len(seeds) > 2 else ())
    ]
    known = [value for value in without if not math.isnan(value)]
    return HighestWinning(
        _highest_winning(tickets, dense), min(known, default=math.nan), max(known, default=math.nan), len(seeds)
    )


def dense_of(rows: pandas.DataFrame, source: str, target: str) -> pandas.DataFrame:
    """Return the rows of the dense model that a source's tickets on a target are measured against.

    Args:
        rows: Rows with source, target and control.
        source: Name of the source.
        target: Name of the target.
    """
    own = rows[_is(rows, source, target, DENSE)]
    return rows[_is(rows, SHARED, target, DENSE)] if own.empty else own


def transfer_matrix(cells: pandas.DataFrame, wanted: float, sources: Sequence[str] = ()) -> pandas.DataFrame:
    """Return TRANSFER(S, T) less the dense model on T, and which cells are dark (BERT tickets, figure 2).

    A cell is dark where the source's ticket does at least as well as the target's own: TRANSFER(S, T) ≥
    TRANSFER(T, T).

    Args:
        cells: What `compare_cells` returned.
        wanted: The sparsity.
        sources: Order of the rows; others follow.

    Returns:
        A row a cell: row (the source, or the control where it has none or stands for the target's own), source,
        target, control, wanted, metric, greater_is_better, mean, std, n, difference, winning, and dark (None on the
        diagonal, and where the target has no ticket of its own).
    """
    here = cells[cells["wanted"] == wanted]
    tickets = here[here["control"] == TICKET]
    own = tickets[tickets["source"] == tickets["target"]].set_index("target")["mean"].to_dict()
    order = [*dict.fromkeys([*sources, *tickets["source"]])]
    rows = tickets.assign(row=tickets["source"]).sort_values("row", key=lambda names: names.map(order.index))
    others = here[(here["control"] != TICKET) & here["source"].isin([SHARED])]
    others = pandas.concat([others, here[(here["control"] != TICKET) & (here["source"] == here["target"])]])
    others = others.assign(row=others["control"]).drop_duplicates(["row", "target"])
    matrix = pandas.concat([rows, others], ignore_index=True)
    matrix["dark"] = [_is_dark(row, own) for row in matrix.to_dict("records")]
    matrix["dark"] = matrix["dark"].astype(object)
    return matrix[_MATRIX]


def dark_counts(matrix: pandas.DataFrame) -> dict[str, tuple[int, int]]:
    """Count the dark cells of each row, and the cells that could be dark.

    The diagonal is not counted: there a ticket is compared with itself.

    Args:
        matrix: What `transfer_matrix` returned.

    Returns:
        (dark, of how many) by row.
    """
    return {
        row: (sum(value is True for value in cells), sum(value is not None for value in cells))
        for row, cells in matrix.groupby("row", sort=False)["dark"]
    }


def _is_dark(cell: Mapping[Any, Any], own: Mapping[str, float]) -> bool | None:
    same = cell["control"] == TICKET and cell["source"] == cell["target"]
    if same or cell["target"] not in own:
        return None
    ahead = (cell["mean"] - own[cell["target"]]) * (1 if cell["greater_is_better"] else -1)
    return bool(ahead >= 0)


def _highest_winning(tickets: pandas.DataFrame, dense: pandas.DataFrame) -> float:
    """Return the highest sparsity that wins; 0 where none does, NaN where no verdict is possible."""
    level = summarize(dense["value"])
    verdicts = {
        float(wanted): winning(summarize(rows["value"]), level, bool(rows["greater_is_better"].iloc[0]))
        for wanted, rows in tickets.groupby("wanted")
    }
    judged = [wanted for wanted, verdict in verdicts.items() if verdict is not None]
    return max((wanted for wanted in judged if verdicts[wanted]), default=0.0) if judged else math.nan


def _is(rows: pandas.DataFrame, source: str, target: str, control: str) -> "pandas.Series":
    return (rows["source"] == source) & (rows["target"] == target) & (rows["control"] == control)


_COLUMNS = [
    *CELL,
    *("metric", "greater_is_better", "mean", "std", "n", "winning", "difference", "low", "high", "p"),
    *("g", "g_low", "g_high", "p_equivalent", "p_not_inferior"),
]
_MATRIX = ["row", *CELL, "metric", "greater_is_better", "mean", "std", "n", "difference", "winning", "dark"]
