"""What the processes of one training do together: wait for the first, agree on a mask, share buffers."""

from collections import defaultdict
from datetime import timedelta
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from accelerate.utils import gather_object
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_tickets.errors import PruningError

_LONGEST_WAIT = timedelta(days=30)


def wait_for_everyone() -> None:
    """Wait until every process is here, however long the first one writes or uploads.

    The processes' own group gives up after minutes.
    """
    if dist.is_initialized():
        dist.barrier(_patient_group())


@cache
def _patient_group() -> Any:
    return dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)


def check_agreement(digest: str) -> None:
    """Refuse to go on where processes chose other masks: their weights differ, and so would the ticket.

    Args:
        digest: Digest of the mask that this process chose.

    Raises:
        PruningError: Another process chose another mask.
    """
    digests = gather_object([digest]) if dist.is_initialized() else [digest]
    if len(set(digests)) > 1:
        raise PruningError(f"the processes chose {len(set(digests))} different masks: their weights went apart")


class ShareBuffers(TrainerCallback):
    """Give every process the first one's buffers after each step: BatchNorm statistics, the queue of MoCo.

    They follow the examples that a process has seen. DDP shares them before each forward pass, other backends never,
    while only the first process's are saved: a resumed training would go on from others.
    """

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        share_buffers_(kwargs["model"])


@torch.no_grad()
def share_buffers_(model: nn.Module) -> None:
    """Overwrite the buffers of every process with the first one's.

    Args:
        model: The same module in each process, wrapped or not.
    """
    alike: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for buffer in model.buffers():
        alike[buffer.dtype, buffer.device].append(buffer)
    for buffers in alike.values():
        together = torch.cat([buffer.reshape(-1) for buffer in buffers])
        dist.broadcast(together, 0)
        for buffer, values in zip(buffers, together.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(values.reshape(buffer.shape))
