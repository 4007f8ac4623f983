"""Controls of weights: the ticket's mask on other weights, which travel with it."""

from pathlib import Path

import pytest
import torch
from torch import nn
from trainer.tiny import (
    Held,
    Snapshots,
    arguments,
    bert,
    bert_config,
    different,
    mask_of,
    resnet,
    same_bits,
    search,
    sentences,
    snapshot,
)
from transformers import BertForMaskedLM, BertModel

from hf_tickets import AutoTicketModel, PruningConfig, RewindConfig, Ticket, TicketTrainer, control, prune
from hf_tickets.errors import PruningError, RecipeError
from hf_tickets.pruning.controls import WEIGHT_CONTROLS
from hf_tickets.pruning.scope import prunable_weights
from hf_tickets.studies.controls import change_weights_
from hf_tickets.ticket.base import describe_base
from hf_tickets.ticket.card import make_card
from hf_tickets.ticket.theta import backbone_digest, state_digest


def ticket_of(model: nn.Module) -> Ticket:
    """A ticket of two rungs that magnitudes do not explain."""
    pruning = PruningConfig(criterion="random", pruning_seed=5)
    first = prune(model, pruning, sparsity=0.5)
    return Ticket([first, prune(model, pruning, first, sparsity=0.8)], describe_base(model, pruning))


def applied(made: Ticket, model: nn.Module) -> dict[str, torch.Tensor]:
    made.apply(model, verify="error")
    return snapshot(model)


@pytest.mark.parametrize("name", WEIGHT_CONTROLS)
def test_the_mask_is_the_tickets_and_the_head_stays(name: str) -> None:
    model = bert()
    ticket, before = ticket_of(model), snapshot(model)
    made = control(name, ticket, model, 0.5, seed=1)
    assert not different(snapshot(model), before)  # nothing was changed by making it
    assert made.mask == ticket.at(0.5).mask
    after = applied(made, model)
    for entry, kept in made.mask.items():
        assert not after[f"bert.{entry}"][~kept].any()
        assert not torch.equal(after[f"bert.{entry}"], before[f"bert.{entry}"] * kept) or "pooler" in entry
    assert all(same_bits(after[place], before[place]) for place in before if place.startswith("classifier"))
    changed = {place for place in different(before, after) if place.removeprefix("bert.") not in made.mask}
    assert bool(changed) == (name == "reinitialised")  # of a new BERT only the embeddings differ: norms are 1, biases 0


def test_shuffled_is_the_papers_permutation_of_layers() -> None:
    """Two layers trade all six matrices; the pooler's stays."""
    model = bert()
    made = control("shuffled", ticket_of(model), model, seed=1)
    assert made.theta is not None
    own = model.bert.state_dict()
    for entry in prunable_weights(model):
        source = entry.translate(str.maketrans("01", "10"))
        assert torch.equal(made.theta[entry], own[source])
    digests = [sorted(state_digest({"": tensor}) for tensor in state.values()) for state in (made.theta, own)]
    assert digests[0] == digests[1]


def test_reinitialised_is_a_new_model_of_the_seed() -> None:
    model = bert()
    made = control("reinitialised", ticket_of(model), model, seed=7)
    torch.manual_seed(7)
    fresh = BertModel(bert_config())
    assert made.theta is not None
    assert not different(made.theta, snapshot(fresh))
    assert made.config.theta0_digest == backbone_digest(fresh)


def test_reinitialised_prunable_draws_the_same_matrices_alone() -> None:
    model = bert()
    with torch.no_grad():  # as in a trained model
        for name, parameter in model.bert.named_parameters():
            parameter += 0.1 * ("bias" in name)
    ticket = ticket_of(model)
    some = control("reinitialised_prunable", ticket, model, seed=7).theta
    everything = control("reinitialised", ticket, model, seed=7).theta
    assert some is not None
    assert everything is not None
    for name, own in model.bert.state_dict().items():
        assert same_bits(some[name], everything[name] if name in ticket.mask else own)


@pytest.mark.parametrize("name", WEIGHT_CONTROLS)
def test_the_seed_decides(name: str) -> None:
    model = bert(num_hidden_layers=5)
    ticket = ticket_of(model)
    digests = [control(name, ticket, model, seed=seed).config.theta0_digest for seed in (1, 1, 2)]
    torch.rand(3)
    digests.append(control(name, ticket, model, seed=1).config.theta0_digest)
    assert digests[0] == digests[1] == digests[3]
    assert len({*digests, ticket.config.theta0_digest}) == 3


@pytest.mark.parametrize("name", WEIGHT_CONTROLS)
def test_a_saved_control_applies_its_weights_and_says_so(name: str, tmp_path: Path) -> None:
    model = bert()
    made = control(name, ticket_of(model), model, 0.8, seed=3)
    made.save_pretrained(tmp_path)
    read = Ticket.from_pretrained(tmp_path)
    assert read.config.control == {"name": name, "seed": 3}
    assert read.config.rungs == []
    assert not different(applied(read, bert(seed=9)), applied(made, bert(seed=9)))
    assert f"{name}, seed 3, {WEIGHT_CONTROLS[name]}"[:30].replace("_", "&#95;") in make_card(
        read, "me/it"
    ).text.replace("_", "&#95;")


def test_a_control_is_loaded_with_its_weights_under_another_head(tmp_path: Path) -> None:
    """From a base model in a folder; its masked language model has no pooler."""
    bert().save_pretrained(tmp_path / "base")
    base = BertForMaskedLM.from_pretrained(tmp_path / "base")
    ticket = ticket_of(base)
    made = control("shuffled", ticket, base, seed=1)
    made.save_pretrained(tmp_path / "control")
    loaded = AutoTicketModel.from_pretrained(tmp_path / "control", verify="error")
    weights = prunable_weights(loaded)
    for entry, kept in ticket.mask.items():
        source = entry.translate(str.maketrans("01", "10"))
        assert torch.equal(weights[entry], base.bert.state_dict()[source] * kept)


@pytest.mark.parametrize("name", ["shuffled", "reinitialised"])
def test_training_starts_from_the_masked_weights_and_holds_the_mask(name: str, tmp_path: Path) -> None:
    model = bert()
    made = control(name, ticket_of(model), model, 0.8, seed=1)
    held, seen = Held(made.mask), Snapshots()
    trainer = TicketTrainer(
        model, arguments(tmp_path, max_steps=3), train_dataset=sentences(), ticket=made, callbacks=[held, seen]
    )
    trainer.train()
    assert made.theta is not None
    for entry, value in made.theta.items():
        expected = value * made.mask[entry] if entry in made.mask else value
        assert torch.equal(seen.begun[0][f"bert.{entry}"], expected)
    assert held.steps > 0
    assert held.faults == []
    assert trainer.ticket is not None
    assert trainer.ticket.config.control == {"name": name, "seed": 1}


def test_a_cnns_statistics_are_new_too() -> None:
    model = resnet()
    mean = next(name for name, _ in model.named_buffers() if name.endswith("running_mean"))
    model.get_buffer(mean).fill_(3)
    assert not applied(control("reinitialised", ticket_of(model), model), model)[mean].any()


def test_a_search_that_starts_from_other_weights_has_them_in_its_ticket(tmp_path: Path) -> None:
    model = bert()
    pruning = PruningConfig(amount=0.4, rounds=1)
    theta0 = snapshot(model)
    description = change_weights_("shuffled", model, pruning, seed=2)
    assert description == {"name": "shuffled", "seed": 2}
    changed = snapshot(model)
    assert different(theta0, changed)
    seen = Snapshots()
    search(tmp_path, [seen], model, pruning, provenance={"control": description}, max_steps=2).train()
    assert not different(seen.begun[0], changed)
    ticket = Ticket.from_pretrained(tmp_path)
    assert ticket.config.control == description
    after = applied(ticket, bert())
    for entry, kept in ticket.mask.items():
        assert torch.equal(after[f"bert.{entry}"], changed[f"bert.{entry}"] * kept)
        assert torch.equal(after[f"bert.{entry}"], seen.begun[1][f"bert.{entry}"])


def test_what_cannot_be_changed_is_refused() -> None:
    with pytest.raises(RecipeError, match="a search finds its own masks"):
        change_weights_("random", bert(), PruningConfig())
    model = bert()
    with pytest.raises(PruningError, match="scope=backbone"):
        change_weights_("reinitialised", model, PruningConfig(scope="model"))
    assert not different(snapshot(model), snapshot(bert()))


@pytest.mark.parametrize("rewind", [RewindConfig(rewind_share=0.5), RewindConfig(rewind="learning_rate")])
def test_rewinding_is_told_in_the_ticket(rewind: RewindConfig, tmp_path: Path) -> None:
    search(tmp_path, pruning=PruningConfig(amount=0.4, rounds=1), rewind=rewind, max_steps=2).train()
    assert Ticket.from_pretrained(tmp_path).config.rewind == rewind.to_dict()


def test_mask_of_another_task_is_that_tasks_ticket(tmp_path: Path) -> None:
    """No control is made for it: the ticket is given to the training as it is."""
    model = bert()
    other = Ticket(mask_of(model, 0.5), describe_base(model))
    other.config.task = {"dataset": "another"}
    trainer = TicketTrainer(model, arguments(tmp_path), train_dataset=sentences(), ticket=other)
    assert trainer.ticket is not None
    assert trainer.ticket.mask == other.mask
    assert trainer.ticket.config.task == {"dataset": "another"}
