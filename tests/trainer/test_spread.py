"""A model spread over two processes: none holds a whole mask or copy, and what they exchange does not grow with it."""

import json
import sys
from pathlib import Path

import pytest
from launching import Launch

from hf_tickets.pruning.threshold import SAMPLE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from Linux's /proc")
HISTOGRAM = 8 * (1 << 19)  # bytes: at most 2^19 bins of 64 bits


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, int]]]:
    """What each process measured, by number of layers."""
    results = {}
    for layers in (4, 32):
        folder = tmp_path_factory.mktemp(f"layers-{layers}")
        status, output = Launch(2, folder, str(layers), program=Path(__file__).with_name("spread.py")).wait()
        assert status == 0, output
        results[layers] = [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    return results


def test_the_threshold_exchanges_histograms_whatever_the_size(measured: dict[int, list[dict[str, int]]]) -> None:
    """A sample of 32-bit keys, and a histogram for each pass over the weights, three at most."""
    for results in measured.values():
        for result in results:
            assert result["sent"] < 4 * HISTOGRAM + 4 * SAMPLE + 100_000
    small, large = (max(result["sent"] for result in measured[layers]) for layers in (4, 32))
    assert large < 1.5 * small


@pytest.mark.parametrize("work", ["prune", "code", "hold"])
def test_no_process_holds_a_whole_mask(measured: dict[int, list[dict[str, int]]], work: str) -> None:
    """A whole mask has a byte a weight; of two processes each holds half, and what it works on at a time."""
    for result in measured[32]:
        assert result[work] < result["numel"]


def test_only_the_first_process_holds_a_whole_model_to_save_it(measured: dict[int, list[dict[str, int]]]) -> None:
    assert measured[32][1]["save"] < 0.4 * 4 * measured[32][1]["numel"]


def test_each_process_reads_its_own_rows(measured: dict[int, list[dict[str, int]]]) -> None:
    """The pages of the file that it read count as its own: half of them, and what it copies at a time."""
    assert all(result["load"] < 0.75 * 4 * result["numel"] for result in measured[32])
