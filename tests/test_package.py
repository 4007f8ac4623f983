"""The package as a whole: light to import, layered by floors, documented, and silent."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hf_tickets

PACKAGE = Path(hf_tickets.__file__).parent
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "errors": 0,
    "files": 0,
    "paths": 0,
    "quiet": 0,
    "registration": 0,
    "pruning": 1,
    "analysis": 2,
    "ticket": 3,
    "trainer": 4,
    "tasks": 5,
    "studies": 6,
    "cli": 7,
    "__main__": 7,
}


def run(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )


def module_name(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(path):
    """Every module of the package that a file imports, those inside functions included."""
    package = path.relative_to(PACKAGE.parent).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "hf_tickets")
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*base, *([node.module] if node.module else [])])
            if source.split(".")[0] == "hf_tickets":
                yield source
                yield from (f"{source}.{alias.name}" for alias in node.names if source == "hf_tickets")
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "import_module"
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.args[0].value


def floor(module):
    parts = module.split(".")
    return FLOORS.get(parts[1]) if len(parts) > 1 else None


def test_importing_the_package_imports_no_heavy_library():
    script = (
        "import sys, hf_tickets; hf_tickets.__version__; dir(hf_tickets);"
        "heavy = {'torch', 'transformers', 'timm', 'numpy', 'datasets', 'safetensors', 'accelerate', 'matplotlib'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = run("-c", script)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", hf_tickets.__all__)
def test_public_names_resolve_to_themselves_and_say_what_they_are(name):
    value = getattr(hf_tickets, name)
    assert value.__name__ == name
    assert value.__module__.startswith("hf_tickets.")
    assert inspect.getdoc(value)
    assert value is getattr(importlib.import_module(value.__module__), name)
    assert name in dir(hf_tickets)


def test_the_public_names_are_those_of_the_design():
    wanted = {"Mask", "PruningCallback", "PruningConfig", "Ticket", "TicketConfig", "TicketTrainer", "prune"}
    assert wanted <= set(hf_tickets.__all__)


def test_type_checkers_see_the_same_public_names():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == hf_tickets._EXPORTS


@pytest.mark.parametrize("name", [name for name in hf_tickets.__all__ if name != "prune"])
def test_public_methods_have_docstrings(name):
    for method, value in vars(getattr(hf_tickets, name)).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not method.startswith("_") and inspect.isfunction(function):
            inherited = inspect.getdoc(getattr(getattr(hf_tickets, name), method))
            assert inherited, f"{name}.{method}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Lottery"):
        hf_tickets.Lottery  # noqa: B018


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_floors_import_only_from_lower_floors(path):
    own = floor(module_name(path))
    if own is None:
        assert path == PACKAGE / "__init__.py", f"{path.name} is on no floor of the design"
        return
    for module in imported_modules(path):
        other = floor(module)
        same_package = module.split(".")[:2] == module_name(path).split(".")[:2] or own == other == 7
        assert other is None or other < own or same_package, f"{module_name(path)} imports {module}"


def test_the_floors_test_sees_imports():
    seen = {floor(module) for path in MODULES for module in imported_modules(path)}
    assert {0, 1, 3} <= seen


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_the_library_prints_nothing(path):
    names = [
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert "print" not in names
    assert "breakpoint" not in names


def test_every_error_is_one_of_the_librarys():
    errors = importlib.import_module("hf_tickets.errors")
    for name, value in vars(errors).items():
        if inspect.isclass(value):
            assert issubclass(value, hf_tickets.TicketsError), name
            assert inspect.getdoc(value), name


def test_the_type_marker_ships():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_the_package_runs_as_a_module(option):
    result = run("-m", "hf_tickets", option)
    assert result.returncode == 0, result.stderr
    assert (hf_tickets.__version__ if option == "--version" else "find") in result.stdout


def test_every_folder_of_modules_and_every_recipe_is_installed():
    with open(ROOT / "pyproject.toml", "rb") as file:
        packages = set(tomllib.load(file)["tool"]["setuptools"]["packages"])
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in ROOT.glob("hf_tickets/**/__init__.py")}
    assert packages == folders | {"hf_tickets.recipes"}
