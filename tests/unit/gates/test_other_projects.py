"""The gate on projects other than classifiers: regression, scores, clustered examples."""

import json
import re
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
    """Return a policy whose primary metric is `primary`, named after its `of`."""
    name = str(primary["of"]).rpartition(".")[2]
    file = judged.write_policy(folder / "policy.yaml", {"subgroups.floor": 9.0, **(changes or {})})
    tree = json.loads(file.read_text())["evaluation"]
    del tree["metrics"]["accuracy"]
    tree["metrics"][name] = {"require": "noninferiority", **primary}
    file.write_text(json.dumps({"evaluation": tree}))
    return load_policy(file)


def scored_predictions(bits: np.ndarray, digest: str = CANDIDATE, **changes: Any) -> Predictions:
    ids = np.array([f"e{row:04d}" for row in range(len(bits))])
    return Predictions(
        ids=ids, data_digest=DATA, checkpoint_digest=digest, scores={"bits": bits}, **changes
    )


def regression_predictions(
    predicted: np.ndarray, digest: str = CANDIDATE, **changes: Any
) -> Predictions:
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
def test_a_score_where_lower_is_better(shift: float, outcome: Outcome, tmp_path: Path) -> None:
    theirs = scored_predictions(bits(), BASELINE)
    verdict = judge(
        tmp_path, scored_predictions(bits(shift, seed=1)), theirs, policy_of(tmp_path, BITS)
    )
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
    better = judge(
        tmp_path, regression_predictions(near), regression_predictions(far, BASELINE), policy
    )
    assert better.outcome is Outcome.PASS
    assert better.metrics["absolute_error"] == pytest.approx(np.abs(near - truth).mean())
    assert better.metrics["square"] == pytest.approx(((near - truth) ** 2).mean())
    worse = judge(
        tmp_path, regression_predictions(far), regression_predictions(near, BASELINE), policy
    )
    assert worse.outcome is Outcome.FAIL
    assert {each.check for each in worse.findings if each.outcome == Outcome.FAIL} == {
        "absolute_error",
        "square",
    }


def test_a_harmed_subgroup_is_found(tmp_path: Path) -> None:
    base = bits()
    ours = np.where(KINDS == "b", base + 0.5, base - 0.5)
    policy = policy_of(tmp_path, BITS, {"subgroups.columns": {"kind": ["a", "b"]}})
    verdict = judge(
        tmp_path,
        scored_predictions(ours, subgroups={"kind": KINDS}),
        scored_predictions(base, BASELINE, subgroups={"kind": KINDS}),
        policy,
    )
    assert verdict.outcome is Outcome.FAIL
    assert finding(verdict, "bits").outcome == Outcome.PASS
    assert finding(verdict, "bits", "kind=a").outcome == Outcome.PASS
    assert finding(verdict, "bits", "kind=b").outcome == Outcome.FAIL


def test_clustered_examples_count_once_per_cluster(tmp_path: Path) -> None:
    """Ten customers with forty rows each carry as much information as ten numbers."""
    random = np.random.default_rng(7)
    customers = np.array([f"c{row // 40}" for row in range(N)])
    base, ours = bits(), bits(0.02, seed=1) + np.repeat(random.normal(0, 0.15, 10), 40)
    policy = policy_of(tmp_path, BITS, {"subgroups.minimum_examples": 5})
    alone = judge(tmp_path, scored_predictions(ours), scored_predictions(base, BASELINE), policy)
    together = judge(
        tmp_path,
        scored_predictions(ours, clusters=customers),
        scored_predictions(base, BASELINE, clusters=customers),
        policy,
    )
    narrow, wide = (finding(each, "bits").interval for each in (alone, together))
    assert narrow is not None
    assert wide is not None
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert finding(together, "bits").n == 10
    assert "on 10 held-out clusters" in together.reason


def test_a_classifier_on_clustered_examples_is_judged_by_cluster(tmp_path: Path) -> None:
    clusters = np.array([f"c{row // 10}" for row in range(N)])
    ours, theirs = judged.pair(360, 12, 8, 20, clusters=clusters)
    verdict = judge(tmp_path, ours, theirs, judged.policy(tmp_path))
    assert finding(verdict, "accuracy").n == N // 10
    nll = {"metrics": {"ece": metric("ece", 0.1)}}
    with pytest.raises(GateInputError, match=r"clusters, but evaluation\.metrics\.ece needs"):
        judge(tmp_path, ours, theirs, judged.policy(tmp_path, nll))
    with pytest.raises(GateInputError, match=r"clusters, which .* max_t does not"):
        judge(tmp_path, ours, theirs, judged.policy(tmp_path, {"subgroups.correction": "max_t"}))


@pytest.mark.parametrize(
    ("level", "outcome"), [(2.0, Outcome.PASS), (2.52, Outcome.INCONCLUSIVE), (3.0, Outcome.FAIL)]
)
def test_a_first_release_is_judged_by_the_floor(
    level: float, outcome: Outcome, tmp_path: Path
) -> None:
    file = written(scored_predictions(bits(level - 2.0)), tmp_path, "candidate")
    verdict = accept_without_baseline(file, policy_of(tmp_path, BITS), why="the first")
    assert verdict.outcome is outcome
    found = finding(verdict, "bits floor")
    assert found.value_interval is not None
    assert found.value_interval[0] < verdict.metrics["bits"] < found.value_interval[1]
    if outcome is Outcome.FAIL:
        assert "is above the limit 2.5000, significantly (p " in verdict.reason


def test_a_first_release_without_a_floor_is_refused(tmp_path: Path) -> None:
    policy = policy_of(tmp_path, {**BITS, "floor": None})
    file = written(scored_predictions(bits()), tmp_path, "candidate")
    with pytest.raises(GateInputError, match=r"metrics\.bits has no floor, and a first"):
        accept_without_baseline(file, policy, why="the first")


def test_a_metric_that_is_only_reported_decides_nothing(tmp_path: Path) -> None:
    more = {"loss": metric("score.bits", 0.0, require="report")}
    policy = policy_of(tmp_path, BITS, {"metrics": more})
    verdict = judge(
        tmp_path, scored_predictions(bits(0.05)), scored_predictions(bits(), BASELINE), policy
    )
    assert finding(verdict, "loss").outcome == NOT_JUDGED
    assert verdict.metrics["loss"] == verdict.metrics["bits"]
    assert re.search(
        r"^  loss  +overall .* not judged: only reported", verdict.to_text(), re.MULTILINE
    )
    assert "too few examples" not in verdict.to_text()


@pytest.mark.parametrize(
    ("primary", "message"),
    [
        ({**BITS, "of": "score.grade"}, "candidate: lacks the column score.grade, whose mean"),
        (ERROR, r"candidate: holds scores only, but evaluation.metrics.absolute_error \(abs"),
    ],
)
def test_predictions_without_the_columns_for_the_policy_are_refused(
    primary: dict[str, Any], message: str, tmp_path: Path
) -> None:
    ours, theirs = scored_predictions(bits()), scored_predictions(bits(), BASELINE)
    with pytest.raises(GateInputError, match=message):
        judge(tmp_path, ours, theirs, policy_of(tmp_path, primary))


def test_a_regression_is_not_judged_by_its_accuracy(tmp_path: Path) -> None:
    ours, theirs = (
        regression_predictions(np.zeros(N)),
        regression_predictions(np.zeros(N), BASELINE),
    )
    message = r"candidate: holds floats, but evaluation.metrics.accuracy \(correct\)"
    with pytest.raises(GateInputError, match=message):
        judge(tmp_path, ours, theirs, judged.policy(tmp_path))


def test_clusters_must_be_the_same_in_both_files(tmp_path: Path) -> None:
    one, other = np.array(["x", "y"] * (N // 2)), np.array(["y", "x"] * (N // 2))
    ours, theirs = (
        scored_predictions(bits(), clusters=one),
        scored_predictions(bits(), BASELINE, clusters=other),
    )
    with pytest.raises(GateInputError, match="cluster differs in 400 examples"):
        judge(tmp_path, ours, theirs, policy_of(tmp_path, BITS))


def rewrite(file: Path, **columns: pa.Array) -> Path:
    """Rewrite a file of predictions with other columns and without its content digest."""
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
    ("column", "values", "message"),
    [
        ("score.bits", [float("nan")] * N, "score.bits that is not a finite number, in 400 ex"),
        ("score.bits", [1] * N, "score.bits must be floats; found int64"),
        ("cluster", [0.5] * N, "cluster must be text or integers; found double"),
    ],
)
def test_columns_of_the_wrong_type_or_value_are_refused(
    column: str, values: list[Any], message: str, tmp_path: Path
) -> None:
    file = rewrite(
        written(scored_predictions(bits()), tmp_path, "candidate").path,
        **{column: pa.array(values)},
    )
    with pytest.raises(GateInputError, match=message):
        list(open_predictions(file).batches())


def test_labels_and_predictions_of_different_kinds_are_refused(tmp_path: Path) -> None:
    file = written(regression_predictions(np.zeros(N)), tmp_path, "candidate").path
    rewrite(file, label=pa.array([1] * N))
    with pytest.raises(GateInputError, match="label is int64 and prediction is double; expected"):
        open_predictions(file)


def test_scores_may_differ_by_rounding(tmp_path: Path) -> None:
    first = scored_predictions(bits())
    recorded = written(first, tmp_path, "candidate")
    near, far = (scored_predictions(first.scores["bits"] * (1 + share)) for share in (1e-5, 1e-2))
    assert answers.difference(recorded, near, tolerance=1e-3) is None
    message = answers.difference(recorded, far, tolerance=1e-3)
    assert message == "score.bits of e0000 differs from what was recorded"
