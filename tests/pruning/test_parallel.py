"""Threads take each item once, and leave torch's settings and errors as they are."""

import pytest
import torch

from hf_tickets import prune
from hf_tickets.pruning.parallel import share_out


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_each_item_is_taken_once(threads):
    parts = share_out(list, range(1000))
    assert sorted(item for part in parts for item in part) == list(range(1000))
    assert all(part == sorted(part) for part in parts)
    assert len(parts) <= threads


def test_torch_keeps_its_number_of_threads_after_an_error_too(threads):
    def fail(items):
        raise ValueError(f"first of {list(items)[:1]}")

    with pytest.raises(ValueError, match="first of"):
        share_out(fail, [1, 2, 3])
    assert torch.get_num_threads() == threads


def test_a_mask_does_not_depend_on_the_number_of_threads():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(900, 700, bias=False) for _ in range(3)]
    model = torch.nn.Sequential(*layers)
    with torch.no_grad():
        for layer in layers:  # many ties, over several blocks
            layer.weight.copy_((layer.weight * 500).round() / 500)
    before, digests = torch.get_num_threads(), set()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        digests.add(prune(model, sparsity=0.5).digest)
    torch.set_num_threads(before)
    assert len(digests) == 1
