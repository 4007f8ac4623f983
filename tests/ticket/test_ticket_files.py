"""Tickets on disk: every rung comes back bit for bit, in a file near the entropy bound."""

import json
import os
import tempfile
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from scipy.stats import entropy
from torch import nn

from hf_tickets.errors import SparsityError, TicketFileError
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.ticket import Ticket

CONFIG_FILE, LADDER_FILE = "ticket_config.json", "ticket.safetensors"


def nested_masks(shapes, densities, seed=0, spread=0.0):
    """A weight is kept while its own uniform number, bent by its layer, is below the density."""
    generator = np.random.default_rng(seed)
    numbers = {}
    for name, shape in shapes.items():
        numbers[name] = generator.random(shape, dtype=np.float32) ** np.exp(spread * generator.standard_normal())
    return [Mask({name: torch.from_numpy(value < density) for name, value in numbers.items()}) for density in densities]


shape = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(tuple)
name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)
ladders = st.builds(
    nested_masks,
    st.dictionaries(name, shape, min_size=1, max_size=4).filter(lambda shapes: "__metadata__" not in shapes),
    st.lists(st.floats(0, 1), min_size=1, max_size=5).map(lambda densities: sorted(densities, reverse=True)),
    st.integers(0, 2**32),
)


# Round trip.


@given(ladders)
@settings(max_examples=60)
def test_every_rung_comes_back_bit_for_bit(masks):
    with tempfile.TemporaryDirectory() as folder:
        Ticket(masks).save_pretrained(folder)
        loaded = Ticket.from_pretrained(folder)
        assert loaded.sparsities == tuple(mask.sparsity for mask in masks)
        assert loaded.mask == masks[-1]
        assert loaded.masks == masks
        for mask in masks:
            rung = Ticket.from_pretrained(folder, sparsity=mask.sparsity)
            assert rung.sparsity == mask.sparsity
            assert set(rung.mask) == set(mask)
            assert all(torch.equal(rung.mask[name], mask[name]) for name in mask)


def test_rungs_can_be_read_in_any_order():
    masks = nested_masks({"a": (50, 40), "b": (300,)}, [0.9, 0.6, 0.3, 0.1])
    with tempfile.TemporaryDirectory() as folder:
        Ticket(masks).save_pretrained(folder)
        ticket = Ticket.from_pretrained(folder)
    for index in (2, 0, 3, 1, 1, 0):
        assert ticket.at(masks[index].sparsity).mask == masks[index]
    assert ticket.mask == masks[-1]


def test_one_mask_is_the_smallest_ticket(tmp_path):
    mask = nested_masks({"a": (5, 4)}, [0.5])[0]
    Ticket(mask).save_pretrained(tmp_path / "new" / "folder")
    ticket = Ticket.from_pretrained(tmp_path / "new" / "folder")
    assert ticket.mask == mask
    assert ticket.config == TicketConfig()
    assert ticket.theta is None
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [
        "ticket.safetensors",
        "ticket_config.json",
    ]


def test_saving_a_loaded_ticket_gives_the_same_payloads(tmp_path):
    Ticket(nested_masks({"a": (50, 40), "b": (300,)}, [0.9, 0.3])).save_pretrained(tmp_path / "one")
    Ticket.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "two")
    assert (tmp_path / "one" / CONFIG_FILE).read_bytes() == (tmp_path / "two" / CONFIG_FILE).read_bytes()
    one, two = (load_file(tmp_path / folder / LADDER_FILE) for folder in ("one", "two"))
    assert {name: payload.tobytes() for name, payload in one.items()} == {
        name: payload.tobytes() for name, payload in two.items()
    }


def test_saved_files_are_readable_by_others(tmp_path):
    umask = os.umask(0o022)
    try:
        Ticket(nested_masks({"a": (5, 4)}, [0.5])).save_pretrained(tmp_path)
    finally:
        os.umask(umask)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {"0o644"}


def test_a_rung_is_a_ticket_of_its_own(tmp_path):
    masks = nested_masks({"a": (50, 40)}, [0.9, 0.5, 0.3])
    rungs = [{"round": index, "digest": mask.digest} for index, mask in enumerate(masks, 1)]
    ticket = Ticket(masks, TicketConfig(base_model="me/model", rungs=rungs))
    middle = ticket.at(masks[1].sparsity).rung()
    assert middle.sparsities == (masks[1].sparsity,)
    assert middle.mask == masks[1]
    assert middle.config == TicketConfig(base_model="me/model", rungs=rungs[1:2])
    assert ticket.config.rungs == rungs
    middle.save_pretrained(tmp_path)
    assert Ticket.from_pretrained(tmp_path).mask == masks[1]


@pytest.mark.parametrize("index", range(3))
def test_a_rung_alone_is_written_as_its_mask_alone_would_be(tmp_path, index):
    masks = nested_masks({"a": (50, 40), "b": (300,)}, [0.9, 0.5, 0.3])
    Ticket(masks).save_pretrained(tmp_path / "ladder")
    Ticket(masks[index]).save_pretrained(tmp_path / "mask")
    Ticket.from_pretrained(tmp_path / "ladder", masks[index].sparsity).rung().save_pretrained(tmp_path / "rung")
    files = {path.name: path.read_bytes() for path in (tmp_path / "rung").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "mask").iterdir()}


# Choosing a rung.


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.449, 0.55, 0.95, 1.0, -1, 2, float("nan"), float("inf")])
def test_a_sparsity_outside_the_ladder_lists_the_rungs(tmp_path, sparsity):
    masks = [Mask({"a": torch.arange(1000) >= pruned}) for pruned in (200, 450, 900)]
    Ticket(masks).save_pretrained(tmp_path)
    for ask in (lambda: Ticket.from_pretrained(tmp_path, sparsity=sparsity), lambda: Ticket(masks).at(sparsity)):
        with pytest.raises(SparsityError, match=r"0\.2000, 0\.4500, 0\.9000"):
            ask()


def test_a_rung_is_found_by_the_four_decimals_that_tables_print():
    masks = [Mask({"a": torch.arange(30_011) >= pruned}) for pruned in (10_007, 20_002)]
    ticket = Ticket(masks)
    for mask in masks:
        assert ticket.at(round(mask.sparsity, 4)).mask == mask


# What makes no ticket.


def test_masks_must_be_nested_and_over_the_same_weights():
    one = Mask({"a": torch.tensor([True, True, False])})
    for other in (
        Mask({"a": torch.tensor([True, False, True])}),
        Mask({"a": torch.tensor([True, False])}),
        Mask({"b": torch.tensor([True, False, False])}),
    ):
        with pytest.raises(TicketFileError, match="nested"):
            Ticket([one, other])


@pytest.mark.parametrize("masks", [[], Mask({})])
def test_a_ticket_has_a_mask(masks):
    with pytest.raises(TicketFileError, match="at least one"):
        Ticket(masks)


# Size.


def bert_shapes(hidden):
    """Names as in BERT-base: 73 layers."""
    shapes = {}
    for layer in range(12):
        for part in ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"):
            shapes[f"encoder.layer.{layer}.{part}.weight"] = (hidden, hidden)
        shapes[f"encoder.layer.{layer}.intermediate.dense.weight"] = (4 * hidden, hidden)
        shapes[f"encoder.layer.{layer}.output.dense.weight"] = (hidden, 4 * hidden)
    return shapes | {"pooler.dense.weight": (hidden, hidden)}


def bound_in_bytes(masks):
    """Σ over rungs and layers of survivors · H(share kept of the survivors) / 8."""
    total = 0.0
    sizes = {name: prod(shape) for name, shape in masks[0].shapes.items()}
    for previous, mask in pairwise([sizes, *(mask.kept_by_layer for mask in masks)]):
        for layer, survivors in previous.items():
            if survivors:
                share = mask[layer] / survivors
                total += survivors * entropy([share, 1 - share], base=2) / 8
    return total


SHAPES = bert_shapes(96)
LARGER_SHAPES = bert_shapes(192)


@pytest.mark.parametrize("spread", [0.0, 0.5])
@pytest.mark.parametrize("percent", [10, 20, 35, 50, 70, 80, 85, 90, 95, 98])
def test_one_mask_takes_at_most_five_percent_more_than_its_entropy(tmp_path, percent, spread):
    masks = nested_masks(LARGER_SHAPES, [1 - percent / 100], seed=percent, spread=spread)
    Ticket(masks).save_pretrained(tmp_path)
    assert (tmp_path / LADDER_FILE).stat().st_size <= 1.05 * bound_in_bytes(masks) + 64 * 1024


@pytest.mark.parametrize(
    "sparsities", [[k / 10 for k in range(1, 10)], [1 - 0.8**k for k in range(1, 17)], [0.5, 0.9, 0.98]]
)
def test_a_ladder_takes_at_most_five_percent_more_than_the_entropy_of_its_rungs(tmp_path, sparsities):
    masks = nested_masks(LARGER_SHAPES, [1 - sparsity for sparsity in sparsities], spread=0.5)
    Ticket(masks).save_pretrained(tmp_path)
    allowance = 64 * 1024 * len(masks)
    assert (tmp_path / LADDER_FILE).stat().st_size <= 1.05 * bound_in_bytes(masks) + allowance


def test_the_allowance_is_not_what_keeps_small_tickets_within_the_bound(tmp_path):
    """Without weights to speak of, a rung costs its names alone."""
    masks = nested_masks(SHAPES, [0.5, 0.01])
    Ticket(masks[:1]).save_pretrained(tmp_path / "one")
    Ticket(masks).save_pretrained(tmp_path / "two")
    one, two = ((tmp_path / folder / LADDER_FILE).stat().st_size for folder in ("one", "two"))
    assert one <= 1.05 * bound_in_bytes(masks[:1]) + 24 * 1024
    assert two - one <= 1.05 * (bound_in_bytes(masks) - bound_in_bytes(masks[:1])) + 24 * 1024


def test_a_file_holds_no_pickle_and_plain_json(tmp_path):
    Ticket(nested_masks({"a": (50, 40)}, [0.5])).save_pretrained(tmp_path)
    content = (tmp_path / LADDER_FILE).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert {value["dtype"] for key, value in header.items() if key != "__metadata__"} == {"U8"}
    assert isinstance(json.loads(Path(tmp_path / "ticket_config.json").read_text()), dict)


def test_equal_tickets_are_equal_files(tmp_path):
    model = nn.Sequential(nn.Linear(40, 30), nn.Linear(30, 20))
    first = prune(model, sparsity=0.5)
    ticket = Ticket([first, prune(model, mask=first, sparsity=0.8)])
    for folder in (tmp_path / "a", tmp_path / "b", tmp_path / "c"):
        ticket.save_pretrained(folder)
    files = {folder.name: (tmp_path / folder.name / "ticket.safetensors").read_bytes() for folder in tmp_path.iterdir()}
    assert files["a"] == files["b"] == files["c"]
