"""Lottery tickets of pre-trained models: find, save and reuse them.

The names below are the public API; each is imported on first use, so that `import hf_tickets` is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_tickets.analysis.kernels import kernel_figure as kernel_figure
    from hf_tickets.analysis.kernels import kernel_table as kernel_table
    from hf_tickets.analysis.layers import layer_figure as layer_figure
    from hf_tickets.analysis.layers import layer_table as layer_table
    from hf_tickets.analysis.overlap import layer_overlap as layer_overlap
    from hf_tickets.analysis.overlap import layer_overlap_figure as layer_overlap_figure
    from hf_tickets.analysis.overlap import mask_overlap as mask_overlap
    from hf_tickets.analysis.overlap import overlap_figure as overlap_figure
    from hf_tickets.analysis.removable import connected_weights as connected_weights
    from hf_tickets.analysis.removable import removable_figure as removable_figure
    from hf_tickets.analysis.removable import removable_table as removable_table
    from hf_tickets.analysis.units import unit_figure as unit_figure
    from hf_tickets.analysis.units import unit_table as unit_table
    from hf_tickets.errors import TicketsError as TicketsError
    from hf_tickets.pruning.config import PruningConfig as PruningConfig
    from hf_tickets.pruning.mask import Mask as Mask
    from hf_tickets.pruning.prune import prune as prune
    from hf_tickets.studies.controls import control as control
    from hf_tickets.studies.perturbation import flip_sensitivity as flip_sensitivity
    from hf_tickets.studies.perturbation import flipped as flipped
    from hf_tickets.studies.perturbation import noise_sensitivity as noise_sensitivity
    from hf_tickets.studies.perturbation import sensitivity_figure as sensitivity_figure
    from hf_tickets.tasks.moco_model import MocoModel as MocoModel
    from hf_tickets.tasks.simclr_model import SimclrModel as SimclrModel
    from hf_tickets.ticket.auto import AutoTicketModel as AutoTicketModel
    from hf_tickets.ticket.config import TicketConfig as TicketConfig
    from hf_tickets.ticket.switch import TicketSwitch as TicketSwitch
    from hf_tickets.ticket.ticket import Ticket as Ticket
    from hf_tickets.trainer.callback import PruningCallback as PruningCallback
    from hf_tickets.trainer.rewind import RewindConfig as RewindConfig
    from hf_tickets.trainer.trainer import TicketTrainer as TicketTrainer

__version__ = "0.1.0"

_EXPORTS = {
    "AutoTicketModel": "hf_tickets.ticket.auto",
    "Mask": "hf_tickets.pruning.mask",
    "MocoModel": "hf_tickets.tasks.moco_model",
    "PruningCallback": "hf_tickets.trainer.callback",
    "PruningConfig": "hf_tickets.pruning.config",
    "RewindConfig": "hf_tickets.trainer.rewind",
    "SimclrModel": "hf_tickets.tasks.simclr_model",
    "Ticket": "hf_tickets.ticket.ticket",
    "TicketConfig": "hf_tickets.ticket.config",
    "TicketSwitch": "hf_tickets.ticket.switch",
    "TicketTrainer": "hf_tickets.trainer.trainer",
    "TicketsError": "hf_tickets.errors",
    "connected_weights": "hf_tickets.analysis.removable",
    "control": "hf_tickets.studies.controls",
    "flip_sensitivity": "hf_tickets.studies.perturbation",
    "flipped": "hf_tickets.studies.perturbation",
    "kernel_figure": "hf_tickets.analysis.kernels",
    "kernel_table": "hf_tickets.analysis.kernels",
    "layer_figure": "hf_tickets.analysis.layers",
    "layer_overlap": "hf_tickets.analysis.overlap",
    "layer_overlap_figure": "hf_tickets.analysis.overlap",
    "layer_table": "hf_tickets.analysis.layers",
    "mask_overlap": "hf_tickets.analysis.overlap",
    "noise_sensitivity": "hf_tickets.studies.perturbation",
    "overlap_figure": "hf_tickets.analysis.overlap",
    "prune": "hf_tickets.pruning.prune",
    "removable_figure": "hf_tickets.analysis.removable",
    "removable_table": "hf_tickets.analysis.removable",
    "sensitivity_figure": "hf_tickets.studies.perturbation",
    "unit_figure": "hf_tickets.analysis.units",
    "unit_table": "hf_tickets.analysis.units",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> Any:
    # AutoTicketModelForSequenceClassification, …: one for each auto class of the installed transformers.
    sibling = name.startswith("AutoTicketModelFor")
    if name not in _EXPORTS and not sibling:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS["AutoTicketModel" if sibling else name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({"__doc__", "__version__", *__all__})
