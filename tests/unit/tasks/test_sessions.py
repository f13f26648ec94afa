"""The sessions as a user runs them, with `nox -s NAME`."""

import inspect
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import nox as nox_
import pytest

from tasks import catalogue
from tasks.environments import environment
from tasks.images import container
from tasks.project import ROOT, WORKSPACE
from tasks.sessions import tests as suites
from tests.repository import real_uv
from tests.stand_in_images import served

runpy.run_path(str(ROOT / "noxfile.py"))  # declares every session

DEFAULT = WORKSPACE.default_project.package
SMOKE = f"smoke({DEFAULT})"
SUITE = [f"tests/smoke/{DEFAULT}"]
A_TEST = Path(__file__).relative_to(ROOT)
CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"


def nox(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nox", *arguments],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_plan_prints_only_json_to_stdout() -> None:
    ran = nox("-s", "plan", "--", "pr")
    jobs = json.loads(ran.stdout)["include"]
    smoke = next(job for job in jobs if job["session"] == SMOKE)
    assert smoke == {
        "session": SMOKE,
        "slug": f"smoke-{DEFAULT}",
        "runner": "cpu",
        "timeout_minutes": 10,
        "labels": WORKSPACE.runners["cpu"],
        "digest": "",
    }
    # GitHub allows no comma in a cache's name and few special characters in an artifact's name.
    slugs = [job["slug"] for job in jobs]
    assert all(re.fullmatch(r"[\w.-]+", slug) for slug in slugs)
    assert len(slugs) == len({*slugs})


def test_plan_leaves_out_sessions_that_a_workflow_runs_itself() -> None:
    ran = nox("-s", "plan", "--", "release", "--without", "train", "--without", "evaluate")
    assert [job["session"] for job in json.loads(ran.stdout)["include"]] == [
        job.session
        for job in catalogue.plan("release")
        if not job.session.startswith(("train(", "evaluate("))
    ]


def test_plan_on_a_fork_is_empty_unless_enabled_and_says_so(
    tmp_path: Path,
) -> None:
    summary = tmp_path / "summary.md"
    ran = nox("-s", "plan", "--", "nightly", RUNS_HERE="false", GITHUB_STEP_SUMMARY=str(summary))
    assert json.loads(ran.stdout) == {"include": []}
    message = (
        "plan: nightly is off because this is a fork; to turn it on, set the repository variable "
    )
    assert f"{message}RUN_ON_FORK to true" in ran.stderr
    assert summary.read_text().startswith(message)
    on = nox("-s", "plan", "--", "nightly", RUNS_HERE="true", GITHUB_STEP_SUMMARY=str(summary))
    assert json.loads(on.stdout)["include"]
    assert "is off" not in on.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "lnt"], "nox: there is no session lnt; did you mean lint?"),
        (["-s", "lint", "smok"], "nox: there is no session smok; did you mean smoke?"),
        (["--session", "promote_", "--", "-s", "x"], "did you mean promote?"),
    ],
)
def test_misspelt_session_is_reported_with_the_nearest_name(
    arguments: list[str], message: str
) -> None:
    ran = nox(*arguments)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("name", ["matrix(any, py3.12)", "matrix", "zzz"])
def test_known_or_unrecognisable_session_name_is_left_to_nox(name: str) -> None:
    catalogue.check_asked(["-s", name, "--", "-s", "lnt"])


def test_leaving_out_an_unplanned_session_is_reported_in_one_line_and_exits_2() -> None:
    ran = nox("-s", "plan", "--", "pr", "--without", "train")
    assert ran.returncode == 2
    assert "plan: --without train: the tier pr has no such job" in ran.stderr


def test_plan_writes_its_outputs_for_github(tmp_path: Path) -> None:
    output = tmp_path / "output"
    ran = nox("-s", "plan", "--", "nightly", GITHUB_OUTPUT=str(output))
    given = outputs(output)
    assert given["matrix"] == json.loads(ran.stdout)
    assert given["contained"] == {"include": []}
    assert given["projects"]["include"][0] == {"project": DEFAULT, "outputs": "outputs"}


def outputs(file: Path) -> dict[str, Any]:
    """Return a step's outputs as GitHub reads them."""
    lines = (line.split("=", 1) for line in file.read_text().splitlines())
    return {name: json.loads(value) for name, value in lines}


def test_plan_outputs_the_jobs_in_the_image_separately(tmp_path: Path) -> None:
    output, digest = tmp_path / "output", "a" * 64
    with served() as images:
        images.digests[f"team/image:{container.tag('cpu')}"] = f"sha256:{digest}"
        image = f"{images.host}/team/image"
        ran = nox("-s", "plan", "--", "pr", GITHUB_OUTPUT=str(output), PLAN_IMAGE=image)
    given = outputs(output)
    inside, outside = given["contained"]["include"], given["matrix"]["include"]
    assert {job["session"]: job["digest"] for job in inside} == {
        job.session: digest for job in catalogue.plan("pr") if job.in_image
    }
    assert {job["digest"] for job in outside} == {""}
    all_jobs = json.loads(ran.stdout)["include"]
    assert sorted(all_jobs, key=str) == sorted([*inside, *outside], key=str)
    ending = f" in {image}:{container.tag('cpu')}@sha256:{digest}"
    (line,) = [each for each in ran.stderr.splitlines() if each.endswith(ending)]
    assert SMOKE in line


@pytest.mark.parametrize("arguments", [["--", "weekly"], ["--"], ["--", "pr", "nightly"]])
def test_plan_without_a_single_tier_is_reported_in_one_line_and_exits_2(
    arguments: list[str],
) -> None:
    ran = nox("-s", "plan", *arguments)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.splitlines()[-1].startswith("plan: name one tier, as in: nox -s plan -- pr")


def test_old_python_is_reported_in_one_line_and_exits_2() -> None:
    code = "import sys; sys.version_info = (3, 10, 1); import tasks"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert len(ran.stderr.splitlines()) == 1
    assert "3.11 or newer" in ran.stderr


@pytest.fixture
def _bare_machine(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with git, uv and no Python but the one that runs this test."""
    assert checkout.exists()
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "uv").symlink_to(real_uv())
    git = shutil.which("git")
    assert git is not None
    (programs / "git").symlink_to(git)
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    for name in ("PYENV_ROOT", "XDG_DATA_HOME", "UV_PYTHON_INSTALL_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_bare_machine")
@pytest.mark.parametrize(
    ("ci", "code", "status"),
    [pytest.param("", 0, "skipped", id="laptop"), pytest.param("true", 1, "aborted", id="ci")],
)
def test_cell_skips_without_its_interpreter_but_fails_in_ci(
    checkout: Path, ci: str, code: int, status: str
) -> None:
    cell = next(cell for cell in WORKSPACE.cells if cell.python != CURRENT)
    ran = nox("-s", f"matrix({DEFAULT}, {cell})", cwd=checkout, CI=ci)
    assert ran.returncode == code, ran.stderr
    assert status in ran.stderr
    assert f"Python {cell.python} is not installed and uv could not install it" in ran.stderr


@pytest.mark.parametrize(
    ("posargs", "ran"),
    [
        pytest.param([], [*SUITE], id="all"),
        pytest.param(["-x", "-k", "lock"], ["-x", "-k", "lock", *SUITE], id="options_only"),
        pytest.param(["tests/unit/gates"], ["tests/unit/gates"], id="another_folder"),
        pytest.param([f"{A_TEST}::test_it", "-x"], [f"{A_TEST}::test_it", "-x"], id="a_test"),
        pytest.param(["-k", "src"], ["-k", "src", *SUITE], id="a_folder_without_tests"),
    ],
)
def test_pytest_options_do_not_widen_what_a_session_tests(
    posargs: list[str], ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    monkeypatch.setattr(environment, "prepare_default_cell", Path)
    monkeypatch.setattr(environment, "run", lambda *command: commands.append(command[2:]))
    session = cast("nox_.Session", SimpleNamespace(posargs=posargs))
    inspect.unwrap(suites.smoke)(session, WORKSPACE.default_project)
    assert commands == [("pytest", *ran)]
