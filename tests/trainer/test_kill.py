"""SIGKILL at any moment, and the same command again."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
from program import run_in_own_group
from tiny import outcome

CONTEXT = multiprocessing.get_context("forkserver")
PROGRAM = Path(__file__).with_name("program.py")


def start(folder: Path) -> ForkServerProcess:
    """A process of its own, forked from one that has done the imports."""
    CONTEXT.set_forkserver_preload(["transformers", "timm", "sklearn.datasets", "hf_tickets.trainer.trainer", "PIL"])
    process = CONTEXT.Process(target=run_in_own_group, args=(str(folder),))
    process.start()
    return process


def finish(folder: Path) -> float:
    begun = time.monotonic()
    process = start(folder)
    process.join(120)
    assert process.exitcode == 0
    return time.monotonic() - begun


def kill(process: ForkServerProcess, folder: Path, moment: Callable[[], bool]) -> bool:
    """Kill the process and its workers at a moment; false if it came to its end before."""
    while process.is_alive():
        if moment():
            os.killpg(process.pid, signal.SIGKILL)
            process.join(30)
            assert process.exitcode == -signal.SIGKILL
            return True
        time.sleep(0.0005)
    process.join()
    assert process.exitcode == 0
    return False


def half_saved(folder: Path) -> bool:
    """Whether the newest checkpoint of a round has begun to be written and is not whole."""
    for checkpoint in folder.glob("_run/round-*/checkpoint-*"):
        names = os.listdir(checkpoint) if checkpoint.is_dir() else []
        if names and "complete.json" not in names:
            return True
    return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """The outcome of a run that nothing interrupts, and its seconds."""
    folder = tmp_path_factory.mktemp("whole")
    finish(folder / "warm")
    seconds = finish(folder / "run")
    return outcome(folder / "run"), seconds


def test_the_program_is_the_same_each_time(whole: tuple[dict[str, Any], float], tmp_path: Path) -> None:
    """Else nothing below would mean anything."""
    finish(tmp_path)
    assert outcome(tmp_path) == whole[0]
    assert [len(log) for log in whole[0]["logs"]] == [9, 9, 9]  # losses at four steps, four evaluations, the end


@pytest.mark.parametrize("seed", [1, 2])
def test_a_run_killed_at_random_moments_ends_like_one_that_was_not(
    whole: tuple[dict[str, Any], float], tmp_path: Path, seed: int
) -> None:
    expected, seconds = whole
    moments = random.Random(seed)
    kills = 0
    for _ in range(8):
        deadline = time.monotonic() + moments.uniform(0.15, 0.9) * seconds
        kills += kill(start(tmp_path), tmp_path, lambda deadline=deadline: time.monotonic() > deadline)
    assert kills >= 2
    finish(tmp_path)
    assert outcome(tmp_path) == expected


def test_a_run_killed_while_it_saves_ends_like_one_that_was_not(
    whole: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    caught = 0
    for _ in range(8):
        if not kill(start(tmp_path), tmp_path, lambda: half_saved(tmp_path)):
            break
        caught += half_saved(tmp_path)
    assert caught >= 2
    finish(tmp_path)
    assert outcome(tmp_path) == whole[0]


def test_a_command_killed_and_given_again_ends_like_one_that_was_not(
    whole: tuple[dict[str, Any], float], tmp_path: Path
) -> None:
    """From the shell: each start is a new interpreter, with another hash seed."""
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob("_run/round-01/checkpoint-4/complete.json")):
        time.sleep(0.001)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=120)
    assert outcome(tmp_path) == whole[0]
