import ast
import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import nox
import pytest

from tasks import catalogue, project
from tasks.catalogue import (
    CATALOGUE,
    TIERS,
    DuplicateSessionError,
    Part,
    PlannedJob,
    Runner,
    Tier,
    session,
)
from tasks.environments import environment, uv
from tasks.evidence import inputs
from tasks.project import ROOT, WORKSPACE, Cell
from tests.history import History

runpy.run_path(str(ROOT / "noxfile.py"))  # declares every session


@pytest.fixture
def _untouched_catalogue() -> Iterator[None]:
    before = dict(CATALOGUE)
    yield
    CATALOGUE.clear()
    CATALOGUE.update(before)


def make_session(name: str, doc: str | None = "Do something.") -> Callable[[nox.Session], None]:
    def function(session: nox.Session) -> None:
        del session

    function.__name__, function.__doc__ = name, doc
    return function


@pytest.mark.usefixtures("_untouched_catalogue")
def test_duplicate_session_name_is_an_error() -> None:
    with pytest.raises(
        DuplicateSessionError, match=r"\.lint: there is already a session named lint"
    ):
        session(timeout_minutes=1, inputs=[])(make_session("lint"))


@pytest.mark.usefixtures("_untouched_catalogue")
def test_session_without_a_docstring_is_an_error() -> None:
    with pytest.raises(ValueError, match="docstring"):
        session(timeout_minutes=1, inputs=[])(make_session("undocumented", doc=None))


@pytest.mark.usefixtures("_untouched_catalogue")
@pytest.mark.parametrize(
    ("wrong", "finding"),
    [
        pytest.param(
            {"tiers": ["weekly"], "inputs": ["src"]},
            "tier 'weekly' is unknown; write one of pr, nightly, release, data",
            id="tier",
        ),
        pytest.param(
            {"parts": [Part(name="one", tiers=("weekly",), inputs=("src",))]},  # type: ignore[arg-type] # deliberate
            "tier 'weekly' is unknown; write one of pr, nightly, release, data",
            id="tier_of_a_part",
        ),
        pytest.param(
            {"runner": "tpu"}, "runner 'tpu' is unknown; write one of cpu, gpu", id="runner"
        ),
        pytest.param(
            {"tiers": ["pr"]},
            "has tiers but no inputs; declare the files and folders that can change its result",
            id="no_inputs",
        ),
        pytest.param(
            {"inputs": "docs"},
            "inputs is the string 'docs'; write a list of files and folders: inputs=['docs']",
            id="inputs_as_a_string",
        ),
        pytest.param(
            {"tiers": ["pr"], "inputs": ["src", "srcs"]},
            "input 'srcs' is not in the repository; write files and folders relative to its root",
            id="no_such_input",
        ),
        pytest.param(
            {"inputs": [""]},
            "input '' is not in the repository; write files and folders relative to its root",
            id="empty_input",
        ),
        pytest.param(
            {"timeout_minutes": 0}, "timeout_minutes is 0; write a number above 0", id="zero"
        ),
        pytest.param(
            {"timeout_minutes": -5}, "timeout_minutes is -5; write a number above 0", id="negative"
        ),
    ],
)
def test_wrong_declaration_is_reported_with_its_location_and_exits_2(
    wrong: dict[str, Any], finding: str, capsys: pytest.CaptureFixture[str]
) -> None:
    function = make_session("wrong_one")
    with pytest.raises(SystemExit) as stopped:
        session(**{"timeout_minutes": 1, **wrong})(function)
    assert stopped.value.code == 2
    line = function.__code__.co_firstlineno
    location = f"tests/unit/tasks/test_catalogue.py:{line}"
    assert capsys.readouterr().err == f"{location}: session wrong-one: {finding}\n"
    assert "wrong-one" not in CATALOGUE


@pytest.mark.usefixtures("_untouched_catalogue")
@pytest.mark.parametrize("present", [".git", "tests"])
def test_inputs_may_be_missing_in_a_partial_copy_of_the_repository(
    present: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The container image has no git, and a copy of the sessions has no tests."""
    (tmp_path / present).mkdir()
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    name = f"with_{present.strip('.')}"  # unique, as Nox too requires
    session(timeout_minutes=1, inputs=["src"])(make_session(name))
    assert name.replace("_", "-") in CATALOGUE


@pytest.mark.usefixtures("_untouched_catalogue")
def test_newly_declared_session_is_in_the_plan() -> None:
    session(tiers=["pr"], timeout_minutes=7, inputs=["src"])(make_session("new_one"))
    added = PlannedJob(session="new-one", runner="cpu", timeout_minutes=7)
    assert catalogue.plan("pr")[-1] == added


def test_every_kind_of_runner_has_labels() -> None:
    assert set(WORKSPACE.runners) == set(get_args(Runner))
    assert all(WORKSPACE.runners.values())


def test_nox_lists_the_catalogue_with_its_tags() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "nox", "--list", "--json", "--tags", *TIERS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    tags = {entry["session"]: set(entry["tags"]) for entry in json.loads(listed.stdout)}
    planned = {
        job.session: {tier for tier in TIERS if job in catalogue.jobs_of(declared, tier)}
        for declared in CATALOGUE.values()
        for job in catalogue.jobs_of(declared)
    }
    assert tags == planned


def test_nightly_runs_its_own_tier_and_each_pr_job_once() -> None:
    night = [job.session for job in catalogue.plan("nightly")]
    nightly_tier = {
        job.session for each in CATALOGUE.values() for job in catalogue.jobs_of(each, "nightly")
    }
    pr = {job.session for job in catalogue.plan("pr")}
    assert pr - nightly_tier >= {"lint", "unit(tasks)", "commits"}, (
        "expected pr jobs outside the nightly tier"
    )
    assert sorted(night) == sorted(pr | nightly_tier)
    order = [job.session for each in CATALOGUE.values() for job in catalogue.jobs_of(each)]
    assert night == sorted(night, key=order.index)


def test_pr_runs_both_ends_of_the_matrix_and_nightly_all_of_it() -> None:
    def cells(tier: Tier, package: str) -> list[str]:
        names = [job.session for job in catalogue.plan(tier)]
        return [name for name in names if name.startswith(f"matrix({package}, ")]

    def named(package: str, chosen: Iterable[Cell]) -> list[str]:
        return [f"matrix({package}, {cell})" for cell in chosen]

    all_cells = WORKSPACE.cells
    without_torch = [Cell(python) for python in WORKSPACE.pythons]
    assert cells("pr", "training") == named("training", (all_cells[0], all_cells[-1]))
    assert cells("nightly", "training") == named("training", all_cells)
    assert cells("pr", "gates") == named("gates", (without_torch[0], without_torch[-1]))
    assert cells("nightly", "gates") == named("gates", without_torch)


def test_each_package_has_its_tests_and_each_project_its_model_sessions() -> None:
    names = {entry: [part.name for part in CATALOGUE[entry].parts] for entry in CATALOGUE}
    assert names["unit"] == [*WORKSPACE.packages, "tasks", "repository"]
    assert names["isolated"] == [*WORKSPACE.packages]
    projects = [each.package for each in WORKSPACE.projects]
    for entry in ("smoke", "train", "evaluate", "reproduce", "sbom", "register", "promote"):
        assert names[entry] == projects
    assert names["rollback"] == projects
    assert names["lint"] == [""]


def test_part_is_affected_only_by_its_package_and_dependencies() -> None:
    def affected(file: str) -> set[str]:
        return {
            part.name for part in CATALOGUE["unit"].parts if inputs.covers(part.inputs, file)
        } - {"repository"}

    projects = {each.package for each in WORKSPACE.projects}
    for each in projects:
        assert affected(f"src/{each}/new.py") == {each}
        assert affected(f"tests/unit/{each}/test_new.py") == {each}
    assert affected("src/training/new.py") == {"training", *projects}
    assert affected("src/gates/new.py") == {"gates", "training", *projects}
    assert affected("tasks/new.py") == {*WORKSPACE.packages, "tasks"}
    assert affected("docs/new.md") == set()


@pytest.mark.usefixtures("_untouched_catalogue")
def test_arguments_go_to_the_default_part_unless_one_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def parts_of(name: str, *arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["nox", *arguments])
        parts = [
            Part(name="one", arguments=(1,)),
            Part(name="two", arguments=(2,), takes_arguments=True),
        ]
        declared = session(timeout_minutes=1, parts=parts)(make_session(name))
        return [call.id for call in declared.parametrize]  # type: ignore[attr-defined] # set by Nox

    assert parts_of("first", "-s", "first") == ["one", "two"]
    assert parts_of("second", "-s", "second", "--", "--lr=1") == ["two"]
    assert parts_of("third", "-s", "third(one)", "--", "--lr=1") == ["one", "two"]
    assert parts_of("fourth", "-s", "fourth", "--") == ["one", "two"]


def test_jobs_in_the_image_use_the_environment_it_contains() -> None:
    """Any other environment would have to be downloaded, and GPU jobs need another image."""
    jobs = [job for each in CATALOGUE.values() for job in catalogue.jobs_of(each)]
    inside = {job.session for job in jobs if job.in_image}
    default = WORKSPACE.default_project.package
    assert inside >= {f"{name}({default})" for name in ("smoke", "train", "evaluate", "reproduce")}
    assert f"matrix({default}, {WORKSPACE.default})" in inside
    assert f"matrix({default}, {WORKSPACE.cells[0]})" not in inside
    assert not inside & {"lint", "workflows", "audit", "commits", "image"}
    assert all(job.runner == "cpu" for job in jobs if job.in_image)


def test_planned_job_has_a_runner_and_a_timeout() -> None:
    assert catalogue.plan("pr")[0] == PlannedJob(session="lint", runner="cpu", timeout_minutes=5)


@pytest.mark.parametrize("name", CATALOGUE)
def test_declared_inputs_exist(name: str) -> None:
    read = (path for part in CATALOGUE[name].parts for path in part.inputs)
    missing = [path for path in read if not (ROOT / path).exists()]
    assert missing == []


@pytest.mark.parametrize("name", CATALOGUE)
def test_session_summary_is_one_short_sentence(name: str) -> None:
    summary = CATALOGUE[name].summary
    assert summary.endswith(".")
    assert len(summary) <= 100


@pytest.mark.parametrize("file", sorted((ROOT / "tasks").rglob("*.py")), ids=lambda file: file.name)
def test_tasks_import_only_nox_and_the_standard_library(file: Path) -> None:
    allowed = {"nox", "tasks", *sys.stdlib_module_names}
    # These run in the tools environment, not in Nox.
    if file.name in {"pins.py", "rulesets.py", "workflow_rules.py", "workflow_source.py"}:
        allowed |= {"pydantic", "ruamel"}
    assert {module.split(".")[0] for module in imported_by(file)} <= allowed


def imported_by(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_oldest_nox_is_the_same_in_noxfile_and_pyproject() -> None:
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (line,) = [line for line in noxfile.splitlines() if line.startswith("nox.needs_version")]
    oldest = line.split('"')[1]
    assert f'"nox{oldest}"' in pyproject
    assert uv.required_version() in pyproject


def test_the_default_cell_is_in_the_matrix() -> None:
    assert WORKSPACE.default in WORKSPACE.cells


def test_the_matrix_is_read_from_pyproject() -> None:
    assert project.read().pythons == ("3.11", "3.12", "3.13")
    assert project.read().torches == ("2.11", "2.13", "2.15")


def test_every_torch_extra_conflicts_with_the_others() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for torch in WORKSPACE.torches:
        assert f'{{ package = "training", extra = "torch-{torch.replace(".", "-")}" }}' in pyproject


def test_tools_need_no_torch() -> None:
    assert environment.of_tools("3.12").torch is None


def test_sparse_checkout_fails_only_sessions_that_need_missing_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    history = History(tmp_path / "repository")
    history.commit("feat: a", {"tests/a": "1", "benchmarks/a": "1", "src/a": "1"})
    shutil.rmtree(history.root / "benchmarks")
    monkeypatch.setattr(catalogue, "ROOT", history.root)
    assert catalogue._inputs_problem(("benchmarks", "src"), are_required=True) is None  # noqa: SLF001
    wrong = catalogue._inputs_problem(("benchmark",), are_required=True)  # noqa: SLF001
    assert wrong is not None
    assert "input 'benchmark' is not in the repository" in wrong
    catalogue._require_inputs(["src"], "lint")  # noqa: SLF001
    with pytest.raises(SystemExit) as ended:
        catalogue._require_inputs(["src", "benchmarks"], "types")  # noqa: SLF001
    assert ended.value.code == 2
    message = (
        "types: benchmarks is not in this checkout; git sparse-checkout add benchmarks, or git "
    )
    assert capsys.readouterr().err.startswith(message)
