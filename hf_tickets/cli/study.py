"""`hf-tickets study`: run a grid of searches and trainings, say how far it is, and write its report."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tickets.cli.options import study_options
from hf_tickets.errors import RecipeError

if TYPE_CHECKING:
    from rich.console import Console

    from hf_tickets.studies.plan import Plan
    from hf_tickets.studies.study_folder import StudyFolder


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the subcommand's arguments."""
    parser = subparsers.add_parser(
        "study",
        help="run a study: a grid of searches and trainings, and its report",
        description=(
            "Run every cell of a study that is not done yet, say how far each is, or write the report. Started again, "
            "`run` goes on where it stopped and tries again what failed; a changed study runs only what has changed. "
            "Fields of its recipes are given as --recipes.field, --sources.NAME.field and --targets.NAME.field."
        ),
        options=study_options,
    )
    parser.add_argument("action", metavar="ACTION", choices=("run", "status", "report"), help="run, status or report")
    parser.add_argument("study", metavar="STUDY", help="a YAML file; for status and report also the study's folder")
    parser.add_argument("--ray", action="store_true", help="run cells side by side on Ray, on this machine by default")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="the Ray cluster to run on, such as auto")


def run(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Do what was asked for; return 1 where cells failed."""
    if arguments.action == "run":
        return _run(arguments, overrides)
    if arguments.action == "status":
        return _status(_folder(arguments.study, overrides))
    return _report(_folder(arguments.study, overrides))


def _run(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rich.console import Console

    from hf_tickets.cli.settings import quieten
    from hf_tickets.cli.study_display import StudyDisplay
    from hf_tickets.cli.study_recipe import load_study
    from hf_tickets.studies.planner import make_plan
    from hf_tickets.studies.run import run_study
    from hf_tickets.studies.study_folder import StudyFolder

    quieten()
    console = Console()
    plan = make_plan(load_study(arguments.study, overrides))
    folder = StudyFolder(plan.settings["output_dir"])
    folder.write_plan(plan)
    with StudyDisplay(plan, folder, console):
        if arguments.ray or arguments.ray_address is not None:
            from hf_tickets.studies.cluster import run_on_ray

            failed = run_on_ray(plan, folder, arguments.ray_address)
        else:
            failed = run_study(plan, folder)
    return _conclude(plan, folder, console, bool(failed))


def _status(path: Path) -> int:
    from rich.console import Console

    from hf_tickets.cli.study_display import overview
    from hf_tickets.studies.study_folder import StudyFolder

    console = Console()
    folder = StudyFolder(path)
    plan = folder.read_plan()
    console.print(overview(plan, folder.states(plan), limit=None))
    return _conclude(plan, folder, console, failed=False)


def _report(path: Path) -> int:
    from rich.console import Console

    from hf_tickets.studies.report import write_report
    from hf_tickets.studies.results import load_masks, load_results, load_settings

    write_report(load_results(path), load_settings(path), load_masks(path), path / "report")
    Console().print(f"report: {path / 'report' / 'index.html'}", soft_wrap=True, highlight=False)
    return 0


def _conclude(plan: "Plan", folder: "StudyFolder", console: "Console", failed: bool) -> int:
    from hf_tickets.cli.study_display import failures
    from hf_tickets.studies.study_folder import DONE

    states = folder.states(plan)
    table = failures(plan, states)
    if table is not None:
        console.print(table)
    done = sum(state.state == DONE for state in states.values())
    console.print(f"study: {folder.path} ({done} of {len(states)} cells done)", soft_wrap=True, highlight=False)
    return int(failed)


def _folder(study: str, overrides: dict[str, str]) -> Path:
    """Return the folder of a study that is named by it or by its recipe."""
    from hf_tickets.cli.study_recipe import read_grid

    if Path(study).is_dir():
        if overrides:
            raise RecipeError(f"--{next(iter(overrides))}: {study} is a folder, which knows its study; leave this out")
        return Path(study)
    config, _, _ = read_grid(Path(study), overrides)
    return Path(config.output_dir)
