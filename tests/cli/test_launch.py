"""`--launch`: the configurations that come with the package start the processes that they name."""

import json
import os
import re
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from hf_tickets.cli import launch
from hf_tickets.cli.main import main

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
BACKENDS = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "multi_node": "MULTI_GPU", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}
SMALL = [
    "--model=test_resnet",
    "--pretrain.num_train_epochs=1",
    "--num_train_epochs=1",
    "--rounds=1",
    "--transfer.controls=dense",
    "--transfer.at=0.3",
    "--transfer.num_train_epochs=1",
    "--use_cpu",
]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start the quickstart, small."""
    return subprocess.Popen(
        [sys.executable, "-m", "hf_tickets", "find", str(QUICKSTART), *SMALL, f"--output_dir={folder}", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )


def settings(folder: Path) -> dict[str, object]:
    return json.loads((folder / "_run" / "run.json").read_text())["settings"]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_every_configuration_is_one_of_accelerate_s() -> None:
    assert launch.names() == sorted(BACKENDS)
    for name in launch.names():
        loaded = load_config_from_file(str(launch._folder() / f"{name}.yaml"))
        assert loaded.distributed_type.value == BACKENDS[name]


def test_help_lists_the_configurations(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["find", "--help"])
    assert ", ".join(sorted(BACKENDS)) in " ".join(capsys.readouterr().out.split())


def test_an_unknown_configuration_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["find", str(QUICKSTART), "--launch", "zero4"]) == 2
    assert re.search(r"--launch zero4: there is no such file, and the names are ddp, fsdp2", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("fsdp2", "FSDP2"),
        pytest.param(
            "zero3",
            "ZeRO-3",
            marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
        ),
    ],
)
def test_the_quickstart_runs_in_two_processes(name: str, backend: str, tmp_path: Path) -> None:
    """A whole search: base model, rounds, and the controls after them."""
    process = start(tmp_path / "run", "--launch", name, "--num_processes", "2", "--main_process_port", free_port())
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert settings(tmp_path / "run")["processes"] == 2
    assert settings(tmp_path / "run")["backend"] == backend
    assert output.count("remaining weights") >= 2  # the first process alone speaks: table and last line


def test_two_launchers_are_two_machines(tmp_path: Path) -> None:
    port = free_port()
    words = ["--launch", "multi_node", "--num_processes", "2", "--main_process_port", port]
    launchers = [start(tmp_path / "run", *words, "--machine_rank", rank) for rank in "01"]
    outputs = [launcher.communicate(timeout=240)[0] for launcher in launchers]
    assert [launcher.returncode for launcher in launchers] == [0, 0], "\n".join(outputs)
    assert settings(tmp_path / "run")["processes"] == 2


def test_a_process_that_fails_ends_the_command_with_its_message(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    process = start(tmp_path / "run", "--launch", "ddp", "--num_processes", "2", "--main_process_port", free_port())
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "run" in output
    assert output.rstrip().endswith("hf-tickets: error: ddp: a process failed, and the others were ended")
