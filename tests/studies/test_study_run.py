"""Studies as a user runs them: resumed, killed, side by side, with cells that fail."""

import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
import tiny_study
from tiny_study import STUDY, files, outcome

from hf_tickets.cli.main import main
from hf_tickets.studies.plan import Plan
from hf_tickets.studies.results import load_masks, load_results
from hf_tickets.studies.run_cell import run_cell
from hf_tickets.studies.study_folder import StudyFolder
from hf_tickets.ticket.ticket import Ticket


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that nothing interrupted, in a process of its own."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_study.write(folder)
    process = tiny_study.start(folder, folder / "log")
    process.join(300)
    assert process.exitcode == 0, (folder / "log.output").read_text()
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working directory."""
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def test_every_result_is_there(whole: Path) -> None:
    table = load_results(whole / "study")
    assert set(table.status) == {"done"}
    assert table.value.between(0, 1).all()
    assert set(table.metric) == {"accuracy"}
    assert table[table.control == "random"].sparsity.to_list() == pytest.approx([0.5] * 4, abs=1e-5)
    assert all((whole / "study" / folder / "result.json").exists() for folder in table.folder)
    masks = load_masks(whole / "study")
    assert {name: list(rungs) for name, rungs in masks.items()} == {"low": [0.5], "high": [0.5]}


def test_a_ticket_trains_on_what_it_was_found_on_from_the_base(whole: Path) -> None:
    folder = StudyFolder(whole / "study")
    (base,) = (folder.cell(cell) for cell in folder.read_plan().cells.values() if cell.kind == "base")
    tickets = [Ticket.from_pretrained(path.parent) for path in whole.glob("study/cells/find-*/ticket_config.json")]
    assert [Path(str(ticket.config.base_model)).name for ticket in tickets] == [base.name] * 2


def test_a_finished_study_does_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(copy)
    assert main(["study", "run", "study.yaml"]) == 0
    assert files(copy) == before
    assert main(["study", "status", "study"]) == 0
    assert "7 cells: 7 done" in capsys.readouterr().out


def test_more_seeds_are_more_cells_only(copy: Path) -> None:
    before = files(copy / "study" / "cells")
    assert main(["study", "run", "study.yaml", "--seeds", "[1, 2]", "--controls", "dense", "--pairs", "same"]) == 0
    after = files(copy / "study" / "cells")
    assert before.items() <= after.items()
    new = {name.partition("-seed2-")[0] for name in after.keys() - before.keys()}
    assert new == {"low-dense", "high-dense"}


def test_a_cell_runs_from_its_content_alone_and_a_round_is_a_training(copy: Path) -> None:
    """The training that the search's last round stands for, planned by itself, reaches just the same."""
    folder = StudyFolder(copy / "study")
    plan = folder.read_plan()
    (search,) = (cell for cell in plan.cells.values() if cell.label == "find-low-seed1")
    (across,) = (cell for cell in plan.cells.values() if cell.label == "high-to-low-ticket-0.5000-seed1")
    content = json.loads((folder.cell(across) / "cell.json").read_text())
    content["needs"]["search"] = search.key
    result = run_cell(folder, type(across).from_dict(content))
    last = json.loads((folder.cell(search) / "result.json").read_text())["rounds"][-1]
    assert {name: result["metrics"][name] for name in last["metrics"]} == last["metrics"]
    assert result["kept"] == last["kept"]


@pytest.mark.parametrize("seed", [1])
def test_killed_at_random_and_started_again_it_ends_the_same(whole: Path, tmp_path: Path, seed: int) -> None:
    tiny_study.write(tmp_path)
    moments = random.Random(seed)
    finished: dict[str, int] = {}
    for _ in range(4):
        process = tiny_study.start(tmp_path, tmp_path / "log")
        begun, enough = len(list(tmp_path.glob("study/cells/*/result.json"))), moments.choice([0, 1, 1, 2])
        pause = moments.uniform(0, 0.8)
        while process.is_alive() and len(list(tmp_path.glob("study/cells/*/result.json"))) < begun + enough:
            time.sleep(0.01)
        time.sleep(pause)
        tiny_study.kill(process)
        results = {str(path): path.stat().st_mtime_ns for path in tmp_path.glob("study/cells/*/result.json")}
        assert finished.items() <= results.items()
        finished = results
    process = tiny_study.start(tmp_path, tmp_path / "log")
    process.join(300)
    assert process.exitcode == 0, (tmp_path / "log.output").read_text()
    assert (
        finished.items() <= {str(p): p.stat().st_mtime_ns for p in tmp_path.glob("study/cells/*/result.json")}.items()
    )
    assert outcome(tmp_path / "study") == outcome(whole / "study")


def test_two_commands_at_once_run_each_cell_once(whole: Path, tmp_path: Path) -> None:
    tiny_study.write(tmp_path)
    processes = [tiny_study.start(tmp_path, tmp_path / name) for name in ("one", "two")]
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    begun = [line for name in ("one", "two") for line in (tmp_path / name).read_text().splitlines()]
    assert sorted(begun) == sorted(f"{cell.label} begins" for cell in _plan(whole).cells.values())
    assert all((tmp_path / name).read_text() for name in ("one", "two"))
    assert outcome(tmp_path / "study") == outcome(whole / "study")


def test_ray_completes_what_is_left(whole: Path, copy: Path) -> None:
    pytest.importorskip("ray")
    for left in ("find-high-seed1-*", "low-to-high-*"):
        (removed,) = copy.glob(f"study/cells/{left}")
        shutil.rmtree(removed)
    before = files(copy / "study" / "cells")
    assert main(["study", "run", "study.yaml", "--ray"]) == 0
    assert before.items() <= files(copy / "study" / "cells").items()
    assert outcome(copy / "study") == outcome(whole / "study")


def test_a_cell_that_fails_leaves_the_others(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its error is kept and shown, what needs it is held up, and it is tried again."""
    broken = "  broken: {recipe: recipe.yaml, labels: [1, 77], pretrain: {labels: [0, 1, 2]}}\n"
    Path("study.yaml").write_text(STUDY.replace("targets:\n", f"{broken}targets:\n", 1))
    before = files(copy / "study" / "cells")
    for _ in range(2):
        assert main(["study", "run", "study.yaml"]) == 1
        output = capsys.readouterr().out
        assert "77" in output
        assert "held up" in output
    assert before.items() <= files(copy / "study" / "cells").items()
    table = load_results("study")
    assert set(table[table.source == "broken"].status) == {"failed", "waiting", "done"}  # done: the shared random masks
    held = table[(table.source == "broken") & (table.status == "waiting")]
    assert set(held.error) == {"needs find-broken-seed1, which failed"}
    assert set(table[table.source != "broken"].status) == {"done"}
    assert main(["study", "status", "study.yaml"]) == 0
    assert "1 failed" in capsys.readouterr().out


def test_a_study_of_another_format_is_refused_unchanged(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = json.loads(Path("study/study.json").read_text())
    Path("study/study.json").write_text(json.dumps({**record, "version": 2}))
    before = files(copy)
    for action in ("run", "status"):
        assert main(["study", action, "study.yaml"]) == 1
        assert "is of format 2" in capsys.readouterr().err
    assert files(copy) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: nothing here is always full")
def test_a_full_disk_stops_the_study_and_loses_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (cell,) = copy.glob("study/cells/low-to-high-*")
    shutil.rmtree(cell)
    cell.mkdir()
    before = files(copy / "study" / "cells")
    os.symlink("/dev/full", cell / "progress.tmp")
    assert main(["study", "run", "study.yaml"]) == 1
    error = capsys.readouterr().err.strip()
    assert "no space left on the disk" in error
    assert "\n" not in error
    (cell / "progress.tmp").unlink()
    assert before.items() <= files(copy / "study" / "cells").items()
    assert main(["study", "run", "study.yaml"]) == 0


def _plan(folder: Path) -> Plan:
    return StudyFolder(folder / "study").read_plan()


def test_the_command_line_reaches_every_part_of_a_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_study.write(tmp_path)
    assert main(["study", "run", str(tmp_path / "study.yaml"), "--sources.lower.max_steps", "3"]) == 2
    assert "the study has no sources.lower" in capsys.readouterr().err
    assert main(["study", "status", str(tmp_path), "--seeds", "1"]) == 2
    assert "is a folder" in capsys.readouterr().err
    assert main(["study", "status", str(tmp_path)]) == 1
    assert "holds no study yet" in capsys.readouterr().err
