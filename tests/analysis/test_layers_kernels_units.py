"""Tables and figures of one mask: layers, kernels, units, and the blocks that are marked in them."""

from itertools import pairwise

import pytest
import torch

from hf_tickets.analysis.blocks import block_of
from hf_tickets.analysis.kernels import kernel_figure, kernel_table
from hf_tickets.analysis.layers import layer_figure, layer_table
from hf_tickets.analysis.units import unit_figure, unit_table
from hf_tickets.errors import PruningError
from hf_tickets.pruning.mask import Mask


@pytest.fixture
def mask() -> Mask:
    """Output channel 1 and input channel 2 of a convolution are gone, and one more kernel; a 1×1 and a linear one."""
    generator = torch.Generator().manual_seed(0)
    conv = torch.rand(4, 3, 3, 3, generator=generator) < 0.7
    conv[:, :, 1, 1] = True
    conv[1], conv[:, 2], conv[3, 0] = False, False, False
    conv[2, 1] = False
    conv[2, 1, 0, 2] = True  # a kernel with one weight left is not zero
    pointwise = torch.tensor([[True, False], [False, False]])[..., None, None]
    return Mask({"stages.0.conv.weight": conv, "stages.1.conv.weight": pointwise, "fc.weight": torch.eye(3).bool()})


def test_kernels_that_are_wholly_zero_are_counted(mask: Mask) -> None:
    table = kernel_table(mask)
    assert table.to_dict("index") == {
        "stages.0.conv.weight": {"block": "stages.0", "size": "3×3", "kernels": 12, "zero": 7, "share": 7 / 12},
        "stages.1.conv.weight": {"block": "stages.1", "size": "1×1", "kernels": 4, "zero": 3, "share": 0.75},
    }


def test_kernel_map_is_white_where_all_kernels_live_and_dark_where_none_does(mask: Mask) -> None:
    figure = kernel_figure(mask)
    image = figure.axes[0].images[0].get_array()
    first, second = image[:, : image.shape[1] // 2], image[:, image.shape[1] // 2 :]
    assert first.mean() == pytest.approx(7 / 12, abs=0.02)  # a cell may lie over two channels
    assert second.mean() == pytest.approx(3 / 4, abs=1e-5)
    quarter = len(image) // 4
    assert (first[quarter : 2 * quarter] == 1).all()  # output channel 1
    assert (first[:, -first.shape[1] // 3 + 1 :] == 1).all()  # input channel 2
    assert (first[:quarter, 0] == 0).all()


def test_a_mask_without_convolutions_has_no_kernel_map() -> None:
    mask = Mask({"weight": torch.ones(2, 2).bool()})
    assert kernel_table(mask).empty
    with pytest.raises(PruningError, match="no convolution"):
        kernel_figure(mask)


def test_rows_and_columns_that_are_wholly_zero_are_counted(mask: Mask) -> None:
    table = unit_table(mask)
    assert table.drop(columns="block").to_numpy().tolist() == [[4, 1, 3, 1], [2, 1, 2, 1], [3, 0, 3, 0]]
    lines = unit_figure(table).axes[0].get_lines()
    assert list(lines[0].get_ydata()) == [25, 50, 0]
    assert list(lines[1].get_ydata()) == pytest.approx([100 / 3, 50, 0])


def test_a_weight_of_one_dimension_has_rows_only() -> None:
    table = unit_table(Mask({"scale": torch.tensor([True, False, False])}))
    assert table[["rows", "zero_rows", "columns", "zero_columns"]].iloc[0].tolist() == [3, 2, 1, 0]


def test_layers_are_counted_as_the_mask_counts_them(mask: Mask) -> None:
    table = layer_table(mask)
    assert table["kept"].sum() == mask.kept
    assert table["weights"].sum() == mask.numel
    assert table["shape"].tolist() == ["4×3×3×3", "2×2×1×1", "3×3"]
    assert table["sparsity"].to_dict() == mask.sparsity_by_layer


def test_blocks_are_named_above_the_layers_and_never_over_each_other() -> None:
    names = [f"encoder.layer.{block}.{part}.weight" for block in range(48) for part in ("query", "output.dense")]
    figure = layer_figure(dict.fromkeys([*names, "pooler.dense.weight"], 0.5), 0.5)
    figure.draw_without_rendering()
    (above,) = figure.axes[0].child_axes
    boxes = [label.get_window_extent() for label in above.get_xticklabels()]
    labels = [label.get_text() for label in above.get_xticklabels()]
    assert labels[0] == "0"
    assert 10 < len(labels) < 48
    assert all(before.x1 <= after.x0 for before, after in pairwise(boxes))


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("layer1.0.conv2.weight", "layer1"),
        ("encoder.layer.11.attention.self.query.weight", "encoder.layer.11"),
        ("stages.2.blocks.1.conv_dw.weight", "stages.2"),
        ("pooler.dense.weight", "pooler"),
        ("weight", "weight"),
    ],
)
def test_block_is_the_name_up_to_its_first_number(name: str, block: str) -> None:
    assert block_of(name) == block


def test_a_strangers_names_are_drawn_as_they_are() -> None:
    names = {"$\\frac{.weight": 0.5, "layer\x1b1.weight": 0.2}
    layer_figure(names, 0.4).draw_without_rendering()
