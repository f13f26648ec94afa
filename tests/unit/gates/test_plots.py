import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from gates.errors import GateInputError
from gates.evaluation.plots import draw_verdict
from gates.verdicts.verdict import Finding, Outcome, Verdict

SVG = "{http://www.w3.org/2000/svg}"


def finding(group: str = "overall", outcome: str = "pass", **changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "check": "accuracy",
        "group": group,
        "outcome": outcome,
        "reason": "",
        "n": 1000,
        "difference": -0.01,
        "interval": (-0.03, 0.01),
        "confidence": 0.9,
        "limit": -0.02,
    }
    return Finding.model_validate(fields | changes)


def draw(tmp_path: Path, *findings: Finding) -> str:
    verdict = Verdict(
        gate="evaluation",
        outcome=Outcome.FAIL,
        reason="",
        findings=findings,
        metrics={},
        evidence={},
    )
    draw_verdict(verdict, tmp_path / "verdict.svg")
    return (tmp_path / "verdict.svg").read_text(encoding="utf-8")


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ET.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - ours


def test_every_judged_difference_is_named(tmp_path: Path) -> None:
    svg = draw(
        tmp_path,
        finding(),
        finding("digit=3", "fail"),
        finding("digit=4", "inconclusive"),
        finding("digit=5", "not judged"),
        finding("digit=6", interval=None),
        finding("digit=7", check="accuracy floor"),
        finding("digit=8", "fail", check="accuracy floor"),
        finding(check="nll"),
    )
    labels = texts(svg)
    assert "evaluation: FAIL" in labels
    shown = [text for text in labels if "(n = 1,000)" in text]
    assert sorted(shown) == [
        "digit=3 (n = 1,000)",
        "digit=4 (n = 1,000)",
        "digit=8 (n = 1,000)",
        "overall (n = 1,000)",
        "overall (n = 1,000)",
    ]
    # The legend names each mark, so that no colour is needed.
    assert {"pass", "fail", "inconclusive"} <= set(labels)
    assert any("90% interval; dotted: the limit" in text for text in labels)


def test_plot_is_readable_in_black_and_white(tmp_path: Path) -> None:
    svg = draw(tmp_path, finding(), finding("a=1", "fail"), finding("a=2", "inconclusive"))
    colours = {colour.lower() for colour in re.findall(r"#[0-9a-fA-F]{6}", svg)}
    assert colours
    assert all(len({colour[1:3], colour[3:5], colour[5:7]}) == 1 for colour in colours), colours


def test_plot_is_deterministic(tmp_path: Path) -> None:
    findings = finding(), finding("a=1", "fail")
    assert draw(tmp_path, *findings) == draw(tmp_path, *findings)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("price=$5$", "price=$5$"),
        ("$\\frac$", "$\\frac$"),
        ("a=<b>&amp;", "a=<b>&amp;"),
        ("a=\x00\x1b\n", "a=\\x00"),
        ("a=一二", "a=一二"),
        ("_", "_"),
        ("", ""),
    ],
)
def test_subgroup_may_have_any_name(tmp_path: Path, group: str, expected: str) -> None:
    assert any(text.startswith(expected) for text in texts(draw(tmp_path, finding(group))))


def test_plot_without_intervals_says_so(tmp_path: Path) -> None:
    assert "no finding has an interval to draw" in texts(draw(tmp_path))


def test_many_subgroups_are_drawn(tmp_path: Path) -> None:
    svg = draw(tmp_path, *(finding(f"a={number}") for number in range(60)))
    assert sum("(n = 1,000)" in text for text in texts(svg)) == 60


def test_plot_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "verdict.svg").mkdir()
    with pytest.raises(GateInputError, match="cannot be written"):
        draw(tmp_path, finding())
