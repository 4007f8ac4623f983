"""The search for a ticket on a task, from what a recipe says of it."""

from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import TrainingArguments

from hf_tickets.errors import RecipeError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.schedules import sparsity_schedule
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.registry import prepare
from hf_tickets.ticket.base import cached_commit
from hf_tickets.trainer.rewind import RewindConfig
from hf_tickets.trainer.trainer import TicketTrainer

_NEAR = 0.01  # a rung is a whole number of weights, so in a small model only near its sparsity


def make_search(
    config: TaskConfig,
    args: TrainingArguments,
    pruning: PruningConfig,
    rewind: RewindConfig,
    recipe: dict[str, Any],
    change_: Callable[[nn.Module], dict[str, Any]] | None = None,
) -> tuple[TicketTrainer, PreparedTask]:
    """Load model and data, and return the trainer that finds the ticket, with the task it finds it on.

    Args:
        config: The task.
        args: Training arguments of one round.
        pruning: How masks are chosen.
        rewind: What is rewound.
        recipe: All of these as plain values, for the ticket's provenance.
        change_: Puts other weights than the base model's into the model to start from, and returns what the ticket's
            config says of that control.
    """
    task = prepare(config)
    described = {**task.provenance, "metric": task.metric, "greater_is_better": task.greater_is_better}
    provenance: dict[str, Any] = {"task": described, "recipe": recipe}
    if not config.pretrained:
        provenance["base_model"] = None
    elif config.model_revision is not None:
        provenance["base_model_revision"] = cached_commit(config.model, config.model_revision)
    args = task.adapt_(args)
    if change_ is not None:
        provenance["control"] = change_(task.model)
    trainer = TicketTrainer(
        model=task.model,
        args=args,
        pruning=pruning,
        rewind=rewind,
        provenance=provenance,
        **task.trainer_arguments(args),
    )
    return trainer, task


def rung_near(pruning: PruningConfig, sparsity: float, name: str) -> int:
    """Return the number of the round, from 1, that reaches a sparsity.

    Args:
        pruning: The schedule.
        sparsity: 0 to 1, to a hundredth.
        name: What asks for it, to begin the message with.

    Raises:
        RecipeError: No round reaches it; the message lists those that the rounds reach.
    """
    rungs = sparsity_schedule(pruning)
    distances = [abs(rung - sparsity) for rung in rungs]
    if not rungs or min(distances) > _NEAR:
        listed = ", ".join(f"{rung:.4f}" for rung in rungs)
        raise RecipeError(f"{name}: no round reaches sparsity {sparsity:g}; the rounds reach {listed}")
    return distances.index(min(distances)) + 1
