from pathlib import Path
from typing import Any

import pytest

from gates.errors import ConfigError
from gates.evaluation.policy import load_policy
from gates.files import sha256
from tasks.project import ROOT
from tests import judged
from tests.judged import write_policy

COLUMNS = {"subgroups.columns": {"a": ["x"], "b": [], "c": []}}


def test_policy_of_the_repository_is_whole() -> None:
    policy = load_policy(ROOT / "configs" / "gates.yaml")
    assert policy.digest == sha256(ROOT / "configs" / "gates.yaml")
    assert policy.evaluation.subgroups.columns.keys() == {"digit", "thickness"}
    assert policy.evaluation.metrics.keys() == {"nll", "ece"}


@pytest.mark.parametrize(
    ("changes", "explanation"),
    [
        ({"alpha": 0}, "evaluation.alpha: must be > 0, got 0"),
        ({"alpha": 0.5}, "evaluation.alpha: must be < 0.5, got 0.5"),
        ({"alpha": "0.05"}, "evaluation.alpha: input should be a valid number, got '0.05'"),
        ({"alpha": True}, "evaluation.alpha: input should be a valid number, got True"),
        ({"power": 1.0}, "evaluation.power: must be < 1, got 1.0"),
        ({"accuracy.margin": 2.0}, "evaluation.accuracy.margin: must be < 1, got 2.0"),
        ({"accuracy.margin": -0.1}, "evaluation.accuracy.margin: must be >= 0, got -0.1"),
        ({"accuracy.margen": 0.1}, "unknown key; did you mean margin?"),
        ({"subgroups.minimum_examples": 0}, "minimum_examples: must be > 0, got 0"),
        ({"subgroups.too_small": "pass"}, "too_small: must be 'report', 'inconclusive' or 'fail'"),
        ({"subgroups.require": "hope"}, "require: must be 'no_harm' or 'noninferiority'"),
        ({"subgroups.correction": "none"}, "correction: must be 'holm' or 'max_t'"),
        ({"subgroups.columns": {"a": [1]}}, "columns.a.0: input should be a valid string, got 1"),
        ({"subgroups.columns": {"a": ["x", "x"]}}, "a names x more than once"),
        ({"subgroups.intersections": [["a", "b"]]}, "is two of no columns; got ['a', 'b']"),
        *(
            ({**COLUMNS, "subgroups.intersections": [pair]}, f"is two of a, b, c; got {pair}")
            for pair in ([], ["a"], ["a", "a"], ["a", "d"], ["a", "b", "c"], ["a", "b", "b"])
        ),
        (
            {**COLUMNS, "subgroups.intersections": [["a", "b"], ["b", "a"]]},
            "intersections names a and b more than once",
        ),
        ({"metrics": {"brier": {"margin": 0.1}}}, "metrics.brier is not one of nll, ece: give"),
        (
            {"metrics": {"nll": {"margin": 0.1, "higher_is_better": True}}},
            "metrics.nll is built in: give its margin only",
        ),
        (
            {"metrics": {"m": {"margin": 0.1, "function": "x", "higher_is_better": True}}},
            "metrics.m.function: string should match pattern",
        ),
        ({"metrics": {"nll": {"margin": float("nan")}}}, "metrics.nll.margin: "),
        ({"metrics": {"nll": {"margin": 0.1, "marign": 1}}}, "unknown key; did you mean margin?"),
        ({"resamples": 98}, "evaluation.resamples: must be >= 99, got 98"),
        ({"alpha": 0.01, "resamples": 99}, "resamples must be more than 1 / alpha = 100, got 99"),
        ({"seed": -1}, "evaluation.seed: must be >= 0, got -1"),
    ],
)
def test_limit_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], explanation: str
) -> None:
    file = write_policy(tmp_path / "policy.yaml", changes)
    if "nan" in file.read_text().lower():
        file.write_text(file.read_text().replace("NaN", ".nan"))
    with pytest.raises(ConfigError) as raised:
        load_policy(file)
    assert str(raised.value).startswith(f"{file}: ")
    assert explanation in str(raised.value)


@pytest.mark.parametrize("section", ["", "accuracy", "subgroups"])
def test_no_limit_has_a_default(tmp_path: Path, section: str) -> None:
    names = judged.POLICY[section] if section else judged.POLICY
    for name in names:
        file = write_policy(tmp_path / "policy.yaml")
        file.write_text(file.read_text().replace(f'"{name}": ', f'"not_{name}": '))
        with pytest.raises(ConfigError, match=f"did you mean {name}" if name != "seed" else "seed"):
            load_policy(file)


def test_margin_of_the_command_line_goes_before_that_of_the_policy(
    tmp_path: Path,
) -> None:
    policy = judged.policy(tmp_path)
    assert policy.with_margin(None) is policy
    other = policy.with_margin(0.1)
    assert other.evaluation.accuracy.margin == 0.1
    assert other.evaluation.subgroups == policy.evaluation.subgroups
    assert other.digest == policy.digest


@pytest.mark.parametrize("margin", [-0.01, 1.0, 2.0, float("nan"), float("inf")])
def test_margin_that_is_no_fraction_is_refused(tmp_path: Path, margin: float) -> None:
    with pytest.raises(ConfigError, match=r"^--fail-if-worse-than: must be a fraction in \[0, 1\)"):
        judged.policy(tmp_path).with_margin(margin)


def test_policy_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # From a pipe there is nothing to read the second time; the digest would be that of nothing.
    file = write_policy(tmp_path / "policy.yaml")
    expected, read = sha256(file), Path.read_bytes

    def read_once(path: Path) -> bytes:
        content = read(path)
        path.unlink()
        return content

    monkeypatch.setattr(Path, "read_bytes", read_once)
    assert load_policy(file).digest == expected
