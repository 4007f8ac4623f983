"""The display: plain lines that are few and say enough, a live display that fits, a table that reads well."""

import io

import numpy
import pytest
import torch
from rich.console import Console

from hf_tickets.cli.display import Display, results_table


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(width: int = 80) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(file=output, width=width, force_terminal=False), output


def run_rounds(display: Display, clock: Clock, rounds: int, steps: int, seconds_a_step: float) -> None:
    display.start(rounds)
    for round in range(rounds + 1):
        display.round_started(round, round / 10, steps)
        for step in range(1, steps + 1):
            clock.now += seconds_a_step
            display.step(step, loss=1 / step)
        display.evaluated({"eval_accuracy": 0.5, "eval_loss": 0.1})
        display.round_finished({"eval_accuracy": 0.75})
    display.finish()


def test_plain_lines_tell_rounds_steps_metric_and_time_left():
    console, output = plain()
    clock = Clock()
    run_rounds(Display("accuracy", console, clock), clock, rounds=1, steps=100, seconds_a_step=1.0)
    lines = output.getvalue().splitlines()
    assert lines[0] == "round 0 of 1 · sparsity 0.00% · 100 steps"
    assert lines[1] == "round 0 of 1 · sparsity 0.00% · step 10/100 · loss 0.1 · 0:01:30 left in this round"
    assert lines[11] == "round 0 of 1 · sparsity 0.00% · accuracy 0.5000"
    assert lines[12] == "round 0 of 1 · sparsity 0.00% · trained in 0:01:40 · accuracy 0.7500"
    assert lines[13] == "round 1 of 1 · sparsity 10.00% · 100 steps"
    assert len(lines) == 26


@pytest.mark.parametrize(
    ("steps", "seconds_a_step", "most"),
    [(1000, 0.001, 0), (1000, 0.05, 10), (10, 60.0, 10), (10_000, 0.06, 20)],
)
def test_plain_lines_of_a_round_are_few_and_never_far_apart(steps, seconds_a_step, most):
    console, output = plain()
    clock = Clock()
    run_rounds(Display("accuracy", console, clock), clock, 0, steps, seconds_a_step)
    about_steps = [line for line in output.getvalue().splitlines() if "/" in line]
    assert len(about_steps) <= most
    assert len(about_steps) >= steps * seconds_a_step // 61


def test_time_left_after_resuming_in_the_middle_counts_only_steps_made_now():
    console, output = plain()
    clock = Clock()
    display = Display(console=console, clock=clock)
    display.start(0)
    display.round_started(0, 0.0, 100)
    for step in range(51, 101):
        clock.now += 2.0
        display.step(step)
    assert "step 51/100" not in output.getvalue()
    assert "step 60/100 · 0:01:20 left in this round" in output.getvalue()


@pytest.mark.parametrize("width", [40, 80, 160])
def test_live_display_fits_the_terminal_and_ends_in_a_line_a_round(width):
    output = io.StringIO()
    console = Console(file=output, width=width, force_terminal=True, color_system=None, legacy_windows=False)
    clock = Clock()
    display = Display("a_metric_with_quite_a_long_name", console, clock)
    run_rounds(display, clock, rounds=3, steps=50, seconds_a_step=0.1)
    text = output.getvalue()
    assert "round 3 of 3 · sparsity 30.00% · trained in 0:00:05" in text
    bars = [line for line in text.replace("\r", "\n").split("\n") if "━" in line]
    assert bars
    for line in bars:
        visible = "".join(part.partition("m")[2] if i else part for i, part in enumerate(line.split("\x1b[")))
        assert len(visible) <= width


def test_live_display_shows_round_sparsity_metric_and_steps():
    output = io.StringIO()
    console = Console(file=output, width=80, force_terminal=True, color_system=None, legacy_windows=False)
    display = Display("accuracy", console)
    display.start(9)
    display.round_started(3, 0.3, 400)
    display.evaluated({"eval_accuracy": 0.9123})
    display.step(120, 0.25)
    display.finish()
    text = output.getvalue()
    assert "round 3 of 9 · sparsity 30.00% · loss 0.25" in text
    assert "all rounds · accuracy 0.9123 (round 3)" in text
    assert "120/400" in text
    assert "3/9" in text


def test_steps_that_are_not_known_and_metrics_that_are_missing_are_shown_as_such():
    for terminal in (False, True):
        console = Console(file=io.StringIO(), force_terminal=terminal)
        display = Display("accuracy", console)
        display.start(2)
        display.round_started(0, 0.0, 0)
        display.step(1)
        display.evaluated({})
        display.round_finished({"eval_accuracy": float("nan")})
        display.finish()
        display.finish()


def test_what_an_evaluation_measured_is_shown_whatever_it_is_called():
    """A training knows no metric's name beforehand; a search evaluates its held-out images too."""
    probes = {"eval_loss": 2.0, "eval_runtime": 3.0, "eval_knn_accuracy": 0.5, "eval_linear_accuracy": 0.25}
    for wanted in (None, "test_accuracy"):
        console, output = plain()
        display = Display(wanted, console)
        display.start(0)
        display.round_started(0, 0.0, 0)
        display.evaluated({"eval_validation_loss": 2.0, "eval_validation_accuracy": 0.5, "eval_validation_samples": 9})
        display.evaluated(probes)
        display.evaluated({"eval_loss": 2.0})
        display.round_finished(probes)
        lines = [line.partition(" · sparsity 0.00% · ")[2] for line in output.getvalue().splitlines()[1:]]
        both = "knn_accuracy 0.5000 · linear_accuracy 0.2500"
        assert lines == ["validation_accuracy 0.5000", both, "loss 2.0000", f"trained in 0:00:00 · {both}"]


def test_the_table_shows_the_other_metrics_too_and_fits():
    console, output = plain()
    metrics = {"knn_accuracy": 0.5, "linear_accuracy": 0.25, "loss": 1.0, "runtime": 9.0, "epoch": 1.0}
    row = {"round": 18, "sparsity": 0.982, "kept": 23_445_504, "steps": 50_000, "seconds": 86_400.0}
    console.print(results_table([{**row, "metrics": metrics}, row], "knn_accuracy"))
    lines = output.getvalue().splitlines()
    assert any("0.5000 │ 0.2500" in line.replace("   ", "").replace("  ", " ") for line in lines)
    assert all(len(line) <= 80 and len(line) == len(lines[0]) for line in lines)


class ClosedOutput(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError("closed")


def test_closed_output_does_not_stop_the_work_and_is_told_once(caplog, monkeypatch):
    monkeypatch.setattr(Console, "on_broken_pipe", lambda self: (_ for _ in ()).throw(SystemExit(1)))
    clock = Clock()
    display = Display("accuracy", Console(file=ClosedOutput(), force_terminal=False), clock)
    run_rounds(display, clock, rounds=2, steps=10, seconds_a_step=60)
    assert [record.message for record in caplog.records] == ["cannot show progress any more, the training goes on: 1"]


def test_table_shows_each_round_in_80_columns():
    console, output = plain()
    rows = [
        {
            "round": 0,
            "sparsity": 0.0,
            "metrics": {"eval_accuracy": 0.5},
            "steps": 10,
            "seconds": 1.0,
            "kept": 10,
        },
        {
            "round": 1,
            "sparsity": 0.9,
            "metrics": {"accuracy": numpy.float32(0.25)},
            "steps": 84_375,
            "seconds": 86_400.04,
            "kept": 85_524_480,
        },
        {"sparsity": 0.95},
    ]
    console.print(results_table(rows, "eval_accuracy"))
    lines = output.getvalue().splitlines()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert cells == [
        ["0", "0.00%", "10", "0.5000", "10", "1.0"],
        ["1", "90.00%", "85,524,480", "0.2500", "84375", "86400.0"],
        ["–", "95.00%", "–", "–", "–", "–"],
    ]
    header = next(line for line in lines if "sparsity" in line)
    assert [word.strip() for word in header.strip("┃").split("┃")] == [
        "round",
        "sparsity",
        "remaining weights",
        "accuracy",
        "steps",
        "seconds",
    ]
    assert all(len(line) <= 80 for line in lines)


def test_trainer_feeds_the_display_in_place_of_its_own_bars(tmp_path, capsys):
    from transformers import Trainer, TrainingArguments

    from hf_tickets.cli.progress_callback import show_progress

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = torch.nn.Linear(2, 2)

        def forward(self, x, labels):
            return {"loss": torch.nn.functional.cross_entropy(self.linear(x), labels)}

    data = [{"x": torch.randn(2), "labels": 0} for _ in range(8)]
    for disable_tqdm in (False, True):
        arguments = TrainingArguments(
            str(tmp_path),
            per_device_train_batch_size=4,
            num_train_epochs=2,
            logging_steps=1,
            eval_strategy="epoch",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=disable_tqdm,
        )
        trainer = Trainer(Model(), arguments, train_dataset=data, eval_dataset=data)
        console, output = plain()
        display = Display("loss", console)
        show_progress(trainer, display, current_round=lambda: (2, 0.36))
        capsys.readouterr()
        display.start(5)
        trainer.train()
        display.finish()
        lines = output.getvalue().splitlines()
        assert lines[0] == "round 2 of 5 · sparsity 36.00% · 4 steps"
        assert sum(line.startswith("round 2 of 5 · sparsity 36.00% · loss ") for line in lines) == 2
        assert lines[-1].startswith("round 2 of 5 · sparsity 36.00% · trained in 0:00:0")
        captured = capsys.readouterr()
        assert "loss" not in captured.out
        assert "it/s" not in captured.err
