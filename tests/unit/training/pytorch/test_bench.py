import json
import math
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the conventional name

from training.pytorch import bench, ceilings, loop

from toy.config import SETTINGS, RunConfig

Refused = Callable[..., str]

SMALL = ["--device", "cpu", "--matmul-size", "16", "--matmul-size", "32", "--copy-mib", "1"]
FEW = ["--steps", "3", "--warmup", "2"]


def model_flops(config: RunConfig) -> int:
    """Return a million for each example: what to count is up to the project."""
    return 1_000_000 * config.train.batch_size


SUBJECT = bench.Subject(settings=SETTINGS, configs=(Path("configs/base.yaml"),), flops=model_flops)


def main(arguments: Sequence[str]) -> int:
    return bench.main(SUBJECT, arguments)


@pytest.fixture
def report(config_file: Path, tmp_path: Path) -> dict[str, Any]:
    """The report of a run on the toy project."""
    other = config_file.with_name("other.yaml")
    other.write_text(config_file.read_text().replace("float32", "bfloat16"))
    file = tmp_path / "artifacts" / "gpu-bench.json"
    both = ["--config", str(config_file), "--config", str(other)]
    assert main([*SMALL, *FEW, *both, "--report", str(file)]) == 0
    written: dict[str, Any] = json.loads(file.read_text())
    return written


def test_report_records_the_measurements_and_the_hardware(report: dict[str, Any]) -> None:
    assert report["schema"] == "gpu-bench/2"
    started = datetime.fromisoformat(report["started"])
    assert started.utcoffset() is not None
    assert abs(datetime.now(started.tzinfo) - started).total_seconds() < 600
    assert report["hardware"]["device"] == "cpu"
    assert report["hardware"]["torch"] == torch.__version__
    assert set(report["source"]) == {"commit", "is_clean"}
    measured = report["ceilings"]
    assert [product["size"] for product in measured["matmuls"]] == [16, 32]
    assert measured["matmul_tflops"] == max(each["tflops"] for each in measured["matmuls"])
    for product in measured["matmuls"]:
        seconds = product["ms"]["median"] / 1e3
        assert product["tflops"] == pytest.approx(2 * product["size"] ** 3 / seconds / 1e12)
    assert measured["copy_gb_per_s"] > 0


def test_report_has_a_case_for_each_configuration(report: dict[str, Any]) -> None:
    assert [case["name"] for case in report["cases"]] == ["other", "tiny"]
    assert [case["precision"] for case in report["cases"]] == ["bfloat16", "float32"]
    for case in report["cases"]:
        assert case["parameters"] == 244
        assert case["step_ms"]["count"] == 3
        times = [case["step_ms"][name] for name in ("min", "p10", "median", "p90", "max")]
        assert times == sorted(times)
        assert times[0] > 0
        seconds = case["step_ms"]["median"] / 1e3
        assert case["examples_per_s"] == pytest.approx(8 / seconds)
        assert case["model_tflop_per_step"] == 8e-6
        assert case["model_tflops"] == pytest.approx(case["model_tflop_per_step"] / seconds)
        ceiling = report["ceilings"]["matmul_tflops"]
        assert case["share_of_matmul_ceiling"] == pytest.approx(case["model_tflops"] / ceiling)
        assert case["peak_memory_gib"] is None


def test_measured_steps_are_training_steps(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = 0
    mark = ceilings.Clock.mark

    def count(clock: ceilings.Clock) -> None:
        nonlocal marks
        marks += 1
        mark(clock)

    batches: list[int] = []
    cross_entropy = F.cross_entropy

    def note(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        batches.append(len(labels))
        return cross_entropy(logits, labels, **options)

    monkeypatch.setattr(ceilings.Clock, "mark", count)
    monkeypatch.setattr(F, "cross_entropy", note)
    options = [*SMALL[:4], "--copy-mib", "1", *FEW, "--set", "train.batch_size=100"]
    report = tmp_path / "r.json"
    assert main([*options, "--config", str(config_file), "--report", str(report)]) == 0
    # 256 images make two full batches of 100, so the requested five steps take three epochs.
    assert batches == [100] * 6
    assert marks == 2 * 61 + 6, "61 for a product, 61 for a copy and one per step"


def test_spread_of_a_worked_example() -> None:
    spread = ceilings.spread_of([5, 1, 4, 2, 3, 10, 9, 8, 7, 6, 11])
    assert (spread.count, spread.min, spread.p10, spread.median) == (11, 1, 2, 6)
    assert (spread.p90, spread.max) == (10, 11)


def test_clock_leaves_out_intervals_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 1.5, 1.75, 9.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    clock = ceilings.Clock(torch.device("cpu"))
    for _ in range(5):
        clock.mark()
    spread = clock.intervals_ms(after=1, count=2)
    assert (spread.count, spread.min, spread.max) == (2, 250, 500)


def nvidia_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_driver_is_queried_for_this_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, 'echo "$@" > "$0.asked"; echo "580.1, 1755, 1980, 700.00"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert ceilings.driver_facts("GPU-42") == {
        "driver": "580.1",
        "sm_clock_mhz": "1755",
        "largest_sm_clock_mhz": "1980",
        "power_limit_w": "700.00",
    }
    asked = (tmp_path / "nvidia-smi.asked").read_text()
    assert "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.limit " in asked
    assert "--id=GPU-42" in asked


@pytest.mark.parametrize("script", ["exit 9", "echo no devices", None])
def test_unavailable_driver_facts_are_unknown(
    script: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if script is not None:
        nvidia_smi(tmp_path, script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert set(ceilings.driver_facts("GPU-42").values()) == {"unknown"}


def test_machine_without_a_gpu_is_reported_in_one_line(
    config_file: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    report = tmp_path / "r.json"
    error = refused(main, "--config", config_file, "--report", report)
    assert error.startswith(f"--device cuda: torch {torch.__version__} sees no GPU here; ")
    assert not report.exists()


@pytest.mark.parametrize(
    ("options", "explanation"),
    [
        pytest.param(["--steps", "0"], "a whole number of at least 1, got '0'", id="no_steps"),
        pytest.param(["--matmul-size", "x"], "expected a whole number of at least 1", id="word"),
        pytest.param(["--set", "train.lr=-1"], "--set: train.lr: must be > 0", id="override"),
        pytest.param(["--config", "absent.yaml"], "absent.yaml: cannot be read", id="absent"),
        pytest.param(["--config", "x/tiny.yaml"], "--config: two files are named tiny", id="twice"),
        pytest.param(
            ["--set", "train.batch_size=257"], "train.batch_size: must be at most 256", id="batch"
        ),
    ],
)
def test_bad_option_is_reported_in_one_line(
    config_file: Path, tmp_path: Path, refused: Refused, options: list[str], explanation: str
) -> None:
    report = tmp_path / "r.json"
    given = [*SMALL, *FEW, "--config", config_file, "--report", report, *options]
    assert explanation in refused(main, *given)
    assert not report.exists()


def test_model_too_large_for_memory_is_reported_in_one_line(
    config_file: Path, tmp_path: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(loop, "fit", fit)
    report = tmp_path / "r.json"
    error = refused(main, *SMALL, *FEW, "--config", config_file, "--report", report)
    assert error == (
        f"{config_file}: does not fit in this GPU's memory; try --set train.batch_size=4"
    )
    assert not report.exists()


def test_loss_that_is_not_finite_exits_1(
    config_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(F, "cross_entropy", lambda logits, *_, **__: logits.sum() * math.nan)
    report = tmp_path / "r.json"
    given = [*SMALL, *FEW, "--config", str(config_file), "--report", str(report)]
    assert main(given) == 1
    assert capsys.readouterr().err.startswith("step 1: loss nan")
    assert not report.exists()
