"""Model cards: what the Hub reads from, and demands of, the metadata at the top of a README."""

import re
from collections.abc import Mapping
from typing import Any

import yaml

from hub.repositories import File

# How the Hub finds the metadata: a block between lines of three dashes at the very start.
METADATA = re.compile(r"^(\s*---[\r\n]+)([\S\s]*?)([\r\n]+---(\r\n|\n|$))")
# The identifiers the Hub names when it refuses a license.
_LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0
cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0
cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr
mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
grok2-community gemma unknown other
"""
LICENSES = frozenset(_LICENSES.split())
RELATIONS = ("adapter", "finetune", "merge", "quantized")
MODEL_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
TASK_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def metadata(content: str) -> Any:
    """What lies between the dashes, parsed; None without a block. Raises yaml.YAMLError."""
    match = METADATA.search(content)
    return None if match is None else yaml.safe_load(match.group(2))


def check(content: str) -> tuple[list[str], list[str]]:
    """The errors for which the Hub refuses a README, and its warnings."""
    try:
        card = metadata(content)
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"], []
    if card is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(card, dict):
        return ["YAML Metadata Error: the metadata must be an object"], []
    errors = [*_license_errors(card), *_list_errors(card), *_name_errors(card)]
    if "model-index" in card:
        errors += _index_errors(card["model-index"])
    return errors, []


def _license_errors(card: Mapping[str, Any]) -> list[str]:
    named = card.get("license", [])
    licenses = named if isinstance(named, list) else [named]
    if all(isinstance(name, str) and name in LICENSES for name in licenses):
        return []
    return [f'"license" must be one of [{", ".join(sorted(LICENSES))}, array]']


def _list_errors(card: Mapping[str, Any]) -> list[str]:
    errors = []
    for key in ("tags", "datasets", "metrics", "language", "base_model"):
        value = card.get(key, [])
        if isinstance(value, str) and key != "tags":
            continue
        if not isinstance(value, list):
            errors.append(f'"{key}" must be an array' + ("" if key == "tags" else " or a string"))
        else:
            errors += [f'"{key}[{n}]" must be a string' for n, item in enumerate(value) if not isinstance(item, str)]
    return errors


def _name_errors(card: Mapping[str, Any]) -> list[str]:
    errors = []
    for key in ("pipeline_tag", "library_name", "license_name", "license_link", "base_model_relation"):
        if key in card and not isinstance(card[key], str):
            errors.append(f'"{key}" must be a string')
    pipeline = card.get("pipeline_tag")
    if isinstance(pipeline, str) and not TASK_NAME.fullmatch(pipeline):
        errors.append('"pipeline_tag" must be a valid task')
    relation = card.get("base_model_relation")
    if isinstance(relation, str) and relation not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    for name in base_models(card):
        if not MODEL_NAME.fullmatch(name):
            errors.append(f'"base_model" with value "{name}" is not valid. Use a model id of the Hub.')
    return errors


def _index_errors(index: Any) -> list[str]:
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for number, model in enumerate(index):
        where = f"model-index[{number}]"
        if not isinstance(model, dict):
            errors.append(f'"{where}" must be of type object')
            continue
        if not isinstance(model.get("name"), str):
            errors.append(f'"{where}.name" is required')
        if not isinstance(model.get("results"), list):
            errors.append(f'"{where}.results" is required')
            continue
        for position, result in enumerate(model["results"]):
            errors += _result_errors(result, f"{where}.results[{position}]")
    return errors


def _result_errors(result: Any, where: str) -> list[str]:
    if not isinstance(result, dict):
        return [f'"{where}" must be of type object']
    errors = []
    for part, needed in (("task", ("type",)), ("dataset", ("type", "name"))):
        value = result.get(part)
        if not isinstance(value, dict):
            errors.append(f'"{where}.{part}" is required')
        else:
            errors += [f'"{where}.{part}.{key}" is required' for key in needed if not isinstance(value.get(key), str)]
    measured = result.get("metrics")
    if not isinstance(measured, list):
        return [*errors, f'"{where}.metrics" is required']
    for position, metric in enumerate(measured):
        if not isinstance(metric, dict) or not isinstance(metric.get("type"), str):
            errors.append(f'"{where}.metrics[{position}].type" is required')
        elif "value" not in metric:
            errors.append(f'"{where}.metrics[{position}].value" is required')
    return errors


def base_models(card: Mapping[str, Any]) -> list[str]:
    """The names under base_model."""
    return texts(card.get("base_model"))


def texts(value: Any) -> list[str]:
    """The strings in a value that is one string or a list."""
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, str)]


def card_of(files: Mapping[str, File]) -> dict[str, Any]:
    """The metadata of a repository's README; empty when there is none to be read."""
    try:
        card = metadata(files["README.md"].content.decode()) if "README.md" in files else None
    except (yaml.YAMLError, UnicodeDecodeError):
        card = None
    return card if isinstance(card, dict) else {}


def library_of(files: Mapping[str, File], card: Mapping[str, Any]) -> str | None:
    """The library the card names, or the one that writes such files."""
    if isinstance(card.get("library_name"), str):
        return card["library_name"]
    if "adapter_config.json" in files:
        return "peft"
    return "transformers" if "config.json" in files else None


def tags_of(files: Mapping[str, File], card: Mapping[str, Any]) -> list[str]:
    """The tags the Hub gives a model: its own, and those that follow from the card and the files."""
    library, pipeline = library_of(files, card), card.get("pipeline_tag")
    tags = [library] if library else []
    if any(path.endswith(".safetensors") for path in files):
        tags.append("safetensors")
    tags += texts(card.get("tags"))
    tags += [pipeline] if isinstance(pipeline, str) else []
    tags += ["model-index"] if card.get("model-index") else []
    tags += texts(card.get("language"))
    tags += [f"dataset:{name}" for name in texts(card.get("datasets"))]
    named = base_models(card)
    if named:
        relation = card.get("base_model_relation")
        if relation is None:
            relation = "adapter" if library == "peft" else "merge" if len(named) > 1 else "finetune"
        tags += [f"base_model:{name}" for name in named]
        tags += [f"base_model:{relation}:{name}" for name in named]
    tags += [f"license:{name}" for name in texts(card.get("license"))]
    return list(dict.fromkeys([*tags, "region:us"]))
