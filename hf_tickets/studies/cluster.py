"""The cells of a study side by side on Ray, which decides what runs where and when."""

import os
from pathlib import Path
from typing import Any

from hf_tickets.errors import TicketsError
from hf_tickets.studies.plan import Plan
from hf_tickets.studies.study_cell import StudyCell
from hf_tickets.studies.study_folder import DONE, FAILED, HELD, StudyFolder, write_json

_STORE = 100 * 2**20  # bytes: cells tell each other nothing but how they ended


def run_on_ray(plan: Plan, folder: StudyFolder, address: str | None = None) -> dict[str, str]:
    """Run every cell that is not done as a task of Ray, each with the CPUs and GPUs that the study gives a cell.

    Args:
        plan: The study.
        folder: Where it lies; on a cluster, storage that all machines share.
        address: The cluster; None starts one on this machine for as long as it takes.

    Returns:
        Key → why it failed, of each cell that failed.

    Raises:
        TicketsError: Ray is not installed or not there, or the disk is full.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise TicketsError('ray is not installed; install it with: pip install "hf_tickets[ray]"') from error

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default all else on the machine goes before a worker
    cpus, gpus = plan.settings["cpus_per_cell"], plan.settings["gpus_per_cell"]
    threads = {name: str(cpus) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    local: dict[str, Any] = {} if address else {"include_dashboard": False, "object_store_memory": _STORE}
    try:
        ray.init(address, runtime_env={"env_vars": threads}, log_to_driver=False, logging_level="ERROR", **local)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise TicketsError(f"Ray cannot be had at {address or 'this machine'}: {error}") from error
    try:
        _check_room(ray.cluster_resources(), cpus, gpus)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_work)
        ends: dict[str, Any] = {}
        for key, cell in plan.cells.items():
            if not folder.is_done(cell):
                needs = [ends[need] for need in cell.needs.values() if need in ends]
                keep_model = bool(plan.settings["keep_models"])
                ends[key] = task.remote(cell.to_dict(), str(folder.path.resolve()), os.getcwd(), keep_model, *needs)
        return _collect(ray, plan, folder, ends)
    finally:
        ray.shutdown()


def _work(
    values: dict[str, Any], path: str, directory: str, keep_model: bool, *needs: tuple[str, str]
) -> tuple[str, str]:
    """Run one cell in a worker; give how it ended, and why."""
    from hf_tickets.studies.run import wait_for_cell

    if any(need != DONE for need, _ in needs):
        return HELD, ""
    if Path(directory).is_dir():  # what the recipes name is relative to where the command was given
        os.chdir(directory)
    return wait_for_cell(StudyFolder(path), StudyCell.from_dict(values), keep_model)


def _collect(ray: Any, plan: Plan, folder: StudyFolder, ends: dict[str, Any]) -> dict[str, str]:
    """Wait for every cell; record of a worker that died what it could not record itself."""
    failed: dict[str, str] = {}
    lost: set[str] = set()  # failed, or held up by what failed
    keys = {end: key for key, end in ends.items()}
    while keys:
        (end,), _ = ray.wait(list(keys), num_returns=1)
        key = keys.pop(end)
        if any(need in lost for need in plan.cells[key].needs.values()):
            lost.add(key)
            continue
        try:
            state, why = ray.get(end)
        except ray.exceptions.RayTaskError as error:
            raise TicketsError(error.cause or error) from error
        except ray.exceptions.RayError as error:
            state, why = FAILED, f"its worker died: {' '.join(str(error).split())}"
            write_json(folder.cell(plan.cells[key]) / "error.json", {"error": why, "traceback": ""})
        if state != DONE:
            lost.add(key)
        if state == FAILED:
            failed[key] = why
    return failed


def _check_room(resources: dict[str, float], cpus: int, gpus: float) -> None:
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > resources.get(name, 0):
            raise TicketsError(
                f"a cell wants {wanted:g} {name}, and Ray has {resources.get(name, 0):g} in all; "
                f"lower {name.lower()}s_per_cell"
            )
