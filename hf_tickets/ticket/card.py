"""The card of a ticket: `README.md` with metadata that the Hub reads, and the ticket's pictures."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData, constants

from hf_tickets.analysis.accuracy import save_accuracy_figure
from hf_tickets.analysis.layers import save_layer_figure
from hf_tickets.pruning.controls import MASK_CONTROLS, WEIGHT_CONTROLS
from hf_tickets.ticket.config import TicketConfig
from hf_tickets.ticket.results import deviation_of, matching, metric_name, result_names, value_of
from hf_tickets.ticket.tags import rung_tags

if TYPE_CHECKING:
    from hf_tickets.ticket.ticket import Ticket

CARD_FILE = "README.md"
ACCURACY_FIGURE, LAYERS_FIGURE = "accuracy.png", "layers.png"
TAGS = ("lottery-ticket", "pruning", "sparsity")

_NOT_ON_HUB = ("sklearn/digits",)  # data that ships inside a library
_TEMPLATE = Path(__file__).with_name("card.md")
_PIPELINES = {
    "text-classification": ("text-classification", "SequenceClassification"),
    "image-classification": ("image-classification", "ImageClassification"),
    "masked-language-modeling": ("fill-mask", "MaskedLM"),
    "causal-language-modeling": ("text-generation", "CausalLM"),
    "question-answering": ("question-answering", "QuestionAnswering"),
    "token-classification": ("token-classification", "TokenClassification"),
}


def save_card(
    ticket: "Ticket", folder: Path, repo_id: str, tags: Sequence[str] = (), with_figures: bool = True
) -> None:
    """Write the card of a ticket and its pictures.

    Args:
        ticket: A ticket that may be published.
        folder: Where the ticket lies.
        repo_id: Where it will lie on the Hub.
        tags: More tags.
        with_figures: Whether to draw the pictures.
    """
    figures = list(_draw(ticket, folder)) if with_figures else []
    make_card(ticket, repo_id, tags, figures).save(folder / CARD_FILE)


def _draw(ticket: "Ticket", folder: Path) -> Iterator[dict[str, str]]:
    """Draw the ticket's pictures; yield file and caption of each."""
    ticket = ticket.at(ticket.default_sparsity)
    config, metric = ticket.config, metric_name(ticket.config)
    measured = [rung for rung in config.rungs if isinstance(rung.get("sparsity"), float)]
    points = [(rung["sparsity"], value_of(rung, metric)) for rung in measured]
    known = [(sparsity, value) for sparsity, value in points if value is not None]
    if metric is not None and len(known) > 1:
        save_accuracy_figure(folder / ACCURACY_FIGURE, {"ticket": known}, metric, value_of(config.dense, metric))
        yield {"file": ACCURACY_FIGURE, "caption": "result against remaining weights"}
    save_layer_figure(folder / LAYERS_FIGURE, ticket.mask.sparsity_by_layer, ticket.sparsity)
    yield {"file": LAYERS_FIGURE, "caption": f"remaining weights by layer at {_percent(ticket.sparsity)}"}


def make_card(
    ticket: "Ticket", repo_id: str, tags: Sequence[str] = (), figures: Sequence[dict[str, str]] = ()
) -> ModelCard:
    """Return the card of a ticket; text that comes from its config is escaped.

    It speaks of the rung that is taken where none is named, whichever is selected here.

    Args:
        ticket: A ticket that may be published.
        repo_id: Where it will lie on the Hub.
        tags: More tags.
        figures: File and caption of each picture.
    """
    ticket = ticket.at(ticket.default_sparsity)
    config, metric, mask = ticket.config, metric_name(ticket.config), ticket.mask
    found = _found(config)
    text = yaml.safe_dump(found, sort_keys=False, allow_unicode=True).rstrip() if found else ""
    _, head = _PIPELINES.get(str(config.task.get("family")), (None, None))
    return ModelCard.from_template(
        _metadata(ticket, repo_id, tags),
        template_path=str(_TEMPLATE),
        name=plain(repo_id.split("/")[-1]),
        repo_id=repo_id,
        base=_base_link(config),
        architecture=_architecture(config),
        evaluated=_evaluated(config),
        auto_class=f"AutoTicketModelFor{head}" if head else "AutoTicketModel",
        default=f"{ticket.default_sparsity:.4f}",
        kept=f"{mask.kept:,}",
        prunable=f"{mask.numel:,}",
        remaining=_percent(1 - ticket.sparsity),
        method=_method(config),
        control=_control(config),
        own_weights=ticket.theta is not None,
        metric=plain(metric) if metric else None,
        dense=_result(config.dense, metric) if value_of(config.dense, metric) is not None else None,
        one_seed=deviation_of(config.dense, metric) is None,
        rungs=_rung_rows(ticket, metric),
        figures=[{name: plain(value) for name, value in figure.items()} for figure in figures],
        found=text,
        recipe=bool(config.recipe),
        fence="`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0)),
        model_type=plain(config.model_type) if config.model_type else None,
    )


def plain(value: Any) -> str:
    """Return text that may come from a stranger so that a card shows it and does nothing else with it.

    Whatever Markdown or HTML could take for syntax becomes a numeric character reference.
    """
    words = " ".join(str(value).split())
    return re.sub(r"[^\w\s.,:/=%+@-]|(?<![^\W_])_|_(?![^\W_])", lambda found: f"&#{ord(found.group())};", words)


def _metadata(ticket: "Ticket", repo_id: str, tags: Sequence[str]) -> ModelCardData:
    config, mask = ticket.config, ticket.mask
    task, _ = _PIPELINES.get(str(config.task.get("family")), (None, None))
    dataset = config.task.get("dataset")
    results = _evaluations(config, task)
    return ModelCardData(
        library_name="hf_tickets",
        base_model=config.base_model,
        base_model_relation="adapter" if config.base_model else None,
        pipeline_tag=task,
        datasets=[dataset] if isinstance(dataset, str) and _is_hub_id(dataset) and dataset not in _NOT_ON_HUB else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        license=config.license,
        tags=list(dict.fromkeys([*TAGS, *_method_tags(config), *tags])),
        model_name=repo_id.split("/")[-1],
        eval_results=results or None,
        ticket=without_nothing(
            {
                "sparsity": round(ticket.sparsity, 6),
                "remaining": round(1 - ticket.sparsity, 6),
                "prunable": mask.numel,
                "kept": mask.kept,
                "rungs": [round(value, 6) for value in ticket.sparsities],
                "default_sparsity": round(ticket.default_sparsity, 6),
                "method": _method(config),
                "amount": config.pruning.get("amount"),
                "amount_of": config.pruning.get("amount_of"),
                "rounds": config.pruning.get("rounds"),
                "scope": config.pruning.get("scope"),
                "distribution": config.pruning.get("distribution"),
                "rewind": config.rewind,
                "control": config.control,
                "seeds": config.seeds,
                "mask_digest": mask.digest,
                "theta0_digest": config.theta0_digest,
                "base_model_revision": config.base_model_revision,
                "versions": config.versions,
            }
        ),
    )


def _evaluations(config: TicketConfig, task: str | None) -> list[EvalResult]:
    """One result a rung and metric, for the model index."""
    dataset = str(config.task.get("dataset") or "unknown")
    name = str(config.task.get("task") or dataset)
    return [
        EvalResult(
            task_type=task or "other",
            dataset_type=dataset if _is_hub_id(dataset) else re.sub(r"[^\w.-]+", "-", dataset).strip("-") or "unknown",
            dataset_name=name,
            metric_type=re.sub(r"[^\w.-]+", "-", metric),
            metric_name=f"{metric} at sparsity {rung['sparsity']:.4f}",
            metric_value=rung["metrics"][metric],
        )
        for rung in config.rungs
        if isinstance(rung.get("sparsity"), float)
        for metric in result_names(rung)
        if metric != "loss"
    ]


def _rung_rows(ticket: "Ticket", metric: str | None) -> list[dict[str, str]]:
    config = ticket.config
    known = len(config.rungs) == len(ticket.sparsities)
    rungs: list[dict[str, Any]] = config.rungs if known else [{} for _ in ticket.sparsities]
    matches = matching(config) if known else [None for _ in rungs]
    words = {True: "yes", False: "no", None: "–"}
    return [
        {
            "sparsity": _percent(sparsity),
            "kept": f"{round((1 - sparsity) * ticket.ladder.numel):,}",
            "value": _result(rung, metric),
            "matching": words[matched],
            "tag": tag,
        }
        for rung, matched, sparsity, tag in zip(
            rungs, matches, ticket.sparsities, rung_tags(ticket.sparsities), strict=True
        )
    ]


def _result(rung: dict[str, Any], metric: str | None) -> str:
    value, deviation = value_of(rung, metric), deviation_of(rung, metric)
    if value is None:
        return "–"
    return f"{value:.4f}" if deviation is None else f"{value:.4f} ± {deviation:.4f}"


def _method(config: TicketConfig) -> str:
    criterion = str(config.pruning.get("criterion") or "unknown")
    if config.pruning.get("gradual"):
        return plain(f"gradual {criterion} pruning within one training")
    if config.pruning.get("rounds", 1) and len(config.rungs) > 0:
        rewind = {"none": "without rewinding", "learning_rate": "with learning-rate rewinding"}
        after = rewind.get(str(config.rewind.get("rewind")), "with rewinding")
        return plain(f"iterative {criterion} pruning {after}")
    return plain(f"{criterion} pruning") if config.pruning else "pruning"


def _control(config: TicketConfig) -> str | None:
    """Say what was changed where this is a control."""
    if not config.control:
        return None
    name, seed = str(config.control.get("name")), config.control.get("seed")
    meaning = {**MASK_CONTROLS, **WEIGHT_CONTROLS}.get(name)
    return plain(", ".join([name, *([f"seed {seed}"] if seed is not None else []), *([meaning] if meaning else [])]))


def _method_tags(config: TicketConfig) -> list[str]:
    return [f"{config.pruning['criterion']}-pruning"] if config.pruning.get("criterion") == "magnitude" else []


def _found(config: TicketConfig) -> dict[str, Any]:
    """The recipe, or what says as much where the ticket was not found by one."""
    if config.recipe:
        return config.recipe
    parts = {"task": config.task, "pruning": config.pruning, "rewind": config.rewind, "training": config.training}
    return without_nothing({**parts, "seeds": config.seeds})


def _base_link(config: TicketConfig) -> str | None:
    if config.base_model is None:
        return None
    name = plain(config.base_model)
    return f"[{name}]({constants.ENDPOINT}/{name})" if _is_hub_id(config.base_model) else name


def _architecture(config: TicketConfig) -> str | None:
    """Name the architecture of a base model that is not on the Hub."""
    named = config.base_config.get("architecture") or config.base_config.get("model_type")
    return plain(named) if isinstance(named, str) and config.base_model is None else None


def _evaluated(config: TicketConfig) -> str | None:
    """Say on how many examples the results stand."""
    count = config.task.get("evaluation_examples")
    counts = [item for item in (count if isinstance(count, list) else [count]) if isinstance(item, int)]
    return f"{sum(counts):,}" if counts else None


def without_nothing(values: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that say something."""
    return {name: value for name, value in values.items() if value not in (None, {}, [], "")}


def _is_hub_id(value: str) -> bool:
    return re.fullmatch(r"[\w.-]+/[\w.-]+", value) is not None


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
