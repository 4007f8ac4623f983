"""Plans: which cells a study takes, what makes two cells one, and what is refused before anything runs."""

from pathlib import Path

import pytest
from tiny_study import RECIPE, STUDY, write

from hf_tickets.cli.main import main
from hf_tickets.cli.study_recipe import load_study
from hf_tickets.studies.plan import Plan
from hf_tickets.studies.planner import make_plan

RECIPES = Path(__file__).parents[2] / "recipes"


def plan(folder: Path, study: str = STUDY, **overrides: str) -> Plan:
    write(folder, study)
    return make_plan(load_study(folder / "study.yaml", overrides))


def labels(plan: Plan) -> set[str]:
    return {cell.label for cell in plan.cells.values()}


def test_what_is_the_same_training_is_one_cell(tmp_path: Path) -> None:
    """One base for both sources, a random mask for both, and the search's rounds for its own task."""
    planned = plan(tmp_path)
    assert labels(planned) == {
        "base",
        "find-low-seed1",
        "find-high-seed1",
        "low-random-0.5000-seed1",
        "high-random-0.5000-seed1",
        "low-to-high-ticket-0.5000-seed1",
        "high-to-low-ticket-0.5000-seed1",
    }
    rows = [(m.kind, m.source, m.target, m.control) for m in planned.measurements]
    assert len(rows) == len(set(rows)) == 4 + 2 + 4 + 4  # rounds, dense, ticket and random for each pair


@pytest.mark.parametrize("cheaper", [{"recipes.gradual": "true"}, {"recipes.early_bird_distance": "0.1"}])
def test_a_round_that_is_no_whole_training_stands_for_none(tmp_path: Path, cheaper: dict[str, str]) -> None:
    assert {"low-to-low-ticket-0.5000-seed1", "high-to-high-ticket-0.5000-seed1"} <= labels(plan(tmp_path, **cheaper))


def test_a_cell_stands_after_what_it_needs(tmp_path: Path) -> None:
    seen: set[str] = set()
    for cell in plan(tmp_path, search_seeds="[1, 2]").cells.values():
        assert seen.issuperset(cell.needs.values())
        seen.add(cell.key)


def test_a_plan_survives_json(tmp_path: Path) -> None:
    planned = plan(tmp_path)
    again = Plan.from_dict(planned.to_dict())
    assert again.to_dict() == planned.to_dict()
    assert list(again.cells) == list(planned.cells)


def test_a_seed_with_a_search_of_its_own_takes_its_ticket(tmp_path: Path) -> None:
    planned = plan(tmp_path, seeds="[1, 2, 3]", search_seeds="[1, 2]")
    across = {
        m.seed: m.search_seed
        for m in planned.measurements
        if (m.source, m.target, m.control) == ("low", "high", "ticket")
    }
    assert across == {1: 1, 2: 2, 3: 1}


@pytest.mark.parametrize(
    ("name", "value"),
    [("recipes.logging_steps", "1"), ("recipes.report_to", "tensorboard"), ("recipes.max_length", "128")],
)
def test_what_does_not_bear_on_results_changes_no_cell(tmp_path: Path, name: str, value: str) -> None:
    assert set(plan(tmp_path).cells) == set(plan(tmp_path, **{name: value}).cells)


@pytest.mark.parametrize(
    ("name", "value", "changed"),
    [
        ("targets.high.max_steps", "5", {"high-random-0.5000-seed1", "low-to-high-ticket-0.5000-seed1"}),
        ("seeds", "[1, 2]", set()),
        ("sources.high.pruning_seed", "1", {"find-high-seed1", "high-to-low-ticket-0.5000-seed1"}),
    ],
)
def test_only_what_changed_is_another_cell(tmp_path: Path, name: str, value: str, changed: set[str]) -> None:
    before, after = plan(tmp_path), plan(tmp_path, **{name: value})
    assert {before.cells[key].label for key in before.cells if key not in after.cells} == changed


def test_rewound_later_no_round_stands_for_a_training(tmp_path: Path) -> None:
    planned = plan(tmp_path, **{"sources.low.rewind_step": "2"})
    own = [m for m in planned.measurements if m.kind == "training" and (m.source, m.control) == ("low", "ticket")]
    assert all(m.round is None for m in own)


def test_the_base_of_a_study_is_the_start_of_all(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(RECIPE.partition("pretrain:")[0])
    study = STUDY.replace("recipe.yaml", "plain.yaml").replace(", pretrain: {labels: [0, 1, 2]}", "")
    planned = plan(tmp_path, f"{study}\nbase: {{recipe: plain.yaml, labels: [6, 7], max_steps: 1}}")
    (base,) = (cell.key for cell in planned.cells.values() if cell.kind == "base")
    assert all(cell.needs["base"] == base for cell in planned.cells.values() if cell.kind != "base")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("sparsities: [0.5]", "sparsities: [0.7]"), "sparsities: low: no round reaches sparsity 0.7"),
        (("controls: [ticket,", "controls: [tickets,"), "not 'tickets'"),
        (("targets:\n  low:", "targets:\n  lower:"), "targets: no source is named lower"),
        (("  high: {recipe: recipe.yaml, labels: [3, 4, 5]}", "  low: {recipe: recipe.yaml}"), "low is given twice"),
        (("seeds: [1]", "seeds: [1, 1]"), "seeds: 1 is given twice"),
        (("seeds: [1]", "seed: [1]"), "seed: unknown key; nearest: seeds"),
        (("  low: {recipe: recipe.yaml}", "  low: {recipe: recipes.yaml}"), "no such recipe; did you mean"),
        (("  low: {recipe: recipe.yaml}", "  low: {labels: [1]}"), "sources.low: recipe: is missing"),
        (("  low: {recipe: recipe.yaml}", "  low: {recipe: recipe.yaml, max_step: 1}"), "nearest: max_steps"),
        (("  low: {recipe: recipe.yaml}", "  low: {recipe: recipe.yaml, family: image}"), "unknown task family"),
        (("output_dir: study", ""), "output_dir is missing"),
        (("sources:\n", "base: {recipe: recipe.yaml}\nsources:\n"), "has pretrain:, and the study's base: is θ0"),
        (("  high: {recipe: recipe.yaml, labels: [3, 4, 5]}", "  high: {recipe: recipe.yaml, model: resnet10t}"),
         "targets.high: its model is resnet10t, but the tickets are of test_resnet"),
        (("sources:\n", "recipes: {push_to_hub: true}\nsources:\n"), "push_to_hub would push every cell"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_before_anything_runs(
    tmp_path: Path, change: tuple[str, str], message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert change[0] in STUDY
    write(tmp_path, STUDY.replace(*change, 1) + ("pairs: same\n" if "lower" in message else ""))
    monkeypatch.chdir(tmp_path)
    assert main(["study", "run", "study.yaml"]) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "study").exists()


def test_sources_of_different_models_must_say_so(tmp_path: Path) -> None:
    from hf_tickets.errors import RecipeError

    (tmp_path / "other.yaml").write_text(RECIPE.partition("pretrain:")[0].replace("test_resnet", "resnet10t"))
    study = STUDY.replace("low: {recipe: recipe.yaml}", "low: {recipe: other.yaml, pretrained: true}", 1)
    with pytest.raises(RecipeError, match="start from different models"):
        plan(tmp_path, study)
    said = study.replace("pretrained: true", "pretrained: true, model: resnet10t")
    dense = [m for m in plan(tmp_path, said).measurements if m.kind == "training" and m.control == "dense"]
    assert {(m.source, m.target) for m in dense} == {(a, b) for a in ("low", "high") for b in ("low", "high")}
    assert len({m.cell for m in dense}) == 4


SHIPPED = sorted(path for path in RECIPES.rglob("*.yaml") if "\nsources:" in path.read_text())


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_shipped_study_can_be_planned(path: Path) -> None:
    study = load_study(path, {})
    planned = make_plan(study)
    assert study.description
    assert study.config.output_dir.startswith("runs/")
    assert {m.source for m in planned.measurements if m.kind == "search"} == set(study.sources)
    assert {m.target for m in planned.measurements if m.kind == "training"} == set(study.targets)
    assert {m.control for m in planned.measurements if m.kind == "training"} <= set(study.config.controls)


def test_the_papers_studies_are_shipped_with_small_ones() -> None:
    names = {f"{path.parent.name}/{path.stem}" for path in SHIPPED}
    bert, vision = ("table2", "figure2", "rewinding", "overlap"), ("figure3", "dense_tasks", "mask_similarity")
    assert names >= {f"bert/{size}{name}" for name in bert for size in ("", "small_")}
    assert names >= {f"vision/{size}{name}" for name in (*vision, "perturbation") for size in ("", "small_")}
    assert names >= {"vision/resnet152", "vision/small_resnets", "recipes/small_study"}


def test_figure_2_has_the_papers_cells() -> None:
    """11 tickets on 11 tasks over 3 seeds, of which a search's round is one; the dense models of round 0 likewise."""
    planned = make_plan(load_study(RECIPES / "bert" / "figure2.yaml", {}))
    rows = [m for m in planned.measurements if m.kind == "training"]
    assert len([m for m in rows if m.control == "ticket"]) == 11 * 11 * 3
    assert len([m for m in rows if m.control == "dense"]) == 11 * 3
    assert len([cell for cell in planned.cells.values() if cell.kind == "find"]) == 11
    own = [m for m in rows if m.source == m.target and m.control == "ticket" and m.seed == 1]
    assert {m.source for m in own if m.round == 7} == {m.source for m in own} - {"mlm"}  # it is trained longer there


def test_a_study_and_a_recipe_that_are_taken_for_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, taken, meant in (("find", "small_study.yaml", "study run"), ("study run", "quickstart.yaml", "find")):
        path = str(RECIPES / taken)
        assert main([*command.split(), path, "--output_dir", str(tmp_path / "run")]) == 2
        assert f"give `hf-tickets {meant} {path}`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
