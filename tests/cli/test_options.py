"""The table of options is what the dataclasses say, without importing what is slow to import."""

import dataclasses
import subprocess
import sys

import pytest

from hf_tickets.cli.options import (
    COMPUTED,
    REQUIRED,
    dataclass_options,
    help_text,
    options_table,
    parse_options,
    recipe_options,
    training_options,
)


def test_training_options_are_the_fields_of_the_installed_class():
    from transformers import TrainingArguments

    fields = [field for field in dataclasses.fields(TrainingArguments) if field.init]
    assert [option.name for option in training_options()] == [field.name for field in fields]
    for option, field in zip(training_options(), fields, strict=True):
        assert option.help == field.metadata["help"]
        if option.default is not COMPUTED:
            factory = field.default_factory
            assert option.default == (field.default if factory is dataclasses.MISSING else factory())


def test_few_training_defaults_are_left_to_the_class():
    computed = [option.name for option in training_options() if option.default is COMPUTED]
    assert computed in ([], ["optim"])


def test_source_is_read_as_dataclasses_reads_it():
    source = '''
import dataclasses
from dataclasses import dataclass, field
from typing import ClassVar, Optional

@dataclass
class Settings:
    """Text."""
    kind: ClassVar[str] = "x"
    first: Optional[int]
    second: float = 1e-3
    third: list[str] = field(default_factory=list, metadata={"help": "names" " and more", "n": len("a")})
    hidden: int = field(init=False, default=3)
    fourth: str = dataclasses.field(default=str(5))
    plain = 4
'''
    namespace: dict = {"__name__": __name__}
    exec(source, namespace)
    fields = [field for field in dataclasses.fields(namespace["Settings"]) if field.init]
    options = parse_options(source, "Settings", "group")
    assert [option.name for option in options] == [field.name for field in fields]
    assert [option.default for option in options] == [REQUIRED, 1e-3, [], COMPUTED]
    assert options[0].annotation == "Optional[int]"
    assert options[2].help == "names and more"


def test_own_dataclass_gives_its_types_defaults_help_and_choices():
    @dataclasses.dataclass
    class Settings:
        amount: float
        names: list[str] | None = dataclasses.field(default=None, metadata={"help": "names"})
        share: str = dataclasses.field(default="a", metadata={"choices": ["a", "b"]})
        made: int = dataclasses.field(init=False)

    amount, names, share = dataclass_options(Settings, "mine")
    assert (amount.annotation, amount.default, amount.group) == ("float", REQUIRED, "mine")
    assert (names.annotation, names.default, names.help) == ("list[str] | None", None, "names")
    assert share.choices == ("a", "b")


def test_name_shared_by_two_groups_is_one_option_of_the_first():
    @dataclasses.dataclass
    class Settings:
        seed: int = 7

    table = options_table({"mine": Settings})
    assert (table["seed"].group, table["seed"].default) == ("mine", 7)
    assert len(table) == len(training_options())


def test_every_recipe_option_has_help_and_a_type_that_a_recipe_can_express():
    from hf_tickets.cli.conversion import kinds

    for option in recipe_options().values():
        assert option.help, option.name
        assert kinds(option.annotation), option


@pytest.mark.parametrize("width", [60, 80, 200])
def test_help_names_every_option_once_and_fits_the_terminal(width):
    options = recipe_options().values()
    lines = help_text(options, width).splitlines()
    for option in options:
        (line,) = [line for line in lines if line.startswith(f"  --{option.name} ")]
        assert option.annotation in line or option.choices
    assert all(len(line) <= width for line in lines if line.startswith("      "))
    headings = [line for line in lines if line and not line.startswith(" ")]
    assert headings == ["task:", "pruning:", "rewinding:", "training arguments:"]


def test_table_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from hf_tickets.cli.options import recipe_options; recipe_options();"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'yaml', 'rich'} & set(sys.modules);"
        "sys.exit(','.join(heavy))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.stderr.strip() == ""
