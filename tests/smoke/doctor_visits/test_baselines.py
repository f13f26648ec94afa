"""The model beats simpler ones, by the gate's own cluster-based intervals."""

import dataclasses
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import PoissonRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gates.evaluation import comparison
from gates.evaluation.policy import load_policy
from gates.evaluation.predictions import Predictions, open_predictions, write_predictions
from gates.verdicts.verdict import Finding, Outcome
from training import config as configs
from training.onnx import trees

from doctor_visits.config import SETTINGS, RunConfig
from doctor_visits.data import Examples
from doctor_visits.evaluation import predict
from doctor_visits.method import boosted

ROOT = Path(__file__).parents[3]
FloatArray = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def model(
    config: RunConfig,
    training: Examples,
    held_out: Examples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Predictions:
    """The reference model's predictions for the held-out split."""
    base = configs.load(RunConfig, ROOT / SETTINGS.defaults).model_copy(
        update={"data": config.data}
    )
    content = trees.dump(trees.boosted(boosted(base, training)), base, training.data_digest)
    file = tmp_path_factory.mktemp("model") / "checkpoint.onnx"
    file.write_bytes(content)
    return predict(file, held_out)


def mean(training: Examples, held_out: Examples) -> FloatArray:
    return np.full(len(held_out), training.labels.mean())


def median(training: Examples, held_out: Examples) -> FloatArray:
    return np.full(len(held_out), np.median(training.labels))


def poisson(training: Examples, held_out: Examples) -> FloatArray:
    regression = make_pipeline(StandardScaler(), PoissonRegressor(alpha=0, max_iter=1000))
    fitted = regression.fit(training.features, training.labels)
    predicted: FloatArray = fitted.predict(held_out.features)
    return predicted


Baseline = Callable[[Examples, Examples], FloatArray]


@pytest.mark.parametrize(
    ("baseline", "metric"),
    [
        (mean, "absolute_error"),
        (mean, "squared_error"),
        (median, "absolute_error"),
        (poisson, "absolute_error"),
    ],
)
def test_the_model_is_shown_to_be_better(
    baseline: Baseline,
    metric: str,
    model: Predictions,
    training: Examples,
    held_out: Examples,
    tmp_path: Path,
) -> None:
    simple = predictions_like(model, baseline(training, held_out), baseline.__name__)
    found = judged(model, simple, metric, tmp_path)
    assert found.outcome is Outcome.PASS, found


def test_squared_error_is_not_shown_to_beat_poisson(
    model: Predictions, training: Examples, held_out: Examples, tmp_path: Path
) -> None:
    # The squared error depends on the people with dozens of visits, and there are too few of them.
    simple = predictions_like(model, poisson(training, held_out), "poisson")
    found = judged(model, simple, "squared_error", tmp_path)
    assert found.outcome is not Outcome.PASS, found


def predictions_like(model: Predictions, predicted: FloatArray, name: str) -> Predictions:
    """Return another model's predictions for the same examples."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return dataclasses.replace(
        model, predictions=predicted, checkpoint_digest=digest, config_digest=None
    )


def judged(model: Predictions, simple: Predictions, metric: str, folder: Path) -> Finding:
    """Return the gate's finding on whether the model is better on one metric, over all examples."""
    policy = (ROOT / SETTINGS.policy).read_text()
    superior = re.sub(
        r"require: noninferiority(?=\n  subgroups|[\n}])", "require: superiority", policy
    )
    (folder / "gates.yaml").write_text(superior)
    for name, each in (("model", model), ("simple", simple)):
        write_predictions(each, folder / f"{name}.parquet")
    ours, theirs = (open_predictions(folder / f"{name}.parquet") for name in ("model", "simple"))
    verdict = comparison.compare(ours, theirs, load_policy(folder / "gates.yaml"))
    (found,) = (
        each for each in verdict.findings if (each.check, each.group) == (metric, "overall")
    )
    return found
