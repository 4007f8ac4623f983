"""Recipes: what is written becomes what the field says, and every mistake is one line that says where."""

import dataclasses
import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hf_tickets.cli.options import Option, options_table, training_options
from hf_tickets.cli.recipe import load_recipe
from hf_tickets.errors import PruningError, RecipeError


@dataclasses.dataclass
class Settings:
    model: str
    name: str = "x"
    rate: float = 0.1
    count: int = 1
    maybe: int | None = None
    on: bool = False
    rates: list[float] | None = None
    words: list[str] = dataclasses.field(default_factory=list)
    modules: list[str] | str | None = None
    extra: dict[str, Any] | None = None
    kind: str = dataclasses.field(default="one", metadata={"choices": ["one", "two"]})

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise PruningError("rate must be 0 or more")


OPTIONS = options_table({"settings": Settings})
SECTIONS = {"pretrain": [], "transfer": [Option("controls", "list[str]")]}


def read(tmp_path: Path, text: str, **overrides: str):
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides, OPTIONS, SECTIONS)


def one(tmp_path: Path, key: str, text: str) -> Any:
    return read(tmp_path, f"{key}: {text}\n").values[key]


def typed(tmp_path: Path, key: str, text: str) -> Any:
    return read(tmp_path, "model: bert\n", **{key: text}).values[key]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("learning_rate", "2e-5", 2e-5),
        ("learning_rate", "'2e-5'", 2e-5),
        ("rate", "3", 3.0),
        ("count", '"3"', 3),
        ("maybe", "null", None),
        ("maybe", "None", None),
        ("maybe", "", None),
        ("maybe", "4", 4),
        ("on", "true", True),
        ("on", "False", False),
        ("on", "yes", True),
        ("rates", "[0.1, 2e-1, 1]", [0.1, 0.2, 1.0]),
        ("words", "[a, 1, no]", ["a", "1", "no"]),
        ("modules", "(query|key){1,2}", "(query|key){1,2}"),
        ("modules", "[query, key]", ["query", "key"]),
        ("name", "0123", "0123"),
        ("name", "1e10", "1e10"),
        ("name", "'null'", "null"),
        ("eval_strategy", "no", "no"),
        ("save_strategy", "steps", "steps"),
        ("report_to", "none", "none"),
        ("report_to", "[wandb, trackio]", ["wandb", "trackio"]),
        ("lr_scheduler_kwargs", "{min_lr: 1e-6, cycles: 2}", {"min_lr": 1e-6, "cycles": 2}),
        ("lr_scheduler_kwargs", "settings.json", "settings.json"),
        ("include_num_input_tokens_seen", "true", True),
        ("include_num_input_tokens_seen", "no", "no"),
        ("fsdp", "true", True),
        ("trackio_static_space_id", "false", False),
        ("extra", "{a: {b: [1, 1e-3]}}", {"a": {"b": [1, 1e-3]}}),
    ],
)
def test_written_value_becomes_the_fields_type(tmp_path, key, text, value):
    read_value = one(tmp_path, key, text)
    assert read_value == value
    assert type(read_value) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("learning_rate", "3e-5", 3e-5),
        ("max_steps", "-1", -1),
        ("on", "true", True),
        ("rates", "0.1,0.2, 0.3", [0.1, 0.2, 0.3]),
        ("rates", "[0.1, 2e-1]", [0.1, 0.2]),
        ("rates", "0.5", [0.5]),
        ("rates", "null", None),
        ("words", "a,b", ["a", "b"]),
        ("modules", "query,key", ["query", "key"]),
        ("modules", r"layer\.[0-5],?.*", r"layer\.[0-5],?.*"),
        ("modules", "[ab]c", "[ab]c"),
        ("report_to", "wandb,trackio", ["wandb", "trackio"]),
        ("lr_scheduler_kwargs", '{"min_lr": 1e-6}', {"min_lr": 1e-6}),
        ("name", "a: b", "a: b"),
        ("name", "", ""),
        ("name", "# not a comment", "# not a comment"),
    ],
)
def test_typed_value_becomes_the_fields_type(tmp_path, key, text, value):
    assert typed(tmp_path, key, text) == value


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_survives_in_a_recipe_and_on_the_command_line(tmp_path_factory, value):
    folder = tmp_path_factory.getbasetemp()
    for text in (repr(value), yaml.safe_dump(value).split("\n")[0], f"{value:.17e}"):
        assert one(folder, "rate", text) == value
        assert typed(folder, "rate", text) == value


@given(value=st.integers())
def test_any_integer_survives_as_int_and_as_float_field(tmp_path_factory, value):
    folder = tmp_path_factory.getbasetemp()
    assert one(folder, "count", str(value)) == value
    assert typed(folder, "count", str(value)) == value
    if abs(value) < 2**53:
        read_value = one(folder, "rate", str(value))
        assert isinstance(read_value, float)
        assert read_value == value


@given(value=st.text())
def test_any_text_survives_as_quoted_yaml(tmp_path_factory, value):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": value}, default_style='"'), encoding="utf-8")
    assert load_recipe(path, {}, OPTIONS).values == {"name": value}


@given(value=st.text(alphabet=string.ascii_letters + string.digits + "./:_- #[]{}", min_size=1))
def test_any_typed_text_reaches_a_text_field_unchanged(tmp_path_factory, value):
    if value == "None" or value.lower() == "null":
        return
    assert typed(tmp_path_factory.getbasetemp(), "name", value) == value


@given(values=st.lists(st.floats(0, 1), max_size=5))
def test_any_list_of_floats_survives(tmp_path_factory, values):
    folder = tmp_path_factory.getbasetemp()
    assert one(folder, "rates", str(values)) == values
    assert typed(folder, "rates", str(values)) == values
    if values:
        assert typed(folder, "rates", ",".join(map(repr, values))) == values


@pytest.mark.parametrize("option", training_options(), ids=lambda option: option.name)
def test_default_of_every_training_argument_can_be_written(tmp_path, option):
    if option.default is None or not isinstance(option.default, str | int | float | list):
        return
    value = one(tmp_path, option.name, yaml.safe_dump(option.default, default_flow_style=True).split("\n...")[0])
    assert value == option.default


def test_training_arguments_can_be_built_from_a_recipe(tmp_path):
    from transformers import TrainingArguments

    recipe = read(
        tmp_path,
        f"model: bert\noutput_dir: {tmp_path}\nlearning_rate: 2e-5\neval_strategy: no\nseed: 3\n"
        "report_to: none\nlr_scheduler_type: cosine_with_min_lr\n"
        "lr_scheduler_kwargs: {min_lr: 1e-6}\nuse_cpu: true\n",
    )
    assert "model" not in recipe.training_arguments()
    arguments = TrainingArguments(**recipe.training_arguments())
    assert (arguments.learning_rate, arguments.seed) == (2e-5, 3)
    assert arguments.eval_strategy.value == "no"
    assert arguments.lr_scheduler_kwargs == {"min_lr": 1e-6}


def test_values_hold_only_what_was_given_and_build_the_dataclass(tmp_path):
    recipe = read(tmp_path, "description: why\nmodel: bert\nrate: 2\n")
    assert recipe.values == {"model": "bert", "rate": 2.0}
    assert recipe.description == "why"
    assert recipe.build(Settings) == Settings("bert", rate=2.0)


def test_sections_have_their_own_values_over_the_recipes(tmp_path):
    recipe = read(
        tmp_path,
        "model: bert\nrate: 1\npretrain:\n  rate: 2e-1\ntransfer:\n  controls: [ticket, random]\n",
        **{"transfer.count": "5", "pretrain.rate": "0.3"},
    )
    assert recipe.sections == {
        "pretrain": {"rate": 0.3},
        "transfer": {"controls": ["ticket", "random"], "count": 5},
    }
    assert recipe.section("pretrain").build(Settings) == Settings("bert", rate=0.3)
    assert recipe.section("transfer").build(Settings) == Settings("bert", rate=1.0, count=5)


def test_merge_keys_share_values_between_sections(tmp_path):
    recipe = read(tmp_path, "pretrain: &base {rate: 1, count: 2}\ntransfer: {<<: *base, rate: 3}\n")
    assert recipe.sections["transfer"] == {"rate": 3.0, "count": 2}


def test_command_line_wins_and_dashes_are_underscores(tmp_path):
    recipe = read(tmp_path, "learning_rate: 1\n", **{"learning-rate": "3e-5"})
    assert recipe.values == {"learning_rate": 3e-5}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: b\nlearning_rat: 1\n", "{path}:2: learning_rat: unknown key; nearest: learning_rate"),
        ("pretrainn:\n  rate: 1\n", "{path}:1: pretrainn: unknown key; nearest: pretrain"),
        ("pretrain:\n  rate: 1\n  coun: 2\n", "{path}:3: pretrain.coun: unknown key; nearest: count"),
        ("zzzzzz: 1\n", "{path}:1: zzzzzz: unknown key; `hf-tickets find --help` lists the keys"),
        ("learning_rate: fast\n", "{path}:1: learning_rate must be float, not 'fast'"),
        ("\n\ncount: 1.5\n", "{path}:3: count must be int, not '1.5'"),
        ("rate: .nan\n", "{path}:1: rate must be float, not '.nan'"),
        ("rate: [1]\n", "{path}:1: rate must be float, not a list"),
        ("rate: {a: 1}\n", "{path}:1: rate must be float, not a mapping"),
        ("rates: 0.5\n", "{path}:1: rates must be list[float] | None, not '0.5'"),
        ("rates: [0.5, x]\n", "{path}:1: rates must be list[float] | None, not 'x'"),
        ("name:\n", "{path}:1: name must be str, not nothing"),
        ("on: 2\n", "{path}:1: on must be bool, not '2'"),
        ("kind: tow\n", "{path}:1: kind must be one of one, two, not 'tow'; nearest: two"),
        ("rate: 1\nrate: 2\n", "{path}:2: not valid YAML: rate is given twice"),
        ("pretrain:\n  rate: 1\n  rate: 2\n", "{path}:3: not valid YAML: rate is given twice"),
        ("pretrain: 3\n", "{path}:1: pretrain is a section: indent its own keys and values below it"),
        ("- a\n", "{path}:1: not a mapping"),
        ("just text\n", "{path}:1: not a mapping"),
        ("", "{path}:1: the recipe is empty"),
        ("rate: 1\n  count: [2\n", "{path}:2: not valid YAML: "),
        ("rate: 1\n\tcount: 2\n", "{path}:2: not valid YAML: "),
        ("name: !!python/object/apply:os.getcwd []\n", "{path}:1: not valid YAML: could not determine"),
    ],
)
def test_mistake_in_a_recipe_is_one_line_with_file_line_and_key(tmp_path, text, expected):
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(expected.format(path=tmp_path / "recipe.yaml"))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("learning_rat", "1", "--learning_rat: unknown key; nearest: learning_rate"),
        ("learning_rate", "fast", "--learning_rate must be float, not 'fast'"),
        ("pretrain.coun", "1", "--pretrain.coun: unknown key; nearest: count"),
        ("pretrian.count", "1", "--pretrian.count: no section is named pretrian; nearest: pretrain"),
        ("rates", "[0.1", "--rates must be list[float] | None, not '[0.1'"),
        ("controls", "[a]", "--controls: unknown key"),
    ],
)
def test_mistake_on_the_command_line_is_one_line_with_the_option(tmp_path, name, text, expected):
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, "model: bert\n", **{name: text})
    assert str(caught.value).startswith(expected)


def test_missing_field_and_refused_value_name_the_recipe(tmp_path):
    with pytest.raises(RecipeError, match=r"recipe\.yaml: model is missing; add it, or give --model"):
        read(tmp_path, "rate: 1\n").build(Settings)
    with pytest.raises(RecipeError, match=r"recipe\.yaml: rate must be 0 or more"):
        read(tmp_path, "model: bert\nrate: -1\n").build(Settings)


def test_missing_recipe_suggests_the_nearest_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / "bert").mkdir(parents=True)
    (tmp_path / "recipes" / "quickstart.yaml").touch()
    (tmp_path / "recipes" / "bert" / "glue.yaml").touch()
    for wrong, right in [
        ("quickstart", "recipes/quickstart.yaml"),
        ("quikstart.yaml", "recipes/quickstart.yaml"),
        ("recipes/bert/glu.yaml", "recipes/bert/glue.yaml"),
        ("recipes", "recipes/quickstart.yaml"),
    ]:
        with pytest.raises(RecipeError, match=rf"^{wrong}: .*(did you mean {right}\?|give the path)"):
            load_recipe(wrong, {}, OPTIONS)


def test_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(path, {}, OPTIONS)
