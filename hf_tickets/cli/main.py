"""The `hf-tickets` command: subcommands, the options that override a recipe, errors as one line, exit codes.

A subcommand is a module of this package with `add_parser(subparsers)` and `run(arguments) -> int`, named in
`COMMANDS`. It keeps heavy imports inside `run`, so that help is instant. One that reads a recipe passes
`options=…` (what returns the table of a recipe's fields) to `subparsers.add_parser`; its `run` then takes the
overrides of the command line too: `run(arguments, overrides)`.
"""

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from hf_tickets import __version__
from hf_tickets.errors import RecipeError, TicketsError

if TYPE_CHECKING:
    from hf_tickets.cli.options import Option

COMMANDS = (
    "find",
    "train",
    "study",
    "inspect",
    "compare",
    "perturb",
    "push",
    "publish",
    "list",
    "export",
    "convert",
    "env",
)

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class CommandParser(argparse.ArgumentParser):
    """Argument parser that reports errors as exceptions and, on help, lists the fields of a recipe.

    Args:
        options: Returns the fields of a recipe that the command line may override; called only when needed.
    """

    def __init__(self, *args: Any, options: "Callable[[], Mapping[str, Option]] | None" = None, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)
        self.options = options

    def format_help(self) -> str:
        """Return the help, followed by the fields of a recipe."""
        if self.options is None:
            return super().format_help()
        from hf_tickets.cli.options import help_text

        introduction = (
            "Every field of the recipe can be given as --field value; a section's as --section.field value.\n"
            "A list is written a,b or [a, b]; --field alone means true.\n"
        )
        return f"{super().format_help()}\n{introduction}\n{help_text(self.options().values())}"

    def error(self, message: str) -> NoReturn:
        """Raise the error as one line, in place of argparse's usage and exit."""
        raise RecipeError(f"{message} (see `{self.prog} --help`)")


def make_parser() -> tuple[CommandParser, dict[str, CommandParser]]:
    """Return the parser of the whole command line, and that of each subcommand by name."""
    parser = CommandParser(
        prog="hf-tickets", description="Find, use and inspect lottery tickets of pre-trained models."
    )
    parser.add_argument("--version", action="version", version=f"hf-tickets {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=CommandParser)
    for command in COMMANDS:
        importlib.import_module(f"hf_tickets.cli.{command}").add_parser(subparsers)
    return parser, dict(subparsers.choices)


def parse_command_line(words: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str] | None]:
    """Split the command line into the command's own arguments and what overrides the recipe.

    Returns:
        The arguments, and field → text; None for a command without a recipe.

    Raises:
        RecipeError: A word is not understood.
    """
    parser, commands = make_parser()
    arguments, unknown = parser.parse_known_args(words)
    command = commands[arguments.command]
    if command.options is None:
        if unknown:
            own = re.findall(r"--[\w-]+", command.format_usage())
            nearest = difflib.get_close_matches(unknown[0], own, 1)
            command.error(f"{unknown[0]} is not an option" + (f"; nearest: {nearest[0]}" if nearest else ""))
        return arguments, None
    own_words, overrides = _take_overrides(words, {word for word in unknown if word.startswith("--")})
    arguments = parser.parse_args(own_words)
    fields = command.options()
    valid = [*fields, *re.findall(r"--([\w-]+)", command.format_usage())]
    for name in overrides:
        if "." not in name and name not in fields:  # only the command knows its recipe's sections
            from hf_tickets.cli.recipe import unknown_option

            raise unknown_option(name, valid)
    return arguments, overrides


def _take_overrides(words: Sequence[str], unknown: set[str]) -> tuple[list[str], dict[str, str]]:
    """Take each unknown `--field value`, `--field=value` or `--field` out of `words`, wherever it stands."""
    rest: list[str] = []
    overrides: dict[str, str] = {}
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word not in unknown:
            rest.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not equals:
            value = queue.pop(0) if queue and not queue[0].startswith("--") else "true"
        name = name.replace("-", "_")
        overrides[name] = value
    return rest, overrides


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 for a failed run, 2 for misuse, 130 when interrupted.

    Args:
        words: The words after `hf-tickets`; those of this process by default.
    """
    resumable = False
    try:
        arguments, overrides = parse_command_line(sys.argv[1:] if words is None else words)
        resumable = overrides is not None
        if getattr(arguments, "launch", None) is not None:
            from hf_tickets.cli.launch import launch

            return launch(arguments, sys.argv[1:] if words is None else words)
        command = importlib.import_module(f"hf_tickets.cli.{arguments.command}")
        code = command.run(arguments) if overrides is None else command.run(arguments, overrides)
        sys.stdout.flush()
        return code
    except TicketsError as error:
        _say(f"error: {error}")
        return MISUSED if isinstance(error, RecipeError) else FAILED
    except KeyboardInterrupt:
        _say("stopped; the same command goes on from here" if resumable else "stopped")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the flush at exit must not fail again
        return FAILED


def _say(message: str) -> None:
    sys.stderr.write(f"hf-tickets: {' '.join(message.split())}\n")
