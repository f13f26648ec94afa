"""The gate on projects that are no classifiers: a regression, scores, examples in clusters."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gates.errors import GateInputError
from gates.evaluation import answers
from gates.evaluation.comparison import accept_without_baseline, compare
from gates.evaluation.policy import Policy, load_policy
from gates.evaluation.predictions import Predictions, open_predictions
from gates.verdicts.verdict import NOT_JUDGED, Finding, Outcome, Verdict
from tests import judged
from tests.judged import BASELINE, CANDIDATE, DATA, metric, written

N = 400
BITS = {"primary": True, "of": "score.bits", "better": "lower", "margin": 0.1, "floor": 2.5}
ERROR = {"primary": True, "of": "absolute_error", "better": "lower", "margin": 0.1, "floor": 2.0}
KINDS = np.array(["a", "b"] * (N // 2))


def policy_of(
    folder: Path, primary: dict[str, Any], changes: dict[str, Any] | None = None
) -> Policy:
    """Return a policy whose primary metric is `primary`, named by what it is of."""
    name = str(primary["of"]).rpartition(".")[2]
    file = judged.write_policy(folder / "policy.yaml", {"subgroups.floor": 9.0, **(changes or {})})
    tree = json.loads(file.read_text())["evaluation"]
    del tree["metrics"]["accuracy"]
    tree["metrics"][name] = {"require": "noninferiority", **primary}
    file.write_text(json.dumps({"evaluation": tree}))
    return load_policy(file)


def of_scores(bits: np.ndarray, digest: str = CANDIDATE, **changes: Any) -> Predictions:
    ids = np.array([f"e{row:04d}" for row in range(len(bits))])
    return Predictions(
        ids=ids, data_digest=DATA, checkpoint_digest=digest, scores={"bits": bits}, **changes
    )


def of_numbers(predicted: np.ndarray, digest: str = CANDIDATE, **changes: Any) -> Predictions:
    return Predictions(
        ids=np.array([f"e{row:04d}" for row in range(len(predicted))]),
        data_digest=DATA,
        checkpoint_digest=digest,
        labels=np.linspace(0.0, 10.0, len(predicted)),
        predictions=predicted,
        **changes,
    )


def judge(folder: Path, ours: Predictions, theirs: Predictions, policy: Policy) -> Verdict:
    files = (written(ours, folder, "candidate"), written(theirs, folder, "baseline"))
    return compare(*files, policy)


def finding(verdict: Verdict, check: str, group: str = "overall") -> Finding:
    (found,) = [each for each in verdict.findings if (each.check, each.group) == (check, group)]
    return found


def bits(shift: float = 0.0, noise: float = 0.3, seed: int = 0) -> np.ndarray:
    return 2.0 + shift + noise * np.random.default_rng(seed).normal(size=N)


@pytest.mark.parametrize(
    ("shift", "outcome"),
    [
        (-0.2, Outcome.PASS),
        (0.0, Outcome.PASS),
        (0.08, Outcome.INCONCLUSIVE),
        (0.3, Outcome.FAIL),
    ],
)
def test_a_score_that_less_is_better_of(shift: float, outcome: Outcome, tmp_path: Path) -> None:
    theirs = of_scores(bits(), BASELINE)
    verdict = judge(tmp_path, of_scores(bits(shift, seed=1)), theirs, policy_of(tmp_path, BITS))
    assert verdict.outcome is outcome
    found = finding(verdict, "bits")
    assert found.difference == pytest.approx(-shift, abs=0.06)
    assert found.value == verdict.metrics["bits"]
    assert verdict.metrics["baseline_bits"] == found.reference
    assert verdict.reason.startswith(f"bits {found.reference:.4f} -> {found.value:.4f} (")
    if outcome is Outcome.INCONCLUSIVE:
        assert found.n_needed is not None
        assert f"{found.n_needed:,} examples would settle it" in verdict.reason


def test_a_regression_is_judged_by_its_absolute_error(tmp_path: Path) -> None:
    truth = np.linspace(0.0, 10.0, N)
    random = np.random.default_rng(0)
    near, far = truth + random.normal(0, 0.5, N), truth + random.normal(0, 2.0, N)
    policy = policy_of(tmp_path, ERROR, {"metrics": {"square": metric("squared_error", 1.0)}})
    better = judge(tmp_path, of_numbers(near), of_numbers(far, BASELINE), policy)
    assert better.outcome is Outcome.PASS
    assert better.metrics["absolute_error"] == pytest.approx(np.abs(near - truth).mean())
    assert better.metrics["square"] == pytest.approx(((near - truth) ** 2).mean())
    worse = judge(tmp_path, of_numbers(far), of_numbers(near, BASELINE), policy)
    assert worse.outcome is Outcome.FAIL
    assert {each.check for each in worse.findings if each.outcome == Outcome.FAIL} == {
        "absolute_error",
        "square",
    }


def test_a_subgroup_that_is_harmed_is_found(tmp_path: Path) -> None:
    base = bits()
    ours = np.where(KINDS == "b", base + 0.5, base - 0.5)
    policy = policy_of(tmp_path, BITS, {"subgroups.columns": {"kind": ["a", "b"]}})
    verdict = judge(
        tmp_path,
        of_scores(ours, subgroups={"kind": KINDS}),
        of_scores(base, BASELINE, subgroups={"kind": KINDS}),
        policy,
    )
    assert verdict.outcome is Outcome.FAIL
    assert finding(verdict, "bits").outcome == Outcome.PASS
    assert finding(verdict, "bits", "kind=a").outcome == Outcome.PASS
    assert finding(verdict, "bits", "kind=b").outcome == Outcome.FAIL


def test_examples_in_clusters_count_as_their_clusters(tmp_path: Path) -> None:
    """Ten customers with forty rows each say as much as ten numbers."""
    random = np.random.default_rng(7)
    customers = np.array([f"c{row // 40}" for row in range(N)])
    base, ours = bits(), bits(0.02, seed=1) + np.repeat(random.normal(0, 0.15, 10), 40)
    policy = policy_of(tmp_path, BITS, {"subgroups.minimum_examples": 5})
    alone = judge(tmp_path, of_scores(ours), of_scores(base, BASELINE), policy)
    together = judge(
        tmp_path,
        of_scores(ours, clusters=customers),
        of_scores(base, BASELINE, clusters=customers),
        policy,
    )
    narrow, wide = (finding(each, "bits").interval for each in (alone, together))
    assert narrow is not None
    assert wide is not None
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert finding(together, "bits").n == 10
    assert "on 10 held-out clusters" in together.reason


def test_a_classifier_in_clusters_is_judged_by_its_clusters(tmp_path: Path) -> None:
    clusters = np.array([f"c{row // 10}" for row in range(N)])
    ours, theirs = judged.pair(360, 12, 8, 20, clusters=clusters)
    verdict = judge(tmp_path, ours, theirs, judged.policy(tmp_path))
    assert finding(verdict, "accuracy").n == N // 10
    nll = {"metrics": {"ece": metric("ece", 0.1)}}
    with pytest.raises(GateInputError, match=r"clusters, and evaluation\.metrics\.ece is comp"):
        judge(tmp_path, ours, theirs, judged.policy(tmp_path, nll))
    with pytest.raises(GateInputError, match=r"clusters, for which .* max_t is not"):
        judge(tmp_path, ours, theirs, judged.policy(tmp_path, {"subgroups.correction": "max_t"}))


@pytest.mark.parametrize(
    ("level", "outcome"), [(2.0, Outcome.PASS), (2.52, Outcome.INCONCLUSIVE), (3.0, Outcome.FAIL)]
)
def test_a_first_release_is_judged_by_the_worst_value_that_passes(
    level: float, outcome: Outcome, tmp_path: Path
) -> None:
    file = written(of_scores(bits(level - 2.0)), tmp_path, "candidate")
    verdict = accept_without_baseline(file, policy_of(tmp_path, BITS), why="the first")
    assert verdict.outcome is outcome
    found = finding(verdict, "bits floor")
    assert found.value_interval is not None
    assert found.value_interval[0] < verdict.metrics["bits"] < found.value_interval[1]
    if outcome is Outcome.FAIL:
        assert "is above the limit 2.5000; shown to be so on more examples" in verdict.reason


def test_without_a_floor_nothing_could_be_said_of_a_first_release(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, {**BITS, "floor": None})
    file = written(of_scores(bits()), tmp_path, "candidate")
    with pytest.raises(GateInputError, match=r"metrics\.bits has no floor, by which"):
        accept_without_baseline(file, policy, why="the first")


def test_a_metric_that_is_reported_on_decides_nothing(tmp_path: Path) -> None:
    more = {"loss": metric("score.bits", 0.0, require="report")}
    policy = policy_of(tmp_path, BITS, {"metrics": more})
    verdict = judge(tmp_path, of_scores(bits(0.05)), of_scores(bits(), BASELINE), policy)
    assert finding(verdict, "loss").outcome == NOT_JUDGED
    assert verdict.metrics["loss"] == verdict.metrics["bits"]


@pytest.mark.parametrize(
    ("primary", "told"),
    [
        ({**BITS, "of": "score.grade"}, "candidate: lacks the column score.grade, of which"),
        (ERROR, r"candidate: holds scores only, and evaluation.metrics.absolute_error \(abs"),
    ],
)
def test_what_the_policy_asks_for_and_is_not_there(
    primary: dict[str, Any], told: str, tmp_path: Path
) -> None:
    ours, theirs = of_scores(bits()), of_scores(bits(), BASELINE)
    with pytest.raises(GateInputError, match=told):
        judge(tmp_path, ours, theirs, policy_of(tmp_path, primary))


def test_a_regression_is_not_judged_by_its_accuracy(tmp_path: Path) -> None:
    ours, theirs = of_numbers(np.zeros(N)), of_numbers(np.zeros(N), BASELINE)
    told = r"candidate: holds numbers with fractions, and evaluation.metrics.accuracy \(correct\)"
    with pytest.raises(GateInputError, match=told):
        judge(tmp_path, ours, theirs, judged.policy(tmp_path))


def test_clusters_must_be_the_same_in_both_files(tmp_path: Path) -> None:
    one, other = np.array(["x", "y"] * (N // 2)), np.array(["y", "x"] * (N // 2))
    ours, theirs = of_scores(bits(), clusters=one), of_scores(bits(), BASELINE, clusters=other)
    with pytest.raises(GateInputError, match="cluster differs in 400 examples"):
        judge(tmp_path, ours, theirs, policy_of(tmp_path, BITS))


def rewritten(file: Path, **columns: pa.Array) -> Path:
    """Write a file of predictions again with other columns, its digest taken away."""
    table = pq.read_table(file)
    metadata = {k: v for k, v in table.schema.metadata.items() if k != b"content_digest"}
    for name, values in columns.items():
        at = table.column_names.index(name) if name in table.column_names else None
        table = (
            table.append_column(name, values) if at is None else table.set_column(at, name, values)
        )
    pq.write_table(table.replace_schema_metadata(metadata), file)
    return file


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("score.bits", [float("nan")] * N, "score.bits that is not a finite number, in 400 ex"),
        ("score.bits", [1] * N, "score.bits must be numbers with fractions; found int64"),
        ("cluster", [0.5] * N, "cluster must be text or whole numbers; found double"),
    ],
)
def test_columns_that_cannot_be_judged(
    column: str, values: list[Any], told: str, tmp_path: Path
) -> None:
    file = rewritten(
        written(of_scores(bits()), tmp_path, "candidate").path, **{column: pa.array(values)}
    )
    with pytest.raises(GateInputError, match=told):
        list(open_predictions(file).batches())


def test_labels_and_predictions_of_different_kinds_are_refused(tmp_path: Path) -> None:
    file = written(of_numbers(np.zeros(N)), tmp_path, "candidate").path
    rewritten(file, label=pa.array([1] * N))
    with pytest.raises(GateInputError, match="label is int64 and prediction is double; expected"):
        open_predictions(file)


def test_scores_and_numbers_may_differ_by_what_processors_round(tmp_path: Path) -> None:
    first = of_scores(bits())
    recorded = written(first, tmp_path, "candidate")
    near, far = (of_scores(first.scores["bits"] * (1 + share)) for share in (1e-5, 1e-2))
    assert answers.difference(recorded, near, tolerance=1e-3) is None
    told = answers.difference(recorded, far, tolerance=1e-3)
    assert told == "score.bits of e0000 is not what was recorded"
