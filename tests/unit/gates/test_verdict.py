import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gates.errors import ExitCode, GateInputError
from gates.verdicts import verdict as module
from gates.verdicts.verdict import Finding, Outcome, Verdict, json_schema, publish, read_verdict

OVERALL = Finding(
    check="accuracy",
    group="overall",
    outcome=Outcome.PASS,
    reason="non-inferiority shown at margin 0.0200",
    n=1000,
    value=0.915,
    reference=0.91,
    difference=0.005,
    interval=(-0.004, 0.014),
    confidence=0.9,
    limit=-0.02,
    p_value=1e-6,
)
HARMED = Finding(
    check="accuracy",
    group="digit=3",
    outcome=Outcome.FAIL,
    reason="worse by more than 0.0500",
    n=100,
    value=0.5,
    reference=0.9,
    difference=-0.4,
    interval=(-0.5, -0.3),
    limit=-0.05,
    p_value=1e-4,
    adjusted_p_value=1e-3,
)
SMALL = Finding(
    check="accuracy", group="digit=4", outcome="not judged", reason="has 3", n=3, n_needed=10
)
KEPT = Finding(
    check="accuracy floor", group="digit=3", outcome=Outcome.PASS, reason="not below", n=100
)


def verdict(*findings: Finding, **changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "gate": "evaluation",
        "outcome": Outcome.FAIL,
        "reason": "accuracy 0.9100 -> 0.9150",
        "findings": findings or (OVERALL, HARMED, SMALL, KEPT),
        "metrics": {"b": 0.02, "accuracy": 0.915},
        "evidence": {"data": "d" * 64, "checkpoint": "c" * 64},
        "policy": {"accuracy.margin": 0.02, "seed": 0, "strict": True, "require": "superiority"},
        "notes": {"weather": "rain"},
    }
    return Verdict(**fields | changes)


# ---- outcomes


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Outcome.PASS, 0), (Outcome.FAIL, 1), (Outcome.INCONCLUSIVE, 3)],
    ids=str,
)
def test_outcome_has_its_exit_code(outcome: Outcome, code: int) -> None:
    assert outcome.exit_code == code


@pytest.mark.parametrize(
    ("outcomes", "worst"),
    [
        ([], Outcome.INCONCLUSIVE),  # nothing is shown
        ([Outcome.PASS], Outcome.PASS),
        ([Outcome.PASS, Outcome.INCONCLUSIVE], Outcome.INCONCLUSIVE),
        ([Outcome.INCONCLUSIVE, Outcome.FAIL, Outcome.PASS], Outcome.FAIL),
    ],
)
def test_worst_outcome_decides(outcomes: list[Outcome], worst: Outcome) -> None:
    assert Outcome.worst(outcomes) is worst


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_non_finite_figure_is_refused(number: float) -> None:
    with pytest.raises(ValidationError):
        verdict(metrics={"accuracy": number})
    with pytest.raises(ValidationError):
        Finding(check="x", group="y", outcome=Outcome.PASS, reason="", n=1, p_value=number)


@pytest.mark.parametrize("digest", ["", "latest", "d" * 63, "D" * 64, "d" * 64 + "\n"])
def test_evidence_must_be_a_digest(digest: str) -> None:
    with pytest.raises(ValidationError):
        verdict(evidence={"data": digest})


def inconclusive_finding(n: int, needed: int | None) -> Finding:
    return OVERALL.model_copy(
        update={"outcome": Outcome.INCONCLUSIVE, "n": n, "n_needed": needed, "group": str(n)}
    )


@pytest.mark.parametrize(
    ("findings", "needed"),
    [
        pytest.param([OVERALL], None, id="nothing_inconclusive"),
        pytest.param([inconclusive_finding(50, 1237)], 1237, id="all_examples"),
        # A subgroup that is a tenth of 1,000 needs 205: 2,050 in all.
        pytest.param([OVERALL, inconclusive_finding(100, 205)], 2050, id="subgroup"),
        pytest.param([OVERALL, inconclusive_finding(300, 100)], 334, id="rounded_up"),
        pytest.param(
            [inconclusive_finding(1000, 3000), inconclusive_finding(100, 205)],
            3000,
            id="larger_of_two",
        ),
        pytest.param(
            [inconclusive_finding(50, 1237), inconclusive_finding(50, None)],
            None,
            id="no_number_suffices",
        ),
        pytest.param([OVERALL, inconclusive_finding(0, 10)], None, id="no_examples"),
    ],
)
def test_number_needed_settles_every_inconclusive_finding(
    findings: list[Finding], needed: int | None
) -> None:
    assert verdict(*findings).n_needed == needed


# ---- JSON


def test_json_of_a_worked_example() -> None:
    assert json.loads(verdict(OVERALL).to_json()) == {
        "schema": "verdict/1",
        "gate": "evaluation",
        "outcome": "fail",
        "reason": "accuracy 0.9100 -> 0.9150",
        "findings": [
            {
                "check": "accuracy",
                "group": "overall",
                "outcome": "pass",
                "reason": "non-inferiority shown at margin 0.0200",
                "n": 1000,
                "value": 0.915,
                "reference": 0.91,
                "difference": 0.005,
                "interval": [-0.004, 0.014],
                "confidence": 0.9,
                "limit": -0.02,
                "p_value": 1e-6,
            }
        ],
        "metrics": {"accuracy": 0.915, "b": 0.02},
        "evidence": {"checkpoint": "c" * 64, "data": "d" * 64},
        "policy": {"accuracy.margin": 0.02, "require": "superiority", "seed": 0, "strict": True},
        "notes": {"weather": "rain"},
    }


def test_json_does_not_depend_on_the_order_of_keys() -> None:
    assert verdict(metrics={"accuracy": 0.915, "b": 0.02}).to_json() == verdict().to_json()


def test_written_verdict_is_read_back_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "verdicts" / "evaluation.json"
    publish(verdict(), report=file)
    assert file.read_text() == verdict().to_json()
    assert read_verdict(file) == verdict()
    policy = read_verdict(file).policy
    assert {key: type(limit) for key, limit in policy.items()} == {
        "accuracy.margin": float,
        "seed": int,
        "strict": bool,
        "require": str,
    }


@pytest.mark.parametrize(
    ("content", "explanation"),
    [
        (b"", "top level: invalid JSON"),
        (b"[]", "top level"),
        (b"{}", "gate: field required"),
        (verdict().to_json().replace("verdict/1", "verdict/2").encode(), "schema: "),
        (verdict().to_json().replace('"fail"', '"fine"').encode(), "outcome: "),
        (verdict().to_json().replace('"gate"', '"more": 1, "gate"').encode(), "more: extra"),
        (verdict().to_json().replace("0.915", "NaN").encode(), "finite"),
    ],
)
def test_file_that_is_not_a_verdict_is_refused(
    tmp_path: Path, content: bytes, explanation: str
) -> None:
    file = tmp_path / "verdict.json"
    file.write_bytes(content)
    with pytest.raises(GateInputError) as raised:
        read_verdict(file)
    assert str(raised.value).startswith(f"{file}: not a verdict in the format verdict/1: ")
    assert explanation in str(raised.value)


def test_missing_verdict_is_named(tmp_path: Path) -> None:
    with pytest.raises(GateInputError, match="a gate writes it with --report"):
        read_verdict(tmp_path / "absent.json")


# ---- the schema


def violations(  # noqa: C901 - one case per keyword
    value: Any, rule: Mapping[str, Any], whole: Mapping[str, Any]
) -> list[str]:
    """Return how a JSON value violates `rule`, for the JSON Schema keywords that we use."""
    if "$ref" in rule:
        return violations(value, whole["$defs"][rule["$ref"].removeprefix("#/$defs/")], whole)
    if "anyOf" in rule:
        found = [violations(value, each, whole) for each in rule["anyOf"]]
        return [] if [] in found else [f"{value!r} matches none of {rule['anyOf']}"]
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    broken = []
    kind = kinds[rule["type"]] if "type" in rule else object
    if not isinstance(value, kind):  # type: ignore[arg-type]
        return [f"{value!r} is not of type {rule['type']}"]
    if "enum" in rule and value not in rule["enum"]:
        broken.append(f"{value!r} is not one of {rule['enum']}")
    if "const" in rule and value != rule["const"]:
        broken.append(f"{value!r} is not {rule['const']!r}")
    if isinstance(value, dict):
        named = rule.get("properties", {})
        broken += [f"{key} is missing" for key in rule.get("required", []) if key not in value]
        others = rule.get("additionalProperties", True)
        for key, inner in value.items():
            if key in named:
                broken += violations(inner, named[key], whole)
            elif others is False:
                broken.append(f"{key} is unknown")
            elif others is not True:
                broken += violations(inner, others, whole)
    if isinstance(value, list):
        items = rule.get("prefixItems") or [rule["items"]] * len(value)
        broken += [
            each for v, r in zip(value, items, strict=True) for each in violations(v, r, whole)
        ]
    return broken


def test_committed_schema_is_up_to_date() -> None:
    committed = (Path(module.__file__).parent.parent / "verdict.schema.json").read_text()
    assert committed == json_schema(), (
        "stale; run python -m gates.verdicts.verdict > src/gates/verdict.schema.json"
    )


def test_module_prints_the_schema() -> None:
    command = [sys.executable, "-m", "gates.verdicts.verdict"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == json_schema()


def test_only_valid_verdicts_match_the_schema() -> None:
    schema = json.loads(json_schema())
    document = json.loads(verdict().to_json())
    assert violations(document, schema, schema) == []
    assert violations({**document, "schema": "verdict/2"}, schema, schema)
    assert violations({**document, "more": 1}, schema, schema)
    assert violations({**document, "metrics": {"accuracy": "high"}}, schema, schema)
    del document["outcome"]
    assert violations(document, schema, schema) == ["outcome is missing"]


# ---- text


def test_text_of_a_worked_example() -> None:
    assert verdict().to_text().splitlines() == [
        "evaluation: FAIL - accuracy 0.9100 -> 0.9150",
        "  weather: rain",
        "",
        "  check     group    n      candidate  baseline  difference  interval            outcome",
        "  accuracy  overall  1,000  0.9150     0.9100    +0.0050     -0.0040 to +0.0140  pass",
        (
            "  accuracy  digit=3  100    0.5000     0.9000    -0.4000     -0.5000 to -0.3000  "
            "fail: worse by more than 0.0500"
        ),
        "  not judged, because there are too few examples: digit=4 (3)",
    ]


HOSTILE = "x\n::error::pwned\r\x1b[2J|`<b>&%0A, y"


def hostile_verdict() -> Verdict:
    return verdict(
        HARMED.model_copy(update={"group": HOSTILE, "reason": HOSTILE}),
        SMALL.model_copy(update={"group": HOSTILE}),
        reason=HOSTILE,
        notes={"no baseline": HOSTILE},
    )


def test_names_cannot_start_a_line_or_move_the_cursor() -> None:
    text = hostile_verdict().to_text()
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    assert all(line.isprintable() for line in text.split("\n"))


def test_markdown_of_a_worked_example() -> None:
    assert verdict(OVERALL, SMALL).to_markdown() == (
        "### evaluation: FAIL\n\n"
        "accuracy 0.9100 -> 0.9150\n\n"
        "- weather: rain\n\n"
        "| check | group | n | candidate | baseline | difference | interval | outcome |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| accuracy | overall | 1,000 | 0.9150 | 0.9100 | +0.0050 | -0.0040 to +0.0140 | pass |\n\n"
        "not judged, because there are too few examples: digit=4 (3)\n\n"
        f"- checkpoint: `{'c' * 64}`\n- data: `{'d' * 64}`\n"
    )


def test_names_cannot_break_the_markdown() -> None:
    page = hostile_verdict().to_markdown()
    row = next(line for line in page.splitlines() if line.startswith("| accuracy"))
    assert row.replace("\\|", "").count("|") == 9
    assert "<b>" not in page
    assert not any(line.startswith("::") for line in page.splitlines())


def test_each_finding_that_did_not_pass_is_annotated() -> None:
    undecided = OVERALL.model_copy(update={"outcome": Outcome.INCONCLUSIVE, "reason": "too few"})
    assert verdict(OVERALL, HARMED, SMALL, KEPT, undecided).to_annotations() == [
        "::error title=evaluation%3A accuracy%2C digit=3::worse by more than 0.0500",
        "::warning title=evaluation%3A accuracy%2C overall::too few",
    ]


def test_names_cannot_break_an_annotation() -> None:
    (line,) = hostile_verdict().to_annotations()
    # GitHub ends a property at a comma and a message at a newline.
    assert "\n" not in line
    assert "\r" not in line
    properties, _, message = line.removeprefix("::error ").partition("::")
    assert "," not in properties
    assert "%250A" in message


# ---- publishing


@pytest.fixture(autouse=True)
def _not_on_github(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def test_verdict_is_printed_and_its_exit_code_returned(capsys: pytest.CaptureFixture[str]) -> None:
    assert publish(verdict(), report=None) is ExitCode.FAILED
    assert capsys.readouterr().out == verdict().to_text() + "\n"


def test_on_github_the_verdict_is_annotated_and_added_to_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    publish(verdict(), report=None)
    assert summary.read_text() == f"before\n{verdict().to_markdown()}\n"
    assert capsys.readouterr().out.splitlines()[-1] == verdict().to_annotations()[0]


def test_verdict_that_cannot_be_written_is_not_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    passed = verdict(OVERALL, outcome=Outcome.PASS)
    with pytest.raises(GateInputError, match="cannot be written"):
        publish(passed, report=tmp_path)  # a folder
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "absent" / "summary.md"))
    with pytest.raises(GateInputError, match=r"cannot be written .* GITHUB_STEP_SUMMARY names it"):
        publish(passed, report=tmp_path / "verdict.json")
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_characters_that_the_terminal_cannot_encode_are_escaped() -> None:
    program = (
        "from gates.verdicts.verdict import *\n"
        "finding = Finding(check='a', group='größe=ü', outcome='fail', reason='', n=1)\n"
        "verdict = Verdict(gate='g', outcome='fail', reason='ü', findings=(finding,),"
        " metrics={}, evidence={})\n"
        "publish(verdict, report=None)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert b"gr\\xf6\\xdfe=\\xfc" in done.stdout


@given(name=st.text(), note=st.text(), outcome=st.sampled_from(["pass", "fail", "not judged"]))
@settings(derandomize=True, deadline=None, max_examples=50)
def test_any_name_can_be_shown(name: str, note: str, outcome: str) -> None:
    finding = Finding.model_validate({**SMALL.model_dump(), "group": name, "outcome": outcome})
    shown = verdict(finding, notes={"note": note})
    lines = 6 if outcome != "not judged" else 5
    assert shown.to_text().count("\n") + 1 == lines - (outcome != "not judged")
    assert all(line.isprintable() for line in shown.to_text().split("\n"))
    assert all(line.isprintable() for line in shown.to_markdown().split("\n"))
    encodable = name.encode(errors="replace").decode() == name
    if encodable and note.encode(errors="replace").decode() == note:
        assert Verdict.model_validate_json(shown.to_json()) == shown
