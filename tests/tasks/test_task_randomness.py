"""Random draws depend on (seed, epoch, index) and nothing else, in the real Trainer."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_tickets.tasks.randomness import EpochCallback, SeededDataset, seeded

EXAMPLES, BATCH, EPOCHS = 10, 3, 3
STEPS = 4  # batches an epoch


def draw(example: int) -> dict[str, Any]:
    """An example's index and a number from each of the three generators."""
    numbers = [float(torch.rand(())), random.random(), float(np.random.rand())]
    return {"index": example, "draw": torch.tensor(numbers, dtype=torch.float64)}


class Recorder(torch.nn.Module):
    """A model that learns nothing and writes down what it is given in training."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches: list[dict[int, tuple[float, ...]]] = []

    def forward(self, index: torch.Tensor, draw: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.training:
            rows = zip(index.tolist(), draw.tolist(), strict=True)
            self.batches.append({i: tuple(numbers) for i, numbers in rows})
        return {"loss": self.weight * draw.sum()}


def train(folder: Path, resume: str | None = None, seed: int = 7, **arguments: Any) -> list[dict]:
    dataset = SeededDataset(range(EXAMPLES), draw, seed)
    args = TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        save_steps=5,
        use_cpu=True,
        disable_tqdm=True,
        logging_strategy="no",
        **arguments,
    )
    model = Recorder()
    trainer = Trainer(model, args, train_dataset=dataset, callbacks=[EpochCallback(dataset)])
    trainer.train(resume_from_checkpoint=resume)
    return model.batches


def by_epoch(batches: list[dict]) -> list[dict]:
    return [
        {index: numbers for batch in batches[start : start + STEPS] for index, numbers in batch.items()}
        for start in range(0, len(batches), STEPS)
    ]


def expected(epoch: int, seed: int = 7) -> dict[int, tuple[float, ...]]:
    """What the documented rule gives, drawn by hand."""
    result = {}
    for index in range(EXAMPLES):
        with seeded(seed, epoch, index):
            result[index] = tuple(draw(index)["draw"].tolist())
    return result


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("reference")
    return folder, train(folder)


def test_every_epoch_draws_by_the_rule_and_epochs_differ(reference: tuple[Path, list[dict]]) -> None:
    epochs = by_epoch(reference[1])
    assert epochs == [expected(epoch) for epoch in range(EPOCHS)]
    assert len({numbers[0] for epoch in epochs for numbers in epoch.values()}) == EXAMPLES * EPOCHS


@pytest.mark.parametrize(
    "loader",
    [
        {"dataloader_num_workers": 2},
        {"dataloader_num_workers": 2, "dataloader_persistent_workers": True},
        {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 8},
    ],
    ids=["workers", "persistent", "prefetching"],
)
def test_loader_workers_change_nothing(
    reference: tuple[Path, list[dict]], loader: dict[str, Any], tmp_path: Path
) -> None:
    assert train(tmp_path, **loader) == reference[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_within_an_epoch_changes_nothing(
    reference: tuple[Path, list[dict]], workers: int, tmp_path: Path
) -> None:
    folder, batches = reference
    resumed = train(
        tmp_path,
        resume=str(folder / "checkpoint-5"),
        dataloader_num_workers=workers,
        dataloader_persistent_workers=workers > 0,
    )
    assert resumed == batches[5:]


def test_accumulation_with_a_short_last_group_keeps_the_epochs(tmp_path: Path) -> None:
    # four batches in groups of three: the last optimizer step of an epoch has one batch
    batches = train(tmp_path, gradient_accumulation_steps=3)
    assert by_epoch(batches) == [expected(epoch) for epoch in range(EPOCHS)]
    again = train(tmp_path / "again", resume=str(tmp_path / "checkpoint-5"), gradient_accumulation_steps=3)
    assert again == batches[2 * STEPS + 3 :]


def test_two_trainings_in_a_row_start_from_the_first_epoch() -> None:
    dataset = SeededDataset(range(EXAMPLES), draw, 7)
    dataset.set_epoch(2)
    EpochCallback(dataset).on_epoch_begin(None, type("State", (), {"epoch": 0})(), None)
    assert tuple(dataset[4]["draw"].tolist()) == expected(0)[4]


def test_another_seed_draws_otherwise(reference: tuple[Path, list[dict]], tmp_path: Path) -> None:
    epochs = by_epoch(train(tmp_path, seed=8))
    assert epochs[0] == expected(0, seed=8)
    assert epochs[0] != expected(0)


def test_the_process_wide_generators_are_left_as_they_were() -> None:
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    alone = torch.rand(3).tolist(), np.random.rand(), random.random()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    dataset = SeededDataset(range(EXAMPLES), draw, 0)
    _ = dataset[0], dataset[3]
    assert (torch.rand(3).tolist(), np.random.rand(), random.random()) == alone


def test_generators_are_restored_after_a_failure() -> None:
    torch.manual_seed(1)
    alone = torch.rand(2).tolist()
    torch.manual_seed(1)
    with pytest.raises(ZeroDivisionError):
        SeededDataset([0], lambda example: torch.rand(()) / 0 if example else 1 / 0, 0)[0]
    assert torch.rand(2).tolist() == alone


def test_a_fixed_dataset_draws_the_same_in_every_epoch() -> None:
    dataset = SeededDataset(range(EXAMPLES), draw, 7, fixed=True)
    before = [dataset[i]["draw"].tolist() for i in range(EXAMPLES)]
    dataset.set_epoch(4)
    assert [dataset[i]["draw"].tolist() for i in range(EXAMPLES)] == before


_TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from test_task_randomness import train
folder = Path(sys.argv[1])
batches = train(folder / "run", ddp_backend="gloo")
file = folder / f"rank{{os.environ['RANK']}}.json"
file.write_text(json.dumps([sorted(batch.items()) for batch in batches]))
"""


def test_world_size_changes_nothing(tmp_path: Path) -> None:
    import json

    script = tmp_path / "script.py"
    script.write_text(_TWO_PROCESSES.format(here=str(Path(__file__).parent)))
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc_per_node=2",
            script,
            tmp_path,
        ],
        check=True,
        capture_output=True,
        timeout=300,
    )
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(2)]
    steps = len(ranks[0]) // EPOCHS
    for epoch in range(EPOCHS):
        seen = {
            index: tuple(numbers)
            for batches in ranks
            for batch in batches[epoch * steps : (epoch + 1) * steps]
            for index, numbers in batch
        }
        assert seen == expected(epoch)
