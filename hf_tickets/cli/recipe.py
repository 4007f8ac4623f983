"""Recipes: YAML files whose keys are dataclass fields, with the command line on top."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from hf_tickets.cli.conversion import Written, convert, read_yaml, typed_text
from hf_tickets.cli.options import Option, training_options
from hf_tickets.errors import RecipeError, TicketsError

Configuration = TypeVar("Configuration")

_DESCRIPTION = Option("description", "str", "", "what the recipe is for")


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read and checked.

    Args:
        path: The file.
        values: Field → value, only of the fields that were given.
        sections: Name of a nested section → its own field → value, only of the sections that were given.
        description: What the recipe is for.
    """

    path: Path
    values: dict[str, Any]
    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    description: str = ""

    def section(self, name: str) -> "Recipe":
        """Return the section `name` as a recipe: this recipe's values, the section's own in their place."""
        return Recipe(self.path, {**self.values, **self.sections.get(name, {})}, {}, self.description)

    def over(self, values: Mapping[str, Any], sections: Mapping[str, dict[str, Any]] | None = None) -> "Recipe":
        """Return this recipe with other values, and values of sections, in the place of its own."""
        names = dict.fromkeys((*self.sections, *(sections or {})))
        merged = {name: {**self.sections.get(name, {}), **(sections or {}).get(name, {})} for name in names}
        return Recipe(self.path, {**self.values, **values}, merged, self.description)

    def to_dict(self) -> dict[str, Any]:
        """Return what was given as plain values, as a recipe file has them."""
        return {**self.values, **self.sections}

    def build(self, configuration: Callable[..., Configuration]) -> Configuration:
        """Return an instance of the dataclass `configuration`, made from the values that it has fields for.

        Raises:
            RecipeError: A field without a default was not given, or the dataclass refuses a value.
        """
        known = [item for item in fields(configuration) if item.init]  # type: ignore[arg-type]
        for item in known:
            required = item.default is MISSING and item.default_factory is MISSING
            if required and item.name not in self.values:
                raise RecipeError(f"{self.path}: {item.name} is missing; add it, or give --{item.name}")
        given = {item.name: self.values[item.name] for item in known if item.name in self.values}
        try:
            return configuration(**given)
        except (TicketsError, TypeError, ValueError) as error:
            raise RecipeError(f"{self.path}: {' '.join(str(error).split())}") from error

    def training_arguments(self) -> dict[str, Any]:
        """Return the values that are fields of `transformers.TrainingArguments`, as its keyword arguments."""
        names = [option.name for option in training_options()]
        return {name: self.values[name] for name in names if name in self.values}


def load_recipe(
    path: str | Path,
    overrides: Mapping[str, str],
    options: Mapping[str, Option],
    sections: Mapping[str, Iterable[Option]] | None = None,
) -> Recipe:
    """Read the recipe at `path`, put the command line's values on top, and convert each to its field's type.

    Args:
        path: A YAML file.
        overrides: Field, or section.field → the text that the command line gives it.
        options: Name → field that a recipe may have.
        sections: Name of a nested section → the fields it may have besides `options`.

    Raises:
        RecipeError: The file cannot be read, a key is unknown, or a value is not of its field's type.
    """
    path = Path(path)
    tables = {name: {**options, **{item.name: item for item in own}} for name, own in (sections or {}).items()}
    top = {**options, _DESCRIPTION.name: _DESCRIPTION}
    written = read_file(path)
    if "sources" in [key for key, _, _ in written.items()]:
        raise RecipeError(f"{path}: is a study, not the recipe of one run; give `hf-tickets study run {path}`")
    values, nested = read_values(written.items(), path, top, tables)
    for name, text in overrides.items():
        section, dot, key = name.replace("-", "_").rpartition(".")
        if section and section not in tables:
            raise RecipeError(f"--{name}: no section is named {section}{_nearest(section, tables)}")
        target = nested.setdefault(section, {}) if section else values
        target[key] = override(tables[section] if section else options, key, text, f"--{section}{dot}")
    description = values.pop(_DESCRIPTION.name, "")
    return Recipe(path, values, nested, description)


def read_values(
    entries: Iterable[tuple[str, int, Written]],
    path: Path,
    options: Mapping[str, Option],
    sections: Mapping[str, Mapping[str, Option]],
    prefix: str = "",
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return what the entries of a mapping say: field → value, and section → field → value.

    Args:
        entries: Key, line and value of each.
        path: The file it stands in.
        options: Name → field that it may have.
        sections: Name → fields of a section that it may have.
        prefix: What its keys belong to, such as "pretrain.".

    Raises:
        RecipeError: A key is unknown, or a value is not of its field's type.
    """
    values: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, line, item in entries:
        where = f"{path}:{line}: {prefix}"
        if key in sections:
            inner = entries_of(item, f"{where}{key}")
            nested[key] = read_values(inner, path, sections[key], {}, f"{prefix}{key}.")[0]
        else:
            option = _find(options, key, where, (*options, *sections))
            values[key] = _convert(item, option, f"{where}{key}")
    return values, nested


def entries_of(written: Written, where: str) -> list[tuple[str, int, Written]]:
    """Return key, line and value of each entry of a section; none where nothing is written.

    Raises:
        RecipeError: It is no section.
    """
    if not written.is_mapping and not written.is_null:
        raise RecipeError(f"{where} is a section: indent its own keys and values below it")
    return list(written.items()) if written.is_mapping else []


def override(table: Mapping[str, Option], key: str, text: str, before: str = "--") -> Any:
    """Return what the command line's text means for a field.

    Raises:
        RecipeError: The key is unknown, or the value is not of its field's type.
    """
    return _convert(text, _find(table, key, before, table), f"{before}{key}")


def unknown_option(name: str, valid: Iterable[str]) -> RecipeError:
    """Return the error for an option `name` of the command line that is not among `valid`."""
    return RecipeError(f"--{name} is not an option{_nearest(name.replace('-', '_'), valid, '--')}")


def read_file(path: Path) -> Written:
    """Return the mapping that a YAML file holds.

    Raises:
        RecipeError: There is none.
    """
    if path.is_dir():
        raise RecipeError(f"{path}: is a folder; a recipe is a YAML file{_recipe_nearby(path)}")
    if not path.is_file():
        raise RecipeError(f"{path}: no such recipe{_recipe_nearby(path)}")
    try:
        written = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read: {error}") from error
    except RecipeError as error:
        raise RecipeError(f"{path}:{error}") from error
    if written is None:
        raise RecipeError(f"{path}:1: the recipe is empty; it needs lines such as `learning_rate: 2e-5`")
    if not written.is_mapping:
        raise RecipeError(f"{path}:{written.line}: not a mapping; a recipe has lines such as `learning_rate: 2e-5`")
    return written


def _find(table: Mapping[str, Option], key: str, before: str, valid: Iterable[str]) -> Option:
    if key not in table:
        raise RecipeError(f"{before}{key}: unknown key{_nearest(key, valid)}")
    return table[key]


def _convert(written: Written | str, option: Option, where: str) -> Any:
    try:
        return convert(typed_text(written, option) if isinstance(written, str) else written, option)
    except RecipeError as error:
        raise RecipeError(f"{where} {error}") from error


def _nearest(name: str, valid: Iterable[str], prefix: str = "") -> str:
    found = difflib.get_close_matches(name, list(valid), 1)
    return f"; nearest: {prefix}{found[0]}" if found else "; `hf-tickets find --help` lists the keys"


def _recipe_nearby(path: Path) -> str:
    """Suggest the recipe of the nearest name in the folder that was meant and in `recipes/`."""
    folder = path if path.is_dir() else path.parent
    recipes = [*folder.glob("*.yaml"), *Path("recipes").rglob("*.yaml")]
    names = {recipe.stem: recipe for recipe in recipes} | {str(recipe): recipe for recipe in recipes}
    found = difflib.get_close_matches(path.stem, names, 1) or difflib.get_close_matches(str(path), names, 1)
    return f"; did you mean {names[found[0]]}?" if found else "; give the path of a YAML file"
