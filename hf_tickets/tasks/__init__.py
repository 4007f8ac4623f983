"""Task families: models, datasets, collators and metrics, one module each."""

from hf_tickets.tasks.config import TaskConfig
from hf_tickets.tasks.registry import FAMILIES, Family, prepare

__all__ = ["FAMILIES", "Family", "TaskConfig", "prepare"]
