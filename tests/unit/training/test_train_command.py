import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gates.evidence import provenance
from gates.evidence.provenance import SourceState
from training import config as configs
from training.pytorch import loop

from toy import data
from toy.config import RunConfig
from toy.train import main

Refused = Callable[..., str]


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def test_command_writes_a_checkpoint(
    config_file: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(config_file), "--outputs", str(outputs), "--run-id", "mine"]
    assert main([*options, "--set", "train.epochs=1", "--set", "seed=3"]) == 0
    assert (outputs / "latest.pt").resolve() == (outputs / "mine" / "checkpoint.pt").resolve()
    used = configs.load(RunConfig, outputs / "mine" / "config.yaml")
    assert (used.train.epochs, used.seed) == (1, 3)
    printed = capsys.readouterr()
    assert "epoch 1/1: loss " in printed.out
    assert printed.err == ""


def test_training_without_a_commit_warns_with_the_reason(
    config_file: Path,
    outputs: Path,
    refused: Refused,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    options = ["--config", str(config_file), "--outputs", str(outputs)]
    assert main([*options, "--set", "train.epochs=1"]) == 0
    warning = capsys.readouterr().err
    assert warning.startswith("warning: the provenance of this run will name no commit: fatal: det")
    assert warning.count("\n") == 1
    assert "detected dubious ownership" in refused(main, *options, "--require-clean-tree")


@pytest.mark.parametrize("variable", ["RANK", "WORLD_SIZE", "TORCHELASTIC_MAX_RESTARTS"])
@pytest.mark.parametrize("value", ["x", "", "-1", "²"])
def test_a_variable_that_is_not_a_number_is_reported_in_one_line(
    variable: str,
    value: str,
    config_file: Path,
    outputs: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(variable, value)
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert error.startswith(f"{variable} is {value!r}; expected a whole number")


def test_negative_lr_in_the_file_is_reported_in_one_line(
    config_file: Path, outputs: Path, refused: Refused
) -> None:
    config_file.write_text(config_file.read_text().replace("lr: 1.0e-3", "lr: -1"))
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert error == f"{config_file}: train.lr: must be > 0, got -1"
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("old", "new", "explanation"),
    [
        pytest.param("seed: 0", "seed: [0", "not valid YAML", id="malformed"),
        pytest.param("seed: 0", "seed: 0\nseed: 1", "duplicate key", id="key_given_twice"),
        pytest.param("  lr:", "  learning_rat:", "train.learning_rat: unknown key", id="unknown"),
        pytest.param("  epochs:", "  epoch:", "did you mean epochs?", id="misspelt"),
        pytest.param("seed: 0", "seed: 2024-13-45", "not valid YAML", id="month_13"),
    ],
)
def test_malformed_file_is_reported_in_one_line(
    config_file: Path, outputs: Path, refused: Refused, old: str, new: str, explanation: str
) -> None:
    config_file.write_text(config_file.read_text().replace(old, new))
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert error.startswith(f"{config_file}: ")
    assert explanation in error
    assert not outputs.exists()


@pytest.mark.parametrize(
    ("options", "explanation"),
    [
        pytest.param(
            ["--set", "train.lr=-1"], "--set: train.lr: must be > 0, got -1", id="negative_lr"
        ),
        pytest.param(
            ["--set", "train.epoch=1"],
            "--set: train.epoch: unknown key; did you mean epochs?",
            id="misspelt_key",
        ),
        pytest.param(["--set", "train.epochs"], "--set train.epochs: expected", id="no_value"),
        pytest.param(["--set", "model.classes=5"], "model", id="too_many_classes"),
        pytest.param(["--set", "model.pixels=9"], "model", id="images_too_small"),
        pytest.param(["--run-id", "a/b"], "--run-id a/b: use ", id="slash_in_run_id"),
        pytest.param(["--run-id", "latest.pt"], "--run-id latest.pt: ", id="run_id_of_the_link"),
        pytest.param(["--run-id", "a" * 300], "a" * 300, id="run_id_too_long"),
        pytest.param(["--sed", "a=1"], "--sed", id="unknown_option"),
    ],
)
def test_bad_option_is_reported_in_one_line(
    config_file: Path, outputs: Path, refused: Refused, options: list[str], explanation: str
) -> None:
    error = refused(main, "--config", config_file, "--outputs", outputs, *options)
    assert explanation in error
    assert not outputs.exists()


def test_missing_config_is_reported_in_one_line(
    tmp_path: Path, outputs: Path, refused: Refused
) -> None:
    error = refused(main, "--config", tmp_path / "absent.yaml", "--outputs", outputs)
    assert error.startswith(f"{tmp_path / 'absent.yaml'}: cannot be read")
    assert not outputs.exists()


def test_omitted_config_is_reported_in_one_line(outputs: Path, refused: Refused) -> None:
    assert "--config" in refused(main, "--outputs", outputs)


def test_existing_run_is_not_overwritten(
    config_file: Path, outputs: Path, refused: Refused
) -> None:
    run = outputs / "mine"
    run.mkdir(parents=True)
    (run / "checkpoint.pt").write_text("earlier")
    error = refused(main, "--config", config_file, "--outputs", outputs, "--run-id", "mine")
    assert error == f"{run}: this run exists already; choose another --run-id, or add --resume"
    assert [path.name for path in outputs.rglob("*")] == ["mine", "checkpoint.pt"]
    assert (run / "checkpoint.pt").read_text() == "earlier"


def test_file_in_place_of_the_outputs_folder_is_kept(
    config_file: Path, outputs: Path, refused: Refused
) -> None:
    outputs.write_text("mine")
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert error.startswith(f"{outputs}/")
    assert "cannot be written" in error
    assert outputs.read_text() == "mine"


def test_damaged_data_is_reported_in_one_line(
    config_file: Path, data_file: Path, outputs: Path, refused: Refused
) -> None:
    data_file.write_bytes(data_file.read_bytes()[:1000])
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert error == (
        f"{data_file}: does not match the SHA-256 in its manifest; delete both, and the next run "
        "writes them again"
    )
    assert not outputs.exists()


def test_data_of_another_schema_is_reported_in_one_line(
    config_file: Path,
    data_file: Path,
    outputs: Path,
    prepare: Callable[[pa.Table, Path], Path],
    refused: Refused,
) -> None:
    prepare(pa.table({"text": ["a"]}), data_file)
    error = refused(main, "--config", config_file, "--outputs", outputs)
    assert error == f"{data_file}: column id must be string, none missing; found no such column"
    assert not outputs.exists()


def test_loss_that_is_not_finite_fails_in_one_line(
    config_file: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(config_file), "--outputs", str(outputs)]
    # Each step multiplies the weights by -9.
    changes = ["train.lr=1.0", "train.weight_decay=10", "train.epochs=30", "train.warmup_share=0"]
    assert main([*options, *(f"--set={change}" for change in changes)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "lower train.lr" in error
    assert not (outputs / "latest.pt").exists()


def exhaust_gpu_memory() -> None:
    msg = "CUDA out of memory."
    raise torch.OutOfMemoryError(msg)


def exhaust_host_memory() -> None:
    torch.empty(2**58)


@pytest.mark.parametrize("exhaust", [exhaust_gpu_memory, exhaust_host_memory])
def test_lack_of_memory_is_reported_in_one_line(
    config_file: Path,
    outputs: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    exhaust: Callable[[], None],
) -> None:
    monkeypatch.setattr(loop, "new_model", lambda *_: exhaust())
    options = ("--config", config_file, "--outputs", outputs)
    assert refused(main, *options).startswith("there is not enough memory; use a smaller batch")


CLEAN = SourceState(commit="c" * 40, diff_digest=None, lock_digest="1" * 64)


@pytest.fixture
def sent_provenance(trained: Path, tmp_path: Path) -> Path:
    """The provenance of a finished run, without its other files, as someone might send it."""
    return Path(shutil.copy(trained / "provenance.json", tmp_path / "sent.json"))


@pytest.fixture
def reproduce_options(sent_provenance: Path, trained: Path, outputs: Path) -> list[str]:
    """The options that repeat the run on this project's data."""
    project = trained.parent.parent / "tiny.yaml"
    options = ["--from-provenance", str(sent_provenance), "--config", str(project)]
    return [*options, "--outputs", str(outputs)]


def edit_json(file: Path, edit: Callable[[Any], None]) -> None:
    document = json.loads(file.read_text())
    edit(document)
    file.write_text(json.dumps(document))


def set_digest(document: Any) -> None:
    document["subject"][0]["digest"]["sha256"] = "0" * 64


def set_torch(document: Any) -> None:
    definition = document["predicate"]["buildDefinition"]
    definition["internalParameters"]["runtime"]["torch"] = "2.0.0"


def test_resuming_a_finished_run_does_nothing(
    config_file: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(config_file), "--outputs", str(outputs), "--run-id", "mine"]
    assert main([*options, "--resume"]) == 0
    assert main([*options, "--resume"]) == 0
    assert capsys.readouterr().out.endswith("this run has already ended; nothing to do\n")


def test_resume_with_another_configuration_is_reported_in_one_line(
    config_file: Path, outputs: Path, refused: Refused
) -> None:
    options = ["--config", str(config_file), "--outputs", str(outputs), "--run-id", "mine"]
    assert main(options) == 0
    error = refused(main, *options, "--resume", "--set", "train.lr=0.5")
    assert error.startswith(
        f"{outputs / 'mine' / 'config.yaml'}: train.lr is 0.001 in this run, but 0.5 was requested"
    )


def test_resume_without_a_run_id_is_reported_in_one_line(
    config_file: Path, outputs: Path, refused: Refused
) -> None:
    error = refused(main, "--config", config_file, "--outputs", outputs, "--resume")
    assert error == "--resume needs --run-id: the ID of the run to continue"
    assert not outputs.exists()


def test_dirty_tree_is_reported_in_one_line_if_a_clean_one_is_required(
    config_file: Path, outputs: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    dirty = dataclasses.replace(CLEAN, diff_digest="d" * 64)
    monkeypatch.setattr(provenance, "source_state", lambda _: dirty)
    options = ("--config", config_file, "--outputs", outputs, "--require-clean-tree")
    assert refused(main, *options).startswith("the source does not match a commit (see git status")
    assert not outputs.exists()


def test_clean_tree_is_accepted_if_required(
    config_file: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "source_state", lambda _: CLEAN)
    options = ["--config", str(config_file), "--outputs", str(outputs), "--require-clean-tree"]
    assert main([*options, "--set", "train.epochs=1"]) == 0


@pytest.mark.parametrize(
    ("source", "explanation"),
    [
        pytest.param("absent.parquet", "data.source: absent.parquet: cannot be read", id="missing"),
        pytest.param("nosuch://x", "data.source: nosuch://x: cannot be read", id="protocol"),
    ],
)
def test_unreadable_source_is_reported_in_one_line(
    config_file: Path, outputs: Path, refused: Refused, source: str, explanation: str
) -> None:
    options = ("--config", config_file, "--outputs", outputs, "--set", f"data.source={source}")
    assert refused(main, *options).startswith(explanation)
    assert not outputs.exists()


def test_signature_in_an_address_is_in_no_message_and_no_file_name(
    config_file: Path, outputs: Path, tmp_path: Path, refused: Refused
) -> None:
    address = "memory://bucket/mine.parquet?signature=secret"
    options = ["--config", str(config_file), "--outputs", str(outputs), "--set", "train.epochs=1"]
    options += ["--set", f"data.source={address}", "--set", f"data.cache_dir={tmp_path / 'mine'}"]
    assert refused(main, *options).startswith("data.source: memory://bucket/mine.parquet: cannot")
    with fsspec.open(address, "wb") as file:
        file.write(b"no Parquet")
    error = refused(main, *options)
    assert error.startswith("memory://bucket/mine.parquet: not readable as Parquet (")
    assert "secret" not in error
    with fsspec.open(address, "wb") as file:
        pq.write_table(data.bars(), file)
    assert main(options) == 0
    assert all("secret" not in each.name for each in (tmp_path / "mine").iterdir())


def test_run_is_reproduced_from_its_provenance(
    sent_provenance: Path,
    reproduce_options: list[str],
    outputs: Path,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(reproduce_options) == 0
    digest = provenance.subject_digest(provenance.read(sent_provenance))
    output = capsys.readouterr().out
    assert f"reproduced: the checkpoint is the same, sha256 {digest}\n" in output
    assert "not reproduced" not in output
    made = (outputs / "latest.pt").resolve()
    assert made.read_bytes() == (trained / "checkpoint.pt").read_bytes()


def test_run_that_is_not_reproduced_fails_and_lists_the_differences(
    sent_provenance: Path,
    reproduce_options: list[str],
    outputs: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edit_json(sent_provenance, set_digest)
    edit_json(sent_provenance, set_torch)
    assert main(reproduce_options) == 1
    output = capsys.readouterr().out.splitlines()
    found = next(line for line in output if line.startswith("not reproduced: "))
    digest = provenance.subject_digest(
        provenance.read((outputs / "latest.pt").resolve().with_name("provenance.json"))
    )
    assert found == f"not reproduced: sha256 {'0' * 64} -> {digest}"
    assert any(line.startswith("  differs: torch: 2.0.0 -> ") for line in output)


def test_unexplained_difference_is_reported(
    sent_provenance: Path,
    reproduce_options: list[str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A file saved in the working tree between the two runs would be a recorded difference.
    monkeypatch.setattr(provenance, "differences", lambda *_: [])
    edit_json(sent_provenance, set_digest)
    assert main(reproduce_options) == 1
    output = capsys.readouterr().out
    assert output.endswith("  nothing that the provenance records differs\n")


def test_reproduced_run_lists_the_differences(
    sent_provenance: Path, reproduce_options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    edit_json(sent_provenance, set_torch)
    assert main(reproduce_options) == 0
    assert "  differs: torch: 2.0.0 -> " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "explanation"),
    [
        pytest.param("", "not readable as provenance", id="empty"),
        pytest.param("seed: 0", "not readable as provenance", id="configuration"),
        pytest.param("{}", "not the provenance of a training run", id="no_statement"),
    ],
)
def test_bad_provenance_is_reported_in_one_line(
    tmp_path: Path, outputs: Path, refused: Refused, content: str, explanation: str
) -> None:
    file = tmp_path / "sent.json"
    file.write_text(content)
    error = refused(main, "--from-provenance", file, "--outputs", outputs)
    assert error.startswith(f"{file}: {explanation}")
    assert not outputs.exists()


def test_missing_provenance_is_reported_in_one_line(
    tmp_path: Path, outputs: Path, refused: Refused
) -> None:
    file = tmp_path / "absent.json"
    assert refused(main, "--from-provenance", file, "--outputs", outputs).startswith(f"{file}: ")


def test_bad_configuration_in_a_provenance_is_reported_in_one_line(
    sent_provenance: Path, outputs: Path, refused: Refused
) -> None:
    def set_lr(document: Any) -> None:
        definition = document["predicate"]["buildDefinition"]
        definition["externalParameters"]["config"]["train"]["lr"] = -1

    edit_json(sent_provenance, set_lr)
    error = refused(main, "--from-provenance", sent_provenance, "--outputs", outputs)
    assert error == f"{sent_provenance}: train.lr: must be > 0, got -1"
    assert not outputs.exists()


def test_override_is_refused_with_a_provenance(
    reproduce_options: list[str], outputs: Path, refused: Refused
) -> None:
    assert "--set: not allowed with --from-provenance" in refused(
        main, *reproduce_options, "--set", "train.epochs=1"
    )
    assert not outputs.exists()


def test_neither_configuration_nor_provenance_is_refused(refused: Refused) -> None:
    assert "--config: name a file, such as configs/ci-tiny.yaml" in refused(main)


@pytest.mark.parametrize("key", ["source", "cache_dir"])
def test_a_provenance_does_not_choose_where_data_is_read_or_cached(
    sent_provenance: Path,
    reproduce_options: list[str],
    outputs: Path,
    refused: Refused,
    tmp_path: Path,
    key: str,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    pq.write_table(data.bars(), tmp_path / "mine.parquet")
    value = {"source": tmp_path / "mine.parquet", "cache_dir": elsewhere}[key]

    def set_data(document: Any) -> None:
        definition = document["predicate"]["buildDefinition"]
        definition["externalParameters"]["config"]["data"][key] = str(value)

    edit_json(sent_provenance, set_data)
    error = refused(main, *reproduce_options)
    assert error.startswith(f"{sent_provenance}: data.{key} is {value}, but ")
    assert "with --config" in error
    assert not outputs.exists()
    assert not elsewhere.exists()


def test_help_and_typos_do_not_import_torch(tmp_path: Path) -> None:
    program = """
import contextlib, sys
from pathlib import Path
from toy.train import main

with contextlib.suppress(SystemExit):
    main(["--help"])
assert main(["--config", sys.argv[1], "--set", "train.lr=-1"]) == 2
assert "torch" not in sys.modules
"""
    config = tmp_path / "typo.yaml"
    config.write_text("seed: none\n")
    subprocess.run([sys.executable, "-c", program, str(config)], check=True, capture_output=True)


def test_module_runs_as_a_command(config_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toy.train", "--config", str(config_file)]
    done = subprocess.run(
        [*command, "--set", "train.lr=-1"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == "--set: train.lr: must be > 0, got -1\n"
    assert done.stdout == ""
    assert not (tmp_path / "outputs").exists()


def test_print_config_prints_the_configuration_and_trains_nothing(
    config_file: Path, outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", str(config_file), "--outputs", str(outputs), "--set", "train.epochs=7"]
    assert main([*options, "--print-config"]) == 0
    printed = config_file.with_name("printed.yaml")
    printed.write_text(capsys.readouterr().out)
    expected = configs.load(RunConfig, config_file, ["train.epochs=7"])
    assert configs.load(RunConfig, printed) == expected
    assert not outputs.exists()
