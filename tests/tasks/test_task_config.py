"""Recipe keys: instant to import, self-describing, and refused when wrong before anything is loaded."""

import subprocess
import sys
from dataclasses import fields

import pytest

from hf_tickets.errors import RecipeError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.registry import FAMILIES, prepare


def test_the_recipe_keys_need_no_heavy_library() -> None:
    code = (
        "import sys, hf_tickets.tasks.config, hf_tickets.tasks.registry\n"
        "heavy = {'torch', 'transformers', 'datasets', 'evaluate', 'timm', 'numpy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_key_has_a_help_text() -> None:
    assert all(len(key.metadata["help"]) > 10 for key in fields(TaskConfig))


def test_tasks_know_nothing_of_pruning() -> None:
    code = (
        "import sys, importlib, hf_tickets.tasks.registry as r\n"
        "[importlib.import_module(f.module) for f in r.FAMILIES.values()]\n"
        "own = {m for m in sys.modules if m.startswith('hf_tickets.')}\n"
        "below = ('hf_tickets.tasks', 'hf_tickets.errors', 'hf_tickets.paths', 'hf_tickets.quiet')\n"
        "own = {m for m in own if not m.startswith(below)}\n"
        "sys.exit(', '.join(own) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TaskConfig("text-clasification", "x"), "nearest: text-classification"),
        (TaskConfig("image-classification", "x", task="rte"), "task: only text-classification tasks"),
        (TaskConfig("text-classification", "x", image_size=3), "image_size: only image tasks"),
        (TaskConfig("text-classification", "x", task="stbs"), "nearest: stsb"),
        (TaskConfig("text-classification", "x", max_length=0), "max_length: 0"),
        (TaskConfig("text-classification", "x", task_seed=-1), "task_seed: -1"),
        (TaskConfig("text-classification", "x", problem_type="regresion"), "nearest: regression"),
        (TaskConfig("text-classification", "x", text_columns=["a", "b", "c"]), "not 3"),
    ],
)
def test_a_wrong_key_is_one_line_that_says_which(config: TaskConfig, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        prepare(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_family_says_how_it_is_prepared() -> None:
    assert set(FAMILIES) >= {"text-classification", "image-classification"}
