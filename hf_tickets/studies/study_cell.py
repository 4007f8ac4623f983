"""`StudyCell`: one run of a study, as plain values from which it can be run anywhere."""

import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any

from hf_tickets.pruning.config import PruningConfig
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.trainer.incidental import is_incidental
from hf_tickets.trainer.rewind import RewindConfig

KINDS = ("base", "find", "train")


@dataclass(frozen=True)
class StudyCell:
    """One run of a study: the training of a base model, a search, or a training on a target.

    Args:
        kind: "base", "find" or "train".
        label: What people call it; not part of its content.
        task: Fields of TaskConfig. Its model is replaced by the base that the cell needs, where it needs one.
        training: Keyword arguments of TrainingArguments, without output_dir.
        pruning: Fields of PruningConfig, of a search.
        rewind: Fields of RewindConfig, of a search.
        control: Name in CONTROLS, of a training.
        sparsity: Sparsity of its round in the schedule of the search that it needs; 0 for dense.
        needs: "base" or "search" → key of the cell that it starts from.
    """

    kind: str
    label: str
    task: dict[str, Any]
    training: dict[str, Any]
    pruning: dict[str, Any] | None = None
    rewind: dict[str, Any] | None = None
    control: str | None = None
    sparsity: float = 0.0
    needs: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def key(self) -> str:
        """Digest of the content: cells with one key are one run, whatever they are called and however they report."""
        content = self.to_dict() | {
            "label": None,
            "task": _given(TaskConfig, self.task),
            "training": {name: value for name, value in self.training.items() if not is_incidental(name)},
            "pruning": self.pruning and _given(PruningConfig, self.pruning),
            "rewind": self.rewind and _given(RewindConfig, self.rewind),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def folder_name(self) -> str:
        """Name of the cell's folder: what people read, and enough of the key to be its own."""
        readable = re.sub(r"[^\w.+-]+", "_", self.label)
        return f"{readable}-{self.key[:12]}"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StudyCell":
        """Return the cell that `to_dict` described."""
        return cls(**values)


def _given(configuration: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out defaults, so that a field which a later version adds changes no key."""
    defaults = {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(configuration)
    }
    return {name: value for name, value in values.items() if value != defaults.get(name, MISSING)}
