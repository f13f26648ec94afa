import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import pytest

from gates.errors import GateInputError
from gates.evaluation import pairing
from gates.evaluation.comparison import accept_without_baseline, compare
from gates.evaluation.pairing import arrays, tally
from gates.evaluation.predictions import Predictions
from gates.verdicts.verdict import Finding, Verdict
from tests import judged
from tests.judged import BASELINE, in_order, metric, pair, scored, written

EVERYTHING = {
    "subgroups.columns": {"kind": []},
    "metrics": {"nll": metric("nll", 0.3), "ece": metric("ece", 0.1)},
    "accuracy.margin": 0.1,
    "resamples": 99,
}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(params=[1, 7, 50], ids=lambda rows: f"{rows}_rows_in_memory")
def _few_rows_in_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairing, "_IN_MEMORY", request.param)


def models(n: int = 60) -> tuple[Predictions, Predictions]:
    rng = np.random.default_rng(0)
    kinds = {"kind": np.array([f"g{kind}" for kind in rng.integers(3, size=n)])}
    ours = scored(rng.random(n) < 0.8, subgroups=kinds)
    theirs = scored(rng.random(n) < 0.8, subgroups=kinds, checkpoint_digest=BASELINE)
    probabilities = rng.dirichlet(np.ones(10), n)
    ours = dataclasses.replace(ours, probabilities=probabilities)
    return in_order(ours, rng.permutation(n).tolist()), theirs


def judge(folder: Path, both: tuple[Predictions, Predictions]) -> Verdict:
    candidate, baseline = both
    return compare(
        written(candidate, folder, "candidate"),
        written(baseline, folder, "baseline"),
        judged.policy(folder, EVERYTHING),
    )


def figures(finding: Finding) -> list[float]:
    values = (finding.value, finding.reference, finding.difference, *(finding.interval or ()))
    return [value for value in values if value is not None]


def test_files_larger_than_memory_give_the_same_verdict(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = judge(tmp_path, models())
    for rows in (1, 7, 50):
        monkeypatch.setattr(pairing, "_IN_MEMORY", rows)
        parts = judge(tmp_path, models())
        assert parts.outcome == whole.outcome
        for one, other in zip(parts.findings, whole.findings, strict=True):
            assert (one.check, one.group, one.outcome, one.n) == (
                other.check,
                other.group,
                other.outcome,
                other.n,
            )
            assert figures(one) == pytest.approx(figures(other), abs=1e-12)
    assert not list(temporary.iterdir())


@pytest.mark.usefixtures("_few_rows_in_memory")
@pytest.mark.parametrize("defect", ["missing", "extra", "twice", "label"])
def test_defects_in_files_larger_than_memory_are_refused(
    tmp_path: Path, temporary: Path, defect: str
) -> None:
    candidate, baseline = pair(60, 0, 0, 0, subgroups={"kind": np.array(["a"] * 60)})
    labels = candidate.labels.copy()
    labels[17] = 9 - labels[17]
    candidate = {
        "missing": in_order(candidate, [row for row in range(60) if row != 17]),
        "extra": candidate,
        "twice": in_order(candidate, [*range(60), 17]),
        "label": dataclasses.replace(candidate, labels=labels),
    }[defect]
    if defect == "extra":
        baseline = in_order(baseline, [row for row in range(60) if row != 17])
    expected = {
        "missing": "candidate: unlike baseline, lacks 1 example: e00017",
        "extra": "baseline: unlike candidate, lacks 1 example: e00017",
        "twice": "candidate: has duplicates of 1 example: e00017",
        "label": "candidate and baseline: label differs in 1 example: e00017",
    }[defect]
    with pytest.raises(GateInputError) as raised:
        judge(tmp_path, (candidate, baseline))
    assert str(raised.value) == expected
    assert not list(temporary.iterdir())


@pytest.mark.usefixtures("_few_rows_in_memory")
def test_first_release_larger_than_memory_is_judged(tmp_path: Path, temporary: Path) -> None:
    candidate = written(models()[0], tmp_path, "candidate")
    policy = judged.policy(tmp_path, EVERYTHING)
    assert accept_without_baseline(candidate, policy, why="first").findings[0].n == 60
    twice = written(in_order(models()[0], [*range(60), 3]), tmp_path, "candidate")
    with pytest.raises(GateInputError, match="has duplicates of 1 example"):
        accept_without_baseline(twice, policy, why="first")
    assert not list(temporary.iterdir())


@pytest.mark.usefixtures("_few_rows_in_memory")
def test_damage_found_half_way_leaves_no_temporary_files(tmp_path: Path, temporary: Path) -> None:
    both = [written(each, tmp_path, name) for each, name in zip(models(), "ab", strict=True)]
    damaged = dataclasses.replace(both[0], n=both[0].n + 1)
    with pytest.raises(GateInputError, match="a: damaged"):
        tally(damaged, both[1], columns=["kind"], with_losses=False)
    assert not list(temporary.iterdir())


def test_interrupt_leaves_no_temporary_files(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        assert len(list(temporary.iterdir())) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(pairing, "_IN_MEMORY", 7)
    monkeypatch.setattr(pairing, "_count", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge(tmp_path, models())
    assert not list(temporary.iterdir())


def test_counts_of_a_worked_example(tmp_path: Path) -> None:
    kinds = {"kind": np.array(["a", "a", "a", "b", "b"])}
    candidate = scored([True, True, False, False, True], subgroups=kinds)
    baseline = scored([True, False, True, False, True], checkpoint_digest=BASELINE)
    both = (written(candidate, tmp_path, "c"), written(baseline, tmp_path, "b"))
    counted = tally(*both, columns=["kind"], with_losses=True)
    assert counted.values("kind") == ["a", "b"]
    assert dataclasses.astuple(counted.counts({})) == (2, 1, 1, 1)
    assert dataclasses.astuple(counted.counts({"kind": "a"})) == (1, 1, 1, 0)
    assert dataclasses.astuple(counted.counts({"kind": "nothing"})) == (0, 0, 0, 0)
    # Both have a confidence of 0.9 and are wrong twice.
    expected = -3 * np.log(0.9) - 2 * np.log(0.1 / 9)
    assert counted.losses().candidate == pytest.approx(expected)
    assert counted.losses().gain == pytest.approx(0, abs=1e-12)
    assert counted.losses().gain_squared == pytest.approx(2 * np.log(0.9 * 9 / 0.1) ** 2)


def test_probabilities_are_sorted_by_id_and_read_only(tmp_path: Path) -> None:
    ours, theirs = models()
    both = arrays(written(ours, tmp_path, "c"), written(theirs, tmp_path, "b"))
    assert both.labels.tolist() == theirs.labels.tolist()
    assert theirs.probabilities is not None
    assert both.baseline.tolist() == theirs.probabilities.tolist()
    for array in (both.labels, both.candidate, both.baseline):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_models_with_different_numbers_of_classes_are_refused(tmp_path: Path) -> None:
    ours, theirs = models()
    assert theirs.probabilities is not None
    more = np.hstack([theirs.probabilities, np.zeros((60, 1))])
    other = dataclasses.replace(theirs, probabilities=more)
    with pytest.raises(GateInputError, match=r"^c and b: differ in their number of classes; score"):
        arrays(written(ours, tmp_path, "c"), written(other, tmp_path, "b"))
