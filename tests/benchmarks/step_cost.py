"""Cost of masked training against dense, in one stock Trainer (memory on the CPU: Linux).

Claims, for BERT-base with a head on the CPU, batches of 8 × 64 tokens: holding a mask with `PruningCallback` costs at
most 3 % a step, `torch.nn.utils.prune` 20 to 50 %; and no second copy of the weights is in memory.

One `Trainer.train()` does all timed steps: the same model, optimizer and data. Between steps, outside the timer, the
mask is taken up or let go, so that dense, masked and torch's steps take turns, in an order that is reversed from
round to round. A step is all that Trainer does from `on_step_begin` to `on_step_end`: forward, backward, clipping,
optimizer, schedule. After each change `--settle` steps are not timed. Ratios are taken within a round. Memory is the
peak of a training of three steps in a fresh process for each variant, masks included.

Command: python tests/benchmarks/step_cost.py [--device cuda]
"""

import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from measuring import INTERVALS, MEBIBYTE, arguments, console, in_fresh_process, median, peak_memory, start, verdict
from models import classifier
from rich.table import Table
from torch import nn
from torch.nn.utils import prune as torch_prune
from transformers import PreTrainedModel, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from hf_tickets import Mask, PruningCallback, prune
from hf_tickets.pruning.scope import prunable_weights

GOAL = 3.0
VARIANTS = ("dense", "hf_tickets", "torch")
MEMORY_STEPS = 3


class Variant:
    """Training dense, with a mask held by `PruningCallback`, or by torch's pruning; on at the start, then off."""

    def __init__(self, name: str, mask: Mask) -> None:
        self.name = name
        self.mask = mask
        self.callback = PruningCallback(mask)

    def on(self, *event: Any, **kwargs: Any) -> None:
        """Take up the mask; arguments as of a callback's event."""
        if self.name == "hf_tickets":
            self.callback.on_train_begin(*event, **kwargs)
        elif self.name == "torch":
            for name, module in self._modules(kwargs["model"]):
                torch_prune.custom_from_mask(module, "weight", self.mask[name])

    def off(self, *event: Any, **kwargs: Any) -> None:
        """Let go of the mask."""
        if self.name == "hf_tickets":
            self._check(kwargs["model"])
            self.callback.on_train_end(*event, **kwargs)
        elif self.name == "torch":
            for _, module in self._modules(kwargs["model"]):
                torch_prune.remove(module, "weight")

    def _modules(self, model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
        for name in self.mask:
            yield name, model.base_model.get_submodule(name.removesuffix(".weight"))

    def _check(self, model: PreTrainedModel) -> None:
        for name, weight in prunable_weights(model).items():
            if bool(((weight != 0) & ~self.mask[name]).any()):
                raise SystemExit(f"{name} has pruned weights that are not zero: the times mean nothing")


class TakingTurns(TrainerCallback):
    """Changes the variant between steps, and times the steps that follow `settle` untimed ones."""

    def __init__(self, turns: list[Variant], settle: int, wait: Callable[[], None]) -> None:
        self.turns = turns
        self.settle = settle
        self.wait = wait
        self.seconds: list[float] = []  # one a turn
        self._begin = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Change the variant where a turn begins, then start the timer."""
        turn, step = divmod(state.global_step, self.settle + 1)
        if step == 0:
            if turn:
                self.turns[turn - 1].off(args, state, control, **kwargs)
            self.turns[turn].on(args, state, control, **kwargs)
        self.wait()
        self._begin = time.perf_counter()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass on the event at which masks may be applied again."""
        variant = self.turns[state.global_step // (self.settle + 1)]
        if variant.name == "hf_tickets":
            variant.callback.on_optimizer_step(args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop the timer; Trainer has counted the step already."""
        self.wait()
        if state.global_step % (self.settle + 1) == 0:
            self.seconds.append(time.perf_counter() - self._begin)


def trainer(options: Namespace, model: nn.Module, steps: int, callback: TrainerCallback, folder: str) -> Trainer:
    """A stock Trainer with its default optimizer and clipping, over random tokens."""
    args = TrainingArguments(
        folder,
        per_device_train_batch_size=options.batch,
        max_steps=steps,
        optim=options.optim,
        bf16=options.bf16,
        use_cpu=options.device == "cpu",
        logging_steps=steps + 1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1000, 30000, (steps * options.batch, options.tokens), generator=generator)
    data = [{"input_ids": row, "labels": index % 2} for index, row in enumerate(tokens)]
    stock = Trainer(model, args, train_dataset=data, callbacks=[callback])
    stock.remove_callback(PrinterCallback)
    return stock


def measure_seconds(options: Namespace) -> dict[str, list[float]]:
    """Return the seconds of a step of each variant, one a round."""
    model = classifier(options.quick)
    mask = prune(model, sparsity=options.sparsity).to(options.device)
    variants = [Variant(name, mask) for name in VARIANTS]
    rounds = [variants if index % 2 else variants[::-1] for index in range(options.pairs + 1)]
    turns = [variant for order in rounds for variant in order]
    wait = torch.cuda.synchronize if options.device == "cuda" else _nothing
    taking_turns = TakingTurns(turns, options.settle, wait)
    with TemporaryDirectory() as folder:
        trainer(options, model, len(turns) * (options.settle + 1), taking_turns, folder).train()
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for variant, value in zip(turns, taking_turns.seconds, strict=True):
        seconds[variant.name].append(value)
    return {name: values[1:] for name, values in seconds.items()}  # the first round warms up


def measure_memory(options: Namespace, variant: str, threads: int) -> int:
    """Return by how many bytes a short training grows the process, or what it takes on the GPU."""
    torch.set_num_threads(threads)
    model = classifier(options.quick)

    def train() -> None:
        callback = TrainerCallback()
        if variant != "dense":
            held = Variant(variant, prune(model, sparsity=options.sparsity))
            if variant == "torch":
                held.on(model=model)
            else:
                callback = held.callback
        with TemporaryDirectory() as folder:
            trainer(options, model, MEMORY_STEPS, callback, folder).train()

    peak, _ = peak_memory(train)
    return torch.cuda.max_memory_allocated() if options.device == "cuda" else peak


def _nothing() -> None:
    """A CPU has nothing to wait for."""


def cost_table(options: Namespace) -> Table:
    """Compare the variants' seconds and memory with those of dense training."""
    table = Table("", "s a step", "over dense, %", "goal: ≤ 3 %", "peak, MiB", "over dense, MiB")
    seconds = measure_seconds(options)
    peaks = {name: in_fresh_process(measure_memory, options, name, torch.get_num_threads()) for name in VARIANTS}
    for name in VARIANTS:
        over = [100 * (value / dense - 1) for value, dense in zip(seconds[name], seconds["dense"], strict=True)]
        table.add_row(
            name,
            median(seconds[name]),
            median(over, "{:+.1f}") if name != "dense" else "–",
            verdict(float(np.median(over)) <= GOAL) if name == "hf_tickets" else "–",
            f"{peaks[name] / MEBIBYTE:,.0f}",
            f"{(peaks[name] - peaks['dense']) / MEBIBYTE:+,.0f}" if name != "dense" else "–",
        )
    weights = sum(weight.numel() for weight in prunable_weights(classifier(options.quick)).values())
    table.title = f"A training step of BERT, {options.batch} × {options.tokens} tokens, {options.pairs} rounds"
    table.caption_justify = "left"
    table.caption = f"{INTERVALS} A copy of the {weights:,} weights would be {4 * weights / MEBIBYTE:,.0f} MiB."
    return table


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--pairs", type=int, default=24, help="timed steps of each variant")
    parser.add_argument("--settle", type=int, default=1, help="untimed steps after each change of variant")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--sparsity", type=float, default=0.7)
    parser.add_argument("--optim", default="adamw_torch_fused", help="an optimizer of TrainingArguments")
    parser.add_argument("--bf16", action="store_true", help="train under bf16 autocast")
    options = parser.parse_args()
    if options.quick:
        options.pairs = 3
    start(options)
    console.print(cost_table(options))


if __name__ == "__main__":
    main()
