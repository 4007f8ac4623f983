"""Starting a program in several processes that talk over gloo, and ending all of them whatever happens."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


class Launch:
    """A program in several processes of this machine.

    Args:
        processes: How many.
        *arguments: Of the program.
        program: A file beside this one.
    """

    def __init__(self, processes: int, *arguments: str | Path, program: str = "processes.py") -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        self.process = subprocess.Popen(
            [*command, str(Path(__file__).with_name(program)), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def wait(self, seconds: float = 150) -> tuple[int, str]:
        """Return the exit status and what all processes wrote; after a time, kill them."""
        try:
            output, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        return self.process.returncode, output

    def kill(self) -> None:
        """Kill the launcher and every process it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
