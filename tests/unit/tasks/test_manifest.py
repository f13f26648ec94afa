import hashlib
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.evidence import inputs, manifest
from tasks.evidence.manifest import Manifest
from tasks.project import ROOT
from tests.repository import nox, outside_of_sessions


def read(root: Path, session: str) -> Manifest:
    return manifest.read(manifest.file_of(session, root / "artifacts" / "manifests"))


def test_every_run_writes_a_manifest_however_it_ends(sample_sessions: Path) -> None:
    ends = {
        "passes": ("passed", None),
        "fails": ("failed", "a command failed: Returned code 7"),
        "skips": ("skipped", "nothing to do here"),
        "errs": ("failed", "no verdict in artifacts"),
        "breaks": ("failed", "KeyError: 'a mistake'"),
        "parts(a, b)": ("passed", None),
        "stops": ("failed", "exit code 2 uv.lock: nothing to judge"),
    }
    ran = nox("-s", *ends, cwd=sample_sessions, PYTHONHASHSEED="7", TZ="UTC")
    assert ran.returncode == 2, "the exit code of the session that aborts the run"
    runs = {session: read(sample_sessions, session) for session in ends}
    assert {name: (run.result, run.reason) for name, run in runs.items()} == ends
    assert all(run.session == name and run.tiers == ["pr"] for name, run in runs.items())
    names = sorted(file.name for file in (sample_sessions / "artifacts" / "manifests").iterdir())
    assert "parts-a-b.json" in names
    assert len(names) == len(ends), "no temporary files are left"
    check_passed_run(runs["passes"], sample_sessions)


def check_passed_run(run: Manifest, root: Path) -> None:
    called, ran = run.commands
    assert called == "nox -s passes"
    assert ran.startswith("ANSWER=42 ")
    assert shlex.split(ran)[-4:] == ["-c", "pass", "src", "--home=~/x"]
    assert run.variables["PYTHONHASHSEED"] == "7"
    assert run.variables["TZ"] == "UTC"
    assert run.inputs is not None
    module = (root / "src" / "gates" / "__init__.py").read_bytes()
    assert run.inputs["src/gates/__init__.py"] == hashlib.sha256(module).hexdigest()
    assert "README.md" not in run.inputs
    assert run.seconds > 0
    assert str(root) not in manifest.file_of("passes", root / "artifacts" / "manifests").read_text()


def test_interrupted_run_leaves_a_manifest_and_a_killed_run_none(
    sample_sessions: Path, tmp_path: Path
) -> None:
    reached = tmp_path / "reached"
    os.mkfifo(reached)
    # Ignore Ctrl-C: CPython can lose the exit code of a child that exits at the same moment.
    code = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "open(sys.argv[1], 'w').write('here'); time.sleep(60)"
    )
    # A shell script starts background commands like this, with SIGINT ignored.
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-m", "nox"]
    command += ["-s", "run-python", "--", code, str(reached)]
    for number, code_of_nox in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        with subprocess.Popen(
            command,
            cwd=sample_sessions,
            env=outside_of_sessions(),
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert reached.read_text() == "here"
            os.killpg(process.pid, number)
            assert process.wait() == code_of_nox
        if number == signal.SIGINT:
            run = read(sample_sessions, "run-python")
            assert (run.result, run.reason) == ("failed", "interrupted")
    # The interrupted run's manifest must not be mistaken for the killed run's.
    assert list((sample_sessions / "artifacts" / "manifests").iterdir()) == []


@pytest.mark.parametrize(("session", "code"), [("passes", 0), ("fails", 1), ("stops", 2)])
def test_unwritable_manifest_does_not_hide_the_result(
    session: str, code: int, sample_sessions: Path
) -> None:
    (sample_sessions / "artifacts").write_text("not a folder")
    ran = nox("-s", session, cwd=sample_sessions)
    assert ran.returncode == code
    assert "No manifest of this run: " in ran.stderr


def test_nested_session_writes_no_manifest(sample_sessions: Path) -> None:
    ran = nox("-s", "passes", cwd=sample_sessions, NOX_CURRENT_SESSION="unit")
    assert ran.returncode == 0
    assert not (sample_sessions / "artifacts").exists()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{ROOT}/src", "src"),
        (f"--config={ROOT}/configs/a.yaml", "--config=configs/a.yaml"),
        (f"cd {ROOT}", "cd ."),
        (f"{ROOT}-2/src", f"{ROOT}-2/src"),
        (f"/elsewhere{ROOT}/src", f"/elsewhere{ROOT}/src"),
        ("HOME/.cache", "~/.cache"),
        ("HOMELY/.cache", "HOMELY/.cache"),
    ],
)
def test_paths_are_relative_to_the_root_and_the_home(
    text: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = "/home of/somebody"
    monkeypatch.setenv("HOME", home)
    assert manifest.relative(text.replace("HOME", home)) == expected.replace("HOME", home)


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Manifest(session="a", tiers=[], result="passed", commands=["nox -s a"])
    file = manifest.write(run, tmp_path)

    def fail_fsync(descriptor: int) -> None:
        msg = f"no space left for {descriptor}"
        raise OSError(msg)

    monkeypatch.setattr(os, "fsync", fail_fsync)
    with pytest.raises(OSError, match="no space left"):
        manifest.write(replace(run, result="failed"), tmp_path)
    assert manifest.read(file).result == "passed"
    assert list(tmp_path.iterdir()) == [file]


def test_inputs_are_unknown_without_git(tmp_path: Path) -> None:
    assert inputs.digests(["."], tmp_path) is None
