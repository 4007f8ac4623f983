"""Published checkpoints: files with the very names and shapes of MoCo's, SimCLR's, torchvision's and timm's."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForImageClassification

from hf_tickets.cli.main import main
from hf_tickets.errors import DataError
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.published import read_published
from hf_tickets.tasks.registry import prepare


@cache
def torchvision_resnet50(seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return torchvision.models.resnet50().state_dict()


def moco(version: int, queue: int = 16) -> dict[str, Any]:
    """What the authors' program saves: two encoders under DataParallel's name, the queue, the optimizer."""
    state: dict[str, Tensor] = {}
    for seed, side in enumerate(("q", "k")):
        model = torchvision.models.resnet50(num_classes=128)
        if version == 2:
            model.fc = nn.Sequential(nn.Linear(2048, 2048), nn.ReLU(), model.fc)
        torch.manual_seed(seed)
        state |= {f"module.encoder_{side}.{name}": value for name, value in model.state_dict().items()}
    state |= {"module.queue": torch.randn(128, queue), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}


def outputs(folder: Path, image_size: int = 64) -> tuple[Tensor, Tensor]:
    """Features of a folder's model by transformers, and by timm."""
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    own = AutoModel.from_pretrained(folder).eval()
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        return own(pixel_values=images).pooler_output, plain(images)


def reference(state: dict[str, Tensor], image_size: int = 64) -> Tensor:
    """The same by torchvision's own code."""
    model = torchvision.models.resnet50()
    model.load_state_dict({n: t for n, t in state.items() if not n.startswith("fc.")}, strict=False)
    model.fc = nn.Identity()
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.eval()(images)


@pytest.fixture(scope="module", params=[1, 2])
def moco_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    """A version of MoCo, and a checkpoint of it."""
    path = tmp_path_factory.mktemp("moco") / f"moco_v{request.param}_200ep_pretrain.pth.tar"
    torch.save(moco(request.param), path)
    return request.param, path


def test_moco(moco_file: tuple[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version, path = moco_file
    published = torch.load(path, weights_only=True)
    assert main(["convert", str(path), str(tmp_path / "base")]) == 0
    said = capsys.readouterr().out
    head = ("fc.weight", "fc.bias") if version == 1 else ("fc.0.weight", "fc.0.bias", "fc.2.weight", "fc.2.bias")
    assert all(f"module.encoder_q.{name}" in said for name in head)
    assert "module.encoder_k.… (32" in said
    assert "module.queue_ptr" in said
    state = {n.removeprefix("module.encoder_q."): t for n, t in published["state_dict"].items() if "encoder_q" in n}
    for features in outputs(tmp_path / "base"):
        assert torch.allclose(features, reference(state), atol=1e-4)


def test_every_key_is_either_used_or_listed(moco_file: tuple[int, Path], tmp_path: Path) -> None:
    state = torch.load(moco_file[1], weights_only=True)["state_dict"]
    small = {n: t for n, t in state.items() if not n.startswith("module.encoder_k.")}
    small["module.something_else"] = torch.zeros(3)
    torch.save({"state_dict": small}, tmp_path / "moco.pth.tar")
    found = read_published(tmp_path / "moco.pth.tar")
    used = {f"module.encoder_q.{name}" for name in found.backbone}
    assert used | set(found.left_out) == set(small)
    assert used.isdisjoint(found.left_out)
    assert "module.something_else" in found.left_out


def test_all_of_moco_becomes_a_model_that_goes_on_training(
    moco_file: tuple[int, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    version, path = moco_file
    published = torch.load(path, weights_only=True)
    assert main(["convert", str(path), str(tmp_path / "whole"), "--moco"]) == 0
    assert "1 keys" in capsys.readouterr().out  # the pointer
    keys = {"dataset": "sklearn/digits", "image_size": 32, "probe_examples": 20, "maximum_evaluation_examples": 5}
    model = prepare(TaskConfig("moco", str(tmp_path / "whole"), **keys)).model
    state = published["state_dict"]
    assert torch.equal(model.queue, state["module.queue"])
    assert torch.equal(model.key_encoder.timm_model.conv1.weight, state["module.encoder_k.conv1.weight"])
    last = "fc" if version == 1 else "fc.2"
    assert torch.equal(model.projection[-1].weight, state[f"module.encoder_q.{last}.weight"])
    assert torch.equal(model.key_projection[-1].bias, state[f"module.encoder_k.{last}.bias"])
    assert model.config.loss_temperature == (0.07 if version == 1 else 0.2)


def test_simclr_keeps_its_classifier_and_its_pixels_between_0_and_1(tmp_path: Path) -> None:
    state = torchvision_resnet50()
    torch.save({"state_dict": state}, tmp_path / "resnet50-1x.pth")
    words = ["convert", str(tmp_path / "resnet50-1x.pth"), str(tmp_path / "base"), "--unnormalised"]
    assert main(words) == 0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "base")
    assert torch.equal(model.timm_model.fc.weight, state["fc.weight"])
    task = prepare(TaskConfig("image-classification", str(tmp_path / "base"), dataset="sklearn/digits", image_size=8))
    brightest = max(float(task.evaluation_dataset[i]["pixel_values"].max()) for i in range(10))
    assert brightest == 1.0
    assert torch.equal(task.model.timm_model.layer4[2].conv3.weight, state["layer4.2.conv3.weight"])


def test_torchvision_and_timm_files(tmp_path: Path) -> None:
    state = torchvision_resnet50()
    torch.save(state, tmp_path / "resnet50-0676ba61.pth")
    old = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "resnet50-19c8e357.pth", _use_new_zipfile_serialization=False)
    for name in ("resnet50-0676ba61.pth", "resnet50-19c8e357.pth"):
        found = read_published(tmp_path / name)
        assert (found.architecture, found.classes, found.left_out) == ("resnet50", 1000, [])
        assert all(torch.equal(found.backbone[key], tensor) for key, tensor in old.items())
    for architecture in ("resnet18", "resnet10t"):
        model = timm.create_model(architecture, num_classes=7)
        torch.save(model.state_dict(), tmp_path / "timm.bin")
        found = read_published(tmp_path / "timm.bin")
        assert (found.architecture, found.classes, found.left_out) == (architecture, 7, [])


def test_a_model_of_ours_gives_its_encoder(tmp_path: Path) -> None:
    keys = {"dataset": "sklearn/digits", "image_size": 32, "probe_examples": 20, "maximum_evaluation_examples": 5}
    model = prepare(TaskConfig("simclr", "resnet10t", pretrained=False, **keys)).model
    model.save_pretrained(tmp_path / "simclr")
    assert main(["convert", str(tmp_path / "simclr"), str(tmp_path / "base")]) == 0
    own = model.encoder.timm_model.state_dict()
    converted = AutoModel.from_pretrained(tmp_path / "base").timm_model.state_dict()
    assert all(torch.equal(own[name], converted[name]) for name in own)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("pwned", "w"))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": torchvision_resnet50(), "more": Evil()}, "evil.pth")
    with pytest.raises(DataError, match="more than tensors"):
        read_published(Path("evil.pth"))
    assert not Path("pwned").exists()


def test_what_fits_nothing_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = torchvision.models.resnet18().state_dict()
    short = {name: tensor for name, tensor in state.items() if name != "layer3.1.conv2.weight"}
    wider = {**state, "layer1.0.conv1.weight": torch.zeros(65, 64, 3, 3)}
    cases = {
        "short": (short, "as resnet18, it lacks layer3.1.conv2.weight"),
        "wider": (wider, "layer1.0.conv1.weight is (65"),
    }
    cases |= {"empty": ({"epoch": 3}, "no weights by name"), "list": ([1, 2], "no weights by name")}
    for name, (content, message) in cases.items():
        torch.save(content, tmp_path / f"{name}.pth")
        assert main(["convert", str(tmp_path / f"{name}.pth"), str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()
    (tmp_path / "text.pth").write_text("no checkpoint")
    assert main(["convert", str(tmp_path / "text.pth"), str(tmp_path / "out")]) == 1
    torch.save(state, tmp_path / "whole.pth")
    assert main(["convert", str(tmp_path / "whole.pth"), str(tmp_path / "out"), "--architecture", "resnet5"]) == 1
    assert "nearest: resnet" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "whole.pth"), str(tmp_path)]) == 2
    assert main(["convert", str(tmp_path / "whole.pth"), str(tmp_path / "out"), "--moco"]) == 1
    assert "no key encoder of MoCo" in capsys.readouterr().err
