"""SimCLR and MoCo: their losses against plain formulas, in one process and in two, and what a step changes."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from contrastive_program import batch, make, train, without_statistics
from launching import Launch
from torch import Tensor
from transformers import AutoModel, ViTConfig

from hf_tickets.errors import RecipeError
from hf_tickets.pruning.scope import backbone
from hf_tickets.tasks.contrastive import info_nce, nt_xent
from hf_tickets.tasks.contrastive_model import features
from hf_tickets.tasks.moco_model import MocoConfig, MocoModel
from hf_tickets.tasks.simclr_model import SimclrConfig, SimclrModel

PROGRAM = Path(__file__).with_name("contrastive_program.py")


def plain_nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Equation 1 of SimCLR, pair by pair in float64."""
    every = torch.cat([first, second]).double()
    lengths = every.norm(dim=1)
    count, total = len(first), 0.0
    for i in range(2 * count):
        similarity = [every[i] @ every[k] / (lengths[i] * lengths[k]) / temperature for k in range(2 * count)]
        others = sum(similarity[k].exp() for k in range(2 * count) if k != i)
        total = total - torch.log(similarity[(i + count) % (2 * count)].exp() / others)
    return total / (2 * count)


def plain_info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """Equation 1 of MoCo, query by query in float64."""
    queries, keys, queue = queries.double(), keys.double(), queue.double()
    total = 0.0
    for query, key in zip(queries, keys, strict=True):
        positive = (query @ key / temperature).exp()
        negatives = sum((query @ queue[:, k] / temperature).exp() for k in range(queue.shape[1]))
        total = total - torch.log(positive / (positive + negatives))
    return total / len(queries)


def unit(rows: int, width: int, seed: int) -> Tensor:
    drawn = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn / drawn.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_nt_xent_and_its_gradient_equal_the_formula(temperature: float) -> None:
    first, second = ((unit(7, 5, seed) * (seed + 2)).requires_grad_() for seed in (1, 2))
    expected = plain_nt_xent(first, second, temperature)
    wanted = torch.autograd.grad(expected, [first, second])
    single = [views.detach().float().requires_grad_() for views in (first, second)]
    loss = nt_xent(*single, temperature)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for found, right in zip(torch.autograd.grad(loss, single), wanted, strict=True):
        assert torch.allclose(found.double(), right, atol=1e-6)


def test_info_nce_and_its_gradient_equal_the_formula() -> None:
    queries, keys, queue = unit(6, 5, 1).requires_grad_(), unit(6, 5, 2), unit(11, 5, 3).T
    expected = plain_info_nce(queries, keys, queue, 0.2)
    (wanted,) = torch.autograd.grad(expected, [queries])
    single = queries.detach().float().requires_grad_()
    loss = info_nce(single, keys.float(), queue.float(), 0.2)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.allclose(torch.autograd.grad(loss, [single])[0].double(), wanted, atol=1e-6)


def test_the_losses_are_computed_in_full_precision_under_autocast() -> None:
    first, second = (unit(7, 64, seed).float() for seed in (1, 2))
    with torch.autocast("cpu", torch.bfloat16):
        loss = nt_xent(first, second, 0.07)
    assert float(loss) == pytest.approx(float(plain_nt_xent(first, second, 0.07)), rel=1e-5)


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found, a file for each method."""
    folder = tmp_path_factory.mktemp("two")
    status, output = Launch(2, folder, program=PROGRAM).wait()
    assert status == 0, output
    return folder


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_two_processes_learn_what_one_does(method: str, two_processes: Path) -> None:
    """MoCo: two processes shuffle BatchNorm as two groups of one process do."""
    model = make(method, groups=2).train()
    losses = train(model, slice(None))
    assert abs(losses[0] - losses[1]) > 1e-3
    two = torch.load(two_processes / f"{method}.pt", weights_only=True)
    assert two["losses"].tolist() == pytest.approx([float(loss) for loss in losses], rel=1e-4)
    own = without_statistics(model)
    for state in two["states"]:
        assert state.keys() == own.keys()
        for name, tensor in state.items():
            assert torch.allclose(tensor.float(), own[name].float(), atol=2e-5), name


def test_simclr_is_nt_xent_of_its_own_projections_of_both_views() -> None:
    model = make("simclr").double().train()
    pixels = batch(0).double()
    projected = [model.projection(features(model.encoder, pixels[:, view])) for view in (0, 1)]
    output = model(pixel_values=pixels)
    assert output.loss.item() == pytest.approx(plain_nt_xent(*projected, 0.5).item(), rel=1e-5)
    assert torch.equal(output.features, features(model.encoder, pixels[:, 0]))


def test_a_step_of_moco_is_the_papers() -> None:
    """Algorithm 1: the key encoder moves, keys come from it, the loss is against the queue as it was, then it moves."""
    model, before = make("moco").train(), make("moco").train()
    with torch.no_grad():
        for twin in (model, before):
            for parameter in twin.encoder.parameters():
                parameter.mul_(1.1)
            twin.steps.fill_(20)
        for own, key in zip(before.encoder.parameters(), before.key_encoder.parameters(), strict=True):
            key.copy_(0.9 * key + 0.1 * own)
        pixels = batch(0)
        normal = torch.nn.functional.normalize
        queries = normal(before.projection(features(before.encoder, pixels[:, 0])))
        keys = normal(before.key_projection(features(before.key_encoder, pixels[:, 1])))
    loss = model(pixel_values=pixels).loss
    assert float(loss) == pytest.approx(float(plain_info_nce(queries, keys, before.queue, 0.2)), rel=1e-4)
    for own, key in zip(before.key_encoder.parameters(), model.key_encoder.parameters(), strict=True):
        assert torch.allclose(own, key, atol=1e-6)
    expected = before.queue.clone()
    expected[:, [20, 21, 22, 23, 0, 1, 2, 3]] = keys.T  # eight keys from place 20 of 24 on
    assert torch.allclose(model.queue, expected, atol=1e-5)
    assert int(model.steps) == 28


def test_evaluation_changes_nothing() -> None:
    for method in ("simclr", "moco"):
        model = make(method).eval()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert torch.isfinite(model(pixel_values=batch(0)).loss)
        alone = model(pixel_values=batch(0)[:, 0])
        assert alone.loss is None
        assert torch.allclose(alone.features, model(pixel_values=batch(0)).features, atol=1e-5)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_queue_smaller_than_a_batch_holds_the_last_keys() -> None:
    config = MocoConfig(encoder_config=make("moco").config.encoder_config, projection=[8], queue_size=5)
    model = MocoModel(config).train()
    model(pixel_values=batch(0))
    assert int(model.steps) == 8
    assert torch.allclose(model.queue.norm(dim=0), torch.ones(5), atol=1e-5)


@pytest.mark.parametrize("method", ["simclr", "moco"])
def test_models_are_saved_and_loaded_as_any_other(method: str, tmp_path: Path) -> None:
    model = make(method).train()
    train(model, slice(None), steps=1)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert type(again) is type(model)
    before, after = model.state_dict(), again.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == [name for name, parameter in again.named_parameters() if not parameter.requires_grad]
    assert bool(frozen) == (method == "moco")


def test_an_encoder_of_transformers(tmp_path: Path) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = ViTConfig(**sizes, image_size=32, patch_size=16)
    for model in (
        SimclrModel(SimclrConfig(encoder_config=config, projection=[16, 8])),
        MocoModel(MocoConfig(encoder_config=config, projection=[8], queue_size=16)),
    ):
        train(model.train(), slice(None), steps=2)
        model.save_pretrained(tmp_path / model.config.model_type)
        again = AutoModel.from_pretrained(tmp_path / model.config.model_type)
        assert type(backbone(again)).__name__ == "ViTModel"
        again.eval(), model.eval()
        assert torch.equal(again(pixel_values=batch(0)).features, model(pixel_values=batch(0)).features)


def test_at_the_start_keys_are_the_queries_weights() -> None:
    model = make("moco")
    own, keys = model.encoder.state_dict(), model.key_encoder.state_dict()
    assert all(torch.equal(own[name], keys[name]) for name in own)
    # and stay exactly so while the queries' do not change, which a weighted sum would not give
    model._move_keys()
    assert all(torch.equal(own[name], model.key_encoder.state_dict()[name]) for name in own)


@pytest.mark.parametrize(
    ("make_config", "message"),
    [
        (lambda: SimclrConfig(loss_temperature=0.0), "temperature: 0.0"),
        (lambda: SimclrConfig(loss_temperature=math.nan), "temperature: nan"),
        (lambda: SimclrConfig(projection=[]), "projection"),
        (lambda: MocoConfig(queue_size=0), "queue_size: 0"),
        (lambda: MocoConfig(momentum=1.5), "momentum: 1.5"),
        (lambda: MocoConfig(batch_norm_groups=0), "batch_norm_groups: 0"),
    ],
)
def test_numbers_out_of_range_are_refused(make_config: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        make_config()
