"""Tables of a study: the papers' layouts, controls, overlap of masks, cost, and what is missing."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas

from hf_tickets.analysis.overlap import mask_overlap
from hf_tickets.pruning.mask import Mask
from hf_tickets.studies.comparisons import DENSE, SHARED, TICKET, highest_winning

_COMMON = 0.9  # of its weights that a mask must have in common with another to be compared with it


def in_order(names: Iterable[str], first: Iterable[str]) -> list[str]:
    """Return names without repeats: those in `first` as there, the others as they come.

    Args:
        names: Names that there are.
        first: Names in the wanted order; more than there are do no harm.
    """
    present = list(dict.fromkeys(names))
    return list(dict.fromkeys([*[name for name in first if name in present], *present]))


def highest_table(trainings: pandas.DataFrame) -> pandas.DataFrame:
    """Return the highest winning sparsity of every source on every target.

    Args:
        trainings: What `finished_trainings` returned.

    Returns:
        A row a pair: source, target, and the fields of `HighestWinning`.
    """
    pairs = trainings[trainings["control"] == TICKET][["source", "target"]].drop_duplicates()
    rows = [
        {"source": source, "target": target, **vars(highest_winning(trainings, source, target))}
        for source, target in pairs.itertuples(index=False)
    ]
    return pandas.DataFrame(rows, columns=["source", "target", "sparsity", "low", "high", "n"])


def table2(cells: pandas.DataFrame, highest: pandas.DataFrame) -> pandas.DataFrame:
    """Lay results out as BERT tickets, table 2: each task's highest winning sparsity, and the controls there.

    Args:
        cells: What `compare_cells` returned.
        highest: What `highest_table` returned.

    Returns:
        A row a task, or a pair where no source has a target's name: source, target, metric, sparsity, low, high (as in
        `HighestWinning`), shown (the sparsity whose results follow: the highest that wins, else the lowest there is),
        and control, mean, std, n, winning; one row for each control, with the dense model first.
    """
    same = highest[highest["source"] == highest["target"]]
    rows = []
    for pair in (highest if same.empty else same).to_dict("records"):
        here = cells[(cells["target"] == pair["target"]) & cells["source"].isin([pair["source"], SHARED])]
        shown = pair["sparsity"] if pair["sparsity"] > 0 else here[here["control"] == TICKET]["wanted"].min()
        of_sparsity = here[(here["control"] == DENSE) | (here["wanted"] == shown)]
        of_sparsity = of_sparsity.sort_values("control", key=lambda names: names != DENSE, kind="stable")
        for cell in of_sparsity.drop_duplicates("control").to_dict("records"):
            told = {name: cell[name] for name in ("metric", "control", "mean", "std", "n", "winning")}
            rows.append({**{name: pair[name] for name in _PAIR}, "shown": shown, **told})
    return pandas.DataFrame(rows, columns=[*_PAIR, "shown", "metric", "control", "mean", "std", "n", "winning"])


def controls_table(cells: pandas.DataFrame) -> pandas.DataFrame:
    """Return every subnetwork on its own task, or on every task where no source has a target's name.

    Args:
        cells: What `compare_cells` returned.

    Returns:
        The rows of `compare_cells` that are not dense, in the order of sparsities and targets.
    """
    subnetworks = cells[cells["control"] != DENSE]
    own = (subnetworks["source"] == subnetworks["target"]) | (subnetworks["source"] == SHARED)
    matched = (subnetworks["source"] == subnetworks["target"]).any()
    chosen = subnetworks[own] if matched else subnetworks
    targets = list(dict.fromkeys(cells["target"]))
    return chosen.sort_values(
        ["wanted", "target"], key=lambda column: column.map(targets.index) if column.name == "target" else column
    )


def cost_table(results: pandas.DataFrame) -> pandas.DataFrame:
    """Return what a study cost, by kind of its cells; work that several cells share counts once.

    Args:
        results: Rows as `load_results` gives them.

    Returns:
        A row a kind: what ("search", or the control that was trained), trainings, steps, minutes; "total" last.
    """
    done = results[results["status"] == "done"]
    searches_first = done.sort_values("kind", key=lambda kinds: kinds != "search", kind="stable")
    once = searches_first.drop_duplicates(["key", "sparsity"])  # a training that is a round of a search is that round
    once = once.assign(
        what=once["kind"].where(once["kind"] != "training", once["control"]),
        steps=pandas.to_numeric(once["steps"]),
        minutes=pandas.to_numeric(once["seconds"]) / 60,
    )
    grouped = once.groupby("what", sort=False)
    table = grouped.agg(trainings=("key", "size"), steps=("steps", "sum"), minutes=("minutes", "sum")).reset_index()
    total = {"what": "total", **table[["trainings", "steps", "minutes"]].sum().to_dict()}
    table = pandas.concat([table, pandas.DataFrame([total])], ignore_index=True)
    return table.astype({"trainings": int, "steps": int})


def holes_table(results: pandas.DataFrame) -> pandas.DataFrame:
    """Return the cells without a result, and why.

    Args:
        results: Rows as `load_results` gives them.

    Returns:
        A row a cell: kind, source, target, control, wanted, seed, status, reason, folder, key.
    """
    missing = (results["status"] != "done") | results["value"].isna()
    rows = results[missing].drop_duplicates(["kind", "key", "source", "target", "control", "wanted"])
    rows = rows[(rows["kind"] != "search") | ~rows.duplicated(["kind", "key"])]  # a search, not each of its rounds
    reasons = [_reason(row) for row in rows.to_dict("records")]
    columns = ["kind", "source", "target", "control", "wanted", "seed", "status", "reason", "folder", "key"]
    return rows.assign(reason=reasons)[columns].reset_index(drop=True)


def overlap_tables(masks: Mapping[str, Mapping[float, Mask]]) -> dict[float, list[pandas.DataFrame]]:
    """Compare the sources' masks at every sparsity, on the layers that they have in common.

    A model without a pooler, say, is compared with one that has it on all other layers; masks that have less than nine
    tenths of their weights in common, as of other architectures, are not compared.

    Args:
        masks: Masks by source and sparsity.

    Returns:
        Tables of `mask_overlap` by sparsity, one for each set of masks that can be compared.
    """
    tables: dict[float, list[pandas.DataFrame]] = {}
    for wanted in sorted({wanted for rungs in masks.values() for wanted in rungs}):
        groups: list[dict[str, Mask]] = []
        for source, rungs in masks.items():
            if wanted not in rungs:
                continue
            group = next((group for group in groups if _alike(rungs[wanted], next(iter(group.values())))), None)
            if group is None:
                groups.append({source: rungs[wanted]})
            else:
                group[source] = rungs[wanted]
        found = [mask_overlap(_on_common_layers(group)) for group in groups if len(group) > 1]
        if found:
            tables[wanted] = found
    return tables


def _reason(row: Mapping[Any, Any]) -> str:
    if isinstance(row["error"], str) and row["error"]:
        return row["error"]
    reasons = {"done": "its result is not a number", "running": "still running", "waiting": "not run yet"}
    return reasons.get(row["status"], "no reason was left")


def _alike(first: Mask, second: Mask) -> bool:
    common = sum(math.prod(shape) for name, shape in first.shapes.items() if second.shapes.get(name) == shape)
    return common >= _COMMON * max(first.numel, second.numel)


def _on_common_layers(masks: Mapping[str, Mask]) -> dict[str, Mask]:
    shapes: Sequence[Mapping[str, tuple[int, ...]]] = [mask.shapes for mask in masks.values()]
    common = [name for name in shapes[0] if all(other.get(name) == shapes[0][name] for other in shapes)]
    return {source: Mask({name: mask[name] for name in common}) for source, mask in masks.items()}


_PAIR = ["source", "target", "sparsity", "low", "high"]
