"""Random transforms that resume, loader workers and world size do not change.

An example is drawn with every process-wide generator seeded by (seed, epoch, index), and their states put
back afterwards, so that a draw depends on nothing else.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


@contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed torch's CPU generator, NumPy's and Python's by the numbers of `key`; restore all three on exit.

    Args:
        key: integers of 0 or more; another tuple gives independent draws.
    """
    states = torch.default_generator.get_state(), np.random.get_state(), random.getstate()
    words = np.random.SeedSequence(key).generate_state(3, np.uint64)
    # not torch.manual_seed, which would reseed the accelerators too
    torch.default_generator.manual_seed(int(words[0]) >> 1)
    np.random.seed(int(words[1]) & 0xFFFFFFFF)
    random.seed(int(words[2]))
    try:
        yield
    finally:
        torch.default_generator.set_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


class SeededDataset(Dataset):
    """A map-style dataset with a transform that may draw at random.

    The transform may use torch's CPU generator, `random` and NumPy's process-wide generator. A generator that
    it makes itself, such as an unseeded `numpy.random.default_rng()`, is out of this class's reach.

    Args:
        examples: any object with `__len__` and `__getitem__`.
        transform: example to example.
        seed: 0 or more.
        fixed: draw the same in every epoch, as evaluation needs.
    """

    def __init__(self, examples: Any, transform: Callable[[Any], Any], seed: int, fixed: bool = False) -> None:
        self.examples = examples
        self.transform = transform
        self.seed = seed
        self.fixed = fixed
        # in shared memory, so that loader workers that outlive an epoch see the next one
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        example = self.examples[index]
        with seeded(self.seed, int(self._epoch), index):
            return self.transform(example)

    def set_epoch(self, epoch: int) -> None:
        """Draw as in this epoch (0 or more) from now on, in running loader workers too."""
        if not self.fixed:
            self._epoch.fill_(epoch)


class EpochCallback(TrainerCallback):
    """Tells a dataset which epoch begins.

    Accelerate calls a map-style dataset's `set_epoch` in one process only, and not after a resume within an
    epoch. Trainer sends `on_epoch_begin` before the epoch's first batch is fetched, and `state.epoch` counts
    whole epochs then, or is somewhere within the epoch that is resumed.
    """

    def __init__(self, dataset: SeededDataset) -> None:
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.dataset.set_epoch(int(state.epoch or 0))
