"""Which columns of a dataset hold texts."""

import datasets

from hf_tickets.errors import DataError
from hf_tickets.tasks.nearest import nearest


def guess_text_columns(split: datasets.Dataset, label: str | None, dataset: str) -> list[str]:
    """The column `text`, or the only column of texts.

    Args:
        split: the training split.
        label: a column that is not meant.
        dataset: the dataset's name, for messages.

    Raises:
        DataError: there is no such column, or no telling which it is.
    """
    texts = [
        name
        for name, feature in split.features.items()
        if name != label and getattr(feature, "dtype", None) in ("string", "large_string")
    ]
    if "text" in texts:
        return ["text"]
    if len(texts) != 1:
        raise DataError(
            f"dataset {dataset}: which columns hold the text? set text_columns; {nearest('text', split.column_names)}"
        )
    return texts
