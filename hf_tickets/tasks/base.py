"""What a task family hands to the trainer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Dataset, Subset
from transformers import EvalPrediction, TrainerCallback, TrainingArguments

from hf_tickets.errors import RecipeError
from hf_tickets.tasks.optimization import timm_optimizer


@dataclass
class PreparedTask:
    """A task ready for `transformers.Trainer`.

    Attributes:
        model: the model, head included, on the CPU.
        train_dataset: map-style dataset of training examples.
        evaluation_dataset: map-style dataset, or one for each name; Trainer logs `eval_<name>_<metric>` then.
        data_collator: list of examples to a batch.
        compute_metrics: Trainer's evaluation output to {metric: value}.
        metric: the main metric as Trainer logs it, without `eval_`.
        provenance: plain JSON values that say which data this is; no path of this machine.
        processing_class: tokenizer or image processor to save with the model; None where its configuration
            is part of the model's (timm).
        greater_is_better: whether a higher main metric is the better one.
        callbacks: callbacks that the datasets need during training.
        preprocess_logits_for_metrics: reduces the outputs that evaluation keeps, as in Trainer.
        training_arguments: fields of TrainingArguments that this task cannot do without.
        smallest_batch: fewest examples that the model can be trained on at once; the last examples, where they would
            make a smaller batch, are left out.
        head_learning_rate: learning rate of what is not backbone, for TicketTrainer; None: that of the backbone.
        optimizer: name of an optimizer of timm, in place of that of TrainingArguments.
    """

    model: torch.nn.Module
    train_dataset: Dataset
    evaluation_dataset: Dataset | dict[str, Dataset]
    data_collator: Callable[[list[Any]], dict[str, Any]]
    compute_metrics: Callable[[EvalPrediction], dict[str, float]]
    metric: str
    provenance: dict[str, Any]
    processing_class: Any = None
    greater_is_better: bool = True
    callbacks: list[TrainerCallback] = field(default_factory=list)
    preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None
    training_arguments: dict[str, Any] = field(default_factory=dict)
    smallest_batch: int = 1
    head_learning_rate: float | None = None
    optimizer: str | None = None

    def adapt_(self, args: TrainingArguments) -> TrainingArguments:
        """Set in `args` what this task cannot do without, and fit the training data to its batches; return `args`.

        Raises:
            RecipeError: the batches are smaller than the model can be trained on.
        """
        for name, value in self.training_arguments.items():
            setattr(args, name, value)
        examples: Any = self.train_dataset
        batch, left = args.train_batch_size, len(examples) % args.train_batch_size
        if min(batch, len(examples)) < self.smallest_batch:
            raise RecipeError(
                f"per_device_train_batch_size: this model is trained on batches of {self.smallest_batch} or more, "
                f"not {min(batch, len(examples))}"
            )
        # Several processes fill their last batches by themselves; Trainer's drop_last would also shorten evaluations.
        if 0 < left < self.smallest_batch and args.world_size == 1:
            self.train_dataset = Subset(examples, range(len(examples) - left))
        return args

    def trainer_arguments(self, args: TrainingArguments | None = None) -> dict[str, Any]:
        """The keyword arguments of Trainer that this task fills, all but the model and `args`.

        With `head_learning_rate` they are those of TicketTrainer.

        Args:
            args: the training arguments; a task with an optimizer of its own needs them.
        """
        own: dict[str, Any] = {}
        if self.head_learning_rate is not None:
            own["head_learning_rate"] = self.head_learning_rate
        if self.optimizer is not None and args is not None:
            own["optimizer_cls_and_kwargs"] = timm_optimizer(self.optimizer, args)
        return {
            **own,
            "train_dataset": self.train_dataset,
            "eval_dataset": self.evaluation_dataset,
            "data_collator": self.data_collator,
            "compute_metrics": self.compute_metrics,
            "processing_class": self.processing_class,
            "callbacks": list(self.callbacks),
            "preprocess_logits_for_metrics": self.preprocess_logits_for_metrics,
        }
