"""Checkpoints that projects have published: read, recognised, and written as a folder that timm and transformers load.

Recognised are MoCo v1 and v2 (`module.encoder_q.…`, a linear or MLP head), SimCLR's ResNets as converted for PyTorch,
ResNets of torchvision and timm, and what this library's SimCLR and MoCo save.
"""

import json
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import save_for_hf
from torch import Tensor
from transformers import AutoConfig, TimmWrapperConfig

from hf_tickets.errors import DataError
from hf_tickets.files import write_atomically
from hf_tickets.tasks.contrastive_model import ContrastiveConfig
from hf_tickets.tasks.image_models import CONTRASTIVE_MODELS
from hf_tickets.tasks.moco_model import MocoConfig, MocoModel
from hf_tickets.tasks.nearest import nearest
from hf_tickets.tasks.sources import one_line

_QUERY, _KEY, _QUEUE = "module.encoder_q.", "module.encoder_k.", "module.queue"
_WRAPPERS = ("module.", "backbone.", "model.")
# where a file of a training keeps the weights
_ENTRIES = ("state_dict", "model", "model_state_dict", "net")
# tried in this order; others are named by the user
_ARCHITECTURES = (
    *("resnet50", "resnet152", "resnet18", "resnet34", "resnet101", "wide_resnet50_2", "wide_resnet101_2"),
    *("resnext50_32x4d", "resnext101_32x8d", "resnet10t", "resnet14t", "resnet26", "resnet26d", "resnet50d"),
    *("resnet101d", "resnet152d"),
)


@dataclass(frozen=True)
class Published:
    """A checkpoint that was recognised.

    Attributes:
        architecture: timm's name.
        backbone: weights and buffers by timm's names, a classifier included.
        classes: width of the classifier; 0 without one.
        left_out: names in the file that are of no use to the backbone, in its order.
        moco: whether it holds MoCo's query encoder.
        head: MoCo's projection head, names from 0.weight on.
        keys: MoCo's key encoder, named as the backbone.
        key_head: MoCo's projection head of keys.
        queue: MoCo's queue (width, negatives); None where the file has none.
    """

    architecture: str
    backbone: dict[str, Tensor]
    classes: int
    left_out: list[str]
    moco: bool = False
    head: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, Tensor] = field(default_factory=dict)
    key_head: dict[str, Tensor] = field(default_factory=dict)
    queue: Tensor | None = None


def read_published(source: Path, architecture: str | None = None) -> Published:
    """Read a checkpoint, and say which architecture its weights are.

    Args:
        source: a file (safetensors, or PyTorch's, of which nothing but tensors and plain values is read), or a folder
            of SimCLR or MoCo that this library saved.
        architecture: timm's name (default: the first common ResNet whose weights these are).

    Raises:
        DataError: it cannot be read, holds more than plain values, or its weights are of no known architecture.
    """
    if source.is_dir():
        return _read_folder(source)
    tensors = _tensors(_load(source), source)
    if any(name.startswith(_QUERY) for name in tensors):
        return _recognise_moco(tensors, source, architecture)
    wrapper = next((prefix for prefix in _WRAPPERS if all(name.startswith(prefix) for name in tensors)), "")
    return _recognise({name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}, source, architecture)


def save_as_timm(
    published: Published, folder: Path, mean: Iterable[float] | None = None, std: Iterable[float] | None = None
) -> None:
    """Write the backbone, and its classifier where it has one, as timm does: config.json and model.safetensors.

    Args:
        published: what `read_published` gave.
        folder: made if it is missing.
        mean: of each channel, of values between 0 and 1, as the model was trained with (default: ImageNet's).
        std: the same for the standard deviation.
    """
    model: Any = timm.create_model(published.architecture, num_classes=published.classes)
    model.load_state_dict(published.backbone)
    normalised = {"mean": tuple(mean or IMAGENET_DEFAULT_MEAN), "std": tuple(std or IMAGENET_DEFAULT_STD)}
    model.pretrained_cfg = {**model.pretrained_cfg, **normalised}
    save_for_hf(model, str(folder), model_config={"pretrained_cfg": normalised}, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config.pop("model_args", None)  # of which transformers would take none that it sets itself
    write_atomically(folder / "config.json", json.dumps(config, indent=2).encode())


def save_as_moco(published: Published, folder: Path) -> None:
    """Write all of MoCo, heads, key encoder and queue, as this library's `MocoModel`.

    Args:
        published: what `read_published` gave for a checkpoint of MoCo.
        folder: made if it is missing.

    Raises:
        DataError: it is no checkpoint of MoCo, or one of the parts is missing.
    """
    parts = {"key encoder": published.keys, "projection head": published.head, "queue": published.queue}
    missing = [name for name, part in parts.items() if part is None or not len(part)]
    if missing or published.queue is None:
        raise DataError(f"the checkpoint has no {missing[0]} of MoCo; convert its encoder alone, without --moco")
    layers = [name for name in published.head if name.endswith("weight")]
    pretrained = timm.get_pretrained_cfg(published.architecture)
    config = MocoConfig(
        encoder_config=TimmWrapperConfig(
            architecture=published.architecture, pretrained_cfg=pretrained.to_dict() if pretrained else {}
        ),
        projection=[len(published.head[name]) for name in layers],
        loss_temperature=0.07 if len(layers) == 1 else 0.2,
        queue_size=published.queue.shape[1],
    )
    model = MocoModel(config)
    key_encoder: Any = model.key_encoder
    try:
        model.encoder.timm_model.load_state_dict(published.backbone)
        model.projection.load_state_dict(published.head)
        key_encoder.timm_model.load_state_dict(published.keys)
        model.key_projection.load_state_dict(published.key_head)
        model.queue.copy_(published.queue)
    except RuntimeError as error:
        raise DataError(f"the checkpoint's head or queue is not MoCo's: {one_line(error)}") from None
    model.save_pretrained(folder)


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path.name} is not a checkpoint of torch, or holds more than tensors and plain values, which is not read"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise DataError(f"{path.name} cannot be read: {one_line(error)}") from None


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    """The weights in what a file holds."""
    while isinstance(loaded, Mapping):
        inner = next((loaded[name] for name in _ENTRIES if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            tensors = {str(name): tensor for name, tensor in loaded.items() if isinstance(tensor, Tensor)}
            if tensors:
                return tensors
            break
        loaded = inner
    raise DataError(f"{path.name} holds no weights by name")


def _read_folder(folder: Path) -> Published:
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder.name}: {one_line(error)}") from None
    architecture = getattr(getattr(config, "encoder_config", None), "architecture", None)
    if not isinstance(config, ContrastiveConfig) or architecture is None:
        raise DataError(f"{folder.name} is no SimCLR or MoCo on a timm model; it needs no conversion")
    model = CONTRASTIVE_MODELS[config.model_type].from_pretrained(folder)
    left_out = [name for name in model.state_dict() if not name.startswith("encoder.")]
    return Published(architecture, model.encoder.timm_model.state_dict(), 0, left_out)


def _recognise_moco(tensors: Mapping[str, Tensor], path: Path, architecture: str | None) -> Published:
    def split(prefix: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        head = {name.removeprefix("fc."): value for name, value in own.items() if name.startswith("fc.")}
        linear = "weight" in head  # v1; as the only layer of a head it is number 0
        head = {f"0.{name}" if linear else name: value for name, value in head.items()}
        return {name: value for name, value in own.items() if not name.startswith("fc.")}, head

    own, head = split(_QUERY)
    keys, key_head = split(_KEY)
    found = _recognise(own, path, architecture)
    used = {f"{_QUERY}{name}" for name in found.backbone}
    return Published(
        architecture=found.architecture,
        backbone=found.backbone,
        classes=0,
        left_out=[name for name in tensors if name not in used],
        moco=True,
        head=head,
        keys=_recognise(keys, path, found.architecture).backbone if keys else {},
        key_head=key_head,
        queue=tensors.get(_QUEUE),
    )


def _recognise(tensors: Mapping[str, Tensor], path: Path, architecture: str | None) -> Published:
    candidates = _ARCHITECTURES if architecture is None else (architecture,)
    if architecture is not None and not timm.is_model(architecture):
        raise DataError(f"timm has no architecture {architecture}; {nearest(architecture, timm.list_models())}")
    problems = {}
    for name in candidates:
        shapes, classifier, width = _shapes(name)
        lacking = [key for key in shapes if key not in tensors]
        wrong = [key for key in shapes if key in tensors and tensors[key].shape != shapes[key]]
        parts = {key.partition(".")[0] for key in shapes}
        more = [key for key in tensors if key.partition(".")[0] in parts and key not in shapes and not _counts(key)]
        if not lacking and not wrong and not more:
            return _fit(name, shapes, classifier, width, tensors)
        if not lacking and not wrong:
            problems[name] = len(more), f"it has {more[0]} too"
        elif lacking:
            problems[name] = len(lacking) + len(wrong) + len(more), f"it lacks {lacking[0]}"
        else:
            stored, expected = tuple(tensors[wrong[0]].shape), tuple(shapes[wrong[0]])
            problems[name] = len(wrong), f"{wrong[0]} is {stored} there, not {expected}"
    name, (count, example) = min(problems.items(), key=lambda item: item[1][0])
    raise DataError(
        f"{path.name}: its weights are of no known architecture; as {name}, {example} ({count} such); "
        "name another with --architecture"
    )


@cache
def _shapes(architecture: str) -> tuple[dict[str, torch.Size], str, int]:
    """Shapes of an architecture's weights and buffers without its classifier, and the classifier's name and input."""
    with torch.device("meta"):
        model: Any = timm.create_model(architecture)
    classifier = str(model.pretrained_cfg["classifier"])
    state = model.state_dict()
    shapes = {
        name: tensor.shape
        for name, tensor in state.items()
        # files of before 2018 do not count BatchNorm's batches
        if not name.startswith(f"{classifier}.") and not _counts(name)
    }
    return shapes, classifier, int(model.num_features)


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _fit(
    architecture: str, shapes: Mapping[str, torch.Size], classifier: str, width: int, tensors: Mapping[str, Tensor]
) -> Published:
    backbone = {name: tensors[name] for name in shapes}
    modules = {name.rpartition(".")[0] for name in shapes}
    for module in sorted(name for name in modules if f"{name}.running_mean" in shapes):
        counter = f"{module}.num_batches_tracked"
        backbone[counter] = tensors.get(counter, torch.zeros((), dtype=torch.long))
    weight, bias = (tensors.get(f"{classifier}.{name}") for name in ("weight", "bias"))
    classes = 0
    if weight is not None and bias is not None and weight.dim() == 2 and weight.shape[1] == width:
        classes = len(weight)
        backbone |= {f"{classifier}.weight": weight, f"{classifier}.bias": bias}
    left_out = [name for name in tensors if name not in backbone]
    return Published(architecture, backbone, classes, left_out)
