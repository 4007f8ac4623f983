"""FSDP2 and DeepSpeed in processes without GPUs, to try on any machine what will run on many GPUs.

Accelerate takes both for what GPUs do: without these lines it would run DDP, or a single process, and not say so.
"""

import os
from typing import Any

from accelerate.state import AcceleratorState, DistributedType, PartialState
from accelerate.utils import parse_flag_from_env
from transformers import TrainingArguments


def on_cpu(fields: dict[str, Any]) -> TrainingArguments:
    """Return training arguments for the CPU, with the backend that the launcher names.

    Args:
        fields: Keyword arguments of TrainingArguments, with `use_cpu`.
    """
    if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
        os.environ["DS_ACCELERATOR"] = "cpu"
        AcceleratorState._reset_state()  # as TrainingArguments does where it chooses the backend itself
        PartialState(backend="gloo")
        accelerator = {**(fields.get("accelerator_config") or {}), "use_configured_state": True}
        return TrainingArguments(**{**fields, "use_cpu": False, "accelerator_config": accelerator})
    arguments = TrainingArguments(**fields)
    if parse_flag_from_env("ACCELERATE_USE_FSDP"):
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return arguments
