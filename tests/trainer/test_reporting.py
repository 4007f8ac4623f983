"""Results of whole rounds, as TensorBoard reads them."""

from pathlib import Path

import pytest
from tiny import search, sentences, timeless

pytest.importorskip("tensorboard", reason="tensorboard is not installed")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar that lies in a folder's event files, by name, in order of steps."""
    found: dict[str, list[tuple[int, float]]] = {}
    for file in folder.rglob("events.out.tfevents.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, []).extend((event.step, event.value) for event in events.Scalars(name))
    return {name: sorted(values) for name, values in found.items()}


def test_tensorboard_gets_every_round_once_and_the_run_stays_the_same(tmp_path: Path) -> None:
    reported = search(tmp_path / "reported", eval_dataset=sentences(8, 100), report_to="tensorboard")
    reported.train()
    found = scalars(tmp_path / "reported")
    history = reported.history
    assert len(history) > 1
    assert found["train/round/sparsity"] == [(result.round, pytest.approx(result.sparsity)) for result in history]
    assert found["train/round/loss"] == [(result.round, pytest.approx(result.metrics["loss"])) for result in history]
    silent = search(tmp_path / "silent", eval_dataset=sentences(8, 100))
    silent.train()
    assert [result.digest for result in history] == [result.digest for result in silent.history]
    for mine, other in zip(history, silent.history, strict=True):
        assert timeless(mine.log_history) == timeless(other.log_history)
    assert reported.state.global_step == history[-1].steps
