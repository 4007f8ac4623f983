"""Every benchmark runs, small, and prints the row of each thing it compares."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "benchmarks"
ROWS = {
    "prune": ["hf_tickets", "torch", "10%", "none"],
    "ticket_size": ["one mask, 10%", "one mask, 98%", "9 rungs of 10 %", "18 rungs of 20 %"],
    "ticket_apply": ["ticket of one mask", "float32 tensors, 70 %", "ticket of nine masks", "float32 tensors, 90 %"],
    "ticket_hub": ["ticket of one mask", "ticket of nine masks", "checkpoint with zeros", "AutoModel alone"],
    "step_cost": ["dense", "hf_tickets", "torch"],
    "gpu": ["BERT-base", "7 B", "bfloat16", "equal"],
    "scaling": ["110 M", "70 B", "15,204,352"],
}
BY_HAND = {"backends"}  # five starts of several processes; tests/trainer/test_processes.py covers what it shows


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmarks read Linux's page cache and memory marks")
@pytest.mark.parametrize("name", ROWS)
def test_a_benchmark_prints_its_table(name: str) -> None:
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", "--threads", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    rows = [line for line in result.stdout.splitlines() if line.startswith("│")]
    for row in ROWS[name]:
        assert any(row in line for line in rows), result.stdout


def test_every_benchmark_is_run_here() -> None:
    shared = {"backend_process", "launching", "local_hub", "measuring", "models", "scaling_process"}
    assert {path.stem for path in FOLDER.glob("*.py")} == set(ROWS) | BY_HAND | shared
