"""CHECK_INPUTS=1: which reads of a session are reported and which are allowed."""

from pathlib import Path

import pytest

from tasks.evidence import inputs
from tasks.evidence.observer import sitecustomize as observer
from tests.repository import commit, nox

# This session declares src; each one declares noxfile.py, tasks, pyproject.toml and uv.lock.
DECLARED_OR_NOT_TRACKED = """
import os
for name in ("src/gates/__init__.py", "pyproject.toml", "data/ignored.csv", "untracked.md"):
    open(name).close()
open("LICENSE", "a").close()
os.stat("README.md")
"""

# Each entry reads a different file in a different way.
WAYS = {
    "LICENSE": "open('LICENSE')",
    "README.md": "os.open('src/../README.md', os.O_RDONLY)",
    "CHANGELOG.md": "pathlib.Path('CHANGELOG.md').read_bytes()",
    "SECURITY.md": "shutil.copyfile('SECURITY.md', '/dev/null')",
    ".gitignore": "subprocess.run([sys.executable, '-c', 'open(\".gitignore\")'])",
    "CONTRIBUTING.md": "os.fork() or os._exit(open('CONTRIBUTING.md').close() or 0); os.wait()",
    "elsewhere.py": "sys.path.insert(0, '.'); import elsewhere",
}
READ_IN_EVERY_WAY = "import os, pathlib, shutil, subprocess, sys\n" + "\n".join(WAYS.values())


def run_checked(root: Path, argument: str, session: str = "run-python") -> tuple[int, str]:
    variables = {"CHECK_INPUTS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    ran = nox("-s", session, "--", argument, cwd=root, **variables)
    return ran.returncode, ran.stderr


def test_reads_of_declared_or_untracked_files_are_allowed(sample_sessions: Path) -> None:
    (sample_sessions / "data").mkdir()
    (sample_sessions / "data" / "ignored.csv").write_text("")
    (sample_sessions / "untracked.md").write_text("")
    code, stderr = run_checked(sample_sessions, DECLARED_OR_NOT_TRACKED)
    assert code == 0, stderr
    assert "The inputs of run-python cover every file that it read" in stderr


def test_any_read_outside_the_inputs_fails_the_session(sample_sessions: Path) -> None:
    (sample_sessions / "elsewhere.py").write_text("")
    commit(cwd=sample_sessions)
    # The first run reads elsewhere.py; the second reads its bytecode and stats the source.
    for _ in range(2):
        code, stderr = run_checked(sample_sessions, READ_IN_EVERY_WAY)
        assert code == 1
        assert f"reads {', '.join(sorted(WAYS))}, which its inputs do not cover" in stderr


def test_read_in_the_nox_process_counts(sample_sessions: Path) -> None:
    code, stderr = run_checked(sample_sessions, "README.md", session="reads-in-nox")
    assert (code, "reads README.md, which" in stderr) == (1, True)


def test_failing_session_reports_its_stray_reads_too(sample_sessions: Path) -> None:
    code, stderr = run_checked(sample_sessions, "open('README.md'); raise SystemExit(7)")
    assert (code, "reads README.md, which" in stderr) == (1, True)


def test_reads_are_observed_only_on_request() -> None:
    assert inputs.variables_of_observed({"PATH": ""}) == {}
    watched = inputs.variables_of_observed({observer.LOG: "/log"})
    assert watched == {"PYTHONPATH": observer.FOLDER}


@pytest.mark.parametrize(
    ("inputs_of_session", "file", "expected"),
    [
        (["."], "a/b.py", True),
        (["a"], "a/b.py", True),
        (["a/"], "a/b.py", True),
        (["a/b.py"], "a/b.py", True),
        (["a/b"], "a/b.py", False),
        ([], "a/b.py", False),
    ],
)
def test_input_covers_itself_and_its_contents(
    inputs_of_session: list[str], file: str, *, expected: bool
) -> None:
    assert inputs.covers(inputs_of_session, file) is expected


def test_observer_logs_a_file_once_and_ignores_non_paths(tmp_path: Path) -> None:
    # Called, not installed: an audit hook cannot be removed from this process.
    file = observer.FOLDER + "/__init__.py"
    for arguments in [(file, "r", 0), (file, "r", 0), (3, "r", 0), (object(), "r", 0), ()]:
        observer._log = str(tmp_path)  # noqa: SLF001
        observer._record("open", arguments)  # noqa: SLF001
    observer.stop()
    observer._record("open", (__file__, "r", 0))  # noqa: SLF001
    (log,) = tmp_path.iterdir()
    assert log.read_bytes() == file.encode() + b"\0"
