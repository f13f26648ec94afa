"""The file predicts the same in another process as the model did where it was trained."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from training import config as configs

from doctor_visits import eval as evaluate
from doctor_visits import train
from doctor_visits.config import RunConfig
from doctor_visits.data import Examples
from doctor_visits.method import boosted

ROOT = Path(__file__).parents[3]


def test_metric_survives_train_checkpoint_eval(
    config: RunConfig, training: Examples, held_out: Examples, tmp_path: Path
) -> None:
    file, outputs = tmp_path / "config.yaml", tmp_path / "outputs"
    file.write_bytes(configs.dump(config))
    assert train.main(["--config", str(file), "--outputs", str(outputs), "--run-id", "run"]) == 0
    here = boosted(config, training).predict(held_out.features)

    report, policy = tmp_path / "verdict.json", ROOT / "configs" / "doctor_visits" / "gates.yaml"
    command = [sys.executable, "-m", "doctor_visits.eval", "--report", str(report)]
    command += ["--checkpoint", str(outputs / "latest.onnx"), "--no-baseline", "smoke test"]
    command += ["--policy", str(policy), "--config", str(outputs / "run" / "config.yaml")]
    subprocess.run(command, check=True, cwd=tmp_path)

    metrics = json.loads(report.read_text())["metrics"]
    error = np.abs(here - held_out.labels).mean()
    assert metrics["absolute_error"] == pytest.approx(error, abs=1e-5)
    predictions = pq.read_table(outputs / "run" / "predictions.parquet")
    np.testing.assert_allclose(predictions["prediction"].to_numpy(), here, rtol=1e-5)
    assert predictions["cluster"].to_pylist() == held_out.clusters.tolist()
    assert {"idp", "hlthg", "hlthf", "hlthp"} <= set(predictions.column_names)


def test_an_untrained_model_fails_against_a_trained_one(
    config: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lazy = {"trees": 1, "learning_rate": 1e-6}  # it predicts the median
    models = {"trained": config.model, "lazy": config.model.model_copy(update=lazy)}
    for run, model in models.items():
        file = tmp_path / f"{run}.yaml"
        file.write_bytes(configs.dump(config.model_copy(update={"model": model})))
        assert train.main(["--config", str(file), "--outputs", str(tmp_path), "--run-id", run]) == 0
    trained, untrained = (str(tmp_path / run / "checkpoint.onnx") for run in models)
    policy = str(ROOT / "configs" / "doctor_visits" / "gates.yaml")
    options = ["--config", str(tmp_path / "trained.yaml"), "--policy", policy]
    assert evaluate.main(["--checkpoint", untrained, "--baseline", trained, *options]) == 1
    assert (
        "squared_error, overall: worse by more than the margin of 1.5000" in capsys.readouterr().out
    )


@pytest.mark.parametrize("content", [b"", b"not ONNX", b"\x08\x08"])
def test_a_file_that_is_not_a_model_is_reported_in_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "checkpoint.onnx"
    file.write_bytes(content)
    policy = str(ROOT / "configs" / "doctor_visits" / "gates.yaml")
    options = ["--checkpoint", str(file), "--no-baseline", "a trial", "--policy", policy]
    assert evaluate.main([*options, "--config", str(ROOT / "configs/doctor_visits/base.yaml")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert str(file) in error
