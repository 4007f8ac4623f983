"""Tickets that several files apply."""

import pytest
import timm

from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.ticket import Ticket


@pytest.fixture(scope="session")
def resnet_ticket():
    return Ticket(prune(timm.create_model("resnet18"), sparsity=0.7))
