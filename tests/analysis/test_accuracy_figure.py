"""The figure of accuracy against remaining weights."""

from itertools import pairwise
from pathlib import Path

import pytest

from hf_tickets.analysis.accuracy import accuracy_figure, save_accuracy_figure

CURVES = {"IMP": [(0.5, 0.9), (0.0, 0.95), (0.9, 0.7)], "random": [(0.5, 0.8)]}


def test_curves_hold_remaining_percent_and_metric_in_order_of_sparsity() -> None:
    axes = accuracy_figure(CURVES, "accuracy", dense=0.95).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["IMP"].get_xdata()) == pytest.approx([100, 50, 10])
    assert list(lines["IMP"].get_ydata()) == [0.95, 0.9, 0.7]
    assert list(lines["random"].get_xdata()) == pytest.approx([50])
    assert "dense (0.95)" in lines


def test_dense_is_at_the_left_and_sparse_at_the_right() -> None:
    axes = accuracy_figure(CURVES, "matthews_correlation").axes[0]
    left, right = axes.get_xlim()
    assert left > right
    assert axes.get_ylabel() == "matthews correlation"
    assert axes.get_xlabel() == "remaining weights (%)"


def test_ticks_are_remaining_shares_that_do_not_overlap() -> None:
    schedule = {"IMP": [(1 - 0.8**k, 0.9) for k in range(19)]}
    ticks = accuracy_figure(schedule, "accuracy").axes[0].get_xticks()
    assert set(ticks) <= {100 * (1 - sparsity) for sparsity, _ in schedule["IMP"]}
    assert all(b / a < 0.87 for a, b in pairwise(ticks))


def test_file_is_a_png(tmp_path: Path) -> None:
    save_accuracy_figure(tmp_path / "accuracy.png", CURVES, "accuracy")
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
