"""A checkpoint scores the same in another process as in the one that trained it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from training import config as configs
from training import runs
from training.pytorch.outputs import mean_score

from my_project import data
from my_project.config import RunConfig
from my_project.learner import METHOD, is_right
from my_project.project import PROJECT

ROOT = Path(__file__).parents[3]


def test_metric_survives_train_checkpoint_eval(config: RunConfig, tmp_path: Path) -> None:
    train = config.train.model_copy(update={"epochs": 1})
    one_epoch = config.model_copy(update={"train": train})
    checkpoint = runs.train(
        runs.Request(project=PROJECT, config=one_epoch, outputs=tmp_path, run_id="run")
    )
    run = checkpoint.parent
    test = data.load(data.DATASET.prepare(config.data), "test")
    here = mean_score(METHOD.model(METHOD.load(checkpoint)), test, is_right)

    # A model after one epoch does not reach the floors of a release.
    policy = re.sub(r"floor: [0-9.]+", "floor: 0.0", (ROOT / "configs" / "gates.yaml").read_text())
    (tmp_path / "gates.yaml").write_text(policy)
    report = tmp_path / "verdict.json"
    command = [sys.executable, "-m", "my_project.eval"]
    command += ["--checkpoint", str(tmp_path / "latest.pt")]
    command += ["--no-baseline", "smoke test", "--report", str(report)]
    command += ["--policy", "gates.yaml", "--config", str(run / "config.yaml")]
    subprocess.run(command, check=True, cwd=tmp_path)

    assert json.loads(report.read_text())["metrics"]["accuracy"] == pytest.approx(here, abs=1e-12)
    assert here > 0.2, "one epoch must beat chance"
    assert configs.load(RunConfig, run / "config.yaml").train.epochs == 1
    assert (run / "predictions.parquet").exists()
