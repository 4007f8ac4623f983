"""`AutoTicketModel…`: a base model and its ticket in one call, and what a stranger's ticket cannot make it do."""

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import BertForSequenceClassification, TimmWrapperConfig, TimmWrapperForImageClassification

import hf_tickets
from hf_tickets import AutoTicketModel, Mask, PruningConfig, Ticket, TicketsError, prune
from hf_tickets.errors import HubError, TicketMismatchError
from hf_tickets.ticket.base import describe_base
from hf_tickets.ticket.config import CONFIG_FILE
from hub.server import Hub
from hub.tickets import BASE, NAME, local_base, local_ticket, masks, put_base, ticket_on, tiny_model

AUTO_CLASSES = sorted(name for name in dir(transformers) if name.startswith("AutoModelFor"))
State = dict[str, torch.Tensor]


def classifier(source: Any, **options: Any) -> Any:
    return hf_tickets.AutoTicketModelForSequenceClassification.from_pretrained(source, **options)


def files_of(model: Any) -> dict[str, bytes]:
    """What `save_pretrained` writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def other_weights(seed: int = 9) -> dict[str, bytes]:
    """The base model's checkpoint with all weights drawn anew."""
    torch.manual_seed(seed)
    return files_of(BertForSequenceClassification(tiny_model().config))


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def faults(state: State, base: State, mask: Mask, prefix: str = "bert.") -> list[str]:
    """Names of backbone tensors that are not the base model's, bit for bit, with +0 exactly where the mask prunes."""
    wrong = []
    for name, tensor in base.items():
        if not name.startswith(prefix) or name not in state:
            continue
        kept = mask.get(name.removeprefix(prefix))
        expected = tensor if kept is None else torch.where(kept, tensor, torch.zeros((), dtype=tensor.dtype))
        if bits(state[name]) != bits(expected):
            wrong.append(name)
    assert sum(name.startswith(prefix) for name in state) > 5
    return wrong


@cache
def vision_model() -> TimmWrapperForImageClassification:
    """timm's smallest ResNet, with BatchNorm statistics that no initialisation has; not to be changed."""
    torch.manual_seed(0)
    model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture="test_resnet", num_labels=10))
    for name, buffer in model.named_buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand(buffer.shape) + len(name))
    return model


def vision_ticket(base: str) -> Ticket:
    model = vision_model()
    config = replace(describe_base(model), base_model=base)
    first = prune(model, PruningConfig(), sparsity=0.4)
    return Ticket([first, prune(model, PruningConfig(), first, 0.8)], config)


@pytest.mark.parametrize("name", AUTO_CLASSES)
def test_every_auto_class_of_transformers_has_a_sibling(name: str) -> None:
    sibling = getattr(hf_tickets, name.replace("AutoModel", "AutoTicketModel", 1))
    assert sibling.auto_class is getattr(transformers, name)
    assert issubclass(sibling, AutoTicketModel)
    assert sibling.__name__ == name.replace("AutoModel", "AutoTicketModel", 1)


def test_there_are_many_auto_classes_and_no_others() -> None:
    assert len(AUTO_CLASSES) > 20
    assert AutoTicketModel.auto_class is transformers.AutoModel
    for name in ("AutoTicketModelForNothing", "AutoTicketModelFor", "AutoTicketTokenizer"):
        with pytest.raises(AttributeError, match=name):
            getattr(hf_tickets, name)


@pytest.mark.parametrize("sparsity", [None, 0.5, 0.9])
def test_the_base_is_loaded_as_it_was_when_the_ticket_was_found(
    hub: Hub, tmp_path: Path, sparsity: float | None
) -> None:
    """And not as it is now: its main has moved on."""
    ticket = ticket_on(hub)
    ticket.push_to_hub(NAME)
    hub.commit(BASE, other_weights())
    model = classifier(NAME, sparsity=sparsity, cache_dir=tmp_path)
    mask = ticket.at(sparsity or ticket.default_sparsity).mask
    assert faults(model.state_dict(), tiny_model().state_dict(), mask) == []
    assert model.ticket.mask == mask
    # The dense model of today is another: had it been taken, the comparison would have failed.
    dense = BertForSequenceClassification.from_pretrained(BASE, cache_dir=tmp_path)
    assert faults(dense.state_dict(), tiny_model().state_dict(), mask) != []


def test_the_base_of_a_tag_and_without_a_head(hub: Hub, tmp_path: Path) -> None:
    ticket = ticket_on(hub)
    ticket.push_to_hub(NAME)
    model = AutoTicketModel.from_pretrained(NAME, revision="sparsity-0.70", cache_dir=tmp_path)
    assert type(model).__name__ == "BertModel"
    base = {name.removeprefix("bert."): tensor for name, tensor in tiny_model().state_dict().items()}
    assert faults(model.state_dict(), base, ticket.at(0.7).mask, prefix="") == []


def test_a_ticket_of_a_subfolder(hub: Hub, tmp_path: Path) -> None:
    ticket = ticket_on(hub)
    ticket.at(0.5).rung().save_pretrained(tmp_path / "root")
    ticket.save_pretrained(tmp_path / "root" / "deep" / "ticket")
    here = tmp_path / "root"
    paths = [path for path in here.rglob("*") if path.is_file()]
    hub.add_repository(NAME, {path.relative_to(here).as_posix(): path.read_bytes() for path in paths})
    for source in (NAME, here):
        model = AutoTicketModel.from_pretrained(source, sparsity=0.9, subfolder="deep/ticket", cache_dir=tmp_path)
        base = {name.removeprefix("bert."): tensor for name, tensor in tiny_model().state_dict().items()}
        assert faults(model.state_dict(), base, masks()[2], prefix="") == []


def test_a_second_time_it_is_loaded_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    ticket_on(hub).push_to_hub(NAME)
    first = classifier(NAME, cache_dir=tmp_path)
    hub.requests.clear()
    second = classifier(NAME, cache_dir=tmp_path, local_files_only=True)
    assert hub.requests == []
    assert bits(first.bert.encoder.layer[0].output.dense.weight) == bits(
        second.bert.encoder.layer[0].output.dense.weight
    )


def test_what_the_base_model_takes_is_passed_on(hub: Hub, tmp_path: Path) -> None:
    ticket = ticket_on(hub)
    options = {"num_labels": 5, "dtype": torch.bfloat16, "attn_implementation": "eager", "device_map": "cpu"}
    model = classifier(ticket, sparsity=0.7, cache_dir=tmp_path, **options)
    assert model.classifier.out_features == model.config.num_labels == 5
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager"
    with pytest.raises(TicketsError, match="nowhere"):
        classifier(ticket, cache_dir=tmp_path, device_map="nowhere")
    base = {name: tensor.to(torch.bfloat16) for name, tensor in tiny_model().state_dict().items()}
    assert faults(model.state_dict(), base, ticket.at(0.7).mask) == []
    assert classifier(ticket, attn_implementation="sdpa", cache_dir=tmp_path).config._attn_implementation == "sdpa"
    masked = hf_tickets.AutoTicketModelForMaskedLM.from_pretrained(ticket, cache_dir=tmp_path)
    assert type(masked).__name__ == "BertForMaskedLM"
    assert torch.equal(masked.bert.encoder.layer[0].output.dense.weight != 0, ticket.mask[_NAME])


_NAME = "encoder.layer.0.output.dense.weight"


def test_a_timm_base(hub: Hub, tmp_path: Path) -> None:
    hub.add_repository("me/vision")
    hub.commit("me/vision", files_of(vision_model()))
    ticket = vision_ticket("me/vision")
    ticket.push_to_hub(NAME)
    hub.commit("me/vision", {"model.safetensors": b"damaged"})
    model = hf_tickets.AutoTicketModelForImageClassification.from_pretrained(NAME, num_labels=3, cache_dir=tmp_path)
    mask = ticket.mask
    assert (type(model).__name__, model.config.num_labels) == ("TimmWrapperForImageClassification", 3)
    found, base = model.timm_model.state_dict(), vision_model().timm_model.state_dict()
    names = {name.removeprefix("timm_model."): name for name in mask}
    for name, tensor in base.items():
        if name.startswith("fc."):
            continue
        kept = mask[names[name]] if name in names else torch.ones(tensor.shape, dtype=torch.bool)
        assert bits(found[name]) == bits(torch.where(kept, tensor, torch.zeros((), dtype=tensor.dtype))), name


@pytest.mark.parametrize("kind", ["bert", "vision"])
def test_weights_that_travel_reach_an_empty_cache(hub: Hub, tmp_path: Path, kind: str) -> None:
    """θ0 was in a folder of the finder's machine, which is gone; BatchNorm's statistics are part of it."""
    folder = tmp_path / "base"
    if kind == "bert":
        ticket, original = local_ticket(local_base(folder)), tiny_model()
        auto_class, prefix = hf_tickets.AutoTicketModelForSequenceClassification, "bert."
    else:
        vision_model().save_pretrained(folder)
        ticket, original = vision_ticket(str(folder)), vision_model()
        auto_class, prefix = hf_tickets.AutoTicketModelForImageClassification, "timm_model."
    ticket.push_to_hub(NAME)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    model = auto_class.from_pretrained(NAME, num_labels=2, cache_dir=tmp_path / "cache")
    mask = Ticket.from_pretrained(NAME, cache_dir=tmp_path / "cache").mask
    assert mask.digest in {rung.digest for rung in ticket.masks}
    kept = {name if prefix == "bert." else name.removeprefix("timm_model."): mask[name] for name in mask}
    state = model.state_dict()
    compared = 0
    for name, tensor in original.state_dict().items():
        if not name.startswith(prefix) or ".fc." in name:
            continue
        where = kept.get(name.removeprefix(prefix), torch.ones(tensor.shape, dtype=torch.bool))
        assert bits(state[name]) == bits(torch.where(where, tensor, torch.zeros((), dtype=tensor.dtype))), name
        compared += 1
    assert compared > 20
    assert kind == "bert" or any("running_var" in name for name in state)
    assert hub.asked("GET", "base") == []


def test_other_weights_are_refused_told_or_taken(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where no commit is recorded, the digest tells: the base's main has moved on."""
    ticket_on(hub, base_model_revision=None).save_pretrained(tmp_path / "ticket")
    hub.commit(BASE, other_weights())
    where = {"sparsity": 0.7, "cache_dir": tmp_path / "cache"}
    with pytest.raises(TicketMismatchError, match=r"not those of me/tiny that the ticket was found on"):
        classifier(tmp_path / "ticket", verify="error", **where)
    for verify, lines in (("warn", 1), ("off", 0)):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "hf_tickets"):
            model = classifier(tmp_path / "ticket", verify=verify, **where)
        told = [record for record in caplog.records if record.name.startswith("hf_tickets")]
        assert len(told) == lines
        assert all("\n" not in record.getMessage() for record in told)
        assert model.ticket.sparsity == pytest.approx(0.7, abs=1e-4)
    with pytest.raises(TicketMismatchError, match='verify must be "warn", "error" or "off"'):
        classifier(tmp_path / "ticket", verify="perhaps", **where)


def test_the_right_weights_pass_the_strictest_check(hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ticket = ticket_on(hub)
    with caplog.at_level(logging.WARNING, "hf_tickets"):
        classifier(ticket, verify="error", cache_dir=tmp_path)
        classifier(ticket, cache_dir=tmp_path)
    assert [record for record in caplog.records if record.name.startswith("hf_tickets")] == []


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_base_that_cannot_be_had_is_named(hub: Hub, tmp_path: Path) -> None:
    ticket = ticket_on(hub)
    ticket.push_to_hub(NAME)
    commit = ticket.config.base_model_revision
    del hub.store.repositories["model", BASE]
    with pytest.raises(HubError) as gone:
        classifier(NAME, cache_dir=tmp_path / "1")
    assert BASE in one_line(gone)
    hub.add_repository(BASE, gated=True, owner="other")
    hub.repository(BASE).gated = True
    hub.add_repository("other/gated", {"config.json": b"{}"}, gated=True)
    gated = Ticket(ticket.ladder, replace(ticket.config, base_model="other/gated", base_model_revision=None))
    with pytest.raises(HubError, match="other/gated is gated") as closed:
        classifier(gated, cache_dir=tmp_path / "2")
    one_line(closed)
    moved = Ticket(ticket.ladder, replace(ticket.config, base_model_revision="0" * 40))
    with pytest.raises(HubError, match="me/tiny"):
        classifier(moved, cache_dir=tmp_path / "3")
    assert commit is not None


def test_a_ticket_of_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(TicketsError, match="names no base model on the Hub and carries none"):
        classifier(Ticket(prune(tiny_model(), sparsity=0.5)))


CODE = """
from pathlib import Path
from transformers import BertConfig, BertForSequenceClassification
Path({marker!r}).write_text("ran")
class OwnConfig(BertConfig):
    model_type = {model_type!r}
class OwnModel(BertForSequenceClassification):
    config_class = OwnConfig
"""


def coded_base(hub: Hub, marker: Path, model_type: str) -> None:
    """A base model that brings code of its own."""
    hub.add_repository("other/coded")
    files = files_of(tiny_model())
    config = json.loads(files["config.json"])
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    config |= {"auto_map": auto_map, "model_type": model_type}
    code = CODE.format(marker=str(marker), model_type=model_type).encode()
    hub.commit("other/coded", files | {"config.json": json.dumps(config).encode(), "own.py": code})


@pytest.mark.parametrize("model_type", ["bert", "own-bert"])
def test_code_beside_a_base_is_not_run_unless_asked_for(
    hub: Hub, tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    coded_base(hub, marker, model_type)
    ticket = Ticket(prune(tiny_model(), sparsity=0.5))
    ticket.config = replace(ticket.config, base_model="other/coded", model_type=None)
    where = {"cache_dir": tmp_path / "cache", "verify": "off"}
    # Standard input is no terminal, so that nobody can be asked to answer "yes".
    if model_type == "bert":
        assert type(classifier(ticket, **where)).__module__.startswith("transformers.models.bert")
    else:
        with pytest.raises(TicketsError, match="trust_remote_code"):
            classifier(ticket, **where)
    assert not marker.exists()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*__import__("sys").path, str(tmp_path / "modules")])
    assert type(classifier(ticket, trust_remote_code=True, **where)).__name__ == "OwnModel"
    assert marker.read_text() == "ran"


def strange(hub: Hub, base: Path, change: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> str:
    """A ticket with θ on the Hub whose configuration of the base model was changed by hand."""
    name = "other/strange"
    ticket = local_ticket(local_base(base)) if config is None else vision_ticket(str(base))
    if config is not None:
        vision_model().save_pretrained(base)
    with tempfile.TemporaryDirectory() as folder:
        honest = ticket.at(0.5 if config is None else 0.8)
        from hf_tickets.ticket.publishing import publishable

        publishable(honest).save_pretrained(folder)
        values = json.loads((Path(folder) / CONFIG_FILE).read_text())
        values["base_config"] |= dict(change)
        (Path(folder) / CONFIG_FILE).write_text(json.dumps(values))
        hub.add_repository(name, {path.name: path.read_bytes() for path in Path(folder).iterdir()})
    return name


HARMLESS = {
    "kernel": {"attn_implementation": "someone/kernel"},
    "private kernel": {"_attn_implementation": "someone/kernel", "_attn_implementation_internal": "someone/kernel"},
    "experts": {"experts_implementation": "someone/kernel", "_experts_implementation": "someone/kernel"},
    "code": {"auto_map": {"AutoModel": "other/strange--own.OwnModel", "AutoConfig": "other/strange--own.OwnConfig"}},
    "quantization": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
    "path": {"_name_or_path": "/etc", "name_or_path": "/etc"},
    "address": {"custom": "https://example.org/code.py"},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_strangers_configuration_asks_in_vain(
    hub: Hub, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it asks for beyond sizes is left out: nothing else is fetched, and the weights are the ticket's."""
    source = strange(hub, tmp_path / "base", HARMLESS[name])
    monkeypatch.chdir(tmp_path)
    hub.requests.clear()
    try:
        model = classifier(source, num_labels=2, cache_dir=tmp_path / "cache")
    except TicketsError:
        pass
    else:
        ticket = Ticket.from_pretrained(source, cache_dir=tmp_path / "cache")
        assert faults(model.state_dict(), tiny_model().state_dict(), ticket.mask) == []
        assert model.config._attn_implementation in ("sdpa", "eager")
        assert getattr(model.config, "quantization_config", None) is None
        assert not hasattr(model.config, "auto_map")
    asked = {request.path.split("?")[0] for request in hub.requests if "other/strange" not in request.path}
    assert {path for path in asked if not path.startswith(("/content/", "/upload/"))} == set()
    assert not (tmp_path / "cache" / "models--someone--kernel").exists()


MONSTROUS = {
    "wide": {"hidden_size": 10**9},
    "deep": {"num_hidden_layers": 10**9},
    "large vocabulary": {"vocab_size": 10**13},
    "beyond 64 bits": {"vocab_size": 10**30},
    "negative": {"hidden_size": -64},
    "nothing": {"num_attention_heads": 0},
    "a word": {"hidden_size": "many"},
    "a list": {"intermediate_size": [1, 2]},
    "infinite": {"layer_norm_eps": "x"},
    "another model": {"model_type": "gpt2", "n_layer": 10**9},
    "depth by another name": {"model_type": "gpt2", "n_layer": 10**6},
    "nested": {"model_type": "llava", "text_config": {"model_type": "llama", "num_hidden_layers": 10**9}},
    "nested and wide": {"model_type": "llava", "text_config": {"model_type": "llama", "hidden_size": 10**9}},
    "a list of depths": {"model_type": "convnext", "depths": [10**8, 1, 1, 1]},
    "a list of widths": {"model_type": "convnext", "hidden_sizes": [10**8, 1, 1, 1]},
    "unknown model": {"model_type": "no-such-model"},
    "no model": {"model_type": ["bert"]},
    "labels": {"num_labels": 10**12},
    "pre-trained backbone": {
        "model_type": "detr",
        "backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:someone/model"},
        "use_pretrained_backbone": True,
    },
    "chunks": {"chunk_size_feed_forward": 10**40, "hidden_act": "someone/activation"},
}


@pytest.mark.parametrize("name", MONSTROUS)
def test_a_strangers_sizes_are_refused_before_memory_is_taken(hub: Hub, tmp_path: Path, name: str) -> None:
    source = strange(hub, tmp_path / "base", MONSTROUS[name])
    with pytest.raises(TicketsError) as refused:
        classifier(source, cache_dir=tmp_path / "cache")
    assert "lacks" not in one_line(refused)
    assert hub.asked("GET", "someone") == hub.asked("HEAD", "someone") == []


OUTSIDE = {
    "a folder": {"architecture": "local-dir:{folder}"},
    "a repository": {"architecture": "hf-hub:someone/model"},
    "a checkpoint": {"model_args": {"checkpoint_path": "{folder}/model.safetensors"}},
    "a repository's config": {"model_args": {"pretrained_cfg": {"hf_hub_id": "someone/model"}}},
    "pre-trained": {"model_args": {"pretrained": True}},
    "wide": {"model_args": {"in_chans": 10**9}},
    "deep": {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 10**8}},
    "both": {"architecture": "vit_tiny_patch16_224", "model_args": {"embed_dim": 3 * 10**7}},
    "unknown": {"architecture": "no_such_model"},
}


LEFT_OUT = ("a checkpoint", "a repository's config", "pre-trained")


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_strangers_timm_model_is_timms_and_of_its_size(hub: Hub, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "private"
    vision_model().save_pretrained(folder)
    change = json.loads(json.dumps(OUTSIDE[name]).replace("{folder}", str(folder)))
    source = strange(hub, tmp_path / "base", change, config={})
    hub.requests.clear()
    auto_class, cache = hf_tickets.AutoTicketModelForImageClassification, tmp_path / "cache"
    if name in LEFT_OUT:
        model = auto_class.from_pretrained(source, num_labels=10, cache_dir=cache)
        mask = Ticket.from_pretrained(source, cache_dir=cache).mask
        wrong = []
        for entry, kept in mask.items():
            base = vision_model().get_parameter(entry if entry.startswith("timm_model.") else f"timm_model.{entry}")
            found = model.get_parameter(entry if entry.startswith("timm_model.") else f"timm_model.{entry}")
            wrong += [entry] if not torch.equal(found, base * kept) else []
        assert wrong == []
    else:
        with pytest.raises(TicketsError) as refused:
            auto_class.from_pretrained(source, cache_dir=cache)
        assert "lacks" not in one_line(refused)  # refused for what it asks, not for what came of it
    assert hub.asked("GET", "someone") == hub.asked("HEAD", "someone") == []


@pytest.mark.parametrize("base", ["/etc", "../base", "./base", "~/base", "{folder}", "file:///etc"])
def test_a_strangers_base_is_never_a_folder_here(
    hub: Hub, tmp_path: Path, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = local_base(tmp_path / "work" / "base")
    monkeypatch.chdir(folder.parent)
    ticket = local_ticket(folder)
    ticket.config = replace(ticket.config, base_model=base.replace("{folder}", str(folder)))
    ticket.save_pretrained(tmp_path / "ticket")
    files = {path.name: path.read_bytes() for path in (tmp_path / "ticket").iterdir()}
    hub.add_repository("other/strange", files)
    with pytest.raises(TicketsError) as refused:
        classifier("other/strange", cache_dir=tmp_path / "cache")
    one_line(refused)


def test_a_folder_of_the_bases_name_is_taken_and_its_weights_are_checked(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in transformers, a folder goes before the Hub; a commit says nothing about it, the digest does."""
    ticket_on(hub).push_to_hub(NAME)
    (tmp_path / BASE).mkdir(parents=True)
    for name, content in other_weights().items():
        (tmp_path / BASE / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TicketMismatchError, match="not those of me/tiny"):
        classifier(NAME, verify="error", cache_dir=tmp_path / "cache")


def test_the_model_trains_with_its_own_ticket(hub: Hub, tmp_path: Path) -> None:
    put_base(hub)
    model = classifier(ticket_on(hub), sparsity=0.9, cache_dir=tmp_path)
    assert isinstance(model, nn.Module)
    assert model.ticket.sparsities == (pytest.approx(0.9, abs=1e-4),)
