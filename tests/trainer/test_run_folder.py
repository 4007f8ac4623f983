"""The run folder: nothing done twice, nothing changed by mistake, and only more rounds are allowed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import Crash, Snapshots, arguments, bert, different, mask_of, outcome, search, sentences, snapshot
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_tickets import PruningConfig, RewindConfig, Ticket, TicketTrainer
from hf_tickets.errors import PruningError, RunFolderError
from hf_tickets.trainer.run_folder import RunFolder

COMMON: dict[str, Any] = {"weight_decay": 0.1, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}


def stamps(folder: Path) -> dict[str, tuple[int, int, int]]:
    """What tells that a file or folder was touched."""
    stats = {str(path): path.stat() for path in folder.rglob("*")}
    return {path: (stat.st_mtime_ns, stat.st_ino, stat.st_size) for path, stat in stats.items()}


class NoSteps(TicketTrainer):
    """A trainer that may not train."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        raise AssertionError("a finished run trains again")


def test_a_finished_run_does_nothing_when_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {**COMMON, "eval_dataset": sentences(8, 40)}
    first = search(tmp_path, **changes)
    output = first.train()
    before = stamps(tmp_path)
    monkeypatch.setattr(TicketTrainer, "training_step", NoSteps.training_step)
    second = search(tmp_path, **changes)
    again = second.train()
    assert stamps(tmp_path) == before
    assert (again.global_step, again.training_loss, again.metrics) == (
        output.global_step,
        output.training_loss,
        output.metrics,
    )
    assert second.history == first.history
    assert [t.mask for t in second.tickets] == [t.mask for t in first.tickets]
    assert different(snapshot(second.model), snapshot(first.model)) == []


WATCHED = {"metric_for_best_model": "loss", "eval_strategy": "epoch", "eval_dataset": sentences(4)}
CHANGES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "learning rate": ({"learning_rate": 2e-2}, ["learning_rate", "0.01", "0.02"]),
    "steps": ({"max_steps": 5}, ["max_steps", "4", "5"]),
    "seed": ({"seed": 4}, ["seed", "3", "4"]),
    "accumulation": ({"gradient_accumulation_steps": 2}, ["gradient_accumulation_steps", "2"]),
    "amount": ({"pruning": PruningConfig(amount=0.3, rounds=2)}, ["amount", "0.4", "0.3"]),
    "criterion": ({"pruning": PruningConfig(amount=0.4, rounds=2, criterion="random")}, ["criterion", "random"]),
    "fewer rounds": ({"pruning": PruningConfig(amount=0.4, rounds=1)}, ["rounds", "2", "1"]),
    "rewinding": ({"rewind": RewindConfig("learning_rate")}, ["rewind", "weights", "learning_rate"]),
    "examples": ({"train_dataset": sentences(20)}, ["examples", "24", "20"]),
    "task": ({"provenance": {"task": {"dataset": "other"}}}, ["task", "other"]),
    "optimizer": ({"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.01})}, ["optimizer", "SGD"]),
    "dropout": ({"model": bert(dropout=0.2)}, ["dropout", "0.1", "0.2"]),
    "patience": ({"callbacks": [EarlyStoppingCallback(2)], **WATCHED}, ["patience", "1", "2"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_recipe_is_refused_with_the_difference(tmp_path: Path, change: str) -> None:
    changes, named = CHANGES[change]
    first = {"callbacks": [EarlyStoppingCallback(1)], **WATCHED} if change == "patience" else {}
    search(tmp_path, **COMMON, **first).train()
    before = stamps(tmp_path)
    trainer = search(tmp_path, **{**COMMON, **changes})
    model = snapshot(trainer.model)
    with pytest.raises(RunFolderError) as refusal:
        trainer.train()
    message = str(refusal.value)
    assert all(word in message for word in named), message
    assert str(tmp_path) in message
    assert "\n" not in message
    assert stamps(tmp_path) == before
    assert different(snapshot(trainer.model), model) == []


def test_what_does_not_bear_on_the_result_may_change(tmp_path: Path) -> None:
    search(tmp_path, **COMMON).train()
    changes = {"logging_steps": 3, "save_steps": 1, "save_total_limit": 2, "per_device_eval_batch_size": 2}
    trainer = search(tmp_path, **{**COMMON, **changes, "dataloader_num_workers": 1, "run_name": "again"})
    trainer.train()
    assert len(trainer.history) == 3


def test_other_base_weights_are_refused(tmp_path: Path) -> None:
    search(tmp_path, **COMMON).train()
    before = stamps(tmp_path)
    with pytest.raises(RunFolderError, match="other weights"):
        search(tmp_path, model=bert(seed=1), **COMMON).train()
    assert stamps(tmp_path) == before


def test_another_head_drawn_at_random_is_not_other_base_weights(tmp_path: Path) -> None:
    """`from_pretrained` draws a new head in each process: the run goes on with the head it began with."""
    whole = search(tmp_path / "whole", **COMMON)
    whole.train()
    extended = PruningConfig(amount=0.4, rounds=1)
    search(tmp_path / "parts", pruning=extended, **COMMON).train()
    model = bert()
    torch.nn.init.normal_(model.classifier.weight)
    search(tmp_path / "parts", model=model, **COMMON).train()
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_theta0_that_was_changed_on_disk_is_refused(tmp_path: Path) -> None:
    search(tmp_path, **COMMON, pruning=PruningConfig(amount=0.4, rounds=1)).train()
    path = tmp_path / "_run" / "theta0.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunFolderError, match="theta0"):
        search(tmp_path, **COMMON).train()


LONGER: dict[str, tuple[PruningConfig, PruningConfig, RewindConfig]] = {
    "remaining": (PruningConfig(amount=0.3, rounds=3), PruningConfig(amount=0.3, rounds=4), RewindConfig()),
    "original": (
        PruningConfig(amount=0.2, amount_of="original", rounds=2),
        PruningConfig(amount=0.2, amount_of="original", rounds=3),
        RewindConfig(rewind_step=3),
    ),
    "list": (
        PruningConfig(sparsities=[0.2, 0.5]),
        PruningConfig(sparsities=[0.2, 0.5, 0.9]),
        RewindConfig("learning_rate"),
    ),
}


@pytest.mark.parametrize(("first", "more", "rewind"), LONGER.values(), ids=LONGER)
def test_more_rounds_equal_a_longer_run(
    tmp_path: Path, first: PruningConfig, more: PruningConfig, rewind: RewindConfig
) -> None:
    search(tmp_path / "whole", pruning=more, rewind=rewind, **COMMON).train()
    search(tmp_path / "extended", pruning=first, rewind=rewind, **COMMON).train()
    snapshots = Snapshots()
    search(tmp_path / "extended", [snapshots], pruning=more, rewind=rewind, **COMMON).train()
    assert len(snapshots.ended) == 1  # only the new round was trained
    assert outcome(tmp_path / "extended") == outcome(tmp_path / "whole")
    config = Ticket.from_pretrained(tmp_path / "extended").config.pruning
    assert (config["rounds"], config["sparsities"]) == (more.rounds, more.sparsities)


def test_one_schedule_over_all_rounds_cannot_be_extended(tmp_path: Path) -> None:
    rewind = RewindConfig("none")
    search(tmp_path, rewind=rewind, **COMMON).train()
    with pytest.raises(RunFolderError, match="none"):
        search(tmp_path, rewind=rewind, pruning=PruningConfig(amount=0.4, rounds=3), **COMMON).train()


def stop_when(monkeypatch: pytest.MonkeyPatch, name: str, when: str) -> None:
    """End the program as a round is recorded as done, before or after its result is written."""
    original = getattr(RunFolder, name)

    def crash(self: RunFolder, *args: Any) -> None:
        if getattr(args[0], "round", None) in (None, 2) and (name != "tidy" or args[0] == 3):
            if when == "after":
                original(self, *args)
            raise Crash
        original(self, *args)

    monkeypatch.setattr(RunFolder, name, crash)


@pytest.mark.parametrize(("name", "when"), [("finish", "before"), ("finish", "after"), ("tidy", "before")])
def test_a_stop_while_the_last_round_is_recorded_loses_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, when: str
) -> None:
    search(tmp_path / "whole", **COMMON).train()
    with monkeypatch.context() as patch:
        stop_when(patch, name, when)
        with pytest.raises(Crash):
            search(tmp_path / "parts", **COMMON).train()
    snapshots = Snapshots()
    search(tmp_path / "parts", [snapshots], **COMMON).train()
    assert len(snapshots.ended) == (1 if (name, when) == ("finish", "before") else 0)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_files_that_a_killed_process_left_are_removed(tmp_path: Path) -> None:
    search(tmp_path / "whole", **COMMON).train()
    search(tmp_path / "parts", pruning=PruningConfig(amount=0.4, rounds=1), **COMMON).train()
    for name in (
        ".theta0.safetensors.x1y2",
        "round-01/.trained.safetensors.abcd",
        "round-02/checkpoint-2/optimizer.pt",
    ):
        path = tmp_path / "parts" / "_run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    search(tmp_path / "parts", **COMMON).train()
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_finished_round_keeps_no_checkpoint_and_one_copy_of_weights(tmp_path: Path) -> None:
    search(tmp_path, **COMMON).train()
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        "_run/lock",
        "_run/masks.safetensors",
        "_run/round-00/result.json",
        "_run/round-01/result.json",
        "_run/round-02/result.json",
        "_run/round-02/trained.safetensors",
        "_run/run.json",
        "_run/theta0.safetensors",
        "ticket.safetensors",
        "ticket_config.json",
    ]


def test_a_damaged_record_is_an_error_of_the_library(tmp_path: Path) -> None:
    search(tmp_path, **COMMON).train()
    record = tmp_path / "_run" / "run.json"
    text = record.read_text()
    for content in (text[: len(text) // 2], json.dumps({**json.loads(text), "version": 99})):
        record.write_text(content)
        with pytest.raises(RunFolderError, match=r"run\.json"):
            search(tmp_path, **COMMON).train()


def test_a_search_does_not_take_a_checkpoint(tmp_path: Path) -> None:
    trainer = search(tmp_path, **COMMON)
    with pytest.raises(RunFolderError):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    trainer.train(resume_from_checkpoint=True)  # as launchers pass it; the run folder decides
    assert len(trainer.history) == 3


def test_a_marker_of_an_earlier_training_does_not_make_a_half_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another training in the same folder overwrites checkpoints in place, and is killed while it does."""

    def trainer(learning_rate: float) -> TicketTrainer:
        args = arguments(tmp_path, **{**COMMON, "learning_rate": learning_rate})
        return TicketTrainer(bert(), args, train_dataset=sentences(), ticket=mask_of(bert()))

    trainer(1e-2).train()
    second = trainer(2e-2)

    def crash(*args: Any) -> None:
        raise Crash

    monkeypatch.setattr(second, "_save_optimizer_and_scheduler", crash)
    with pytest.raises(Crash):
        second.train()
    assert not (tmp_path / "checkpoint-2" / "complete.json").exists()


def test_a_recipe_refused_before_anything_was_trained_may_be_mended(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="rewind_step is 7"):
        search(tmp_path, rewind=RewindConfig(rewind_step=7)).train()
    mended = search(tmp_path, rewind=RewindConfig(rewind_step=4))
    mended.train()
    assert len(mended.history) == 3


def test_a_round_that_stops_before_the_step_to_rewind_to_says_so(tmp_path: Path) -> None:
    class StopsEarly(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = state.global_step == 2

    with pytest.raises(PruningError, match="stopped at step 2, before step 4"):
        search(tmp_path, [StopsEarly()], rewind=RewindConfig(rewind_step=4)).train()


def test_a_second_process_in_the_same_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_tickets.trainer.run_folder._SECONDS_TO_WAIT", 0.1)
    with RunFolder(tmp_path).locked(), pytest.raises(RunFolderError, match="in use by another process"):
        search(tmp_path).train()
    search(tmp_path, max_steps=1).train()
