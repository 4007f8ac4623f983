"""Starting a program in several processes that talk over gloo, and ending all of them whatever happens.

Each process is forked from one that has done the imports, which take longer than most programs here.
"""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import time
from importlib.util import find_spec
from multiprocessing.context import ForkServerProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
PROGRAM = Path(__file__).parent / "trainer" / "processes.py"
IMPORTS = ["transformers", "timm", "sklearn.datasets", "hf_tickets.trainer.trainer", "hf_tickets.ticket.ladder", "PIL"]


def start(process: ForkServerProcess) -> None:
    """Start a process of `CONTEXT`, and before the first one what it is forked from."""
    with_deepspeed = [*IMPORTS, "deepspeed"] if find_spec("deepspeed") else IMPORTS
    CONTEXT.set_forkserver_preload(with_deepspeed)
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    process.start()
    os.environ.clear()
    os.environ |= before


class Launch:
    """A program in several processes of this machine: when one fails, the others are killed.

    Args:
        processes: How many.
        *arguments: Of the program.
        program: A module, whose `main` is called.
    """

    def __init__(self, processes: int, *arguments: str | Path, program: Path = PROGRAM) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.outputs = [Path(tempfile.mkstemp(prefix=f"rank-{rank}-")[1]) for rank in range(processes)]
        self.processes = [
            CONTEXT.Process(
                target=_run, args=(str(program), rank, processes, port, str(output), list(map(str, arguments)))
            )
            for rank, output in enumerate(self.outputs)
        ]
        for process in self.processes:
            start(process)

    def wait(self, seconds: float = 150) -> tuple[int, str]:
        """Return the first exit status that is not 0, or 0, and what all processes wrote.

        Args:
            seconds: After these all are killed.
        """
        end = time.monotonic() + seconds
        while any(process.is_alive() for process in self.processes) and time.monotonic() < end:
            if any(process.exitcode for process in self.processes):
                break
            time.sleep(0.02)
        failed = [(rank, process.exitcode) for rank, process in enumerate(self.processes) if process.exitcode != 0]
        late = time.monotonic() >= end
        for process in self.processes:
            process.kill()
            process.join()
        output = "".join(path.read_text(errors="replace") for path in self.outputs)
        for path in self.outputs:
            path.unlink()
        assert not late, f"not done after {seconds} seconds\n{output}"
        ended = [(rank, status) for rank, status in failed if status is not None]
        for rank, status in ended:
            output += f"\nrank {rank} ended with {signal.Signals(-status).name if status < 0 else status}"
        return (ended[0][1] if ended else 0), output


def _run(program: str, rank: int, processes: int, port: int, output: str, arguments: list[str]) -> None:
    """Be one of the processes."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.path.insert(0, str(Path(program).parent))
    sys.argv = [program, *arguments]
    importlib.import_module(Path(program).stem).main()
