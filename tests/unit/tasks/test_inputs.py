"""CHECK_INPUTS=1: which reads of a session are found, and which do not count."""

from pathlib import Path

import pytest

from tasks.evidence import inputs
from tasks.evidence.observer import sitecustomize as observer
from tests.repository import commit, nox

# The session declares src, and noxfile.py, tasks, pyproject.toml and uv.lock as every one does.
DECLARED_OR_NOT_TRACKED = """
import os
for name in ("src/gates/__init__.py", "pyproject.toml", "data/ignored.csv", "untracked.md"):
    open(name).close()
open("LICENSE", "a").close()
os.stat("README.md")
"""

# Each reads another file in another way.
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


def checked(root: Path, argument: str, session: str = "python-of") -> tuple[int, str]:
    variables = {"CHECK_INPUTS": "1", "PYTHONDONTWRITEBYTECODE": ""}
    ran = nox("-s", session, "--", argument, cwd=root, **variables)
    return ran.returncode, ran.stderr


def test_reads_that_are_declared_or_of_no_tracked_file_do_not_count(own_sessions: Path) -> None:
    (own_sessions / "data").mkdir()
    (own_sessions / "data" / "ignored.csv").write_text("")
    (own_sessions / "untracked.md").write_text("")
    returned, told = checked(own_sessions, DECLARED_OR_NOT_TRACKED)
    assert returned == 0, told
    assert "The inputs of python-of cover every file that it read" in told


def test_every_way_of_reading_outside_of_the_inputs_fails_the_session(own_sessions: Path) -> None:
    (own_sessions / "elsewhere.py").write_text("")
    commit(cwd=own_sessions)
    # At first elsewhere.py is read; then what was compiled from it, and its date.
    for _ in range(2):
        returned, told = checked(own_sessions, READ_IN_EVERY_WAY)
        assert returned == 1
        assert f"reads {', '.join(sorted(WAYS))}, which its inputs do not name" in told


def test_a_read_of_nox_itself_counts(own_sessions: Path) -> None:
    returned, told = checked(own_sessions, "README.md", session="reads-itself")
    assert (returned, "reads README.md, which" in told) == (1, True)


def test_a_session_that_fails_tells_its_stray_reads_too(own_sessions: Path) -> None:
    returned, told = checked(own_sessions, "open('README.md'); raise SystemExit(7)")
    assert (returned, "reads README.md, which" in told) == (1, True)


def test_nothing_is_watched_unless_asked_for() -> None:
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
def test_an_input_covers_itself_and_what_is_in_it(
    inputs_of_session: list[str], file: str, *, expected: bool
) -> None:
    assert inputs.covers(inputs_of_session, file) is expected


def test_the_observer_notes_a_file_once_and_survives_what_is_no_path(tmp_path: Path) -> None:
    # Not installed: an audit hook would stay in this process for ever.
    file = observer.FOLDER + "/__init__.py"
    for arguments in [(file, "r", 0), (file, "r", 0), (3, "r", 0), (object(), "r", 0), ()]:
        observer._log = str(tmp_path)  # noqa: SLF001
        observer._note("open", arguments)  # noqa: SLF001
    observer.stop()
    observer._note("open", (__file__, "r", 0))  # noqa: SLF001
    (log,) = tmp_path.iterdir()
    assert log.read_bytes() == file.encode() + b"\0"
