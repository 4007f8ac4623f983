"""Scope: which weights of a model may be pruned.

By default the weights of linear and convolution layers in the backbone: never heads, embeddings, norms, biases,
a vision model's input stem, nor a tied weight twice.
"""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import chain
from typing import Any

import regex
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_tickets.errors import PruningError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.shards import whole_shape

_SECONDS_TO_MATCH = 1.0
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_LAYERS = (nn.Linear, Conv1D, *_CONVOLUTIONS)
_WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_WRAPPER_NAMES = re.compile(rf"(^|\.)(?:{'|'.join(_WRAPPERS[1:])})(?=\.|$)")
_TORCHVISION_HEADS = ("fc", "classifier", "aux_classifier", "AuxLogits", "head", "heads", "roi_heads", "rpn")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside DataParallel, DDP, FSDP, compile and checkpoint wrappers."""
    while True:
        inner = next((model._modules[name] for name in _WRAPPERS if _wraps(model, name)), None)
        if inner is None:
            return model
        model = inner


def _wraps(model: nn.Module, name: str) -> bool:
    return list(model._modules) == [name] and isinstance(model._modules[name], nn.Module)


def plain_name(name: str) -> str:
    """Remove what wrappers inside a model add to a parameter's name."""
    return _WRAPPER_NAMES.sub("", name).lstrip(".")


def backbone(model: nn.Module) -> nn.Module:
    """Return the pre-trained part of a model, without its heads.

    Args:
        model: Any module, wrapped or not.

    Returns:
        The nested vision backbone where the model has one (DETR, UperNet, torchvision's detectors), the
        timm model inside a TimmWrapper or a feature extractor, else transformers' `base_model`, else the model itself.
    """
    model = unwrap(model)
    nested = _nested_backbone(model)
    if nested is None:
        base = unwrap(getattr(model, "base_model", model))
        nested = getattr(base, "timm_model", base)
    # timm's feature extractor of a transformer holds the whole model; that of a CNN is the model.
    inside = getattr(nested, "model", None)
    return inside if hasattr(nested, "feature_info") and isinstance(inside, nn.Module) else nested


def _nested_backbone(model: nn.Module) -> nn.Module | None:
    if getattr(getattr(model, "config", None), "backbone_config", None) is not None:
        for name, module in model.named_modules():
            # timm's feature extractors carry feature_info; transformers' own backbones have a `backbone` class.
            if name and (hasattr(module, "feature_info") or _is_transformers_backbone(module)):
                return getattr(module, "_backbone", module)
    features = getattr(model, "backbone", None)
    if type(model).__module__.startswith("torchvision.models") and isinstance(features, nn.Module):
        return getattr(features, "body", features)
    return None


def _is_transformers_backbone(module: nn.Module) -> bool:
    return hasattr(module, "forward_with_filtered_kwargs") and hasattr(module, "out_features")


def prunable_weights(model: nn.Module, config: PruningConfig | None = None) -> dict[str, nn.Parameter]:
    """Return the weights in scope, in parameter order.

    Args:
        model: Any module, wrapped or not.
        config: Its `scope`, `target_modules` and `exclude_modules` are used (default: the backbone's).

    Returns:
        Parameters by name, relative to the backbone (to the whole model where `scope` is "model").

    Raises:
        PruningError: Nothing is in scope, or the model is quantised or on the meta device.
    """
    config = config or PruningConfig()
    root = unwrap(model) if config.scope == "model" else backbone(model)
    chosen = dict(_default_layers(root, config.scope) if config.target_modules is None else _weight_layers(root))
    for patterns, wanted in ((config.target_modules, True), (config.exclude_modules, False)):
        if patterns is not None:
            matching = {name for name in chosen if _matches(name, patterns)}
            if wanted and not matching:
                raise PruningError(_no_match(patterns, list(chosen)))
            chosen = {name: layer for name, layer in chosen.items() if (name in matching) == wanted}
    weights: dict[str, nn.Parameter] = {}
    seen: set[int] = set()
    for name, layer in chosen.items():
        weight = layer._parameters["weight"]
        if weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            weights[f"{name}.weight" if name else "weight"] = weight
    if not weights:
        raise PruningError(f"{type(root).__name__} has no linear or convolution weight in scope; set target_modules")
    for name, weight in weights.items():
        if weight.is_meta:
            raise PruningError(f"{name} is on the meta device; load the weights first")
        if not weight.is_floating_point() or weight.element_size() < 2:
            raise PruningError(f"{name} is quantised ({weight.dtype}); prune the model before it is quantised")
    return weights


def named_weights(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the parameters of these names, looked up in the backbone, else in the whole model.

    Args:
        model: Any module, wrapped or not.
        names: Names relative to the backbone or to the model.

    Raises:
        PruningError: A name is in neither.
    """
    missing: list[str] = []
    for root in (backbone(model), unwrap(model)):
        parameters = {plain_name(name): weight for name, weight in root.named_parameters(remove_duplicate=False)}
        missing = [name for name in names if name not in parameters]
        if not missing:
            return {name: parameters[name] for name in names}
    raise PruningError(f"{type(unwrap(model)).__name__} has no parameter {missing[0]}: the mask is another model's")


def _default_layers(root: nn.Module, scope: str) -> Iterator[tuple[str, nn.Module]]:
    excluded = {id(module) for module in chain(_stem(root), heads(root) if scope == "backbone" else ())}
    embedding_weights = {
        id(module.weight) for module in root.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    }
    for name, module in _weight_layers(root):
        embedded = any(part in ("embeddings", "embed_tokens") for part in name.split(".")[:-1])
        free = id(module) not in excluded and id(module.weight) not in embedding_weights
        if isinstance(module, _LAYERS) and free and not embedded:
            yield name, module


def _weight_layers(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules with a weight matrix or kernel of their own."""
    for name, module in root.named_modules():
        weight = module._parameters.get("weight")
        if weight is not None and (len(whole_shape(weight)) >= 2 or weight.is_meta):
            yield plain_name(name), module


def heads(root: Any) -> Iterator[nn.Module]:
    """Modules inside a backbone's class that map features to outputs."""
    if hasattr(root, "get_classifier"):  # timm
        classifier = root.get_classifier()
        for head in classifier if isinstance(classifier, (tuple, list)) else (classifier,):
            if isinstance(head, nn.Module):
                yield from head.modules()
    if hasattr(root, "get_output_embeddings"):  # transformers, where the model is its own base model
        outputs = root.get_output_embeddings()
        if isinstance(outputs, nn.Module):
            yield from outputs.modules()
    if type(root).__module__.startswith("torchvision.models"):
        for name in _TORCHVISION_HEADS:
            if isinstance(head := getattr(root, name, None), nn.Module):
                yield from head.modules()


def _stem(root: nn.Module) -> Iterator[nn.Module]:
    """The convolutions through which pixels or samples enter."""
    for first in _first_convolutions(root):
        yield root.get_submodule(first)
        parent = root.get_submodule(first.rpartition(".")[0])
        # Deep stems (resnet50d) are a Sequential of their own; one that holds most of the network (VGG) is no stem.
        if isinstance(parent, nn.Sequential) and 2 * _layer_count(parent) < _layer_count(root):
            yield from parent.modules()


def _first_convolutions(root: nn.Module) -> list[str]:
    named = (getattr(root, "default_cfg", None) or {}).get("first_conv") or ()  # timm: one, or one for each branch
    modules = dict(root.named_modules())
    found = [
        name for name in ([named] if isinstance(named, str) else named) if isinstance(modules.get(name), _CONVOLUTIONS)
    ]
    if found:
        return found
    for name, module in modules.items():
        if not any(True for _ in module.children()) and any(True for _ in module.parameters(recurse=False)):
            return [name] if isinstance(module, _CONVOLUTIONS) else []
    return []


def _layer_count(root: nn.Module) -> int:
    return sum(isinstance(module, _LAYERS) for module in root.modules())


def _matches(name: str, patterns: Sequence[str] | str) -> bool:
    if isinstance(patterns, str):
        try:  # a pattern may be a stranger's, and some take for ever
            return regex.fullmatch(patterns, name, timeout=_SECONDS_TO_MATCH) is not None
        except TimeoutError:
            raise PruningError(f"the pattern {patterns!r} takes too long to match; give a simpler one") from None
    return any(name == pattern or name.endswith(f".{pattern}") for pattern in patterns)


def _no_match(patterns: Sequence[str] | str, names: list[str]) -> str:
    text = patterns if isinstance(patterns, str) else ", ".join(patterns)
    endings = sorted({name.rpartition(".")[2] for name in names})
    near = get_close_matches(text.rpartition(".")[2], endings, n=1)
    hint = f"did you mean {near[0]}?" if near else f"modules end in {', '.join(endings[:8])}"
    return f"target_modules {text} matches no module with a weight: {hint}"
