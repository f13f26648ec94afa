import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from gates.__main__ import main
from gates.evaluation.policy import load_policy
from gates.verdicts.verdict import Outcome, read_verdict
from tests.judged import metric, pair, write_policy, written

Judge = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A candidate three points worse than its baseline, and a policy to judge it by."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    kinds = {"kind": np.array(["a", "b"] * 100)}
    for each, name in zip(pair(180, 0, 6, 14, subgroups=kinds), _NAMES, strict=True):
        written(each, tmp_path, name)
    rules = {"subgroups.columns": {"kind": ["a", "b"]}, "metrics": {"nll": metric("nll", 0.5)}}
    write_policy(tmp_path / "policy.yaml", rules)
    return tmp_path


_NAMES = ("candidate", "baseline")
_FILES = [f"--{name}={name}.parquet" for name in _NAMES]


@pytest.fixture
def judge(capsys: pytest.CaptureFixture[str]) -> Judge:
    def run(*options: str) -> tuple[int, str, str]:
        code: object = None
        try:
            code = main(["evaluate", "--policy", "policy.yaml", *options])
        except SystemExit as error:  # raised by argparse
            code = error.code
        printed = capsys.readouterr()
        return int(str(code)), printed.out, printed.err

    return run


def test_worse_candidate_fails_and_writes_report_and_plot(folder: Path, judge: Judge) -> None:
    code, out, err = judge(*_FILES, "--report", "v/verdict.json", "--plot", "v/verdict.svg")
    assert (code, err) == (1, "")
    assert out.startswith("evaluation: FAIL - accuracy 0.9300 -> 0.9000 (-0.0300) on 200")
    assert read_verdict(folder / "v" / "verdict.json").outcome is Outcome.FAIL
    assert (folder / "v" / "verdict.svg").read_text().startswith("<?xml")


def without_content_digest(file: Path) -> None:
    table = pq.read_table(file)
    kept = {k: v for k, v in table.schema.metadata.items() if k != b"content_digest"}
    pq.write_table(table.replace_schema_metadata(kept), file)


@pytest.mark.parametrize("name", _NAMES)
def test_predictions_without_a_content_digest_are_reported_as_unproved(
    folder: Path, judge: Judge, name: str
) -> None:
    without_content_digest(folder / f"{name}.parquet")
    _, out, _ = judge(*_FILES)
    assert f"unproved: no content_digest in {name}.parquet; later changes" in out
    if name == "candidate":
        _, out, _ = judge(_FILES[0], "--no-baseline", "first")
        assert "unproved: no content_digest in candidate.parquet" in out


# Every other command that writes a file, with each of its inputs given as the output.
@pytest.mark.parametrize(
    ("command", "read", "written"),
    [
        (["card", "--run", "run"], ["--verdict", "--settings"], "--output"),
        (["mlbom", "--run", "run"], ["--verdict", "--settings", "--sbom", "--wheel"], "--output"),
        (
            ["sbom", "--project=mine"],
            ["--lock", "--licences", "--settings", "--requirements"],
            "--output",
        ),
        (["audit"], ["--lock", "--settings", "--licences", "--base-lock"], "--report"),
        (["audit"], ["--lock", "--settings", "--licences", "--base-lock"], "--last-answer"),
        (["audit", "--record-licences"], ["--lock", "--settings"], "--licences"),
        (["promote", "--name=m", "--to=staging"], ["--verdict", "--policy"], "--report"),
        (["history", "--name=m"], ["--against"], "--export"),
    ],
)
def test_no_command_overwrites_its_input(
    command: list[str],
    read: list[str],
    written: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (folder / "run").mkdir()
    (folder / "data").mkdir()
    for option in read:
        (folder / "read").write_bytes(b"the user's")
        given = [f"{each}={'read' if each == option else 'absent'}" for each in read]
        assert main([*command, *given, f"{written}=./read"]) == 2
        assert "read: would overwrite read, which is an input" in capsys.readouterr().err
        assert (folder / "read").read_bytes() == b"the user's"


@pytest.mark.parametrize("name", ["checkpoint.pt", "provenance.json", "config.yaml"])
def test_a_card_does_not_overwrite_another_file_of_its_run(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "run").mkdir()
    (folder / "run" / name).write_bytes(b"the run's")
    given = ["--verdict=absent", "--settings=absent", f"--output=run/{name}"]
    assert main(["card", "--run=run", *given]) == 2
    assert "would overwrite" in capsys.readouterr().err
    assert (folder / "run" / name).read_bytes() == b"the run's"


@pytest.mark.parametrize(("margin", "code"), [("0.02", 1), ("0.0299", 1), ("0.03", 3), ("0.2", 0)])
def test_margin_option_overrides_the_policy(judge: Judge, margin: str, code: int) -> None:
    assert judge(*_FILES, "--fail-if-worse-than", margin)[0] == code


def test_first_release_needs_no_baseline(judge: Judge) -> None:
    code, out, _ = judge(_FILES[0], "--no-baseline", "first release")
    assert code == 0
    assert "no baseline: first release" in out


def test_same_model_is_refused_unless_allowed(judge: Judge) -> None:
    same_model = (_FILES[0], "--baseline=candidate.parquet")
    assert judge(*same_model)[0] == 2
    code, out, _ = judge(*same_model, "--allow-same-model", "--fail-if-worse-than", "0.05")
    assert code == 0, out


@pytest.mark.parametrize(
    ("options", "explanation"),
    [
        ([], "the following arguments are required: --candidate"),
        ([_FILES[0]], "one of the arguments --baseline --no-baseline is required"),
        ([*_FILES, "--no-baseline", "x"], "not allowed with argument --baseline"),
        ([_FILES[0], "--no-baseline", " "], "--no-baseline: say why"),
        ([_FILES[0], "--baseline", ""], "the address of a model or its predictions is empty"),
        ([_FILES[0], "--baseline", "absent"], "absent: no such file"),
        ([_FILES[0], "--baseline", "memory://absent"], "memory://absent: cannot be read"),
        ([*_FILES, "--fail-if-worse-than", "2"], "for two percentage points write 0.02"),
        ([*_FILES, "--fail-if-worse-than", "nan"], "must be a fraction"),
        ([*_FILES, "--fail-if-worse-than", "x\ny"], "invalid float value"),
        ([*_FILES, "--unknown\n"], "unrecognized arguments: --unknown"),
        ([*_FILES, "--policy", "absent.yaml"], "absent.yaml: cannot be read"),
        ([*_FILES, "--policy", "baseline.parquet"], "baseline.parquet: not valid YAML"),
        ([*_FILES, "--report", "candidate.parquet"], "would overwrite"),
        ([*_FILES, "--report", "./policy.yaml"], "would overwrite"),
        ([*_FILES, "--plot", "baseline.parquet"], "would overwrite"),
        ([*_FILES, "--report", "new", "--plot", "./new"], "new, which is another output"),
        ([*_FILES, "--report", "/proc/v.json"], "/proc/v.json: cannot be written"),
        ([*_FILES, "--plot", "policy.yaml/v.svg"], "cannot be written"),
    ],
)
def test_wrong_usage_is_reported_in_one_line_and_changes_no_file(
    folder: Path, judge: Judge, options: list[str], explanation: str
) -> None:
    before = {path: path.read_bytes() for path in folder.iterdir()}
    code, out, err = judge(*options)
    assert (code, out) == (2, "")
    assert explanation in err
    assert err.count("\n") == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_no_verdict_is_shown_if_the_summary_cannot_be_written(
    folder: Path, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder / "absent" / "summary.md"))
    code, out, err = judge(*_FILES, "--fail-if-worse-than", "0.2", "--report", "v.json")
    assert (code, out) == (2, "")
    assert "cannot be written" in err
    assert not (folder / "v.json").exists()


def test_on_github_each_finding_that_did_not_pass_is_annotated(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert "\n::error title=evaluation%3A accuracy%2C overall::worse by" in judge(*_FILES)[1]
    assert not judge(*_FILES, "--fail-if-worse-than", "0.2")[1].endswith("\n\n")


def test_interrupt_is_reported(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gates.evaluation.comparison.compare", interrupted)
    assert judge(*_FILES) == (130, "", "interrupted\n")


def test_out_of_memory_is_reported_in_one_line(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("gates.evaluation.comparison.compare", exhausted)
    code, _, err = judge(*_FILES)
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("options", [["--help"], ["evaluate", "--help"], ["evaluate", "--typo"]])
def test_help_imports_nothing_slow(options: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "gates", *options]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == (2 if "--typo" in options else 0)
    imported = set(re.findall(r"^import time:.*\| +([\w.]+)$", done.stderr, re.MULTILINE))
    assert "argparse" in imported
    heavy = ("numpy", "pyarrow", "scipy", "matplotlib", "torch", "pydantic", "fsspec", "mlflow")
    assert not imported & set(heavy)


# ---- damage


def mutations(content: bytes, seed: int) -> Iterator[bytes]:
    """Yield copies of `content` with bytes flipped, replaced, deleted, repeated or cut off."""
    rng = random.Random(seed)  # noqa: S311 - reproducible on purpose
    while True:
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 1, 1, 2, 8])):
            start = rng.randrange(len(damaged)) if damaged else 0
            end = min(len(damaged), start + rng.choice([1, 4, 64]))
            match rng.randrange(6):
                case 0 if damaged:
                    damaged[start] ^= 1 << rng.randrange(8)
                case 1:
                    damaged[start:end] = rng.randbytes(end - start)
                case 2:
                    del damaged[start:end]
                case 3:
                    damaged[start:start] = damaged[start:end]
                case 4 if rng.random() < 0.2:
                    del damaged[start:]
                case _ if damaged:
                    # Parquet keeps lengths and types in the footer, near the end.
                    damaged[-rng.randrange(1, min(2000, len(damaged)) + 1)] = rng.randrange(256)
        if damaged != content:
            yield bytes(damaged)


@pytest.mark.parametrize(
    ("name", "count"), [("candidate.parquet", 350), ("baseline.parquet", 350), ("policy.yaml", 300)]
)
def test_damaged_file_never_passes_or_prints_a_traceback(
    folder: Path, judge: Judge, name: str, count: int
) -> None:
    file = folder / name
    sound = json.dumps(json.loads(file.read_text()), indent=1).encode() if count == 300 else b""
    sound = sound or file.read_bytes()
    rules, codes = load_policy(folder / "policy.yaml").evaluation, []
    for damaged, _ in zip(mutations(sound, seed=count), range(count), strict=False):
        file.write_bytes(damaged)
        code, out, err = judge(*_FILES)
        codes.append(code)
        if code == 1 and name != "policy.yaml":
            # The damage changed no value, so the verdict is the same.
            assert out.startswith("evaluation: FAIL - accuracy 0.9300 -> 0.9000 (-0.0300)")
        elif code == 2:
            assert (out, err.count("\n")) == ("", 1)
        else:
            # Still a valid policy, but with another number, such as a margin of 0.92.
            assert name == "policy.yaml"
            assert code == 1 or load_policy(file).evaluation != rules
    assert codes.count(2) > count / 2
