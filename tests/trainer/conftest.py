"""Quiet libraries, and a collector that does not search through them."""

import gc
from collections.abc import Iterator

import pytest
from transformers.utils import logging


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(verbosity)


@pytest.fixture(scope="session", autouse=True)
def _fast_collection() -> Iterator[None]:
    """Every Trainer.train() collects garbage: half a second when all imported modules are looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
