import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from gates.errors import CheckpointError, ConfigError, ExitCode, GateInputError, TrainingError
from gates.evidence import provenance
from gates.evidence.provenance import SourceState
from tests.toy_runs import (
    Request,
    are_equal,
    changed,
    lines_of,
    resumed,
    train_until,
    weights_of,
    without_seconds,
)
from training import config as configs
from training import runs
from training.metrics import Metrics
from training.pytorch import snapshots
from training.pytorch.outputs import mean_score

from toy import data
from toy.config import RunConfig
from toy.learner import METHOD, is_right

CLEAN = SourceState(commit="c" * 40, diff_digest=None, lock_digest="1" * 64)


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_run_without_an_id_is_named_after_the_time(run_request: Request) -> None:
    unnamed = changed(dataclasses.replace(run_request, run_id=None), "train", epochs=1)
    folders = {runs.train(unnamed).parent for _ in range(2)}
    assert len(folders) == 2
    for folder in folders:
        assert folder.parent == run_request.outputs
        assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{4}", folder.name)


@pytest.mark.parametrize("run_id", ["a", "2024-01-31", "lr_1e-3.v2"])
def test_run_id_is_the_name_of_the_folder(run_request: Request, run_id: str) -> None:
    named = changed(dataclasses.replace(run_request, run_id=run_id), "train", epochs=1)
    assert runs.train(named) == run_request.outputs / run_id / "checkpoint.pt"


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
        pytest.param("a" * 101, id="too_long"),
    ],
)
def test_invalid_run_id_is_refused(run_request: Request, run_id: str) -> None:
    with pytest.raises(GateInputError, match=f"^--run-id {re.escape(run_id)}: "):
        runs.train(dataclasses.replace(run_request, run_id=run_id))
    assert not run_request.outputs.exists()


def test_existing_run_id_is_refused(run_request: Request) -> None:
    folder = run_request.outputs / "run"
    folder.mkdir(parents=True)
    with pytest.raises(GateInputError) as raised:
        runs.train(run_request)
    assert str(raised.value) == (
        f"{folder}: this run exists already; choose another --run-id, or add --resume"
    )
    assert list(folder.iterdir()) == []


def test_run_writes_its_files(trained: Path) -> None:
    assert sorted(path.name for path in trained.iterdir()) == [
        "checkpoint.pt",
        "config.yaml",
        "metrics.jsonl",
        "provenance.json",
        "snapshots",
    ]
    assert (trained.parent / "latest.pt").resolve() == (trained / "checkpoint.pt").resolve()


def test_run_keeps_its_two_newest_snapshots(run_request: Request) -> None:
    # The last of the eight steps makes no snapshot: it makes the checkpoint.
    folder = runs.train(changed(run_request, "train", snapshot_every=2)).parent
    assert snapshots.names(folder / "snapshots") == ["step-00000004", "step-00000006"]


def test_checkpoint_records_how_it_was_made(trained: Path) -> None:
    checkpoint = METHOD.load(trained / "checkpoint.pt")
    file = Path(checkpoint.config.data.cache_dir) / "bars.parquet"
    assert checkpoint.config == configs.load(RunConfig, trained / "config.yaml")
    assert checkpoint.data_digest == data.load(file, "train").data_digest
    # Two epochs of 30 examples in batches of 8.
    assert checkpoint.step == 8


def test_metrics_have_a_line_per_step(trained: Path) -> None:
    lines = lines_of(trained)
    assert [(line["epoch"], line["step"]) for line in lines] == [
        *((1, step) for step in (1, 2, 3, 4)),
        *((2, step) for step in (5, 6, 7, 8)),
    ]
    every_step = {"step", "epoch", "ends_epoch", "loss", "lr", "gradient_norm", "seconds"}
    assert lines[0].keys() == every_step
    assert lines[3].keys() == lines[7].keys() == every_step | {"validation_accuracy"}


def test_metrics_end_with_the_accuracy_of_the_checkpoint(trained: Path) -> None:
    checkpoint = METHOD.load(trained / "checkpoint.pt")
    validation = data.load(Path(checkpoint.config.data.cache_dir) / "bars.parquet", "validation")
    accuracy = mean_score(METHOD.model(checkpoint), validation, is_right)
    assert lines_of(trained)[-1]["validation_accuracy"] == accuracy


def test_provenance_describes_the_run(trained: Path) -> None:
    statement = provenance.read(trained / "provenance.json")
    checkpoint = METHOD.load(trained / "checkpoint.pt")
    facts = provenance.facts(statement)
    assert provenance.config_of(statement) == checkpoint.config.model_dump()
    assert facts["data"] == checkpoint.data_digest
    assert facts["torch"] == torch.__version__
    assert (facts["device"], facts["cuda"], facts["processes"]) == ("cpu", "not used", "1")
    assert (facts["seed"], facts["deterministic_algorithms"]) == ("0", "True")
    run_details = statement["predicate"]["runDetails"]
    assert run_details["metadata"]["invocationId"] == "run"


def test_progress_is_printed(run_request: Request, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = runs.train(run_request)
    output = capsys.readouterr().out.splitlines()
    assert output[0] == (f"{checkpoint.parent}: 30 training examples, 244 parameters, 1 x cpu")
    lines = lines_of(checkpoint.parent)
    for epoch, line in ((1, output[1]), (2, output[2])):
        epoch_lines = [line for line in lines if line["epoch"] == epoch]
        mean = sum(line["loss"] for line in epoch_lines) / 4
        assert line == (
            f"epoch {epoch}/2: loss {mean:.4f}, "
            f"validation accuracy {epoch_lines[-1]['validation_accuracy']:.4f}"
        )
    assert output[3:] == [f"checkpoint: {checkpoint}"]


def test_same_configuration_gives_the_same_checkpoint(run_request: Request) -> None:
    one = runs.train(run_request)
    other = runs.train(dataclasses.replace(run_request, run_id="other"))
    assert one.read_bytes() == other.read_bytes()


def test_loss_that_is_not_finite_leaves_no_checkpoint(run_request: Request) -> None:
    # After the first step the weights are as large as the rate, so the second overflows.
    with pytest.raises(TrainingError) as raised:
        runs.train(changed(run_request, "train", lr=1e30, warmup_share=0.0))
    assert raised.value.exit_code == ExitCode.FAILED
    folder = run_request.outputs / "run"
    assert not (folder / "checkpoint.pt").exists()
    assert not (folder / "provenance.json").exists()
    assert not (run_request.outputs / "latest.pt").exists()


@pytest.mark.parametrize(("key", "value"), [("pixels", 9), ("classes", 5)], ids=str)
def test_model_that_does_not_fit_the_data_is_refused(
    run_request: Request, key: str, value: int
) -> None:
    with pytest.raises((ConfigError, GateInputError), match=f"a.yaml: model.{key}: must be "):
        runs.train(
            dataclasses.replace(changed(run_request, "model", **{key: value}), where="a.yaml")
        )
    assert not run_request.outputs.exists()


def test_file_in_place_of_the_outputs_folder_is_refused(run_request: Request) -> None:
    run_request.outputs.write_text("mine")
    with pytest.raises(GateInputError, match="cannot be written"):
        runs.train(run_request)
    assert run_request.outputs.read_text() == "mine"


def test_synthetic_examples_can_be_trained_on(run_request: Request, tmp_path: Path) -> None:
    cache = tmp_path / "none"
    synthetic = changed(run_request, "data", source="synthetic", cache_dir=str(cache))
    checkpoint = runs.train(changed(synthetic, "train", epochs=1, batch_size=128))
    assert METHOD.load(checkpoint).step == 2
    assert not cache.exists()


@pytest.mark.parametrize("step", [1, 3, 4, 5, 8])
def test_resumed_run_ends_like_an_uninterrupted_one(
    run_request: Request, trained: Path, step: int
) -> None:
    # Snapshots are due after steps 3 and 6; stopping at step 3 comes just before its snapshot.
    folder = train_until(run_request, step)
    assert runs.train(resumed(run_request)) == folder / "checkpoint.pt"
    assert are_equal(weights_of(folder), weights_of(trained))
    assert without_seconds(folder) == without_seconds(trained)


def test_resumed_run_reports_its_snapshot(
    run_request: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_until(run_request, 5)
    runs.train(resumed(run_request))
    output = capsys.readouterr().out
    assert f"resumed at step 3 from {folder / 'snapshots' / 'step-00000003'}\n" in output
    # The mean of the first epoch includes the steps before the resume.
    mean = sum(line["loss"] for line in lines_of(folder)[:4]) / 4
    assert output.count(f"epoch 1/2: loss {mean:.4f}, ") == 2


def test_run_without_a_snapshot_starts_over(
    run_request: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_until(run_request, 2)
    runs.train(resumed(run_request))
    assert "resumed" not in capsys.readouterr().out
    assert [line["step"] for line in lines_of(folder)] == list(range(1, 9))


def test_run_that_does_not_exist_yet_can_be_resumed(run_request: Request) -> None:
    # A scheduler can repeat one command line both to start a run and to continue it.
    assert runs.train(resumed(run_request)).exists()


def test_truncated_line_of_metrics_is_repaired(run_request: Request) -> None:
    folder = train_until(run_request, 5)
    with (folder / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "lo')
    runs.train(resumed(run_request))
    assert [line["step"] for line in lines_of(folder)] == list(range(1, 9))


def test_damaged_and_lost_metrics_are_reported_and_training_continues(
    run_request: Request, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_until(run_request, 4)
    file = folder / "metrics.jsonl"
    lines = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([lines[0], b"\xff{", *lines[2:]]) + b"\n")
    runs.train(resumed(run_request))
    assert f"{file}: 1 of the first 3 lines are missing or damaged\n" in capsys.readouterr().out
    assert [line["step"] for line in lines_of(folder)] == [1, 3, 4, 5, 6, 7, 8]
    assert are_equal(weights_of(folder), weights_of(trained))


def test_half_written_files_of_a_killed_run_are_deleted(run_request: Request) -> None:
    folder = train_until(run_request, 5)
    (folder / ".checkpoint.pt.abandoned").write_bytes(b"half")
    (folder / "snapshots" / ".step-00000006.unfinished").mkdir()
    runs.train(resumed(run_request))
    assert not list(run_request.outputs.rglob(".checkpoint*"))
    assert not list(run_request.outputs.rglob(".step*"))


def test_metrics_that_cannot_be_written_end_the_run_with_an_error(
    run_request: Request,
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    write = Metrics.write

    def fill_then_write(metrics: Any, line: dict[str, Any]) -> None:
        if line["step"] == 5:
            file = run_request.outputs / "run" / "metrics.jsonl"
            file.rename(file.with_name("elsewhere"))
            file.symlink_to("/dev/full")
        write(metrics, line)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Metrics, "write", fill_then_write)
        with pytest.raises(GateInputError) as raised:
            runs.train(run_request)
    file = run_request.outputs / "run" / "metrics.jsonl"
    assert str(raised.value) == (
        f"{file}: cannot be written (No space left on device); fix the cause, then --resume"
    )
    assert snapshots.names(file.parent / "snapshots") == ["step-00000003"]


def test_resuming_a_finished_run_changes_nothing(
    run_request: Request, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = runs.train(run_request)
    before = {path: path.stat().st_mtime_ns for path in run_request.outputs.rglob("*")}
    capsys.readouterr()
    assert runs.train(resumed(run_request)) == checkpoint
    assert capsys.readouterr().out == f"{checkpoint}: this run has already ended; nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in run_request.outputs.rglob("*")} == before


def test_run_killed_before_writing_provenance_can_be_completed(
    run_request: Request, trained: Path
) -> None:
    folder = runs.train(run_request).parent
    (folder / "provenance.json").unlink()
    (folder / "checkpoint.pt").unlink()
    runs.train(resumed(run_request))
    assert are_equal(weights_of(folder), weights_of(trained))
    assert (folder / "provenance.json").exists()


@pytest.mark.parametrize(
    ("section", "key", "value", "explanation"),
    [
        pytest.param("train", "lr", 0.5, "train.lr is 0.001 in this run, but 0.5 was", id="lr"),
        pytest.param("train", "epochs", 3, "train.epochs is 2 in this run, but 3", id="epochs"),
        pytest.param("model", "width", 16, "model.width is 8 in this run, but 16", id="width"),
        pytest.param(
            "data", "source", "synthetic", "data.source is bars in this run, but synth", id="data"
        ),
    ],
)
@pytest.mark.parametrize("has_ended", [False, True], ids=["under_way", "ended"])
def test_resume_with_another_configuration_names_the_key(  # noqa: PLR0913 - a table's columns
    run_request: Request,
    trained: Path,
    section: str,
    key: str,
    value: object,
    explanation: str,
    *,
    has_ended: bool,
) -> None:
    folder = run_request.outputs / "run"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_bytes(configs.dump(run_request.config))
    if has_ended:
        shutil.copy(trained / "provenance.json", folder)
    with pytest.raises(ConfigError, match=f"config.yaml: {explanation}") as raised:
        runs.train(resumed(changed(run_request, section, **{key: value})))
    assert "same configuration" in str(raised.value)


def test_resume_with_another_seed_is_refused(run_request: Request) -> None:
    train_until(run_request, 2)
    other = dataclasses.replace(
        run_request, config=run_request.config.model_copy(update={"seed": 1})
    )
    with pytest.raises(ConfigError, match="seed is 0 in this run, but 1 was requested"):
        runs.train(resumed(other))


def test_resume_names_every_key_that_differs(run_request: Request) -> None:
    train_until(run_request, 2)
    other = changed(changed(run_request, "train", lr=0.5, clip_norm=2.0), "model", depth=2)
    with pytest.raises(ConfigError) as raised:
        runs.train(resumed(other))
    for key in ("model.depth is 1", "train.lr is 0.001", "train.clip_norm is 1.0"):
        assert f"{key} in this run, but " in str(raised.value)


def test_snapshot_of_another_configuration_is_refused(run_request: Request) -> None:
    folder = train_until(run_request, 4)
    other = changed(run_request, "train", lr=0.5)
    (folder / "config.yaml").write_bytes(configs.dump(other.config))  # by hand
    with pytest.raises(ConfigError, match=r"step-00000003: train\.lr is 0\.001 in this run, "):
        runs.train(resumed(other))


@pytest.mark.parametrize("name", [".env", "notes.txt", "snapshots"])
def test_folder_that_is_not_a_run_is_left_unchanged(run_request: Request, name: str) -> None:
    folder = run_request.outputs / "run"
    folder.mkdir(parents=True)
    (folder / name).write_text("mine")
    with pytest.raises(GateInputError, match=r"not the folder of a run: it has no config\.yaml"):
        runs.train(resumed(run_request))
    assert (folder / name).read_text() == "mine"


def test_files_that_the_run_did_not_write_are_kept(run_request: Request) -> None:
    folder = train_until(run_request, 4)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".env").write_text("mine")
    runs.train(resumed(run_request))
    assert (folder / ".env").read_text() == "mine"
    assert (folder / ".ipynb_checkpoints").is_dir()


def test_data_that_changed_since_the_snapshot_is_refused(
    run_request: Request,
    data_file: Path,
    table: pa.Table,
    prepare: Callable[[pa.Table, Path], Path],
) -> None:
    folder = train_until(run_request, 5)
    labels = pa.array([0] * 60, pa.int8())
    prepare(table.set_column(2, data.SCHEMA.field("label"), labels), data_file)
    with pytest.raises(GateInputError) as raised:
        runs.train(resumed(run_request))
    assert str(raised.value) == (
        f"{folder / 'snapshots' / 'step-00000003'}: made with different data than data.source has "
        "now; start a new run"
    )


def test_damaged_newest_snapshot_is_skipped(
    run_request: Request, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_until(run_request, 7)
    newest = folder / "snapshots" / "step-00000006"
    flip_a_byte(newest / "__0_0.distcp")
    runs.train(resumed(run_request))
    output = capsys.readouterr().out
    assert (
        f"{newest}: damaged (__0_0.distcp does not match its digest); using the snapshot" in output
    )
    assert "resumed at step 3 from " in output
    assert are_equal(weights_of(folder), weights_of(trained))


def test_run_with_only_damaged_snapshots_is_refused(run_request: Request) -> None:
    folder = train_until(run_request, 7)
    for file in (folder / "snapshots").glob("*/*.distcp"):
        flip_a_byte(file)
    with pytest.raises(CheckpointError, match="no snapshot is intact; start a new run with"):
        runs.train(resumed(run_request))


def test_resume_needs_a_run_id(run_request: Request) -> None:
    with pytest.raises(GateInputError) as raised:
        runs.train(resumed(dataclasses.replace(run_request, run_id=None)))
    assert str(raised.value) == "--resume needs --run-id: the ID of the run to continue"
    assert not run_request.outputs.exists()


@pytest.mark.parametrize("changes", [{"run_id": None}, {"resume": False}])
def test_torchrun_with_restarts_needs_a_run_id_and_resume(
    run_request: Request, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(GateInputError, match=r"^torchrun --max-restarts needs --run-id and --res"):
        runs.train(dataclasses.replace(resumed(run_request), **changes))
    assert not run_request.outputs.exists()


def test_worker_restarted_by_torchrun_resumes(
    run_request: Request, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train_until(run_request, 5)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    runs.train(resumed(run_request))
    assert are_equal(weights_of(folder), weights_of(trained))


@pytest.mark.parametrize(
    "state",
    [
        pytest.param(dataclasses.replace(CLEAN, diff_digest="d" * 64), id="modified"),
        pytest.param(dataclasses.replace(CLEAN, commit=None), id="no_repository"),
    ],
)
def test_release_refuses_uncommitted_source(
    run_request: Request, monkeypatch: pytest.MonkeyPatch, state: SourceState
) -> None:
    monkeypatch.setattr(provenance, "source_state", lambda _: state)
    with pytest.raises(GateInputError, match="the source does not match a commit"):
        runs.train(dataclasses.replace(run_request, needs_clean_tree=True))
    assert not run_request.outputs.exists()


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(dataclasses.replace(CLEAN, diff_digest="d" * 64), id="modified"),
        pytest.param(dataclasses.replace(CLEAN, commit="e" * 40), id="another_commit"),
    ],
)
def test_release_refuses_a_snapshot_of_other_source(
    run_request: Request, monkeypatch: pytest.MonkeyPatch, before: SourceState
) -> None:
    monkeypatch.setattr(provenance, "source_state", lambda _: before)
    train_until(run_request, 4)
    monkeypatch.setattr(provenance, "source_state", lambda _: CLEAN)
    release = dataclasses.replace(resumed(run_request), needs_clean_tree=True)
    with pytest.raises(GateInputError, match="step-00000003: made with different source than the"):
        runs.train(release)
    checkpoint = runs.train(resumed(run_request))
    statement = provenance.read(checkpoint.with_name("provenance.json"))
    assert provenance.is_dirty(statement) is not before.is_clean


def test_provenance_lists_the_attempts_of_a_run(
    run_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "source_state", lambda _: CLEAN)
    train_until(run_request, 4)
    train_until(resumed(run_request), 7)
    checkpoint = runs.train(resumed(run_request))
    statement = provenance.read(checkpoint.with_name("provenance.json"))
    earlier = statement["predicate"]["buildDefinition"]["internalParameters"]["earlierAttempts"]
    assert [attempt["first_step"] for attempt in earlier] == [0, 3]
    # Nothing changed between the attempts, so each fact is listed once.
    assert not [name for name in provenance.facts(statement) if "from step" in name]


def test_release_accepts_a_clean_tree(
    run_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "source_state", lambda _: CLEAN)
    release = dataclasses.replace(run_request, needs_clean_tree=True)
    checkpoint = runs.train(changed(release, "train", epochs=1))
    facts = provenance.facts(provenance.read(checkpoint.with_name("provenance.json")))
    assert (facts["source"], facts["uv.lock"]) == ("c" * 40, "1" * 64)


def test_uncommitted_source_is_recorded(
    run_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    dirty = dataclasses.replace(CLEAN, diff_digest="d" * 64)
    monkeypatch.setattr(provenance, "source_state", lambda _: dirty)
    checkpoint = runs.train(changed(run_request, "train", epochs=1))
    statement = provenance.read(checkpoint.with_name("provenance.json"))
    assert provenance.facts(statement)["source-diff"] == "d" * 64
    definition = statement["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["dirty"] is True


def test_run_records_the_source_of_its_own_package(
    run_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[Path] = []

    def state_of(folder: Path) -> SourceState:
        looked_at.append(folder)
        return CLEAN

    monkeypatch.setattr(provenance, "source_state", state_of)
    runs.train(changed(run_request, "train", epochs=1))
    assert looked_at == [Path(data.__file__).parent]
