"""Which settings of a search go together, and which may change when it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_tickets.errors import PruningError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.criteria import FIRST_ORDER
from hf_tickets.trainer.rewind import RewindConfig
from hf_tickets.trainer.run_folder import differences

if TYPE_CHECKING:
    from hf_tickets.trainer.trainer import TicketTrainer

_EXTENDED = ("sparsities:", "pruning.rounds:", "pruning.sparsities:")


def check_combination(trainer: TicketTrainer, pruning: PruningConfig, rewind: RewindConfig) -> None:
    """Refuse settings that do not go together, before anything is trained.

    Raises:
        PruningError: Names them.
    """
    first_order = pruning.criterion in FIRST_ORDER
    early_bird = pruning.early_bird_distance is not None
    if (first_order or early_bird) and (trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled):
        raise PruningError(
            "criteria of first order and early_bird_distance need whole weights and gradients: train in one "
            "process or with DDP"
        )
    if first_order and trainer.args.fp16:
        raise PruningError(f"criterion {pruning.criterion} does not run in fp16; use bf16 or float32")
    if early_bird and rewind.rewind == "none":
        raise PruningError("with rewind=none one schedule spans all rounds: early_bird_distance may end none of them")
    if pruning.gradual and trainer.is_deepspeed_enabled:
        raise PruningError("gradual pruning does not run under DeepSpeed, whose own copy would revive the weights")
    if pruning.gradual and rewind.rewind != "weights":
        raise PruningError(f"gradual pruning is one training, after which there is nothing to do as {rewind.rewind}")


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """List what differs between two records of settings and may not: all but more rounds.

    Args:
        before: What `describe` gave when the search began; a field that did not exist then had its default.
        after: What it gives now.
    """
    before = {**before, "pruning": {**PruningConfig().to_dict(), **before["pruning"]}}
    changed = differences(before, after)
    if before["sparsities"] == after["sparsities"][: len(before["sparsities"])]:
        changed = [line for line in changed if not line.startswith(_EXTENDED)]
    if before["sparsities"] == after["sparsities"]:
        return changed
    if after["rewind"]["rewind"] == "none":
        changed.append("one schedule spans all rounds, so rewind=none cannot be extended")
    if after["pruning"]["early_bird_distance"] is not None:
        changed.append("the last round was trained in full, so early_bird_distance cannot be extended")
    if after["pruning"]["gradual"]:
        changed.append("all masks are of one training, so gradual pruning cannot be extended")
    return changed
