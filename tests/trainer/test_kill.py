"""SIGKILL at any moment, and the same command again."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import launching
import pytest
from launching import CONTEXT
from program import run_in_own_group
from tiny import outcome

PROGRAM = Path(__file__).with_name("program.py")
STEPS = 12  # of a round


def start(folder: Path) -> ForkServerProcess:
    """A process of its own, forked from one that has done the imports."""
    process = CONTEXT.Process(target=run_in_own_group, args=(str(folder),))
    launching.start(process)
    return process


def finish(folder: Path) -> None:
    process = start(folder)
    process.join(200)
    assert process.exitcode == 0


def kill(process: ForkServerProcess, moment: Callable[[], bool]) -> bool:
    """Kill a process and its workers at a moment; false if it came to its end before."""
    leads = False
    while process.is_alive():
        with suppress(ProcessLookupError):
            leads = os.getpgid(process.pid) == process.pid  # not yet, in its first instants
        if leads and moment():
            os.killpg(process.pid, signal.SIGKILL)
            process.join(30)
            assert process.exitcode == -signal.SIGKILL
            return True
        time.sleep(0.0005)
    process.join()
    assert process.exitcode == 0
    return False


def progress(folder: Path) -> int:
    """The last optimizer step, counted over rounds, of which something has been written."""
    done = len(list(folder.glob("_run/round-*/result.json")))
    checkpoints = folder.glob(f"_run/round-{done:02d}/checkpoint-*")
    return STEPS * done + max((int(path.name.partition("-")[2]) for path in checkpoints), default=0)


def half_saved(folder: Path, since: float = 0.0) -> bool:
    """Whether a checkpoint has been begun since a time and is not whole."""
    for checkpoint in folder.glob("_run/round-*/checkpoint-*"):
        with suppress(FileNotFoundError):  # deleted while we look
            names = os.listdir(checkpoint)
            if names and "complete.json" not in names and checkpoint.stat().st_mtime > since:
                return True
    return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder)
    return outcome(folder)


def test_the_program_is_the_same_each_time(whole: dict[str, Any], tmp_path: Path) -> None:
    """Else nothing below would mean anything."""
    finish(tmp_path)
    assert outcome(tmp_path) == whole
    assert [rounds[3] for rounds in whole["rounds"]] == [STEPS] * 3
    assert [len(log) for log in whole["logs"]] == [7] * 3  # losses at four steps, two evaluations, the end


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(
    whole: dict[str, Any], tmp_path: Path, seed: int
) -> None:
    moments = random.Random(seed)
    for target in sorted(moments.sample(range(2, 3 * STEPS - 4), 4)):
        delay = moments.uniform(0, 0.1)

        def moment(target: int = target, delay: float = delay) -> bool:
            return progress(tmp_path) >= target and not time.sleep(delay)

        assert kill(start(tmp_path), moment)
    finish(tmp_path)
    assert outcome(tmp_path) == whole


def test_a_run_killed_while_it_saves_ends_like_one_that_was_not(whole: dict[str, Any], tmp_path: Path) -> None:
    caught = 0
    for _ in range(5):
        begun = time.time()
        if not kill(start(tmp_path), lambda begun=begun: half_saved(tmp_path, begun)):
            break
        caught += half_saved(tmp_path)
    assert caught >= 2
    finish(tmp_path)
    assert outcome(tmp_path) == whole


def test_a_command_killed_and_given_again_ends_like_one_that_was_not(whole: dict[str, Any], tmp_path: Path) -> None:
    """From the shell: each start is a new interpreter, with another hash seed."""
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob("_run/round-01/checkpoint-4/complete.json")):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=120)
    assert outcome(tmp_path) == whole
