import dataclasses
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gates.errors import ConfigError, GateError, GateInputError
from gates.evaluation.comparison import accept_without_baseline, compare
from gates.evaluation.predictions import Predictions
from gates.evaluation.statistics import PairedCounts, sample_size, tango_interval
from gates.verdicts.verdict import Finding, Outcome, Verdict
from tests import judged
from tests.judged import (
    BASELINE,
    CANDIDATE,
    CONFIG,
    DATA,
    in_order,
    metric,
    pair,
    scored,
    written,
)

# Reproducible; all examples of a test share its folder, which is harmless here.
few_examples = settings(
    derandomize=True,
    deadline=None,
    max_examples=15,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def judge(
    folder: Path,
    both: tuple[Predictions, Predictions],
    changes: Mapping[str, Any] | None = None,
    **options: bool,
) -> Verdict:
    candidate, baseline = both
    return compare(
        written(candidate, folder, "candidate"),
        written(baseline, folder, "baseline"),
        judged.policy(folder, changes),
        **options,
    )


def refusal(
    folder: Path, both: tuple[Predictions, Predictions], changes: Mapping[str, Any] | None = None
) -> str:
    with pytest.raises(GateError) as raised:
        judge(folder, both, changes)
    return str(raised.value)


def finding(verdict: Verdict, check: str = "accuracy", group: str = "overall") -> Finding:
    (found,) = [each for each in verdict.findings if (each.check, each.group) == (check, group)]
    return found


def with_groups(
    both: tuple[Predictions, Predictions], **columns: list[str]
) -> tuple[Predictions, Predictions]:
    subgroups = {name: np.array(values) for name, values in columns.items()}
    candidate, baseline = both
    return (
        dataclasses.replace(candidate, subgroups=subgroups),
        dataclasses.replace(baseline, subgroups=subgroups),
    )


# ---- all examples


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        pytest.param((900, 50, 0, 50), Outcome.PASS, id="better"),
        pytest.param((900, 20, 20, 60), Outcome.PASS, id="equal"),
        pytest.param((950, 0, 5, 45), Outcome.PASS, id="worse_within_the_margin"),
        # The estimate is within the margin, but its interval is not.
        pytest.param((900, 40, 55, 5), Outcome.INCONCLUSIVE, id="undecided"),
        # 0.88 - 0.90 is -0.020000000000000018 in floats: not more than the margin.
        pytest.param((880, 0, 20, 100), Outcome.INCONCLUSIVE, id="worse_by_the_margin"),
        pytest.param((879, 0, 21, 100), Outcome.FAIL, id="one_example_beyond_the_margin"),
        pytest.param((870, 0, 30, 100), Outcome.FAIL, id="three_points_worse"),
        pytest.param((0, 0, 900, 100), Outcome.FAIL, id="never_right"),
        pytest.param((50, 0, 0, 0), Outcome.INCONCLUSIVE, id="too_few"),
        pytest.param((1, 0, 0, 0), Outcome.INCONCLUSIVE, id="one_example"),
        pytest.param((48, 0, 2, 0), Outcome.FAIL, id="four_points_worse_on_few"),
    ],
)
def test_outcome_of_accuracy_on_all_examples(
    folder: Path, counts: tuple[int, int, int, int], outcome: Outcome
) -> None:
    verdict = judge(folder, pair(*counts))
    assert verdict.outcome is outcome
    assert finding(verdict).outcome == outcome


@pytest.mark.parametrize("n", [132, 133])
def test_models_that_never_differ_need_133_examples(folder: Path, n: int) -> None:
    # Published: ceil(z^2 (1 - margin) / margin) at a margin of 0.02.
    outcome = judge(folder, pair(n, 0, 0, 0)).outcome
    assert outcome is (Outcome.PASS if n == 133 else Outcome.INCONCLUSIVE)


def test_inconclusive_verdict_says_how_many_examples_would_settle_it(folder: Path) -> None:
    verdict = judge(folder, pair(46, 2, 2, 0))
    expected = sample_size(difference=0, discordance=0.08, margin=0.02, alpha=0.05, power=0.8)
    assert expected == 1237  # published: shared/facts, Tango's variance
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert verdict.n_needed == finding(verdict).n_needed == 1237
    assert "1,237 examples would settle it, 1,187 more" in verdict.reason


def test_no_sample_size_is_promised_if_none_would_settle_it(folder: Path) -> None:
    verdict = judge(folder, pair(880, 0, 20, 100))
    assert verdict.n_needed is None
    assert "no number of examples would settle it" in verdict.reason


def test_margin_of_zero_allows_no_loss(folder: Path) -> None:
    no_margin = {"accuracy.margin": 0.0}
    assert judge(folder, pair(999, 0, 1, 0), no_margin).outcome is Outcome.FAIL
    assert judge(folder, pair(1000, 0, 0, 0), no_margin).outcome is Outcome.INCONCLUSIVE
    verdict = judge(folder, pair(980, 20, 0, 0), no_margin)
    assert verdict.outcome is Outcome.PASS
    assert '"limit": 0.0' in verdict.to_json()


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        pytest.param((900, 30, 5, 65), Outcome.PASS, id="better"),
        pytest.param((900, 20, 20, 60), Outcome.INCONCLUSIVE, id="equal"),
        pytest.param((900, 0, 10, 90), Outcome.FAIL, id="worse_within_the_margin"),
        pytest.param((900, 0, 30, 70), Outcome.FAIL, id="worse_beyond_the_margin"),
    ],
)
def test_superiority_can_be_required(
    folder: Path, counts: tuple[int, int, int, int], outcome: Outcome
) -> None:
    assert judge(folder, pair(*counts), {"accuracy.require": "superiority"}).outcome is outcome


def test_verdict_of_a_worked_example(folder: Path) -> None:
    verdict = judge(folder, pair(870, 10, 40, 80))
    assert verdict.gate == "evaluation"
    assert verdict.reason == (
        "accuracy 0.9100 -> 0.8800 (-0.0300) on 1,000 held-out examples: "
        "accuracy, overall: worse by more than the margin of 0.0200"
    )
    expected = {"accuracy": 0.88, "baseline_accuracy": 0.91, "difference": -0.03}
    assert verdict.metrics == pytest.approx(expected)
    overall = finding(verdict)
    interval = tango_interval(
        PairedCounts(both_right=870, candidate_only=10, baseline_only=40, neither=80),
        confidence=0.9,
    )
    assert overall.interval == (interval.low, interval.high)
    assert (overall.n, overall.limit, overall.confidence) == (1000, -0.02, 0.9)
    assert verdict.policy["metrics.accuracy.margin"] == 0.02


def test_verdict_lists_the_digests_of_all_its_inputs(folder: Path) -> None:
    verdict = judge(folder, pair(900, 0, 0, 100))
    files = {name: _sha256(folder / name) for name in ("candidate.parquet", "baseline.parquet")}
    assert verdict.evidence == {
        "checkpoint": CANDIDATE,
        "config": CONFIG,
        "data": DATA,
        "baseline": BASELINE,
        "policy": _sha256(folder / "policy.yaml"),
        "predictions": files["candidate.parquet"],
        "baseline_predictions": files["baseline.parquet"],
    }


def _sha256(file: Path) -> str:
    import hashlib  # noqa: PLC0415 - independent of the code under test

    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---- floors


@pytest.mark.parametrize(
    ("right", "outcome"),
    [
        pytest.param(60, Outcome.PASS, id="at_the_floor"),
        pytest.param(59, Outcome.INCONCLUSIVE, id="just_below"),
        pytest.param(40, Outcome.FAIL, id="shown_to_be_below"),
    ],
)
def test_floor_applies_regardless_of_the_baseline(
    folder: Path, right: int, outcome: Outcome
) -> None:
    both = pair(right, 0, 0, 100 - right)
    verdict = judge(folder, both, {"accuracy.floor": 0.6, "accuracy.margin": 0.2})
    assert finding(verdict, "accuracy floor").outcome == outcome
    assert finding(verdict).outcome == Outcome.PASS
    assert verdict.outcome is outcome


def test_inconclusive_floor_says_how_many_examples_would_settle_it(folder: Path) -> None:
    # (1.6449 sqrt(.6 * .4) + .8416 sqrt(.5 * .5))^2 / .1^2, Fleiss et al. (2003), section 2.5
    verdict = judge(folder, pair(10, 0, 0, 10), {"accuracy.floor": 0.6, "accuracy.margin": 0.5})
    assert finding(verdict, "accuracy floor").n_needed == 151
    assert verdict.n_needed == 151
    assert "151 examples would settle it, 131 more" in verdict.reason


def test_subgroup_below_its_floor_is_named(folder: Path) -> None:
    both = with_groups(
        pair(900, 0, 0, 100), kind=["good"] * 880 + ["bad"] * 120
    )  # 20 of 120 are right
    changes = {"subgroups.columns": {"kind": []}, "subgroups.floor": 0.5}
    verdict = judge(folder, both, changes)
    assert verdict.outcome is Outcome.FAIL
    assert "accuracy floor, kind=bad: accuracy 0.1667 is below the floor 0.5000" in verdict.reason
    assert finding(verdict, "accuracy floor", "kind=good").outcome == Outcome.PASS


# ---- subgroups


def pair_with_harmed_group(
    harmed: int, n: int = 1000, groups: int = 10
) -> tuple[Predictions, Predictions]:
    """Return a pair where the last group loses `harmed` answers and all others gain."""
    size = n // groups
    kinds = [f"g{row // size}" for row in range(n)]
    theirs = np.ones(n, dtype=np.bool_)
    theirs[: (groups - 1) * size : groups] = False  # candidate wins a tenth of these
    ours = np.ones(n, dtype=np.bool_)
    ours[n - harmed :] = False
    both = scored(ours), scored(theirs, checkpoint_digest=BASELINE)
    return with_groups(both, kind=kinds)


@pytest.mark.parametrize("correction", ["holm", "max_t"])
def test_one_harmed_subgroup_fails_and_is_named(folder: Path, correction: str) -> None:
    changes = {"subgroups.columns": {"kind": []}, "subgroups.correction": correction}
    verdict = judge(folder, pair_with_harmed_group(harmed=40), changes)
    assert verdict.metrics["difference"] == pytest.approx(0.05)
    assert finding(verdict).outcome == Outcome.PASS
    assert verdict.outcome is Outcome.FAIL
    failed = [each.group for each in verdict.findings if each.outcome == Outcome.FAIL]
    assert failed == ["kind=g9"]
    assert "accuracy, kind=g9: worse by more than 0.0500" in verdict.reason


def test_harm_must_be_shown_after_correction(folder: Path) -> None:
    # Six points beyond the margin: significant for a single subgroup, but not for one of ten.
    changes: dict[str, Any] = {"subgroups.columns": {"kind": []}}
    verdict = judge(folder, pair_with_harmed_group(harmed=11), changes)
    found = finding(verdict, group="kind=g9")
    assert found.p_value is not None
    assert found.adjusted_p_value is not None
    assert found.p_value < 0.05 <= found.adjusted_p_value
    assert found.adjusted_p_value == pytest.approx(10 * found.p_value)
    assert verdict.outcome is Outcome.PASS


def test_noninferiority_of_each_subgroup_can_be_required(folder: Path) -> None:
    changes = {"subgroups.columns": {"kind": []}, "subgroups.require": "noninferiority"}
    verdict = judge(folder, pair_with_harmed_group(harmed=4), changes)
    assert verdict.outcome is Outcome.INCONCLUSIVE
    found = finding(verdict, group="kind=g9")
    assert found.n_needed is not None
    assert found.n_needed > 100
    # The total over all examples, a tenth of which are in that subgroup.
    assert verdict.n_needed == 10 * found.n_needed
    assert judge(folder, pair_with_harmed_group(harmed=0, n=2000), changes).outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("too_small", "outcome", "found"),
    [
        ("report", Outcome.PASS, "not judged"),
        ("inconclusive", Outcome.INCONCLUSIVE, "inconclusive"),
        ("fail", Outcome.FAIL, "fail"),
    ],
)
@pytest.mark.parametrize("has_baseline", [True, False])
def test_too_small_subgroup_is_treated_as_the_policy_says(
    folder: Path, too_small: str, outcome: Outcome, found: str, *, has_baseline: bool
) -> None:
    both = with_groups(pair(1000, 0, 0, 0), kind=["many"] * 991 + ["few"] * 9)
    changes = {"subgroups.columns": {"kind": []}, "subgroups.too_small": too_small}
    if has_baseline:
        verdict = judge(folder, both, changes)
    else:
        candidate = written(both[0], folder, "candidate")
        rules = judged.policy(folder, changes)
        verdict = accept_without_baseline(candidate, rules, why="first")
    small = finding(verdict, group="kind=few")
    assert (small.outcome, small.n) == (found, 9)
    assert small.reason == "has 9 examples, fewer than 10"
    assert verdict.outcome is outcome
    if too_small == "report":
        assert "not judged, because there are too few examples: kind=few (9)" in verdict.to_text()


def test_subgroup_of_the_minimum_size_is_judged(folder: Path) -> None:
    both = with_groups(pair(1000, 0, 0, 0), kind=["many"] * 990 + ["few"] * 10)
    verdict = judge(folder, both, {"subgroups.columns": {"kind": []}})
    assert finding(verdict, group="kind=few").outcome == Outcome.PASS


def test_harm_visible_only_in_an_intersection_is_found(folder: Path) -> None:
    n = 2000
    left = ["l" if row % 2 else "r" for row in range(n)]
    upper = ["u" if row % 4 < 2 else "d" for row in range(n)]
    theirs = np.ones(n, dtype=np.bool_)
    ours = theirs.copy()
    # Gains in cells ld and ru offset the loss in lu, so neither column alone shows it.
    cells = np.array([f"{one}{other}" for one, other in zip(left, upper, strict=True)])
    for cell, array in (("lu", ours), ("ru", theirs), ("ld", theirs)):
        array[np.flatnonzero(cells == cell)[:100]] = False
    both = scored(ours), scored(theirs, checkpoint_digest=BASELINE)
    both = with_groups(both, side=left, height=upper)
    columns: dict[str, Any] = {"subgroups.columns": {"side": [], "height": []}}
    assert judge(folder, both, columns).outcome is Outcome.PASS
    changes = {**columns, "subgroups.intersections": [["side", "height"]]}
    verdict = judge(folder, both, changes)
    failed = [each.group for each in verdict.findings if each.outcome == Outcome.FAIL]
    assert failed == ["side=l, height=u"]


def test_empty_intersection_is_reported(folder: Path) -> None:
    both = with_groups(pair(200, 0, 0, 0), a=["x"] * 100 + ["y"] * 100, b=["u"] * 100 + ["v"] * 100)
    changes = {
        "subgroups.columns": {"a": [], "b": []},
        "subgroups.intersections": [["a", "b"]],
    }
    verdict = judge(folder, both, changes)
    assert finding(verdict, group="a=x, b=v").outcome == "not judged"
    assert finding(verdict, group="a=x, b=v").n == 0
    assert verdict.outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("columns", "explanation"),
    [
        pytest.param(
            {"kind": ["a", "b", "c"]},
            "candidate: the subgroup kind=c, which the policy names, has no examples",
            id="empty",
        ),
        pytest.param(
            {"kind": ["a"]},
            "candidate: the subgroup kind=b is not named in the policy",
            id="unknown",
        ),
        pytest.param(
            {"sort": []},
            "candidate: lacks the subgroup column sort, which the policy names; it has kind",
            id="column",
        ),
        pytest.param({"label": []}, "lacks the subgroup column label", id="not_a_subgroup"),
    ],
)
def test_subgroups_that_differ_from_the_policy_are_refused(
    folder: Path, columns: dict[str, list[str]], explanation: str
) -> None:
    both = with_groups(pair(200, 0, 0, 0), kind=["a"] * 100 + ["b"] * 100)
    assert explanation in refusal(folder, both, {"subgroups.columns": columns})


@pytest.mark.parametrize(
    "name", ["right", "loss", "both_right", "neither", "gain", "overall", "candidate_loss", "n", ""]
)
def test_subgroup_name_may_equal_an_internal_name(folder: Path, name: str) -> None:
    changes = {"subgroups.columns": {name: []}, "metrics": {"nll": metric("nll", 1.0)}}
    both = with_groups(pair(870, 0, 30, 100), **{name: ["a"] * 400 + ["b"] * 600})
    verdict = judge(folder, both, changes)
    assert finding(verdict, group=f"{name}=a").n == 400
    assert verdict.outcome is Outcome.FAIL


# ---- other metrics


METRICS = {"metrics": {"nll": metric("nll", 0.3), "ece": metric("ece", 0.1)}}


def test_metrics_of_a_worked_example(folder: Path) -> None:
    verdict = judge(folder, pair(900, 20, 20, 60), METRICS)
    nll = -0.92 * math.log(0.9) - 0.08 * math.log(0.1 / 9)
    assert verdict.metrics["nll"] == pytest.approx(nll)
    # The confidence is 0.9 throughout, the accuracy 0.92.
    assert verdict.metrics["ece"] == pytest.approx(0.02)
    assert verdict.outcome is Outcome.PASS


def overconfident(predictions: Predictions) -> Predictions:
    """Return the same predictions, each with probability 1."""
    certain = np.zeros_like(predictions.probabilities)
    certain[np.arange(len(certain)), predictions.predictions] = 1.0
    return dataclasses.replace(predictions, probabilities=certain)


def test_equally_accurate_but_overconfident_model_fails(folder: Path) -> None:
    candidate, baseline = pair(900, 0, 0, 100)
    verdict = judge(folder, (overconfident(candidate), baseline), METRICS)
    assert finding(verdict).outcome == Outcome.PASS
    assert finding(verdict, "nll").outcome == Outcome.FAIL
    # Accuracy is 0.9 and confidence rises from 0.9 to 1.0: worse by exactly the margin of 0.1.
    assert finding(verdict, "ece").difference == pytest.approx(-0.1)
    assert finding(verdict, "ece").outcome == Outcome.INCONCLUSIVE
    assert verdict.outcome is Outcome.FAIL


def test_inconclusive_metric_says_how_many_examples_would_settle_it(folder: Path) -> None:
    both = pair(40, 5, 5, 0)
    changes = {"metrics": {"nll": metric("nll", 0.01)}, "accuracy.margin": 0.4}
    verdict = judge(folder, both, changes)
    nll = finding(verdict, "nll")
    assert nll.outcome == Outcome.INCONCLUSIVE
    assert nll.n_needed is not None
    assert nll.n_needed > 50
    assert verdict.n_needed == nll.n_needed
    assert f"{nll.n_needed:,} examples would settle it" in verdict.reason


@pytest.fixture
def metrics_module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of project-defined metrics."""
    (folder / "metrics_of_mine.py").write_text(
        "import numpy as np\n"
        "def brier(labels, probabilities):\n"
        "    truth = np.eye(probabilities.shape[1])[labels]\n"
        "    return ((probabilities - truth) ** 2).sum(axis=1).mean()\n"
        "def right(labels, probabilities):\n"
        "    return (probabilities.argmax(axis=1) == labels).mean()\n"
        "def recall(labels, probabilities):\n"
        "    found = probabilities[labels == 1].argmax(axis=1) == 1\n"
        "    return found.sum() / max(len(found), 1)\n"
        "def nan(labels, probabilities): return float('nan')\n"
        "def huge(labels, probabilities): return 1e308 * (-1) ** probabilities[0].argmax()\n"
        "def text(labels, probabilities): return 'x'\n"
        "def raises(labels, probabilities): return 1 / 0\n"
        "def sorts(labels, probabilities):\n"
        "    labels.sort()\n"
        "    return 0.0\n"
        "number = 3\n"
    )
    (folder / "metrics_that_break.py").write_text("raise SystemError('no way')\n")
    monkeypatch.syspath_prepend(folder)
    for name in ("metrics_of_mine", "metrics_that_break"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "metrics_of_mine"


def custom_metric(function: str, *, higher_is_better: bool = False) -> dict[str, Any]:
    better = "higher" if higher_is_better else "lower"
    return {"metrics": {"mine": metric(function, 0.05, better=better)}}


def test_project_defined_metric_is_judged(folder: Path, metrics_module: str) -> None:
    both = pair(600, 30, 30, 40)
    verdict = judge(folder, both, custom_metric(f"{metrics_module}:brier"))
    # (0.1^2 + 9 (0.1/9)^2) where right, (0.9^2 + (1 - 0.1/9)^2 + 8 (0.1/9)^2) where wrong
    right, wrong = 0.01 + 0.01 / 9, 0.81 + (1 - 0.1 / 9) ** 2 + 8 * (0.1 / 9) ** 2
    assert verdict.metrics["mine"] == pytest.approx(0.9 * right + 0.1 * wrong)
    assert verdict.outcome is Outcome.PASS


@pytest.mark.parametrize(
    ("higher_is_better", "outcome"), [(True, Outcome.FAIL), (False, Outcome.PASS)]
)
def test_direction_of_a_metric_comes_from_the_policy(
    folder: Path, metrics_module: str, outcome: Outcome, *, higher_is_better: bool
) -> None:
    # The candidate's value is ten points lower.
    changes = custom_metric(f"{metrics_module}:right", higher_is_better=higher_is_better)
    verdict = judge(folder, pair(500, 0, 60, 40), {**changes, "accuracy.margin": 0.5})
    assert finding(verdict, "mine").outcome == outcome


@pytest.mark.parametrize(
    ("right", "outcome", "reason"),
    [
        pytest.param(80, Outcome.PASS, "not below 0.8000", id="at_the_floor"),
        pytest.param(75, Outcome.INCONCLUSIVE, "0.7500 is below the floor 0.8000, but", id="near"),
        pytest.param(40, Outcome.FAIL, "0.4000 is below the floor 0.8000, significantly", id="far"),
    ],
)
def test_floor_of_a_metric_over_all_examples(
    folder: Path, metrics_module: str, right: int, outcome: Outcome, reason: str
) -> None:
    """With a baseline and without; the same accuracy has a floor of its own, which is met."""
    rule = metric(f"{metrics_module}:right", 0.5, better="higher", floor=0.8)
    changes = {"metrics": {"mine": rule}, "accuracy.margin": 0.5}
    both = pair(right, 0, 0, 100 - right)
    compared = finding(judge(folder, both, changes), "mine floor")
    candidate = written(both[0], folder, "first")
    first = accept_without_baseline(candidate, judged.policy(folder, changes), why="first")
    alone = finding(first, "mine floor")
    assert alone == compared
    assert (alone.outcome, first.outcome) == (outcome, outcome)
    assert reason in alone.reason
    assert (alone.n_needed is not None) == (outcome is Outcome.INCONCLUSIVE)


def test_model_that_never_predicts_a_rare_class_fails_the_floor_of_its_recall(
    folder: Path, metrics_module: str
) -> None:
    labels = np.zeros(1000, dtype=np.int64)
    labels[::100] = 1
    probabilities = np.tile([0.99, 0.01], (1000, 1))
    never = Predictions(
        ids=np.array([f"{i:04}" for i in range(1000)]),
        labels=labels,
        predictions=np.zeros(1000, dtype=np.int64),
        probabilities=probabilities,
        data_digest=DATA,
        checkpoint_digest=CANDIDATE,
    )
    rule = metric(f"{metrics_module}:recall", 0.1, better="higher", floor=0.5)
    rules = judged.policy(folder, {"metrics": {"recall": rule}, "accuracy.floor": 0.9})
    verdict = accept_without_baseline(written(never, folder, "never"), rules, why="first release")
    assert finding(verdict, "accuracy floor").outcome is Outcome.PASS
    assert finding(verdict, "recall floor").outcome is Outcome.FAIL
    assert verdict.outcome is Outcome.FAIL


@pytest.mark.parametrize(
    ("better_on", "worse_on", "outcome", "reason"),
    [
        pytest.param(40, 0, Outcome.PASS, "superiority shown", id="better"),
        pytest.param(20, 20, Outcome.INCONCLUSIVE, "superiority not shown at alpha", id="equal"),
        pytest.param(0, 40, Outcome.FAIL, "shown to be worse, but superiority", id="worse"),
    ],
)
def test_metric_over_all_examples_can_require_superiority(
    folder: Path, metrics_module: str, better_on: int, worse_on: int, outcome: Outcome, reason: str
) -> None:
    rule = metric(f"{metrics_module}:right", 0.5, better="higher", require="superiority")
    changes = {"metrics": {"mine": rule}, "accuracy.margin": 0.5}
    found = finding(judge(folder, pair(400, better_on, worse_on, 60), changes), "mine")
    assert found.outcome is outcome
    assert reason in found.reason


@pytest.mark.parametrize(
    ("function", "explanation"),
    [
        pytest.param("metrics_of_mine:absent", "cannot be imported (AttributeError", id="absent"),
        pytest.param("no_such_module:x", "cannot be imported (ModuleNotFound", id="module"),
        pytest.param("metrics_that_break:x", "cannot be imported (SystemError", id="breaks"),
        pytest.param("...:x", "cannot be imported (", id="relative"),
        pytest.param(
            "metrics_of_mine:number", "metric mine: raised TypeError", id="not_a_function"
        ),
        pytest.param("metrics_of_mine:text", "metric mine: raised ValueError", id="text"),
        pytest.param("metrics_of_mine:nan", "metric mine: is nan on 100 examples", id="nan"),
        pytest.param("metrics_of_mine:raises", "metric mine: raised ZeroDivision", id="raises"),
        pytest.param("metrics_of_mine:huge", "not finite", id="infinite_difference"),
    ],
)
@pytest.mark.usefixtures("metrics_module")
def test_broken_metric_is_refused(folder: Path, function: str, explanation: str) -> None:
    candidate, baseline = pair(90, 0, 0, 10)
    baseline = scored([False] * 100, checkpoint_digest=BASELINE)
    changes = {**custom_metric(function, higher_is_better=True), "accuracy.margin": 0.5}
    assert explanation in refusal(folder, (candidate, baseline), changes)


def test_metric_cannot_modify_its_input(folder: Path, metrics_module: str) -> None:
    verdict_or_error = ""
    try:
        judge(folder, pair(90, 0, 0, 10), custom_metric(f"{metrics_module}:sorts"))
    except GateInputError as error:
        verdict_or_error = str(error)
    assert "read-only" in verdict_or_error


def test_metrics_without_probabilities_are_refused(folder: Path) -> None:
    candidate, baseline = pair(90, 0, 0, 10)
    bare = dataclasses.replace(baseline, probabilities=None)
    error = refusal(folder, (candidate, bare), METRICS)
    assert error.startswith("baseline: has no probabilities, which evaluation.metrics.nll needs")


def test_probabilities_are_not_needed_without_metrics(folder: Path) -> None:
    both = pair(900, 0, 0, 100)
    bare = tuple(dataclasses.replace(each, probabilities=None) for each in both)
    assert judge(folder, (bare[0], bare[1])).outcome is Outcome.PASS


@pytest.mark.parametrize("name", ["nll", "ece"])
def test_metric_on_a_single_example_is_refused(folder: Path, name: str) -> None:
    error = refusal(folder, pair(1, 0, 0, 0), {"metrics": {name: metric(name, 0.1)}})
    assert "one" in error


# ---- what must not be compared


def test_same_model_is_refused_unless_allowed(folder: Path) -> None:
    candidate, _ = pair(900, 0, 0, 100)
    assert refusal(folder, (candidate, candidate)).startswith(
        f"baseline: comes from the same checkpoint as candidate ({'c' * 12})"
    )
    verdict = judge(folder, (candidate, candidate), allow_same_model=True)
    assert verdict.outcome is Outcome.PASS
    assert verdict.metrics["difference"] == 0


def test_baseline_on_other_data_is_refused(folder: Path) -> None:
    candidate, baseline = pair(900, 0, 0, 100)
    other = dataclasses.replace(baseline, data_digest="e" * 64)
    assert refusal(folder, (candidate, other)) == (
        f"baseline: scored on other data ({'e' * 12}) than candidate ({'d' * 12}); "
        "score both on the same data"
    )


@pytest.mark.parametrize("short", ["candidate", "baseline"])
def test_example_missing_from_one_file_is_named(folder: Path, short: str) -> None:
    candidate, baseline = pair(20, 0, 0, 0)
    rows = [row for row in range(20) if row not in (3, 7)]
    both = (in_order(candidate, rows), baseline)
    if short == "baseline":
        both = (candidate, in_order(baseline, rows))
    other = "baseline" if short == "candidate" else "candidate"
    assert refusal(folder, both) == (f"{short}: unlike {other}, lacks 2 examples: e00003, e00007")


def test_labels_that_differ_are_refused(folder: Path) -> None:
    candidate, baseline = pair(20, 0, 0, 0)
    labels = baseline.labels.copy()
    labels[[5, 13]] = 9 - labels[[5, 13]]
    other = dataclasses.replace(baseline, labels=labels)
    both = (in_order(candidate, range(19, -1, -1)), other)
    assert refusal(folder, both) == (
        "candidate and baseline: label differs in 2 examples: e00005, e00013"
    )


def test_subgroups_that_differ_are_refused(folder: Path) -> None:
    candidate, baseline = with_groups(pair(20, 0, 0, 0), kind=["a"] * 20)
    other = dataclasses.replace(baseline, subgroups={"kind": np.array(["a"] * 19 + ["b"])})
    changes: dict[str, Any] = {"subgroups.columns": {"kind": []}}
    assert refusal(folder, (candidate, other), changes) == (
        "candidate and baseline: kind differs in 1 example: e00019"
    )


def test_baseline_may_lack_the_subgroups(folder: Path) -> None:
    candidate, _ = with_groups(pair(870, 0, 30, 100), kind=["a"] * 1000)
    _, baseline = pair(870, 0, 30, 100)
    verdict = judge(folder, (candidate, baseline), {"subgroups.columns": {"kind": []}})
    assert finding(verdict, group="kind=a").n == 1000


@pytest.mark.parametrize("duplicated", ["candidate", "baseline"])
def test_duplicate_example_is_named(folder: Path, duplicated: str) -> None:
    candidate, baseline = pair(20, 0, 0, 0)
    twice = [*range(20), 4, 4, 11]
    both = (in_order(candidate, twice), baseline)
    if duplicated == "baseline":
        both = (candidate, in_order(baseline, twice))
    assert refusal(folder, both) == f"{duplicated}: has duplicates of 2 examples: e00004, e00011"


def test_first_release_with_a_duplicate_example_is_refused(folder: Path) -> None:
    candidate = written(in_order(scored([True] * 20), [*range(20), 4]), folder, "candidate")
    with pytest.raises(GateInputError, match=r"^candidate: has duplicates of 1 example: e00004$"):
        accept_without_baseline(candidate, judged.policy(folder), why="first")


# ---- the first release


def test_first_release_is_judged_by_the_floors(folder: Path) -> None:
    candidate = written(scored([True] * 90 + [False] * 10), folder, "candidate")
    rules = judged.policy(folder, {"accuracy.floor": 0.8})
    verdict = accept_without_baseline(candidate, rules, why="first release")
    assert verdict.outcome is Outcome.PASS
    assert verdict.reason == (
        "accuracy 0.9000 on 100 held-out examples: not below 0.8000; not compared with a baseline"
    )
    assert verdict.metrics == {"accuracy": 0.9}
    assert verdict.notes == {"no baseline": "first release"}
    assert verdict.evidence.keys() == {"checkpoint", "config", "data", "policy", "predictions"}
    rules = judged.policy(folder, {"accuracy.floor": 0.99})
    assert accept_without_baseline(candidate, rules, why="first").outcome is Outcome.FAIL


@pytest.mark.parametrize("why", ["", " ", "\n"])
def test_first_release_without_a_reason_is_refused(folder: Path, why: str) -> None:
    candidate = written(scored([True] * 20), folder, "candidate")
    with pytest.raises(GateInputError, match=r"^--no-baseline: say why"):
        accept_without_baseline(candidate, judged.policy(folder), why=why)


# ---- properties

GROUPED = {
    "subgroups.columns": {"kind": []},
    "subgroups.minimum_examples": 1,
    "accuracy.margin": 0.1,
    "resamples": 99,
    **METRICS,
}


@st.composite
def pairs(draw: st.DrawFn, least: int = 2) -> tuple[Predictions, Predictions]:
    n = draw(st.integers(least, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)

    def model(digest: str) -> Predictions:
        right = rng.random(n) < draw(st.sampled_from([0.2, 0.8, 1.0]))
        base = scored(right, checkpoint_digest=digest)
        probabilities = rng.dirichlet(np.ones(10), n)
        return dataclasses.replace(base, probabilities=probabilities)

    kinds = [f"g{kind}" for kind in rng.integers(3, size=n)]
    return with_groups((model(CANDIDATE), model(BASELINE)), kind=kinds)


@given(both=pairs())
@few_examples
def test_swapping_the_models_mirrors_every_interval(
    folder: Path, both: tuple[Predictions, Predictions]
) -> None:
    there, back = judge(folder, both, GROUPED), judge(folder, both[::-1], GROUPED)
    for one, other in zip(there.findings, back.findings, strict=True):
        assert (one.check, one.group, one.n) == (other.check, other.group, other.n)
        if one.check == "accuracy floor":
            continue
        assert one.interval is not None
        assert other.interval is not None
        assert (one.value, one.reference) == pytest.approx((other.reference, other.value))
        assert one.difference == pytest.approx(-(other.difference or 0), abs=1e-12)
        mirrored = (-other.interval[1], -other.interval[0])
        assert one.interval == pytest.approx(mirrored, abs=1e-9), one.check


@given(both=pairs(), data=st.data())
@few_examples
def test_row_order_changes_no_finding(
    folder: Path, both: tuple[Predictions, Predictions], data: st.DataObject
) -> None:
    plain = judge(folder, both, GROUPED)
    rows = range(len(both[0].ids))
    shuffled = [in_order(each, data.draw(st.permutations(rows))) for each in both]
    again = judge(folder, (shuffled[0], shuffled[1]), GROUPED)
    assert again.findings == plain.findings
    assert (again.reason, again.metrics) == (plain.reason, plain.metrics)


@given(
    counts=st.tuples(*[st.integers(0, 15)] * 4).filter(any),
    more=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
@few_examples
def test_rows_where_both_agree_never_widen_the_interval(
    folder: Path, counts: tuple[int, int, int, int], more: tuple[int, int]
) -> None:
    both, won, lost, neither = counts
    few = finding(judge(folder, pair(*counts))).interval
    many = finding(judge(folder, pair(both + more[0], won, lost, neither + more[1]))).interval
    assert few is not None
    assert many is not None
    assert many[1] - many[0] <= few[1] - few[0] + 1e-9


@given(data=st.data(), n=st.integers(1, 60))
@few_examples
def test_margin_is_exact_to_the_last_example(folder: Path, data: st.DataObject, n: int) -> None:
    lost = data.draw(st.integers(1, n))
    both = pair(n - lost, 0, lost, 0)
    if lost < n:
        at = judge(folder, both, {"accuracy.margin": lost / n})
        assert at.outcome is not Outcome.FAIL
    beyond = judge(folder, both, {"accuracy.margin": (lost - 1) / n})
    assert beyond.outcome is Outcome.FAIL


def test_policy_with_an_unknown_requirement_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError):
        judged.policy(folder, {"accuracy.require": "luck"})
