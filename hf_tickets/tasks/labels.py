"""Labels of a dataset: which column, which classes, and what number each class has."""

import logging
import math
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from hf_tickets.errors import DataError
from hf_tickets.tasks.nearest import nearest

logger = logging.getLogger(__name__)

_UNUSED = -1  # the Hub's label of rows whose label is withheld


@dataclass(frozen=True)
class Labels:
    """The label space of a task.

    Attributes:
        dataset: name of the dataset, for messages.
        column: column that holds the labels.
        names: class names in the order of their numbers; empty for regression.
        ids: value in the column → class number.
        dropped: values whose rows are left out.
        stored: what the training split's own column calls its numbers, in their order.
    """

    dataset: str
    column: str
    names: tuple[str, ...]
    ids: dict[Any, int]
    dropped: frozenset[Any]
    stored: tuple[str, ...] = ()

    @property
    def regression(self) -> bool:
        return not self.names

    def encode(self, split: datasets.Dataset, split_name: str) -> tuple[np.ndarray, np.ndarray]:
        """Rows of a split that are used, and their labels: class numbers, or float32 values.

        Raises:
            DataError: a label is missing, is not a number in a regression task, or is of an unknown class.
        """
        values = column_values(split, self.column, self.dataset, split_name)
        own = tuple(getattr(split.features[self.column], "names", None) or ())
        if self.stored and own and own != self.stored:  # numbered in another order, or other classes
            values = [own[value] if value is not None and value >= 0 else value for value in values]
        if self.regression:
            numbers = [self._number(value, row, split_name) for row, value in enumerate(values)]
            return np.arange(len(values)), np.asarray(numbers, dtype=np.float32)
        rows, ids, unused = [], [], 0
        for row, value in enumerate(values):
            if value in self.ids:
                rows.append(row)
                ids.append(self.ids[value])
            elif value in self.dropped:
                unused += value == _UNUSED
            else:
                raise DataError(
                    f"dataset {self.dataset}, split {split_name}, row {row}: column {self.column} holds "
                    f"{value!r}, which is not a class of the training split; {nearest(value, self.names)}"
                )
        if unused:
            logger.warning(
                "dataset %s, split %s: %d rows without a label (%d) are left out",
                self.dataset,
                split_name,
                unused,
                _UNUSED,
            )
        if not rows:
            raise DataError(f"dataset {self.dataset}: split {split_name} has no row with a label to use")
        return np.asarray(rows), np.asarray(ids, dtype=np.int64)

    def _number(self, value: Any, row: int, split_name: str) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DataError(
                f"dataset {self.dataset}, split {split_name}, row {row}: "
                f"column {self.column} holds {value!r}, not a finite number; regression needs one"
            )
        return float(value)


def find_labels(
    split: datasets.Dataset,
    split_name: str,
    dataset: str,
    column: str,
    regression: bool | None = None,
    names: tuple[str, ...] | None = None,
    keep: list[str | int] | None = None,
) -> Labels:
    """The label space of a dataset, from its training split.

    Args:
        split: the training split.
        split_name: its name, for messages.
        dataset: the dataset's name, for messages.
        column: the label column.
        regression: None: if the labels are floats.
        names: class names known beforehand (the column then holds numbers or these names).
        keep: classes to keep, by name or value, numbered in this order.

    Raises:
        DataError: labels of a kind that no class can be made of, or an unknown class in `keep`.
    """
    feature = split.features[column]
    if regression is None:
        regression = names is None and str(getattr(feature, "dtype", "")).startswith(("float", "double"))
    if regression:
        if keep is not None:
            raise DataError(f"dataset {dataset}, column {column}: labels chooses classes, but this is regression")
        return Labels(dataset, column, (), {}, frozenset())
    stored = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else ()
    if names is None and stored:
        names = stored
    if names is not None:
        # a ClassLabel column yields numbers; the same task from a text file may hold the names
        by_value: dict[Any, int] = {name: i for i, name in enumerate(names)}
        by_value.update({i: i for i in range(len(names))})
        unused = frozenset({_UNUSED})
    else:
        values = _distinct(column_values(split, column, dataset, split_name), dataset, split_name, column)
        names = tuple(str(int(value) if isinstance(value, float) else value) for value in values)
        by_value = {value: i for i, value in enumerate(values)}
        unused = frozenset()
    if keep is None:
        kept = list(range(len(names)))
    else:
        kept = [_class_number(wanted, names, by_value, dataset, column) for wanted in keep]
        if len(set(kept)) != len(kept) or not kept:
            raise DataError(f"dataset {dataset}, column {column}: labels must be different classes, not {keep}")
    position = {number: i for i, number in enumerate(kept)}
    return Labels(
        dataset=dataset,
        column=column,
        names=tuple(names[number] for number in kept),
        ids={value: position[number] for value, number in by_value.items() if number in position},
        dropped=unused | {value for value, number in by_value.items() if number not in position},
        stored=stored,
    )


def column_values(split: datasets.Dataset, column: str, dataset: str, split_name: str) -> list[Any]:
    """One column as Python values.

    Raises:
        DataError: the split has no such column.
    """
    require_column(split, column, dataset, split_name)
    values: list[Any] = split.select_columns([column])[:][column]
    return values


def require_column(split: datasets.Dataset, column: str, dataset: str, split_name: str) -> None:
    """Refuse a column that a split does not have.

    Raises:
        DataError: names the dataset, the split and its columns.
    """
    if column not in split.column_names:
        raise DataError(
            f"dataset {dataset}, split {split_name}: no column {column}; {nearest(column, split.column_names)}"
        )


def label_column(split: datasets.Dataset, wanted: str | None, dataset: str, split_name: str) -> str:
    """The label column: the one asked for, `label`, `labels`, or the only column of classes.

    Raises:
        DataError: there is no such column, or no telling which it is.
    """
    if wanted is None:
        classes = [name for name, feature in split.features.items() if isinstance(feature, datasets.ClassLabel)]
        usual = [name for name in ("label", "labels") if name in split.column_names]
        wanted = next(iter(usual), classes[0] if len(classes) == 1 else None)
    if wanted is None:
        raise DataError(
            f"dataset {dataset}: which column holds the labels? set label_column; "
            f"{nearest('label', split.column_names)}"
        )
    require_column(split, wanted, dataset, split_name)
    return wanted


def _distinct(values: list[Any], dataset: str, split_name: str, column: str) -> list[Any]:
    kind = type(values[0]) if values[0] is not None else str
    for row, value in enumerate(values):
        whole = isinstance(value, (str, int)) or (isinstance(value, float) and value.is_integer())
        if not whole or type(value) is not kind:
            raise DataError(
                f"dataset {dataset}, split {split_name}, row {row}: column {column} holds {value!r}; "
                "a class label is a text or a whole number, the same kind in every row"
            )
    distinct = sorted(set(values))
    if len(distinct) < 2:
        raise DataError(f"dataset {dataset}, column {column}: every label is {distinct[0]!r}, nothing to learn")
    return distinct


def _class_number(
    wanted: str | int, names: tuple[str, ...], by_value: dict[Any, int], dataset: str, column: str
) -> int:
    # by name first: a dataset's names may be digits, as in "labels: [3, 5]" for digits or for years
    if str(wanted) in names:
        return names.index(str(wanted))
    if wanted in by_value:
        return by_value[wanted]
    raise DataError(f"dataset {dataset}, column {column}: no label {wanted!r}; {nearest(wanted, names)}")
