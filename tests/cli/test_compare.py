"""`hf-tickets compare` shows the overlap of tickets, as tables, JSON and pictures."""

import json
from pathlib import Path

import pandas
import pytest
import torch

from hf_tickets import Mask, Ticket
from hf_tickets.cli.main import main

Captured = pytest.CaptureFixture[str]


def save(folder: Path, *rows: list[int]) -> str:
    kept = [torch.tensor(row).bool().reshape(2, 2) for row in rows]
    Ticket(Mask({f"layer.{index}.weight": values for index, values in enumerate(kept)})).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tickets(tmp_path: Path) -> list[str]:
    """Overlap of the first two: 1 of 3 weights in layer 0, 2 of 2 in layer 1; the third is the reverse of the first."""
    return [
        save(tmp_path / "one", [1, 1, 0, 0], [0, 0, 1, 1]),
        save(tmp_path / "two", [0, 1, 1, 0], [0, 0, 1, 1]),
        save(tmp_path / "three", [0, 0, 1, 1], [1, 1, 0, 0]),
    ]


def test_json_has_every_pair(tickets: list[str], capsys: Captured) -> None:
    assert main(["compare", *tickets, "--layers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    pairs = {(row["first"], row["second"]): row for row in found["overlap"]}
    assert set(pairs) == {("one", "two"), ("one", "three"), ("two", "three")}
    assert pairs["one", "two"]["jaccard"] == pytest.approx(3 / 5)
    assert pairs["one", "two"]["chance"] == pytest.approx(1 / 3)
    assert pairs["one", "two"]["relative"] == pytest.approx(9 / 5)
    assert pairs["one", "three"]["jaccard"] == 0
    layers = [row for row in found["layers"] if (row["first"], row["second"]) == ("one", "two")]
    assert [row["layer"] for row in layers] == ["layer.0.weight", "layer.1.weight"]
    assert [row["jaccard"] for row in layers] == pytest.approx([1 / 3, 1])


def test_tables_fit_a_terminal(tickets: list[str], capsys: Captured) -> None:
    assert main(["compare", *tickets]) == 0
    whole = capsys.readouterr().out
    assert main(["compare", *tickets[:2], "--layers"]) == 0
    layers = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in (whole + layers).splitlines()]
    assert ["one", "50.00%", "0.6000", "0.3333", "0.3333", "1.80"] in rows
    assert ["layer.0.weight", "50.00%", "50.00%", "0.3333", "0.3333", "1.00"] in rows
    assert "layer.0.weight" not in whole
    assert all(len(line) <= 80 for line in (whole + layers).splitlines())


def test_plots_are_pictures_with_their_tables_beside_them(tickets: list[str], tmp_path: Path) -> None:
    assert main(["compare", *tickets, "--plots", str(tmp_path / "plots")]) == 0
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        f"{name}.{kind}" for name in ("overlap", "layer_overlap") for kind in ("csv", "png")
    }
    assert (tmp_path / "plots" / "overlap.png").read_bytes().startswith(b"\x89PNG")
    assert len(pandas.read_csv(tmp_path / "plots" / "layer_overlap.csv")) == 6
    assert pandas.read_csv(tmp_path / "plots" / "overlap.csv")["jaccard"].tolist() == pytest.approx([0.6, 0, 1 / 7])


def test_folders_of_one_name_are_told_apart(tmp_path: Path, capsys: Captured) -> None:
    first, second = (save(tmp_path / run / "ticket", [1, 1, 0, 0]) for run in ("a", "b"))
    assert main(["compare", first, second, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["overlap"]
    assert (row["first"], row["second"]) == (first, second)


def test_what_cannot_be_compared_is_refused_in_one_line(tickets: list[str], tmp_path: Path, capsys: Captured) -> None:
    def refusal(*words: str) -> tuple[int, str]:
        code = main(["compare", *words])
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return code, error

    other = save(tmp_path / "other", [1, 1, 0, 0])
    code, error = refusal(tickets[0], other, "--plots", str(tmp_path / "plots"))
    assert code == 1
    assert "one and other are over other weights: layer.1.weight is 2×2 and missing" in error
    assert not (tmp_path / "plots").exists()
    assert refusal(tickets[0])[0] == 2
    assert "named twice" in refusal(tickets[0], f"{tickets[0]}/")[1]
    code, error = refusal(*tickets[:2], "--sparsity", "0.9")
    assert code == 1
    assert "one: the ticket has no rung at sparsity 0.9" in error
    assert refusal(tickets[0], str(tmp_path / "nowhere"))[0] == 1


def test_empty_layers_have_no_relative_overlap(tmp_path: Path, capsys: Captured) -> None:
    first, second = (save(tmp_path / name, [0, 0, 0, 0], [1, 0, 0, 0]) for name in "ab")
    assert main(["compare", first, second, "--layers", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["relative"] is None


def test_rungs_of_the_same_sparsity_are_drawn_against_it(tmp_path: Path) -> None:
    """Of a quarter and a half, and of a half and three quarters pruned, only the half is compared; then two of them."""
    rows = {
        "one": ([1, 1, 1, 0], [1, 1, 0, 0]),
        "two": ([0, 1, 1, 0], [0, 1, 0, 0]),
        "three": ([0, 1, 1, 1], [0, 1, 1, 0]),
    }
    for name, masks in rows.items():
        Ticket([Mask({"layer.weight": torch.tensor(row).bool()}) for row in masks]).save_pretrained(tmp_path / name)
    for others, common in ((["two"], [0.5]), (["three"], [0.25, 0.5])):
        plots = tmp_path / f"plots-{others[0]}"
        assert (
            main(["compare", str(tmp_path / "one"), *(str(tmp_path / name) for name in others), "--plots", str(plots)])
            == 0
        )
        if len(common) == 1:
            assert not (plots / "overlap_by_sparsity.png").exists()
            continue
        table = pandas.read_csv(plots / "overlap_by_sparsity.csv")
        assert table["sparsity"].tolist() == common
        assert table["jaccard"].tolist() == pytest.approx([2 / 4, 1 / 3])
        assert table["chance"].tolist() == pytest.approx([9 / 15, 1 / 3])
        assert (plots / "overlap_by_sparsity.png").read_bytes().startswith(b"\x89PNG")
