"""A mask that is held: the trained weights, and exact zeros whatever the optimizer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    Held,
    arguments,
    bert,
    different,
    images,
    mask_of,
    resnet,
    revived,
    same_bits,
    sentences,
    snapshot,
    stock,
)
from torch import nn
from torch.nn.utils import prune as torch_prune
from transformers import TrainerCallback

from hf_tickets import Mask, PruningCallback, Ticket, TicketTrainer


class Noisy(torch.optim.SGD):
    """Moves every weight, whatever its gradient."""

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.add_(0.01 * torch.ones_like(parameter))
        return loss


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"weight_decay": 0.1},
    "adamw, not fused": {"weight_decay": 0.1, "optim": "adamw_torch"},
    "sgd": {"weight_decay": 0.1, "optim": "sgd", "optim_args": "momentum=0.9"},
    "adafactor": {"optim": "adafactor"},
    "noisy": {"optimizer_cls_and_kwargs": (Noisy, {"lr": 0.01})},
    "muon": {"optimizer_cls_and_kwargs": "muon"},
}


class MuonForMatrices(torch.optim.Muon):
    """torch's Muon with its default settings; the model's vectors are frozen, for it takes matrices alone."""

    def __init__(self, parameters: Any, lr: float) -> None:
        groups = [{**group, "params": [p for p in group["params"] if p.dim() == 2]} for group in parameters]
        super().__init__([group for group in groups if group["params"]], lr=lr)


def by_torch(model: nn.Module, mask: Mask) -> nn.Module:
    """The same model under torch's own pruning: every weight a product of itself and the mask."""
    for name, kept in mask.items():
        module = model.base_model.get_submodule(name.removesuffix(".weight"))
        torch_prune.custom_from_mask(module, "weight", kept)
        # back before the bias, since the norm of all gradients is a float sum in parameter order
        module.bias = module._parameters.pop("bias")
    return model


def effective(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a model, whether or not torch's pruning holds a mask over them."""
    state = snapshot(model)
    for name in [name for name in state if name.endswith("_orig")]:
        plain = name.removesuffix("_orig")
        state[plain] = state.pop(name) * state.pop(f"{plain}_mask")
    return state


@pytest.mark.parametrize("clip", [0.05, 1.0])
@pytest.mark.parametrize("trainer", ["callback", "ticket"])
def test_trains_exactly_as_torch_pruning_does(tmp_path: Path, clip: float, trainer: str) -> None:
    mask = mask_of(bert())
    args = {"max_grad_norm": clip, "weight_decay": 0.1, "gradient_accumulation_steps": 2, "num_train_epochs": 2}
    reference = stock(by_torch(bert(), mask), arguments(tmp_path / "torch", **args), sentences())
    if trainer == "ticket":
        # the library averages the loss over accumulation steps, which stock Trainer sums here (issue 47688)
        reference.model_accepts_loss_kwargs = False
    reference.train()
    args_of_ours = arguments(tmp_path / "ours", **args)
    if trainer == "callback":
        ours = stock(bert(), args_of_ours, sentences(), PruningCallback(mask))
    else:
        ours = TicketTrainer(bert(), args_of_ours, train_dataset=sentences(), ticket=mask)
    ours.train()
    norms = [entry["grad_norm"] for entry in ours.state.log_history if "grad_norm" in entry]
    assert len(norms) == 6
    assert (min(norms) > clip) if clip == 0.05 else max(norms) > 0.05  # the small limit is at work
    before, theirs, mine = snapshot(bert()), effective(reference.model), snapshot(ours.model)
    assert set(mine) == set(theirs)
    assert all(float((mine[name] - theirs[name]).abs().max()) == 0.0 for name in mine)
    assert len(different(before, mine)) == len(mine)  # and they did train


def test_trains_exactly_as_torch_pruning_does_with_batchnorm(tmp_path: Path) -> None:
    mask, args = mask_of(resnet()), {"weight_decay": 0.1, "gradient_accumulation_steps": 2, "max_grad_norm": 0.05}
    pruned = resnet()
    for name, kept in mask.items():
        torch_prune.custom_from_mask(pruned.timm_model.get_submodule(name.removesuffix(".weight")), "weight", kept)
    reference = stock(pruned, arguments(tmp_path / "torch", **args), images())
    reference.train()
    ours = TicketTrainer(resnet(), arguments(tmp_path / "ours", **args), train_dataset=images(), ticket=mask)
    ours.train()
    theirs, mine = effective(reference.model), snapshot(ours.model)
    assert all(float((mine[name] - theirs[name]).abs().max()) == 0.0 for name in mine)


@pytest.mark.parametrize("trainer", ["callback", "ticket"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_weights_are_zero_after_every_step(tmp_path: Path, optimizer: str, trainer: str) -> None:
    settings, model = dict(OPTIMIZERS[optimizer]), bert()
    own = {name: settings.pop(name) for name in ("optimizer_cls_and_kwargs",) if name in settings}
    if own.get("optimizer_cls_and_kwargs") == "muon":
        own = {"optimizer_cls_and_kwargs": (MuonForMatrices, {"lr": 1e-2})}
    mask = mask_of(model)
    held = Held(mask)
    args = arguments(tmp_path, gradient_accumulation_steps=2, num_train_epochs=3, **settings)
    if trainer == "callback":
        run = stock(model, args, sentences(), PruningCallback(mask), held, **own)
    else:
        run = TicketTrainer(model, args, train_dataset=sentences(), ticket=mask, callbacks=[held], **own)
    run.train()
    assert held.steps == 9
    assert held.faults == []
    assert revived(model, mask) == []
    kept = [name for name in mask if not same_bits(snapshot(model)[f"bert.{name}"], snapshot(bert())[f"bert.{name}"])]
    assert len(kept) == len(mask)


def test_every_other_weight_of_a_torch_optimizer_stays_free(tmp_path: Path) -> None:
    """A mask prunes what it says and nothing else: kept weights and those out of scope train on."""
    model, mask = bert(), mask_of(bert())
    before = snapshot(model)
    stock(model, arguments(tmp_path), sentences(), PruningCallback(mask)).train()
    for name, weight in snapshot(model).items():
        kept = mask.get(name.removeprefix("bert."))
        moved = weight != before[name]
        assert moved.any()
        if kept is not None:
            assert (moved & kept).sum() > 0.9 * kept.sum()


class Reads(TrainerCallback):
    """Notes what a user's callback sees of gradients before the optimizer takes them."""

    def __init__(self, mask: Mask) -> None:
        self.mask = mask
        self.clean: list[bool] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gradients = {name: parameter.grad for name, parameter in kwargs["model"].bert.named_parameters()}
        self.clean.append(all(not gradients[name][~kept].any() for name, kept in self.mask.items()))


def test_gradients_of_pruned_weights_are_zero_when_the_optimizer_sees_them(tmp_path: Path) -> None:
    model, mask = bert(), mask_of(bert())
    reads = Reads(mask)
    stock(model, arguments(tmp_path), sentences(), PruningCallback(mask), reads).train()
    assert reads.clean == [True] * 6


def test_the_model_is_free_again_after_training(tmp_path: Path) -> None:
    model, mask = bert(), mask_of(bert())
    stock(model, arguments(tmp_path), sentences(), PruningCallback(mask)).train()
    batch = {"input_ids": sentences(1)[0]["input_ids"][None], "labels": torch.tensor([1])}
    model.zero_grad()
    model(**batch).loss.backward()
    weight, kept = next((model.bert.get_parameter(name), kept) for name, kept in mask.items())
    assert weight.grad is not None
    assert weight.grad[~kept].any()


def test_a_callback_takes_ticket_mask_and_rung(tmp_path: Path) -> None:
    dense, sparse = mask_of(bert(), 0.3), mask_of(bert(), 0.6)
    ladder = Ticket([dense, dense & sparse])
    for given, expected in ((dense, dense), (ladder, dense & sparse), (ladder.at(ladder.sparsities[0]), dense)):
        model = bert()
        trainer = stock(model, arguments(tmp_path), sentences(4), PruningCallback(given))
        trainer.train()
        assert revived(model, expected) == []
        assert trainer.state.log_history[0]["sparsity"] == pytest.approx(expected.sparsity, abs=1e-12)


def test_ticket_trainer_zeroes_the_model_at_once(tmp_path: Path) -> None:
    """What is evaluated before training is the ticket, not the dense model."""
    model, mask = bert(), mask_of(bert())
    TicketTrainer(model, arguments(tmp_path), train_dataset=sentences(), ticket=mask)
    assert revived(model, mask) == []


def test_ticket_trainer_takes_a_folder_and_a_rung_of_it(tmp_path: Path) -> None:
    dense, sparse = mask_of(bert(), 0.3), mask_of(bert(), 0.6)
    ladder = Ticket([dense, dense & sparse])
    ladder.save_pretrained(tmp_path / "ticket")
    sparsity = ladder.sparsities[0]
    args = arguments(tmp_path / "run")
    trainer = TicketTrainer(bert(), args, train_dataset=sentences(4), ticket=tmp_path / "ticket", sparsity=sparsity)
    trainer.train()
    assert trainer.ticket is not None
    assert trainer.ticket.mask == dense
    trainer.save_model()
    assert Ticket.from_pretrained(tmp_path / "run").mask == dense
