"""Where a task's data comes from: the Hub, a local folder or file, or scikit-learn's digits."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from hf_tickets.errors import DataError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.nearest import nearest

DIGITS = "sklearn/digits"
_FILE_FORMATS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".txt": "text",
}
# a line's end is part of a text
_OPTIONS: dict[str, dict[str, Any]] = {".tsv": {"sep": "\t"}, ".txt": {"keep_linebreaks": True}}
# what datasets raises for data that it cannot reach or parse
_READ_ERRORS = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    datasets.exceptions.DatasetsError,
)


@dataclass(frozen=True)
class Source:
    """The splits of a dataset, and the name that messages and provenance give it (no local path)."""

    name: str
    config: str | None
    splits: datasets.DatasetDict

    def split(self, wanted: str | None, defaults: tuple[str, ...], key: str) -> tuple[str, datasets.Dataset]:
        """One split by name or slice (`train[:90%]`, `train+test`), or the first default that exists.

        Args:
            wanted: what the recipe says, or None.
            defaults: names to try in this order when it says nothing.
            key: recipe key, for the message.

        Raises:
            DataError: no such split, or it is empty.
        """
        if wanted is None:
            wanted = next((name for name in defaults if name in self.splits), None)
        if wanted is None:
            only = next(iter(self.splits))
            raise DataError(
                f"dataset {self.name} has no split {' or '.join(defaults)}; "
                f"{nearest(defaults[0], self.splits)}; "
                f"set {key}, to a slice such as {only}[90%:] if there is but one split"
            )
        if wanted in self.splits:
            chosen = self.splits[wanted]
        else:
            chosen = self._slice(wanted, key)
        if len(chosen) == 0:
            raise DataError(f"dataset {self.name}: {key} {wanted} has no rows")
        return wanted, chosen

    def _slice(self, wanted: str, key: str) -> datasets.Dataset:
        lengths = {name: len(split) for name, split in self.splits.items()}
        try:
            parts = datasets.ReadInstruction.from_spec(wanted).to_absolute(lengths)
        except (ValueError, AssertionError) as error:
            base = wanted.partition("[")[0]
            problem = f"no split {base}; {nearest(base, lengths)}" if base not in lengths else f"no split {wanted}"
            raise DataError(f"dataset {self.name} has {problem}; mend {key}") from error
        ranges = [(self.splits[part.splitname], range(part.from_, part.to)) for part in parts]
        pieces = [split.select(rows) for split, rows in ranges if len(rows)]
        if not pieces:
            raise DataError(f"dataset {self.name}: {key} {wanted} has no rows")
        return datasets.concatenate_datasets(pieces) if len(pieces) > 1 else pieces[0]


def load_source(config: TaskConfig, folder_for: str | None = None) -> Source:
    """Load every split of the configured dataset.

    Args:
        config: the task.
        folder_for: a GLUE task: the configuration to take on the Hub, and the sub-folder to take locally.

    Raises:
        DataError: the dataset cannot be found, reached or read.
    """
    if config.dataset is None:
        raise DataError("no dataset: set dataset to a Hub id, a local folder or file, or sklearn/digits")
    if config.dataset == DIGITS:
        return Source(DIGITS, None, _digits())
    path = Path(config.dataset).expanduser()
    if path.is_file():
        return Source(path.name, None, _load_file(path))
    if path.is_dir():
        folder = path if folder_for is None else _task_folder(path, folder_for)
        name = path.resolve().name if folder is path else f"{path.resolve().name}/{folder.name}"
        return Source(name, config.dataset_config, _load(folder, name, config.dataset_config))
    if path.is_absolute() or config.dataset.startswith((".", "~")) or config.dataset.count("/") > 1:
        raise DataError(f"dataset {config.dataset}: there is no such file or folder")
    dataset_config = config.dataset_config or folder_for
    splits = _load(config.dataset, config.dataset, dataset_config, config.dataset_revision)
    return Source(config.dataset, dataset_config, splits)


def sample(rows: np.ndarray, maximum: int | None) -> np.ndarray:
    """At most `maximum` of these rows, drawn at random but always the same ones, in their order."""
    if maximum is None or len(rows) <= maximum:
        return rows
    return np.sort(np.random.default_rng(0).choice(rows, size=maximum, replace=False))


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or of its cause's where the error only says that it failed."""
    if isinstance(error, datasets.exceptions.DatasetGenerationError) and error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _load(source: str | Path, name: str, config: str | None, revision: str | None = None) -> datasets.DatasetDict:
    try:
        if isinstance(source, Path) and any(
            (source / marker).exists() for marker in ("dataset_dict.json", "state.json")
        ):
            loaded = datasets.load_from_disk(str(source))
        else:
            files = _mnli_files(source) if isinstance(source, Path) and config is None else None
            options = _OPTIONS[".txt"] if isinstance(source, Path) and _only_texts(source) else {}
            loaded = datasets.load_dataset(str(source), config, revision=revision, data_files=files, **options)
    except ConnectionError as error:
        if datasets.config.HF_HUB_OFFLINE:
            raise DataError(
                f"dataset {name} is neither a folder here nor in the cache, and HF_HUB_OFFLINE keeps from the Hub: "
                "unset it, or set dataset to a local folder"
            ) from error
        raise DataError(
            f"dataset {name}: the Hub cannot be reached ({one_line(error)}): set dataset to a local folder; where it "
            "was downloaded before, HF_HUB_OFFLINE=1 takes it from the cache"
        ) from error
    except _READ_ERRORS as error:
        raise DataError(f"dataset {name} cannot be read: {one_line(error)}") from error
    return loaded if isinstance(loaded, dict) else datasets.DatasetDict(train=loaded)


def _load_file(path: Path) -> datasets.DatasetDict:
    if path.suffix.lower() not in _FILE_FORMATS:
        raise DataError(f"dataset {path.name}: not a format that can be read; {nearest(path.suffix, _FILE_FORMATS)}")
    kind = path.suffix.lower()
    try:
        return datasets.load_dataset(_FILE_FORMATS[kind], data_files=str(path), **_OPTIONS.get(kind, {}))
    except _READ_ERRORS as error:
        raise DataError(f"dataset {path.name} cannot be read: {one_line(error)}") from error


def _task_folder(folder: Path, task: str) -> Path:
    if (folder / task).is_dir():
        return folder / task
    subfolders = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != ".")
    has_files = any(entry.suffix.lower() in _FILE_FORMATS for entry in folder.iterdir())
    parts = ("data", "default", "train", "validation", "dev", "test")
    # a folder of datasets, none of which is this task's: reading them all as one would mix tasks
    if subfolders and not has_files and not any(name.startswith(parts) for name in subfolders):
        raise DataError(f"dataset folder {folder.name} has no sub-folder {task}; {nearest(task, subfolders)}")
    return folder


def _mnli_files(folder: Path) -> dict[str, list[str]] | None:
    """The files of each split where MNLI's two validation sets lie side by side.

    From file names alone, datasets would read both as one split, `validation`.
    """
    files: dict[str, list[str]] = {}
    for entry in sorted(folder.iterdir()):
        if entry.suffix.lower() in _FILE_FORMATS:
            split = re.sub(r"-\d{5}-of-\d{5}$", "", entry.stem)
            files.setdefault(split, []).append(entry.name)
    return files if {"train", "validation_matched", "validation_mismatched"} <= files.keys() else None


def _only_texts(folder: Path) -> bool:
    """Whether the data files of a folder are all plain text."""
    kinds = {entry.suffix.lower() for entry in folder.rglob("*") if entry.is_file()}
    return kinds & _FILE_FORMATS.keys() == {".txt"}


def _digits() -> datasets.DatasetDict:
    """scikit-learn's 1,797 handwritten digits, 8×8 pixels of 16 grey levels; a quarter is the test split."""
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=[str(digit) for digit in range(10)])
    )
    greys = np.round(digits.images * (255 / 16)).astype(np.uint8)
    # the split is part of the data: the same for every seed
    train, test = train_test_split(np.arange(len(greys)), test_size=0.25, random_state=0, stratify=digits.target)
    return datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict(
                {"image": [Image.fromarray(greys[i]) for i in rows], "label": digits.target[rows]},
                features=features,
            )
            for name, rows in {"train": np.sort(train), "test": np.sort(test)}.items()
        }
    )
