"""What a study is made of, checked before anything runs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from hf_tickets.errors import RecipeError
from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.schedules import sparsity_schedule
from hf_tickets.studies.config import StudyConfig
from hf_tickets.studies.controls import check_controls
from hf_tickets.studies.search import rung_near
from hf_tickets.tasks.config import TaskConfig
from hf_tickets.trainer.rewind import RewindConfig


@dataclass(frozen=True)
class Training:
    """One training.

    Args:
        task: Model and data.
        training: Keyword arguments of TrainingArguments, without output_dir.
        recipe: The recipe it comes from, for messages and reports.
    """

    task: TaskConfig
    training: dict[str, Any]
    recipe: str = ""


@dataclass(frozen=True)
class Source(Training):
    """A task that tickets are found on.

    Args:
        pruning: How masks are chosen.
        rewind: What is rewound.
        pretrain: The training whose model is θ0; None where the task's model is.
        own_model: Whether the study itself says which model this source starts from.
    """

    pruning: PruningConfig = field(default_factory=PruningConfig)
    rewind: RewindConfig = field(default_factory=RewindConfig)
    pretrain: Training | None = None
    own_model: bool = False


@dataclass(frozen=True)
class Study:
    """Sources, targets, and the grid over them.

    Args:
        config: The grid.
        sources: Name → task to find tickets on.
        targets: Name → task to train them on.
        base: The training whose model is θ0 of every search; None: each source's own.
        description: What the study is for.
    """

    config: StudyConfig
    sources: dict[str, Source]
    targets: dict[str, Training]
    base: Training | None = None
    description: str = ""

    def pairs(self) -> list[tuple[str, str]]:
        """Return the names of source and target of each pair, target by target."""
        every = self.config.pairs == "all"
        return [(source, target) for target in self.targets for source in self.sources if every or source == target]

    def base_of(self, name: str) -> Training | tuple[Any, ...]:
        """Return what a source starts from: a training, or a model as it was published."""
        source = self.sources[name]
        task = source.task
        return self.base or source.pretrain or (task.model, task.model_revision, task.pretrained)

    def one_base(self) -> bool:
        """Whether all sources start from the same model."""
        bases = [self.base_of(name) for name in self.sources]
        return all(base == bases[0] for base in bases)

    def wanted(self, name: str, control: str = "ticket") -> list[tuple[float, int]]:
        """Return each sparsity to train a source's tickets or a control at, and the number of the round of each."""
        pruning = self.sources[name].pruning
        sparsities = self.config.sparsities
        if control != "ticket" and self.config.control_sparsities is not None:
            sparsities = self.config.control_sparsities
        if sparsities is None:
            return [(rung, index) for index, rung in enumerate(sparsity_schedule(pruning), start=1)]
        return [(value, rung_near(pruning, value, f"sparsities: {name}")) for value in sparsities]


def check_study(study: Study) -> None:
    """Refuse a study whose recipes disagree.

    Raises:
        RecipeError: Sources of another base model, a sparsity that no round reaches, an unknown control, and so on.
    """
    if not study.sources:
        raise RecipeError("sources: name at least one, such as `cola: {recipe: glue.yaml, task: cola}`")
    check_controls(study.config.controls)
    _check_bases(study)
    for name in study.sources:
        study.wanted(name)
        study.wanted(name, "random")
    if study.config.pairs == "same" and set(study.targets) - set(study.sources):
        names = ", ".join(sorted(set(study.targets) - set(study.sources)))
        raise RecipeError(f"targets: no source is named {names}, and pairs: same needs one of each target's name")
    for name, training in _trainings(study):
        if training.training.get("push_to_hub"):
            raise RecipeError(f"{name}: push_to_hub would push every cell of the study; push its tickets afterwards")


def _check_bases(study: Study) -> None:
    for name, source in study.sources.items():
        if study.base is not None and source.pretrain is not None:
            raise RecipeError(f"sources.{name}: its recipe has pretrain:, and the study's base: is θ0 of all; drop one")
        if study.base is not None and source.task.model != study.base.task.model:
            raise RecipeError(
                f"sources.{name}: its model is {source.task.model}, but the study's base is {study.base.task.model}"
            )
    if study.one_base():
        model = next(iter(study.sources.values())).task.model
        for name, target in study.targets.items():
            if target.task.model != model:
                raise RecipeError(
                    f"targets.{name}: its model is {target.task.model}, but the tickets are of {model}; "
                    f"write `recipes: {{model: {model}}}`"
                )
    else:
        vague = [name for name, source in study.sources.items() if source.pretrain is None and not source.own_model]
        if vague:
            models = ", ".join(f"{name}: {source.task.model}" for name, source in study.sources.items())
            raise RecipeError(
                f"sources start from different models ({models}); if that is meant, say `model:` for {', '.join(vague)}"
            )
    for source_name, _ in study.pairs():
        source = study.sources[source_name]
        if study.base is None and source.pretrain is None and not source.task.pretrained:
            raise RecipeError(
                f"sources.{source_name}: tickets of random weights (pretrained: false) fit no other training; "
                "add a pretrain: section to the recipe, or base: to the study"
            )


def _trainings(study: Study) -> Iterable[tuple[str, Training]]:
    yield from ((f"sources.{name}", source) for name, source in study.sources.items())
    yield from ((f"targets.{name}", target) for name, target in study.targets.items())
    if study.base is not None:
        yield "base", study.base
