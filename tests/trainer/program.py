"""A search as a program: `python program.py FOLDER`, with everything on that makes resuming hard."""

import multiprocessing
import os
import sys

from tiny import PruningConfig, search, sentences, slightly_wrong
from transformers import EvalPrediction

from hf_tickets.tasks.randomness import EpochCallback, SeededDataset


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def run(folder: str) -> None:
    """Two rounds with dropout, accumulation, random words, loader workers, and saves between the logs."""
    data = SeededDataset(sentences(48), slightly_wrong, seed=11)
    search(
        folder,
        [EpochCallback(data)],
        train_dataset=data,
        eval_dataset=sentences(12, 60),
        compute_metrics=accuracy,
        pruning=PruningConfig(amount=0.4, rounds=2),
        gradient_accumulation_steps=2,
        dataloader_num_workers=2,
        num_train_epochs=2,
        logging_steps=3,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
        eval_strategy="epoch",
        weight_decay=0.1,
        lr_scheduler_type="cosine",
    ).train()


def run_in_own_group(folder: str) -> None:
    """The same as the leader of a process group, so that a kill takes the loader workers too."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # for loader workers, as in a program of its own on Linux
    with open(os.devnull, "w") as nothing:
        sys.stdout = nothing
        run(folder)


if __name__ == "__main__":
    run(sys.argv[1])
