"""Statistics of a few seeds: mean and deviation, the papers' winning rule, and tests that respect how few they are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy
from scipy.stats import norm, ttest_ind_from_stats
from scipy.stats import t as student

_ROUNDING = 1e-9  # of a result: 63.2 + 0.3 reaches 63.5 although binary fractions add up to a little less or more
_NAN = float("nan")


@dataclass(frozen=True)
class Summary:
    """Results of several seeds in short.

    Args:
        mean: Their mean; NaN without any.
        std: Their standard deviation over n − 1; NaN with fewer than two.
        n: How many there are.
    """

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """A subnetwork's results beside the dense model's. What cannot be said of so few seeds is NaN.

    Args:
        difference: Mean of the subnetwork less that of the dense model, in the metric's unit.
        low: Lower end of its 95 % confidence interval (Welch).
        high: Upper end.
        p: Two-sided p-value of Welch's t-test.
        g: Hedges' g, the difference in pooled standard deviations, corrected for few seeds.
        g_low: Lower end of its 95 % confidence interval.
        g_high: Upper end.
        p_equivalent: p-value of two one-sided Welch tests (TOST): small where the two differ by less than the margin.
        p_not_inferior: p-value of the one of them that asks whether the subnetwork is worse by less than the margin.
    """

    difference: float
    low: float
    high: float
    p: float
    g: float
    g_low: float
    g_high: float
    p_equivalent: float
    p_not_inferior: float


def summarize(values: Iterable[float]) -> Summary:
    """Return mean, standard deviation and number of results; NaN stands for none and is left out.

    Args:
        values: One result a seed.

    Example:
        >>> summarize([82.0, 83.0, 84.0, float("nan")])
        Summary(mean=83.0, std=1.0, n=3)
    """
    known = numpy.array([value for value in values if not math.isnan(value)], dtype=float)
    mean = float(known.mean()) if known.size else _NAN
    std = float(known.std(ddof=1)) if known.size > 1 else _NAN
    if known.size > 1 and known.min() == known.max():  # which rounding of the mean must not turn into a deviation
        std = 0.0
    return Summary(mean, std, known.size)


def winning(ticket: Summary, dense: Summary, greater_is_better: bool = True) -> bool | None:
    """Say whether a ticket wins: the dense mean is at most one standard deviation of the ticket better than its mean.

    The papers do not say whose standard deviation they mean. All eleven tickets that BERT tickets calls winning (table
    2) are within one standard deviation of their own; four of them (MRPC, SST-2, CoLA, MLM) are not within the dense
    model's.

    Args:
        ticket: Results of the ticket.
        dense: Results of the dense model.
        greater_is_better: Whether a larger result is a better one.

    Returns:
        None where either has fewer than two seeds.

    Example:
        >>> winning(Summary(84.9, 0.4, 5), Summary(85.2, 0.1, 5))
        True
    """
    if min(ticket.n, dense.n) < 2:
        return None
    behind = (dense.mean - ticket.mean) * (1 if greater_is_better else -1)
    return behind <= ticket.std + _ROUNDING * max(abs(dense.mean), abs(ticket.mean))


def compare(ticket: Summary, dense: Summary, margin: float | None = None, greater_is_better: bool = True) -> Comparison:
    """Compare results of a subnetwork with the dense model's by Welch's t-test, effect size and equivalence.

    Args:
        ticket: Results of the subnetwork.
        dense: Results of the dense model.
        margin: The largest difference that does not matter, in the metric's unit; None leaves equivalence out.
        greater_is_better: Whether a larger result is a better one.

    Returns:
        The comparison. With fewer than two seeds on a side, or no variance at all, only the difference is known.
    """
    difference = ticket.mean - dense.mean
    variance = ticket.std**2 / max(ticket.n, 1) + dense.std**2 / max(dense.n, 1)
    if min(ticket.n, dense.n) < 2 or not variance > 0:
        return Comparison(difference, *[_NAN] * 8)
    half = _student_quantile(ticket, dense, variance) * math.sqrt(variance)
    above, below = _NAN, _NAN
    if margin is not None:
        above = _welch(ticket, dense, "greater", difference + margin)
        below = _welch(ticket, dense, "less", difference - margin)
    return Comparison(
        difference,
        difference - half,
        difference + half,
        _welch(ticket, dense, "two-sided", difference),
        *hedges_g(ticket, dense),
        p_equivalent=max(above, below),
        p_not_inferior=above if greater_is_better else below,
    )


def hedges_g(first: Summary, second: Summary, confidence: float = 0.95) -> tuple[float, float, float]:
    """Return Hedges' g and its confidence interval (Hedges, Journal of Educational Statistics, 1981).

    The interval is the normal one with the large-sample variance, a rough guide at three seeds.

    Args:
        first: Results, two or more.
        second: Results that they are measured against, two or more.
        confidence: Of the interval, 0 to 1.

    Returns:
        g, and the ends of its interval; NaN where there is no variance.
    """
    n = first.n + second.n
    pooled = ((first.n - 1) * first.std**2 + (second.n - 1) * second.std**2) / (n - 2)
    if not pooled > 0:
        return _NAN, _NAN, _NAN
    g = (1 - 3 / (4 * n - 9)) * (first.mean - second.mean) / math.sqrt(pooled)
    half = float(norm.ppf((1 + confidence) / 2)) * math.sqrt(n / (first.n * second.n) + g**2 / (2 * (n - 3.94)))
    return g, g - half, g + half


def _welch(first: Summary, second: Summary, alternative: str, difference: float) -> float:
    """Return the p-value of Welch's test of two samples whose means lie `difference` apart."""
    result = ttest_ind_from_stats(
        difference, first.std, first.n, 0.0, second.std, second.n, equal_var=False, alternative=alternative
    )
    return float(result.pvalue)


def _student_quantile(first: Summary, second: Summary, variance: float) -> float:
    """Return the 97.5 % quantile of Student's t with the degrees of freedom of Welch and Satterthwaite."""
    parts = sum((sample.std**2 / sample.n) ** 2 / (sample.n - 1) for sample in (first, second))
    return float(student.ppf(0.975, variance**2 / parts))
