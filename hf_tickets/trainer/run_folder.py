"""The run folder: everything that a search for a ticket needs to go on after any crash.

    <output_dir>/ticket_config.json, ticket.safetensors    the ticket so far, every finished round a rung
    <output_dir>/_run/lock                                 held while a process works here
    <output_dir>/_run/run.json                             the configuration, and the digests of θ0
    <output_dir>/_run/theta0.safetensors                   θ0, head and buffers included
    <output_dir>/_run/theta_step.safetensors               θ_i, where rounds rewind to a later step
    <output_dir>/_run/masks.safetensors                    the masks so far
    <output_dir>/_run/round-03/                            checkpoints of a round while it trains
    <output_dir>/_run/round-03/trained.safetensors         its trained weights (kept for the last round only)
    <output_dir>/_run/round-03/accumulated.safetensors     what criteria of first order added up (likewise)
    <output_dir>/_run/round-03/result.json                 written last: the round is done

Names begin with an underscore because `Trainer` leaves such folders out of its uploads.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_tickets.errors import RunFolderError
from hf_tickets.files import write_atomically
from hf_tickets.ticket.ladder import Ladder
from hf_tickets.trainer.checkpoints import MARKER

_VERSION = 1
_SECONDS_TO_WAIT = 15


@dataclass(frozen=True)
class RoundResult:
    """One finished round.

    Args:
        round: 0 for the dense one, k for the training of ticket k.
        sparsity: Share of the weights in scope that were pruned while it trained.
        kept: Number of weights kept.
        digest: Digest of its mask; None for round 0.
        metrics: Evaluation after training, without the "eval_" prefix.
        steps: Optimizer steps.
        seconds: Wall-clock seconds of training, over all the processes it took.
        training: What `Trainer.train` returned: training_loss and its metrics.
        log_history: Trainer's log of the round.
    """

    round: int
    sparsity: float
    kept: int
    digest: str | None
    metrics: dict[str, float]
    steps: int
    seconds: float
    training: dict[str, float]
    log_history: list[dict[str, Any]] = field(repr=False)


class RunFolder:
    """Paths and records of one run.

    Args:
        output_dir: The run's folder.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)
        self.root = self.output_dir / "_run"
        self.theta0 = self.root / "theta0.safetensors"
        self.theta_step = self.root / "theta_step.safetensors"
        self.masks = self.root / "masks.safetensors"
        self._record = self.root / "run.json"

    def round(self, index: int) -> Path:
        """Return the folder of a round."""
        return self.root / f"round-{index:02d}"

    def trained(self, index: int) -> Path:
        """Return the file of a round's trained weights."""
        return self.round(index) / "trained.safetensors"

    def accumulated(self, index: int) -> Path:
        """Return the file of what a round's training added up."""
        return self.round(index) / "accumulated.safetensors"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while this one works here.

        Raises:
            RunFolderError: Another process works in the folder.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        # Loader workers of a process that was killed share its lock, and end some seconds after it.
        lock = FileLock(self.root / "lock", timeout=_SECONDS_TO_WAIT)
        try:
            lock.acquire()
        except Timeout:
            raise RunFolderError(
                f"{self.output_dir} is in use by another process; wait for it, or use another output_dir"
            ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def begun(self) -> bool:
        """Whether there is any training here to go on from."""
        return any(any(self.root.glob(f"round-*/{name}")) for name in ("result.json", f"*/{MARKER}"))

    def read_record(self) -> dict[str, Any] | None:
        """Return what `write_record` wrote, or None for a new run.

        Raises:
            RunFolderError: The record is damaged or of another version of the library.
        """
        record = _read_json(self._record)
        if record is not None and record.get("version") != _VERSION:
            raise RunFolderError(f"{self._record} is of another version of hf_tickets; use another output_dir")
        return record

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the configuration and digests of the run, where they are not what is written already."""
        values = {"version": _VERSION, **record}
        if values != self.read_record():
            _write_json(self._record, values)

    def results(self) -> list[RoundResult]:
        """Return the finished rounds, from round 0 on."""
        results: list[RoundResult] = []
        while (values := _read_json(self.round(len(results)) / "result.json")) is not None:
            results.append(RoundResult(**values))
        return results

    def finish(self, result: RoundResult) -> None:
        """Record a round as done, and delete what only its training needed."""
        _write_json(self.round(result.round) / "result.json", asdict(result))
        self.tidy(result.round + 1)

    def tidy(self, count: int) -> None:
        """Delete what no round needs any more, and what a process left unfinished when it was killed.

        Args:
            count: Number of finished rounds.
        """
        for temporary in self.root.rglob(".*"):
            temporary.unlink()
        for checkpoint in self.root.glob(f"round-*/{PREFIX_CHECKPOINT_DIR}-*"):
            done = any(checkpoint.parent == self.round(index) for index in range(count))
            if done or not (checkpoint / MARKER).exists():
                shutil.rmtree(checkpoint)
        for index in range(count - 1):
            self.trained(index).unlink(missing_ok=True)
            self.accumulated(index).unlink(missing_ok=True)

    def read_masks(self, count: int) -> Ladder:
        """Return the masks found so far.

        Args:
            count: Number of finished rounds: a later mask belongs to a round that must be run again.
        """
        if not self.masks.exists():
            return Ladder()
        return Ladder.load(self.masks).first(count)


def differences(before: Any, after: Any, name: str = "") -> list[str]:
    """List what differs between two JSON values, as "name: before → after"."""
    if isinstance(before, dict) and isinstance(after, dict):
        found: list[str] = []
        for key in sorted(set(before) | set(after)):
            found += differences(before.get(key), after.get(key), f"{name}.{key}" if name else key)
        return found
    return [] if before == after else [f"{name}: {before} → {after}"]


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_atomically(path, json.dumps(values, indent=2, ensure_ascii=False).encode() + b"\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}; use another output_dir") from None
