"""Planted defects: the gate's verdicts on real digit models that were made worse."""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gates.__main__ import main as gates
from gates.evaluation.predictions import Predictions, write_predictions
from gates.verdicts.verdict import NOT_JUDGED, Outcome, Verdict, read_verdict
from tasks.project import ROOT
from tests.integration.trainings import Settings, Trainings, run_folder
from tests.judged import in_order
from training import config as configs
from training import evaluation as judging
from training.pytorch import checkpoint as checkpoints

from my_project import eval as command
from my_project import evaluation
from my_project.data import THICKNESSES
from my_project.learner import METHOD
from my_project.project import PROJECT

POLICY = ROOT / "configs" / "gates.yaml"
RUINED = 8


@pytest.fixture(scope="session")
def production(
    trainings: Trainings, data_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The checkpoint of a model trained for a few seconds."""
    folder = tmp_path_factory.mktemp("production")
    settings = Settings({"data.cache_dir": str(data_cache), "train.epochs": 8})
    ended = trainings.run(settings, folder)
    assert ended.codes == [0], ended.stderr
    return run_folder(folder) / "checkpoint.pt"


@pytest.fixture(scope="session")
def predictions(production: Path) -> Predictions:
    examples = judging.held_out_examples(PROJECT, production, production.with_name("config.yaml"))
    return evaluation.predict(production, examples)


def with_wrong(predictions: Predictions, rows: npt.NDArray[np.intp], digest: str) -> Predictions:
    """Return `predictions` with the two most probable classes of `rows` swapped."""
    assert predictions.probabilities is not None
    probabilities = predictions.probabilities.copy()
    second, first = probabilities[rows].argsort(axis=1)[:, -2:].T
    probabilities[rows, first], probabilities[rows, second] = (
        probabilities[rows, second],
        probabilities[rows, first],
    )
    return dataclasses.replace(
        predictions,
        predictions=probabilities.argmax(axis=1).astype(np.int64),
        probabilities=probabilities,
        checkpoint_digest=digest * 64,
    )


def correct_rows(predictions: Predictions) -> npt.NDArray[np.intp]:
    return np.flatnonzero(predictions.predictions == predictions.labels)


def judge(
    folder: Path, candidate: Path, baseline: Predictions | Path, *options: str
) -> tuple[int, Verdict]:
    """Run `eval` on a checkpoint against another checkpoint or predictions."""
    if isinstance(baseline, Predictions):
        write_predictions(baseline, folder / "baseline.parquet")
        baseline = folder / "baseline.parquet"
    report, config = folder / "verdict.json", folder / "config.yaml"
    config.write_bytes(configs.dump(METHOD.load(candidate).config))
    arguments = ["--checkpoint", str(candidate), "--baseline", str(baseline), *options]
    arguments += ["--config", str(config)]
    arguments += ["--policy", str(POLICY), "--predictions", str(folder / "predictions.parquet")]
    code = command.main([*arguments, "--report", str(report)])
    return code, read_verdict(report)


def resaved(production: Path, folder: Path, *, without: int | None = None) -> Path:
    """Save the model with another digest; it never predicts the class `without`, if given."""
    checkpoint = METHOD.load(production)
    weights = {name: weight.clone() for name, weight in checkpoint.weights.items()}
    if without is not None:
        with torch.no_grad():
            weights["head.bias"][without] -= 50  # so that it is never predicted
    changed = dataclasses.replace(checkpoint, weights=weights, step=checkpoint.step + 1)
    checkpoints.save(changed, folder / "candidate.pt")
    return folder / "candidate.pt"


def test_model_is_accurate(predictions: Predictions) -> None:
    assert len(correct_rows(predictions)) / len(predictions.ids) > 0.9


def judge_files(folder: Path, candidate: Predictions, baseline: Predictions) -> tuple[int, Verdict]:
    """Run `gates evaluate`, which needs no checkpoint."""
    for each, name in ((candidate, "candidate"), (baseline, "baseline")):
        write_predictions(each, folder / f"{name}.parquet")
    options = [f"--{name}={folder / name}.parquet" for name in ("candidate", "baseline")]
    options += [f"--policy={POLICY}", f"--report={folder / 'verdict.json'}"]
    return gates(["evaluate", *options]), read_verdict(folder / "verdict.json")


def test_three_points_worse_fails(predictions: Predictions, tmp_path: Path) -> None:
    correct, n = correct_rows(predictions), len(predictions.ids)
    # Spread over the split, so that no single subgroup is ruined.
    lost = correct[np.linspace(0, len(correct) - 1, round(0.03 * n)).astype(np.intp)]
    code, verdict = judge_files(tmp_path, with_wrong(predictions, lost, "a"), predictions)
    assert code == 1
    assert verdict.metrics["difference"] == pytest.approx(-0.03, abs=0.5 / n)
    failed = [each.group for each in verdict.findings if each.outcome == Outcome.FAIL]
    assert failed == ["overall"]
    assert "accuracy, overall: worse by more than the margin of 0.0200" in verdict.reason


def test_ruined_class_fails_and_is_named_despite_equal_accuracy(
    production: Path, predictions: Predictions, tmp_path: Path
) -> None:
    candidate = resaved(production, tmp_path, without=RUINED)
    # The baseline is the real model with as many errors in other classes as the candidate added.
    correct = correct_rows(predictions)
    lost = correct[predictions.labels[correct] == RUINED]
    others = correct[predictions.labels[correct] != RUINED]
    spread = others[np.linspace(0, len(others) - 1, len(lost)).astype(np.intp)]
    code, verdict = judge(tmp_path, candidate, with_wrong(predictions, spread, "b"))
    assert code == 1
    assert verdict.metrics["difference"] == pytest.approx(0, abs=0.01)
    failed = {each.group for each in verdict.findings if each.outcome == Outcome.FAIL}
    assert f"digit={RUINED}" in failed
    assert f"digit={RUINED}" in verdict.reason
    assert not {each for each in failed if each.startswith("digit=")} - {
        f"digit={RUINED}",
        *(f"digit={RUINED}, thickness={each}" for each in THICKNESSES),
    }


def test_equal_model_passes(production: Path, tmp_path: Path) -> None:
    candidate = resaved(production, tmp_path)
    code, verdict = judge(tmp_path, candidate, production, "--fail-if-worse-than", "0.02")
    assert (code, verdict.outcome) == (0, Outcome.PASS)
    assert verdict.metrics["difference"] == 0
    assert verdict.evidence["checkpoint"] != verdict.evidence["baseline"]
    # Some digits of one thickness are too few to judge, and are reported as such.
    small = [each for each in verdict.findings if each.outcome == NOT_JUDGED]
    assert small
    assert all(each.n < 10 for each in small)


def test_fifty_examples_are_inconclusive_and_report_how_many_would_do(
    predictions: Predictions, tmp_path: Path
) -> None:
    fifty = in_order(predictions, range(50))
    equal = dataclasses.replace(fifty, checkpoint_digest="b" * 64)
    code, verdict = judge_files(tmp_path, fifty, equal)
    assert (code, verdict.outcome) == (3, Outcome.INCONCLUSIVE)
    # Models that never differ need ceil(z^2 (1 - margin) / margin) = 133 at a margin of 0.02.
    assert "133 examples would settle it, 83 more" in verdict.reason
