"""The tags of words: which column, which tags, and what number each has."""

from dataclasses import dataclass
from typing import Any

import datasets

from hf_tickets.errors import DataError
from hf_tickets.tasks.labels import column_values, require_column
from hf_tickets.tasks.nearest import nearest

_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "labels")


@dataclass(frozen=True)
class Tags:
    """The tags of a task.

    Attributes:
        names: the tags in the order of their numbers.
        column: the column that holds a tag for each word.
    """

    names: tuple[str, ...]
    column: str

    def encode(self, values: list[Any], stored: tuple[str, ...], where: str) -> list[int]:
        """The numbers of one row's tags.

        Args:
            values: the row's tags: names, or numbers.
            stored: what the split's own column calls its numbers; empty where it does not say.
            where: dataset, split and row, for the message.

        Raises:
            DataError: one of them is not among the task's.
        """
        numbers = []
        for value in values:
            # numbers without names are the task's own
            names = stored or self.names
            known = isinstance(value, int) and 0 <= value < len(names)
            name = names[value] if known else value
            if name not in self.names:
                raise DataError(
                    f"{where}: column {self.column} holds {name!r}, which is not a tag of the training split, or "
                    f"not in labels; {nearest(name, self.names)}"
                )
            numbers.append(self.names.index(name))
        return numbers


def stored_names(split: datasets.Dataset, column: str) -> tuple[str, ...]:
    """What a column of sequences of numbers calls them; nothing where it does not say."""
    inner = getattr(split.features[column], "feature", None)
    return tuple(inner.names or ()) if isinstance(inner, datasets.ClassLabel) else ()


def find_tags(
    split: datasets.Dataset, split_name: str, dataset: str, column: str, wanted: list[str | int] | None
) -> Tags:
    """The tags of a dataset, from its training split.

    Args:
        split: the training split.
        split_name: its name, for messages.
        dataset: the dataset's name, for messages.
        column: the column of tags.
        wanted: all tags in the order of their numbers; by default as the column names them, or sorted.

    Raises:
        DataError: the column holds something else than lists of names or of numbers.
    """
    if wanted is not None:
        if len(set(wanted)) != len(wanted):
            raise DataError(f"labels: {wanted} names a tag twice")
        return Tags(tuple(str(tag) for tag in wanted), column)
    names = stored_names(split, column)
    if names:
        return Tags(names, column)
    found: set[Any] = set()
    for row, values in enumerate(column_values(split, column, dataset, split_name)):
        if not isinstance(values, list):
            raise DataError(f"dataset {dataset}, split {split_name}, row {row}: column {column} holds no list of tags")
        found.update(values)
    kinds = {type(value) for value in found}
    if kinds == {int} and min(found) >= 0:
        return Tags(tuple(str(number) for number in range(max(found) + 1)), column)
    if kinds != {str}:
        raise DataError(
            f"dataset {dataset}, split {split_name}: column {column} holds no tags; a tag is a text, or a number of "
            "0 or more, the same kind in every row"
        )
    return Tags(tuple(sorted(found)), column)


def find_columns(
    split: datasets.Dataset, words: str | None, tags: str | None, dataset: str, split_name: str
) -> tuple[str, str]:
    """The columns of words and of their tags: those asked for, usual names, or the only ones.

    Raises:
        DataError: there are no such columns, or no telling which they are.
    """
    lists = {
        name: feature.feature
        for name, feature in split.features.items()
        if isinstance(feature, (datasets.List, datasets.LargeList))
    }
    if tags is None:
        classes = [name for name, inner in lists.items() if isinstance(inner, datasets.ClassLabel)]
        tags = next((name for name in _TAGS if name in lists), classes[0] if len(classes) == 1 else None)
    if words is None:
        texts = [name for name, inner in lists.items() if name != tags and inner.dtype in ("string", "large_string")]
        words = next((name for name in _WORDS if name in texts), texts[0] if len(texts) == 1 else None)
    for column, kind, key in ((words, "words", "text_columns"), (tags, "tags", "label_column")):
        if column is None:
            raise DataError(
                f"dataset {dataset}: which column holds the {kind}? set {key}; {nearest(kind, split.column_names)}"
            )
        require_column(split, column, dataset, split_name)
        if column not in lists:
            raise DataError(f"dataset {dataset}, split {split_name}: column {column} holds no lists of {kind}")
    return str(words), str(tags)
