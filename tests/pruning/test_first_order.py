"""Criteria of first order: against values worked out by hand, and against torch's derivative by a gate."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from hf_tickets import PruningConfig, prune
from hf_tickets.errors import PruningError
from hf_tickets.pruning.accumulation import Accumulation

SNIP, MOVEMENT = PruningConfig(criterion="snip"), PruningConfig(criterion="movement")


def two_weights() -> nn.Linear:
    """y = 2 a − 3 b."""
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[2.0, -3.0]])
    return model


@pytest.mark.parametrize(
    ("config", "inputs", "sums", "kept"),
    [
        # |2 · 1|, |−3 · 0.1|: the larger weight matters less
        (SNIP, [[1.0, 0.1]], [2.0, 0.3], [True, False]),
        # −2 · 1, 3 · 0.1: descent pulls the first towards zero, and the second away from it
        (MOVEMENT, [[1.0, 0.1]], [-2.0, 0.3], [False, True]),
        # a sign that changes cancels in a movement, not in a sensitivity
        (SNIP, [[1.0, 0.5], [-1.0, 0.5]], [4.0, 3.0], [True, False]),
        (MOVEMENT, [[1.0, 0.5], [-1.0, 0.5]], [0.0, 3.0], [False, True]),
    ],
)
def test_two_weights_by_hand(config: PruningConfig, inputs: list, sums: list, kept: list) -> None:
    model = two_weights()
    accumulation = Accumulation(model, config)
    for row in inputs:  # the loss is y, so the gradient is the input
        model.zero_grad()
        model(torch.tensor(row)).backward()
        accumulation.add_()
    assert accumulation.sums["weight"].flatten().tolist() == pytest.approx(sums)
    mask = prune(model, config, sparsity=0.5, accumulated=accumulation.sums)
    assert mask["weight"].flatten().tolist() == kept


@pytest.mark.parametrize("config", [SNIP, MOVEMENT], ids=["snip", "movement"])
def test_a_step_adds_the_derivative_by_a_gate_on_each_weight(config: PruningConfig) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    accumulation = Accumulation(model, config)
    expected = {name: torch.zeros_like(weight) for name, weight in model.named_parameters() if "weight" in name}
    for step in range(3):
        data = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))

        def loss(gates: dict[str, torch.Tensor], data: torch.Tensor = data) -> torch.Tensor:
            gated = {name: weight.detach() * gates.get(name, 1) for name, weight in model.named_parameters()}
            return functional_call(model, gated, (data,)).square().mean()

        slopes = torch.func.grad(loss)({name: torch.ones_like(value) for name, value in expected.items()})
        for name, slope in slopes.items():
            expected[name] += slope.abs() if config is SNIP else -slope
        optimizer.zero_grad()
        model(data).square().mean().backward()
        accumulation.add_()
        optimizer.step()
    for name, value in expected.items():
        assert torch.allclose(accumulation.sums[name], value, atol=1e-6)
    mask = prune(model, config, sparsity=0.5, accumulated=accumulation.sums)
    every = torch.cat([expected[name].flatten() for name in mask])
    assert torch.cat([mask[name].flatten() for name in mask]).equal(every > every.kthvalue(16).values)


def test_what_is_pruned_stays_pruned_whatever_its_sum() -> None:
    sums = {"weight": torch.tensor([[9.0, 1.0]])}
    mask = prune(two_weights(), SNIP, sparsity=0.5, accumulated={"weight": torch.tensor([[0.0, 1.0]])})
    assert prune(two_weights(), SNIP, mask, sparsity=0.5, accumulated=sums) == mask


def test_sums_go_on_where_they_were() -> None:
    first, second = Accumulation(two_weights(), SNIP), Accumulation(two_weights(), SNIP)
    first.sums["weight"] += 3
    second.restore_(first.sums)
    assert second.sums["weight"].equal(first.sums["weight"])
    with pytest.raises(PruningError, match="another model"):
        second.restore_({"other": torch.zeros(1)})


def test_weights_without_a_gradient_are_the_first_to_go() -> None:
    model = two_weights()
    accumulation = Accumulation(model, SNIP)
    accumulation.add_()
    assert accumulation.sums["weight"].tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("accumulated", "message"),
    [
        (None, "TicketTrainer or PruningCallback"),
        ({}, "another model"),
        ({"weight": torch.zeros(3)}, "another model"),
        ({"weight": torch.tensor([[1.0, float("nan")]])}, "NaN"),
    ],
)
def test_sums_that_are_missing_or_wrong_are_refused(accumulated: dict | None, message: str) -> None:
    with pytest.raises(PruningError, match=message):
        prune(two_weights(), MOVEMENT, sparsity=0.5, accumulated=accumulated)


def test_weights_that_are_not_finite_are_refused_though_their_sums_are() -> None:
    model = two_weights()
    model.weight.data[0, 0] = float("inf")
    with pytest.raises(PruningError, match="NaN or infinity"):
        prune(model, SNIP, sparsity=0.5, accumulated={"weight": torch.ones(1, 2)})


def test_magnitude_adds_nothing_up() -> None:
    with pytest.raises(PruningError, match="snip, movement"):
        Accumulation(two_weights(), PruningConfig())
