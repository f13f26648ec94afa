import json
import re
from pathlib import Path

import pytest
import torch

from gates.errors import ConfigError, ExitCode, GateInputError, TrainingError
from my_project import checkpoint as checkpoints
from my_project import config as configs
from my_project import data, evaluation, runs
from my_project.config import RunConfig


def silent(_: str) -> None:
    pass


def test_run_without_a_name_gets_one_by_the_clock(tmp_path: Path) -> None:
    folder = runs.start(tmp_path)
    assert folder.parent == tmp_path
    assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", folder.name)


def test_two_runs_without_names_do_not_meet(tmp_path: Path) -> None:
    assert len({runs.start(tmp_path) for _ in range(3)}) == 3


@pytest.mark.parametrize("run_id", ["a", "2024-01-31", "lr_1e-3.v2"])
def test_name_of_a_run_is_its_folder(tmp_path: Path, run_id: str) -> None:
    assert runs.start(tmp_path, run_id) == tmp_path / run_id


@pytest.mark.parametrize(
    "run_id",
    [
        pytest.param("", id="empty"),
        pytest.param("a/b", id="slash"),
        pytest.param("..", id="parent"),
        pytest.param(".hidden", id="hidden"),
        pytest.param("-rf", id="option"),
        pytest.param("a b", id="space"),
        pytest.param("a\n", id="newline"),
        pytest.param("latest.pt", id="name_of_the_link"),
    ],
)
def test_name_that_is_none_for_a_run_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(GateInputError, match=f"^--run-id {re.escape(run_id)}: "):
        runs.start(tmp_path, run_id)


def test_taken_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(GateInputError, match="taken: there is a run of that name; choose another"):
        runs.start(tmp_path, "taken")


def test_start_makes_no_folder(tmp_path: Path) -> None:
    runs.start(tmp_path / "outputs", "run")
    assert not (tmp_path / "outputs").exists()


def test_run_leaves_its_files(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == [
        "checkpoint.pt",
        "config.yaml",
        "metrics.jsonl",
    ]
    assert (trained.parent / "latest.pt").resolve() == (trained / "checkpoint.pt").resolve()


def test_checkpoint_says_how_it_was_made(trained: Path) -> None:
    checkpoint = checkpoints.load(trained / "checkpoint.pt")
    file = Path(checkpoint.config.data.cache_dir) / "digits.parquet"
    assert checkpoint.config == configs.load(trained / "config.yaml")
    assert checkpoint.data_digest == data.load(file, "train").data_digest
    # Two epochs of 30 examples in batches of 8.
    assert checkpoint.step == 8


def test_metrics_have_a_line_per_epoch(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 4), (2, 8)]
    assert lines[0].keys() == {"epoch", "step", "loss", "lr", "validation_accuracy", "seconds"}
    checkpoint = checkpoints.load(trained / "checkpoint.pt")
    validation = data.load(Path(checkpoint.config.data.cache_dir) / "digits.parquet", "validation")
    accuracy = evaluation.accuracy(checkpoint.model(), validation)
    assert lines[-1]["validation_accuracy"] == accuracy


def test_progress_is_said(config: RunConfig, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tmp_path / "outputs" / "run"
    checkpoint = runs.train(config, folder, say=said.append)
    assert said[0] == f"{folder}: 30 training examples, 1,146 parameters"
    assert said[1].startswith("epoch 1/2: loss 2.3")
    assert said[-1] == f"checkpoint: {checkpoint}"


def test_same_configuration_gives_the_same_weights(config: RunConfig, tmp_path: Path) -> None:
    one, other = (
        checkpoints.load(runs.train(config, tmp_path / "outputs" / name, say=silent)).weights
        for name in ("one", "other")
    )
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_loss_that_is_not_finite_leaves_no_checkpoint(config: RunConfig, tmp_path: Path) -> None:
    # The first step makes the weights as large as its rate, and the second overflows.
    train = config.train.model_copy(update={"lr": 1e30, "warmup_share": 0.0})
    folder = tmp_path / "outputs" / "run"
    with pytest.raises(TrainingError) as raised:
        runs.train(config.model_copy(update={"train": train}), folder, say=silent)
    assert raised.value.exit_code == ExitCode.FAILED
    assert not (folder / "checkpoint.pt").exists()
    assert not (folder.parent / "latest.pt").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("image_size", 16), ("channels", 3), ("classes", 5)], ids=str
)
def test_model_that_does_not_fit_the_data_is_refused(
    config_file: Path, tmp_path: Path, key: str, value: int
) -> None:
    folder = tmp_path / "outputs" / "run"
    with pytest.raises((ConfigError, GateInputError), match=f"model.*{key}"):
        runs.train(configs.load(config_file, [f"model.{key}={value}"]), folder, say=silent)
    assert not folder.parent.exists()


def test_file_where_the_outputs_should_be_is_refused(config: RunConfig, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.write_text("mine")
    with pytest.raises(GateInputError, match="cannot be written"):
        runs.train(config, runs.start(outputs, "run"), say=silent)
    assert outputs.read_text() == "mine"
