"""What a search does around DeepSpeed, which wraps a model for one training and keeps weights of its own."""

from typing import Any

import torch
from torch import Tensor, nn

from hf_tickets.errors import TicketsError
from hf_tickets.pruning.shards import assemble, is_partitioned, local


def check_deepspeed(accelerator: Any) -> None:
    """Refuse weights that DeepSpeed keeps on disk, before anything is trained.

    Args:
        accelerator: The trainer's, configured for DeepSpeed.

    Raises:
        TicketsError: Weights are to be offloaded to NVMe.
    """
    zero = accelerator.state.deepspeed_plugin.deepspeed_config.get("zero_optimization", {})
    if (zero.get("offload_param") or {}).get("device") == "nvme":
        raise TicketsError("weights on NVMe cannot be masked; set offload_param's device to cpu or none")


def release_engine_(trainer: Any) -> bool:
    """Take the model back from DeepSpeed's engine after a training, so that the next can wrap it anew.

    Masks are chosen and rounds begin in float32: what trained in mixed precision is cast, and must be loaded again.

    Args:
        trainer: A trainer whose model may be in an engine; without one nothing happens.

    Returns:
        Whether the model's weights must be loaded again.
    """
    engine = getattr(trainer, "deepspeed", None)
    if engine is None:
        return False
    offload = getattr(engine.optimizer, "parameter_offload", None)
    if offload is not None:
        offload.partition_all_parameters()  # what is gathered now would be out of date
    engine.destroy()
    trainer.model_wrapped, trainer.deepspeed = trainer.model, None
    if not (trainer.args.bf16 or trainer.args.fp16):
        return False
    cast_parameters_(trainer.model, torch.float32)
    return True


def cast_parameters_(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast the parameters of a model in place, also those that ZeRO-3 has partitioned.

    Args:
        model: A module, not wrapped.
        dtype: A floating type.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype:
            parameter.data = parameter.data.to(dtype)
            if is_partitioned(parameter):
                parameter.ds_tensor.data = parameter.ds_tensor.data.to(dtype)


def cast_partitioned_(model: nn.Module, args: Any) -> None:
    """Cast a model that ZeRO-3 has partitioned to the precision of the training, which its engine leaves to others.

    Args:
        model: A module, not wrapped.
        args: Training arguments.
    """
    if any(map(is_partitioned, model.parameters())) and (args.bf16 or args.fp16):
        cast_parameters_(model, torch.bfloat16 if args.bf16 else torch.float16)


def trained_weight(tensor: Tensor) -> Tensor:
    """Return the whole of a parameter or buffer as the optimizer has it: under DeepSpeed the float32 copy.

    Where weights are spread over processes, or DeepSpeed's optimizer states are, every process must call this.

    Args:
        tensor: From the model in training.
    """
    in_engine = hasattr(tensor, "_z3_optimizer") or hasattr(tensor, "_hp_mapping")
    if in_engine and tensor.requires_grad and tensor.dtype != torch.float32:
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(tensor)
    return assemble(local(tensor).detach(), tensor)
