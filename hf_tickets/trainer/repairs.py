"""Ways round faults in transformers' Trainer that would reach our users, while a mask is held.

Each names its upstream issue; it goes when the lower bound on transformers has the mend.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils import SAFE_WEIGHTS_NAME


@torch.no_grad()
def loss_counts_items(model: nn.Module, inputs: dict[str, Any]) -> bool | None:
    """Whether a model's loss uses `num_items_in_batch`, asked of the model itself; None if this batch cannot tell.

    Trainer concludes it from `**kwargs` in the signature, and so scales the loss of heads that ignore the
    argument by the number of accumulation steps and processes (transformers issue 47688).

    Args:
        model: The model, not wrapped.
        inputs: One batch on the model's device.
    """
    training = model.training
    model.eval()
    with torch.random.fork_rng(enabled=True):
        losses = [_loss(model(**inputs, num_items_in_batch=count)) for count in (1, 2)]
    model.train(training)
    if any(not torch.isfinite(loss) or loss == 0 for loss in losses):  # such as a batch in which no label counts
        return None
    return not torch.allclose(losses[0], losses[1])


def keys_differ(model: nn.Module, checkpoint: Path) -> bool:
    """Whether a checkpoint names weights as the file format does, not as the model in memory does.

    `save_pretrained` reverts the renaming of keys that `from_pretrained` applied, but Trainer loads them with
    `load_state_dict` and drops those it does not find (transformers issues 48805, 43701).

    Args:
        model: The model, not wrapped.
        checkpoint: A checkpoint's folder.
    """
    path = checkpoint / SAFE_WEIGHTS_NAME
    if not path.exists() or not hasattr(type(model), "from_pretrained"):
        return False
    with safe_open(path, framework="pt") as file:
        return not set(file.keys()) <= set(model.state_dict())


def load_renamed_(model: nn.Module, checkpoint: Path) -> None:
    """Load a checkpoint into a model in place by the class's own `from_pretrained`, which renames keys."""
    with torch.random.fork_rng():
        loaded = type(model).from_pretrained(checkpoint, config=model.config)  # type: ignore[attr-defined]
    model.load_state_dict(loaded.state_dict())


def name_layers_to_shard(plugin: Any, model: Any) -> None:
    """Tell Accelerate's FSDP2 which layers to shard as units, where the user does not.

    By itself it takes all of `_no_split_modules`, and then the word embeddings once more that one of them may hold, as
    BERT's does; torch refuses that.

    Args:
        plugin: Accelerate's `FullyShardedDataParallelPlugin`.
        model: The model, not wrapped.
    """
    if plugin.fsdp_version != 2 or plugin.transformer_cls_names_to_wrap is not None:
        return
    names = set(getattr(model, "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    embedding = model.get_input_embeddings() if names and hasattr(model, "get_input_embeddings") else None
    holding = {type(layer).__name__ for layer in layers if any(part is embedding for part in layer.modules())}
    plugin.transformer_cls_names_to_wrap = sorted({type(layer).__name__ for layer in layers} - holding)


def _loss(outputs: Any) -> torch.Tensor:
    return outputs["loss"] if isinstance(outputs, dict) else outputs[0]
