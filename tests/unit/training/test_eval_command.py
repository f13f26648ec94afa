import dataclasses
import hashlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from gates.evaluation.predictions import open_predictions, write_predictions
from tests.judged import write_policy
from training import runs
from training.data import manifest_of

from toy import data
from toy.config import RunConfig
from toy.data import Examples
from toy.eval import main
from toy.learner import METHOD
from toy.project import PROJECT, predict

Refused = Callable[..., str]


class TouchesFile:
    """Creates a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.marker,)


@pytest.fixture
def perfect(checkpoint: Path, held_out_examples: Examples, tmp_path: Path) -> Path:
    """Predictions that are all correct, which no untrained model can match."""
    predictions = predict(checkpoint, held_out_examples)
    file = tmp_path / "perfect.parquet"
    write_predictions(dataclasses.replace(predictions, predictions=predictions.labels), file)
    return file


@pytest.fixture(autouse=True)
def policy(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The policy at its default path, with a margin wide enough for 20 examples to decide."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    shutil.copy(trained.parent.parent / "tiny.yaml", tmp_path / "configs" / "base.yaml")
    return write_policy(tmp_path / "configs" / "gates.yaml", {"accuracy.margin": 0.3})


def files_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_first_release_passes_and_reports_its_reason(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", str(checkpoint), "--no-baseline", "first release"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("evaluation: PASS - accuracy ")
    assert "  no baseline: first release\n" in printed.out
    assert printed.err == ""


def test_predictions_are_written_beside_the_target_of_a_link(checkpoint: Path) -> None:
    link = checkpoint.parent.parent / "latest.pt"
    link.symlink_to(checkpoint.relative_to(link.parent))
    assert main(["--checkpoint", str(link), "--no-baseline", "first release"]) == 0
    assert open_predictions(checkpoint.with_name("predictions.parquet")).n == 20
    assert not link.with_name("predictions.parquet").exists()


def test_link_loop_is_reported_in_one_line(tmp_path: Path, refused: Refused) -> None:
    link = tmp_path / "latest.pt"
    link.symlink_to(link)
    error = refused(main, "--checkpoint", link, "--no-baseline", "why")
    assert error.startswith(f"{link}: ")


def test_report_and_predictions_are_written_to_the_given_paths(
    checkpoint: Path, tmp_path: Path
) -> None:
    report, predictions = tmp_path / "new" / "verdict.json", tmp_path / "new" / "p.parquet"
    options = ["--checkpoint", str(checkpoint), "--no-baseline", "first release"]
    assert main([*options, "--report", str(report), "--predictions", str(predictions)]) == 0
    verdict = json.loads(report.read_text())
    assert verdict["schema"] == "verdict/1"
    digest = hashlib.sha256(predictions.read_bytes()).hexdigest()
    assert verdict["evidence"]["predictions"] == digest
    assert not checkpoint.with_name("predictions.parquet").exists()


def test_worse_model_fails(
    checkpoint: Path, perfect: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "verdict.json"
    options = ["--checkpoint", str(checkpoint), "--baseline", str(perfect), "--allow-same-model"]
    assert main([*options, "--fail-if-worse-than", "0.02", "--report", str(report)]) == 1
    assert capsys.readouterr().out.startswith("evaluation: FAIL - accuracy 1.0000 -> ")
    verdict = json.loads(report.read_text())
    assert verdict["outcome"] == "fail"
    assert verdict["policy"]["metrics.accuracy.margin"] == 0.02


def test_model_is_not_compared_with_itself_unless_allowed(
    checkpoint: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--checkpoint", str(checkpoint), "--baseline", str(checkpoint))
    assert "comes from the same checkpoint" in refused(main, *options)
    assert main([*options, "--allow-same-model"]) == 0
    assert "(+0.0000) on 20 held-out examples" in capsys.readouterr().out
    # An inconclusive comparison exits with 3 and reports how many examples would settle it.
    assert main([*options, "--allow-same-model", "--fail-if-worse-than", "0.02"]) == 3
    assert "133 examples would settle it, 113 more" in capsys.readouterr().out


@pytest.fixture
def elsewhere(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that names another data source and cache folder."""
    document = torch.load(checkpoint, weights_only=True)
    with fsspec.open("memory://elsewhere/mine.parquet", "wb") as file:
        pq.write_table(data.bars(), file)
    document["config"]["data"] |= {
        "source": "memory://elsewhere/mine.parquet",
        "cache_dir": str(tmp_path / "evil"),
    }
    torch.save(document, checkpoint)
    return checkpoint


def test_a_checkpoint_does_not_choose_where_its_data_comes_from(
    elsewhere: Path, refused: Refused, tmp_path: Path
) -> None:
    error = refused(main, "--checkpoint", elsewhere, "--no-baseline", "why")
    assert "was trained on memory://elsewhere/mine.parquet, but configs/base.yaml names" in error
    assert "use --config to name the data" in error
    options = ["--checkpoint", str(elsewhere), "--no-baseline", "why"]
    assert main([*options, "--config", "configs/base.yaml"]) == 0
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("option", ["--predictions", "--report"])
def test_inputs_are_not_overwritten(
    checkpoint: Path, perfect: Path, refused: Refused, option: str
) -> None:
    before = perfect.read_bytes(), checkpoint.read_bytes()
    options = ("--checkpoint", checkpoint, "--baseline", perfect)
    for file in (perfect, checkpoint):
        error = refused(main, *options, option, file)
        assert error.startswith(f"{file}: would overwrite")
    assert (perfect.read_bytes(), checkpoint.read_bytes()) == before


@pytest.mark.parametrize("option", ["--predictions", "--report"])
def test_data_is_not_overwritten(
    checkpoint: Path, refused: Refused, option: str, tmp_path: Path
) -> None:
    configured = METHOD.load(checkpoint).config
    prepared = data.DATASET.prepare(configured.data)
    source = tmp_path / "mine.parquet"
    pq.write_table(data.bars(), source)
    tree = configured.model_dump(mode="json")
    tree["data"]["source"] = str(source)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(tree))
    options = ("--checkpoint", checkpoint, "--no-baseline", "first", "--config", config)
    for file in (source, prepared, manifest_of(prepared), config):
        before = file.read_bytes()
        error = refused(main, *options, option, file)
        assert f"{file}: would overwrite {file}, which is an input" in error
        assert file.read_bytes() == before


@pytest.mark.parametrize(
    "name", ["verdict.svg", "scores.json", "confusion_matrix.svg", "reliability.svg"]
)
def test_a_baseline_named_like_an_output_is_not_overwritten(
    name: str, checkpoint: Path, perfect: Path, refused: Refused
) -> None:
    baseline = checkpoint.with_name(name)
    perfect.rename(baseline)
    before = baseline.read_bytes()
    error = refused(main, "--checkpoint", checkpoint, "--baseline", baseline)
    assert "would overwrite" in error
    assert baseline.read_bytes() == before


def test_two_outputs_cannot_share_a_file(checkpoint: Path, refused: Refused) -> None:
    report = checkpoint.with_name("verdict.svg")
    options = ("--checkpoint", checkpoint, "--no-baseline", "first", "--report", report)
    assert "which is another output" in refused(main, *options)
    assert not report.exists()


def test_baseline_beside_the_checkpoint_is_not_overwritten(
    checkpoint: Path, perfect: Path, refused: Refused
) -> None:
    # The baseline is at the default path of the candidate's predictions.
    baseline = checkpoint.with_name("predictions.parquet")
    perfect.rename(baseline)
    before = files_in(checkpoint.parent)
    error = refused(main, "--checkpoint", checkpoint, "--baseline", baseline)
    assert error.startswith(f"{baseline}: would overwrite")
    assert files_in(checkpoint.parent) == before


@pytest.mark.parametrize(
    ("baseline", "explanation"),
    [
        pytest.param("absent.pt", "absent.pt: no such file", id="missing"),
        pytest.param("absent.parquet", "absent.parquet: no such file", id="missing_predictions"),
        pytest.param("nosuch://x", "nosuch://x: cannot be read", id="protocol"),
        pytest.param("memory://x", "memory://x: cannot be read", id="memory"),
        pytest.param("", "the address of a model or its predictions is empty", id="empty"),
        pytest.param(
            "models:/x@production",
            "models:/x@production: sqlite:///registry/mlflow.db: there is no registry yet",
            id="registry",
        ),
    ],
)
def test_unreadable_baseline_is_reported_in_one_line(
    checkpoint: Path,
    refused: Refused,
    monkeypatch: pytest.MonkeyPatch,
    baseline: str,
    explanation: str,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = files_in(checkpoint.parent)
    options = ("--checkpoint", checkpoint, "--baseline", baseline, "--fail-if-worse-than", 0.02)
    assert refused(main, *options).startswith(explanation)
    assert files_in(checkpoint.parent) == before


@pytest.mark.parametrize(
    ("options", "explanation"),
    [
        pytest.param(["--fail-if-worse-than", "2.0"], "must be a fraction", id="margin_of_2"),
        pytest.param(["--fail-if-worse-than", "-0.1"], "must be a fraction", id="negative"),
        pytest.param(["--fail-if-worse-than", "nan"], "must be a fraction", id="nan"),
        pytest.param(["--fail-if-worse-than", "x"], "--fail-if-worse-than", id="word"),
        pytest.param(["--policy", "absent.yaml"], "absent.yaml: cannot be read", id="no_policy"),
        pytest.param(["--no-baseline", "why"], "--no-baseline", id="both_kinds_of_baseline"),
    ],
)
def test_bad_option_with_a_baseline_is_reported_in_one_line(
    checkpoint: Path, perfect: Path, refused: Refused, options: list[str], explanation: str
) -> None:
    before = files_in(checkpoint.parent)
    error = refused(main, "--checkpoint", checkpoint, "--baseline", perfect, *options)
    assert explanation in error
    assert files_in(checkpoint.parent) == before


@pytest.fixture
def smaller_images_checkpoint(config: RunConfig, tmp_path: Path) -> Path:
    """A checkpoint for smaller images than the bars."""
    section = config.data.model_copy(update={"source": "synthetic"})
    model = config.model.model_copy(update={"pixels": 9})
    other = config.model_copy(update={"data": section, "model": model})
    request = runs.Request(project=PROJECT, config=other, outputs=tmp_path / "others", run_id="run")
    return runs.train(request)


def test_model_for_another_image_size_is_reported_in_one_line(
    checkpoint: Path, config_file: Path, smaller_images_checkpoint: Path, refused: Refused
) -> None:
    nine_pixels_config = smaller_images_checkpoint.with_name("config.yaml")
    for candidate, baseline, config, wrong, takes, has in (
        (smaller_images_checkpoint, checkpoint, config_file, smaller_images_checkpoint, 9, 16),
        (checkpoint, smaller_images_checkpoint, config_file, smaller_images_checkpoint, 9, 16),
        (checkpoint, smaller_images_checkpoint, nine_pixels_config, checkpoint, 16, 9),
    ):
        options = ("--checkpoint", candidate, "--baseline", baseline, "--config", config)
        error = refused(main, *options, "--fail-if-worse-than", 0.02)
        assert error == f"{wrong}: its model takes {takes} pixels, and the data has {has}"


@pytest.mark.parametrize("why", ["", "  "])
def test_omitting_the_baseline_needs_a_reason(checkpoint: Path, refused: Refused, why: str) -> None:
    error = refused(main, "--checkpoint", checkpoint, "--no-baseline", why)
    assert error.startswith("--no-baseline: say why")


def test_neither_baseline_nor_reason_is_refused(checkpoint: Path, refused: Refused) -> None:
    error = refused(main, "--checkpoint", checkpoint)
    assert "--baseline" in error
    assert "--no-baseline" in error


def test_missing_checkpoint_is_reported_in_one_line(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "absent.pt"
    error = refused(main, "--checkpoint", file, "--no-baseline", "why")
    assert error.startswith(f"{file}: no such checkpoint; train one")
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


@pytest.mark.parametrize("length", [0, 1, 100, 2000, -1])
def test_truncated_checkpoint_is_reported_in_one_line(
    checkpoint: Path, refused: Refused, length: int
) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:length])
    before = files_in(checkpoint.parent)
    error = refused(main, "--checkpoint", checkpoint, "--no-baseline", "why")
    assert error.startswith(f"{checkpoint}: ")
    assert files_in(checkpoint.parent) == before


def test_flipped_bit_is_reported_in_one_line(checkpoint: Path, refused: Refused) -> None:
    content = bytearray(checkpoint.read_bytes())
    weights = torch.load(checkpoint, weights_only=True)["weights"]
    content[content.index(weights["stem.weight"].numpy().tobytes()) + 3] ^= 0x80
    checkpoint.write_bytes(content)
    error = refused(main, "--checkpoint", checkpoint, "--no-baseline", "why")
    assert error.startswith(f"{checkpoint}: damaged")
    assert not checkpoint.with_name("predictions.parquet").exists()


@pytest.mark.parametrize("is_torch_file", [True, False])
def test_code_in_a_checkpoint_is_refused_in_one_line(
    tmp_path: Path, refused: Refused, *, is_torch_file: bool
) -> None:
    file, marker = tmp_path / "evil.pt", tmp_path / "marker"
    if is_torch_file:
        torch.save(TouchesFile(marker), file)
    else:
        file.write_bytes(pickle.dumps(TouchesFile(marker)))
    error = refused(main, "--checkpoint", file, "--no-baseline", "why")
    assert error.startswith(f"{file}: ")
    assert {path.name for path in tmp_path.iterdir()} == {"configs", file.name}


def test_code_in_a_baseline_is_refused_in_one_line(
    checkpoint: Path, tmp_path: Path, refused: Refused
) -> None:
    marker = tmp_path / "marker"
    with fsspec.open("memory://evil/model.pt", "wb") as stream:
        torch.save(TouchesFile(marker), stream)
    options = ("--baseline", "memory://evil/model.pt", "--fail-if-worse-than", 0.02)
    error = refused(main, "--checkpoint", checkpoint, *options)
    # Not the path of the temporary copy, which no longer exists.
    assert error.startswith("memory://evil/model.pt: ")
    assert not marker.exists()


def test_a_file_that_is_not_a_checkpoint_is_reported_as_such(
    checkpoint: Path, perfect: Path, refused: Refused
) -> None:
    error = refused(main, "--checkpoint", perfect, "--no-baseline", "why")
    assert error == f"{perfect}: is not a checkpoint; name one, such as outputs/latest.pt"
    folder = checkpoint.parent
    error = refused(main, "--checkpoint", folder, "--no-baseline", "why")
    assert error == f"{folder}: is a folder; name the checkpoint in it, such as {checkpoint}"
    empty = folder / "empty.pt"
    empty.write_bytes(b"")
    error = refused(main, "--checkpoint", empty, "--no-baseline", "why")
    assert error.startswith(f"{empty}: is not a checkpoint")


def test_other_torch_file_is_reported_in_one_line(tmp_path: Path, refused: Refused) -> None:
    file = tmp_path / "other.pt"
    torch.save({"weights": torch.zeros(2)}, file)
    error = refused(main, "--checkpoint", file, "--no-baseline", "why")
    assert error.startswith(f"{file}: not a checkpoint of this project")
    assert {path.name for path in tmp_path.iterdir()} == {"configs", file.name}


def test_damaged_data_is_reported_in_one_line(
    checkpoint: Path, config_file: Path, data_file: Path, refused: Refused
) -> None:
    data_file.write_bytes(data_file.read_bytes()[:-10])
    error = refused(
        main, "--checkpoint", checkpoint, "--no-baseline", "why", "--config", config_file
    )
    assert error.startswith(f"{data_file}: does not match the SHA-256 in its manifest; delete both")
    assert not checkpoint.with_name("predictions.parquet").exists()


def test_data_of_another_schema_is_reported_in_one_line(
    checkpoint: Path,
    config_file: Path,
    data_file: Path,
    prepare: Callable[[pa.Table, Path], Path],
    refused: Refused,
) -> None:
    prepare(pa.table({"text": ["a"]}), data_file)
    error = refused(
        main, "--checkpoint", checkpoint, "--no-baseline", "why", "--config", config_file
    )
    assert error == f"{data_file}: column id must be string, none missing; found no such column"


def test_baseline_of_another_schema_is_reported_in_one_line(
    checkpoint: Path, data_file: Path, refused: Refused
) -> None:
    options = ("--baseline", data_file, "--fail-if-worse-than", 0.02)
    error = refused(main, "--checkpoint", checkpoint, *options)
    assert error.startswith(f"{data_file}: lacks prediction, data_digest, checkpoint_digest")


@pytest.mark.parametrize("option", ["--report", "--predictions"])
def test_folder_in_place_of_an_output_is_reported_in_one_line(
    checkpoint: Path,
    tmp_path: Path,
    refused: Refused,
    capsys: pytest.CaptureFixture[str],
    option: str,
) -> None:
    folder = tmp_path / "taken"
    folder.mkdir()
    options = ("--checkpoint", checkpoint, "--no-baseline", "why", option, folder)
    assert refused(main, *options).startswith(f"{folder}: cannot be written")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["configs", "outputs", "taken"]
    assert not list(folder.iterdir())
    assert "PASS" not in capsys.readouterr().out


def test_help_does_not_import_torch() -> None:
    program = """
import contextlib, sys
from toy.eval import main

with contextlib.suppress(SystemExit):
    main(["--help"])
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert "Exit codes: 0 passed, 1 failed" in done.stdout


def test_module_runs_as_a_command(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toy.eval", "--checkpoint", str(checkpoint)]
    done = subprocess.run(
        [*command, "--baseline", str(tmp_path / "absent.pt")],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path / 'absent.pt'}: no such file\n"
    assert done.stdout == ""
    assert list(checkpoint.parent.iterdir()) == [checkpoint]
