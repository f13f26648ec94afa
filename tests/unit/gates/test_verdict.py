import dataclasses
import json
import math
from pathlib import Path

import pytest

from gates.verdict import Outcome, Verdict

VERDICT = Verdict(
    gate="evaluation",
    outcome=Outcome.FAIL,
    reason="accuracy 0.9100 -> 0.8800",
    metrics={"margin": 0.02, "accuracy": 0.88},
    evidence={"data": "d" * 64},
    notes={"weather": "rain", "no baseline": "first release"},
)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Outcome.PASS, 0), (Outcome.FAIL, 1), (Outcome.INCONCLUSIVE, 3)],
    ids=str,
)
def test_outcome_has_its_exit_code(outcome: Outcome, code: int) -> None:
    assert outcome.exit_code == code


def test_json_of_a_worked_example() -> None:
    assert json.loads(VERDICT.to_json()) == {
        "schema": "verdict/1",
        "gate": "evaluation",
        "outcome": "fail",
        "reason": "accuracy 0.9100 -> 0.8800",
        "metrics": {"accuracy": 0.88, "margin": 0.02},
        "evidence": {"data": "d" * 64},
        "notes": {"no baseline": "first release", "weather": "rain"},
    }


def test_json_does_not_depend_on_the_order_of_keys() -> None:
    reordered = dataclasses.replace(VERDICT, metrics={"accuracy": 0.88, "margin": 0.02})
    assert reordered.to_json() == VERDICT.to_json()


def test_json_keeps_every_bit_of_a_figure() -> None:
    third = dataclasses.replace(VERDICT, metrics={"accuracy": 1 / 3})
    assert json.loads(third.to_json())["metrics"]["accuracy"] == 1 / 3


@pytest.mark.parametrize("figure", [math.nan, math.inf])
def test_figure_that_json_cannot_say_is_not_written(tmp_path: Path, figure: float) -> None:
    broken = dataclasses.replace(VERDICT, metrics={"accuracy": figure})
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.write(tmp_path / "verdict.json")
    assert not list(tmp_path.iterdir())


def test_text_has_the_outcome_first_and_a_line_per_note() -> None:
    assert VERDICT.to_text() == (
        "evaluation: FAIL - accuracy 0.9100 -> 0.8800\n"
        "  weather: rain\n"
        "  no baseline: first release"
    )


def test_written_verdict_is_its_json(tmp_path: Path) -> None:
    file = tmp_path / "verdicts" / "evaluation.json"
    VERDICT.write(file)
    assert file.read_text() == VERDICT.to_json()
    assert file.read_text().endswith("}\n")
