"""One process of `backends.py`: a search of which only round 1 trains, on the backend that Accelerate's launcher names.

Round 0 has a learning rate of zero, so that the mask of round 1 is chosen on the saved weights as the backend holds
them, by the library's own path; that of round 2 is chosen on what round 1 has trained.
"""

import time
from pathlib import Path
from typing import Any

import torch
from hf_tickets.cli.cpu import on_cpu
from launching import given, record
from sklearn.datasets import load_digits
from torch.optim.lr_scheduler import LambdaLR
from transformers import BertForSequenceClassification, TrainerCallback, TrainingArguments

from hf_tickets import PruningConfig, TicketTrainer
from hf_tickets.trainer.weights import save_weights

SPARSITIES = (0.5, 0.75)
BATCH = 32


class Comparison(TicketTrainer):
    """A search whose round 0 leaves the weights as they are."""

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Create the schedule of a round."""
        if self.history:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: 0.0)
        return self.lr_scheduler


class OnlyRoundOne(TrainerCallback):
    """Ends every other round after its first step, and saves what round 1 has trained.

    Args:
        path: File to write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rounds = 0

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the weights, and count the rounds."""
        if self.rounds == 1:
            save_weights(kwargs["model"], self.path, state.is_world_process_zero)
        self.rounds += 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the round, unless it is round 1."""
        control.should_training_stop = control.should_training_stop or self.rounds != 1


def digits() -> list[dict[str, Any]]:
    """Handwritten digits as 16 words, each the ink in a square of 2 by 2 pixels."""
    images, labels = load_digits(return_X_y=True)
    words = torch.from_numpy(images).reshape(-1, 4, 2, 4, 2).sum(dim=(2, 4)).reshape(-1, 16).long()
    return [{"input_ids": row, "labels": int(label)} for row, label in zip(words, labels, strict=True)]


def main() -> None:
    """Search, and record the digests of the masks."""
    begin = time.perf_counter()
    folder, options = given()
    torch.set_num_threads(1)
    fields: dict[str, Any] = {
        "output_dir": str(folder / "run"),
        "per_device_train_batch_size": BATCH // 2 // options["processes"],
        "gradient_accumulation_steps": 2,
        "max_steps": options["steps"],
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "logging_steps": options["steps"],
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": options["device"] == "cpu",
        "seed": 3,
    }
    arguments = on_cpu(fields) if options["device"] == "cpu" else TrainingArguments(**fields)
    trainer = Comparison(
        BertForSequenceClassification.from_pretrained(options["model"]),
        arguments,
        train_dataset=digits(),
        pruning=PruningConfig(sparsities=SPARSITIES),
        callbacks=[OnlyRoundOne(folder / "trained.safetensors")],
    )
    trainer.train()
    record(
        folder,
        processes=trainer.args.world_size,
        backend=str(trainer.accelerator.distributed_type.value),
        digests=[rung.digest for rung in trainer.ticket.ladder.rungs],
        steps=[result.steps for result in trainer.history],
        seconds=time.perf_counter() - begin,
    )


if __name__ == "__main__":
    main()
