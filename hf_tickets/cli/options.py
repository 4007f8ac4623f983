"""The table of fields that a recipe may have, made without importing torch or transformers.

Importing `transformers.TrainingArguments` takes seconds, so its fields are read from its source
file; a test holds them against the real class.
"""

import ast
import dataclasses
import functools
import importlib.util
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TRAINING = "training arguments"
REQUIRED = dataclasses.MISSING
COMPUTED = ...  # a default that only the class itself can work out


@dataclass(frozen=True)
class Option:
    """One field that a recipe may have.

    Args:
        name: The dataclass field's name, and the recipe's key.
        annotation: The field's type, as written in Python.
        default: The field's default; `REQUIRED` without one, `COMPUTED` where it is not a literal.
        help: What the field does.
        group: Heading under which help lists it.
        choices: The only values allowed; empty for any value of the type.
    """

    name: str
    annotation: str
    default: Any = None
    help: str = ""
    group: str = ""
    choices: tuple[str, ...] = ()


def dataclass_options(configuration: type, group: str) -> list[Option]:
    """Return one option for each field that the dataclass `configuration` can be made with."""
    options = []
    for field in dataclasses.fields(configuration):
        if not field.init:
            continue
        annotation = field.type.__name__ if isinstance(field.type, type) else str(field.type)
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        description = field.metadata.get("help", "")
        choices = tuple(field.metadata.get("choices", ()))
        options.append(Option(field.name, annotation.replace("typing.", ""), default, description, group, choices))
    return options


@functools.cache
def training_options() -> tuple[Option, ...]:
    """Return the fields of the installed `transformers.TrainingArguments`, read from its source."""
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("transformers is not installed; install it with: pip install transformers")
    source = Path(package.origin).with_name("training_args.py").read_text(encoding="utf-8")
    return tuple(parse_options(source, "TrainingArguments", TRAINING))


def parse_options(source: str, class_name: str, group: str) -> list[Option]:
    """Return the options of the dataclass `class_name` in the Python `source`, which is parsed, not run."""
    definition = next(
        node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == class_name
    )
    options = []
    for node in definition.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name, annotation = node.target.id, ast.unparse(node.annotation)
        is_field = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) in _FIELD_CALLS
        arguments = _keywords(node.value) if is_field else {"default": node.value}
        if "ClassVar" in annotation or _literal(arguments.get("init"), True) is False:
            continue
        metadata = _literal_entries(arguments.get("metadata"))
        if isinstance(metadata.get("const"), bool):  # the field also takes a bare `--name`
            annotation = f"bool | {annotation}"
        options.append(Option(name, annotation, _default(arguments), metadata.get("help", ""), group))
    return options


_FIELD_CALLS = ("field", "dataclasses.field")


def _keywords(call: ast.expr | None) -> dict[str, ast.expr | None]:
    return {item.arg: item.value for item in getattr(call, "keywords", []) if item.arg}


def _literal(node: ast.expr | None, otherwise: Any) -> Any:
    try:
        return otherwise if node is None else ast.literal_eval(node)
    except ValueError:  # an expression, not a literal
        return otherwise


def _literal_entries(node: ast.expr | None) -> dict[Any, Any]:
    """Return the entries of a dictionary display whose keys and values are literals."""
    pairs = zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ()
    entries = {_literal(key, None): _literal(value, None) for key, value in pairs}
    return {key: value for key, value in entries.items() if key is not None and value is not None}


def _default(arguments: Mapping[str, ast.expr | None]) -> Any:
    factory = arguments.get("default_factory")
    if factory is not None:
        return {"list": [], "dict": {}}.get(ast.unparse(factory), COMPUTED)
    return _literal(arguments.get("default"), REQUIRED if arguments.get("default") is None else COMPUTED)


def options_table(configurations: Mapping[str, type], *, training_arguments: bool = True) -> dict[str, Option]:
    """Return every field of the dataclasses by name, in order.

    A name that two groups share is one option, listed under the first: its value goes to both.

    Args:
        configurations: Heading of the group → dataclass.
        training_arguments: Whether the fields of `transformers.TrainingArguments` follow.
    """
    options = [option for group, cls in configurations.items() for option in dataclass_options(cls, group)]
    options.extend(training_options() if training_arguments else ())
    table: dict[str, Option] = {}
    for option in options:
        table.setdefault(option.name, option)
    return table


def recipe_options() -> dict[str, Option]:
    """Return the fields of a recipe that `find` and `train` read: task, pruning, rewinding and training."""
    from hf_tickets.pruning.config import PruningConfig
    from hf_tickets.tasks.config import TaskConfig
    from hf_tickets.trainer.rewind import RewindConfig

    return options_table({"task": TaskConfig, "pruning": PruningConfig, "rewinding": RewindConfig})


def study_options() -> dict[str, Option]:
    """Return the fields of a study recipe's grid."""
    from hf_tickets.studies.config import StudyConfig

    return options_table({"study": StudyConfig}, training_arguments=False)


def help_text(options: Iterable[Option], width: int | None = None) -> str:
    """Return the options as text: a heading a group, then name, type, default and one line of help for each.

    Args:
        options: The options, those of a group side by side.
        width: Columns; the terminal's by default.
    """
    width = min(width or shutil.get_terminal_size().columns, 110)
    lines: list[str] = []
    group = None
    for option in options:
        if option.group != group:
            group = option.group
            lines += ["", f"{group}:"]
        lines.append(f"  --{option.name}  {_type_and_default(option)}")
        first_sentence = re.split(r"(?<=[a-z)`'])\. ", option.help, maxsplit=1)[0]
        if first_sentence:
            lines.append("      " + textwrap.shorten(first_sentence.removesuffix("."), width - 6, placeholder=" …"))
    return "\n".join(lines[1:]) + "\n"


def _type_and_default(option: Option) -> str:
    expected = "{" + ",".join(option.choices) + "}" if option.choices else option.annotation
    if option.default is REQUIRED:
        return f"{expected}, required"
    return expected if option.default is COMPUTED else f"{expected} = {option.default!r}"
