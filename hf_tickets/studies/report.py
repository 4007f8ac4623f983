"""The report of a study: one page that holds everything, and its tables and pictures as files beside it."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas
import yaml

from hf_tickets.errors import RunFolderError
from hf_tickets.files import write_atomically
from hf_tickets.pruning.mask import Mask
from hf_tickets.studies.formatting import percent
from hf_tickets.studies.sections import SECTIONS, Section, Study
from hf_tickets.trainer.provenance import versions

PAGE_FILE = "index.html"
RESULTS_FILE = "results.csv"

_TEMPLATE = "report.html"
_COLUMNS = (
    *("kind", "source", "target", "control", "sparsity", "wanted", "seed", "search_seed", "metric", "value"),
    *("greater_is_better", "metrics", "steps", "seconds", "status", "error", "folder", "key"),
)
_LISTED = 12  # names that a line of facts bears


def write_report(
    results: pandas.DataFrame,
    settings: Mapping[str, Any],
    masks: Mapping[str, Mapping[float, Mask]],
    folder: Path,
) -> Path:
    """Write a study's report: a page with everything in it, and its pictures and tables as PNG and CSV.

    Args:
        results: A row a measurement, as `load_results` gives them.
        settings: The study's settings, as in study.json: description, sources, targets, sparsities, controls, seeds,
            margin; all may be missing.
        masks: Masks of the tickets by source and sparsity; may be empty.
        folder: Where to write; a folder in the study's, as links lead from there to the folders of runs.

    Returns:
        Path of the page.

    Raises:
        RunFolderError: The results lack a column, or the report cannot be written.
    """
    missing = [name for name in _COLUMNS if name not in results.columns]
    if missing:
        raise RunFolderError(f"these are no results of a study: they have no {', '.join(missing)}")
    study = Study(results, settings, masks)
    sections = [section for make in SECTIONS if (section := make(study)) is not None]
    tables = {name: table for section in sections for name, table in section.files.items()}
    text = _page(study, sections, folder)
    try:
        for name, table in tables.items():
            _write_table(folder / f"{name}.csv", table)
        _write_table(folder / RESULTS_FILE, results.assign(metrics=results["metrics"].map(_json)))
        for section in sections:
            for picture in (picture for part in section.parts for picture in part.pictures):
                write_atomically(folder / f"{picture.name}.png", picture.png)
        write_atomically(folder / PAGE_FILE, text.encode())
    except OSError as error:
        raise RunFolderError(f"{folder}: cannot write the report: {error.strerror}; mend that and run again") from None
    return folder / PAGE_FILE


def _page(study: Study, sections: list[Section], folder: Path) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    settings = study.settings
    name = settings.get("name") or folder.absolute().parent.name
    missing = study.results.drop_duplicates("key")["status"].value_counts()
    failed = int(missing.get("failed", 0))
    shown = [
        {
            "anchor": section.anchor,
            "title": section.title,
            "text": section.text,
            "parts": section.parts,
            "files": [f"{file}.csv" for file in section.files] + ([RESULTS_FILE] if section.anchor == "runs" else []),
        }
        for section in sections
    ]
    return environment.get_template(_TEMPLATE).render(
        title=f"Study: {name}",
        description=str(settings.get("description") or "").split("\n\n"),
        facts=_facts(study),
        warning=f"{failed} cell{'s' if failed > 1 else ''} of this study failed." if failed else "",
        sections=shown,
        settings=yaml.safe_dump(json.loads(_json(dict(settings))), sort_keys=False, allow_unicode=True),
        date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        versions=versions(),
    )


def _facts(study: Study) -> dict[str, str]:
    """Return what the study is, in a few lines; what it does not have is left out."""
    status = study.results.drop_duplicates("key")["status"].value_counts()
    counts = [f"{status[name]} {name}" for name in ("done", "failed", "running", "waiting") if name in status]
    settings = study.settings
    facts = {
        "cells": ", ".join(counts) or "none",
        "sources": _listed(settings.get("sources")),
        "targets": _listed(settings.get("targets")),
        "sparsities": _listed([percent(value) for value in settings.get("sparsities") or ()]),
        "controls": _listed(settings.get("controls")),
        "seeds": _listed(settings.get("seeds")),
        "margin": "" if study.margin is None else f"{study.margin:g}, in the metric's unit",
    }
    return {name: value for name, value in facts.items() if value}


def _listed(names: Any) -> str:
    listed = [str(name) for name in names or ()]
    return ", ".join(listed[:_LISTED]) + (f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else "")


def _write_table(path: Path, table: pandas.DataFrame) -> None:
    write_atomically(path, table.to_csv(index=False).encode())


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
