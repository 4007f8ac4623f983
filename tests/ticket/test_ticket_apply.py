"""A ticket on models: it fits any head and wrapper of its backbone, and touches nothing else."""

import copy
import logging

import pytest
import torch
import torch.distributed
import transformers
from applying import POOLER, assert_applied, assert_refused, bert, bert_ticket, content
from torch import nn

from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.ticket import Ticket

# BERT under its heads.


@pytest.mark.parametrize(
    ("model_class", "prefix", "dense"),
    [
        (transformers.BertForSequenceClassification, "bert.", [f"bert.{POOLER}"]),
        (transformers.BertForQuestionAnswering, "bert.", []),
        (transformers.BertForMaskedLM, "bert.", []),
        (transformers.BertModel, "", [POOLER]),
    ],
)
def test_a_ticket_of_a_masked_language_model_fits_every_head(model_class, prefix, dense):
    report = assert_applied(bert_ticket(), bert(model_class), prefix)
    assert report.dense == dense
    assert all(name == prefix + entry for name, entry in report.matched.items())
    assert f"{len(report.matched)} weights matched under {prefix!r}, {len(dense)} dense, 0 unused" in str(report)


def test_the_pooler_is_left_out_where_there_is_none():
    ticket = bert_ticket(transformers.BertModel)
    assert POOLER in ticket.mask
    report = assert_applied(ticket, bert(transformers.BertForMaskedLM), "bert.", absent=[POOLER])
    assert report.dense == []
    assert_applied(ticket, bert(), "bert.")


def test_gpt2_and_t5_tickets_fit():
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=16)
    mask = prune(transformers.GPT2Model(config), sparsity=0.5)
    assert_applied(Ticket(mask), transformers.GPT2LMHeadModel(config), "transformer.")
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}
    config = transformers.T5Config(**sizes)
    mask = prune(transformers.T5Model(config), sparsity=0.5)
    assert_applied(Ticket(mask), transformers.T5ForConditionalGeneration(config), "")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_models(dtype):
    ticket, model = bert_ticket(), bert().to(dtype)
    ticket.apply(model)
    for name, kept in ticket.mask.items():
        weight = model.get_parameter(f"bert.{name}")
        assert not weight[~kept].view(torch.int16).any()


def test_applying_says_what_it_did_in_the_log(caplog):
    with caplog.at_level(logging.INFO, logger="hf_tickets"):
        bert_ticket().apply(bert())
    assert "12 weights matched under 'bert.', 1 dense, 0 unused" in caplog.text


def test_matching_alone_changes_nothing():
    model = bert()
    before = content(model)
    report = bert_ticket().match(model)
    assert len(report.matched) == 12
    assert content(model) == before


# Wrappers.


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    store = tmp_path_factory.mktemp("group") / "store"
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_compiled_models():
    assert_applied(bert_ticket(), torch.compile(bert()), "bert.")


def test_data_parallel_models(one_process):
    assert_applied(bert_ticket(), nn.DataParallel(bert()), "bert.")
    assert_applied(bert_ticket(), nn.parallel.DistributedDataParallel(bert()), "bert.")
    assert_applied(bert_ticket(), nn.parallel.DistributedDataParallel(torch.compile(bert())), "bert.")


def test_wrappers_inside_the_model():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    ticket, plain = bert_ticket(), bert()
    wrapped = copy.deepcopy(plain)
    wrapped.bert.encoder.layer[0] = checkpoint_wrapper(wrapped.bert.encoder.layer[0])
    wrapped.bert.encoder.layer[1] = torch.compile(wrapped.bert.encoder.layer[1])
    ticket.apply(plain)
    report = ticket.apply(wrapped)
    assert len(report.matched) == 12
    assert [value.tolist() for value in wrapped.parameters()] == [value.tolist() for value in plain.parameters()]


def test_a_ticket_found_on_a_wrapped_model_is_the_same():
    model = bert()
    assert prune(torch.compile(model), sparsity=0.5) == prune(model, sparsity=0.5)


# Scopes of one's own.


def test_a_ticket_of_chosen_modules_fits_with_the_config_that_chose_them():
    config = PruningConfig(target_modules=["query", "value"])
    mask = prune(bert(), config, sparsity=0.5)
    ticket = Ticket(mask, TicketConfig(pruning=config.to_dict()))
    assert assert_applied(ticket, bert(), "bert.").dense == []
    assert_refused(Ticket(mask), bert(), "does not cover")
    assert len(assert_applied(Ticket(mask), bert(), "bert.", strict=False).dense) == 9


def test_a_ticket_of_the_whole_model_fits_its_own_class():
    config = PruningConfig(scope="model")
    ticket = Ticket(prune(bert(), config, sparsity=0.5), TicketConfig(pruning=config.to_dict(), model_type="bert"))
    assert "classifier.weight" in ticket.mask
    assert_applied(ticket, bert(), "")
    assert_refused(ticket, bert(transformers.BertForMaskedLM), r"classifier\.weight|cls\.predictions")


def test_a_single_layer():
    ticket = Ticket(prune(nn.Linear(8, 6), sparsity=0.5))
    assert_applied(ticket, nn.Linear(8, 6), "")
