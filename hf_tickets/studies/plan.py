"""The cells of a study, and what each of its results is read from, as plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_tickets.studies.study_cell import StudyCell


@dataclass(frozen=True)
class Measurement:
    """One result of a study: a round of a search, or a training on a target.

    Args:
        kind: "search" or "training".
        source: Name of the source; None for a dense training that all share.
        target: Name of the target; None for a search.
        control: Name in CONTROLS.
        sparsity: As scheduled; 0 for dense.
        wanted: The study's sparsity that it stands for; None for rounds of a search.
        seed: Seed of the training.
        search_seed: Seed of the search; None for dense.
        cell: Key of the cell that it is read from.
        round: Round of the search that it is read from; None where the cell is one training.
    """

    kind: str
    source: str | None
    target: str | None
    control: str
    sparsity: float
    wanted: float | None
    seed: int
    search_seed: int | None
    cell: str
    round: int | None = None


@dataclass(frozen=True)
class Plan:
    """What a study runs and measures.

    Args:
        settings: What the study recipe says, as plain values.
        cells: Key → cell; a cell stands after those that it needs.
        measurements: The results.
    """

    settings: dict[str, Any]
    cells: dict[str, StudyCell] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return {
            "settings": self.settings,
            "cells": [cell.to_dict() for cell in self.cells.values()],
            "measurements": [asdict(measurement) for measurement in self.measurements],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Plan":
        """Return the plan that `to_dict` described."""
        cells = map(StudyCell.from_dict, values["cells"])
        measurements = [Measurement(**measurement) for measurement in values["measurements"]]
        return cls(values["settings"], {cell.key: cell for cell in cells}, measurements)
