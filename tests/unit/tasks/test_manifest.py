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


def test_every_run_leaves_a_manifest_however_it_ends(own_sessions: Path) -> None:
    ends = {
        "passes": ("passed", None),
        "fails": ("failed", "a command failed: Returned code 7"),
        "skips": ("skipped", "nothing to do here"),
        "errs": ("failed", "no verdict in artifacts"),
        "breaks": ("failed", "KeyError: 'a mistake'"),
        "parts(a, b)": ("passed", None),
        "stops": ("failed", "exit code 2 uv.lock: nothing to judge"),
    }
    ran = nox("-s", *ends, cwd=own_sessions, PYTHONHASHSEED="7", TZ="UTC")
    assert ran.returncode == 2, "that of the session that stops everything"
    runs = {session: read(own_sessions, session) for session in ends}
    assert {name: (run.result, run.reason) for name, run in runs.items()} == ends
    assert all(run.session == name and run.tiers == ["pr"] for name, run in runs.items())
    names = sorted(file.name for file in (own_sessions / "artifacts" / "manifests").iterdir())
    assert "parts-a-b.json" in names
    assert len(names) == len(ends), "and nothing half-written"
    check_what_a_passed_run_holds(runs["passes"], own_sessions)


def check_what_a_passed_run_holds(run: Manifest, root: Path) -> None:
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


def test_a_run_that_is_interrupted_leaves_a_manifest_and_a_killed_one_none(
    own_sessions: Path, tmp_path: Path
) -> None:
    reached = tmp_path / "reached"
    os.mkfifo(reached)
    # It ignores Ctrl-C, as CPython can lose the exit code of a child that ends at the same moment.
    code = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN);"
        "open(sys.argv[1], 'w').write('here'); time.sleep(60)"
    )
    # As a script starts it in the background.
    command = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-m", "nox"]
    command += ["-s", "python-of", "--", code, str(reached)]
    for number, code_of_nox in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        with subprocess.Popen(
            command,
            cwd=own_sessions,
            env=outside_of_sessions(),
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert reached.read_text() == "here"
            os.killpg(process.pid, number)
            assert process.wait() == code_of_nox
        if number == signal.SIGINT:
            run = read(own_sessions, "python-of")
            assert (run.result, run.reason) == ("failed", "interrupted")
    # What the interrupted run had left must not pass for the killed one's.
    assert list((own_sessions / "artifacts" / "manifests").iterdir()) == []


@pytest.mark.parametrize(("session", "code"), [("passes", 0), ("fails", 1), ("stops", 2)])
def test_a_manifest_that_cannot_be_written_does_not_hide_the_result(
    session: str, code: int, own_sessions: Path
) -> None:
    (own_sessions / "artifacts").write_text("not a folder")
    ran = nox("-s", session, cwd=own_sessions)
    assert ran.returncode == code
    assert "No manifest of this run: " in ran.stderr


def test_a_session_inside_of_another_is_part_of_that_one(own_sessions: Path) -> None:
    ran = nox("-s", "passes", cwd=own_sessions, NOX_CURRENT_SESSION="unit")
    assert ran.returncode == 0
    assert not (own_sessions / "artifacts").exists()


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

    def full(descriptor: int) -> None:
        msg = f"no space left for {descriptor}"
        raise OSError(msg)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        manifest.write(replace(run, result="failed"), tmp_path)
    assert manifest.read(file).result == "passed"
    assert list(tmp_path.iterdir()) == [file]


def test_without_git_the_inputs_are_not_known(tmp_path: Path) -> None:
    assert inputs.digests(["."], tmp_path) is None
