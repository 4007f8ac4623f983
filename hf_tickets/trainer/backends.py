"""What a search cannot do yet under DeepSpeed."""

from typing import Any

from transformers import TrainingArguments

from hf_tickets.errors import TicketsError


def check_deepspeed(accelerator: Any, args: TrainingArguments) -> None:
    """Refuse what would choose masks on other weights than those that are trained.

    Args:
        accelerator: The trainer's, configured for DeepSpeed.
        args: Training arguments.

    Raises:
        TicketsError: ZeRO's stage is 3, or it keeps a copy of the weights in another precision.
    """
    if accelerator.state.deepspeed_plugin.zero_stage == 3:
        raise TicketsError("a search does not run under ZeRO-3 yet; use ZeRO-2, or FSDP2, which shards weights too")
    if args.bf16 or args.fp16:
        raise TicketsError("a search under DeepSpeed runs in float32 for now; use FSDP2 for mixed precision")
