import dataclasses
import doctest
import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.stats import (
    contingency_tables,
    multitest,
    proportion,
)

import gates.evaluation.statistics
from gates.errors import GateInputError
from gates.evaluation.statistics import (
    BoolArray,
    FloatArray,
    IntArray,
    Interval,
    PairedCounts,
    bca_interval,
    binomial_p_value,
    cell_correlation,
    harm_p_value,
    holm,
    max_t,
    mean_interval,
    noninferiority_p_value,
    sample_size,
    tango_interval,
    tango_z,
    wilson_interval,
)

MARGIN = 0.02
ALPHA = 0.05


def counts_of(a: int, b: int, c: int, d: int) -> PairedCounts:
    """Return counts by the letters of the papers: both, candidate only, baseline only, neither."""
    return PairedCounts(both_right=a, candidate_only=b, baseline_only=c, neither=d)


def out_of(n: int, b: int, c: int) -> PairedCounts:
    return counts_of(0, b, c, n - b - c)


def limits(interval: Interval) -> tuple[float, float]:
    return interval.low, interval.high


def width(interval: Interval) -> float:
    return interval.high - interval.low


NO_COUNTS = counts_of(0, 0, 0, 0)
FAGERLAND = counts_of(59, 6, 16, 80)
UNCHANGED = counts_of(54, 0, 0, 0)


# ---- the counts


def test_shares_of_a_worked_example() -> None:
    counts = counts_of(4, 1, 3, 2)
    assert (counts.n, counts.difference, counts.discordance) == (10, -0.2, 0.4)


def test_counts_without_examples_are_refused() -> None:
    with pytest.raises(GateInputError, match="no examples"):
        _ = NO_COUNTS.difference


# ---- published values (shared/facts/gates.md)


def test_tango_z_of_the_published_example() -> None:
    counts = out_of(44, 0, 1)
    assert tango_z(counts, -0.1) == pytest.approx(1.709, abs=5e-4)
    assert tango_interval(counts, confidence=0.9).low == pytest.approx(-0.096, abs=5e-4)


@pytest.mark.parametrize(
    ("counts", "expected", "digits"),
    [
        pytest.param(out_of(32, 9, 3), (-0.027, 0.390), 3, id="tango_1998"),
        pytest.param(FAGERLAND, (-0.1240, -0.0054), 4, id="tango_fagerland"),
    ],
)
def test_published_intervals(
    counts: PairedCounts, expected: tuple[float, float], digits: int
) -> None:
    interval = tango_interval(counts, confidence=0.95)
    assert (round(interval.low, digits), round(interval.high, digits)) == expected


@pytest.mark.parametrize(
    ("discordance", "expected"), [(0.04, 619), (0.08, 1237), (0.15, 2319), (0.0, 133)]
)
def test_published_sample_sizes(discordance: float, expected: int) -> None:
    arguments = {"difference": 0.0, "margin": MARGIN, "alpha": ALPHA, "power": 0.8}
    assert sample_size(discordance=discordance, **arguments) == expected


def test_the_sample_size_for_a_better_candidate_uses_its_smaller_variance() -> None:
    n = sample_size(difference=0.1, discordance=0.2, margin=MARGIN, alpha=ALPHA, power=0.8)
    z = stats.norm.isf(0.05) + stats.norm.isf(0.2)
    assert n == math.ceil(z**2 * (0.2 - 0.1**2) / (0.02 + 0.1) ** 2) == 82


@pytest.mark.parametrize(("margin", "expected"), [(0.01, 268), (0.02, 133), (0.05, 52)])
def test_models_that_never_disagree_need_the_published_number(margin: float, expected: int) -> None:
    arguments = {"difference": 0.0, "discordance": 0.0, "alpha": ALPHA, "power": 0.8}
    assert sample_size(margin=margin, **arguments) == expected
    assert noninferiority_p_value(out_of(expected, 0, 0), margin=margin) < ALPHA
    assert noninferiority_p_value(out_of(expected - 1, 0, 0), margin=margin) >= ALPHA


def test_docstring_examples_are_correct() -> None:
    result = doctest.testmod(gates.evaluation.statistics)
    assert result.attempted > 5
    assert result.failed == 0


# ---- comparison with other programs and with the definitions


def test_superiority_is_the_one_sided_mcnemar_test() -> None:
    table = [[59, 6], [16, 80]]
    two_sided = contingency_tables.mcnemar(table, exact=False, correction=False).pvalue
    assert harm_p_value(FAGERLAND, margin=0) == pytest.approx(two_sided / 2)
    assert noninferiority_p_value(FAGERLAND, margin=0) == pytest.approx(1 - two_sided / 2)


def score_by_optimizer(counts: PairedCounts, difference: float) -> float:
    """Tango's statistic with the constrained likelihood maximised by search, not by formula."""
    b, c, n = counts.candidate_only, counts.baseline_only, counts.n

    def negative_log_likelihood(q: float) -> float:
        shares = (q + difference, q, 1 - 2 * q - difference)
        return float(-np.sum(stats.multinomial.logpmf([b, c, n - b - c], n, shares)))

    bounds = (max(0.0, -difference) + 1e-12, (1 - difference) / 2 - 1e-12)
    q = optimize.minimize_scalar(
        negative_log_likelihood, bounds=bounds, method="bounded", options={"xatol": 1e-10}
    ).x
    return float((b - c - n * difference) / math.sqrt(n * (2 * q + difference - difference**2)))


@pytest.mark.parametrize("difference", [-0.3, -0.02, 0.0, 0.01, 0.4])
@pytest.mark.parametrize("counts", [FAGERLAND, out_of(44, 3, 1), out_of(1_000, 31, 60)])
def test_tango_z_maximises_the_constrained_likelihood(
    counts: PairedCounts, difference: float
) -> None:
    expected = score_by_optimizer(counts, difference)
    assert tango_z(counts, difference) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (3, 7), (978, 1_000), (999_990, 10**6)])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.999])
def test_wilson_agrees_with_statsmodels(right: int, n: int, confidence: float) -> None:
    reference = proportion.proportion_confint(right, n, alpha=1 - confidence, method="wilson")
    assert limits(wilson_interval(right, n, confidence=confidence)) == pytest.approx(
        reference, abs=1e-12
    )


@pytest.mark.parametrize("at_least", [0.0, 0.5, 0.98, 1.0])
@pytest.mark.parametrize(("right", "n"), [(0, 7), (7, 7), (3, 7), (978, 1_000), (979_500, 10**6)])
def test_binomial_p_value_agrees_with_scipy(right: int, n: int, at_least: float) -> None:
    reference = stats.binomtest(right, n, at_least, alternative="less").pvalue
    assert binomial_p_value(right, n, at_least=at_least) == pytest.approx(reference, rel=1e-6)


@pytest.mark.parametrize("n_tests", [1, 2, 17])
def test_holm_agrees_with_statsmodels(n_tests: int) -> None:
    p_values = np.random.default_rng(n_tests).beta(0.3, 2.0, n_tests).round(2)  # with ties
    reference = multitest.multipletests(p_values, method="holm")[1]
    assert holm(p_values).tolist() == pytest.approx(reference.tolist())


def test_holm_of_the_published_example_and_of_no_p_values() -> None:
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([])).shape == (0,)


def test_mean_interval_agrees_with_scipy() -> None:
    losses = np.random.default_rng(0).gamma(0.5, size=4_000) - 0.5
    expected = stats.norm.interval(0.95, losses.mean(), stats.sem(losses))
    actual = mean_interval(losses.sum(), float((losses**2).sum()), len(losses), confidence=0.95)
    assert limits(actual) == pytest.approx(expected)


def test_equal_differences_give_an_interval_of_zero_width() -> None:
    interval = mean_interval(0.1 * 7, 0.1**2 * 7, 7, confidence=0.95)
    assert limits(interval) == pytest.approx((0.1, 0.1), abs=1e-6)


# ---- the bootstrap


def scipy_bca(
    data: tuple[FloatArray, ...], statistic: Callable[..., Any], *, vectorized: bool = True
) -> tuple[float, float]:
    rng = np.random.default_rng(1)
    result = stats.bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=vectorized,
        n_resamples=9_999,
        method="BCa",
        rng=rng,
        batch=500,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


@pytest.fixture(scope="module")
def skewed() -> FloatArray:
    return np.random.default_rng(3).lognormal(sigma=1.0, size=120)


def test_bca_interval_agrees_with_scipy_on_a_skewed_metric(skewed: FloatArray) -> None:
    expected = scipy_bca((skewed,), np.std)
    actual = bca_interval(
        lambda rows: float(np.std(skewed[rows])), 120, confidence=0.95, resamples=9_999, seed=0
    )
    assert limits(actual) == pytest.approx(expected, rel=0.03)
    # A plain percentile interval is outside this tolerance, so the BCa corrections matter.
    rng = np.random.default_rng(0)
    plain = np.std(skewed[rng.integers(120, size=(9_999, 120))], axis=1)
    assert limits(actual) != pytest.approx(np.quantile(plain, [0.025, 0.975]), rel=0.06)


def test_the_jackknife_over_blocks_approximates_the_full_one(
    skewed: FloatArray, monkeypatch: pytest.MonkeyPatch
) -> None:
    interval = partial(
        bca_interval,
        lambda rows: float(np.mean(skewed[rows])),
        120,
        confidence=0.95,
        resamples=2_000,
        seed=0,
    )
    whole = interval()
    monkeypatch.setattr(gates.evaluation.statistics, "_JACKKNIFE_PARTS", 50)
    assert limits(interval()) == pytest.approx(limits(whole), abs=0.1 * width(whole))


def test_bca_calls_the_metric_a_bounded_number_of_times() -> None:
    sizes = []

    def metric(rows: IntArray) -> float:
        sizes.append(len(rows))
        return float(rows.mean())

    bca_interval(metric, 3_000, confidence=0.95, resamples=200, seed=0)
    assert sizes[:201] == [3_000] * 201
    assert sizes[201:] == [2_997] * 1_000


def test_a_constant_metric_gives_an_interval_of_zero_width() -> None:
    interval = bca_interval(lambda _: 0.25, 40, confidence=0.95, resamples=99, seed=0)
    assert limits(interval) == (0.25, 0.25)


def test_an_observation_beyond_all_replicates_gives_no_nan() -> None:
    # The metric is highest on distinct rows, so no resample reaches the observed value.
    interval = bca_interval(
        lambda rows: float(len(np.unique(rows))), 50, confidence=0.95, resamples=99, seed=0
    )
    assert 0 < interval.low <= interval.high <= 50


def test_a_metric_that_is_undefined_on_some_resamples_is_refused() -> None:
    def mean_of_the_rare(rows: IntArray) -> float:
        return 1.0 if np.any(rows == 0) else math.nan

    with pytest.raises(GateInputError, match=r"not finite on [\d,]+ of 99 draws"):
        bca_interval(mean_of_the_rare, 40, confidence=0.95, resamples=99, seed=0)


def test_the_same_seed_gives_the_same_interval(skewed: FloatArray) -> None:
    first, again, other = (
        bca_interval(
            lambda rows: float(np.std(skewed[rows])),
            120,
            confidence=0.9,
            resamples=500,
            seed=seed,
        )
        for seed in (1, 1, 2)
    )
    assert first == again != other


# ---- error rates and power


def exact_rate(
    n: int, discordance: float, difference: float, passes: Callable[[PairedCounts], bool]
) -> float:
    """Return the exact probability of passing, summed over the trinomial distribution.

    `passes` must be monotone: more wins never turn a pass into a fail, more losses never turn a
    fail into a pass. So each count of baseline_only needs a least count of candidate_only.
    """
    candidate, baseline = (discordance + difference) / 2, (discordance - difference) / 2
    losses = np.arange(int(stats.binom.isf(1e-12, n, baseline)) + 1)
    needed, wins = [], 0
    for lost in losses.tolist():
        while wins + lost <= n and not passes(out_of(n, wins, lost)):
            wins += 1
        needed.append(wins)
    passing = stats.binom.sf(np.array(needed) - 1, n - losses, candidate / (1 - baseline))
    return float(stats.binom.pmf(losses, n, baseline) @ passing)


def simulated_rate(
    n: int,
    discordance: float,
    difference: float,
    passes: Callable[[PairedCounts], bool],
    *,
    simulations: int,
    seed: int,
) -> float:
    candidate, baseline = (discordance + difference) / 2, (discordance - difference) / 2
    draws = np.random.default_rng(seed).multinomial(
        n, [candidate, baseline, 1 - candidate - baseline], size=simulations
    )
    pairs, times = np.unique(draws[:, :2], axis=0, return_counts=True)
    passed = np.array([passes(out_of(n, int(won), int(lost))) for won, lost in pairs])
    return float(times @ passed / simulations)


def is_noninferior(counts: PairedCounts) -> bool:
    return noninferiority_p_value(counts, margin=MARGIN) < ALPHA


def is_unharmed(counts: PairedCounts, *, alpha: float = ALPHA) -> bool:
    return not harm_p_value(counts, margin=MARGIN) < alpha


SIMULATIONS = 10_000


def band(rate: float, simulations: int = SIMULATIONS) -> float:
    return 3 * math.sqrt(rate * (1 - rate) / simulations)


@pytest.mark.parametrize("discordance", [0.04, 0.08, 0.15])
@pytest.mark.parametrize("n", [200, 1_000, 5_000])
def test_a_model_exactly_at_the_margin_passes_at_the_rate_alpha(n: int, discordance: float) -> None:
    exact = exact_rate(n, discordance, -MARGIN, is_noninferior)
    simulated = simulated_rate(
        n, discordance, -MARGIN, is_noninferior, simulations=SIMULATIONS, seed=n
    )
    # All nine rates are within the band of 10,000 simulations. The lowest, 0.0443 for n = 200
    # and discordance 0.04, would be outside the band of 20,000.
    assert exact == pytest.approx(ALPHA, abs=band(ALPHA))
    assert simulated == pytest.approx(exact, abs=band(exact))
    assert simulated == pytest.approx(ALPHA, abs=band(ALPHA))


@pytest.mark.parametrize(
    ("n", "discordance", "expected"),
    [(50, 0.02, 0.0), (100, 0.03, 0.0350), (200, 0.02, 0.0176), (1_000, 0.02, 0.0376)],
)
def test_a_model_at_the_margin_passes_less_often_if_disagreement_is_rare(
    n: int, discordance: float, expected: float
) -> None:
    # Below the band: with counts this small and discrete, the score test is conservative.
    rate = exact_rate(n, discordance, -MARGIN, is_noninferior)
    assert rate == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("discordance", [0.04, 0.08, 0.15])
@pytest.mark.parametrize("n", [1_000, 5_000])
def test_a_model_exactly_at_the_margin_is_blocked_at_the_rate_alpha(
    n: int, discordance: float
) -> None:
    assert 1 - exact_rate(n, discordance, -MARGIN, is_unharmed) == pytest.approx(
        ALPHA, abs=band(ALPHA)
    )


@pytest.mark.parametrize(
    ("n", "discordance", "expected"),
    [(100, 0.04, 0.0726), (200, 0.04, 0.0632), (200, 0.08, 0.0539), (500, 0.04, 0.0525)],
)
def test_a_model_at_the_margin_is_blocked_more_often_in_small_groups(
    n: int, discordance: float, expected: float
) -> None:
    # A known excess, not a goal: losses outnumber wins here, and their count is skewed.
    rate = 1 - exact_rate(n, discordance, -MARGIN, is_unharmed)
    assert rate == pytest.approx(expected, abs=1e-4)


def test_the_naive_rule_would_pass_a_model_at_the_margin_half_of_the_time() -> None:
    rate = exact_rate(1_000, 0.08, -MARGIN, lambda counts: counts.difference >= -MARGIN)
    assert 0.5 < rate < 0.64


@pytest.mark.parametrize(
    ("discordance", "expected"),
    # Simulated values in shared/facts/gates.md: 0.772, 0.793 and 0.800.
    [(0.04, 0.7747), (0.08, 0.7939), (0.15, 0.7987)],
)
def test_the_sample_size_gives_the_requested_power(discordance: float, expected: float) -> None:
    n = sample_size(difference=0, discordance=discordance, margin=MARGIN, alpha=ALPHA, power=0.8)
    power = exact_rate(n, discordance, 0.0, is_noninferior)
    simulated = simulated_rate(n, discordance, 0.0, is_noninferior, simulations=SIMULATIONS, seed=n)
    assert power == pytest.approx(expected, abs=1e-4)
    assert power == pytest.approx(0.8, abs=0.03)
    assert simulated == pytest.approx(power, abs=band(power))


GROUPS, GROUP_SIZE = 10, 500


def simulate_harm_p_values(*, simulations: int, seed: int) -> FloatArray:
    """Return (simulations, GROUPS) p-values of groups that are all exactly at the margin."""
    shares = [0.03, 0.05, 0.92]
    draws = np.random.default_rng(seed).multinomial(GROUP_SIZE, shares, size=(simulations, GROUPS))
    pairs, place = np.unique(draws[..., :2].reshape(-1, 2), axis=0, return_inverse=True)
    p_values = [
        harm_p_value(out_of(GROUP_SIZE, int(won), int(lost)), margin=MARGIN) for won, lost in pairs
    ]
    return np.array(p_values)[place].reshape(simulations, GROUPS)


def test_holm_controls_the_family_wise_error_rate_of_ten_groups() -> None:
    p_values = simulate_harm_p_values(simulations=SIMULATIONS, seed=0)
    raw = np.mean(p_values.min(axis=1) < ALPHA)
    adjusted = np.mean([holm(row).min() < ALPHA for row in p_values])
    # The groups are independent, so the exact rate of one gives the rate of any.
    alarm = 1 - exact_rate(GROUP_SIZE, 0.08, -MARGIN, partial(is_unharmed, alpha=ALPHA / GROUPS))
    assert raw == pytest.approx(0.4, abs=0.03)
    assert adjusted == pytest.approx(1 - (1 - alarm) ** GROUPS, abs=band(ALPHA))
    assert adjusted == pytest.approx(ALPHA, abs=band(ALPHA))


class OverlappingGroups:
    """Groups of two five-valued columns that mostly agree, and the group of all examples."""

    def __init__(self, n: int) -> None:
        rng = np.random.default_rng(1)
        digit = rng.integers(5, size=n)
        thickness = np.where(rng.random(n) < 0.7, digit, rng.integers(5, size=n))
        pairs = [(one, other) for one in range(5) for other in range(5)]
        self.memberships = np.array(
            [[one == k for k in range(5)] + [other == k for k in range(5)] + [True]
             for one, other in pairs]
        )  # fmt: skip
        self.sizes = np.bincount(digit * 5 + thickness, minlength=25)

    def draw(self, shares: FloatArray, rng: np.random.Generator) -> IntArray:
        won_lost_rest = rng.multinomial(self.sizes, shares)
        return np.column_stack([won_lost_rest[:, [2, 0, 1]], np.zeros(25, dtype=np.int64)])

    def smallest(self, cells: IntArray, seed: int) -> tuple[float, float]:
        """Return the smallest p-value of any group, adjusted by Holm and by max-T."""
        groups = [counts_of(*row) for row in (self.memberships.T.astype(int) @ cells).tolist()]
        z_values = np.array([tango_z(counts, -MARGIN) for counts in groups])
        p_values = np.array([harm_p_value(counts, margin=MARGIN) for counts in groups])
        correlation = cell_correlation(self.memberships, cells)
        joint = max_t(z_values, correlation, resamples=2_000, seed=seed)
        return float(holm(p_values).min()), float(joint.min())


def test_max_t_controls_the_family_wise_error_rate_of_overlapping_groups() -> None:
    groups, rng, simulations = OverlappingGroups(2_000), np.random.default_rng(0), 2_000
    shares = np.tile([0.03, 0.05, 0.92], (25, 1))
    smallest = np.array(
        [groups.smallest(groups.draw(shares, rng), seed) for seed in range(simulations)]
    )
    holm_rate, max_t_rate = np.mean(smallest < ALPHA, axis=0)
    assert max_t_rate == pytest.approx(ALPHA, abs=band(ALPHA, simulations))
    assert holm_rate < max_t_rate  # Holm is conservative, as the groups overlap


def test_max_t_finds_a_harmed_group_more_often_than_holm() -> None:
    groups, rng = OverlappingGroups(1_000), np.random.default_rng(0)
    shares = np.tile([0.04, 0.04, 0.92], (25, 1))
    shares[groups.memberships[:, 0]] = [0.01, 0.11, 0.88]
    smallest = np.array([groups.smallest(groups.draw(shares, rng), seed) for seed in range(300)])
    found_by_holm, found_by_max_t = np.sum(smallest < ALPHA, axis=0)
    assert found_by_max_t > found_by_holm > 150


# ---- max-T and the groups' correlation


def test_max_t_of_independent_groups_is_sidaks_correction() -> None:
    z_values = np.array([-2.5, -1.0, 0.3, 4.0])
    raw = stats.norm.cdf(z_values)
    actual = max_t(z_values, np.eye(4), resamples=100_000, seed=0)
    assert actual == pytest.approx(1 - (1 - raw) ** 4, abs=3 * 0.5 / math.sqrt(100_000))


def test_max_t_of_identical_groups_costs_nothing() -> None:
    z_values = np.array([-2.0, -2.0, -2.0])
    actual = max_t(z_values, np.ones((3, 3)), resamples=100_000, seed=0)
    assert actual == pytest.approx([stats.norm.cdf(-2)] * 3, abs=0.0015)


def test_max_t_of_two_opposite_groups_adds_their_tails() -> None:
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    actual = max_t(np.array([-1.5, 2.0]), opposite, resamples=100_000, seed=0)
    assert actual[0] == pytest.approx(2 * stats.norm.cdf(-1.5), abs=0.004)
    assert actual[1] == 1.0


def test_max_t_p_values_are_never_zero() -> None:
    z_values = np.array([-40.0, -np.inf, 40.0])
    actual = max_t(z_values, np.eye(3), resamples=99, seed=0)
    assert actual.tolist() == [0.01, 0.01, 1.0]


def test_max_t_depends_only_on_the_seed() -> None:
    z_values = np.array([-1.0, -2.0])
    first, again, other = (
        max_t(z_values, np.eye(2), resamples=500, seed=seed).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_max_t_makes_all_its_draws_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gates.evaluation.statistics, "_BLOCK_ROWS", 300)
    actual = max_t(np.array([0.0, 5.0]), np.eye(2), resamples=1_000, seed=0)
    assert actual[0] == pytest.approx(0.75, abs=0.05)
    assert actual[1] == 1.0


@pytest.fixture(scope="module")
def judged() -> tuple[BoolArray, FloatArray]:
    """Memberships of 600 examples in overlapping groups, and differences in accuracy."""
    rng = np.random.default_rng(0)
    digit, thickness = rng.integers(3, size=600), rng.integers(2, size=600)
    columns = [digit == 0, digit == 1, thickness == 0, (digit == 0) & (thickness == 0)]
    memberships = np.column_stack([*columns, np.ones(600, dtype=np.bool_)])
    shares = [[0.1, 0.8, 0.1], [0.3, 0.6, 0.1], [0.05, 0.9, 0.05]]
    differences = [rng.choice([-1.0, 0.0, 1.0], p=shares[value]) for value in digit]
    return memberships, np.array(differences)


def test_the_correlation_agrees_with_resampled_means(
    judged: tuple[BoolArray, FloatArray],
) -> None:
    memberships, differences = judged
    drawn = np.random.default_rng(1).multinomial(600, np.full(600, 1 / 600), size=8_000)
    means = (drawn * differences) @ memberships / (drawn @ memberships)
    expected = np.corrcoef(means, rowvar=False)
    # Three standard errors of a correlation near 0 from 8,000 resamples.
    assert cell_correlation(*in_cells(memberships, differences)) == pytest.approx(
        expected, abs=0.034
    )


def in_cells(memberships: BoolArray, differences: FloatArray) -> tuple[BoolArray, IntArray]:
    patterns, cell = np.unique(memberships, axis=0, return_inverse=True)
    kinds = [(1, differences == 1), (2, differences == -1), (3, differences == 0)]
    cells = np.zeros((len(patterns), 4), dtype=np.int64)
    for column, rows in kinds:
        cells[:, column] = np.bincount(cell[rows], minlength=len(patterns))
    cells[:, 0] = cells[:, 3] // 3  # an arbitrary split into both right and neither
    cells[:, 3] -= cells[:, 0]
    return patterns, cells


def test_disjoint_groups_are_uncorrelated_and_identical_groups_fully_correlated() -> None:
    memberships = np.array([[True, False, True], [False, True, False]])
    actual = cell_correlation(memberships, np.array([[10, 10, 10, 10], [15, 15, 15, 15]]))
    assert actual == pytest.approx(np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]]), abs=1e-12)


@pytest.mark.parametrize("constant", [[9, 0, 0, 5], [0, 14, 0, 0], [0, 0, 14, 0]])
def test_a_group_that_does_not_vary_counts_as_uncorrelated(constant: list[int]) -> None:
    memberships = np.array([[True, True], [False, True]])
    correlation = cell_correlation(memberships, np.array([constant, [4, 7, 5, 0]]))
    assert correlation.tolist() == [[1, 0], [0, 1]]


def test_constant_groups_are_judged_as_independent() -> None:
    correlation = cell_correlation(np.eye(2, dtype=np.bool_), np.array([[5, 0, 0, 1]] * 2))
    assert correlation.tolist() == [[1, 0], [0, 1]]
    assert max_t(np.array([0.1, 0.2]), correlation, resamples=99, seed=0).min() > ALPHA


# ---- properties

some = st.integers(0, 60)
many = st.integers(0, 10**6)
any_counts = st.one_of(
    st.builds(counts_of, some, some, some, some), st.builds(counts_of, many, some, some, many)
).filter(lambda counts: counts.n > 0)
confidences = st.floats(0.5, 0.999)
margins = st.floats(0, 0.99)


def mirrored(counts: PairedCounts) -> PairedCounts:
    return counts_of(counts.both_right, counts.baseline_only, counts.candidate_only, counts.neither)


@settings(derandomize=True, deadline=None)
@given(any_counts, confidences)
def test_swapping_the_models_mirrors_the_interval(counts: PairedCounts, confidence: float) -> None:
    there = tango_interval(counts, confidence=confidence)
    back = tango_interval(mirrored(counts), confidence=confidence)
    assert (-there.high, -there.low) == pytest.approx(limits(back), abs=1e-9)


@settings(derandomize=True, deadline=None)
@given(any_counts, st.integers(1, 1_000), confidences)
def test_more_examples_where_both_agree_never_widen_the_interval(
    counts: PairedCounts, more: int, confidence: float
) -> None:
    # Not true of huge differences: see the next test.
    assume(abs(counts.difference) <= 0.5)
    before = tango_interval(counts, confidence=confidence)
    agreed = dataclasses.replace(counts, both_right=counts.both_right + more)
    after = tango_interval(agreed, confidence=confidence)
    assert width(after) <= width(before) + 1e-9


def test_an_example_where_both_agree_widens_the_interval_of_a_huge_difference() -> None:
    # Seven wins of seven leave less variance than seven of eight.
    before = tango_interval(out_of(7, 7, 0), confidence=0.95)
    after = tango_interval(out_of(8, 7, 0), confidence=0.95)
    assert (width(before), width(after)) == pytest.approx((0.7087, 0.7108), abs=1e-4)


@settings(derandomize=True, deadline=None)
@given(any_counts, confidences)
def test_an_interval_contains_the_difference_and_only_possible_values(
    counts: PairedCounts, confidence: float
) -> None:
    interval = tango_interval(counts, confidence=confidence)
    assert -1 - 1e-12 <= interval.low <= counts.difference <= interval.high <= 1 + 1e-12


@settings(derandomize=True, deadline=None)
@given(any_counts, margins, st.floats(0.001, 0.25))
def test_the_interval_excludes_the_margin_exactly_if_the_test_rejects(
    counts: PairedCounts, margin: float, alpha: float
) -> None:
    p_value = noninferiority_p_value(counts, margin=margin)
    low = tango_interval(counts, confidence=1 - 2 * alpha).low
    assume(abs(p_value - alpha) > 1e-6)
    assert (p_value < alpha) == (low > -margin)


@settings(derandomize=True, deadline=None)
@given(any_counts, margins)
def test_every_p_value_is_a_probability(counts: PairedCounts, margin: float) -> None:
    right = counts.both_right + counts.candidate_only
    noninferiority = noninferiority_p_value(counts, margin=margin)
    harm = harm_p_value(counts, margin=margin)
    p_values = [noninferiority, harm, binomial_p_value(right, counts.n, at_least=margin)]
    assert all(0 <= p_value <= 1 for p_value in p_values)
    assert noninferiority + harm == pytest.approx(1)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=30))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p_values: list[float]) -> None:
    raw = np.array(p_values, dtype=np.float64)
    adjusted = holm(raw)
    order = np.argsort(raw)
    assert np.all(adjusted >= raw)
    assert np.all(np.diff(adjusted[order]) >= 0)
    assert np.all(adjusted <= 1)


# ---- edge cases and bad input


@pytest.mark.parametrize("margin", [0.0, 1e-12])
def test_models_that_never_disagree_are_not_shown_to_be_better(margin: float) -> None:
    assert noninferiority_p_value(UNCHANGED, margin=margin) == pytest.approx(0.5, abs=1e-4)
    assert harm_p_value(UNCHANGED, margin=margin) == pytest.approx(0.5, abs=1e-4)


def test_z_is_zero_or_infinite_at_the_largest_differences() -> None:
    assert tango_z(out_of(5, 0, 5), -1.0) == 0
    assert tango_z(out_of(5, 0, 4), -1.0) == math.inf
    assert tango_z(out_of(5, 4, 0), 1.0) == -math.inf
    assert tango_interval(out_of(5, 0, 5), confidence=0.95).low == -1
    assert tango_interval(out_of(5, 5, 0), confidence=0.95).high == 1


def test_tiny_p_values_are_not_rounded_to_zero() -> None:
    assert 0 < harm_p_value(out_of(10_000, 0, 1_000), margin=0.02) < 1e-100
    assert 0 < noninferiority_p_value(out_of(10_000, 1_000, 0), margin=0.02) < 1e-100


SIZE = {"difference": 0.0, "discordance": 0.08, "margin": 0.02, "alpha": 0.05, "power": 0.8}
DRAWS: dict[str, Any] = {"confidence": 0.95, "resamples": 9, "seed": 0}
GROUP = np.ones((3, 1), dtype=np.bool_)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: counts_of(1, -1, 0, 0), "negative"),
        (lambda: tango_z(NO_COUNTS, 0.0), "no examples"),
        (lambda: tango_z(FAGERLAND, 1.5), "difference is 1.5"),
        (lambda: tango_z(FAGERLAND, math.nan), "difference is nan"),
        (lambda: tango_interval(NO_COUNTS, confidence=0.95), "no examples"),
        (lambda: tango_interval(FAGERLAND, confidence=95), "confidence is 95"),
        (lambda: noninferiority_p_value(NO_COUNTS, margin=0.02), "no examples"),
        (lambda: noninferiority_p_value(FAGERLAND, margin=-0.02), "margin is -0.02"),
        (lambda: harm_p_value(FAGERLAND, margin=math.nan), "margin is nan"),
        (lambda: harm_p_value(FAGERLAND, margin=1), "margin is 1"),
        (lambda: wilson_interval(0, 0, confidence=0.95), "0 of 0"),
        (lambda: wilson_interval(3, 2, confidence=0.95), "3 of 2"),
        (lambda: binomial_p_value(-1, 2, at_least=0.5), "-1 of 2"),
        (lambda: binomial_p_value(1, 2, at_least=math.nan), "at_least is nan"),
        (lambda: holm(np.array([0.1, math.nan])), "nan"),
        (lambda: holm(np.array([0.1, 1.1])), r"1\.1"),
        (lambda: holm(np.array([[0.1]])), "vector"),
        (lambda: max_t(np.array([]), np.eye(0), resamples=9, seed=0), "do not fit"),
        (lambda: max_t(np.zeros(2), np.eye(3), resamples=9, seed=0), "do not fit"),
        (lambda: max_t(np.array([math.nan]), np.eye(1), resamples=9, seed=0), "not a number"),
        (lambda: max_t(np.zeros(1), np.full((1, 1), np.nan), resamples=9, seed=0), "not a number"),
        (lambda: max_t(np.zeros(1), np.eye(1), resamples=0, seed=0), "resamples is 0"),
        (lambda: cell_correlation(GROUP, np.ones((3, 3), np.int64)), r"\(3, 3\)"),
        (lambda: cell_correlation(~GROUP, np.ones((3, 4), np.int64)), "group 0 has no examples"),
        (lambda: cell_correlation(GROUP, -np.ones((3, 4), np.int64)), "negative"),
        (lambda: cell_correlation(GROUP, np.ones((2, 4), np.int64)), r"expected \(3, 4\)"),
        (lambda: bca_interval(lambda _: 0.0, 1, **DRAWS), "there are 1 examples"),
        (lambda: bca_interval(lambda _: 0.0, 5, **DRAWS | {"confidence": 0}), "confidence is 0"),
        (lambda: bca_interval(lambda _: math.nan, 5, **DRAWS), "1 of 1 draws"),
        (lambda: mean_interval(1.0, 1.0, 1, confidence=0.95), "there are 1 examples"),
        (lambda: mean_interval(math.nan, 1.0, 5, confidence=0.95), "cannot have"),
        (lambda: mean_interval(5.0, 1.0, 5, confidence=0.95), "cannot have"),
        (lambda: sample_size(**SIZE | {"difference": -0.02}), "no number of examples"),
        (lambda: sample_size(**SIZE | {"margin": 0.0}), "no number of examples"),
        (lambda: sample_size(**SIZE | {"difference": 0.1}), "discordance is 0.08"),
        (lambda: sample_size(**SIZE | {"difference": math.nan}), "discordance"),
        (lambda: sample_size(**SIZE | {"margin": 1.0}), "margin is 1"),
        (lambda: sample_size(**SIZE | {"alpha": 5.0}), "alpha is 5"),
        (lambda: sample_size(**SIZE | {"power": 1.0}), "power is 1;"),
    ],
)
def test_bad_input_is_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(GateInputError, match=message):
        call()


def test_import_does_not_load_scipy() -> None:
    code = "import sys, gates.evaluation.statistics as _; "
    code += "sys.exit(any(m.startswith('scipy') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
