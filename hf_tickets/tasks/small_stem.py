"""ResNets of timm for small images: a 3×3 first convolution of stride 1 and no max-pool.

The CV tickets paper trains so on CIFAR, SVHN and Fashion-MNIST. timm has no such option, so each ResNet is registered
once more, as `resnet50_small_stem` and the like: configurations that name it load wherever this module is imported.
"""

from collections.abc import Callable
from typing import Any

import timm
from timm.models import is_model_in_modules, model_entrypoint, register_model
from torch import Tensor, nn

_SUFFIX = "_small_stem"


def has_small_stem(architecture: str) -> bool:
    """Whether a name is that of a small-image variant."""
    return architecture.endswith(_SUFFIX)


def with_small_stem(architecture: str) -> str | None:
    """Return the name of an architecture's small-image variant; None where it has none, as what is no ResNet.

    Args:
        architecture: timm's name, with a tag of weights or without.
    """
    name = architecture.partition(".")[0]
    if has_small_stem(name):
        return name
    return f"{name}{_SUFFIX}" if timm.is_model(f"{name}{_SUFFIX}") else None


def draw_stem_(model: Any) -> None:
    """Draw new weights for a small stem, as timm does for convolutions."""
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")


def stem_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return what a small stem replaces in a full-size model."""
    return {
        name: tensor.detach().clone()
        for name, tensor in model.state_dict().items()
        if name.partition(".")[0] in ("conv1", "maxpool")
    }


def _make_entrypoint(architecture: str) -> Callable[..., nn.Module]:
    full = model_entrypoint(architecture)

    def make(pretrained: bool = False, **arguments: Any) -> nn.Module:
        model: Any = full(pretrained=pretrained, **arguments)
        model.conv1 = nn.Conv2d(arguments.get("in_chans", 3), model.bn1.num_features, 3, padding=1, bias=False)
        draw_stem_(model)
        model.maxpool = nn.Identity()
        return model

    make.__name__ = f"{architecture}{_SUFFIX}"
    make.__doc__ = f"{architecture} for small images."
    return make


for _name in timm.list_models(module="resnet"):
    if not timm.is_model(f"{_name}{_SUFFIX}") and is_model_in_modules(_name, ["resnet"]):
        register_model(_make_entrypoint(_name))
