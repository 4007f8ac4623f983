"""What all tests share: no network, one thread a process, and where optional real data is."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed tells every program's output that it found no GPU

import hypothesis
import pytest
from hub.stand_in import stand_in

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")
stand_in()  # before a test module imports a library that reads the Hub's address

WANTS_DATA = "HF_TICKETS_TEST_DATA is not set: no real data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets; the test is skipped without it."""
    folder = os.environ.get("HF_TICKETS_TEST_DATA")
    if not folder:
        pytest.skip(WANTS_DATA)
    return Path(folder)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped for want of real data."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum("HF_TICKETS_TEST_DATA" in str(report.longrepr) for report in skipped)
    terminalreporter.write_line(f"{count} tests were skipped for want of real data (HF_TICKETS_TEST_DATA)")
