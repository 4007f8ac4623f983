"""The command line: instant help, overrides wherever they stand, one line for every mistake, exit codes."""

import json
import subprocess
import sys
import sysconfig
import types
from pathlib import Path

import pytest

from hf_tickets import __version__
from hf_tickets.cli import main as command_line
from hf_tickets.cli.options import Option
from hf_tickets.errors import RecipeError, TicketFileError

SCRIPT = Path(sysconfig.get_path("scripts")) / "hf-tickets"
FIELDS = {name: Option(name, "str") for name in ("learning_rate", "bf16", "max_steps", "task")}


@pytest.fixture
def command(monkeypatch):
    """A subcommand `fake` that reads a recipe and records what it was run with."""
    module = types.ModuleType("hf_tickets.cli.fake")
    module.calls = []

    def add_parser(subparsers):
        parser = subparsers.add_parser("fake", help="a command", options=lambda: FIELDS)
        parser.add_argument("recipe")
        parser.add_argument("--ticket")
        parser.add_argument("--sparsity", type=float)

    def run(arguments, overrides):
        module.calls.append((arguments.recipe, arguments.ticket, arguments.sparsity, overrides))
        return 0

    module.add_parser, module.run = add_parser, run
    monkeypatch.setitem(sys.modules, "hf_tickets.cli.fake", module)
    monkeypatch.setattr(command_line, "COMMANDS", ("fake", "inspect"))
    return module


def start(*words: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "hf_tickets", *words], capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("r.yaml", ("r.yaml", None, None, {})),
        ("r.yaml --learning_rate 3e-5", ("r.yaml", None, None, {"learning_rate": "3e-5"})),
        ("--learning_rate 3e-5 r.yaml", ("r.yaml", None, None, {"learning_rate": "3e-5"})),
        ("--ticket t r.yaml --task rte", ("r.yaml", "t", None, {"task": "rte"})),
        ("r.yaml --task rte --ticket t --sparsity .5", ("r.yaml", "t", 0.5, {"task": "rte"})),
        ("r.yaml --learning-rate=3e-5", ("r.yaml", None, None, {"learning_rate": "3e-5"})),
        ("r.yaml --bf16 --max_steps -1", ("r.yaml", None, None, {"bf16": "true", "max_steps": "-1"})),
        ("r.yaml --learning_rate -1e-3", ("r.yaml", None, None, {"learning_rate": "-1e-3"})),
        ("r.yaml --bf16", ("r.yaml", None, None, {"bf16": "true"})),
        ("r.yaml --pretrain.learning_rate 0.1", ("r.yaml", None, None, {"pretrain.learning_rate": "0.1"})),
        ("r.yaml --task a --task b", ("r.yaml", None, None, {"task": "b"})),
        ("r.yaml --task=", ("r.yaml", None, None, {"task": ""})),
    ],
)
def test_overrides_reach_the_command(command, words, expected):
    assert command_line.main(["fake", *words.split()]) == 0
    assert command.calls == [expected]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("fake r.yaml --learning_rat 3", "--learning_rat is not an option; nearest: --learning_rate"),
        ("fake r.yaml --tickt t", "--tickt is not an option; nearest: --ticket"),
        ("fake r.yaml --sparsity x", "argument --sparsity: invalid float value: 'x'"),
        ("fake r.yaml r2.yaml", "unrecognized arguments: r2.yaml"),
        ("fake r.yaml -x", "unrecognized arguments: -x"),
        ("fake", "the following arguments are required: recipe"),
        ("", "the following arguments are required: COMMAND"),
        ("fak", "argument COMMAND: invalid choice: 'fak'"),
        ("inspect t --jsn", "--jsn is not an option; nearest: --json"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(command, capsys, words, message):
    assert command_line.main(words.split()) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"hf-tickets: error: {message}")
    assert output.err.count("\n") == 1
    assert command.calls == []


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RecipeError("r.yaml:1: rate must be float"), 2, "hf-tickets: error: r.yaml:1: rate must be float"),
        (TicketFileError("two\nlines"), 1, "hf-tickets: error: two lines"),
        (KeyboardInterrupt(), 130, "hf-tickets: stopped; the same command goes on from here"),
    ],
)
def test_errors_of_a_run_are_one_line(command, capsys, error, code, line):
    def run(arguments, overrides):
        raise error

    command.run = run
    assert command_line.main(["fake", "r.yaml"]) == code
    assert capsys.readouterr().err == line + "\n"


def test_errors_that_are_not_ours_keep_their_traceback(command):
    command.run = lambda arguments, overrides: 1 // 0
    with pytest.raises(ZeroDivisionError):
        command_line.main(["fake", "r.yaml"])


def test_exit_code_of_the_command_is_returned(command):
    command.run = lambda arguments, overrides: 7
    assert command_line.main(["fake", "r.yaml"]) == 7


@pytest.mark.parametrize("words", [["--help"], ["find", "--help"], ["train", "--help"], ["inspect", "--help"]])
def test_help_imports_nothing_heavy(words):
    code = (
        "import json, sys\n"
        "from hf_tickets.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    sys.stderr.write(json.dumps(sorted(sys.modules)))\n"
    )
    finished = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert finished.returncode == 0
    assert finished.stdout.startswith("usage: hf-tickets")
    heavy = {"torch", "transformers", "datasets", "numpy", "rich", "yaml", "matplotlib", "timm"}
    assert not heavy & set(json.loads(finished.stderr))


def test_mistyped_option_of_a_real_command_is_told_without_heavy_imports():
    finished = start("find", "recipe.yaml", "--learning_rat", "3e-5")
    assert finished.returncode == 2
    assert finished.stderr == ("hf-tickets: error: --learning_rat is not an option; nearest: --learning_rate\n")


def test_help_of_find_lists_the_fields_of_every_group():
    text = start("find", "--help").stdout
    for word in ("task:", "pruning:", "rewinding:", "training arguments:", "--amount ", "--learning_rate "):
        assert word in text


def test_console_script_and_module_are_the_same_command():
    if not SCRIPT.exists():
        pytest.skip(f"the console script is not installed at {SCRIPT}")
    finished = subprocess.run([SCRIPT, "--version"], capture_output=True, text=True, check=False)
    assert finished.stdout == start("--version").stdout == f"hf-tickets {__version__}\n"
    assert finished.returncode == 0


def test_missing_ticket_is_one_line_and_exit_code_1(tmp_path):
    finished = start("inspect", str(tmp_path / "nothing"))
    assert finished.returncode == 1
    assert finished.stderr.startswith("hf-tickets: error: ")
    assert finished.stderr.count("\n") == 1


def test_output_that_is_closed_early_is_no_error():
    code = (
        "import sys\n"
        "from hf_tickets.cli import inspect, main\n"
        "inspect.run = lambda arguments: sys.stdout.writelines(['line\\n' * 1000] * 1000)\n"
        "sys.exit(main.main(['inspect', 'ticket']))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
