"""Work on many blocks of tensors at once, a core each."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Part = TypeVar("Part")

MOST_THREADS = 4  # each holds a block and a histogram; memory bandwidth is used up by then


def share_out(work: Callable[[Iterator[Item]], Part], items: Sequence[Item]) -> list[Part]:
    """Let several threads take items from one queue; return what each made of those it took.

    torch's own threads divide each small operation among them and wait for the slowest: on a busy machine that is
    many times slower. Here each thread works by itself.

    Args:
        work: Takes items until there are none.
        items: What is to be worked on, in the order in which it is taken.
    """
    configured = torch.get_num_threads()
    threads = min(configured, MOST_THREADS, len(items))
    if threads <= 1:
        return [work(iter(items))]
    queue = iter(items)
    torch.set_num_threads(1)  # also in the threads that begin now
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, [queue] * threads))
    finally:
        torch.set_num_threads(configured)
