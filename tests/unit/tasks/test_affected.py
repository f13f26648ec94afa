"""What `plan` selects, in small repositories whose files have the names of real inputs."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks import catalogue
from tasks.affected import selection
from tasks.catalogue import CATALOGUE
from tasks.project import ROOT, WORKSPACE
from tests.repository import commit, git

runpy.run_path(str(ROOT / "noxfile.py"))  # declares every session

PR = [job.session for job in catalogue.plan("pr")]
GPU = ["gpu-test", "gpu-bench"]
CELLS = [job.session for job in catalogue.jobs_of(CATALOGUE["matrix"])]
MIDDLE_CELLS = [name for name in CELLS if name not in PR]
SMOKE = f"smoke({WORKSPACE.default_project.package})"


@pytest.fixture
def branch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A branch of `main`, on which main has gone on since."""
    monkeypatch.delenv("PLAN_LABELS", raising=False)
    monkeypatch.delenv("PLAN_FROM_FORK", raising=False)
    root = tmp_path / "branch"
    git("init", "--quiet", "--initial-branch=main", str(root), cwd=tmp_path)
    write(root, "docs/page.md", "src/gates/errors.py", "tests/smoke/test_it.py", "uv.lock")
    commit(cwd=root)
    git("checkout", "--quiet", "-b", "branch", cwd=root)
    git("checkout", "--quiet", "main", cwd=root)
    write(root, "src/gates/of_main.py")
    commit(cwd=root)
    git("checkout", "--quiet", "branch", cwd=root)
    return root


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"what is in {name}\n" * 9)


def planned(root: Path, *arguments: str) -> list[str]:
    return [job.session for job in selection.plan(["pr", *arguments], root).jobs]


def test_what_a_change_of_the_docs_does_not_touch_is_left_out_with_the_reason(
    branch: Path,
) -> None:
    write(branch, "docs/new.md")
    commit(cwd=branch)
    plan = selection.plan(["pr", "--since", "main"], branch)
    chosen = {job.session for job in plan.jobs}
    assert {"lint", "unit(repository)"} <= chosen
    assert not {SMOKE, "types", *GPU, *MIDDLE_CELLS} & chosen
    (line,) = [note for note in plan.notes if SMOKE in note]
    assert line.endswith("none of its inputs changed since main (see smoke in tasks/)")
    told = " ".join(plan.notes)
    left_out = {*PR, *GPU, *MIDDLE_CELLS} - chosen
    assert [session for session in left_out if session not in told] == []


def commit_it(root: Path) -> None:
    write(root, "src/gates/new.py")
    commit(cwd=root)


def stage_it(root: Path) -> None:
    write(root, "src/gates/new.py")
    git("add", "--all", cwd=root)


def leave_it_untracked(root: Path) -> None:
    write(root, "src/gates/new.py")


def edit(root: Path) -> None:
    (root / "src/gates/errors.py").write_text("edited\n")


def delete(root: Path) -> None:
    (root / "src/gates/errors.py").unlink()


def move_away(root: Path) -> None:
    git("mv", "src/gates/errors.py", "docs/errors.md", cwd=root)
    commit(cwd=root)


@pytest.mark.parametrize(
    "change", [commit_it, stage_it, leave_it_untracked, edit, delete, move_away]
)
def test_every_way_of_changing_an_input_counts(
    change: Callable[[Path], None], branch: Path
) -> None:
    change(branch)
    assert SMOKE in planned(branch, "--since", "main")


def test_a_folder_whose_name_only_begins_like_an_input_does_not_count(branch: Path) -> None:
    write(branch, "src_of_another/errors.py", "configs_of_another/x.yaml")
    assert SMOKE not in planned(branch, "--since", "main")


def no_such_commit(root: Path) -> tuple[Path, str]:
    return root, "git knows no commit 'upstream' here"


def main_itself(root: Path) -> tuple[Path, str]:
    git("branch", "--quiet", "--force", "upstream", "HEAD", cwd=root)
    return root, "nothing differs from upstream"


def shallow_clone(root: Path) -> tuple[Path, str]:
    write(root, "docs/new.md")
    commit(cwd=root)
    clone = root.parent / "clone"
    git("clone", "--quiet", "--depth=1", "--branch=branch", root.as_uri(), str(clone), cwd=root)
    fetch = ("fetch", "--quiet", "--depth=1", "origin", "main:upstream")
    assert git(*fetch, cwd=clone).returncode == 0
    return clone, "no merge base with upstream; in a shallow clone, fetch the whole history"


def no_repository(root: Path) -> tuple[Path, str]:
    (root / ".git").rename(root / "not git")
    return root, "git knows no commit 'upstream' here"


@pytest.mark.parametrize("prepare", [no_such_commit, main_itself, shallow_clone, no_repository])
def test_where_the_change_cannot_be_told_everything_runs_and_plan_says_so(
    prepare: Callable[[Path], tuple[Path, str]], branch: Path
) -> None:
    root, problem = prepare(branch)
    plan = selection.plan(["pr", "--since", "upstream"], root)
    assert [job.session for job in plan.jobs] == PR
    assert plan.notes[0] == f"plan: {problem}, so nothing is left out for being unaffected"


def test_without_since_the_tier_runs_as_it_is_declared(branch: Path) -> None:
    assert planned(branch) == PR


@pytest.mark.parametrize("since", [[], ["--since", "main"]])
def test_a_label_adds_the_gpu_sessions_and_every_cell(since: list[str], branch: Path) -> None:
    write(branch, "docs/new.md")
    tier = planned(branch, *since)
    assert set(planned(branch, *since, "--label", "gpu")) == {*tier, *GPU}
    with_cells = planned(branch, *since, "--label", "full-matrix")
    assert set(with_cells) - set(tier) >= set(MIDDLE_CELLS)
    assert not set(with_cells) & set(GPU)


def test_labels_of_the_pull_request_come_by_a_variable(
    branch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAN_LABELS", "good first issue, gpu")
    assert set(planned(branch)) == {*PR, *GPU}


def test_a_pull_request_from_a_fork_gets_no_machine_of_our_own(
    branch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLAN_FROM_FORK", "true")
    assert planned(branch) == PR
    with pytest.raises(SystemExit) as ended:
        planned(branch, "--label", "gpu")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "gpu-test runs on self-hosted, linux, gpu, and the pull request comes from a fork" in line
    )
    monkeypatch.setenv("PLAN_FROM_FORK", "false")
    assert set(planned(branch, "--label", "gpu")) == {*PR, *GPU}


@pytest.mark.parametrize(
    ("labels", "is_hosted"),
    [
        (["ubuntu-24.04"], True),
        (["macos-15-arm"], True),
        (["self-hosted"], False),
        (["big"], False),
    ],
)
def test_only_githubs_own_machines_are_known(
    labels: list[str],
    is_hosted: bool,  # noqa: FBT001 - a column of the table
    branch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLAN_FROM_FORK", "true")
    runners = {**WORKSPACE.runners, "cpu": labels}
    monkeypatch.setattr(selection, "WORKSPACE", replace(WORKSPACE, runners=runners))
    if is_hosted:
        assert planned(branch) == PR
        return
    with pytest.raises(SystemExit):
        planned(branch)


def test_a_new_lock_is_tried_on_every_cell(branch: Path) -> None:
    (branch / "uv.lock").write_text("new\n")
    assert set(planned(branch, "--since", "main")) == {*PR, *MIDDLE_CELLS}


@pytest.mark.parametrize("tier", ["nightly", "release"])
def test_other_tiers_run_everything(tier: catalogue.Tier, branch: Path) -> None:
    write(branch, "docs/new.md")
    plan = selection.plan([tier, "--since", "main"], branch)
    assert plan.jobs == catalogue.plan(tier)
    assert plan.notes == [f"plan: {tier} runs everything: --since and --label are for pr"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["pr", "--from", "main"], "plan: unrecognized arguments: --from main; what there is: nox"),
        (["pr", "--since"], "plan: argument --since: expected one argument; what there is: nox"),
        (
            ["pr", "--without"],
            "plan: argument --without: expected one argument; what there is: nox",
        ),
        (["pr", "--label", "tpu"], "plan: argument --label: invalid choice: 'tpu'"),
        (["--since", "main"], "plan: name one tier, as in: nox -s plan -- pr"),
    ],
)
def test_what_plan_does_not_know_is_one_line_and_exit_2(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        selection.plan(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(problem)
