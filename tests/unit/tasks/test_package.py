"""Real builds of the package: reproducible across machines, and complete."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from tasks.packaging import wheels
from tasks.packaging.wheels import Circumstances
from tasks.project import ROOT
from tests.history import History

TOOLS = Path(sys.prefix)  # this environment has hatchling

# Python imports this at startup; it sets the clock ten years ahead.
CLOCK = """\
import datetime, time
AHEAD = 10 * 365 * 86_400
now, now_ns, localtime, gmtime = time.time, time.time_ns, time.localtime, time.gmtime
time.time = lambda: now() + AHEAD
time.time_ns = lambda: now_ns() + AHEAD * 10**9
time.localtime = lambda seconds=None: localtime(time.time() if seconds is None else seconds)
time.gmtime = lambda seconds=None: gmtime(time.time() if seconds is None else seconds)
"""

PYPROJECT = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "own"
version = "1.2.3"
readme = { text = "# Own", content-type = "text/markdown" }
license = "MIT"
license-files = ["LICENSE"]
requires-python = ">=3.11,<4"

[tool.hatch.build]
dev-mode-dirs = [".."]
ignore-vcs = true

[tool.hatch.build.targets.wheel]
include = ["**/*"]
exclude = ["/.gitignore", "/LICENSE", "/PKG-INFO", "/pyproject.toml", "/hatch_build.py", "/made.py"]
sources = { "" = "own" }
"""
FILES = {
    "src/own/pyproject.toml": PYPROJECT,
    "src/own/LICENSE": "MIT\n",
    "src/own/__init__.py": "",
    "src/own/data/table.csv": "a,b\n1,2\n",
}

# Puts part of the build's surroundings into the package, as a generated _version.py might.
HOOK = """\
import os, pathlib, time
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        made = pathlib.Path(self.root, "made.py")
        made.write_text(f"{EXPRESSION}")
        build_data["force_include"][str(made)] = "made.py"
"""
HOOKED = PYPROJECT + "\n[tool.hatch.build.hooks.custom]\n"


@pytest.fixture
def history(tmp_path: Path) -> History:
    repository = History(tmp_path / "own project")
    repository.commit("feat: begin", FILES)
    return repository


def head(root: Path) -> str:
    return subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 - the one on PATH
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def built(root: Path, folder: Path, circumstances: Circumstances) -> dict[str, Path]:
    """Build a package from the last commit of `root`; return the files by suffix."""
    commit = head(root)
    clone = wheels.clone(commit, folder / "clone", circumstances, root)
    epoch = wheels.commit_time(commit, root)
    package = clone / "src" / ("own" if root != ROOT else "gates")
    files = wheels.build(TOOLS, package, folder / "dist", epoch, circumstances)
    return {file.suffix: file for file in files}


def differences(one: Mapping[str, Path], other: Mapping[str, Path]) -> list[str]:
    assert one.keys() == other.keys() == {".gz", ".whl"}
    return [line for key in one for line in wheels.differences(one[key], other[key])]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return built(ROOT, tmp_path_factory.mktemp("here"), wheels.HERE)


def circumstances_with(**variables: str) -> Circumstances:
    return Circumstances(variables={**wheels.HERE.variables, **variables})


@pytest.mark.parametrize(
    "circumstances",
    [
        pytest.param(wheels.HERE, id="path_only"),
        pytest.param(wheels.ELSEWHERE, id="everything_that_the_session_varies"),
        pytest.param(circumstances_with(LC_ALL="C", LANG="tr_TR.UTF-8"), id="locale"),
        pytest.param(circumstances_with(TZ="XXX+12"), id="time_zone"),
        pytest.param(Circumstances(umask=0o077), id="umask"),
        pytest.param(Circumstances(modified=86_400), id="file_times"),
        pytest.param(circumstances_with(PYTHONHASHSEED="42"), id="hash_seed"),
    ],
)
def test_build_is_reproducible_to_the_byte(
    circumstances: Circumstances, reference: Mapping[str, Path], tmp_path: Path
) -> None:
    other = built(ROOT, tmp_path / "a place with spaces and é", circumstances)
    assert differences(reference, other) == []


def test_build_is_reproducible_at_another_time(
    reference: Mapping[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(CLOCK)
    ahead = circumstances_with(PYTHONPATH=str(tmp_path / "clock"))
    year = [sys.executable, "-c", "import time; print(time.gmtime().tm_year - 10 >= 2026)"]
    ran = subprocess.run(
        year, env={**os.environ, **ahead.variables}, capture_output=True, text=True, check=True
    )
    assert ran.stdout == "True\n", "the clock must be ahead"
    assert differences(reference, built(ROOT, tmp_path, ahead)) == []


def test_wheel_built_from_the_sdist_is_identical(
    reference: Mapping[str, Path], tmp_path: Path
) -> None:
    unpacked = wheels.unpack(reference[".gz"], tmp_path / "unpacked")
    epoch = wheels.commit_time(head(ROOT))
    (wheel,) = wheels.build(TOOLS, unpacked, tmp_path / "dist", epoch, wheels.ELSEWHERE, ["wheel"])
    assert wheels.differences(reference[".whl"], wheel) == []


def test_archives_contain_what_is_committed(reference: Mapping[str, Path]) -> None:
    clone = reference[".whl"].parent.parent / "clone"
    assert wheels.problems_of_contents([*reference.values()], clone) == []


def test_every_file_has_the_time_of_the_commit(reference: Mapping[str, Path]) -> None:
    epoch = int(wheels.commit_time(head(ROOT)))
    with tarfile.open(reference[".gz"]) as sdist:
        assert {member.mtime for member in sdist} == {epoch}
    with zipfile.ZipFile(reference[".whl"]) as wheel:
        even = epoch - epoch % 2  # zip stores times in steps of two seconds
        expected = time.gmtime(even)[:6]
        assert {each.date_time for each in wheel.infolist()} == {expected}


def test_user_line_end_settings_do_not_affect_the_build(
    history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = built(history.root, tmp_path / "1", wheels.HERE)
    config = tmp_path / "gitconfig"
    config.write_text("[core]\n\tautocrlf = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    assert differences(one, built(history.root, tmp_path / "2", wheels.HERE)) == []


def test_uncommitted_changes_are_not_packaged(history: History, tmp_path: Path) -> None:
    one = built(history.root, tmp_path / "1", wheels.HERE)
    (history.root / "src" / "own" / "secret.py").write_text("TOKEN = 1\n")
    (history.root / "src" / "own" / "__init__.py").write_text("CHANGED = 1\n")
    assert differences(one, built(history.root, tmp_path / "2", wheels.HERE)) == []


@pytest.mark.parametrize(
    "expression",
    [
        pytest.param("{time.tzname}", id="time_zone"),
        pytest.param("{self.root}", id="path"),
        pytest.param("{os.stat('LICENSE').st_mtime}", id="file_times"),
        pytest.param("{hash('a')}", id="hash_seed"),
        pytest.param("{oct(os.stat('LICENSE').st_mode)}", id="umask"),
        pytest.param("{os.environ['LC_ALL']}", id="locale"),
    ],
)
def test_package_that_depends_on_its_surroundings_is_found(
    expression: str, history: History, tmp_path: Path
) -> None:
    hook = HOOK.replace("{EXPRESSION}", expression)
    history.commit(
        "feat: a hook", {"src/own/pyproject.toml": HOOKED, "src/own/hatch_build.py": hook}
    )
    one = built(history.root, tmp_path / "1", wheels.HERE)
    other = built(history.root, tmp_path / "2", wheels.ELSEWHERE)
    assert "own-1.2.3-py3-none-any.whl: own/made.py" in differences(one, other)


def test_archive_that_differs_only_in_compression_is_found(
    history: History, tmp_path: Path
) -> None:
    wheel = built(history.root, tmp_path, wheels.HERE)[".whl"]
    again = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(again, "w") as new:
        for each in old.infolist():
            contents = old.read(each)
            each.compress_type = zipfile.ZIP_STORED
            new.writestr(each, contents)
    assert wheels.differences(wheel, again) == [f"{wheel.name}: the archive's format"]
    assert wheels.differences(wheel, wheel) == []


def problems(history: History, folder: Path, change: Mapping[str, str | None]) -> list[str]:
    """Build a clone with an uncommitted `change`; return the problems found in the archives."""
    clone = wheels.clone(head(history.root), folder / "clone", wheels.HERE, history.root)
    for name, text in change.items():
        if text is None:
            (clone / name).unlink()
        else:
            (clone / name).write_text(text)
    package = clone / "src" / "own"
    files = wheels.build(TOOLS, package, folder / "dist", "1", wheels.HERE)
    shutil.copy(history.root / "src" / "own" / "pyproject.toml", package)
    return wheels.problems_of_contents(files, clone)


WHEEL, SDIST = "own-1.2.3-py3-none-any.whl", "own-1.2.3.tar.gz"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param({}, [], id="nothing"),
        pytest.param(
            {"src/own/stray.py": "x = 1\n"},
            [f"{SDIST}: also contains stray.py", f"{WHEEL}: also contains own/stray.py"],
            id="extra_file",
        ),
        pytest.param(
            {"src/own/data/table.csv": None},
            [
                f"{SDIST}: lacks data/table.csv",
                f"{WHEEL}: lacks own/data/table.csv",
            ],
            id="missing_file",
        ),
        pytest.param(
            {"src/own/pyproject.toml": PYPROJECT.replace(">=3.11,<4", ">=3.8")},
            [
                f"{SDIST}: its Requires-Python is >=3.8, but in pyproject.toml it is <4,>=3.11",
                f"{WHEEL}: its Requires-Python is >=3.8, but in pyproject.toml it is <4,>=3.11",
            ],
            id="metadata",
        ),
        pytest.param(
            {
                "src/own/pyproject.toml": PYPROJECT.replace(
                    'license-files = ["LICENSE"]', "license-files=[]"
                )
            },
            [f"{WHEEL}: lacks own-1.2.3.dist-info/licenses/LICENSE"],
            id="licence",
        ),
    ],
)
def test_archives_are_compared_with_the_commit(
    change: Mapping[str, str | None], found: list[str], history: History, tmp_path: Path
) -> None:
    assert sorted(problems(history, tmp_path, change)) == sorted(found)


def test_failed_build_is_reported_in_one_line_and_exits_2(
    history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = re.sub("readme = .*", 'readme = "NO.md"', PYPROJECT)
    history.commit("feat: no", {"src/own/pyproject.toml": without})
    with pytest.raises(SystemExit) as ended:
        built(history.root, tmp_path, wheels.HERE)
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("build: hatchling: ")
    assert message.count("\n") == 1
    assert "NO.md" in message


def test_unknown_commit_is_reported_in_one_line_and_exits_2(
    history: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        wheels.clone("0" * 40, tmp_path / "clone", wheels.HERE, history.root)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("build: git: fatal: ")
