"""`hf-tickets inspect` says what is in a ticket, as tables and as JSON."""

import json

import pandas
import pytest
import torch

from hf_tickets.cli.main import main
from hf_tickets.pruning.mask import Mask
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.ticket import Ticket


@pytest.fixture
def folder(tmp_path):
    half = torch.tensor([True, False]).repeat(8).reshape(4, 4)
    quarter = half & torch.tensor([True, True, False, False]).repeat(4).reshape(4, 4)
    masks = [
        Mask({"layer.0.weight": half, "layer.1[red].weight": torch.ones(2, 8, dtype=torch.bool)}),
        Mask({"layer.0.weight": quarter, "layer.1[red].weight": torch.ones(2, 8, dtype=torch.bool)}),
    ]
    rungs = [
        {"round": 1, "metrics": {"eval_runtime": 1.0, "eval_loss": 2.0, "eval_accuracy": 0.75}, "steps": 5},
        {"round": 2, "metrics": {"eval_runtime": 1.0, "eval_loss": 2.0, "eval_accuracy": 0.5}, "steps": 5},
    ]
    config = TicketConfig(
        base_model="me/base\x1b[31m", pruning={"criterion": "magnitude"}, seeds={"seed": 3}, rungs=rungs
    )
    Ticket(masks, config).save_pretrained(tmp_path / "ticket")
    return tmp_path / "ticket"


def test_json_says_what_the_ticket_holds(folder, capsys):
    assert main(["inspect", str(folder), "--json"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert (description["weights"], description["kept"], description["sparsity"]) == (32, 20, 0.375)
    assert description["digest"] == Ticket.from_pretrained(folder).mask.digest
    assert description["layers"] == [
        {"name": "layer.0.weight", "shape": [4, 4], "weights": 16, "kept": 4, "sparsity": 0.75},
        {"name": "layer.1[red].weight", "shape": [2, 8], "weights": 16, "kept": 16, "sparsity": 0.0},
    ]
    assert [(rung["round"], rung["sparsity"], rung["kept"]) for rung in description["rungs"]] == [
        (1, 0.25, 24),
        (2, 0.375, 20),
    ]
    assert description["provenance"]["pruning"] == {"criterion": "magnitude"}


def test_sparsity_selects_the_rung(folder, capsys):
    assert main(["inspect", str(folder), "--sparsity", "0.25", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 24
    assert main(["inspect", str(folder), "--sparsity", "0.3"]) == 1
    assert "0.25" in capsys.readouterr().err


def test_tables_show_layers_total_rungs_and_provenance_as_plain_text(folder, capsys):
    assert main(["inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines()]
    assert ["layer.0.weight", "4 × 4", "16", "4", "75.00%"] in rows
    assert ["layer.1[red].weight", "2 × 8", "16", "16", "0.00%"] in rows
    assert ["total", "", "32", "20", "37.50%"] in rows
    assert ["2", "37.50%", "20", "0.5000", "5", "–"] in rows
    assert ["pruning.criterion", "magnitude"] in rows
    assert ["base_model", "me/base�[31m"] in rows
    assert "\x1b" not in text
    assert all(len(line) <= 80 for line in text.splitlines())


def test_ticket_of_a_mask_alone_can_be_inspected(tmp_path, capsys):
    Ticket(Mask({"weight": torch.tensor([True, False])})).save_pretrained(tmp_path / "ticket")
    assert main(["inspect", str(tmp_path / "ticket")]) == 0
    assert "50.00%" in capsys.readouterr().out


def test_plots_are_pictures_with_their_tables_beside_them(folder, tmp_path, capsys):
    assert main(["inspect", str(folder), "--plots", str(tmp_path / "new" / "plots")]) == 0
    files = {path.name: path.read_bytes() for path in (tmp_path / "new" / "plots").iterdir()}
    assert set(files) == {"layers.csv", "layers.png", "units.csv", "units.png", "accuracy.png"}
    assert all(content.startswith(b"\x89PNG") for name, content in files.items() if name.endswith(".png"))
    table = pandas.read_csv(tmp_path / "new" / "plots" / "layers.csv", index_col="layer")
    assert table["kept"].to_dict() == {"layer.0.weight": 4, "layer.1[red].weight": 16}
    assert "layers at sparsity" in capsys.readouterr().out


def test_a_ticket_with_convolutions_gets_a_kernel_map(tmp_path):
    kept = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    kept[1] = False
    Ticket(Mask({"conv.weight": kept})).save_pretrained(tmp_path / "ticket")
    assert main(["inspect", str(tmp_path / "ticket"), "--plots", str(tmp_path), "--json"]) == 0
    assert pandas.read_csv(tmp_path / "kernels.csv")["zero"].tolist() == [2]
    assert (tmp_path / "kernels.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "accuracy.png").exists()


def test_a_folder_that_cannot_be_made_is_one_line(folder, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["inspect", str(folder), "--plots", str(tmp_path / "file")]) == 2
    assert "--plots" in capsys.readouterr().err


def test_plots_count_what_a_known_model_could_lose(tmp_path, capsys):
    """Two outputs of ten are pruned wholly: with them go the weights that read them, and only those."""
    base_config = {
        "model_type": "bert",
        "hidden_size": 8,
        "intermediate_size": 10,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "vocab_size": 20,
    }
    names = ("encoder.layer.0.intermediate.dense.weight", "encoder.layer.0.output.dense.weight")
    wide, back = torch.ones(10, 8, dtype=torch.bool), torch.ones(8, 10, dtype=torch.bool)
    wide[:2] = False
    mask = Mask(dict(zip(names, (wide, back), strict=True)))
    Ticket(mask, TicketConfig(base_config=base_config)).save_pretrained(tmp_path / "ticket")
    assert main(["inspect", str(tmp_path / "ticket"), "--plots", str(tmp_path)]) == 0
    table = pandas.read_csv(tmp_path / "removable.csv", index_col="layer")
    assert table["removable"].tolist() == [16, 16]
    assert table["dead_outputs"].tolist() == [2, 0]
    assert (tmp_path / "removable.png").read_bytes().startswith(b"\x89PNG")
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()]
    total = ["total", "11.1%", "0.0%", "11.1%", "11.1%", "20.0%", "20.0%"]
    assert total in rows


def test_what_cannot_be_counted_is_said(folder, tmp_path, capsys):
    assert main(["inspect", str(folder), "--plots", str(tmp_path / "plots")]) == 0
    printed = capsys.readouterr().out
    assert "pruned units" in printed
    assert "not counted: what could be removed of the model (the ticket does not tell" in printed
