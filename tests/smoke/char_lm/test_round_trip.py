"""A checkpoint scores the same in another process as in the one that trained it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.project import ROOT
from training import runs
from training.pytorch.outputs import mean_score

from char_lm import data
from char_lm.config import SETTINGS, RunConfig
from char_lm.learner import METHOD, bits_per_character
from char_lm.project import PROJECT


@pytest.fixture(scope="module")
def few(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with every 40th passage: scoring the whole test split takes seconds."""
    table = pq.read_table(file, columns=data.SOURCE_SCHEMA.names)
    source = tmp_path_factory.mktemp("few") / "few.parquet"
    pq.write_table(table.take(pa.array(range(0, len(table), 40))), source)
    return source


def test_metric_survives_train_checkpoint_eval(
    config: RunConfig, few: Path, tmp_path: Path
) -> None:
    train = config.train.model_copy(update={"epochs": 1})
    places = {"source": str(few), "cache_dir": str(tmp_path / "data")}
    one_epoch = config.model_copy(
        update={"train": train, "data": config.data.model_copy(update=places)}
    )
    checkpoint = runs.train(
        runs.Request(project=PROJECT, config=one_epoch, outputs=tmp_path, run_id="run")
    )
    run = checkpoint.parent
    test = data.examples_of(one_epoch, "test", "")
    here = mean_score(METHOD.model(METHOD.load(checkpoint)), test, bits_per_character)

    # A model after one epoch does not reach the floors of a release.
    committed = (ROOT / SETTINGS.configs / "gates.yaml").read_text()
    (tmp_path / "gates.yaml").write_text(re.sub(r"floor: [0-9.]+", "floor: 9.0", committed))
    report = tmp_path / "verdict.json"
    command = [sys.executable, "-m", "char_lm.eval", "--checkpoint", str(tmp_path / "latest.pt")]
    command += ["--no-baseline", "smoke test", "--report", str(report)]
    command += ["--policy", "gates.yaml", "--config", str(run / "config.yaml")]
    subprocess.run(command, check=True, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})

    found = json.loads(report.read_text())["metrics"]["bits_per_character"]
    assert found == pytest.approx(here, abs=1e-9)
    assert here < 5, "one epoch must beat guessing, which takes 6.6 bits"
    assert set(pq.read_table(run / "predictions.parquet").column_names) == {
        "id",
        "score.bits_per_character",
        "cluster",
        "package",
    }
