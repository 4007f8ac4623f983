"""What a study recipe says of the grid and of the machine."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_tickets.errors import RecipeError

PAIRS = ("all", "same")


def _help(text: str, **more: Any) -> dict[str, Any]:
    return {"help": text, **more}


@dataclass(frozen=True)
class StudyConfig:
    """The grid of a study. Every field is a key of the study recipe; its help documents it.

    Raises:
        RecipeError: A value is out of range, or a list names something twice.
    """

    output_dir: str = field(metadata=_help("Folder of the study: cells that exist there are not run again."))
    pairs: str = field(
        default="all",
        metadata=_help("Which tickets train on which targets: all, or same: only those of one name.", choices=PAIRS),
    )
    sparsities: list[float] | None = field(
        default=None, metadata=_help("Sparsities to train at, each a round of every search. Default: all rounds.")
    )
    control_sparsities: list[float] | None = field(
        default=None, metadata=_help("Those of the sparsities to train controls at, the ticket aside. Default: all.")
    )
    controls: list[str] = field(
        default_factory=lambda: ["ticket", "random", "dense"], metadata=_help("Masks and weights to train and compare.")
    )
    seeds: list[int] = field(
        default_factory=lambda: [1, 2, 3], metadata=_help("Seeds of trainings on the targets: order, head, dropout.")
    )
    search_seeds: list[int] = field(
        default_factory=lambda: [1],
        metadata=_help("Seeds of searches. A training's seed that is among them takes its ticket, others the first's."),
    )
    margin: float = field(
        default=0.01, metadata=_help("Margin of the equivalence test, in the unit of the metric as it is logged.")
    )
    keep_models: bool = field(
        default=False, metadata=_help("Keep the weights of every training on a target, not only its results.")
    )
    cpus_per_cell: int = field(default=1, metadata=_help("CPU cores, and threads, of a cell on Ray."))
    gpus_per_cell: float = field(default=0.0, metadata=_help("GPUs of a cell on Ray; a share such as 0.5 too."))

    def __post_init__(self) -> None:
        if self.pairs not in PAIRS:
            raise RecipeError(f"pairs must be one of {', '.join(PAIRS)}, not {self.pairs!r}")
        for name in ("controls", "seeds", "search_seeds", "sparsities", "control_sparsities"):
            _check_list(name, getattr(self, name))
        for name in ("seeds", "search_seeds"):
            if any(not 0 <= seed < 2**32 for seed in getattr(self, name)):
                raise RecipeError(f"{name}: {getattr(self, name)} are not seeds of 0 or more")
        if any(not 0 < sparsity < 1 for sparsity in self.sparsities or ()):
            raise RecipeError(f"sparsities: {self.sparsities} do not lie between 0 and 1")
        odd = sorted(set(self.control_sparsities or ()) - set(self.sparsities or self.control_sparsities or ()))
        if odd:
            raise RecipeError(f"control_sparsities: {odd[0]:g} is not among the sparsities")
        if self.margin <= 0:
            raise RecipeError(f"margin: {self.margin} is not above 0")
        if self.cpus_per_cell < 1 or self.gpus_per_cell < 0:
            raise RecipeError("a cell needs 1 CPU or more, and 0 GPUs or more")


def _check_list(name: str, values: Sequence[Any] | None) -> None:
    if values is None:
        return
    if not values:
        raise RecipeError(f"{name}: the list is empty; leave the key out for its default")
    twice = [value for value in values if list(values).count(value) > 1]
    if twice:
        raise RecipeError(f"{name}: {twice[0]} is given twice")
