"""Tests and confidence intervals for two models on the same examples.

Both models are scored on the same examples, so only the examples on which they disagree show which
is better. A difference is always candidate minus baseline: negative means that the candidate is
worse. Confidence, alpha, power, margins and accuracies are fractions, not percentages.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from gates.errors import GateInputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.int64]

# Vectors that are drawn at a time: 3 MB with 20 groups, which fits into a cache.
_BLOCK_ROWS = 16_384
# The most parts that a jackknife leaves out in turn. The acceleration from k parts has a standard
# error of about 0.4 / k, which at 1,000 moves a limit by less than a hundredth of its distance.
_JACKKNIFE_PARTS = 1_000
# A spread smaller than this, relative to the numbers, is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, kw_only=True)
class PairedCounts:
    """How often two models were right on the same examples.

    Raises:
        GateInputError: a count is negative.
    """

    both_right: int
    candidate_only: int
    baseline_only: int
    neither: int

    def __post_init__(self) -> None:
        if min(self.both_right, self.candidate_only, self.baseline_only, self.neither) < 0:
            msg = f"a count of examples is negative: {self}"
            raise GateInputError(msg)

    @property
    def n(self) -> int:
        """How many examples both models answered."""
        return self.both_right + self.candidate_only + self.baseline_only + self.neither

    @property
    def candidate_right(self) -> int:
        """How many the candidate got right."""
        return self.both_right + self.candidate_only

    @property
    def baseline_right(self) -> int:
        """How many the baseline got right."""
        return self.both_right + self.baseline_only

    @property
    def difference(self) -> float:
        """The candidate's accuracy minus the baseline's."""
        return (self.candidate_only - self.baseline_only) / _examples(self)

    @property
    def discordance(self) -> float:
        """The share of the examples on which exactly one of the two is right."""
        return (self.candidate_only + self.baseline_only) / _examples(self)


@dataclass(frozen=True)
class Interval:
    """A confidence interval, both limits included."""

    low: float
    high: float


def tango_z(counts: PairedCounts, difference: float) -> float:
    """Return how many standard errors the counts lie above a hypothesised true difference.

    The standard error is computed under the hypothesis, not from the data. So it does not vanish if
    the models never disagree, and the test keeps its level at small counts. The result is 0 if the
    counts are exactly as hypothesised.

    >>> counts = PairedCounts(both_right=43, candidate_only=0, baseline_only=1, neither=0)
    >>> round(tango_z(counts, -0.1), 3)
    1.709

    Args:
        counts: the two models' answers.
        difference: the hypothesised true difference of the accuracies, in [-1, 1].

    Raises:
        GateInputError: there are no examples, or `difference` is outside [-1, 1].

    Source: Tango (1998), Statistics in Medicine 17:891-908.
    """
    if not -1 <= difference <= 1:
        msg = f"difference is {difference:g}; expected a fraction in [-1, 1]"
        raise GateInputError(msg)
    n = _examples(counts)
    surplus = counts.candidate_only - counts.baseline_only - n * difference
    if surplus == 0:
        return 0.0
    shares = counts.candidate_only / n, counts.baseline_only / n
    variance = n * _constrained_variance(*shares, difference)
    # At a difference of -1 or 1 nothing can vary, so any surplus is impossible.
    return surplus / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, surplus)


def tango_interval(counts: PairedCounts, *, confidence: float) -> Interval:
    """Return the confidence interval of the difference of the accuracies.

    Its lower limit is above -margin exactly if `noninferiority_p_value` is below
    (1 - confidence) / 2.

    >>> counts = PairedCounts(both_right=20, candidate_only=9, baseline_only=3, neither=0)
    >>> interval = tango_interval(counts, confidence=0.95)
    >>> round(interval.low, 3), round(interval.high, 3)
    (-0.027, 0.39)

    Args:
        counts: the two models' answers.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        GateInputError: there are no examples, or `confidence` is outside (0, 1).

    Source: Tango (1998), Statistics in Medicine 17:891-908.
    """
    z = _two_sided_z(confidence)
    return Interval(
        low=_bisect(lambda delta: tango_z(counts, delta) < z, -1.0, counts.difference),
        high=_bisect(lambda delta: tango_z(counts, delta) <= -z, counts.difference, 1.0),
    )


def noninferiority_p_value(counts: PairedCounts, *, margin: float) -> float:
    """Return how likely a result this good is if the candidate is worse by `margin`.

    With a margin of 0 this is McNemar's one-sided asymptotic test for superiority. If the models
    never disagree, a margin of 0 gives 0.5, which is also the limit of ever smaller margins:
    nothing is shown.

    >>> counts = PairedCounts(both_right=43, candidate_only=0, baseline_only=1, neither=0)
    >>> round(noninferiority_p_value(counts, margin=0.1), 4)
    0.0438

    Args:
        counts: the two models' answers.
        margin: accuracy that may be lost, a fraction in [0, 1).

    Returns:
        One-sided p-value in [0, 1]. Small: shown not to be worse by the margin.

    Raises:
        GateInputError: there are no examples, or `margin` is outside [0, 1).

    Source: Tango (1998), Statistics in Medicine 17:891-908.
    """
    _check_margin(margin)
    return _normal_cdf(-tango_z(counts, -margin))


def harm_p_value(counts: PairedCounts, *, margin: float) -> float:
    """Return how likely a result this bad is if the candidate is worse by no more than `margin`.

    This is one minus `noninferiority_p_value`, without the loss of digits. Both cannot be small; if
    neither is, the examples do not settle the question.

    Args:
        counts: the two models' answers.
        margin: accuracy that may be lost, a fraction in [0, 1).

    Returns:
        One-sided p-value in [0, 1]. Small: shown to be worse by more than the margin.

    Raises:
        GateInputError: there are no examples, or `margin` is outside [0, 1).

    Source: Tango (1998), Statistics in Medicine 17:891-908.
    """
    _check_margin(margin)
    return _normal_cdf(tango_z(counts, -margin))


def wilson_interval(right: int, n: int, *, confidence: float) -> Interval:
    """Return the confidence interval of an accuracy, given `right` of `n` answers.

    Args:
        right: how many answers are right.
        n: how many answers there are.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        GateInputError: `n` is not positive, `right` is outside [0, n], or `confidence` is
            outside (0, 1).

    Source: Wilson (1927), Journal of the American Statistical Association 22:209-212.
    """
    _check_right(right, n)
    z = _two_sided_z(confidence)
    wrong = n - right
    center = right + z * z / 2
    spread = z * math.sqrt(right * wrong / n + z * z / 4)
    return Interval(
        low=(center - spread) / (n + z * z) if right else 0.0,
        high=(center + spread) / (n + z * z) if wrong else 1.0,
    )


def binomial_p_value(right: int, n: int, *, at_least: float) -> float:
    """Return how likely it is to get so few answers right if the accuracy is `at_least` or more.

    >>> binomial_p_value(0, 3, at_least=0.5)
    0.125

    Args:
        right: how many answers are right.
        n: how many answers there are.
        at_least: the lowest accuracy that is accepted, in [0, 1].

    Returns:
        Exact one-sided p-value in [0, 1]. Small: the accuracy is shown to be lower.

    Raises:
        GateInputError: `n` is not positive, or `right` or `at_least` is outside its range.

    Source: Clopper & Pearson (1934), Biometrika 26:404-413.
    """
    _check_right(right, n)
    if not 0 <= at_least <= 1:
        msg = f"at_least is {at_least:g}; expected an accuracy, a fraction in [0, 1]"
        raise GateInputError(msg)
    return _binomial_cdf(right, n, at_least)


def holm(p_values: FloatArray) -> FloatArray:
    """Return the p-values adjusted for multiple testing, in the order given.

    If the adjusted p-values below alpha are rejected, the probability of one or more false alarms
    is at most alpha, however the tests depend on one another.

    >>> [round(p, 2) for p in holm(np.array([0.01, 0.04, 0.03, 0.005])).tolist()]
    [0.03, 0.06, 0.06, 0.02]

    Args:
        p_values: (n_tests,) each in [0, 1].

    Returns:
        (n_tests,) adjusted p-values in [0, 1], none below its raw one.

    Raises:
        GateInputError: `p_values` is not a vector, or a p-value is NaN or outside [0, 1].

    Source: Holm (1979), Scandinavian Journal of Statistics 6:65-70.
    """
    if p_values.ndim != 1 or not np.all((p_values >= 0) & (p_values <= 1)):
        msg = f"p-values to adjust are {p_values}; expected a vector of numbers in [0, 1]"
        raise GateInputError(msg)
    order = np.argsort(p_values)
    n_remaining = np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.maximum.accumulate(p_values[order] * n_remaining)
    return np.minimum(adjusted, 1.0)


def max_t(
    z_values: FloatArray, correlation: FloatArray, *, resamples: int, seed: int
) -> FloatArray:
    """Return the one-sided p-values of many low z-values, adjusted for their correlation.

    Each is the probability that the lowest of all z-values would be as low as this one if no group
    were harmed. Groups that share examples lose less power here than under `holm`, which must allow
    for the worst dependence. This is the Gaussian multiplier bootstrap: given the data, the
    multiplied sums are jointly normal, so they are drawn directly, at a cost that does not depend
    on the number of examples. A group may equal another group, or the sum of others.

    Args:
        z_values: (n_groups,) the test statistics; low ones are evidence of harm.
        correlation: (n_groups, n_groups) of the z-values, as `cell_correlation` gives it.
        resamples: how many vectors are drawn; no result is below 1 / (resamples + 1).
        seed: the same seed gives the same p-values.

    Returns:
        (n_groups,) single-step adjusted p-values in (0, 1].

    Raises:
        GateInputError: the shapes do not fit, a number is NaN, or `resamples` is not positive.

    Sources: Hothorn, Bretz & Westfall (2008), Biometrical Journal 50:346-363; Chernozhukov,
    Chetverikov & Kato (2013), Annals of Statistics 41:2786-2819; the added one: Phipson & Smyth
    (2010), Statistical Applications in Genetics and Molecular Biology 9(1):39.
    """
    _check_z_values(z_values, correlation)
    _check_resamples(resamples)
    variances, axes = np.linalg.eigh(correlation)
    # A singular matrix has variances of 0, which rounding may have made negative.
    root = axes * np.sqrt(np.maximum(variances, 0.0))
    rng = np.random.default_rng(seed)
    as_low = np.zeros(len(z_values), dtype=np.int64)
    for start, stop in _blocks(resamples):
        lowest = np.sort((rng.standard_normal((stop - start, len(root))) @ root.T).min(axis=1))
        as_low += np.searchsorted(lowest, z_values, side="right")
    return (as_low + 1) / (resamples + 1)


def cell_correlation(cell_memberships: BoolArray, cells: IntArray) -> FloatArray:
    """Return the correlation of the groups' mean differences of accuracy.

    A cell holds the examples that are in the same groups, such as one digit of one thickness. A
    group whose examples all have the same difference does not vary. It counts as uncorrelated,
    which is the conservative choice in `max_t`.

    Args:
        cell_memberships: (n_cells, n_groups) True if the cell is part of the group; groups may
            overlap.
        cells: (n_cells, 4) counts of examples: both right, candidate only, baseline only, neither.

    Returns:
        (n_groups, n_groups) correlation matrix.

    Raises:
        GateInputError: the shapes do not fit, a group is empty, or a count is negative.
    """
    if cells.shape != (len(cell_memberships), 4) or np.any(cells < 0):
        msg = f"counts have shape {cells.shape}; expected ({len(cell_memberships)}, 4), "
        msg += "one row per cell, and none negative"
        raise GateInputError(msg)
    # A cell has three kinds of examples: wins, losses and ties.
    weights = np.concatenate([cells[:, 1], cells[:, 2], cells[:, 0] + cells[:, 3]]).astype(float)
    memberships = np.tile(cell_memberships, (3, 1))
    differences = np.repeat([1.0, -1.0, 0.0], len(cells))
    sizes = weights @ memberships
    if not np.all(sizes > 0):
        msg = f"group {int(np.argmin(sizes))} has no examples; leave empty groups out"
        raise GateInputError(msg)
    means = (weights * differences) @ memberships / sizes
    deviations = memberships * (differences[:, np.newaxis] - means)
    covariance = (deviations.T * weights) @ deviations
    return _to_correlation(covariance, rounding=_ROUNDING**2 * float(weights @ differences**2))


def bca_interval(
    statistic: Callable[[IntArray], float], n: int, *, confidence: float, resamples: int, seed: int
) -> Interval:
    """Return the BCa bootstrap interval of a metric that is not a mean over examples.

    The interval is bias-corrected and accelerated: it adapts to a skewed or biased metric, and does
    not depend on the metric's scale. `statistic` is called at most `resamples` + 1,001 times:
    beyond 1,000 examples the jackknife leaves out random parts instead of single examples. Only one
    resample of rows is in memory at a time. A metric that does not vary gives an interval of one
    point.

    Args:
        statistic: takes (n,) row indices, some repeated and others absent (fewer than n in the
            jackknife); returns the metric on these rows, or the difference of two models' metrics.
        n: how many examples there are, 2 or more.
        confidence: of the two-sided interval, in (0, 1).
        resamples: how often the examples are resampled.
        seed: the same seed gives the same interval.

    Raises:
        GateInputError: `n` is below 2, `confidence` or `resamples` is out of range, or the metric
            is not finite on some of the rows drawn.

    Sources: Efron (1987), Journal of the American Statistical Association 82:171-185; the
    jackknife by parts: Davison & Hinkley (1997), Bootstrap Methods, section 3.2.1.
    """
    _check_two_examples(n)
    _check_resamples(resamples)
    rng = np.random.default_rng(seed)
    rows = np.arange(n)
    draws = (rng.integers(n, size=n) for _ in range(resamples))
    observed = _evaluate(statistic, iter([rows]), 1)
    replicates = _evaluate(statistic, draws, resamples)
    parts = np.array_split(rng.permutation(n), min(n, _JACKKNIFE_PARTS))
    left_out = _evaluate(statistic, (np.delete(rows, part) for part in parts), len(parts))
    return _bca(
        replicates,
        float(observed[0]),
        acceleration=_acceleration(left_out.mean() - left_out, np.ones(len(parts))),
        confidence=confidence,
    )


def mean_interval(total: float, total_of_squares: float, n: int, *, confidence: float) -> Interval:
    """Return the normal interval of a mean, from sums taken in one pass over the examples.

    For means of paired differences over many examples, such as of the log loss. For few examples of
    a skewed metric, use `bca_interval`.

    Args:
        total: the sum of the differences.
        total_of_squares: the sum of their squares.
        n: how many examples there are, 2 or more.
        confidence: of the two-sided interval, in (0, 1).

    Raises:
        GateInputError: `n` is below 2, a sum is not finite, the sum of squares is too small for
            the total, or `confidence` is outside (0, 1).
    """
    _check_two_examples(n)
    mean = total / n
    squared_deviations = total_of_squares - total * mean
    # Rounding may leave slightly less than 0 if all differences are equal.
    if not -_ROUNDING * n * total_of_squares <= squared_deviations < math.inf:
        msg = f"{n:,} numbers cannot have a sum of {total:g} and a sum of squares of "
        msg += f"{total_of_squares:g}"
        raise GateInputError(msg)
    standard_error = math.sqrt(max(squared_deviations, 0.0) / (n - 1) / n)
    half_width = _two_sided_z(confidence) * standard_error
    return Interval(mean - half_width, mean + half_width)


def sample_size(
    *, difference: float, discordance: float, margin: float, alpha: float, power: float
) -> int:
    """Return how many examples are needed to show that the candidate is not worse by `margin`.

    >>> sample_size(difference=0, discordance=0.08, margin=0.02, alpha=0.05, power=0.8)
    1237

    This is the normal approximation, which is slightly optimistic if disagreement is rare: at a
    margin of 0.02, a discordance of 0.04 gives a power of 0.77 instead of 0.8, but one of 0.15
    gives 0.8. The result is never below the number at which the expected counts themselves pass, so
    models that never disagree need z^2 (1 - margin) / margin examples.

    Args:
        difference: the assumed true difference; 0 for an equally good candidate.
        discordance: the share of the examples on which exactly one of the two is right.
        margin: accuracy that may be lost, a fraction in [0, 1).
        alpha: the level of `noninferiority_p_value`, in (0, 1).
        power: the probability that it is shown, in (0, 1).

    Raises:
        GateInputError: an argument is out of range, |difference| exceeds `discordance`, or
            `difference` is -margin or worse, for which no number of examples is enough.

    Source: the variance of Tango (1998), Statistics in Medicine 17:891-908, at its assumed value.
    """
    _check_margin(margin)
    _check_discordance(discordance, at_least=abs(difference))
    if not difference > -margin:
        msg = f"difference is {difference:g}: no number of examples shows that a candidate that is "
        msg += f"worse by {margin:g} or more is not worse by {margin:g}"
        raise GateInputError(msg)
    z_alpha = -_normal_quantile(alpha, name="alpha")
    z = z_alpha + _normal_quantile(power, name="power")
    shares = (discordance + difference) / 2, (discordance - difference) / 2
    likely = max(z, 0.0) ** 2 * (discordance - difference**2)
    possible = max(z_alpha, 0.0) ** 2 * _constrained_variance(*shares, -margin)
    return max(1, math.ceil(max(likely, possible) / (margin + difference) ** 2))


def _normal_cdf(z: float) -> float:
    """Return the probability of a standard normal value below `z`, exact in both tails."""
    return math.erfc(-z / math.sqrt(2)) / 2


def _normal_quantile(probability: float, *, name: str) -> float:
    """Return the standard normal value with `probability` below it."""
    if not 0 < probability < 1:
        msg = f"{name} is {probability:g}; expected a fraction between 0 and 1"
        raise GateInputError(msg)
    return NormalDist().inv_cdf(probability)


def _two_sided_z(confidence: float) -> float:
    """Return how many standard errors a two-sided interval reaches to each side."""
    _normal_quantile(confidence, name="confidence")
    return -NormalDist().inv_cdf((1 - confidence) / 2)


def _binomial_cdf(count: int, n: int, share: float) -> float:
    """Return the probability of at most `count` successes in `n` draws with chance `share` each."""
    # Takes 0.3 s to import, and only these tests need it.
    from scipy.special import betaincc  # noqa: PLC0415

    if count >= n:
        return 1.0
    return float(betaincc(count + 1, n - count, share)) if count >= 0 else 0.0


def _constrained_variance(candidate_only: float, baseline_only: float, difference: float) -> float:
    """Return the variance of one example's difference under a hypothesised true difference.

    Args:
        candidate_only: the share of examples that only the candidate gets right.
        baseline_only: the share that only the baseline gets right.
        difference: the hypothesised true difference, in [-1, 1].
    """
    # The likeliest value of baseline_only is the upper root of 2 x^2 + linear x + constant.
    linear = (2 - candidate_only + baseline_only) * difference - candidate_only - baseline_only
    constant = -baseline_only * difference * (1 - difference)
    likeliest = (math.sqrt(max(linear**2 - 8 * constant, 0.0)) - linear) / 4
    return max(2 * likeliest + difference * (1 - difference), 0.0)


def _bisect(is_above: Callable[[float], bool], low: float, high: float) -> float:
    """Return where `is_above` turns from False to True between `low` and `high`."""
    while low < (middle := (low + high) / 2) < high:
        if is_above(middle):
            high = middle
        else:
            low = middle
    return middle


def _to_correlation(covariance: FloatArray, *, rounding: float) -> FloatArray:
    """Return the correlation; variances up to `rounding` count as 0 and as uncorrelated."""
    variances = covariance.diagonal()
    varies = variances > rounding
    scale = np.where(varies, np.sqrt(np.where(varies, variances, 1.0)), np.inf)
    correlation: FloatArray = np.clip(covariance / np.outer(scale, scale), -1.0, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the row after the last of each block."""
    for start in range(0, n, _BLOCK_ROWS):
        yield start, min(start + _BLOCK_ROWS, n)


def _evaluate(
    statistic: Callable[[IntArray], float], draws: Iterator[IntArray], n_draws: int
) -> FloatArray:
    """Return (n_draws,) the metric on the rows of each draw."""
    metrics = np.fromiter((statistic(rows) for rows in draws), np.float64, n_draws)
    broken = n_draws - int(np.count_nonzero(np.isfinite(metrics)))
    if broken:
        msg = f"the metric is not finite on {broken:,} of {n_draws:,} draws of the examples; "
        msg += "score more examples, or give the metric a value where it is undefined"
        raise GateInputError(msg)
    return metrics


def _acceleration(influences: FloatArray, weights: npt.NDArray[np.number]) -> float:
    """Return a sixth of the influences' skewness, which is always within 1/6 of 0."""
    squares = float(weights @ influences**2)
    return float(weights @ influences**3) / (6 * squares**1.5) if squares > 0 else 0.0


def _bca(
    replicates: FloatArray, observed: float, *, acceleration: float, confidence: float
) -> Interval:
    """Return the bootstrap interval, corrected for bias and skewness."""
    n = len(replicates)
    z = _two_sided_z(confidence)
    below = np.count_nonzero(replicates < observed) + np.count_nonzero(replicates <= observed)
    # At least half a replicate from the ends, so that an observation beyond all of them does not
    # give an infinite bias.
    bias = NormalDist().inv_cdf(min(max(below / 2, 0.5), n - 0.5) / n)
    low, high = np.quantile(
        replicates, [_corrected_level(bias, side, acceleration) for side in (-z, z)]
    )
    return Interval(float(low), float(high))


def _corrected_level(bias: float, z: float, acceleration: float) -> float:
    """Return the level of the replicates' quantile that corresponds to `z`."""
    shifted = bias + z
    stretch = 1 - acceleration * shifted
    # Beyond the pole, at least six standard errors out, take the outermost replicate.
    return _normal_cdf(
        bias + shifted / stretch if stretch > 0 else math.copysign(math.inf, shifted)
    )


def _examples(counts: PairedCounts) -> int:
    """Return how many examples there are; refuse counts without any."""
    if counts.n == 0:
        msg = "there are no examples to compare on"
        raise GateInputError(msg)
    return counts.n


def _check_margin(margin: float) -> None:
    if not 0 <= margin < 1:
        msg = f"margin is {margin:g}; expected a fraction in [0, 1)"
        raise GateInputError(msg)


def _check_right(right: int, n: int) -> None:
    if not 0 <= right <= n or n == 0:
        msg = f"{right:,} of {n:,} answers are right; expected 1 or more answers, and at most all "
        msg += "of them right"
        raise GateInputError(msg)


def _check_discordance(discordance: float, *, at_least: float) -> None:
    if not at_least <= discordance <= 1:
        msg = f"discordance is {discordance:g}; expected a fraction in [{at_least:g}, 1]"
        raise GateInputError(msg)


def _check_resamples(resamples: int) -> None:
    if resamples < 1:
        msg = f"resamples is {resamples}; expected 1 or more"
        raise GateInputError(msg)


def _check_two_examples(n: int) -> None:
    if n < 2:  # noqa: PLR2004 - one example shows no variation
        msg = f"there are {n} examples; expected 2 or more, as one shows no variation"
        raise GateInputError(msg)


def _check_z_values(z_values: FloatArray, correlation: FloatArray) -> None:
    n = len(z_values)
    if z_values.shape != (n,) or correlation.shape != (n, n) or n == 0:
        msg = f"{z_values.shape} z-values do not fit a correlation of shape {correlation.shape}"
        raise GateInputError(msg)
    if np.isnan(z_values).any() or not np.isfinite(correlation).all():
        msg = "a z-value or a correlation is not a number"
        raise GateInputError(msg)
