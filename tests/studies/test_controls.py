"""Controls of masks prune exactly as many weights as the ticket, by their own rule."""

import pytest
import torch
from torch import nn
from trainer.tiny import bert
from transformers import BertForMaskedLM

from hf_tickets import Mask, PruningConfig, Ticket, TicketConfig, control, prune
from hf_tickets.errors import RecipeError, TicketMismatchError
from hf_tickets.studies.controls import CONTROLS, check_controls


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))


@pytest.fixture
def ticket(model: nn.Module) -> Ticket:
    """A ticket that is not magnitude pruning of the model: found after its weights changed."""
    trained = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 5))
    scope = PruningConfig(exclude_modules=["4"])
    first = prune(trained, scope, sparsity=0.3)
    return Ticket([first, prune(trained, scope, first, sparsity=0.7)], TicketConfig(pruning=scope.to_dict()))


@pytest.mark.parametrize("name", ["ticket", "random", "random_layerwise", "oneshot"])
@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_as_many_weights_are_kept_as_in_the_ticket(
    name: str, sparsity: float, model: nn.Module, ticket: Ticket
) -> None:
    control = CONTROLS[name](ticket, model, sparsity, 1)
    assert control is not None
    assert control.mask.kept == ticket.at(sparsity).mask.kept
    assert control.mask.shapes == ticket.mask.shapes


def test_oneshot_is_global_magnitude_of_the_model(model: nn.Module, ticket: Ticket) -> None:
    control = CONTROLS["oneshot"](ticket, model, 0.7, 1)
    assert control is not None
    magnitudes = torch.cat([model[0].weight.abs().flatten(), model[2].weight.abs().flatten()])
    count = magnitudes.numel() - control.mask.kept
    threshold = magnitudes.kthvalue(count).values
    assert torch.equal(control.mask["0.weight"], model[0].weight.abs() > threshold)


def test_reverse_is_what_the_ticket_prunes(model: nn.Module, ticket: Ticket) -> None:
    control = CONTROLS["reverse"](ticket, model, 0.3, 1)
    assert control is not None
    mask = ticket.at(0.3).mask
    assert control.mask.kept == mask.numel - mask.kept
    assert (control.mask & mask).kept == 0
    assert (control.mask | mask).sparsity == 0
    weights = [model[0].weight.clone(), model[2].weight.clone()]
    control.apply(model)
    for weight, layer, name in zip(weights, (model[0], model[2]), mask, strict=True):
        assert torch.equal(layer.weight, weight * ~mask[name])


def test_random_depends_on_the_seed_alone(model: nn.Module, ticket: Ticket) -> None:
    def draw(seed: int) -> Mask:
        control = CONTROLS["random"](ticket, model, 0.7, seed)
        assert control is not None
        return control.mask

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    # Independent masks that keep 30 % overlap by chance in 0.09 of 0.51.
    assert draw(1).overlap(draw(2)) == pytest.approx(0.09 / 0.51, abs=0.05)


def test_dense_has_no_mask(model: nn.Module, ticket: Ticket) -> None:
    assert CONTROLS["dense"](ticket, model, 0.7, 1) is None


def test_layerwise_keeps_as_many_of_each_layer(model: nn.Module, ticket: Ticket) -> None:
    drawn, mask = control("random_layerwise", ticket, model, 0.7, seed=1).mask, ticket.at(0.7).mask
    assert drawn.kept_by_layer == mask.kept_by_layer
    assert drawn != mask


def test_the_control_says_what_it_is(model: nn.Module, ticket: Ticket) -> None:
    made = control("random", ticket, model, 0.3, seed=4).config
    assert made.control == {"name": "random", "seed": 4, "of_mask": ticket.at(0.3).mask.digest}
    assert made.pruning["criterion"] == "random"
    assert control("reverse", ticket, model, 0.7).config.control["of_mask"] == ticket.mask.digest


def test_weights_that_only_one_head_has_are_left_out_of_the_count() -> None:
    """A ticket of a classifier covers the pooler, which a masked language model lacks."""
    model = bert()
    ticket = Ticket(prune(model, sparsity=0.5))
    headed = BertForMaskedLM(model.config)
    for name in ("random", "oneshot"):
        made = control(name, ticket, headed, seed=1)
        assert set(ticket.mask) - set(made.mask) == {"pooler.dense.weight"}
        assert made.mask.kept == sum(ticket.mask.kept_by_layer[entry] for entry in made.mask)
        made.apply(headed)


@pytest.mark.parametrize("name", ["random", "random_layerwise", "oneshot", "reverse", "dense", "shuffled"])
def test_a_model_without_the_pruned_weights_is_refused(name: str, model: nn.Module, ticket: Ticket) -> None:
    ticket.at(0.3).apply(model)
    with pytest.raises(TicketMismatchError, match="zero wherever the ticket prunes"):
        CONTROLS[name](ticket, model, 0.7, 1)


def test_unknown_control_is_refused_with_the_names(model: nn.Module, ticket: Ticket) -> None:
    with pytest.raises(RecipeError, match="ticket, random, random_layerwise, oneshot, dense, reverse, reinitialised"):
        check_controls(["ticket", "magic"])
    with pytest.raises(RecipeError, match="dense is no ticket"):
        control("dense", ticket, model)
