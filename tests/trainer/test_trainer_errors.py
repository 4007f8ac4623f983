"""What cannot be, and what goes wrong on the way: one clear error, and nothing lost."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import arguments, bert, mask_of, search, sentences, stock
from transformers import TrainerCallback

from hf_tickets import PruningCallback, PruningConfig, Ticket, TicketsError, TicketTrainer
from hf_tickets.errors import PruningError, RunFolderError, SparsityError, TicketMismatchError


class Diverge(TrainerCallback):
    """Puts NaN into one weight as a round ends, as a training that diverges does into all."""

    def __init__(self, round_index: int) -> None:
        self.left = round_index

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == state.max_steps:
            if self.left == 0:
                with torch.no_grad():
                    kwargs["model"].bert.encoder.layer[1].output.dense.weight[0, 0] = math.nan
            self.left -= 1


@pytest.mark.parametrize("evaluated", [False, True])
@pytest.mark.parametrize("round_index", [0, 1])
def test_a_round_that_diverged_is_an_error_that_names_the_weight(
    tmp_path: Path, round_index: int, evaluated: bool
) -> None:
    changes: dict[str, Any] = {"eval_dataset": sentences(8, 40)} if evaluated else {}
    trainer = search(tmp_path, [Diverge(round_index)], pruning=PruningConfig(sparsities=[0.1, 0.5]), **changes)
    with pytest.raises(PruningError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        trainer.train()
    # the finished rounds are on disk, a new process sees them and says the same again
    assert [result.round for result in trainer.history] == list(range(round_index + 1))
    again = search(tmp_path, pruning=PruningConfig(sparsities=[0.1, 0.5]), **changes)
    with pytest.raises(PruningError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        again.train()
    assert again.history == trainer.history or evaluated  # NaN is not equal to itself
    assert len(again.history) == round_index + 1
    if round_index:
        assert len(Ticket.from_pretrained(tmp_path).sparsities) == 1
        assert len(again.tickets) == 1


def test_a_training_that_really_diverges_is_such_an_error(tmp_path: Path) -> None:
    trainer = search(tmp_path, learning_rate=1e38, optim="sgd", max_grad_norm=0.0)
    with pytest.raises(PruningError, match="NaN or infinity"):
        trainer.train()


def test_a_metric_that_is_no_number_does_not_end_a_search(tmp_path: Path) -> None:
    """Such as the correlation with the constant predictions of a very sparse model."""

    def correlation(prediction: Any) -> dict[str, float]:
        return {"pearson": math.nan}

    changes = {"eval_dataset": sentences(8, 40), "save_strategy": "steps", "save_steps": 2}
    trainer = search(tmp_path, compute_metrics=correlation, **changes)
    trainer.train()
    assert len(trainer.tickets) == 2
    assert math.isnan(trainer.history[1].metrics["pearson"])
    config = Ticket.from_pretrained(tmp_path).config
    assert [rung["metrics"]["pearson"] for rung in (config.dense, *config.rungs)] == [None] * 3
    json.loads((tmp_path / "ticket_config.json").read_text(), parse_constant=lambda name: pytest.fail(name))


def test_pruning_and_ticket_are_not_given_together(tmp_path: Path) -> None:
    with pytest.raises(TicketsError, match="not both"):
        TicketTrainer(
            bert(),
            arguments(tmp_path / "run"),
            train_dataset=sentences(),
            pruning=PruningConfig(),
            ticket=mask_of(bert()),
        )
    assert not (tmp_path / "run").exists()


def test_an_optimizer_that_rounds_would_share_is_refused(tmp_path: Path) -> None:
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TicketsError, match="optimizer_cls_and_kwargs"):
        search(tmp_path / "run", model=model, optimizers=(optimizer, None))
    assert not (tmp_path / "run").exists()
    search(tmp_path / "run", model=model, optimizers=(None, None), max_steps=1).train()


def test_an_optimizer_of_the_users_own_trains_a_ticket(tmp_path: Path) -> None:
    model, mask = bert(), mask_of(bert())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = TicketTrainer(
        model, arguments(tmp_path), train_dataset=sentences(), ticket=mask, optimizers=(optimizer, None)
    )
    trainer.train()
    assert trainer.state.global_step == 6


def test_a_ticket_of_another_model_is_refused_before_training(tmp_path: Path) -> None:
    other = mask_of(bert(hidden_size=64))
    with pytest.raises(TicketMismatchError, match="64"):
        TicketTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), ticket=other)
    with pytest.raises(TicketMismatchError, match="64"):
        stock(bert(), arguments(tmp_path), sentences(), PruningCallback(other)).train()


def test_a_rung_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(SparsityError, match=r"0\.5"):
        TicketTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), ticket=mask_of(bert()), sparsity=0.7)


def test_nothing_to_prune_is_an_error_before_round_zero(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="quary"):
        search(tmp_path, pruning=PruningConfig(target_modules=["quary"]))


def test_resuming_a_ticket_without_a_whole_checkpoint_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    trainer = TicketTrainer(bert(), arguments(tmp_path), train_dataset=sentences(), ticket=mask_of(bert()))
    with pytest.raises(RunFolderError, match="no whole checkpoint"):
        trainer.train(resume_from_checkpoint=True)


def test_a_ticket_that_carries_weights_gives_them_to_a_model_made_anew(tmp_path: Path) -> None:
    mask, theta = mask_of(bert()), bert(seed=4).bert.state_dict()
    ticket, begun = Ticket(mask, theta=theta), []

    class Begin(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            begun.append(kwargs["model"].bert.embeddings.word_embeddings.weight.detach().clone())

    trainer = TicketTrainer(
        model_init=lambda: bert(),
        args=arguments(tmp_path),
        train_dataset=sentences(),
        ticket=ticket,
        callbacks=[Begin()],
    )
    trainer.train()
    assert torch.equal(begun[0], theta["embeddings.word_embeddings.weight"])
