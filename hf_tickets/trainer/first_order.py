"""`FirstOrder`: add up during a training what criteria of first order rank by."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_tickets.errors import PruningError, RunFolderError
from hf_tickets.files import replacing
from hf_tickets.pruning.accumulation import Accumulation
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.trainer.checkpoints import KeepsState
from hf_tickets.trainer.holder import checkpoint_folder

_FILE = "accumulated.safetensors"


class FirstOrder(KeepsState):
    """Add up what the criterion says at every step, from the gradients that the optimizer is given.

    These are averaged over the batch and the processes, and clipped. What is added up is saved with checkpoints.

    Args:
        pruning: Its criterion is of first order.
    """

    def __init__(self, pruning: PruningConfig) -> None:
        self.pruning = pruning
        self._accumulation: Accumulation | None = None

    @property
    def sums(self) -> dict[str, Tensor]:
        """What is added up so far, by name."""
        return self._accumulation.sums if self._accumulation is not None else {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if getattr(args, "deepspeed_plugin", None) is not None or args.fp16:
            raise PruningError(
                f"criterion {self.pruning.criterion} needs gradients as they are, which DeepSpeed and fp16 do not "
                "leave: train with DDP or in one process, in bf16 or float32"
            )
        self._accumulation = Accumulation(kwargs["model"], self.pruning)
        if state.global_step > 0:
            self._accumulation.restore_(read_sums(checkpoint_folder(args, state) / _FILE))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._accumulation is not None:
            self._accumulation.add_()

    def save_state(self, folder: Path) -> None:
        save_sums(self.sums, folder / _FILE)


def save_sums(sums: dict[str, Tensor], path: Path) -> None:
    """Write what is added up so far.

    Args:
        sums: By name.
        path: File to write; it appears whole or not at all.
    """
    with replacing(path) as temporary:
        save_file({name: value.cpu().contiguous() for name, value in sums.items()}, temporary)


def read_sums(path: Path) -> dict[str, Tensor]:
    """Read what `save_sums` wrote.

    Raises:
        RunFolderError: The file is missing or damaged.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}; train this round again") from None
