"""Which cells a study takes: what is the same is one cell."""

from dataclasses import asdict, replace
from typing import Any

from hf_tickets.pruning.config import PruningConfig
from hf_tickets.pruning.schedules import sparsity_schedule
from hf_tickets.studies.plan import Measurement, Plan
from hf_tickets.studies.study import Source, Study, Training, check_study
from hf_tickets.studies.study_cell import StudyCell
from hf_tickets.trainer.rewind import RewindConfig

# Controls that depend on the base model, the scope and the sparsity, but not on the ticket: sources share them.
OF_BASE = ("random", "oneshot")


def make_plan(study: Study) -> Plan:
    """Return the cells of a study, in an order in which they can run.

    Raises:
        RecipeError: The study's recipes disagree; see `check_study`.
    """
    check_study(study)
    planner = _Planner(study)
    for name in study.sources:
        for seed in study.config.search_seeds:
            planner.add_search(name, seed)
    if "dense" in study.config.controls:
        for source, target in study.pairs():
            for seed in study.config.seeds:
                planner.add_dense(source, target, seed)
    for source, target in study.pairs():
        for control in (name for name in study.config.controls if name != "dense"):
            for wanted, round in study.wanted(source, control):
                for seed in study.config.seeds:
                    planner.add_training(source, target, control, wanted, round, seed)
    return planner.plan


class _Planner:
    def __init__(self, study: Study) -> None:
        self.study = study
        self.plan = Plan(_settings(study))
        self._searches: dict[tuple[str, int], StudyCell] = {}
        self._dense: set[tuple[str | None, str, int]] = set()

    def add_search(self, name: str, seed: int) -> None:
        cell = self._search(name, seed)
        self._add(cell)
        for index, sparsity in enumerate((0.0, *sparsity_schedule(self.study.sources[name].pruning))):
            control = "ticket" if index else "dense"
            self._measure("search", name, None, control, sparsity, None, seed, seed, cell.key, index)

    def add_dense(self, source: str, target: str, seed: int) -> None:
        named = None if self.study.one_base() else source
        if (named, target, seed) in self._dense:
            return
        self._dense.add((named, target, seed))
        cell = self._training(source, target, f"{target}-dense-seed{seed}", seed, control="dense")
        searches = [self._search(name, seed) for name in self.study.sources if seed in self.study.config.search_seeds]
        found = next((search for search in searches if _same_training(search, cell)), None)
        key, round = (self._add(cell), None) if found is None else (found.key, 0)
        self._measure("training", named, target, "dense", 0.0, 0.0, seed, None, key, round)

    def add_training(self, source: str, target: str, control: str, wanted: float, round: int, seed: int) -> None:
        seeds = self.study.config.search_seeds
        search_seed = seed if seed in seeds else seeds[0]
        search = self._search(source, search_seed)
        label = f"{source}-to-{target}-{control}"
        if control in OF_BASE:
            search, label = self._first_alike(source, round), f"{target}-{control}"
        sparsity = sparsity_schedule(self.study.sources[source].pruning)[round - 1]
        cell = self._training(
            source, target, f"{label}-{sparsity:.4f}-seed{seed}", seed, control, sparsity, {"search": search.key}
        )
        in_search = control == "ticket" and _same_training(search, cell)
        key, at = (search.key, round) if in_search else (self._add(cell), None)
        self._measure("training", source, target, control, sparsity, wanted, seed, search_seed, key, at)

    def _search(self, name: str, seed: int) -> StudyCell:
        if (name, seed) not in self._searches:
            source = self.study.sources[name]
            self._searches[name, seed] = StudyCell(
                kind="find",
                label=f"find-{name}-seed{seed}",
                **_seeded(source, seed),
                pruning=source.pruning.to_dict(),
                rewind=source.rewind.to_dict(),
                needs=self._base(name),
            )
        return self._searches[name, seed]

    def _training(
        self,
        source: str,
        target: str,
        label: str,
        seed: int,
        control: str,
        sparsity: float = 0.0,
        needs: dict[str, str] | None = None,
    ) -> StudyCell:
        found_on = self.study.sources[source].task
        task = replace(
            self.study.targets[target].task,
            model=found_on.model,
            model_revision=found_on.model_revision,
            pretrained=found_on.pretrained,
        )
        of_target = replace(self.study.targets[target], task=task)
        needs = {**self._base(source), **(needs or {})}
        return StudyCell("train", label, **_seeded(of_target, seed), control=control, sparsity=sparsity, needs=needs)

    def _base(self, name: str) -> dict[str, str]:
        base = self.study.base_of(name)
        if not isinstance(base, Training):
            return {}
        label = "base" if self.study.one_base() else f"base-{name}"
        return {"base": self._add(StudyCell("base", label, vars(base.task), base.training))}

    def _first_alike(self, source: str, round: int) -> StudyCell:
        """Return the search of the first source with the same weights in scope, and this round's sparsity."""

        def weights(name: str) -> tuple[Any, ...]:
            pruning, family = self.study.sources[name].pruning, self.study.sources[name].task.family
            rungs = sparsity_schedule(pruning)
            rung = rungs[round - 1] if round <= len(rungs) else None
            scope = (family, pruning.scope, pruning.target_modules, pruning.exclude_modules)  # a head may lack a pooler
            return self.study.base_of(name), scope, rung

        first = next(name for name in self.study.sources if weights(name) == weights(source))
        return self._search(first, self.study.config.search_seeds[0])

    def _add(self, cell: StudyCell) -> str:
        self.plan.cells.setdefault(cell.key, cell)
        return cell.key

    def _measure(self, *values: Any) -> None:
        self.plan.measurements.append(Measurement(*values))


def _seeded(training: Training, seed: int) -> dict[str, Any]:
    """Return task and training with their seeds: that of the order and of dropout, and that of new weights."""
    return {"task": {**vars(training.task), "task_seed": seed}, "training": {**training.training, "seed": seed}}


def _same_training(search: StudyCell, training: StudyCell) -> bool:
    """Whether a round of the search is that very training, to the bit: from θ0, everything rewound, to its end."""
    pruning = PruningConfig(**(search.pruning or {}))
    if pruning.gradual or pruning.early_bird_distance is not None:
        return False
    alike = replace(search, kind="train", label="", pruning=None, rewind=None)
    other = replace(training, label="", control=None, sparsity=0.0, needs={**training.needs})
    other.needs.pop("search", None)
    return search.rewind == RewindConfig().to_dict() and alike.key == other.key


def _settings(study: Study) -> dict[str, Any]:
    return {
        "description": study.description,
        **asdict(study.config),
        "sources": {name: _described(source) for name, source in study.sources.items()},
        "targets": {name: _described(target) for name, target in study.targets.items()},
    }


def _described(training: Training) -> dict[str, Any]:
    task = training.task
    described: dict[str, Any] = {
        "recipe": training.recipe,
        "family": task.family,
        "task": task.task,
        "model": task.model,
    }
    if isinstance(training, Source):
        described["sparsities"] = list(sparsity_schedule(training.pruning))
        described["rewind"] = training.rewind.to_dict()
    return {**described, "dataset": task.dataset}
