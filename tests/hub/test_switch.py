"""`TicketSwitch`: several tickets on one model, switched and taken off again."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel

from hf_tickets import PruningConfig, Ticket, TicketSwitch, prune
from hf_tickets.errors import TicketMismatchError, TicketsError
from hf_tickets.ticket.theta import backbone_state
from hub.server import Hub
from hub.tickets import NAME, masks, ticket_on, tiny_model


def fresh() -> BertForSequenceClassification:
    model = BertForSequenceClassification(tiny_model().config)
    model.load_state_dict(tiny_model().state_dict())
    return model.eval()


def content(model: Any) -> dict[str, bytes]:
    """The bytes of every parameter and buffer: +0 is not -0."""
    return {
        name: bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
        for name, tensor in model.state_dict().items()
    }


def zeros(model: Any) -> dict[str, int]:
    return {name: int((model.get_parameter(f"bert.{name}") == 0).sum()) for name in masks()[0]}


def expected(number: int) -> dict[str, int]:
    return {name: int((~kept).sum()) for name, kept in masks()[number].items()}


def answers(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.arange(12).reshape(2, 6)).logits


def carrying(seed: int = 3) -> Ticket:
    """A ticket with weights of its own."""
    torch.manual_seed(seed)
    other = BertForSequenceClassification(tiny_model().config)
    return Ticket(prune(other, PruningConfig(), sparsity=0.6), theta=backbone_state(other))


def test_tickets_are_switched_and_taken_off(hub: Hub, tmp_path: Path) -> None:
    ticket_on(hub).push_to_hub(NAME)
    pulled = Ticket.from_pretrained(NAME, cache_dir=tmp_path)
    model = fresh()
    before, dense = content(model), answers(model)
    switch = TicketSwitch(model).add("half", pulled.at(0.5)).add("most", pulled.at(0.9))
    assert content(model) == before
    assert switch.active is None
    for name, number in (("half", 0), ("most", 2), ("half", 0), ("half", 0)):
        switch.enable(name)
        assert switch.active == name
        assert zeros(model) == expected(number)
        alone = fresh()
        pulled.at((0.5, 0.7, 0.9)[number]).apply(alone)
        assert content(model) == content(alone)
    switch.disable()
    assert switch.active is None
    assert content(model) == before
    assert torch.equal(answers(model), dense)
    switch.disable()
    assert content(model) == before


def test_a_block_without_a_ticket(hub: Hub) -> None:
    model, ticket = fresh(), ticket_on(hub)
    before, dense = content(model), answers(model)
    switch = TicketSwitch(model).add("most", ticket.at(0.9))
    with switch.disabled():
        assert content(model) == before
    assert switch.active is None
    switch.enable("most")
    sparse = content(model)
    with switch.disabled():
        assert content(model) == before
        assert torch.equal(answers(model), dense)
    assert content(model) == sparse
    assert switch.active == "most"
    with pytest.raises(ZeroDivisionError), switch.disabled():
        raise ZeroDivisionError
    assert content(model) == sparse


def test_a_ticket_with_weights_of_its_own_leaves_no_trace() -> None:
    model = fresh()
    with torch.no_grad():
        model.bert.pooler.dense.bias.fill_(-0.0)
        model.bert.encoder.layer[0].output.dense.weight[0, 0] = float("nan")
    before = content(model)
    own, plain = carrying(), Ticket(masks()[0])
    switch = TicketSwitch(model).add("own", own).add("plain", plain)
    switch.enable("own")
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, own.theta["embeddings.word_embeddings.weight"])
    assert content(model)["classifier.weight"] == before["classifier.weight"]
    switch.enable("plain")
    alone = fresh()
    alone.load_state_dict(model.state_dict())
    switch.disable()
    assert content(model) == before
    plain.apply(model)
    assert content(model) == content(alone)  # nothing of the other ticket's weights was left


def test_buffers_of_batch_norm_come_back() -> None:
    from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

    torch.manual_seed(0)
    model = TimmWrapperForImageClassification(TimmWrapperConfig(architecture="test_resnet", num_labels=3)).train()
    ticket = Ticket(prune(model, sparsity=0.5), theta={n: t.clone() + 1 for n, t in backbone_state(model).items()})
    model(pixel_values=torch.randn(2, 3, 32, 32))
    before = content(model)
    switch = TicketSwitch(model).add("own", ticket)
    switch.enable("own")
    model(pixel_values=torch.randn(2, 3, 32, 32))
    assert content(model) != before
    switch.disable()
    assert content(model) == before


def test_tied_weights_come_back_tied() -> None:
    torch.manual_seed(0)
    model = BertForMaskedLM(tiny_model().config)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    before = content(model)
    switch = TicketSwitch(model).add("own", carrying())
    switch.enable("own")
    assert content(model) != before
    switch.disable()
    assert content(model) == before
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


def test_mistakes_change_nothing() -> None:
    model = fresh()
    before = content(model)
    switch = TicketSwitch(model).add("half", Ticket(masks()[0]))
    small = BertModel(type(tiny_model().config)(**{**tiny_model().config.to_dict(), "num_hidden_layers": 1}))
    foreign = Ticket(prune(small, sparsity=0.5))
    foreign.config = replace(foreign.config, model_type="bert")
    for mistake, error, message in (
        (lambda: switch.add("half", Ticket(masks()[1])), TicketsError, "there is a ticket named 'half' already"),
        (lambda: switch.add("foreign", foreign), TicketMismatchError, "does not cover"),
        (lambda: switch.enable("foreign"), TicketsError, "there is no ticket named 'foreign'; there are half"),
        (lambda: TicketSwitch(model).enable("any"), TicketsError, "there are none"),
    ):
        with pytest.raises(error, match=message) as raised:
            mistake()
        assert "\n" not in str(raised.value)
        assert content(model) == before
        assert list(switch.tickets) == ["half"]
    switch.enable("half")
    active = content(model)
    with pytest.raises(TicketsError, match="call disable"):
        switch.add("most", Ticket(masks()[2]))
    with pytest.raises(TicketsError, match="no ticket named"):
        switch.enable("nothing")
    assert content(model) == active
    assert switch.active == "half"
    switch.disable()
    assert content(model) == before
