"""A study of a few seconds on scikit-learn's digits, and the commands that run it as processes of their own."""

import json
import logging
import os
import signal
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import launching
from launching import CONTEXT

from hf_tickets.studies.results import load_results

RECIPE = """
family: image-classification
model: test_resnet
pretrained: false
dataset: sklearn/digits
labels: [0, 1, 2]
image_size: 32
horizontal_flip: false
maximum_training_examples: 16
maximum_evaluation_examples: 16
sparsities: [0.5]
max_steps: 4
per_device_train_batch_size: 4
learning_rate: 1e-3
save_strategy: steps
save_steps: 1
use_cpu: true
report_to: none
pretrain:
  max_steps: 2
"""
STUDY = """
description: Two sources, two targets.
output_dir: study
sources:
  low: {recipe: recipe.yaml}
  high: {recipe: recipe.yaml, labels: [3, 4, 5], pretrain: {labels: [0, 1, 2]}}
targets:
  low: {recipe: recipe.yaml}
  high: {recipe: recipe.yaml, labels: [3, 4, 5]}
sparsities: [0.5]
controls: [ticket, random, dense]
seeds: [1]
"""


def write(folder: Path, study: str = STUDY) -> None:
    """Write the recipe and the study into a folder."""
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "study.yaml").write_text(study)


def start(folder: Path, log: Path, *words: str) -> ForkServerProcess:
    """`hf-tickets study run study.yaml` in a folder, forked from a process that has done the imports."""
    process = CONTEXT.Process(target=_run, args=(str(folder), str(log), words))
    launching.start(process)
    return process


def _run(folder: str, log: str, words: tuple[str, ...]) -> None:
    os.setsid()
    os.chdir(folder)
    output = os.open(f"{log}.output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    run_cell = logging.getLogger("hf_tickets.studies.run_cell")
    run_cell.setLevel(logging.INFO)
    run_cell.addHandler(logging.FileHandler(log))
    from hf_tickets.cli.main import main

    sys.exit(main(["study", "run", "study.yaml", *words]))


def kill(process: ForkServerProcess) -> None:
    """End a process at once, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.join(30)


def files(folder: Path) -> dict[str, int]:
    """Every file of a study, and when it was written last."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def outcome(folder: Path) -> list[Any]:
    """What a study measured, without times."""
    table = load_results(folder).drop(columns=["seconds"])
    return json.loads(table.to_json(orient="records"))
