"""A ticket out of a sparse checkpoint, and an ordinary sparse checkpoint out of a ticket."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from torch.nn.utils import prune as torch_prune
from trainer.tiny import arguments, sentences
from transformers import AutoModelForSequenceClassification, BertTokenizer, Trainer

from hf_tickets import PruningCallback, PruningConfig, Ticket, TicketTrainer
from hf_tickets.cli.main import main
from hf_tickets.errors import HubError, PruningError
from hf_tickets.pruning.scope import prunable_weights
from hf_tickets.ticket.merge import save_merged
from hub.conftest import RunClient
from hub.server import Hub
from hub.tickets import BASE, NAME, base_files, local_base, local_ticket, masks, provenance, ticket_on, tiny_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "day", *"abcdefgh"]


def sparse_checkpoint(folder: Path, share: float = 0.6) -> dict[str, torch.Tensor]:
    """A checkpoint that torch's own pruning made, and where it has weights left."""
    model = AutoModelForSequenceClassification.from_pretrained(local_base(folder / "dense"))
    weights = [(model.get_submodule(f"bert.{name.removesuffix('.weight')}"), "weight") for name in masks()[0]]
    torch_prune.global_unstructured(weights, torch_prune.L1Unstructured, amount=share)
    left = {}
    for name, (module, _) in zip(masks()[0], weights, strict=True):
        left[name] = module.weight_mask.bool().clone()
        torch_prune.remove(module, "weight")
    model.save_pretrained(folder / "sparse")
    return left


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def sentences_of(length: int = 12) -> list[dict[str, Any]]:
    """The trainer tests' digits, in words that the small BERT knows."""
    return [{**row, "input_ids": row["input_ids"] % 50} for row in sentences(length)]


def test_a_sparse_checkpoint_is_a_ticket(tmp_path: Path) -> None:
    left = sparse_checkpoint(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "sparse")
    ticket = Ticket.from_model(model)
    assert same(dict(ticket.mask.items()), left)
    assert ticket.sparsity == pytest.approx(0.6, abs=1e-4)
    assert ticket.config.base_model == str((tmp_path / "sparse").resolve())
    ticket.save_pretrained(tmp_path / "ticket")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "sparse")
    Ticket.from_pretrained(tmp_path / "ticket").apply(loaded, verify="error")
    assert same(loaded.state_dict(), model.state_dict())


def test_only_the_weights_in_scope_are_looked_at(tmp_path: Path) -> None:
    left = sparse_checkpoint(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "sparse")
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.zeros_(model.bert.embeddings.word_embeddings.weight)
    assert set(Ticket.from_model(model).mask) == set(left)
    own = PruningConfig(target_modules=["query"])
    ticket = Ticket.from_model(model, own)
    assert set(ticket.mask) == {name for name in left if ".query." in name} == set(prunable_names(model, own))
    assert ticket.config.pruning["target_modules"] == ["query"]


def prunable_names(model: Any, pruning: PruningConfig) -> list[str]:
    return list(prunable_weights(model, pruning))


def test_a_dense_model_is_no_ticket() -> None:
    with pytest.raises(PruningError, match=r"none of the .* weights in scope is zero"):
        Ticket.from_model(tiny_model())


@pytest.mark.parametrize("held_by", ["TicketTrainer", "PruningCallback"])
def test_a_sparse_checkpoint_is_trained_further_with_its_zeros(tmp_path: Path, held_by: str) -> None:
    left = sparse_checkpoint(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "sparse")
    ticket, before = Ticket.from_model(model), {name: value.clone() for name, value in model.state_dict().items()}
    args = arguments(tmp_path / "run", max_steps=4, weight_decay=0.1)
    if held_by == "TicketTrainer":
        TicketTrainer(model, args, train_dataset=sentences_of(), ticket=ticket).train()
    else:
        Trainer(model, args, train_dataset=sentences_of(), callbacks=[PruningCallback(ticket)]).train()
    for name, kept in left.items():
        weight = model.get_parameter(f"bert.{name}").detach()
        assert not weight[~kept].any(), name
        assert not name.startswith("encoder") or not torch.equal(weight, before[f"bert.{name}"]), name


def test_merging_puts_zeros_where_the_mask_says_and_nowhere_else(hub: Hub) -> None:
    ticket = ticket_on(hub).at(0.7)
    model = AutoModelForSequenceClassification.from_pretrained(BASE)
    merged = ticket.merge(model)
    assert merged is model
    for name, tensor in tiny_model().state_dict().items():
        mask = ticket.mask
        entry = name.removeprefix("bert.")
        assert torch.equal(merged.state_dict()[name], tensor * mask[entry] if entry in mask else tensor), name


PIPELINE = """
import sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] == "hf_tickets":
            raise ImportError("hf_tickets is not installed here")
sys.meta_path.insert(0, Refuse())
try:
    import hf_tickets
except ImportError:
    pass
else:
    raise SystemExit("hf_tickets could be imported")
import json
from transformers import pipeline
for folder in sys.argv[1:]:
    classify = pipeline("text-classification", model=folder)
    zeros = {name: int((value == 0).sum()) for name, value in classify.model.state_dict().items()}
    answer = classify("good film a b c")
    print(json.dumps({"answer": answer, "zeros": zeros, "hf_tickets": "hf_tickets" in sys.modules}))
"""


def tokenizer_files(folder: Path) -> dict[str, bytes]:
    BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def with_tokenizer(hub: Hub, folder: Path) -> Ticket:
    """A ticket on the Hub whose base model has a tokenizer."""
    ticket_on(hub)
    hub.commit(BASE, tokenizer_files(folder))
    ticket = ticket_on(hub)
    ticket.push_to_hub(NAME)
    return ticket


def test_a_merged_checkpoint_needs_no_hf_tickets(
    hub: Hub, tmp_path: Path, run_client: RunClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the base model, and of one that was fine-tuned."""
    ticket = with_tokenizer(hub, tmp_path / "tokenizer").at(0.9)
    torch.manual_seed(5)
    trained = type(tiny_model())(tiny_model().config)
    trained.save_pretrained(tmp_path / "trained")
    tokenizer_files(tmp_path / "trained")
    words = ("export", NAME, "--merged", "--sparsity", "0.9")
    assert main([*words, str(tmp_path / "0")]) == 0, capsys.readouterr().err
    assert main([*words, str(tmp_path / "1"), "--model", str(tmp_path / "trained")]) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.count("checkpoint of sparsity 0.9000") == 2
    result = run_client(PIPELINE, str(tmp_path / "0"), str(tmp_path / "1"))
    assert result.returncode == 0, result.stderr
    for number, source in enumerate((tiny_model(), trained)):
        said = json.loads(result.stdout.splitlines()[number])
        assert said["answer"][0]["label"] in ("LABEL_0", "LABEL_1")
        assert said["hf_tickets"] is False
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / str(number)).state_dict()
        for name, tensor in source.state_dict().items():
            entry = name.removeprefix("bert.")
            kept = ticket.mask[entry] if entry in ticket.mask else torch.ones_like(tensor)
            assert torch.equal(loaded[name], tensor * kept), name
            assert entry not in ticket.mask or said["zeros"][name] == int((kept == 0).sum()), name


def test_its_card_calls_it_a_finetune_of_the_base(hub: Hub, tmp_path: Path) -> None:
    with_tokenizer(hub, tmp_path / "tokenizer")
    assert main(["export", NAME, str(tmp_path / "sparse-bert"), "--merged", "--sparsity", "0.7"]) == 0
    card = ModelCard.load(tmp_path / "sparse-bert" / "README.md")
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"]) == (BASE, "finetune")
    assert (data["library_name"], data["license"]) == ("transformers", "mit")
    assert {"lottery-ticket", "pruning", "sparsity"} <= set(data["tags"])
    assert "70.00 %" in card.text
    assert str(tmp_path) not in str(card)
    # The Hub takes it as it is.
    hub.add_repository("me/sparse")
    from huggingface_hub import HfApi

    HfApi().upload_folder(repo_id="me/sparse", folder_path=tmp_path / "sparse-bert")
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(hub.files("me/sparse"))
    assert AutoModelForSequenceClassification.from_pretrained("me/sparse").num_labels == 2


def test_a_base_that_is_closed_comes_with_the_remedy(hub: Hub, tmp_path: Path) -> None:
    hub.add_repository("other/gated", base_files(), gated=True)
    closed = Ticket(masks(), provenance(masks(), base_model="other/gated"))
    with pytest.raises(HubError, match="other/gated is gated: accept its terms"):
        save_merged(closed, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_tokenizer_comes_along_and_none_is_invented(hub: Hub, tmp_path: Path) -> None:
    ticket_on(hub).push_to_hub(NAME)
    assert main(["export", NAME, str(tmp_path / "without"), "--merged"]) == 0
    names = {path.name for path in (tmp_path / "without").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors"}
    hub.store.repositories.clear()
    with_tokenizer(hub, tmp_path / "tokenizer")
    assert main(["export", NAME, str(tmp_path / "with"), "--merged"]) == 0
    tokenizer = BertTokenizer.from_pretrained(tmp_path / "with")
    assert tokenizer.tokenize("good film") == ["good", "film"]


def test_a_ticket_that_carries_its_weights_is_merged_without_its_base(hub: Hub, tmp_path: Path) -> None:
    folder = local_base(tmp_path / "base")
    local_ticket(folder).push_to_hub(NAME)
    for path in folder.iterdir():
        path.unlink()
    assert main(["export", NAME, str(tmp_path / "out"), "--merged", "--sparsity", "0.7"]) == 0
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").state_dict()
    for name, kept in masks()[1].items():
        assert torch.equal(loaded[f"bert.{name}"], tiny_model().state_dict()[f"bert.{name}"] * kept), name
    data = ModelCard.load(tmp_path / "out" / "README.md").data.to_dict()
    assert "base_model" not in data
    assert "base_model_relation" not in data


def test_without_merged_a_rung_is_written_as_a_ticket(hub: Hub, tmp_path: Path) -> None:
    ticket_on(hub).push_to_hub(NAME)
    assert main(["export", NAME, str(tmp_path / "rung"), "--sparsity", "0.9"]) == 0
    rung = Ticket.from_pretrained(tmp_path / "rung")
    assert [mask.digest for mask in rung.masks] == [masks()[2].digest]
    assert rung.config.base_model == BASE
    assert not (tmp_path / "rung" / "model.safetensors").exists()
    local_ticket(local_base(tmp_path / "base")).push_to_hub("me/carried")
    assert main(["export", "me/carried", str(tmp_path / "carried"), "--sparsity", "0.7"]) == 0
    carried = Ticket.from_pretrained(tmp_path / "carried")
    assert carried.theta is not None
    assert [mask.digest for mask in carried.masks] == [masks()[1].digest]
    for name, kept in masks()[1].items():
        assert torch.equal(carried.theta[name], tiny_model().state_dict()[f"bert.{name}"] * kept), name


def test_export_keeps_what_is_there(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ticket_on(hub).push_to_hub(NAME)
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.tex").write_text("mine")
    for words, message in (
        ([str(full)], "is not an empty folder"),
        ([str(full / "thesis.tex"), "--merged"], "is not an empty folder"),
        ([str(tmp_path / "new"), "--model", "somewhere"], "give --merged too"),
        ([str(tmp_path / "new"), "--merged", "--model", "me/nothing"], "me/nothing"),
        ([str(tmp_path / "new"), "--sparsity", "0.8"], "its rungs are 0.5000, 0.7000, 0.9000"),
        ([str(tmp_path / "new"), "--revision", "sparsity-0.80"], "has no revision 'sparsity-0.80'"),
    ):
        assert main(["export", NAME, *words]) in (1, 2)
        (error,) = capsys.readouterr().err.strip().splitlines()
        assert message in error
    assert [path.name for path in full.iterdir()] == ["thesis.tex"]
    assert not (tmp_path / "new").exists()
