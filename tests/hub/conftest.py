"""The stand-in for the Hub, empty for each test, and a way to run programs that use it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hub.server import Hub
from hub.stand_in import client_environment, stand_in

# Without effect where the conftest.py at the root has already done it.
STAND_IN = stand_in()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """The Hub of this process and of the programs it starts, with nothing in it; the user is "me"."""
    from huggingface_hub import constants

    if STAND_IN.endpoint != constants.ENDPOINT or constants.is_offline_mode():
        pytest.fail("huggingface_hub was imported before the stand-in was started: see tests/hub/stand_in.py")
    STAND_IN.reset()
    yield STAND_IN
    errors = list(STAND_IN.errors)
    STAND_IN.reset()
    assert not errors, f"the stand-in failed: {errors}"


@pytest.fixture
def client_env(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """The environment of a program that talks to the stand-in and has an empty cache."""
    return client_environment(hub.endpoint, str(tmp_path / "hf_home"), dict(os.environ)) | {"OMP_NUM_THREADS": "1"}


RunClient = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_client(client_env: dict[str, str], tmp_path: Path) -> RunClient:
    """Run Python code, or a script, as a program of its own: `run_client(code, *arguments, timeout=60, **variables)`.

    Returns what `subprocess.run` does: stdout, stderr and returncode. Variables are added to the environment, or with
    the value None taken out of it.
    """

    def run(
        code: str | Path, *arguments: str, timeout: float = 60, **variables: str | None
    ) -> "subprocess.CompletedProcess[str]":
        environment = {key: value for key, value in (client_env | variables).items() if value is not None}
        command = [sys.executable, *(["-c", code] if isinstance(code, str) else [str(code)]), *arguments]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=timeout, check=False
        )

    return run
