"""Methods that train in one process and one call; the model here is the mean of some numbers."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from gates.errors import GateInputError, TrainingError
from gates.evaluation.predictions import Predictions
from gates.evidence import provenance
from training import command_line, runs
from training.config import DataConfig, RunConfig
from training.one_process import Fitted, OneProcessMethod
from training.project import Project, Settings, Split
from training.run import Run


@dataclass(frozen=True)
class Numbers:
    values: npt.NDArray[np.float64]
    data_digest: str = "d" * 64

    @property
    def ids(self) -> npt.NDArray[np.str_]:
        return np.arange(len(self.values)).astype(np.str_)

    def __len__(self) -> int:
        return len(self.values)


class Mean(OneProcessMethod[RunConfig, Numbers]):
    library = "numpy"
    checkpoint = "checkpoint.txt"
    packages = ("numpy",)

    def fit(self, run: Run[RunConfig, Numbers]) -> Fitted:
        mean = float(run.training.values.mean())
        history = [
            {"loss": float(run.training.values.var()), "validation_bias": mean + step}
            for step in range(3)
        ]
        return Fitted(content=str(mean).encode(), history=history)

    def config_of(self, checkpoint: Path) -> RunConfig:
        raise NotImplementedError


def examples(config: RunConfig, split: Split, _: str) -> Numbers:
    if config.data.source == "infinite":
        return Numbers(np.array([np.inf]))
    return Numbers(np.arange(6.0) if split == "train" else np.arange(2.0))


def predict(_: Path, __: Numbers) -> Predictions:
    raise NotImplementedError


CONFIG = RunConfig(seed=3, tracking="none", data=DataConfig(source="numbers", cache_dir="data"))
# A run records the commit of this package; any package in a repository will do.
SETTINGS = Settings(package="training", config=RunConfig, configs=Path("configs", "numbers"))
PROJECT: Project[RunConfig, Numbers] = Project(
    settings=SETTINGS,
    examples=examples,
    data_files=lambda _: [],
    method=Mean(),
    predict=predict,
    write_scores=lambda _, __: None,
    score_files=lambda _: (),
)


def train(outputs: Path, config: RunConfig = CONFIG) -> Path:
    return runs.train(runs.Request(project=PROJECT, config=config, outputs=outputs, run_id="run"))


def test_a_run_writes_the_standard_files(tmp_path: Path) -> None:
    checkpoint = train(tmp_path)
    assert checkpoint.read_text() == "2.5"
    assert (tmp_path / "latest.txt").resolve() == checkpoint.resolve()
    names = {file.name for file in checkpoint.parent.iterdir()}
    assert names == {"checkpoint.txt", "config.yaml", "metrics.jsonl", "provenance.json"}
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in metrics.splitlines()]
    assert [(line["step"], line["validation_bias"]) for line in lines] == [
        (1, 2.5),
        (2, 3.5),
        (3, 4.5),
    ]
    assert [line["ends_epoch"] for line in lines] == [False, False, True]
    statement = provenance.read_of_run(checkpoint.parent)
    assert provenance.library(statement) == "numpy"
    assert provenance.runtime(statement)["numpy"] == np.__version__
    assert provenance.facts(statement)["seed"] == "3"


def test_a_metric_that_is_not_finite_fails_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    infinite = CONFIG.model_copy(update={"data": DataConfig(source="infinite", cache_dir="data")})
    with (
        np.errstate(invalid="ignore"),
        pytest.raises(TrainingError, match=r"step 1: loss is nan; check the training data"),
    ):
        train(tmp_path, infinite)
    assert not list(tmp_path.rglob("checkpoint.txt"))
    assert not (tmp_path / "latest.txt").exists()


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(GateInputError, match="torchrun has started 2 processes, but this project"):
        train(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert train(tmp_path).exists()


def test_resume_exits_2_with_an_explanation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Settings, "project", PROJECT)
    file = tmp_path / "config.yaml"
    file.write_text("seed: 3\ntracking: none\ndata: {source: numbers, cache_dir: data}\n")
    options = ["--config", str(file), "--outputs", str(tmp_path / "outputs"), "--run-id", "run"]
    assert command_line.train(SETTINGS, [*options, "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "trains in one call and keeps no snapshots; start a new run" in error
    assert command_line.train(SETTINGS, options) == 0
