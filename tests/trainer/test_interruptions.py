"""A search that ends at any event of any round, and the same program started again."""

from pathlib import Path
from typing import Any

import pytest
from tiny import Crash, CrashAt, arguments, bert, outcome, search, sentences, slightly_wrong, snapshot, timeless
from transformers import EarlyStoppingCallback

from hf_tickets import RewindConfig, TicketTrainer
from hf_tickets.tasks.randomness import EpochCallback, SeededDataset

# Three updates an epoch. The learning rate stays up, so that a step too many shows in the weights.
COMMON: dict[str, Any] = {
    "gradient_accumulation_steps": 2,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.1,
    "num_train_epochs": 3,
    "logging_steps": 2,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "steps": {"save_strategy": "steps", "save_steps": 3, "save_total_limit": 1, "max_steps": 8},
    "evaluations by steps": {
        **{"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 3, "max_steps": 7},
        **{"eval_on_start": True},
    },
    "evaluations by epochs": {
        **{"save_strategy": "steps", "save_steps": 3, "eval_strategy": "epoch", "logging_strategy": "epoch"},
        **{"save_total_limit": 1},
    },
    "all by epochs": {"save_strategy": "epoch", "eval_strategy": "epoch", "logging_strategy": "epoch"},
    "best model and early stopping": {
        **{"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2},
        **{"load_best_model_at_end": True, "save_total_limit": 1, "num_train_epochs": 9, "logging_steps": 3},
    },
    "checkpoints without optimizer": {"save_strategy": "steps", "save_steps": 2, "save_only_model": True},
    "no rewinding": {"save_strategy": "steps", "save_steps": 4, "rewind": RewindConfig("none")},
    "head and statistics kept": {
        **{"save_strategy": "steps", "save_steps": 4},
        **{"rewind": RewindConfig(rewind_head=False, rewind_statistics=False)},
    },
    "early rewinding": {"save_strategy": "steps", "save_steps": 4, "rewind": RewindConfig(rewind_step=5)},
    "learning-rate rewinding": {"save_strategy": "steps", "save_steps": 4, "rewind": RewindConfig("learning_rate")},
}
EVENTS = {
    "begin": ("on_train_begin", None, 1),
    "step of round 0": ("on_step_end", 4, 0),
    "step of round 1": ("on_step_end", 5, 1),
    "substep": ("on_substep_end", 6, 2),
    "log": ("on_log", None, 7),
    "evaluation": ("on_evaluate", None, 4),
    "last evaluation of a round": ("on_evaluate", None, 2),
    "save": ("on_save", None, 3),
    "first save": ("on_save", None, 0),
    "end of an epoch": ("on_epoch_end", None, 3),
    "begin of an epoch": ("on_epoch_begin", None, 4),
    "end of round 0": ("on_train_end", None, 0),
    "end of round 1": ("on_train_end", None, 1),
    "end of round 2": ("on_train_end", None, 2),
}


def start(folder: Path, settings: str, *callbacks: Any) -> TicketTrainer:
    """The program: every object made anew, and the search run as far as it goes."""
    changes = {**COMMON, **SETTINGS[settings]}
    if "best model" in settings:
        callbacks = (EarlyStoppingCallback(early_stopping_patience=3), *callbacks)
    data = SeededDataset(sentences(), slightly_wrong, seed=11)
    callbacks = (EpochCallback(data), *callbacks)
    if not any(name == "rewind" for name in changes):
        changes["eval_dataset"] = sentences(12, 40)
    trainer = search(folder, callbacks, train_dataset=data, **changes)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The outcome of a search by these settings, found once."""
    outcomes: dict[str, dict[str, Any]] = {}

    def find(settings: str) -> dict[str, Any]:
        if settings not in outcomes:
            folder = tmp_path_factory.mktemp("uninterrupted")
            start(folder, settings)
            outcomes[settings] = outcome(folder)
        return outcomes[settings]

    return find


# Every moment under the settings that interleave saves, logs and evaluations; where settings differ in one thing
# alone, the moments that bear on it.
MOMENTS: dict[str, tuple[str, ...]] = {
    "steps": ("step of round 0", "substep", "log", "first save", "last evaluation of a round", "end of round 1"),
    "all by epochs": ("evaluation", "save", "begin of an epoch", "end of round 2"),
    "best model and early stopping": ("evaluation", "save", "end of an epoch", "end of round 0", "end of round 1"),
    "checkpoints without optimizer": ("step of round 1", "save"),
    "no rewinding": ("step of round 1", "save", "end of round 1"),
    "head and statistics kept": ("step of round 1", "end of round 1"),
    "early rewinding": ("step of round 0", "step of round 1", "end of round 0"),
    "learning-rate rewinding": ("begin", "step of round 1"),
}
CASES = [(settings, event) for settings in SETTINGS for event in MOMENTS.get(settings, tuple(EVENTS))]


@pytest.mark.parametrize(("settings", "event"), CASES)
def test_an_interrupted_search_ends_like_one_that_was_not(
    tmp_path: Path, uninterrupted: Any, settings: str, event: str
) -> None:
    expected = uninterrupted(settings)
    try:
        start(tmp_path, settings, CrashAt(*EVENTS[event]))
    except Crash:
        pass
    else:
        assert event in ("evaluation", "last evaluation of a round", "save", "first save", "log")  # not in all settings
    start(tmp_path, settings)
    found = outcome(tmp_path)
    for part, value in expected.items():
        assert found[part] == value, part


def test_the_settings_are_what_they_are_for(uninterrupted: Any) -> None:
    steps = {name: [result[3] for result in uninterrupted(name)["rounds"]] for name in SETTINGS}
    assert steps["steps"] == [8, 8, 8]  # in the middle of an epoch
    assert max(steps["best model and early stopping"]) < 27  # it does stop early
    assert any(count > 8 for count in steps["best model and early stopping"])  # and not at once


def test_a_search_interrupted_at_every_save_ends_like_one_that_was_not(tmp_path: Path, uninterrupted: Any) -> None:
    interruptions, done = 0, False
    while not done and interruptions < 20:
        try:
            start(tmp_path, "steps", CrashAt("on_save"))
            done = True
        except Crash:
            interruptions += 1
    assert interruptions == 9  # saves at steps 3, 6 and 8 of three rounds
    assert outcome(tmp_path) == uninterrupted("steps")


def test_the_same_trainer_goes_on_after_an_error(tmp_path: Path, uninterrupted: Any) -> None:
    """As in a notebook: the error is mended and the cell run again."""
    data = SeededDataset(sentences(), slightly_wrong, seed=11)
    changes = {**COMMON, **SETTINGS["steps"], "train_dataset": data, "eval_dataset": sentences(12, 40)}
    trainer = search(tmp_path, [EpochCallback(data), CrashAt("on_step_end", 5, 1)], **changes)
    with pytest.raises(Crash):
        trainer.train()
    trainer.callback_handler.callbacks = [c for c in trainer.callback_handler.callbacks if not isinstance(c, CrashAt)]
    trainer.train()
    assert outcome(tmp_path) == uninterrupted("steps")


def test_training_a_ticket_resumes_to_the_bit(tmp_path: Path) -> None:
    ticket = search(tmp_path / "search", max_steps=2)
    ticket.train()

    def train(name: str, resume: bool, *callbacks: Any) -> TicketTrainer:
        data = SeededDataset(sentences(), slightly_wrong, seed=11)
        args = arguments(tmp_path / name, **COMMON, save_strategy="steps", save_steps=3, max_steps=8)
        callbacks = [EpochCallback(data), *callbacks]
        trainer = TicketTrainer(bert(), args, train_dataset=data, ticket=ticket.ticket, callbacks=callbacks)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = train("whole", False)
    for index, event in enumerate([("on_step_end", 5), ("on_train_end",), ("on_epoch_end", 6)]):
        with pytest.raises(Crash):
            train(f"in parts {index}", False, CrashAt(*event))
        resumed = train(f"in parts {index}", True)
        assert timeless(resumed.state.log_history) == timeless(whole.state.log_history)
        weights = snapshot(whole.model)
        assert all(bool((value == weights[name]).all()) for name, value in snapshot(resumed.model).items())
