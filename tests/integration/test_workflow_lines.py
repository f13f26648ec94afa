"""The commands in pr.yml do the same on a runner as on a laptop, and `nox -s parity` agrees."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.environments import uv
from tasks.project import ROOT
from tests import repository

GITHUB = ROOT / ".github"
JOBS: dict[str, Any] = YAML(typ="safe").load(GITHUB / "workflows" / "pr.yml")["jobs"]
ACTION: Any = YAML(typ="safe").load(GITHUB / "actions" / "setup" / "action.yml")
(SETUP,) = (step["run"] for step in ACTION["runs"]["steps"] if "run" in step)
SESSION = "workflows"  # the quickest session of the tier that has an environment
BASE = "github.event.pull_request.base.sha || github.event.merge_group.base_sha"
IMAGE = "vars.PLAN_IMAGE"
TITLE = "github.event.pull_request.title"
FROM_FORK = (
    "github.event_name == 'pull_request' && "
    "github.event.pull_request.head.repo.full_name != github.repository"
)
LABELS = "join(github.event.pull_request.labels.*.name, ',')"


@dataclass(frozen=True)
class Machine:
    """A checkout and the environment in which its owner runs commands.

    Args:
        root: the checkout.
        variables: the environment.
        by: prefix that its owner types before `nox`.
    """

    root: Path
    variables: Mapping[str, str]
    by: str = ""

    def run_job(self, job: str, **expressions: str) -> subprocess.CompletedProcess[str]:
        """Run a job's only command with its expressions replaced, in a shell like GitHub's."""
        (step,) = (step for step in JOBS[job]["steps"] if "run" in step)
        step_env = {name: fill_expressions(text, expressions) for name, text in step["env"].items()}
        ran = self.shell(self.by + step["run"], **step_env)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran

    def shell(self, line: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-e", "-c", line],  # noqa: S607 - the bash on PATH, as on a runner
            cwd=self.root,
            env={**self.variables, **more},
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # without a terminal
            capture_output=True,
            text=True,
            check=False,
        )


def fill_expressions(text: str, expressions: Mapping[str, str]) -> str:
    values = {name.replace("_", "."): value for name, value in expressions.items()}
    values |= {BASE: values.get("base", ""), FROM_FORK: "false"}
    values |= dict.fromkeys((IMAGE, LABELS, TITLE), "")
    return re.sub(r"\$\{\{ (.+?) \}\}", lambda found: values[found[1]], text)


@pytest.fixture
def laptop(tmp_path: Path) -> Machine:
    """A working copy with output of earlier runs, on a branch that changed a workflow."""
    root = repository.copy(tmp_path / "a laptop")
    workflow = root / ".github" / "workflows" / "data.yml"
    workflow.write_text(workflow.read_text() + "# changed\n")
    repository.commit(cwd=root)
    (root / "outputs").mkdir()
    (root / "outputs" / "metrics.jsonl").write_text("")
    # A test runs in a session; remove the variables that the session added to the user's.
    inside = ("UV", "VIRTUAL_ENV", "CI")
    variables = uv.without_user_choices(repository.outside_of_sessions())
    kept = {name: variables[name] for name in variables.keys() - inside}
    return Machine(root, kept, by="uvx ")


@pytest.fixture
def runner(laptop: Machine, tmp_path: Path) -> Machine:
    """A clean clone elsewhere, with the environment of a hosted runner."""
    home, root = tmp_path / "home", tmp_path / "work" / "project"
    home.mkdir()
    cloned = repository.git("clone", "--quiet", str(laptop.root), str(root), cwd=tmp_path)
    assert cloned.returncode == 0, cloned.stderr
    # An empty home, except for caches that would only be downloaded or built again.
    kept = {"UV_CACHE_DIR": ".cache/uv", "PYENV_ROOT": ".pyenv"}
    caches = {name: os.environ.get(name, str(Path.home() / kept[name])) for name in kept}
    own = {"CI": "true", "GITHUB_ACTIONS": "true", "HOME": str(home), "GITHUB_OUTPUT": "output"}
    variables = {name: value for name, value in laptop.variables.items() if name != "TERM"}
    programs = tmp_path / "programs"  # where setup-uv would put uv
    programs.mkdir()
    (programs / "uv").symlink_to(repository.real_uv())
    path = {"PATH": f"{programs}{os.pathsep}{variables['PATH']}", "RUNNER_TEMP": str(tmp_path)}
    machine = Machine(root, {**variables, **caches, **own, **path})
    done = machine.shell(SETUP)
    assert done.returncode == 0, done.stderr
    assert (programs / "nox").is_symlink()
    return machine


def test_a_pull_request_runs_the_same_everywhere_and_a_planted_difference_is_named(
    laptop: Machine, runner: Machine, tmp_path: Path
) -> None:
    base = repository.git("rev-parse", "HEAD^", cwd=laptop.root).stdout.strip()
    for machine in (laptop, runner):
        machine.run_job("plan", base=base)
        machine.run_job("session", matrix_session=SESSION)
    outputs = dict(line.split("=", 1) for line in (runner.root / "output").read_text().splitlines())
    matrix = json.loads(outputs["matrix"])
    planned = {job["session"] for job in matrix["include"]}
    assert SESSION in planned
    assert "smoke" not in planned, "its inputs include no workflow"

    check_that_green_finds_the_results(
        runner, [job for job in matrix["include"] if job["session"] == SESSION]
    )
    uploaded = tmp_path / "downloaded" / SESSION
    shutil.copytree(runner.root / "artifacts", uploaded)
    compare = f"uvx nox -s parity -- artifacts/manifests '{uploaded}'"
    equal = laptop.shell(compare)
    assert equal.returncode == 0, equal.stdout + equal.stderr
    assert f"The same in both: plan, {SESSION}" in equal.stderr

    with (runner.root / "noxfile.py").open("a") as noxfile:
        noxfile.write("# planted\n")
    runner.run_job("plan", base=base)
    shutil.copytree(runner.root / "artifacts", uploaded, dirs_exist_ok=True)
    different = laptop.shell(compare)
    assert (different.returncode, different.stdout) == (1, "plan: noxfile.py is not the same\n")


def check_that_green_finds_the_results(runner: Machine, jobs: list[dict[str, Any]]) -> None:
    """Check that `green` finds the results once a job's artifacts are downloaded, not before."""
    plan = {"result": "success", "outputs": {"matrix": json.dumps({"include": jobs})}}
    needs = json.dumps({"plan": plan, "session": {"result": "success", "outputs": {}}})
    (step,) = (step for step in JOBS["green"]["steps"] if "run" in step)
    results = runner.root / step["env"]["RESULTS"]
    before = runner.shell(step["run"], NEEDS=needs, RESULTS=str(results))
    assert before.returncode == 1
    assert f"{SESSION}: was planned but did not pass (no manifest)" in before.stderr
    shutil.copytree(runner.root / "artifacts", results / SESSION)
    after = runner.shell(step["run"], NEEDS=needs, RESULTS=str(results))
    shutil.rmtree(results)
    assert after.returncode == 0, after.stderr
