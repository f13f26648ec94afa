"""t-tests of means: compared with other programs, and simulated at the margin."""

import numpy as np
import pytest
import scipy.stats
import statsmodels.api as sm

from gates.evaluation.compared import compared_means
from gates.evaluation.means import mean

REPETITIONS, ALPHA = 4_000, 0.05


def test_without_clusters_it_matches_scipys_paired_t_test() -> None:
    random = np.random.default_rng(1)
    ours, theirs = random.normal(1.0, 2.0, 40), random.normal(1.3, 2.0, 40)
    compared = compared_means(ours, theirs, None, sign=1.0)
    less = scipy.stats.ttest_rel(ours, theirs, alternative="less")
    greater = scipy.stats.ttest_rel(ours + 0.5, theirs, alternative="greater")
    assert compared.harm_p_value(0.0) == pytest.approx(less.pvalue)
    assert compared.p_value(0.5) == pytest.approx(greater.pvalue)
    both = scipy.stats.ttest_rel(ours, theirs).confidence_interval(0.9)
    interval = compared.interval(0.9)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((both.low, both.high))


def test_with_clusters_the_standard_error_matches_statsmodels() -> None:
    random = np.random.default_rng(2)
    clusters = random.integers(0, 12, 200)
    values = random.normal(0, 1, 200) + random.normal(0, 1, 12)[clusters]
    model = sm.OLS(values, np.ones(200))
    # The small-sample factor of statsmodels also has (N - 1) / (N - K), which is 1 for a mean.
    fitted = model.fit(cov_type="cluster", cov_kwds={"groups": clusters}, use_t=True)
    found = mean(values, clusters)
    assert found.units == 12
    assert found.standard_error == pytest.approx(float(fitted.bse[0]))
    low, high = fitted.conf_int(alpha=0.1)[0]
    interval = found.interval(confidence=0.9)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_clusters_of_one_example_each_change_nothing() -> None:
    values = np.random.default_rng(3).normal(size=25)
    alone = mean(values, np.arange(25))
    assert alone.standard_error == pytest.approx(mean(values).standard_error)


def test_sign_is_flipped_once_if_lower_is_better() -> None:
    ours, theirs = np.array([1.0, 2.0, 3.5]), np.array([2.0, 2.5, 3.6])
    compared = compared_means(ours, theirs, None, sign=-1.0)
    assert compared.difference == pytest.approx(1.6 / 3)
    assert compared.is_below(2.0)
    assert not compared.is_below(2.2)


def test_identical_scores_are_noninferior_at_any_positive_margin() -> None:
    values = np.arange(10.0)
    compared = compared_means(values, values, None, sign=-1.0)
    assert compared.p_value(0.1) == 0.0
    assert compared.p_value(0.0) == 1.0
    assert compared.harm_p_value(0.1) == 1.0


def test_a_single_unit_shows_nothing() -> None:
    one = compared_means(np.array([5.0]), np.array([1.0]), None, sign=1.0)
    same = compared_means(np.ones(9), np.zeros(9), np.zeros(9, dtype=np.int64), sign=1.0)
    for compared in (one, same):
        assert compared.p_value(0.1) == compared.harm_p_value(0.1) == 1.0
        assert compared.interval(0.9) is None
        assert compared.n == 1


def test_the_number_of_units_needed_gives_the_requested_power() -> None:
    random = np.random.default_rng(4)
    found = mean(random.normal(0.2, 1.0, 50))
    distance = 0.3
    needed = found.units_needed(distance, alpha=ALPHA, power=0.8)
    assert needed is not None
    spread = (found.standard_error or 0.0) * np.sqrt(50)
    # Exact power of the one-sided t-test by scipy, with the observed standard deviation.
    ratio = distance / spread * np.sqrt(needed)
    critical = scipy.stats.t.ppf(1 - ALPHA, needed - 1)
    assert scipy.stats.nct.sf(critical, needed - 1, ratio) == pytest.approx(0.8, abs=0.02)
    assert found.units_needed(0.0, alpha=ALPHA, power=0.8) is None


def clustered(random: np.random.Generator, clusters: int, each: int) -> np.ndarray:
    """Return differences with mean 0 that are correlated within each cluster."""
    shared = random.normal(0, 1, (clusters, 1))
    return (shared + random.normal(0, 1, (clusters, each))).ravel()


def test_error_rate_at_the_margin_is_alpha_and_higher_if_clusters_are_ignored() -> None:
    random, clusters, each = np.random.default_rng(5), 20, 10
    numbers = np.repeat(np.arange(clusters), each)
    passed = ignored = 0
    for _ in range(REPETITIONS):
        gain = clustered(random, clusters, each)
        passed += mean(gain, numbers).p_value_above(0.0) < ALPHA
        ignored += mean(gain).p_value_above(0.0) < ALPHA
    # Three standard errors of a rate of 0.05 over 4,000 repetitions are 0.010.
    assert passed / REPETITIONS == pytest.approx(ALPHA, abs=0.011)
    assert ignored / REPETITIONS > 0.2
