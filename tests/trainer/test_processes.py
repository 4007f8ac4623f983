"""A search in two processes under DDP, FSDP2 and DeepSpeed: the ranks agree, and one that is killed changes nothing."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from launching import Launch
from safetensors.torch import load_file
from tiny import bert, outcome

from hf_tickets import PruningConfig, Ticket, prune


def finish(processes: int, *arguments: str | Path) -> list[list[str]]:
    """Run to the end; return the digests that each rank found."""
    status, output = Launch(processes, *arguments).wait()
    assert status == 0, output
    ranks = re.findall(r"rank (\d) of (\d) revived (\d+) digests (.*)", output)
    assert len(ranks) == processes, output
    assert {world for _, world, _, _ in ranks} == {str(processes)}
    assert {revived for _, _, revived, _ in ranks} == {"0"}
    return [digests.split() for _, _, _, digests in ranks]


def same_outcome(first: Path, second: Path) -> bool:
    """Whether two runs left the same; of their logs not `total_flos`, which under ZeRO-3 counts what is gathered."""
    left, right = outcome(first), outcome(second)
    for logs in (left["logs"], right["logs"]):
        for entry in (entry for log in logs for entry in log):
            entry.pop("total_flos", None)
    return left == right


WITH_DEEPSPEED = pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed")


BACKENDS = ["ddp", "fsdp2", *(pytest.param(backend, marks=WITH_DEEPSPEED) for backend in ("zero2", "zero3"))]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def whole(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing interrupts."""
    folder = tmp_path_factory.mktemp(backend)
    first, second = finish(2, folder, "0", "2", backend)
    assert first == second
    assert first == [rung.digest for rung in Ticket.from_pretrained(folder, 0.64).ladder.rungs]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same search in one process, with the same batches."""
    folder = tmp_path_factory.mktemp("alone")
    finish(1, folder)
    return folder


def test_two_processes_train_as_one_does(whole: Path, alone: Path, backend: str) -> None:
    """The same batches, so the same weights but for the order of sums; what differs in the masks is printed."""
    ours, theirs = (Ticket.from_pretrained(folder, 0.64) for folder in (whole, alone))
    different = [
        sum(int((mask[name] != other[name]).sum()) for name in mask)
        for mask, other in zip(ours.masks, theirs.masks, strict=True)
    ]
    sys.stdout.write(f"mask entries that differ between one process and two under {backend}: {different}\n")
    assert max(different) < 0.01 * ours.mask.numel
    ends = [load_file(folder / "_run/round-02/trained.safetensors") for folder in (whole, alone)]
    assert ends[0].keys() == ends[1].keys()
    assert max(float((ends[0][name] - ends[1][name]).abs().max()) for name in ends[0]) < 1e-4


def test_one_process_killed_and_the_same_command_again(whole: Path, backend: str, tmp_path: Path) -> None:
    """Killed in the second round, at step 15 of 18 in all; the weights that its mask was chosen on lie there."""
    status, output = Launch(2, tmp_path, "15", "2", backend).wait()
    assert status != 0
    assert "SIGKILL" in output
    model = bert(dropout=0.0)
    model.load_state_dict(load_file(tmp_path / "_run/round-01/trained.safetensors"), strict=False)
    in_one_process = prune(model, PruningConfig(amount=0.4, rounds=2), Ticket.from_pretrained(tmp_path).mask)
    assert in_one_process.digest == Ticket.from_pretrained(whole, 0.64).mask.digest
    finish(2, tmp_path, "0", "2", backend)
    assert same_outcome(tmp_path, whole) if backend == "zero3" else outcome(tmp_path) == outcome(whole)


def test_an_error_in_one_process_ends_all_with_its_message(tmp_path: Path) -> None:
    program = Path(__file__).with_name("processes.py")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", program, tmp_path, "-3"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode != 0
    assert "OSError: the scratch disk is gone" in done.stderr


def test_others_wait_for_the_first_longer_than_for_each_other(tmp_path: Path) -> None:
    """It takes 15 seconds to write what it found; processes in a training wait for 10 at most."""
    first, second = finish(2, tmp_path, "0", "1", "ddp-slow")
    assert first == second


def test_another_number_of_processes_is_refused_before_training(alone: Path) -> None:
    status, output = Launch(2, alone).wait()
    assert status != 0
    assert "processes: 1 → 2" in output


@WITH_DEEPSPEED
def test_masks_are_chosen_on_the_weights_that_the_optimizer_has(tmp_path: Path) -> None:
    """ZeRO-3 trains in bfloat16 here: its float32 copies are what is saved, and what one killed goes on from."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first, second = finish(2, whole, "0", "2", "zero3-bf16")
    assert first == second
    trained = load_file(whole / "_run/round-02/trained.safetensors")
    assert any(not torch.equal(value, value.bfloat16().float()) for value in trained.values())
    status, output = Launch(2, killed, "9", "2", "zero3-bf16").wait()
    assert status != 0, output
    finish(2, killed, "0", "2", "zero3-bf16")
    assert same_outcome(killed, whole)


@WITH_DEEPSPEED
def test_buffers_are_the_first_process_s(tmp_path: Path) -> None:
    """BatchNorm statistics under ZeRO-2, which shares none: a process that is killed goes on from the same."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first, second = finish(2, whole, "0", "1", "zero2-batchnorm")
    assert first == second
    status, output = Launch(2, killed, "9", "1", "zero2-batchnorm").wait()
    assert status != 0, output
    finish(2, killed, "0", "1", "zero2-batchnorm")
    assert outcome(killed) == outcome(whole)


VARIANTS = [
    "ddp-dropout",
    "fsdp2-checkpointing",
    "fsdp2-bf16",
    "fsdp2-offload",
    pytest.param("zero1-bf16", marks=WITH_DEEPSPEED),
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_find_one_ticket_on_all_processes(variant: str, tmp_path: Path) -> None:
    first, second = finish(2, tmp_path, "0", "2", variant)
    assert first == second
    assert len(first) == 2
