"""What `plan` selects in small repositories whose file names match real inputs."""

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
    """A branch off `main`; main has a newer commit that the branch lacks."""
    monkeypatch.delenv("PLAN_LABELS", raising=False)
    monkeypatch.delenv("PLAN_FROM_FORK", raising=False)
    root = tmp_path / "branch"
    git("init", "--quiet", "--initial-branch=main", str(root), cwd=tmp_path)
    write(root, "docs/page.md", "src/gates/errors.py", "tests/smoke/test_it.py", "uv.lock")
    commit(cwd=root)
    git("checkout", "--quiet", "-b", "branch", cwd=root)
    git("checkout", "--quiet", "main", cwd=root)
    write(root, "src/gates/only_on_main.py")
    commit(cwd=root)
    git("checkout", "--quiet", "branch", cwd=root)
    return root


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"contents of {name}\n" * 9)


def planned(root: Path, *arguments: str) -> list[str]:
    return [job.session for job in selection.plan(["pr", *arguments], root).jobs]


def test_docs_change_leaves_out_unaffected_sessions_with_a_reason(
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
    notes = " ".join(plan.notes)
    left_out = {*PR, *GPU, *MIDDLE_CELLS} - chosen
    assert [session for session in left_out if session not in notes] == []


def commit_new_file(root: Path) -> None:
    write(root, "src/gates/new.py")
    commit(cwd=root)


def stage_new_file(root: Path) -> None:
    write(root, "src/gates/new.py")
    git("add", "--all", cwd=root)


def add_untracked_file(root: Path) -> None:
    write(root, "src/gates/new.py")


def edit(root: Path) -> None:
    (root / "src/gates/errors.py").write_text("edited\n")


def delete(root: Path) -> None:
    (root / "src/gates/errors.py").unlink()


def move_away(root: Path) -> None:
    git("mv", "src/gates/errors.py", "docs/errors.md", cwd=root)
    commit(cwd=root)


@pytest.mark.parametrize(
    "change", [commit_new_file, stage_new_file, add_untracked_file, edit, delete, move_away]
)
def test_any_change_to_an_input_selects_its_session(
    change: Callable[[Path], None], branch: Path
) -> None:
    change(branch)
    assert SMOKE in planned(branch, "--since", "main")


def test_folder_that_shares_a_prefix_with_an_input_does_not_count(branch: Path) -> None:
    write(branch, "src_other/errors.py", "configs_other/x.yaml")
    assert SMOKE not in planned(branch, "--since", "main")


def unknown_commit(root: Path) -> tuple[Path, str]:
    return root, "git finds no commit 'upstream' here"


def branch_without_changes(root: Path) -> tuple[Path, str]:
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
    return root, "git finds no commit 'upstream' here"


@pytest.mark.parametrize(
    "prepare", [unknown_commit, branch_without_changes, shallow_clone, no_repository]
)
def test_everything_runs_when_the_change_is_unknown_and_plan_says_so(
    prepare: Callable[[Path], tuple[Path, str]], branch: Path
) -> None:
    root, problem = prepare(branch)
    plan = selection.plan(["pr", "--since", "upstream"], root)
    assert [job.session for job in plan.jobs] == PR
    assert plan.notes[0] == f"plan: {problem}, so no job is left out as unaffected"


def test_without_since_the_whole_tier_runs(branch: Path) -> None:
    assert planned(branch) == PR


@pytest.mark.parametrize("since", [[], ["--since", "main"]])
def test_a_label_adds_the_gpu_sessions_and_every_cell(since: list[str], branch: Path) -> None:
    write(branch, "docs/new.md")
    tier = planned(branch, *since)
    assert set(planned(branch, *since, "--label", "gpu")) == {*tier, *GPU}
    with_cells = planned(branch, *since, "--label", "full-matrix")
    assert set(with_cells) - set(tier) >= set(MIDDLE_CELLS)
    assert not set(with_cells) & set(GPU)


def test_pull_request_labels_are_read_from_a_variable(
    branch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAN_LABELS", "good first issue, gpu")
    assert set(planned(branch)) == {*PR, *GPU}


def test_pull_request_from_a_fork_gets_no_self_hosted_machine(
    branch: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PLAN_FROM_FORK", "true")
    assert planned(branch) == PR
    with pytest.raises(SystemExit) as ended:
        planned(branch, "--label", "gpu")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "gpu-test runs on self-hosted, linux, gpu, but the pull request comes from a fork" in line
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
def test_pull_request_from_a_fork_may_use_only_github_hosted_machines(
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


def test_changed_lock_runs_every_cell(branch: Path) -> None:
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
        (
            ["pr", "--from", "main"],
            "plan: unrecognized arguments: --from main; for the options, run: nox",
        ),
        (
            ["pr", "--since"],
            "plan: argument --since: expected one argument; for the options, run: nox",
        ),
        (
            ["pr", "--without"],
            "plan: argument --without: expected one argument; for the options, run: nox",
        ),
        (["pr", "--label", "tpu"], "plan: argument --label: invalid choice: 'tpu'"),
        (["--since", "main"], "plan: name one tier, as in: nox -s plan -- pr"),
    ],
)
def test_invalid_arguments_of_plan_are_reported_in_one_line_and_exit_2(
    arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        selection.plan(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(problem)
