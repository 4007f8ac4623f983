"""The models that this library adds, made known to the auto classes of transformers and to timm when first needed."""

import importlib

# Each registers what it defines when it is imported.
_MODULES = ("hf_tickets.tasks.moco_model", "hf_tickets.tasks.simclr_model", "hf_tickets.tasks.small_stem")


def register_models() -> None:
    """Let SimCLR, MoCo and ResNets with a small stem be loaded as any other model; a second call does nothing."""
    for module in _MODULES:
        importlib.import_module(module)
