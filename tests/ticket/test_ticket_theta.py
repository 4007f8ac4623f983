"""θ that travels with a ticket: comes back exactly, goes onto any head, and is refused when damaged."""

import copy
import hashlib

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from hf_tickets.errors import TicketFileError, TicketMismatchError, TicketsError
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.theta import load_theta, save_theta, state_digest
from hf_tickets.ticket.ticket import Ticket

BERT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 50,
    "max_position_embeddings": 16,
}
THETA_FILE = "theta.safetensors"


def bert(model_class, seed, **changes):
    torch.manual_seed(seed)
    model = model_class(transformers.BertConfig(**(BERT | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def source():
    return bert(transformers.BertModel, seed=1)


@pytest.fixture(scope="module")
def masks(source):
    first = prune(source, sparsity=0.3)
    return [first, prune(source, mask=first, sparsity=0.8)]


@pytest.fixture(scope="module")
def ticket(source, masks):
    return Ticket(masks, theta=source.state_dict())


@pytest.fixture
def folder(ticket, tmp_path):
    ticket.save_pretrained(tmp_path / "ticket")
    return tmp_path / "ticket"


def content(model):
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}


def assert_refused(folder, match, model=None):
    model = model or bert(transformers.BertForSequenceClassification, seed=2)
    before = content(model)
    with pytest.raises(TicketsError, match=match):
        Ticket.from_pretrained(folder).apply(model)
    assert content(model) == before


def test_the_digest_of_a_state_is_its_formula():
    state = {"b": torch.tensor([1.5, -2.0]), "a": torch.tensor(3), "c": torch.ones(2, 2, dtype=torch.bfloat16)}
    contents = [(3).to_bytes(8, "little"), bytes.fromhex("0000c03f000000c0"), bytes.fromhex("803f" * 4)]
    kinds = ["a torch.int64 ", "b torch.float32 2", "c torch.bfloat16 2x2"]
    lines = [f"{kind} {hashlib.sha256(content).hexdigest()}\n" for kind, content in zip(kinds, contents, strict=True)]
    assert state_digest(state) == hashlib.sha256("".join(lines).encode()).hexdigest()
    transposed = {**state, "c": torch.ones(2, 2, dtype=torch.bfloat16).t()}
    assert state_digest(dict(reversed(transposed.items()))) == state_digest(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_theta_comes_back_with_zeros_where_pruned(tmp_path, dtype):
    torch.manual_seed(0)
    theta = {"a": torch.randn(6, 5).to(dtype), "b": torch.randn(4).to(dtype), "count": torch.tensor(7)}
    mask = Mask({"a": torch.rand(6, 5) < 0.5})
    digest = save_theta(theta, mask, tmp_path / THETA_FILE)
    loaded = load_theta(tmp_path / THETA_FILE, mask, digest)
    assert set(loaded) == set(theta)
    assert torch.equal(loaded["a"], torch.where(mask["a"], theta["a"], torch.zeros((), dtype=dtype)))
    assert torch.equal(loaded["b"], theta["b"])
    assert torch.equal(loaded["count"], theta["count"])
    assert {name: value.dtype for name, value in loaded.items()} == {name: value.dtype for name, value in theta.items()}


def test_pruned_weights_take_no_room(tmp_path):
    theta = {"a": torch.randn(1000, 100)}
    mask = Mask({"a": torch.arange(100_000).reshape(1000, 100) < 20_000})
    save_theta(theta, mask, tmp_path / THETA_FILE)
    assert (tmp_path / THETA_FILE).stat().st_size < 4 * 20_000 + 1000


@pytest.mark.parametrize(
    ("model_class", "prefix"),
    [
        (transformers.BertForSequenceClassification, "bert."),
        (transformers.BertForMaskedLM, "bert."),
        (transformers.BertModel, ""),
    ],
)
@pytest.mark.parametrize("rung", [0, 1])
def test_theta_and_mask_go_onto_any_head(folder, source, masks, model_class, prefix, rung):
    model = bert(model_class, seed=2)
    before = copy.deepcopy(model.state_dict())
    theta = source.state_dict()
    Ticket.from_pretrained(folder, sparsity=masks[rung].sparsity).apply(model)
    tied_to_backbone = {"cls.predictions.decoder.weight": "embeddings.word_embeddings.weight"}
    for name, value in model.state_dict().items():
        inner = tied_to_backbone.get(name, name.removeprefix(prefix) if name.startswith(prefix) else None)
        if inner is None or inner not in theta:
            assert torch.equal(value, before[name]), name
        elif inner in masks[rung]:
            assert torch.equal(value, theta[inner].where(masks[rung][inner], torch.zeros(()))), name
        else:
            assert torch.equal(value, theta[inner]), name


def test_theta_goes_onto_compiled_models(folder, source):
    model = bert(transformers.BertForSequenceClassification, seed=2)
    Ticket.from_pretrained(folder).apply(torch.compile(model))
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, source.embeddings.word_embeddings.weight)


def test_batch_norm_statistics_travel(tmp_path):
    def network(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))

    source, model = network(0), network(1)
    source(torch.randn(20, 6) + 3)
    mask = prune(source, sparsity=0.5)
    Ticket(mask, theta=source.state_dict()).save_pretrained(tmp_path)
    Ticket.from_pretrained(tmp_path).apply(model)
    mask.apply_(source)
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in model.state_dict().items())


def test_tied_weights_are_saved(tmp_path):
    model = nn.ModuleDict({"embedding": nn.Embedding(9, 4), "hidden": nn.Linear(4, 4), "output": nn.Linear(4, 9)})
    model["output"].weight = model["embedding"].weight
    mask = prune(model, sparsity=0.5)
    Ticket(mask, theta=model.state_dict()).save_pretrained(tmp_path)
    other = copy.deepcopy(model)
    nn.init.normal_(other["output"].weight)
    Ticket.from_pretrained(tmp_path).apply(other)
    assert torch.equal(other["embedding"].weight, model["embedding"].weight)
    assert other["output"].weight is other["embedding"].weight


def test_saving_leaves_theta_as_it_was(source, ticket, tmp_path):
    before = content(source)
    ticket.save_pretrained(tmp_path)
    assert content(source) == before


# What is refused.


def test_a_cut_file_is_refused(folder):
    whole = (folder / THETA_FILE).read_bytes()
    for length in [*range(0, 64, 9), *range(64, len(whole), len(whole) // 40), len(whole) - 1]:
        (folder / THETA_FILE).write_bytes(whole[:length])
        assert_refused(folder, THETA_FILE)


def test_a_flipped_bit_anywhere_is_refused(folder):
    whole = (folder / THETA_FILE).read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for place in [*range(header, len(whole), len(whole) // 60), len(whole) - 1]:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        (folder / THETA_FILE).write_bytes(changed)
        assert_refused(folder, THETA_FILE)


def test_theta_of_another_mask_is_refused(folder, source, masks, tmp_path):
    """As many weights kept in each layer, but others."""
    other = Mask({name: kept.flip(0) for name, kept in masks[0].items()})
    assert other.kept_by_layer == masks[0].kept_by_layer
    assert other != masks[0]
    digest = save_theta(source.state_dict(), other, folder / THETA_FILE)
    assert_refused(folder, THETA_FILE)
    with pytest.raises(TicketFileError, match=THETA_FILE):
        load_theta(folder / THETA_FILE, masks[0], digest)


def test_theta_that_lacks_a_pruned_weight_is_refused(folder):
    tensors = load_file(folder / THETA_FILE)
    tensors.pop("encoder.layer.0.output.dense.weight")
    save_file(tensors, folder / THETA_FILE)
    assert_refused(folder, THETA_FILE)


def test_theta_that_has_gone_missing_is_refused(folder):
    """A ticket whose θ0 nobody else has is no ticket without it."""
    (folder / THETA_FILE).unlink()
    assert_refused(folder, THETA_FILE)


def test_saving_without_theta_leaves_none_of_an_earlier_ticket(folder, masks):
    Ticket(masks).save_pretrained(folder)
    assert Ticket.from_pretrained(folder).theta is None


def test_theta_of_other_shapes_changes_nothing(folder):
    """The same layers, another vocabulary: the mask fits, θ does not."""
    model = bert(transformers.BertForSequenceClassification, seed=2, vocab_size=60)
    before = content(model)
    with pytest.raises(TicketMismatchError, match=r"embeddings\.word_embeddings\.weight is \(60, 32\) here"):
        Ticket.from_pretrained(folder).apply(model)
    assert content(model) == before


def test_weights_that_the_model_lacks_are_not_dropped_in_silence(source, masks, tmp_path):
    """θ of more than the model has: strict refuses, else they are left out."""
    theta = {**source.state_dict(), "encoder.adapter.weight": torch.ones(3)}
    Ticket(masks, theta=theta).save_pretrained(tmp_path)
    assert_refused(tmp_path, r"lacks bert\.encoder\.adapter\.weight")
    Ticket.from_pretrained(tmp_path).apply(bert(transformers.BertForSequenceClassification, seed=2), strict=False)


def test_a_file_error_is_of_the_file_type(folder):
    (folder / THETA_FILE).write_bytes(b"")
    with pytest.raises(TicketFileError, match=r"theta\.safetensors"):
        Ticket.from_pretrained(folder)
