import sys
from pathlib import Path

import pytest

from gates.errors import ConfigError, GateInputError
from tasks.project import ROOT
from training import config as configs
from training import runs, tracking

from my_project.config import RunConfig
from my_project.project import PROJECT


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A real MLflow store in a file."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture
def config(data_cache: Path) -> RunConfig:
    small = ["model.width=8", "model.depth=1", "model.heads=2", "train.epochs=2"]
    return configs.load(
        RunConfig, ROOT / "configs" / "ci-tiny.yaml", [*small, f"data.cache_dir={data_cache}"]
    )


@pytest.fixture
def tracked(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"tracking": "mlflow"})


@pytest.mark.filterwarnings("ignore")  # MLflow's dependencies warn on import
def test_run_appears_in_mlflow_with_its_parameters_and_curve(
    server: str, tracked: RunConfig, tmp_path: Path
) -> None:
    runs.train(
        runs.Request(project=PROJECT, config=tracked, outputs=tmp_path / "outputs", run_id="mine")
    )

    from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds

    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("my_project")
    assert experiment is not None
    (mlflow_run,) = client.search_runs([experiment.experiment_id])
    assert mlflow_run.info.run_name == "mine"
    assert mlflow_run.info.status == "FINISHED"
    assert mlflow_run.data.params["train.lr"] == str(tracked.train.lr)
    curve = client.get_metric_history(mlflow_run.info.run_id, "loss")
    lines = (tmp_path / "outputs" / "mine" / "metrics.jsonl").read_text().splitlines()
    assert [point.step for point in curve] == list(range(1, len(lines) + 1))


def test_mlflow_is_not_imported_unless_configured(config: RunConfig) -> None:
    before = set(sys.modules)
    with tracking.tracked(config, "my_project", "mine", print) as track:
        track({"step": 1, "ends_epoch": True, "loss": 1.0})
    assert not {name for name in set(sys.modules) - before if name.startswith("mlflow")}


def test_missing_mlflow_is_reported_in_one_line(
    tracked: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with (
        pytest.raises(ConfigError, match=r"install training\[mlflow\]"),
        tracking.tracked(tracked, "my_project", "mine", print),
    ):
        pass


@pytest.mark.filterwarnings("ignore")
def test_unreachable_server_is_reported_before_training(
    tracked: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    request = runs.Request(
        project=PROJECT, config=tracked, outputs=tmp_path / "outputs", run_id="mine"
    )
    with pytest.raises(GateInputError, match=r"tracking: http://127\.0\.0\.1:9 cannot be used"):
        runs.train(request)
    assert not (tmp_path / "outputs" / "mine" / "checkpoint.pt").exists()


@pytest.mark.filterwarnings("ignore")
def test_resumed_run_continues_the_same_mlflow_run(
    server: str, tracked: RunConfig, tmp_path: Path
) -> None:
    for _ in range(2):
        with tracking.tracked(tracked, "my_project", "mine", print) as track:
            track({"step": 1, "ends_epoch": True, "loss": 1.0})

    from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds

    client = MlflowClient(server)
    experiment = client.get_experiment_by_name("my_project")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 1
    assert tmp_path.exists()


@pytest.mark.filterwarnings("ignore")
def test_lost_server_is_reported_once_and_training_continues(
    server: str, tracked: RunConfig, tmp_path: Path
) -> None:
    messages: list[str] = []
    with tracking.tracked(tracked, "my_project", "mine", messages.append) as track:
        for file in tmp_path.glob("mlflow.db*"):
            file.write_bytes(b"")  # the tables are gone
        for step in (1, 2):
            track({"step": step, "ends_epoch": True, "loss": 1.0})
    assert server
    assert len(messages) == 1
    assert messages[0].startswith("tracking: lost MLflow")
