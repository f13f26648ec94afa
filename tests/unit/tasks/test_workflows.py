"""The rules for .github: no finding in this repository's files, and one for each planted defect."""

import json
import re
import runpy
import shlex
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import catalogue
from tasks.affected import green
from tasks.catalogue import CATALOGUE, TIERS
from tasks.environments import environment, uv
from tasks.github import job_names, workflow_rules
from tasks.project import ROOT
from tasks.sessions import workflows
from tests.repository import git
from tests.unit.tasks.test_sessions import nox, outputs

runpy.run_path(str(ROOT / "noxfile.py"))  # declares every session

KNOWN = workflow_rules.read_catalogue(ROOT, sessions=CATALOGUE, tiers=TIERS)
WORKFLOWS = sorted(file.name for file in (ROOT / ".github" / "workflows").iterdir())
CHECKOUT = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1"
PR, NIGHTLY, RELEASE = "workflows/pr.yml", "workflows/nightly.yml", "workflows/release.yml"
ACTION = "actions/setup/action.yml"
# The step of the action, from its dash to the next one's.
NOX_FROM_LOCK = re.findall(
    r"    - name: Nox from the lock\n(?: {6,}.*\n)+",
    (ROOT / ".github" / ACTION).read_text(encoding="utf-8"),
)[0]
PLANNED_IMAGE = workflow_rules.PLANNED_IMAGE
GUARD = workflow_rules.GUARD
ENDS_OLD_RUNS = (
    "${{ github.event.action == 'synchronize' || github.event.changes.base.ref.from != '' }}"
)
MATRIX = "matrix: ${{ steps.plan.outputs.matrix }}"
REGISTER = 'nox -s "register($PROJECT)" -- --run-id release'
PLAN = 'nox -s plan -- pr --since "$BASE"'
# The finding of a job in the image that is not like the job on the runner.
DIFFERS = "job contained differs from"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that contains only a copy of this repository's .github."""
    shutil.copytree(ROOT / ".github", tmp_path / ".github")
    return tmp_path


Plant = Callable[[str, str, str], int]


@pytest.fixture
def plant(root: Path) -> Plant:
    """Replace the first `old` in a file with `new`; return the line number where it starts."""

    def put(name: str, old: str, new: str) -> int:
        file = root / ".github" / name
        before, found, after = file.read_text().partition(old)
        assert found, f"{name} lacks {old!r}"
        file.write_text(before + new + after)
        return before.count("\n") + 1

    return put


def text_of(name: str) -> str:
    return (ROOT / ".github" / name).read_text(encoding="utf-8")


def found_in(root: Path) -> list[str]:
    return [str(finding) for finding in workflow_rules.check(root, KNOWN)]


def test_our_own_workflows_are_clean() -> None:
    assert found_in(ROOT) == []


# (file, old text, new text, line of the finding relative to the old text, finding)
DEFECTS = [
    pytest.param(
        RELEASE,
        REGISTER,
        "pytest",
        0,
        "runs 'pytest', which is not one session; make it a session and run nox -s NAME",
        id="a stray run",
    ),
    pytest.param(
        RELEASE,
        REGISTER,
        "nox -s register; curl example.invalid",
        0,
        "runs 'nox -s register; curl example.invalid', which is not one session;",
        id="a run after a session",
    ),
    pytest.param(
        RELEASE,
        REGISTER,
        "|\n          nox -s register\n          pytest",
        0,
        "runs 'nox -s register' and more lines, which is not one session;",
        id="two lines",
    ),
    pytest.param(
        RELEASE,
        REGISTER,
        "nox -s registry",
        0,
        "there is no session registry; nox --list shows all sessions",
        id="a session that does not exist",
    ),
    pytest.param(
        RELEASE,
        REGISTER,
        "nox -t weekly",
        0,
        "there is no tier 'weekly';",
        id="an unknown tag",
    ),
    pytest.param(
        PR,
        "plan -- pr",
        "plan -- data",
        0,
        'does not plan this file\'s tier; write plan -- pr (pr also takes --since "$BASE")',
        id="a plan of a smaller tier",
    ),
    pytest.param(
        PR,
        PLAN,
        "nox -s plan",
        0,
        "does not plan this file's tier;",
        id="a plan of nothing",
    ),
    pytest.param(
        PR,
        '"$BASE"',
        "HEAD",
        0,
        "does not plan this file's tier;",
        id="a plan from a base that is typed",
    ),
    pytest.param(
        PR,
        "plan -- pr",
        "plan -- pr --without unit",
        0,
        "unit is left out of the plan but no job runs it; remove --without unit",
        id="a plan without a session, and then more",
    ),
    pytest.param(
        NIGHTLY,
        "plan -- nightly",
        "plan -- nightly --without train",
        0,
        "train is left out of the plan but no job runs it; remove --without train",
        id="a plan without a session that runs nowhere",
    ),
    pytest.param(
        PR,
        "- id: plan",
        "- id: other",
        -6,
        "job plan: the step with id: plan must run nox -s plan; see pr.yml",
        id="a plan that is handed over by no step",
    ),
    pytest.param(
        PR,
        f"run: {PLAN}",
        "run: nox -s lint",
        -7,
        "job plan: the step with id: plan must run nox -s plan;",
        id="another session as the plan",
    ),
    pytest.param(
        PR,
        MATRIX,
        "matrix: '{\"include\": []}'",
        -2,
        f"job plan: its outputs must be those of the plan; write {MATRIX}, contained: ",
        id="a plan that is typed",
    ),
    pytest.param(
        NIGHTLY,
        "      contained: ${{ steps.plan.outputs.contained }}\n",
        "",
        -1,
        "job plan: its outputs must be those of the plan;",
        id="half of a plan",
    ),
    pytest.param(
        PR,
        "${{ matrix.session }}\n      - uses",
        "${{ github.head_ref }}\n      - uses",
        0,
        "SESSION differs from its value in pyproject.toml; write ${{ matrix",
        id="a session from elsewhere",
    ),
    pytest.param(
        PR,
        '- run: nox -s "$SESSION"',
        '- if: github.actor != 0\n        run: nox -s "$SESSION"',
        0,
        "a session that its condition skips counts as passed; remove if: and let the plan decide",
        id="a session with a condition",
    ),
    pytest.param(
        PR,
        "permissions: {}",
        "permissions: {}\ndefaults:\n  run:\n    shell: pytest {0}",
        1,
        "changes the shell or the folder of every step; remove defaults:",
        id="another shell by default",
    ),
    pytest.param(
        PR,
        "    timeout-minutes: 5\n",
        "    timeout-minutes: 5\n    defaults:\n      run:\n        working-directory: tests\n",
        1,
        "changes the shell or the folder of every step;",
        id="another folder for a job's steps",
    ),
    pytest.param(
        PR,
        "run: nox -s green",
        "run: nox -s green\n        working-directory: tests",
        1,
        "sessions run in the noxfile's folder; remove working-directory:",
        id="another folder with another noxfile",
    ),
    pytest.param(
        PR,
        'run: nox -s "$SESSION"',
        'run: nox -s "$SESSION" -- --help',
        0,
        "a planned session takes no arguments; remove -- --help",
        id="arguments for every session",
    ),
    pytest.param(
        PR,
        "permissions: {}",
        "permissions: {}\n\nenv:\n  UV_DEFAULT_INDEX: https://example.invalid",
        2,
        "sets variables for every step; move env: to the step that needs them",
        id="variables for every job",
    ),
    pytest.param(
        PR,
        "    timeout-minutes: 5\n",
        "    timeout-minutes: 5\n    env:\n      BASH_ENV: tests/other.sh\n",
        1,
        "sets variables for every step;",
        id="variables for every step of a job",
    ),
    pytest.param(
        PR,
        "          RESULTS: results",
        "          RESULTS: results\n          PATH: /elsewhere",
        1,
        "PATH is not declared; if a session needs it, add to [tool.tasks.workflows.variables] in "
        'pyproject.toml: PATH = "/elsewhere"',
        id="another program named uvx",
    ),
    pytest.param(
        ACTION,
        "      with:\n        version",
        "      env: ${{ fromJSON(inputs.cache) }}\n      with:\n        version",
        0,
        "it is unknown which variables this expression sets; list each variable",
        id="variables as an expression",
    ),
    pytest.param(
        PR,
        "BASE: ${{ github.event.pull_request.base.sha || github.event.merge_group.base_sha }}",
        "BASE: HEAD~1",
        0,
        "BASE differs from its value in pyproject.toml; write ${{ github.event",
        id="another base to compare with",
    ),
    pytest.param(
        NIGHTLY,
        'CHECK_INPUTS: "1"',
        'CHECK_INPUTS: "0"',
        0,
        "CHECK_INPUTS differs from its value in pyproject.toml; write 1",
        id="declared inputs that are not checked",
    ),
    pytest.param(
        PR,
        "          fetch-depth: 0",
        "          ref: main\n          fetch-depth: 0",
        0,
        "ref: can fetch something other than what this run checks; remove it",
        id="another commit than the pull request's",
    ),
    pytest.param(
        PR,
        "          path: results",
        "          run-id: 1\n          path: results",
        0,
        "run-id: can fetch something other than what this run checks; remove it",
        id="results of another run",
    ),
    pytest.param(
        PR,
        "runs-on: ${{ matrix.labels }}",
        "runs-on: windows-2025",
        0,
        "job session must take runs-on from the plan; write runs-on: ${{ matrix.labels }}",
        id="another machine than the planned one",
    ),
    pytest.param(
        PR,
        "timeout-minutes: ${{ matrix.timeout_minutes }}",
        "timeout-minutes: 360",
        0,
        "job session must take timeout-minutes from the plan; write timeout-minutes: ${{ matrix.",
        id="another time-out than the planned one",
    ),
    pytest.param(
        ACTION,
        "  steps:\n",
        "  steps:\n    - run: pip install uv\n      shell: bash\n",
        1,
        "must run exactly this script, so that Nox comes from the lock: 'uv venv",
        id="a stray run in our action",
    ),
    pytest.param(
        PR,
        f"{CHECKOUT} # v7.0.1",
        CHECKOUT,
        0,
        "actions/checkout lacks its version; add it as a comment after the commit: # v1.2.3",
        id="a commit without its version",
    ),
    pytest.param(
        PR,
        f"{CHECKOUT} # v7.0.1",
        f"{CHECKOUT} # newest",
        0,
        "actions/checkout lacks its version;",
        id="a comment that is not a version",
    ),
    pytest.param(
        PR,
        "$/.github/actions/setup",
        "docker://alpine:3",
        0,
        "docker://alpine:3 is not allowed; once you have reviewed it, add it to "
        '[tool.tasks.workflows] in pyproject.toml: actions = [..., "docker://alpine:3"]',
        id="an image as a step",
    ),
    pytest.param(
        PR,
        "$/.github/actions/setup",
        "example/run-anything@3d3c42e5aac5ba805825da76410c181273ba90b1 # v1.0.0",
        0,
        "example/run-anything is not allowed;",
        id="an action that nobody has reviewed",
    ),
    pytest.param(
        PR,
        "$/.github/actions/setup",
        "$/docker/setup",
        0,
        "$/docker/setup is not allowed;",
        id="an action of our own in a folder that is not read",
    ),
    pytest.param(
        ACTION,
        "using: composite",
        "using: node24",
        0,
        "only the steps of composite actions can be checked; write using: composite",
        id="an action of our own that is a program",
    ),
    pytest.param(
        PR,
        PLANNED_IMAGE,
        "${{ matrix.image }}",
        0,
        f"job contained does not use the planned image; write container: {PLANNED_IMAGE}",
        id="a container named by the plan",
    ),
    pytest.param(
        PR,
        f"container: {PLANNED_IMAGE}",
        f"container:\n      image: {PLANNED_IMAGE}",
        0,
        "job contained does not use the planned image;",
        id="the planned image with more than its name",
    ),
    pytest.param(
        PR,
        f"    container: {PLANNED_IMAGE}\n",
        "",
        -8,
        "job contained does not use the planned image;",
        id="no image for what is planned for it",
    ),
    pytest.param(
        PR,
        "permissions: {}",
        "permissions: read-all",
        0,
        "all jobs of the workflow share permissions; write permissions: {} at the top",
        id="permissions for all jobs",
    ),
    pytest.param(
        PR,
        "    permissions:\n      contents: read # to check out\n",
        "",
        -4,
        "job plan does not list its permissions; add permissions: contents: read",
        id="a job that does not list its permissions",
    ),
    pytest.param(
        PR,
        "    permissions:\n      contents: read # to check out\n",
        "    permissions: write-all\n",
        0,
        "job plan does not list its permissions;",
        id="a job with all permissions",
    ),
    pytest.param(
        PR,
        "    permissions:\n      contents: read",
        "    permissions:\n      contents: write",
        0,
        "job plan has a write permission and runs on pull requests; allow only read",
        id="a pull request that may write",
    ),
    pytest.param(
        PR,
        f"  cancel-in-progress: {ENDS_OLD_RUNS}\n",
        "",
        -3,
        "outdated runs continue; add concurrency: with group: and cancel-in-progress:",
        id="outdated runs are not mentioned",
    ),
    pytest.param(
        PR,
        ENDS_OLD_RUNS,
        "false",
        0,
        "only a push or a new base may cancel the old run; write ${{ github.event.action == ",
        id="outdated runs continue",
    ),
    pytest.param(
        PR,
        ENDS_OLD_RUNS,
        "${{ github.event_name == 'pull_request' }}",
        0,
        "only a push or a new base may cancel the old run;",
        id="a label cancels the running checks",
    ),
    pytest.param(
        RELEASE,
        "cancel-in-progress: false",
        "cancel-in-progress: true",
        0,
        "only a push or a new base may cancel the old run; write false",
        id="half a release",
    ),
    pytest.param(
        PR,
        "group: ${{ github.workflow }}-${{ github.event.pull_request.number || github.ref }}",
        "group: all",
        0,
        "runs must be grouped by pull request or ref; write group: ${{ github.workflow }}-",
        id="a pull request that cancels another's run",
    ),
    pytest.param(
        PR,
        "    timeout-minutes: 5\n",
        "",
        -3,
        "job plan could hang for six hours; add timeout-minutes:",
        id="no time-out",
    ),
    pytest.param(
        NIGHTLY,
        f"    if: always() && {GUARD}",
        "    if: always()",
        0,
        "job green runs every night in every fork;",
        id="the last job on forks",
    ),
    pytest.param(
        PR,
        "          SESSION:",
        "          MLFLOW_TRACKING_PASSWORD: ${{ secrets.MLFLOW_TRACKING_PASSWORD }}\n"
        "          SESSION:",
        0,
        "job session reads a secret that forks do not have; add if:",
        id="a secret on forks",
    ),
    pytest.param(
        PR,
        "  merge_group:\n",
        "",
        -4,
        "the merge queue would wait forever; add the trigger merge_group:",
        id="no merge queue",
    ),
    pytest.param(
        PR,
        "  pull_request:\n",
        "  pull_request:\n    paths: [src]\n",
        1,
        "paths: could leave the required check waiting; remove it, as the plan selects",
        id="a path filter",
    ),
    pytest.param(
        PR,
        "  pull_request:\n",
        "  pull_request:\n    branches: [dev]\n",
        1,
        "branches: could leave the required check waiting;",
        id="pull requests to another branch only",
    ),
    pytest.param(
        PR,
        "  merge_group:\n",
        "  merge_group:\n    branches: [dev]\n",
        1,
        "branches: could leave the required check waiting;",
        id="the merge queue of another branch only",
    ),
    pytest.param(
        PR,
        "types: [opened, synchronize, reopened, labeled, edited]",
        "types: [labeled, edited]",
        0,
        "does not start when opened, synchronize, reopened; write types: [opened, synchronize,",
        id="no check of pushed commits",
    ),
    pytest.param(
        PR,
        "labeled, edited]",
        "labeled]",
        0,
        "does not start when edited; write types: [opened, synchronize, reopened, labeled, edited]",
        id="no check against another base",
    ),
    pytest.param(
        PR,
        "    types: [opened, synchronize, reopened, labeled, edited]\n",
        "",
        -2,
        "does not start when opened, synchronize, reopened, labeled, edited;",
        id="no event types",
    ),
    pytest.param(
        PR,
        "    timeout-minutes: 5\n",
        "    timeout-minutes: 5\n    continue-on-error: true\n",
        1,
        "a failure would count as success; remove continue-on-error:",
        id="a job that cannot fail",
    ),
    pytest.param(
        PR,
        "        env:\n",
        "        continue-on-error: true\n        env:\n",
        0,
        "a failure would count as success;",
        id="a step that cannot fail",
    ),
    pytest.param(
        PR,
        "fail-fast: false",
        "fail-fast: true",
        0,
        "job session: the first failure cancels the other sessions; add fail-fast: false",
        id="one failure cancels the others",
    ),
    pytest.param(
        PR,
        "matrix: ${{ fromJSON(needs.plan.outputs.matrix) }}",
        "matrix:\n        session: [lint]",
        0,
        "job session: the matrix must be an output of the plan; write matrix: ${{ fromJSON(",
        id="a matrix that is typed",
    ),
    pytest.param(
        PR,
        "matrix: ${{ fromJSON(needs.plan.outputs.contained) }}",
        "matrix: ${{ fromJSON(needs.plan.outputs.matrix) }}",
        0,
        "job contained: the matrix must be an output of the plan; write matrix: ${{ fromJSON(",
        id="the other job's matrix",
    ),
    pytest.param(
        PR,
        "needs: [plan, session, contained]",
        "needs: [session, contained]",
        0,
        "green does not depend on plan; add to its needs:",
        id="a job that green does not depend on",
    ),
    pytest.param(
        PR,
        "needs: [plan, session, contained]\n    if: always()\n",
        "needs: [plan, session, contained]\n",
        -2,
        "green could be skipped, for example when a job fails; write if: always()",
        id="a last job that is skipped",
    ),
    pytest.param(
        PR,
        "    if: always()\n    runs",
        "    if: always() || false\n    runs",
        0,
        "green could be skipped, for example when a job fails;",
        id="a last job that nearly always runs",
    ),
    pytest.param(
        PR,
        "    if: always()\n    runs",
        f"    if: always() && {GUARD}\n    runs",
        0,
        "green could be skipped, for example when a job fails;",
        id="a last job that a fork's pull request does not have",
    ),
    pytest.param(
        RELEASE,
        f"    if: always() && {GUARD}",
        f"    if: always() && {GUARD} && github.ref_type == 'tag'",
        0,
        "green could be skipped, for example when a job fails; write if: always() or if: always()",
        id="a last job with one more condition",
    ),
    pytest.param(
        PR,
        "          NEEDS: ${{ toJSON(needs) }}",
        "          NEEDS: '{}'",
        0,
        "NEEDS differs from its value in pyproject.toml;",
        id="a last job that does not get the results",
    ),
    pytest.param(
        PR,
        "    name: green",
        "    name: all",
        0,
        "pull requests require a check named green; write name: green",
        id="a required check with another name",
    ),
    pytest.param(
        NIGHTLY,
        "name: image",
        "name: green",
        0,
        "job image would report as the check green; give it another name:",
        id="another job with the required check's name",
    ),
    pytest.param(
        NIGHTLY,
        "    name: green (nightly)",
        "    name: green",
        0,
        "a manual run on a branch would report as a pull request's check green; give it",
        id="a second check with the required check's name",
    ),
    pytest.param(
        PR,
        f"          PLAN_FROM_FORK: {KNOWN.variables['PLAN_FROM_FORK']}\n",
        "",
        -3,
        "cannot keep a fork's pull request off self-hosted machines;",
        id="a plan that ignores whether a fork asks",
    ),
    pytest.param(
        PR,
        "          BASE: ${{ github.event.pull_request.base.sha || "
        "github.event.merge_group.base_sha }}\n",
        "",
        -2,
        "BASE is not set in this step; add env: BASE:",
        id="a variable that is not set",
    ),
    pytest.param(
        PR,
        "          path: results",
        "          path: elsewhere",
        1,
        "does not have the sessions' artifacts; download them to path: results in an earlier step",
        id="a last job without the sessions' artifacts",
    ),
    pytest.param(PR, "jobs:", "jobs: [", 2, "is not valid YAML (", id="invalid YAML"),
    pytest.param(PR, "name: pr", "name: p\0r", -1, "is not valid YAML (", id="a null character"),
    pytest.param(
        PR, "name: pr\n", "name: pr\nname: pr\n", 1, "is not valid YAML (", id="a key twice"
    ),
]


@pytest.mark.parametrize(("file", "old", "new", "offset", "finding"), DEFECTS)
def test_a_planted_defect_is_one_finding_with_its_line(  # noqa: PLR0913, PLR0917 - a row of the table
    root: Path, plant: Plant, file: str, old: str, new: str, offset: int, finding: str
) -> None:
    for other in (root / ".github").rglob("*.yml"):  # each takes a while to parse
        if other not in {root / ".github" / file, root / ".github" / PR}:
            other.unlink()
    line = plant(file, old, new)
    # A defect in only one of two equal jobs is another finding, which has another test.
    (found,) = (each for each in found_in(root) if DIFFERS not in each)
    assert found.startswith(f".github/{file}:{line + offset}: {finding}")


def test_a_schedule_on_forks_is_found_in_each_unguarded_job(root: Path, plant: Plant) -> None:
    plant(NIGHTLY, f"          RUNS_HERE: {KNOWN.variables['RUNS_HERE']}\n", "")
    advice = f"runs every night in every fork; add if: {GUARD}"
    found = [finding.split(": ", 1)[1] for finding in found_in(root)]
    assert found == [f"job {name} {advice}" for name in ("plan", "session", "contained")]


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param("github.event.repository.fork == true", id="forks_only"),
        pytest.param(f"{GUARD} || true", id="or"),
        pytest.param(f"{GUARD} && false || true", id="and_or"),
        pytest.param(f"true && !(true && {GUARD} && true)", id="negated"),
    ],
)
def test_a_condition_that_only_resembles_the_guard_is_not_one(root: Path, condition: str) -> None:
    file = root / ".github" / NIGHTLY
    file.write_text(file.read_text().replace(f"    if: {GUARD}", f"    if: {condition}"))
    advice = f"runs every night in every fork; add if: {GUARD}"
    found = [finding.split(": ", 1)[1] for finding in found_in(root)]
    assert found.pop(0).startswith("job image lacks its safeguard if;")
    assert found == [f"job image {advice}"]


@pytest.mark.parametrize(
    "condition", ["${{ !cancelled() }}", "always() && true", "false || Failure()"]
)
def test_a_job_that_runs_after_a_skipped_guarded_job_is_not_guarded(
    root: Path, plant: Plant, condition: str
) -> None:
    plant(NIGHTLY, "fromJSON(needs.plan.outputs.matrix).include[0] != null", condition)
    (found,) = found_in(root)
    assert "job session runs every night in every fork;" in found


def test_jobs_that_need_each_other_are_not_guarded(root: Path, plant: Plant) -> None:
    plant(NIGHTLY, "needs: plan\n    # GitHub", "needs: session\n    # GitHub")
    assert any("job session runs every night in every fork;" in each for each in found_in(root))


@pytest.mark.parametrize("name", [".github/zizmor.yml", ".github/actionlint.yaml"])
def test_a_file_that_can_hide_findings_is_found(root: Path, name: str) -> None:
    (root / name).write_text("rules: {}\n")
    advice = "this file can hide findings; delete it and fix what the tool then reports"
    assert found_in(root) == [f"{name}:1: {advice}"]


def test_a_file_that_is_not_utf_8_is_found(root: Path) -> None:
    (root / ".github" / "workflows" / "latin.yml").write_bytes(b"name: \xe9\n")
    (found,) = found_in(root)
    assert found.startswith(".github/workflows/latin.yml:1: is not valid YAML (")


def test_a_plan_for_the_image_without_the_job_that_runs_it_is_found(root: Path) -> None:
    file = root / ".github" / PR
    text = file.read_text()
    text = text.replace("      contained: ${{ steps.plan.outputs.contained }}\n", "")
    start = text.index("  # The same for sessions that can run in the image")
    file.write_text(text[:start] + text[text.index("  green:\n") :].replace(", contained]", "]"))
    (found,) = found_in(root)
    advice = "no job runs the sessions planned for the image; add contained, as in pr.yml"
    assert found.endswith(advice)


def test_a_job_in_the_image_with_other_steps_is_found(root: Path) -> None:
    file = root / ".github" / PR
    before, contained, after = file.read_text().partition("  contained:\n")
    file.write_text(before + contained + after.replace("fetch-depth: 0", "fetch-depth: 1", 1))
    (found,) = found_in(root)
    assert found.endswith(f"{DIFFERS} session; give both the same steps")


def test_a_job_in_the_image_with_other_permissions_is_found(root: Path) -> None:
    file = root / ".github" / PR
    before, contained, after = file.read_text().partition("  contained:\n")
    permissions = "      contents: read # to check out\n"
    more = f"{permissions}      packages: read # more\n"
    file.write_text(before + contained + after.replace(permissions, more, 1))
    (found,) = found_in(root)
    assert found.endswith(f"{DIFFERS} session; give both the same permissions")


def test_a_last_job_that_does_not_run_green_is_found(root: Path, plant: Plant) -> None:
    plant(PR, "run: nox -s green", "run: nox -s lint")
    (found,) = found_in(root)
    assert "run: nox -s green with env: NEEDS: ${{ toJSON(needs) }} is missing" in found


def test_a_workflow_without_the_last_job_is_found(root: Path) -> None:
    file = root / ".github" / PR
    file.write_text(file.read_text().partition("  green:\n")[0])
    (found,) = found_in(root)
    assert "no job green, so a skipped job goes unnoticed" in found


def test_a_second_workflow_for_pull_requests_is_found(root: Path) -> None:
    (root / ".github" / PR).rename(root / ".github" / "workflows" / "data.yml")
    found = [finding.split(": ", 1)[1] for finding in found_in(root)]

    assert found[0] == "only pr.yml checks pull requests; remove pull_request:"
    assert found[1].startswith("does not plan this file's tier; write plan -- data")


def test_a_workflow_without_a_plan_is_found(root: Path) -> None:
    text = text_of(PR)
    head, _, rest = text.partition("  plan:\n")
    alone = rest[rest.index("  green:\n") :].replace("[plan, session, contained]", "[]")
    (root / ".github" / PR).write_text(head + alone)
    (found,) = found_in(root)
    assert "no job plan, so no session is planned; add one, as in pr.yml" in found


def test_a_folder_without_workflows_is_found(tmp_path: Path) -> None:
    advice = "contains no workflow; to restore them, run git checkout .github"
    assert found_in(tmp_path) == [f".github/workflows:1: {advice}"]


def test_a_file_that_is_not_a_mapping_is_found(root: Path) -> None:
    (root / ".github" / "workflows" / "list.yaml").write_text("- 1\n")
    (found,) = found_in(root)
    assert found.startswith(".github/workflows/list.yaml:1: is neither a workflow nor an action;")


REUSABLE = "team/shared/.github/workflows/scan.yml"
CALL = f"""\

  scan:
    uses: {REUSABLE}@3d3c42e5aac5ba805825da76410c181273ba90b1 # v1.0.0
    permissions:
      contents: read # to check out
  green:
"""


def test_a_reusable_workflow_may_be_called_where_it_is_declared(root: Path, plant: Plant) -> None:
    line = plant(PR, "\n  green:\n", CALL)
    plant(PR, "needs: [plan, session, contained]", "needs: [plan, session, contained, scan]")
    (found,) = found_in(root)
    assert found.startswith(f".github/{PR}:{line + 2}: its steps are not checked here;")
    assert found.endswith(f'in pyproject.toml: reusable = [..., "{REUSABLE}"]')
    declared = replace(KNOWN, reusable=frozenset([REUSABLE]))
    assert workflow_rules.check(root, declared) == []


def test_green_must_depend_on_a_reusable_workflow_too(root: Path, plant: Plant) -> None:
    plant(PR, "\n  green:\n", CALL)
    declared = replace(KNOWN, reusable=frozenset([REUSABLE]))
    (found,) = workflow_rules.check(root, declared)
    assert found.text == "green does not depend on scan; add to its needs:"


def test_a_secret_may_be_read_where_it_is_declared(root: Path, plant: Plant) -> None:
    value = "${{ secrets.KAGGLE_KEY }}"
    plant(
        RELEASE,
        "          MLFLOW_TRACKING_URI",
        f"          KAGGLE_KEY: {value}\n          MLFLOW_TRACKING_URI",
    )
    (found,) = found_in(root)
    assert found.endswith(f'variables] in pyproject.toml: KAGGLE_KEY = "{value}"')
    declared = replace(KNOWN, variables={**KNOWN.variables, "KAGGLE_KEY": value})
    assert workflow_rules.check(root, declared) == []


PUSHED_TAG = "github.event_name == 'push' && github.ref_type == 'tag'"
STAGING = 'nox -s "promote($PROJECT)" -- --to staging'
READ = "      contents: read # to check out\n"

# (file, old text, new text, findings…)
LOST_SAFEGUARDS = [
    pytest.param(
        RELEASE,
        "    environment: pypi\n",
        "",
        "job publish lacks its safeguard environment; write environment: pypi",
        id="an upload without its environment",
    ),
    pytest.param(
        RELEASE,
        "    environment: registry\n",
        "    environment: {name: registry-reader}\n",
        "job registry lacks its safeguard environment; write environment: registry",
        id="a registry in another environment",
    ),
    pytest.param(
        RELEASE,
        "    runs-on: ${{ matrix.labels }}\n",
        "    environment: pypi\n    runs-on: ${{ matrix.labels }}\n",
        "job session lacks its safeguard environment; remove environment:",
        id="another job in the environment of the upload",
    ),
    pytest.param(
        RELEASE,
        f"        if: {PUSHED_TAG}\n        with",
        "        with",
        "job publish must use, in order: actions/download-artifact; "
        f"actions/attest if: {PUSHED_TAG}; pypa/gh-action-pypi-publish if: {PUSHED_TAG}",
        id="an attestation without a tag",
    ),
    pytest.param(
        RELEASE,
        f"        if: {PUSHED_TAG}\n\n",
        "        if: github.ref_type == 'tag'\n\n",
        "job publish must use, in order:",
        id="an upload that is started by hand",
    ),
    pytest.param(
        RELEASE,
        "    needs: [plan, model, notes, package, session, attest, registry]\n",
        "    needs: [plan, package]\n",
        "job publish lacks its safeguard needs; write needs: ['attest', 'model', ",
        id="an upload before the checks have passed",
    ),
    pytest.param(
        RELEASE,
        f"    if: {GUARD}\n    runs-on: ubuntu-24.04\n    timeout-minutes: 15",
        f"    if: always() && {GUARD}\n    runs-on: ubuntu-24.04\n    timeout-minutes: 15",
        f"job publish lacks its safeguard if; write if: {GUARD}",
        id="an upload although a job failed",
    ),
    pytest.param(
        RELEASE,
        READ,
        f"{READ}      id-token: write # more\n",
        "job plan lacks its safeguard permissions; allow write access only to nothing",
        id="another job that can publish",
    ),
    pytest.param(
        NIGHTLY,
        "packages: write",
        "actions: write",
        "job image lacks its safeguard permissions; allow write access only to packages",
        id="another permission than the declared one",
    ),
    pytest.param(
        RELEASE,
        STAGING,
        STAGING.replace("staging", "production"),
        f"job registry must run, in order: {REGISTER}; ",
        id="a model in production that nobody approved",
    ),
    pytest.param(
        RELEASE,
        "      - run: nox -s build\n",
        "      - run: nox -s lock -- --upgrade\n      - run: nox -s build\n",
        "job package must run, in order: nox -s build; nox -s publish",
        id="a lock that is renewed before the build",
    ),
    pytest.param(
        NIGHTLY,
        '      - run: nox -s "$SESSION"\n',
        '      - run: nox -s lock\n      - run: nox -s "$SESSION"\n',
        'job session must run, in order: nox -s "$SESSION"',
        id="a lock that is renewed before a session",
    ),
    pytest.param(
        PR,
        "      - id: plan\n",
        "      - run: nox -s lock\n      - id: plan\n",
        "job plan must run, in order: nox -s lock",
        id="a lock that is renewed before the plan",
    ),
    pytest.param(
        RELEASE,
        "artifact-ids: ${{ needs.package.outputs.dist }}",
        "artifact-ids: 12345",
        "is not an artifact of this run's jobs; write ${{ needs.JOB.outputs.NAME }}",
        id="files of another run",
    ),
    pytest.param(
        ACTION,
        NOX_FROM_LOCK,
        "",
        "must run exactly this script, so that Nox comes from the lock: 'uv venv",
        id="no Nox",
    ),
    pytest.param(
        ACTION,
        "--require-hashes --no-build ",
        "",
        "must run exactly this script, so that Nox comes from the lock: 'uv venv",
        id="Nox without hashes",
    ),
    pytest.param(
        ACTION,
        "  steps:\n",
        "  steps:\n    - run: nox -s lock -- --upgrade\n      shell: bash\n",
        "an action must not run a session; run it in a job",
        id="a lock that is renewed by our action",
    ),
    pytest.param(
        RELEASE,
        "          path: dist/\n          if-no-files-found: error",
        "          path: .\n          if-no-files-found: error",
        "job package may upload only dist/, and no hidden files",
        id="an upload of the checkout",
    ),
    pytest.param(
        RELEASE,
        "            outputs/\n",
        "            outputs/\n            ~/\n",
        "job model may upload only artifacts/ and outputs/, and no hidden files",
        id="an upload of the home folder",
    ),
    pytest.param(
        NIGHTLY,
        "          path: artifacts/\n",
        "          path: artifacts/\n          include-hidden-files: true\n",
        "job image may upload only artifacts/, and no hidden files",
        id="an upload of hidden files",
    ),
    pytest.param(
        RELEASE,
        "timeout-minutes: 120",
        "timeout-minutes: 4320",
        "job model has timeout-minutes 4320; write 1 to 120",
        id="a time-out of three days",
    ),
    pytest.param(
        RELEASE,
        "timeout-minutes: 40",
        "timeout-minutes: 0",
        "job package has timeout-minutes 0; write 1 to 120",
        id="a time-out of zero",
    ),
    pytest.param(
        RELEASE,
        '    tags: ["v*"]\n',
        '    tags: ["v*"]\n    branches: [main]\n',
        "only protected tags may start a push workflow;",
        id="a release of each push",
    ),
    pytest.param(
        RELEASE,
        '    tags: ["v*"]\n',
        '    tags: ["*"]\n',
        "only protected tags may start a push workflow;",
        id="a release of tags that anybody may move",
    ),
    pytest.param(
        PR,
        "    runs-on: ubuntu-24.04\n",
        "    runs-on: [self-hosted]\n",
        "job plan lacks its safeguard runs-on; write runs-on: ubuntu-24.04",
        id="a plan on a machine of our own",
    ),
    pytest.param(
        RELEASE,
        "      - uses: $/.github/actions/setup\n",
        "      - uses: $/.github/actions/setup\n        with:\n          cache: model\n",
        "a release must not use a cache; remove cache:",
        id="a release from a cache",
    ),
    pytest.param(
        NIGHTLY,
        "\n  image:\n    name: image",
        "\n  images:\n    name: image",
        "job image is missing; pyproject.toml declares it: [tool.tasks.workflows.jobs.",
        "job images is not declared; if you need it, add [tool.tasks.workflows.jobs.nightly.",
        "green does not depend on images; add to its needs:",
        id="a job that nobody declared",
    ),
]


@pytest.mark.parametrize("row", [pytest.param(each.values, id=each.id) for each in LOST_SAFEGUARDS])
def test_a_lost_safeguard_is_found(root: Path, plant: Plant, row: tuple[str, ...]) -> None:
    file, old, new, *expected = row
    plant(file, old, new)
    found = [each for each in found_in(root) if DIFFERS not in each]
    texts = [each.split(": ", 1)[1] for each in found]
    assert len(texts) == len(expected), texts
    assert all(any(text.startswith(each) for text in texts) for each in expected), texts


def test_a_reusable_workflow_must_not_write(root: Path, plant: Plant) -> None:
    plant(RELEASE, "\n  green:\n", CALL.replace("contents: read", "contents: write"))
    plant(RELEASE, "registry, publish]", "registry, publish, scan]")
    declared = replace(KNOWN, reusable=frozenset([REUSABLE]))
    (found,) = workflow_rules.check(root, declared)
    assert found.text.startswith("job scan has a write permission, but its steps are not checked")


SESSIONS = [f"--sessions={','.join(CATALOGUE)}", f"--tiers={','.join(TIERS)}"]


def test_the_command_prints_the_findings_and_exits_with_1(
    root: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(ROOT / "pyproject.toml", root)
    assert (workflow_rules.main(SESSIONS, root), capsys.readouterr().out) == (0, "")
    plant(RELEASE, REGISTER, "pytest")
    assert workflow_rules.main(SESSIONS, root) == 1
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        pytest.param("reusable = []", "reused = []", "reused: Extra inputs", id="unknown_key"),
        pytest.param("reusable = []", "", "reusable: Field required", id="missing_key"),
        pytest.param("reusable = []", "reusable = 1", "reusable: Input should be", id="no_list"),
        pytest.param('RESULTS = "results"', "RESULTS = 1", "variables.RESULTS: ", id="no_text"),
    ],
)
def test_invalid_settings_exit_with_2_and_a_line_for_the_mistake(
    old: str, new: str, message: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    (root / "pyproject.toml").write_text(text.replace(old, new), encoding="utf-8")
    assert workflow_rules.main(SESSIONS, root) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(
        line.startswith(f"pyproject.toml: [tool.tasks.workflows] {message}") for line in lines
    )


# Defects without a rule, found by a tool: (file, old text, new text, tool, finding)
FOUND_BY_TOOLS = [
    (PR, f"{CHECKOUT} # v7.0.1", "actions/checkout@v7", "zizmor", "unpinned-uses"),
    (PR, CHECKOUT, "actions/checkout@3d3c42e", "zizmor", "unpinned-uses"),
    (PR, CHECKOUT, CHECKOUT[:-1], "zizmor", "unpinned-uses"),
    (PR, CHECKOUT, "actions/checkout", "actionlint", "action"),
    (PR, f"- uses: {CHECKOUT}", "- uses: docker://alpine:3", "zizmor", "unpinned-images"),
    (PR, "    steps:", "    container: python:3\n    steps:", "zizmor", "unpinned-images"),
    (
        PR,
        "    steps:",
        "    services:\n      db:\n        image: postgres:18\n    steps:",
        "zizmor",
        "unpinned-images",
    ),
    (PR, "\n  green:\n", CALL.replace(CHECKOUT[17:], "v1"), "zizmor", "unpinned-uses"),
    (
        PR,
        "\n  green:\n",
        CALL.replace("  green", "    secrets: inherit\n  green"),
        "zizmor",
        "secrets-inherit",
    ),
    (PR, "        with:\n          persist-credentials: false\n", "", "zizmor", "artipacked"),
    (PR, "persist-credentials: false", "persist-credentials: true", "zizmor", "artipacked"),
    (
        PR,
        "  pull_request:",
        "  pull_request_target:\n  pull_request:",
        "zizmor",
        "dangerous-triggers",
    ),
    (
        PR,
        "  pull_request:",
        "  workflow_run: {workflows: [x]}\n  pull_request:",
        "zizmor",
        "dangerous-triggers",
    ),
    (
        PR,
        "run: nox -s green",
        "run: echo ${{ github.event.pull_request.title }}",
        "zizmor",
        "template-injection",
    ),
    (
        PR,
        "run: nox -s green",
        "run: nox -s green\n        shell: nice {0}",
        "zizmor",
        "misfeature",
    ),
    (PR, "permissions: {}", "permissions: write-all", "zizmor", "excessive-permissions"),
    (
        PR,
        "permissions: {}",
        "permissions: {}\nrun-name: ${{ secrets.A }}",
        "actionlint",
        "expression",
    ),
    (PR, "- run: nox -s green", "- <<: {run: pytest}", "actionlint", "syntax-check"),
    (ACTION, "astral-sh/setup-uv@", "astral-sh/setup-uv@v10 #", "zizmor", "unpinned-uses"),
]


@pytest.mark.parametrize(
    ("tool", "options"),
    [
        ("zizmor", [*workflows.ZIZMOR, "--format=github"]),
        ("actionlint", workflows.ACTIONLINT),
    ],
)
def test_a_tool_finds_each_defect_that_has_no_rule(
    tool: str, options: Sequence[str], root: Path
) -> None:
    """Each defect is planted in a copy of its file, and the tool runs once over all copies."""
    planted: dict[str, str] = {}
    for number, (name, old, new, finder, finding) in enumerate(FOUND_BY_TOOLS):
        text = text_of(name)
        assert old in text, old
        if finder == tool:
            copy = f"actions/d{number}/action.yml" if name == ACTION else f"workflows/d{number}.yml"
            (root / ".github" / copy).parent.mkdir(exist_ok=True)
            (root / ".github" / copy).write_text(text.replace(old, new, 1))
            planted[copy] = finding
    git("init", "--quiet", cwd=root)  # actionlint looks for a repository
    tools = environment.prepare(environment.of_tools(environment.default_python())) / "bin"
    ran = subprocess.run(
        [tools / tool, *options], cwd=root, capture_output=True, text=True, check=False
    )
    lines = ran.stdout.splitlines()
    missed = {
        copy: finding
        for copy, finding in planted.items()
        if not any(copy in line and finding in line for line in lines)
    }
    assert missed == {}, ran.stderr


def test_the_sessions_that_workflows_call_are_in_the_catalogue() -> None:
    assert WORKFLOWS == ["data.yml", "nightly.yml", "pr.yml", "release.yml"]
    called = {
        name: set(re.findall(r"run: nox -s \"?([\w-]+)", text_of(f"workflows/{name}")))
        for name in WORKFLOWS
    }
    for names in called.values():
        assert {"plan", "green"} <= names <= set(CATALOGUE)
    assert {"train", "evaluate"} <= called["release.yml"]


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_the_lines_of_a_workflow_run_here(workflow: str, tmp_path: Path) -> None:
    """Runs the plan as the runner would, and then the last job on its outcome."""
    text = text_of(f"workflows/{workflow}")
    (plan,) = re.findall(r"run: nox (-s plan .*)", text)
    output = tmp_path / "output"
    # A manually started workflow has no commit to compare with.
    plan = plan.replace('"$BASE"', "''")
    ran = nox(*shlex.split(plan), GITHUB_OUTPUT=str(output), CI="true", PLAN_LABELS="")
    assert ran.returncode == 0, ran.stderr
    given = outputs(output)
    jobs = given["matrix"]["include"]
    tier = plan.split()[3]
    left_out = re.findall(r"--without (\S+)", plan)
    assert [job["session"] for job in jobs] == [
        job.session for job in catalogue.plan(tier) if job.session.partition("(")[0] not in left_out
    ]
    result = "success" if jobs else "skipped"
    needs = {
        "plan": {
            "result": "success",
            "outputs": {name: json.dumps(value) for name, value in given.items()},
        },
        "contained": {"result": "skipped", "outputs": {}},
        "session": {"result": result, "outputs": {}},
    }
    assert green.problems(json.dumps(needs)) == []


def test_a_pull_request_is_planned_from_its_whole_history_with_its_labels() -> None:
    (plan,) = re.findall(r"^  plan:\n(?:(?:    .*)?\n)+", text_of(PR), re.MULTILINE)
    assert "fetch-depth: 0" in plan
    assert "join(github.event.pull_request.labels.*.name, ',')" in plan
    assert "labeled" in text_of(PR)


@pytest.mark.parametrize("name", [PR, NIGHTLY])
def test_commits_has_the_history_it_needs(name: str) -> None:
    (session,) = re.findall(r"^  session:\n(?:(?:    .*)?\n)+", text_of(name), re.MULTILINE)
    assert "fetch-depth: 0" in session


def test_declared_inputs_are_checked_every_night() -> None:
    assert 'CHECK_INPUTS: "1"' in text_of(NIGHTLY)


def test_the_shared_job_names_are_sessions() -> None:
    assert {job_names.PLAN, job_names.GREEN} <= set(CATALOGUE)


def test_the_schedule_is_every_morning() -> None:
    assert 'cron: "0 6 * * *"' in text_of(NIGHTLY)


def test_no_comment_excuses_what_zizmor_finds(checkout: Path) -> None:
    file = checkout / ".github" / PR
    before, found, after = file.read_text().partition("  merge_group:\n")
    excused = "  issue_comment: # zizmor: ignore[dangerous-triggers]\n"
    file.write_text(f"{before}{found}{excused}{after}")
    ran = nox("-s", "workflows", cwd=checkout)
    assert ran.returncode == 1
    assert "dangerous-triggers" in ran.stdout + ran.stderr


def test_the_session_finds_a_ruleset_that_requires_an_unknown_job(checkout: Path) -> None:
    ruleset = checkout / ".github" / "rulesets" / "main.json"
    ruleset.write_text(ruleset.read_text().replace('"context": "green"', '"context": "blue"'))
    ran = nox("-s", "workflows", cwd=checkout)
    assert ran.returncode == 1
    assert re.search(r"main\.json:\d+: requires the check 'blue', which no job", ran.stdout)


def test_a_release_uses_no_cache_and_no_image() -> None:
    text = text_of(RELEASE)
    assert "cache:" not in text
    assert not re.findall("container:|PLAN_IMAGE", text)


def test_the_uv_version_of_ci_satisfies_pyproject() -> None:
    action = text_of(ACTION)
    (version,) = re.findall(r"^\s*version: (\d+)\.(\d+)\.(\d+)$", action, re.MULTILINE)
    oldest = uv.required_version().split(".")
    assert [int(part) for part in version] >= [int(part) for part in oldest]
