"""Statistics of a few seeds, against statsmodels, SciPy on the samples themselves, and the paper's own verdicts."""

import math
import warnings

import numpy
import pytest
from scipy.stats import ttest_ind

from hf_tickets.studies.statistics import Comparison, Summary, compare, hedges_g, summarize, winning

# BERT tickets, table 2: mean and deviation of five runs, dense and ticket; the paper calls all of them winning.
TABLE2 = {
    "MNLI": (82.4, 0.5, 82.6, 0.2),
    "QQP": (90.2, 0.5, 90.0, 0.2),
    "STS-B": (88.4, 0.3, 88.2, 0.2),
    "WNLI": (54.9, 1.2, 54.9, 1.2),
    "QNLI": (89.1, 1.0, 88.9, 0.4),
    "MRPC": (85.2, 0.1, 84.9, 0.4),
    "RTE": (66.2, 3.6, 66.0, 2.4),
    "SST-2": (92.1, 0.1, 91.9, 0.5),
    "CoLA": (54.5, 0.4, 53.8, 0.9),
    "SQuAD": (88.1, 0.6, 87.7, 0.5),
    "MLM": (63.5, 0.1, 63.2, 0.3),
}
RANDOM_MASKS = {"MNLI": 67.5, "QQP": 76.3, "STS-B": 21.0, "QNLI": 61.9, "MRPC": 69.6, "RTE": 56.0, "SST-2": 83.1}
TICKET, DENSE = [0.812, 0.801, 0.823, 0.809], [0.820, 0.826, 0.817]
MARGIN = 0.02


@pytest.mark.parametrize("task", TABLE2)
def test_all_verdicts_of_the_paper_hold(task: str) -> None:
    dense_mean, dense_std, mean, std = TABLE2[task]
    assert winning(Summary(mean, std, 5), Summary(dense_mean, dense_std, 5)) is True


def test_the_dense_models_deviation_would_contradict_the_paper() -> None:
    lost = {task for task, (dense, std, mean, _) in TABLE2.items() if dense - mean > std + 1e-9}
    assert lost == {"MRPC", "SST-2", "CoLA", "MLM"}


@pytest.mark.parametrize("task", RANDOM_MASKS)
def test_the_papers_random_masks_do_not_win(task: str) -> None:
    mean, std, *_ = TABLE2[task]
    assert winning(Summary(RANDOM_MASKS[task], 1.0, 5), Summary(mean, std, 5)) is False


def test_a_smaller_result_wins_where_smaller_is_better() -> None:
    dense, better, worse = Summary(10.0, 0.5, 3), Summary(8.0, 0.5, 3), Summary(12.0, 0.5, 3)
    assert winning(better, dense, greater_is_better=False) is True
    assert winning(worse, dense, greater_is_better=False) is False
    assert winning(worse, dense) is True


@pytest.mark.parametrize(("ticket", "dense"), [([0.8], [0.7, 0.8]), ([0.8, 0.9], [0.7]), ([], [0.7, 0.8])])
def test_one_seed_gives_no_verdict_and_no_test(ticket: list[float], dense: list[float]) -> None:
    found = compare(summarize(ticket), summarize(dense), MARGIN)
    assert winning(summarize(ticket), summarize(dense)) is None
    assert all(math.isnan(value) for name, value in vars(found).items() if name != "difference")


def test_a_summary_is_that_of_the_known_values() -> None:
    found = summarize([1.0, float("nan"), 2.0, 6.0])
    assert (found.mean, found.n) == (3.0, 3)
    assert found.std == pytest.approx(math.sqrt((4 + 1 + 9) / 2))
    assert summarize([0.1] * 3).std == 0
    assert summarize([]).n == 0


def test_no_variance_gives_a_verdict_and_no_p_and_no_warning() -> None:
    same, other = summarize([0.1, 0.1, 0.1]), summarize([0.2, 0.2])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(same, other, MARGIN)
        assert winning(same, other) is False
        assert winning(other, other) is True
        one_sided = compare(same, summarize([0.1, 0.3]), MARGIN)
        compare(summarize([]), summarize([]), MARGIN)
    assert found.difference == pytest.approx(-0.1)
    assert math.isnan(found.p)
    assert math.isnan(found.g)
    assert 0 < one_sided.p < 1


def comparison(greater_is_better: bool = True) -> Comparison:
    return compare(summarize(TICKET), summarize(DENSE), MARGIN, greater_is_better)


def test_welchs_test_is_scipys_on_the_samples() -> None:
    reference = ttest_ind(TICKET, DENSE, equal_var=False)
    interval = reference.confidence_interval(0.95)
    found = comparison()
    assert found.p == pytest.approx(reference.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.difference == pytest.approx(numpy.mean(TICKET) - numpy.mean(DENSE))


def test_equivalence_is_statsmodels() -> None:
    weightstats = pytest.importorskip("statsmodels.stats.weightstats", reason="statsmodels is not installed")
    p, above, below = weightstats.ttost_ind(TICKET, DENSE, -MARGIN, MARGIN, usevar="unequal")
    assert comparison().p_equivalent == pytest.approx(p)
    assert comparison().p_not_inferior == pytest.approx(above[1])
    assert comparison(greater_is_better=False).p_not_inferior == pytest.approx(below[1])


def test_effect_size_is_statsmodels() -> None:
    meta = pytest.importorskip("statsmodels.stats.meta_analysis", reason="statsmodels is not installed")
    first, second = summarize(TICKET), summarize(DENSE)
    g, variance = meta.effectsize_smd(first.mean, first.std, first.n, second.mean, second.std, second.n)
    half = 1.959963985 * math.sqrt(variance)
    assert hedges_g(first, second) == pytest.approx((g, g - half, g + half))
    assert (comparison().g_low, comparison().g_high) == pytest.approx((g - half, g + half))


def test_effect_size_by_hand() -> None:
    # Means 2 apart, pooled deviation 1, so d = 2; four degrees of freedom: 1 - 3 / (4 · 6 - 9) = 0.8.
    assert hedges_g(Summary(3.0, 1.0, 3), Summary(1.0, 1.0, 3))[0] == pytest.approx(1.6)


def test_equal_masks_are_equivalent_and_far_ones_are_not() -> None:
    near = compare(Summary(0.8, 0.001, 5), Summary(0.8, 0.001, 5), 0.01)
    far = compare(Summary(0.7, 0.001, 5), Summary(0.8, 0.001, 5), 0.01)
    assert near.p_equivalent < 0.001 < near.p
    assert far.p < 0.001 < 0.99 < far.p_equivalent
    assert math.isnan(compare(Summary(0.8, 0.1, 5), Summary(0.8, 0.1, 5)).p_equivalent)
