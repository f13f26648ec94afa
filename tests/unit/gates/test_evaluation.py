import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gates.errors import GateInputError
from gates.evaluation import accept_without_baseline, compare
from gates.predictions import Predictions
from gates.verdict import Outcome


def scored(right: int, total: int = 100, **changes: Any) -> Predictions:
    """Predictions for `total` examples of which the first `right` are right."""
    labels = np.arange(total) % 10
    fields: dict[str, Any] = {
        "ids": np.array([f"e{row:04d}" for row in range(total)]),
        "labels": labels,
        "predictions": np.where(np.arange(total) < right, labels, -1),
        "data_digest": "d" * 64,
        "checkpoint_digest": f"{right:064d}",
    }
    return Predictions(**fields | changes)


def in_order(predictions: Predictions, order: list[int]) -> Predictions:
    return dataclasses.replace(
        predictions,
        ids=predictions.ids[order],
        labels=predictions.labels[order],
        predictions=predictions.predictions[order],
    )


def error_of(candidate: Predictions, baseline: Predictions) -> str:
    with pytest.raises(GateInputError) as raised:
        compare(candidate, baseline, margin=0.02)
    return str(raised.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("who", ["candidate", "baseline"])
def test_model_that_predicts_what_is_no_number_is_refused(who: str, value: float) -> None:
    # Its classes would be an accident of argmax, and might even be right.
    probabilities = np.full((100, 10), 0.1)
    probabilities[[7, 9], 3] = value
    broken, sound = scored(100, probabilities=probabilities), scored(90)
    pair = (broken, sound) if who == "candidate" else (sound, broken)
    assert error_of(*pair) == (
        f"{who}: 2 examples have a probability that is no number, the first is e0007"
    )


def test_first_release_that_predicts_what_is_no_number_is_refused() -> None:
    broken = scored(100, probabilities=np.full((100, 10), math.nan))
    with pytest.raises(GateInputError, match=r"^candidate: 100 examples have a probability"):
        accept_without_baseline(broken, why="first release")


@pytest.mark.parametrize(
    ("right", "outcome", "code"),
    [
        pytest.param(95, Outcome.PASS, 0, id="better"),
        pytest.param(90, Outcome.PASS, 0, id="as_good"),
        pytest.param(89, Outcome.PASS, 0, id="worse_within_the_margin"),
        # 0.88 - 0.90 is -0.020000000000000018 in floats.
        pytest.param(88, Outcome.PASS, 0, id="worse_by_exactly_the_margin"),
        pytest.param(87, Outcome.FAIL, 1, id="worse_by_more"),
        pytest.param(0, Outcome.FAIL, 1, id="never_right"),
    ],
)
def test_candidate_may_lose_the_margin(right: int, outcome: Outcome, code: int) -> None:
    verdict = compare(scored(right), scored(90), margin=0.02)
    assert verdict.outcome is outcome
    assert verdict.outcome.exit_code == code


@given(data=st.data(), total=st.integers(1, 500))
@settings(derandomize=True, deadline=None)
def test_margin_is_met_to_the_last_example(data: st.DataObject, total: int) -> None:
    right = data.draw(st.integers(1, total))
    lost = data.draw(st.integers(1, right))
    candidate, baseline = scored(right - lost, total), scored(right, total)
    if lost < total:
        assert compare(candidate, baseline, margin=lost / total).outcome is Outcome.PASS
    assert compare(candidate, baseline, margin=(lost - 1) / total).outcome is Outcome.FAIL


@given(order=st.permutations(range(20)))
@settings(derandomize=True, deadline=None, max_examples=20)
def test_order_of_the_examples_does_not_matter(order: list[int]) -> None:
    for right in (17, 16):
        plain = compare(scored(right, 20), scored(18, 20), margin=0.05)
        assert compare(in_order(scored(right, 20), order), scored(18, 20), margin=0.05) == plain
        assert compare(scored(right, 20), in_order(scored(18, 20), order), margin=0.05) == plain


def test_verdict_of_a_worked_example() -> None:
    verdict = compare(scored(88), scored(90), margin=0.02)
    assert verdict.gate == "evaluation"
    assert verdict.reason == (
        "accuracy 0.9000 -> 0.8800 (-0.0200) on 100 held-out examples; at most 0.0200 may be lost"
    )
    assert verdict.metrics == pytest.approx(
        {"accuracy": 0.88, "baseline_accuracy": 0.9, "difference": -0.02, "margin": 0.02}
    )
    assert verdict.evidence == {
        "checkpoint": f"{88:064d}",
        "baseline": f"{90:064d}",
        "data": "d" * 64,
    }


def test_nan_metric_does_not_pass() -> None:
    class Unscored(Predictions):
        @property
        def accuracy(self) -> float:
            return math.nan

    unscored = Unscored(
        **{field.name: getattr(scored(90), field.name) for field in dataclasses.fields(Predictions)}
    )
    assert compare(unscored, scored(90), margin=0.02).outcome is not Outcome.PASS
    assert compare(scored(90), unscored, margin=0.02).outcome is not Outcome.PASS


@pytest.mark.parametrize("margin", [-0.01, 1.0, 2.0, math.nan, math.inf])
def test_margin_that_is_no_fraction_is_refused(margin: float) -> None:
    with pytest.raises(GateInputError) as raised:
        compare(scored(90), scored(90), margin=margin)
    assert str(raised.value) == (
        f"margin is {margin:g}; expected a fraction in [0, 1): for two percentage points write 0.02"
    )


def test_baseline_scored_on_other_data_is_refused() -> None:
    error = error_of(scored(90), scored(90, data_digest="e" * 64))
    assert error == (
        f"baseline was scored on other data ({'e' * 12}) than the candidate ({'d' * 12}); "
        "score both on the same data"
    )


@pytest.mark.parametrize("is_baseline_short", [True, False])
def test_example_that_only_one_has_is_named(*, is_baseline_short: bool) -> None:
    whole = scored(90)
    short = in_order(whole, [row for row in range(100) if row not in (3, 7)])
    pair = (whole, short) if is_baseline_short else (short, whole)
    assert error_of(*pair).endswith("2 differ, the first is e0003")


def test_labels_that_differ_are_refused() -> None:
    labels = scored(90).labels.copy()
    labels[[5, 40]] = 9 - labels[[5, 40]]
    error = error_of(in_order(scored(90), list(range(99, -1, -1))), scored(90, labels=labels))
    assert error.endswith("the label of 2 examples, the first is e0005")


@pytest.mark.parametrize("is_baseline", [True, False])
def test_example_that_appears_twice_is_named(*, is_baseline: bool) -> None:
    twice = in_order(scored(90), [*range(100), 4])
    pair = (scored(90), twice) if is_baseline else (twice, scored(90))
    assert "e0004" in error_of(*pair)


def test_examples_that_appear_twice_in_both_are_refused() -> None:
    # Equally many rows of the same examples, and yet row by row not the same ones.
    one, other = in_order(scored(90), [0, 0, 1]), in_order(scored(90), [0, 1, 1])
    assert "e0000" in error_of(one, other) or "e0001" in error_of(one, other)


def test_no_examples_are_no_evidence() -> None:
    with pytest.raises(GateInputError):
        compare(scored(0, 0), scored(0, 0), margin=0.02)


def test_first_release_passes_with_its_reason() -> None:
    verdict = accept_without_baseline(scored(90), why="first release")
    assert verdict.outcome is Outcome.PASS
    assert verdict.reason == ("accuracy 0.9000 on 100 held-out examples; compared with nothing")
    assert verdict.metrics == {"accuracy": 0.9}
    assert verdict.evidence == {"checkpoint": f"{90:064d}", "data": "d" * 64}
    assert verdict.notes == {"no baseline": "first release"}


@pytest.mark.parametrize("why", ["", " ", "\n"])
def test_first_release_without_a_reason_is_refused(why: str) -> None:
    with pytest.raises(GateInputError, match=r"^--no-baseline: say why"):
        accept_without_baseline(scored(90), why=why)
