import json
from pathlib import Path
from typing import Any

import pytest

from gates.errors import ConfigError
from gates.evaluation.policy import load_policy
from gates.files import sha256
from tasks.project import ROOT
from tests import judged
from tests.judged import metric, write_policy

COLUMNS = {"subgroups.columns": {"a": ["x"], "b": [], "c": []}}


def test_policy_of_the_repository_is_valid() -> None:
    policy = load_policy(ROOT / "configs" / "gates.yaml")
    assert policy.digest == sha256(ROOT / "configs" / "gates.yaml")
    assert policy.evaluation.subgroups.columns.keys() == {"digit", "thickness"}
    assert policy.evaluation.metrics.keys() == {"accuracy", "nll", "ece"}
    assert policy.evaluation.primary_name == "accuracy"


@pytest.mark.parametrize(
    ("changes", "explanation"),
    [
        ({"alpha": 0}, "evaluation.alpha: must be > 0, got 0"),
        ({"alpha": 0.5}, "evaluation.alpha: must be < 0.5, got 0.5"),
        ({"alpha": "0.05"}, "evaluation.alpha: input should be a valid number, got '0.05'"),
        ({"alpha": True}, "evaluation.alpha: input should be a valid number, got True"),
        ({"power": 1.0}, "evaluation.power: must be < 1, got 1.0"),
        ({"accuracy.margin": 2.0}, "evaluation.metrics.accuracy: margin and floor of correct are"),
        ({"accuracy.floor": -1.0}, "evaluation.metrics.accuracy: margin and floor of correct are"),
        ({"accuracy.margin": -0.1}, "evaluation.metrics.accuracy.margin: must be >= 0, got -0.1"),
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
        (
            {"metrics": {"m": metric("brier", 0.1)}},
            "metrics.m: of is 'brier'; write one of correct",
        ),
        ({"metrics": {"m": metric("score.", 0.1)}}, "metrics.m: of is 'score.'; write one of"),
        (
            {"metrics": {"nll": metric("nll", 0.1, better="higher")}},
            "metrics.nll: for nll, lower is better; write better: lower",
        ),
        ({"metrics": {"m": metric("a:b", 0.1, require="luck")}}, "metrics.m.require: must be"),
        ({"metrics": {"nll": metric("nll", float("nan"))}}, "metrics.nll.margin: "),
        ({"metrics": {"nll": metric("nll", 0.1, marign=1)}}, "unknown key; did you mean margin?"),
        ({"accuracy.primary": False}, "metrics: exactly one must be primary, but none is; write"),
        (
            {"metrics": {"nll": metric("nll", 0.1, primary=True)}},
            "metrics: exactly one must be primary, but accuracy, nll are; write",
        ),
        ({"accuracy.require": "report"}, "metrics.accuracy is primary, so it must be the mean"),
        ({"subgroups.margin": 1.5}, "subgroups: margin and floor are fractions"),
        (
            {"accuracy.of": "score.x", "subgroups.correction": "max_t"},
            "subgroups.correction: max_t needs a primary metric with of: correct, but accuracy is",
        ),
        ({"resamples": 98}, "evaluation.resamples: must be >= 99, got 98"),
        ({"alpha": 0.01, "resamples": 99}, "resamples must be more than 1 / alpha = 100, got 99"),
        ({"seed": -1}, "evaluation.seed: must be >= 0, got -1"),
    ],
)
def test_invalid_limit_is_refused(
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
    accuracy = judged.POLICY["metrics"]["accuracy"]
    names = {"": judged.POLICY, "accuracy": accuracy, **judged.POLICY}[section]
    for name in names:
        file = write_policy(tmp_path / "policy.yaml")
        file.write_text(file.read_text().replace(f'"{name}": ', f'"not_{name}": '))
        with pytest.raises(
            ConfigError, match=name if name in {"of", "seed"} else f"did you mean {name}"
        ):
            load_policy(file)


def test_margin_of_the_command_line_overrides_the_policy(
    tmp_path: Path,
) -> None:
    policy = judged.policy(tmp_path)
    assert policy.with_margin(None) is policy
    other = policy.with_margin(0.1)
    assert other.evaluation.primary.margin == 0.1
    assert other.evaluation.subgroups == policy.evaluation.subgroups
    assert other.digest == policy.digest


@pytest.mark.parametrize("margin", [-0.01, 1.0, 2.0, float("nan"), float("inf")])
def test_margin_that_is_not_a_fraction_is_refused(tmp_path: Path, margin: float) -> None:
    with pytest.raises(ConfigError, match=r"^--fail-if-worse-than: must be a fraction in \[0, 1\)"):
        judged.policy(tmp_path).with_margin(margin)


def test_policy_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A pipe can be read only once; a second read would give the digest of an empty file.
    file = write_policy(tmp_path / "policy.yaml")
    expected, read = sha256(file), Path.read_bytes

    def read_once(path: Path) -> bytes:
        content = read(path)
        path.unlink()
        return content

    monkeypatch.setattr(Path, "read_bytes", read_once)
    assert load_policy(file).digest == expected


def test_margin_of_a_score_may_be_any_non_negative_number(tmp_path: Path) -> None:
    scores = {"accuracy.of": "score.loss", "accuracy.better": "lower"}
    rules = judged.policy(tmp_path, scores)
    assert rules.with_margin(2.5).evaluation.primary.margin == 2.5
    for margin in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="must be a number >= 0, got"):
            rules.with_margin(margin)


def write_old_format(file: Path, **changes: Any) -> Path:
    """Write `judged.POLICY` and one more metric in the old policy format."""
    tree: dict[str, Any] = {**judged.POLICY, "metrics": {"nll": {"margin": 0.3}}}
    tree["accuracy"] = {"margin": 0.02, "floor": 0.0, "require": "noninferiority"}
    file.write_text(json.dumps({"evaluation": tree | changes}))
    return file


def test_the_old_policy_format_is_still_read_and_the_new_one_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_old_format(tmp_path / "first.yaml")
    old = load_policy(file)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{file}: evaluation.accuracy is an old format that still works; ")
    new = judged.policy(tmp_path, {"metrics": {"nll": metric("nll", 0.3)}})
    assert capsys.readouterr().err == ""
    assert old.evaluation == new.evaluation


@pytest.mark.parametrize(
    ("changes", "explanation"),
    [
        ({"metrics": {"brier": {"margin": 0.1}}}, "metrics.brier is not one of nll, ece: give"),
        (
            {"metrics": {"nll": {"margin": 0.1, "higher_is_better": True}}},
            "metrics.nll is built in: give only its margin",
        ),
        (
            {"accuracy": {"margin": 2.0, "floor": 0.0, "require": "superiority"}},
            "evaluation.accuracy.margin: must be < 1, got 2.0",
        ),
    ],
)
def test_a_mistake_in_the_old_format_is_reported_with_its_own_keys(
    tmp_path: Path, changes: dict[str, Any], explanation: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        load_policy(write_old_format(tmp_path / "first.yaml", **changes))
    assert explanation in str(raised.value)
