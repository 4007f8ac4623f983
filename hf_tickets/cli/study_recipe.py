"""Study recipes: a grid, and the recipes of its sources and targets."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_tickets.cli.find import SECTIONS
from hf_tickets.cli.options import Option, recipe_options, study_options
from hf_tickets.cli.recipe import Recipe, entries_of, load_recipe, override, read_file, read_values
from hf_tickets.errors import RecipeError
from hf_tickets.studies.config import StudyConfig

if TYPE_CHECKING:
    from hf_tickets.studies.study import Source, Study, Training

_DESCRIPTION = Option("description", "str", "", "what the study is for")
_RECIPE = Option("recipe", "str", help="the recipe file, relative to the study's")
_SHARED, _BASE, _SOURCES, _TARGETS = "recipes", "base", "sources", "targets"

Body = tuple[dict[str, Any], dict[str, dict[str, Any]]]  # values of a recipe, and of its sections


def read_grid(path: Path, overrides: Mapping[str, str]) -> tuple[StudyConfig, str, dict[str, Body]]:
    """Read a study recipe itself, not yet the recipes that it names.

    Args:
        path: A YAML file.
        overrides: Field, or recipes.field, base.field, sources.name.field, targets.name.field → the command line's
            text.

    Returns:
        The grid, the description, and "recipes", "base", "sources.name", "targets.name" → what stands there.

    Raises:
        RecipeError: The file cannot be read, a key is unknown, or a value is wrong.
    """
    grid, fields = study_options(), recipe_options()
    body = {**fields, _RECIPE.name: _RECIPE}
    sections = {name: {**fields, **{option.name: option for option in own}} for name, own in SECTIONS.items()}
    special = dict.fromkeys((_SHARED, _BASE, _SOURCES, _TARGETS), grid)
    entries = list(read_file(path).items())
    if "family" in [key for key, _, _ in entries]:
        raise RecipeError(f"{path}: is the recipe of one run, not a study; give `hf-tickets find {path}`")
    own = [entry for entry in entries if entry[0] not in special]
    values, _ = read_values(own, path, {**grid, _DESCRIPTION.name: _DESCRIPTION}, special)
    bodies: dict[str, Body] = {_SHARED: ({}, {})}
    for key, line, written in (entry for entry in entries if entry[0] in special):
        where = f"{path}:{line}: {key}"
        if key == _SHARED:
            bodies[key] = read_values(entries_of(written, where), path, fields, {}, f"{key}.")
        elif key == _BASE:
            bodies[key] = read_values(entries_of(written, where), path, body, {}, f"{key}.")
        else:
            for name, inner_line, inner in entries_of(written, where):
                place = f"{key}.{name}"
                inner_entries = entries_of(inner, f"{path}:{inner_line}: {place}")
                bodies[place] = read_values(inner_entries, path, body, sections, f"{place}.")
    for name, text in overrides.items():
        place, dot, key = name.rpartition(".")
        if place and place not in bodies:
            raise RecipeError(f"--{name}: the study has no {place}; it has {', '.join(bodies)}")
        target = bodies[place][0] if place else values
        target[key] = override(body if place else grid, key, text, f"--{place}{dot}")
    description = values.pop(_DESCRIPTION.name, "")
    if "output_dir" not in values:
        raise RecipeError(f"{path}: output_dir is missing; add it, or give --output_dir")
    try:
        return StudyConfig(**values), description, bodies
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def load_study(path: str | Path, overrides: Mapping[str, str]) -> "Study":
    """Read a study recipe and the recipes that it names.

    Args:
        path: A YAML file.
        overrides: As in `read_grid`.

    Raises:
        RecipeError: A file cannot be read, a key is unknown, or a value is wrong.
    """
    from hf_tickets.studies.study import Study

    path = Path(path)
    config, description, bodies = read_grid(path, overrides)
    shared, _ = bodies.pop(_SHARED)
    sources: dict[str, Source] = {}
    targets: dict[str, Training] = {}
    base = None
    for place, body in bodies.items():
        kind, _, name = place.partition(".")
        try:
            recipe = _recipe(path, shared, body, config.output_dir)
            if kind == _SOURCES:
                sources[name] = _source(recipe, own_model="model" in body[0])
            elif kind == _TARGETS:
                targets[name] = _training(recipe)
            else:
                base = _training(recipe)
        except RecipeError as error:
            raise RecipeError(f"{path}: {place}: {error}") from error
    return Study(config, sources, targets, base, description)


def _recipe(study: Path, shared: dict[str, Any], body: Body, output_dir: str) -> Recipe:
    """Return the recipe of a source or target: the file, then what all share, then its own values."""
    from hf_tickets.tasks.registry import FAMILIES, unread_keys

    own, sections = body
    if "recipe" not in own:
        raise RecipeError("recipe: is missing; name a recipe file")
    recipe = load_recipe(study.parent / own["recipe"], {}, recipe_options(), SECTIONS)
    values = {name: value for name, value in own.items() if name != "recipe"}
    family = values.get("family", shared.get("family", recipe.values.get("family")))
    unread = unread_keys(family) if family in FAMILIES else {}
    shared = {name: value for name, value in shared.items() if name not in unread}
    return recipe.over({"output_dir": output_dir} | shared).over(values, sections)


def _training(recipe: Recipe, section: str | None = None) -> "Training":
    from hf_tickets.cli.settings import Settings
    from hf_tickets.studies.study import Training

    settings = Settings.read(recipe) if section is None else Settings.of_section(recipe, section)
    training = {name: value for name, value in settings.training.items() if name != "output_dir"}
    return Training(settings.task, training, recipe.path.name)


def _source(recipe: Recipe, own_model: bool) -> "Source":
    from hf_tickets.pruning.config import PruningConfig
    from hf_tickets.studies.study import Source
    from hf_tickets.trainer.rewind import RewindConfig

    found_on = _training(recipe)
    return Source(
        **vars(found_on),
        pruning=recipe.build(PruningConfig),
        rewind=recipe.build(RewindConfig),
        pretrain=_training(recipe, "pretrain") if "pretrain" in recipe.sections else None,
        own_model=own_model,
    )
