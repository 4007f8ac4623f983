"""Programs in several processes of this machine, each of which leaves a record of what it measured."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def launch(
    launcher: Sequence[str], program: str, folder: Path, values: Mapping[str, Any], seconds: float = 900
) -> list[dict[str, Any]]:
    """Run a program of this folder in several processes; return each one's record, in the order of ranks.

    Args:
        launcher: What starts the processes, as in `python -m …`; nothing for one process.
        program: Name of the program, without `.py`. It calls `given` and `record`.
        folder: Where the processes find what they are given and leave their records.
        values: What they are given.
        seconds: After which all are killed.

    Raises:
        SystemExit: A process failed; with what all of them wrote.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "given.json").write_text(json.dumps(dict(values)))
    module = ["-m", *launcher] if launcher else []
    process = subprocess.Popen(
        [sys.executable, *module, str(FOLDER / f"{program}.py"), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise SystemExit(f"{program}: a process failed\n{output}")
    records = [json.loads(path.read_text()) for path in folder.glob("record-*.json")]
    return sorted(records, key=lambda entry: entry["rank"])


def given() -> tuple[Path, dict[str, Any]]:
    """Return, in a process, its folder and what it was given."""
    folder = Path(sys.argv[1])
    return folder, json.loads((folder / "given.json").read_text())


def record(folder: Path, **values: Any) -> None:
    """Leave, in a process, what it measured."""
    rank = int(os.environ.get("RANK", 0))
    (folder / f"record-{rank}.json").write_text(json.dumps({"rank": rank, **values}))
