"""`Ladder`: nested masks in one small file, each rung coded over the survivors of the rung before."""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hf_tickets.errors import TicketFileError
from hf_tickets.files import replacing
from hf_tickets.pruning.mask import Mask, hash_layer
from hf_tickets.ticket.coding import MAXIMUM_EXPANSION, decode, encode
from hf_tickets.ticket.nesting import expand, survivors

LADDER_FILE = "ticket.safetensors"
# One metadata key holds everything: safetensors writes several in any order, and equal tickets are equal files.
_KEY = "hf_tickets"
_VERSION = 1
_MOST_DIMENSIONS = 64  # numpy's

Shape = tuple[int, ...]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Rung:
    """One mask of a ladder, coded.

    Args:
        kept: Number of weights kept.
        digest: Digest of the mask.
        payloads: Coded bits of each layer.
    """

    kept: int
    digest: str
    payloads: Mapping[str, bytes]


class Ladder:
    """Nested masks over the same weights, from dense to sparse.

    Args:
        masks: The masks, each within the one before.

    Raises:
        TicketFileError: The masks are not nested or are over other weights.
    """

    def __init__(self, masks: Iterable[Mask] = ()) -> None:
        self.shapes: dict[str, Shape] = {}
        self.rungs: list[Rung] = []
        self._last: tuple[int, Mask | None] = -1, None  # the mask at hand, and of which rung it is
        self._checked: set[int] = set()  # rungs whose payloads are known to be what is recorded
        for mask in masks:
            self.append(mask)

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Sparsity of each rung, rising."""
        return tuple(1 - rung.kept / self.numel for rung in self.rungs)

    @property
    def digests(self) -> list[str]:
        """Digest of each rung's mask."""
        return [rung.digest for rung in self.rungs]

    @property
    def numel(self) -> int:
        """Number of weights that may be pruned."""
        return sum(prod(shape) for shape in self.shapes.values())

    def append(self, mask: Mask) -> None:
        """Add a sparser mask as the next rung.

        Args:
            mask: A mask over the same weights that keeps none that the last rung pruned.
        """
        self.append_layers(mask.shapes, mask.__getitem__)
        self._last = len(self.rungs) - 1, mask.to("cpu")

    def append_layers(self, shapes: Mapping[str, Shape], read: Callable[[str], torch.Tensor]) -> None:
        """Add a sparser mask as the next rung, with no more than a few of its layers in memory.

        Args:
            shapes: Shape of each layer.
            read: Gives a layer of the mask, bool; called once for each, in the order of names.
        """
        if not shapes:
            raise TicketFileError("a ticket's mask must cover at least one weight")
        if self.rungs and shapes != self.shapes:
            raise TicketFileError("the rungs of a ticket must be nested masks over the same weights")
        before = len(self.rungs) - 1

        def code(name: str, kept: torch.Tensor) -> bytes:
            previous = _flat(self._layer(before, name)[0]) if before >= 0 else None
            return encode(survivors(previous, _flat(kept)))

        hasher, count, coded = hashlib.sha256(), 0, dict.fromkeys(shapes, b"")
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads) as pool:
            coding: deque[tuple[str, Future[bytes]]] = deque()
            for name in sorted(shapes):
                kept = read(name).cpu()
                hash_layer(hasher, name, kept)
                count += int(kept.count_nonzero())
                coding.append((name, pool.submit(code, name, kept)))
                if len(coding) > threads:
                    done, payload = coding.popleft()
                    coded[done] = payload.result()
            coded |= {name: payload.result() for name, payload in coding}
        self.shapes = dict(shapes)
        self.rungs.append(Rung(count, hasher.hexdigest(), coded))
        self._checked.add(len(self.rungs) - 1)

    def mask(self, index: int) -> Mask:
        """Return the mask of a rung; a later rung is composed from the mask that was asked for last.

        Args:
            index: 0 for the densest.

        Raises:
            TicketFileError: The payload is damaged or its digest is not the recorded one.
        """
        # By index: a stranger's file may record one digest for two rungs.
        if self._last[1] is not None and self._last[0] == index:
            return self._last[1]
        layers = dict(zip(self.shapes, _in_threads(partial(self._layer, index), list(self.shapes)), strict=True))
        mask = Mask({name: kept for name, (kept, _) in layers.items()})
        self._check(index, [counts for _, counts in layers.values()], mask.digest)
        self._last = index, mask
        return mask

    def layers(self, index: int, hold: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
        """Iterate over the layers of a rung's mask, bool tensors on the CPU.

        Args:
            index: 0 for the densest.
            hold: Whether the whole mask may be in memory, and stay there for the next time.

        Raises:
            TicketFileError: As for `mask`, before the first layer is given.
        """
        if hold:
            yield from self.mask(index).items()
            return
        self._check_layers(index)
        for name in self.shapes:
            yield name, self._layer(index, name)[0]

    def alone(self, index: int) -> "Ladder":
        """Return a rung as a ladder of its own.

        Args:
            index: 0 for the densest.
        """
        if index == 0:
            return self.first(1)  # coding a mask anew takes its time
        if self._last[1] is not None and self._last[0] == index:
            return Ladder([self._last[1]])
        self._check_layers(index)
        ladder = Ladder()
        ladder.append_layers(self.shapes, lambda name: self._layer(index, name)[0])
        return ladder

    def _layer(self, index: int, name: str) -> tuple[torch.Tensor, list[int]]:
        """Compose a layer of a rung's mask; say how many weights of it each rung that was decoded keeps."""
        known, last = self._last if self._last[0] <= index else (-1, None)
        levels = [_flat(last[name])] if last is not None else []
        counts = [last.kept_by_layer[name] if last is not None else prod(self.shapes[name])]
        for rung in self.rungs[known + 1 : index + 1]:
            levels.append(decode(rung.payloads[name], counts[-1]))
            counts.append(int(numpy.count_nonzero(levels[-1])))
        return torch.from_numpy(expand(levels)).reshape(self.shapes[name]), counts[1:]

    def _check_layers(self, index: int) -> None:
        """Check a mask that was not checked before, a layer at a time."""
        if index in self._checked:
            return
        hasher, counts = hashlib.sha256(), []
        for name in sorted(self.shapes):
            kept, kept_by_rung = self._layer(index, name)
            hash_layer(hasher, name, kept)
            counts.append(kept_by_rung)
        self._check(index, counts, hasher.hexdigest())

    def _check(self, index: int, counts: Sequence[Sequence[int]], digest: str) -> None:
        """Refuse a mask that is not the recorded one; a wrong count would sell a rung under another sparsity."""
        kept = [sum(layers) for layers in zip(*counts, strict=True)]
        if kept != [rung.kept for rung in self.rungs[index + 1 - len(kept) : index + 1]]:
            raise TicketFileError("the rungs do not keep as many weights as is recorded: damaged file")
        if digest != self.rungs[index].digest:
            raise TicketFileError(f"the mask of rung {index + 1} does not have its recorded digest: damaged file")
        self._checked.add(index)

    def first(self, count: int) -> "Ladder":
        """Return the densest rungs as a ladder of their own, as they are coded here.

        Args:
            count: How many.
        """
        ladder = Ladder()
        ladder.shapes, ladder.rungs = self.shapes, self.rungs[:count]
        if self._last[0] < count:
            ladder._last = self._last
        ladder._checked = {index for index in self._checked if index < count}
        return ladder

    def save(self, path: Path) -> None:
        """Write the ladder as one safetensors file."""
        tensors = {
            f"{index:03d}/{name}": numpy.frombuffer(payload, dtype=numpy.uint8)
            for index, rung in enumerate(self.rungs)
            for name, payload in rung.payloads.items()
        }
        described = {
            "version": _VERSION,
            "layers": {name: list(shape) for name, shape in self.shapes.items()},
            "rungs": [{"kept": rung.kept, "digest": rung.digest} for rung in self.rungs],
        }
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata={_KEY: json.dumps(described)})

    @classmethod
    def load(cls, path: Path) -> "Ladder":
        """Read a ladder; every name, shape and length is checked before a mask is decoded.

        Args:
            path: A file that `save` wrote.

        Raises:
            TicketFileError: The file is missing, truncated, damaged, or of an unknown format.
        """
        if not path.is_file():
            raise TicketFileError(f"{path} does not exist")
        ladder = cls()
        try:
            with safe_open(path, framework="numpy") as file:
                ladder.shapes, rungs = _read_metadata(file.metadata() or {}, path)
                names = set(file.keys())
                # Counted first: few bytes can name so many layers and rungs that their product fills the memory.
                if len(names) != len(rungs) * len(ladder.shapes) or names != {
                    f"{index:03d}/{name}" for index in range(len(rungs)) for name in ladder.shapes
                }:
                    raise TicketFileError(f"{path} does not hold one payload for each layer and rung")
                for index, rung in enumerate(rungs):
                    keys = {name: f"{index:03d}/{name}" for name in ladder.shapes}
                    slices = [file.get_slice(key) for key in keys.values()]
                    if any(part.get_dtype() != "U8" or len(part.get_shape()) != 1 for part in slices):
                        raise TicketFileError(f"{path}: payloads must be one-dimensional uint8 tensors")
                    coded = {name: file.get_tensor(key).tobytes() for name, key in keys.items()}
                    ladder.rungs.append(Rung(rung["kept"], rung["digest"], coded))
        except (SafetensorError, OSError, ValueError) as error:
            raise TicketFileError(f"{path} is not a whole safetensors file: {str(error)!r:.200}") from None
        for name, payload in ladder.rungs[0].payloads.items():
            if prod(ladder.shapes[name]) > MAXIMUM_EXPANSION * len(payload):
                raise TicketFileError(f"{path}: {name!r:.200} would grow beyond what its {len(payload)} bytes can hold")
        return ladder


def _read_metadata(metadata: dict[str, str], path: Path) -> tuple[dict[str, Shape], list[dict[str, Any]]]:
    if _KEY not in metadata:
        raise TicketFileError(f"{path} is not a ticket of hf_tickets")
    try:
        described = json.loads(metadata[_KEY])
        version = described["version"]
        if repr(version) != repr(_VERSION):
            raise TicketFileError(f"{path}: format version {version!r:.40} is not known; upgrade hf_tickets")
        shapes = {str(name): _shape(shape) for name, shape in described["layers"].items()}
        rungs: list[dict[str, Any]] = [
            {"kept": int(rung["kept"]), "digest": str(rung["digest"])} for rung in described["rungs"]
        ]
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise TicketFileError(f"{path}: its metadata cannot be read: {error!r:.200}") from None
    if not shapes or not rungs:
        raise TicketFileError(f"{path} holds no layers or no rungs")
    kept = [sum(prod(shape) for shape in shapes.values()), *(rung["kept"] for rung in rungs)]
    if any(before < after or after < 0 for before, after in pairwise(kept)):
        raise TicketFileError(f"{path}: its rungs do not become sparser")
    return shapes, rungs


def _shape(sizes: Any) -> Shape:
    """Sizes that a tensor can have; the product of more or larger ones may take minutes."""
    shape = tuple(int(size) for size in sizes)
    if len(shape) > _MOST_DIMENSIONS or not all(0 < size < 1 << 63 for size in shape):
        raise ValueError("a layer has an impossible shape")
    return shape


def _flat(kept: torch.Tensor) -> numpy.ndarray:
    return kept.cpu().numpy().reshape(-1)


def _in_threads(function: Callable[[T], R], items: list[T]) -> list[R]:
    """Map over items with a thread a core: the coder's work is outside the interpreter's lock."""
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return list(pool.map(function, items))
