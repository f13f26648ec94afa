"""The one required check: every combination of results, and what is not results at all."""

import json
from pathlib import Path

import pytest

from tasks.affected import green
from tasks.evidence import manifest
from tasks.evidence.manifest import Manifest, Result
from tests.unit.tasks.test_sessions import nox

RESULTS = ("success", "failure", "cancelled", "skipped")
EMPTY, FULL = '{"include": []}', '{"include": [{"session": "lint"}]}'


def needs(plan: str, matrix: str | None, inside: str | None = None, **others: str) -> str:
    given = {"matrix": matrix, "contained": inside}
    outputs = {name: value for name, value in given.items() if value is not None}
    jobs = {name: {"result": result, "outputs": {}} for name, result in others.items()}
    return json.dumps({"plan": {"result": plan, "outputs": outputs}, **jobs})


@pytest.mark.parametrize("matrix", [EMPTY, FULL, None], ids=["empty", "full", "lost"])
@pytest.mark.parametrize("session", RESULTS)
@pytest.mark.parametrize("model", RESULTS)
@pytest.mark.parametrize("plan", RESULTS)
def test_green_means_that_all_succeeded_but_for_the_jobs_of_an_empty_plan(
    plan: str, model: str, session: str, matrix: str | None
) -> None:
    asked_for = session == "skipped" and matrix == EMPTY
    is_green = plan == model == "success" and (session == "success" or asked_for)
    found = green.problems(needs(plan, matrix, model=model, session=session))
    assert (found == []) == is_green


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("planned", [EMPTY, FULL, None], ids=["empty", "full", "lost"])
def test_jobs_in_the_image_may_be_skipped_only_if_none_was_planned(
    planned: str | None, result: str
) -> None:
    told = needs("success", FULL, planned, session="success", contained=result)
    is_green = result == "success" or (result == "skipped" and planned == EMPTY)
    assert (green.problems(told) == []) == is_green


def test_each_job_that_is_not_green_is_named_with_its_result() -> None:
    every = dict(zip("abcd", RESULTS, strict=True))
    found = green.problems(needs("success", FULL, **every))
    assert found == [
        "b: failure; see its log, then run it again or mend it",
        "c: cancelled; see its log, then run it again or mend it",
        "d: skipped, and the plan did not ask for that; see why it did not start",
    ]


@pytest.mark.parametrize("result", ["", "neutral", "None"])
def test_a_result_that_nobody_knows_is_not_green(result: str) -> None:
    assert green.problems(needs("success", FULL, session=result)) != []


@pytest.mark.parametrize("matrix", ["", "[]", "{}", "null", '{"include": null}', "not json"])
def test_a_broken_plan_asks_for_no_skip(matrix: str) -> None:
    assert green.problems(needs("success", matrix, session="skipped")) != []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "NEEDS is no JSON", id="nothing"),
        pytest.param("[]", "NEEDS holds no jobs", id="a_list"),
        pytest.param('{"plan": 1}', "NEEDS holds no jobs", id="no_results"),
        pytest.param("{}", "NEEDS lacks the job plan", id="no_plan"),
    ],
)
def test_what_is_not_the_results_cannot_be_judged(text: str, says: str) -> None:
    with pytest.raises(green.NeedsError, match=says):
        green.problems(text)


def left(folder: Path, session: str = "lint", result: Result = "passed") -> Path:
    """What the job of a session left, as GitHub unpacks it."""
    run = Manifest(session=session, tiers=["pr"], result=result, commands=["nox"])
    return manifest.write(run, folder / session / "manifests")


def test_a_session_that_was_planned_and_left_nothing_is_missing(tmp_path: Path) -> None:
    passed = needs("success", FULL, session="success")
    nothing = ["lint: planned, and nothing is what it left; see its log"]
    assert green.missing(passed, tmp_path / "no folder") == nothing
    left(tmp_path, "unit")
    assert green.missing(passed, tmp_path) == nothing
    left(tmp_path)
    assert green.missing(passed, tmp_path) == []


@pytest.mark.parametrize("job", [{"contained": "success"}, {}], ids=["ran", "no_such_job"])
def test_a_session_that_was_planned_for_the_image_and_left_nothing_is_missing(
    job: dict[str, str], tmp_path: Path
) -> None:
    left(tmp_path, "unit")
    inside, outside = FULL, FULL.replace("lint", "unit")
    told = needs("success", outside, inside, session="success", **job)
    nothing = ["lint: planned, and nothing is what it left; see its log"]
    assert green.missing(told, tmp_path) == nothing
    left(tmp_path, "lint")
    assert green.missing(told, tmp_path) == []


@pytest.mark.parametrize("result", ["failed", "skipped"])
def test_a_session_that_did_not_pass_is_missing_though_its_job_did(
    result: Result, tmp_path: Path
) -> None:
    left(tmp_path, result=result)
    (line,) = green.missing(needs("success", FULL, session="success"), tmp_path)
    assert line == f"lint: planned, and {result} is what it left; see its log"


def test_a_run_with_arguments_is_not_the_planned_one(tmp_path: Path) -> None:
    commands = ["nox -s lint -- --help"]
    run = Manifest(session="lint", tiers=["pr"], result="passed", commands=commands)
    manifest.write(run, tmp_path / "lint" / "manifests")
    (line,) = green.missing(needs("success", FULL, session="success"), tmp_path)
    assert line == "lint: planned, and a run with arguments is what it left; see its log"


def test_a_manifest_that_is_cut_off_is_no_result(tmp_path: Path) -> None:
    left(tmp_path).write_text("{")
    (line,) = green.missing(needs("success", FULL, session="success"), tmp_path)
    assert "not a whole manifest" in line


@pytest.mark.parametrize("job", ["session", "contained"])
def test_a_lost_plan_can_have_no_results(job: str, tmp_path: Path) -> None:
    (line,) = green.missing(needs("success", None, **{job: "success"}), tmp_path)
    assert line == "plan: did not hand over what it planned; see its log"


@pytest.mark.parametrize("result", ["failure", "cancelled", "skipped"])
def test_nothing_is_missing_of_jobs_that_are_named_already(result: str, tmp_path: Path) -> None:
    assert green.missing(needs("success", FULL, session=result), tmp_path) == []


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        pytest.param(needs("success", EMPTY, session="skipped"), 0, "", id="green"),
        pytest.param(
            needs("success", FULL, session="success"), 1, "lint: planned, and nothing", id="missing"
        ),
        pytest.param(needs("success", FULL, session="skipped"), 1, "skip", id="red"),
        pytest.param("?", 2, "green: NEEDS is no JSON", id="no_json"),
        pytest.param(None, 2, "green: judges a workflow's jobs", id="unset"),
    ],
)
def test_the_session_says_it_with_its_exit_code(
    given: str | None, code: int, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NEEDS", raising=False)
    monkeypatch.setenv("RESULTS", str(tmp_path))
    if given is not None:
        monkeypatch.setenv("NEEDS", given)
    ran = nox("-s", "green")
    assert (ran.returncode, says in ran.stderr) == (code, True), ran.stderr
    assert "Traceback" not in ran.stderr


def test_without_the_folder_of_results_nothing_can_be_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RESULTS", raising=False)
    ran = nox("-s", "green", NEEDS=needs("success", EMPTY, session="skipped"))
    assert ran.returncode == 2
    assert "green: judges a workflow's jobs, from RESULTS: results; none is set" in ran.stderr
