"""A process that does with a stranger's ticket all that a user would, and tells what went wrong."""

import json
import os
import resource
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from hf_tickets.cli.inspect import describe
from hf_tickets.errors import TicketsError
from hf_tickets.pruning.mask import Mask
from hf_tickets.pruning.prune import prune
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.ticket import Ticket

KINDS = ("masks", "weights", "blocks")  # without θ, with θ, and large enough for several deflate blocks
MEMORY = 200 << 20  # bytes beyond what the process has before
# What runs, loads or reaches out; compiling a regular expression is none of it.
_FORBIDDEN = ("exec", "compile", "import", "marshal.", "pickle.", "os.", "shutil.", "tempfile.", "subprocess.")
_FORBIDDEN += ("socket.", "ctypes.", "urllib.", "code.", "pty.", "sys.addaudithook", "sys.setprofile")


def network(kind: str) -> nn.Module:
    """A model with a pooler and a model type, as a transformer has them."""
    torch.manual_seed(0)
    size = 560 if kind == "blocks" else 40
    model = nn.Sequential(nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 20))
    # A long name, for patterns whose time grows with it.
    model.add_module("pooler", nn.ModuleDict({"intermediate_projection_of_the_pooler": nn.Linear(20, 20)}))
    model.config = SimpleNamespace(model_type="tiny")
    return model


def three_masks(kind: str) -> list[Mask]:
    """Nested masks whose payloads are packed bits, packed bits, and gaps."""
    model, masks = network(kind), [None]
    for sparsity in (0.3, 0.6, 0.95):
        masks.append(prune(model, mask=masks[-1], sparsity=sparsity))
    return masks[1:]


def ticket(kind: str) -> Ticket:
    """A ticket with all of its provenance."""
    masks, model = three_masks(kind), network(kind)
    rungs = [
        {"round": index + 1, "sparsity": mask.sparsity, "digest": mask.digest, "metrics": {"eval_accuracy": 0.9}}
        for index, mask in enumerate(masks)
    ]
    config = TicketConfig(
        base_model="someone/tiny",
        base_model_revision="0123456789abcdef",
        model_type="tiny",
        pruning={"amount": 0.2, "scope": "backbone", "target_modules": None, "exclude_modules": ["nowhere"]},
        rewind={"to": 0},
        task={"family": "text", "dataset": "someone/words", "metric": "accuracy"},
        training={"learning_rate": 1e-3},
        seeds={"data": 1},
        dense={"round": 0, "metrics": {"eval_accuracy": 0.9}},
        rungs=rungs,
        versions={"torch": torch.__version__},
    )
    theta = {name: value + 1 for name, value in model.state_dict().items()} if kind == "weights" else None
    return Ticket(masks, config, theta)


def serve(connection: Connection) -> None:
    """Examine one folder after the other until the connection closes."""
    torch.set_num_threads(1)
    watch = _Watch()
    known = {kind: (network(kind), three_masks(kind)) for kind in KINDS}
    limited = None
    while True:
        try:
            folder, kind = connection.recv()
        except EOFError:
            return
        answer = _examine(folder, *known[kind], watch)
        # The first ticket, an honest one, is there to load what is loaded once.
        if limited is None:
            limited = _peak()
            taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + 4 * MEMORY, resource.RLIM_INFINITY))
        elif _peak() > limited + MEMORY:
            answer[0].append(f"took {(_peak() - limited) >> 20} MB")
        connection.send(answer)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


class _Watch:
    """Notes what Python code does beyond computing, such as opening files, while `folder` is set."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "open":
            path, mode, flags = arguments
            inside = isinstance(path, (str, Path)) and Path(path).parent == Path(self.folder)
            if not inside or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.seen.append(f"opened {path!r} with mode {mode!r}")
        elif event.startswith(_FORBIDDEN):
            self.seen.append(f"{event} {arguments!r:.200}")


def _examine(folder: str, model: nn.Module, masks: list[Mask], watch: _Watch) -> tuple[list[str], bool]:
    """Return what is wrong, and whether the whole ticket was taken."""
    wrong: list[str] = []
    digests = [mask.digest for mask in masks]
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    opened: list[Ticket] = []

    def attempt(what: str, action: Callable[[], Any]) -> Any:
        """The action's result, or None where the library refuses."""
        watch.folder = folder
        try:
            return action()
        except TicketsError as error:
            watch.folder = None
            if "\n" in str(error) or len(str(error)) > 2000:
                wrong.append(f"{what}: not one line: {str(error)!r:.300}")
            return None
        except BaseException:  # noqa: BLE001 - Rust's panics too
            watch.folder = None
            wrong.append(f"{what}: {traceback.format_exc(limit=-8)[-3000:]}")
            return None
        finally:
            watch.folder = None

    def check(what: str, found: list[Mask] | None, expected: list[str]) -> bool:
        if found is not None and [mask.digest for mask in found] != expected:
            wrong.append(f"{what}: another mask was taken")
        return found is not None

    loaded = attempt("from_pretrained", lambda: opened.append(Ticket.from_pretrained(folder)) or opened[0])
    whole = loaded is not None
    if whole:
        chosen = next((index for index, mask in enumerate(masks) if mask.sparsity == loaded.sparsity), None)
        known = digests[: chosen + 1] if chosen is not None else ["no such rung"]
        whole &= check("mask", attempt("mask", lambda: [loaded.mask]), known[-1:])
        for value in attempt("sparsities", lambda: loaded.sparsities) or ():
            found = attempt("at", lambda value=value: [loaded.at(value).mask])
            whole &= check(f"at {value}", found, [mask.digest for mask in masks if mask.sparsity == value])
        whole &= check("masks", attempt("masks", lambda: loaded.masks), known)
        attempt("repr", lambda: f"{loaded!r} {loaded.sparsity:.4f}")
        attempt("describe", lambda: json.dumps(describe(loaded)))
        if attempt("apply", lambda: loaded.apply(model)) is None:
            whole = False
            if any(not torch.equal(value, dense[name]) for name, value in model.state_dict().items()):
                wrong.append("apply: refused, and yet the model is another")
        elif any(torch.any(model.get_parameter(name)[~kept] != 0) for name, kept in masks[chosen or 0].items()):
            wrong.append("apply: pruned weights are not zero")
        elif loaded.sparsities != tuple(mask.sparsity for mask in masks):
            wrong.append("sparsities: other ones were taken")
        model.load_state_dict(dense)
    wrong += watch.seen
    watch.seen = []
    return wrong, whole
