"""The sessions of a release: `build`, with planted defects that it must find, and the notes."""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gates.evidence import provenance
from tasks.project import WORKSPACE, members
from tests import repository
from tests.repository import git, nox

HOOK = """\
import pathlib
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        made = pathlib.Path(self.root, "made.py")
        made.write_text(f"BUILT_IN = {self.root!r}")
        build_data["force_include"][str(made)] = "made.py"
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository.copy(tmp_path_factory.mktemp("release") / "a checkout")


def build(root: Path) -> subprocess.CompletedProcess[str]:
    return nox("-s", "build", cwd=root, CI="true", NO_COLOR="1")


def test_build_writes_the_packages_and_their_digests(checkout: Path) -> None:
    (checkout / "dist").mkdir()
    (checkout / "dist" / "my_project-0.0.9.tar.gz").write_text("from an earlier build")
    ran = build(checkout)
    assert ran.returncode == 0, ran.stderr
    assert "and one from the source distributions are identical" in ran.stderr
    assert "epoch 3/3: loss" in ran.stdout + ran.stderr, "the wheel must be used to train"
    files = sorted((checkout / "dist").iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"] * len(members(checkout))
    sums = (checkout / "artifacts" / "SHA256SUMS").read_text().splitlines()
    assert sums == [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  dist/{file.name}" for file in files
    ]
    shutil.rmtree(checkout / "dist")
    assert build(checkout).returncode == 0
    repeated_sums = (checkout / "artifacts" / "SHA256SUMS").read_text().splitlines()
    assert repeated_sums == sums, "another pair of clones must give the same digests"


def test_sha256sum_can_check_the_digests(checkout: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "artifacts/SHA256SUMS"],  # noqa: S607 - on PATH
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def with_build_hook(text: str) -> str:
    return f"{text}\n[tool.hatch.build.hooks.custom]\n"


def without_schemas(text: str) -> str:
    excluded = "\nexclude = ["
    assert excluded in text
    return text.replace(excluded, f'{excluded}"*.json", ')


def with_unlocked_dependency(text: str) -> str:
    assert "\ndependencies = [\n" in text
    return text.replace(
        '  "fsspec>=2026.1",\n', '  "fsspec>=2026.1",\n  "not-in-the-lock>=1",\n', 1
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        pytest.param(
            with_build_hook, r"\.whl: gates/made\.py\n(.*\n)*.*not identical", id="uses_its_path"
        ),
        pytest.param(without_schemas, r"lacks gates/verdict\.schema\.json", id="missing_file"),
        pytest.param(
            with_unlocked_dependency,
            r"The package `gates` requires `not-in-the-lock>=1`, but it's not installed",
            id="unlocked_dependency",
        ),
    ],
)
def test_build_finds_a_planted_defect(
    change: Callable[[str], str], found: str, checkout: Path
) -> None:
    pyproject = checkout / "src" / "gates" / "pyproject.toml"
    before = pyproject.read_text()
    sums = (checkout / "artifacts" / "SHA256SUMS").read_text()
    pyproject.write_text(change(before))
    if change is with_build_hook:
        (pyproject.parent / "hatch_build.py").write_text(HOOK)
    repository.commit(cwd=checkout)
    try:
        ran = build(checkout)
    finally:
        git("reset", "--quiet", "--hard", "HEAD~1", cwd=checkout)
    assert ran.returncode == 1
    assert re.search(found, ran.stdout + ran.stderr), ran.stdout + ran.stderr
    assert (checkout / "artifacts" / "SHA256SUMS").read_text() == sums, (
        "a failed build must not change the digests"
    )


def test_the_notes_name_the_version_of_each_model(checkout: Path) -> None:
    project = WORKSPACE.default_project
    run = checkout / "outputs" / "run"
    run.mkdir(parents=True)
    (run / "checkpoint.pt").write_bytes(b"weights")
    (checkout / project.latest).symlink_to("run/checkpoint.pt")
    now = datetime(2026, 11, 24, tzinfo=UTC)
    source = provenance.SourceState(commit="c" * 40, diff_digest=None, lock_digest=None)
    training = provenance.TrainingRun(
        run_id="run",
        config={},
        data_digest="d" * 64,
        determinism={},
        attempts=[provenance.Attempt(first_step=0, started=now, source=source, runtime={})],
        finished=now,
        library="pytorch",
    )
    document = provenance.statement(run / "checkpoint.pt", training)
    provenance.write(document, run / "provenance.json")
    ran = nox("-s", "changelog", cwd=checkout, CI="")
    assert ran.returncode == 0, ran.stderr
    version = f"cccccccc-{hashlib.sha256(b'weights').hexdigest()[:12]}"
    assert f"{version} was not trained from" in ran.stderr
    assert f"| `{version}` |" in (checkout / "artifacts" / "release-notes.md").read_text()
