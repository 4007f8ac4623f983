"""What the rungs of a ticket reached, beside the dense model."""

from typing import Any

from hf_tickets.ticket.config import TicketConfig

_LOWER_IS_BETTER = ("loss", "perplexity")
_TOO_LARGE = 1e300
_NOT_RESULTS = ("runtime", "_per_second", "_preparation_time", "epoch", "_samples", "_steps")


def metric_name(config: TicketConfig) -> str | None:
    """Return the name of the task's main metric, or of the first that the rungs have; None where nothing was measured.

    Args:
        config: Provenance of the ticket.
    """
    named = config.task.get("metric")
    measured = [name for rung in config.rungs for name in result_names(rung)]
    if isinstance(named, str) and named in measured:
        return named
    return next((name for name in measured if name != "loss"), measured[0] if measured else None)


def result_names(rung: dict[str, Any]) -> list[str]:
    """Return the names of a rung's results that are numbers, without times and counts."""
    metrics = rung.get("metrics")
    if not isinstance(metrics, dict):
        return []
    return [
        name
        for name, value in metrics.items()
        if isinstance(name, str) and _is_number(value) and not name.endswith(_NOT_RESULTS)
    ]


def value_of(rung: dict[str, Any], metric: str | None) -> float | None:
    """Return a rung's result, or None where it has none."""
    return rung["metrics"][metric] if metric in result_names(rung) else None


def deviation_of(rung: dict[str, Any], metric: str | None) -> float | None:
    """Return the standard deviation of a rung's result over seeds, or None where there was one seed."""
    deviations = rung.get("std")
    value = deviations.get(metric) if isinstance(deviations, dict) else None
    return value if _is_number(value) else None


def matching(config: TicketConfig) -> list[bool | None]:
    """Say of each rung whether it matches the dense model; None where that was not measured.

    A rung matches where the dense model's mean is within one standard deviation of the rung's: the reading of BERT
    tickets, section 3, under which all eleven tickets of its table 2 match. With one seed, which has no deviation, a
    rung matches where it is not worse.

    Args:
        config: Provenance of the ticket.
    """
    metric = metric_name(config)
    dense = value_of(config.dense, metric)
    sign = -1 if config.task.get("greater_is_better", metric not in _LOWER_IS_BETTER) is False else 1
    results = [(value_of(rung, metric), deviation_of(rung, metric) or 0.0) for rung in config.rungs]
    return [
        None if value is None or dense is None else sign * value >= sign * dense - deviation
        for value, deviation in results
    ]


def last_matching(config: TicketConfig) -> float | None:
    """Return the sparsity of the last rung that matches the dense model; None where none does.

    Args:
        config: Provenance of the ticket.
    """
    found = [rung.get("sparsity") for rung, matches in zip(config.rungs, matching(config), strict=True) if matches]
    return next((value for value in reversed(found) if _is_number(value)), None)


def _is_number(value: Any) -> bool:
    """Whether a value is a finite number; a stranger's may have hundreds of digits."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _TOO_LARGE
