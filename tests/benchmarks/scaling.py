"""What pruning takes of models too large for one process: a table by paper and pencil, and measurements beside it.

Claims, where weights lie in rows over G processes (FSDP2): each holds N / G bytes of the mask of N weights; choosing
it exchanges at most 14 MiB and a few kilobytes a process, whatever N is, and no weights; the time is that of reading
the process's own rows three to five times.

The table follows from the shapes of models and from two rates measured here: that of reading memory, and that of
pruning a decoder of 243 M weights. It is checked on decoders of the shape of Llama's 1 B with random weights, in
processes of this machine: what is exchanged at 15 M and 243 M weights, the bytes of the mask, the peak of memory, and
the seconds of one pruning at `--parameters`. The status is 1 where bytes are not what the table says.

Command: python tests/benchmarks/scaling.py [--parameters 2e9] [--device cuda]
"""

import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from launching import launch
from measuring import MEBIBYTE, arguments, console, start, verdict
from rich.progress import Progress
from rich.table import Table

GIBIBYTE = 1 << 30
PROCESSES = (1, 8, 64)
DECODER = 232  # weights in scope of scaling_process.decoder, by width²
CHECKED = (256, 1024)  # widths; the rates are measured on the second
READS = 5  # most passes over the weights: one to find NaN, three of histograms, one to write the mask
HISTOGRAM = 8 * ((1 << 19) + 1)  # bytes; pruning/threshold.py
SAMPLE = 4 * (1 << 18)  # bytes, at most
NAMED_COUNT = 128  # bytes of a layer's name and count of ties
MESSAGE = 4096  # bytes around what a process sends


@dataclass(frozen=True)
class Architecture:
    """A transformer, by what decides its number of weights.

    Args:
        name: As it is called.
        width: Size of the hidden states.
        layers: How many.
        intermediate: Size inside the feed-forward part.
        key_value: Size of keys, and of values.
        matrices: Of the feed-forward part.
        embedded: Rows of embeddings and head.
    """

    name: str
    width: int
    layers: int
    intermediate: int
    key_value: int
    matrices: int
    embedded: int

    @property
    def prunable(self) -> int:
        """Weights in scope: attention and feed-forward."""
        attention = 2 * self.width * (self.width + self.key_value)
        return self.layers * (attention + self.matrices * self.width * self.intermediate)

    @property
    def parameters(self) -> int:
        """All weights, but for norms and biases."""
        return self.prunable + self.embedded * self.width


ARCHITECTURES = (
    Architecture("110 M, BERT-base", 768, 12, 3072, 768, 2, 30522 + 514),
    Architecture("1 B, Llama 3.2", 2048, 16, 8192, 512, 3, 128256),
    Architecture("7 B, Llama 2", 4096, 32, 11008, 4096, 3, 2 * 32000),
    Architecture("70 B, Llama 2", 8192, 80, 28672, 1024, 3, 2 * 32000),
)


@dataclass(frozen=True)
class Rates:
    """What one process does in a second.

    Args:
        read: Bytes of memory read.
        choose: Bytes of weights of which the mask is chosen, all passes together.
        code: Weights of a whole mask gathered, hashed and coded.
    """

    read: float
    choose: float
    code: float


def size(count: float) -> str:
    """Write a number of bytes."""
    return f"{count / GIBIBYTE:,.1f} GiB" if count >= GIBIBYTE else f"{count / MEBIBYTE:,.1f} MiB"


def short(seconds: float) -> str:
    """Write seconds with two digits or more."""
    return f"{seconds:,.0f}" if seconds >= 10 else f"{seconds:.2g}"


def traffic_bound(layers: int, processes: int) -> int:
    """Return the most bytes that choosing a mask brings to a process."""
    return 3 * HISTOGRAM + SAMPLE + processes * (layers * NAMED_COUNT + MESSAGE)


def paper_table(rates: Rates, device: str) -> Table:
    """Follow from shapes and rates what a round takes of each process."""
    table = Table(
        "model",
        "processes",
        "θ0 read",
        "mask, 1 byte a weight",
        "whole mask, 1 bit",
        "choose: exchanged",
        f"{READS} reads of the rows, s",
        "choose, s",
        "code: exchanged",
        "code, s",
        title="Of each process, a round; weights in float32",
    )
    for architecture in ARCHITECTURES:
        for processes in PROCESSES:
            weights, alone = architecture.prunable, processes == 1
            here = weights / processes
            table.add_row(
                architecture.name if alone else "",
                str(processes),
                size(4 * architecture.parameters / processes),
                size(here),
                size(weights / 8),
                "–" if alone else f"≤ {size(traffic_bound(7 * architecture.layers, processes))}",
                short(READS * 4 * here / rates.read),
                short(4 * here / rates.choose),
                "–" if alone else size(weights),
                short(weights / rates.code),
            )
    table.caption_justify = "left"
    table.caption = (
        f"Measured on this {device}: a process reads {rates.read / 1e9:.1f} GB/s, chooses masks of "
        f"{rates.choose / 1e9:.2f} GB/s of weights, and gathers, hashes and codes {rates.code / 1e6:.0f} M entries/s. "
        "The whole mask as bits is the most that one rung adds to the coded ladder, which every process keeps in the "
        "machine's memory; under ZeRO-3 gradients are seen whole, so the same is on the device. Under DDP and ZeRO-1 "
        "and 2 the mask of 1 byte is whole too, as with one process. Saving weights gathers them, a tensor at a time."
    )
    return table


def checks(records: list[dict[str, Any]], rates: Rates, options: Namespace) -> tuple[Table, bool]:
    """Hold measurements against the table; return whether all bytes are as it says."""
    table = Table("weights", "", "table", "measured, the largest of all processes", "goal")
    table.title = f"Decoders in {len(records)} processes, {options.dtype}"
    met = True

    def row(weights: int, what: str, said: str, measured: str, goal: bool | None = None) -> None:
        nonlocal met
        met = met and goal is not False
        table.add_row(f"{weights:,}", what, said, measured, "–" if goal is None else verdict(goal))

    for index, points in enumerate(zip(*(entry["measured"] for entry in records), strict=True)):
        weights, layers = points[0]["weights"], points[0]["layers"]
        largest = {name: max(point[name] for point in points) for name in points[0] if name != "digest"}
        share = -(-weights // len(records))
        if len({point["digest"] for point in points}) > 1:
            raise SystemExit(f"the processes chose different masks of {weights:,} weights")
        if "choose_traffic" in largest:
            bound, exchanged = traffic_bound(layers, len(records)), largest["choose_traffic"]
            passes = f"{size(exchanged)}, {largest['choose_histograms']} of 3 histograms"
            row(weights, "choose: exchanged", f"≤ {size(bound)}", passes, exchanged <= bound)
            exchanged = largest["code_traffic"]
            row(weights, "code: exchanged", f"≤ {size(weights)}", size(exchanged), exchanged <= weights)
        row(weights, "mask", f"{size(share)} and 1 %", size(largest["mask"]), largest["mask"] <= 1.01 * share)
        row(
            weights,
            "coded rung",
            f"≤ {size(weights / 8)}",
            size(largest["coded"]),
            largest["coded"] < 1.01 * weights / 8,
        )
        row(weights, "choose: peak memory", f"mask, {size(share)}, and blocks", size(largest["choose_peak"]))
        row(weights, "code: peak memory", f"coded, {size(weights / 8)}, and layers", size(largest["code_peak"]))
        alike = index == 1  # what the rates were measured on
        predicted = "–" if alike else f"{largest['here'] / rates.choose:.2f} s"
        row(weights, "choose", predicted, f"{largest['choose_seconds']:.2f} s")
        predicted = "–" if alike else f"{weights / rates.code:.1f} s"
        row(weights, "code", predicted, f"{largest['code_seconds']:.1f} s")
        table.add_section()
    return table, met


def main() -> None:
    """Measure, then print both tables."""
    parser = arguments(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--processes", type=int, help="default: 2, or one a GPU")
    parser.add_argument("--parameters", type=float, default=1e9, help="weights of the largest decoder, pruned once")
    options = parser.parse_args()
    width = 256 * max(1, round((options.parameters / DECODER) ** 0.5 / 256))
    widths = [256, 512] if options.quick else [*CHECKED, width]
    if options.processes is None:
        options.processes = torch.cuda.device_count() if options.device == "cuda" else 2
    start(options)
    values = {"device": options.device, "dtype": options.dtype, "widths": widths, "threads": options.threads or 1}
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={options.processes}"]
    with TemporaryDirectory() as folder, Progress(console=console, transient=True) as progress:
        progress.add_task("prune decoders", total=None)
        records = launch(launcher, "scaling_process", Path(folder), values)
    slowest = [max(entry["measured"][1][name] for entry in records) for name in ("choose_seconds", "code_seconds")]
    point = records[0]["measured"][1]
    rates = Rates(
        read=min(entry["bandwidth"] for entry in records),
        choose=point["here"] / slowest[0],
        code=point["weights"] / slowest[1],
    )
    console.print(paper_table(rates, "GPU" if options.device == "cuda" else "CPU"))
    table, met = checks(records, rates, options)
    console.print(table)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
