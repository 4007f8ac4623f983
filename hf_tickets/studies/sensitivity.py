"""How sensitive a fine-tuned ticket is to its mask and its weights, measured as its task measures it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas
import torch
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.scope import named_weights
from hf_tickets.studies.perturbation import flip_sensitivity, noise_sensitivity
from hf_tickets.tasks.base import PreparedTask
from hf_tickets.trainer.trainer import TicketTrainer


@dataclass(frozen=True)
class Sensitivity:
    """What the perturbations did.

    Args:
        metric: Name of the measured metric.
        flips: As `flip_sensitivity` returns it.
        noise: As `noise_sensitivity` returns it.
    """

    metric: str
    flips: pandas.DataFrame
    noise: pandas.DataFrame


def measure_sensitivity(
    task: PreparedTask,
    base: nn.Module,
    mask: Mask,
    args: TrainingArguments,
    shares: Sequence[float],
    multiples: Sequence[float],
    seeds: Sequence[int],
    watch: Callable[[Trainer], None] = lambda trainer: None,
) -> Sensitivity:
    """Measure a fine-tuned ticket with entries of its mask flipped, and with noise on its weights (CV tickets).

    It is not trained again. A weight that a flip restores has the value that it has in the base model.

    Args:
        task: The task; its model is the fine-tuned ticket.
        base: The model that the ticket was fine-tuned from, under any head.
        mask: The ticket's mask.
        args: Training arguments; those of evaluation are used.
        shares: As in `flip_sensitivity`.
        multiples: As in `noise_sensitivity`.
        seeds: One drawing each.
        watch: Is shown the trainer that measures.

    Raises:
        PruningError: The mask is another model's, or a share or multiple is out of reach; nothing is measured then.
    """
    names = list(mask)
    with torch.no_grad():
        for name, weight in named_weights(base, names).items():
            tuned = named_weights(task.model, [name])[name]
            tuned.copy_(torch.where(mask[name], tuned, weight))
    trainer = TicketTrainer(model=task.model, args=task.adapt_(args), **task.trainer_arguments(args))
    watch(trainer)

    def evaluate(model: nn.Module) -> float:
        return trainer.evaluate()[f"eval_{task.metric}"]

    flips = flip_sensitivity(task.model, mask, evaluate, shares, seeds)
    return Sensitivity(task.metric, flips, noise_sensitivity(task.model, mask, evaluate, multiples, seeds))
