"""`--launch NAME`: run the same command in many processes, by an Accelerate configuration."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import hf_tickets
from hf_tickets.errors import RecipeError, TicketsError

# Options of `accelerate launch` that say where, which differs from start to start, not how.
_PLACES = {
    "num_processes": "processes in all, over all machines; one a GPU by default",
    "num_machines": "machines; as configured by default",
    "machine_rank": "which of them this one is, from 0",
    "main_process_ip": "address of machine 0",
    "main_process_port": "its port",
}


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--launch` and the options of `accelerate launch` that it passes on."""
    group = parser.add_argument_group("many processes")
    group.add_argument("--launch", metavar="NAME", help=f"{', '.join(names())}, or an Accelerate configuration file")
    for name, description in _PLACES.items():
        group.add_argument(f"--{name}", metavar="VALUE", help=description)


def names() -> list[str]:
    """Return the configurations that come with the package."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def launch(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Start the processes and wait for them.

    Args:
        arguments: The command line, understood.
        words: The same command line; it is what each process runs, without what this function takes.

    Raises:
        RecipeError: There is no such configuration.
        TicketsError: A process failed; it has said why.
    """
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command, launch_command_parser

    configuration = _configuration(arguments.launch)
    options = ["--config_file", str(configuration)]
    places = {name: getattr(arguments, name) for name in _PLACES}
    if places["num_processes"] is None:
        machines = places["num_machines"] or load_config_from_file(str(configuration)).num_machines
        places["num_processes"] = _devices() * int(machines)
    for name, value in places.items():
        options += [f"--{name}", str(value)] if value is not None else []
    own = _without(words, ("launch", *_PLACES))
    try:
        launch_command(launch_command_parser().parse_args([*options, "-m", "hf_tickets", *own]))
    except Exception as error:
        if type(error).__name__ != "ChildFailedError":
            raise
        raise TicketsError(f"{arguments.launch}: a process failed, and the others were ended") from None
    return 0


def _folder() -> Path:
    """Where the configurations lie: in the installed package, or beside it in a checkout."""
    package = Path(hf_tickets.__file__).parent
    return next((path for path in (package / "recipes", package.parent / "recipes") if path.is_dir()), package) / (
        "accelerate"
    )


def _configuration(name: str) -> Path:
    for path in (Path(name), _folder() / f"{name}.yaml"):
        if path.is_file():
            return path
    raise RecipeError(f"--launch {name}: there is no such file, and the names are {', '.join(names())}")


def _devices() -> int:
    import torch

    return torch.accelerator.device_count() or 1


def _without(words: Sequence[str], options: Sequence[str]) -> list[str]:
    """Leave out options and their values."""
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, equals, _ = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in options:
            rest.append(word)
        elif not equals and queue:
            queue.pop(0)
    return rest
