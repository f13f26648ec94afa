"""The one required check: every combination of job results, and malformed input."""

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
def test_green_requires_success_except_for_jobs_of_an_empty_plan(
    plan: str, model: str, session: str, matrix: str | None
) -> None:
    is_planned_skip = session == "skipped" and matrix == EMPTY
    is_green = plan == model == "success" and (session == "success" or is_planned_skip)
    found = green.problems(needs(plan, matrix, model=model, session=session))
    assert (found == []) == is_green


@pytest.mark.parametrize("result", RESULTS)
@pytest.mark.parametrize("planned", [EMPTY, FULL, None], ids=["empty", "full", "lost"])
def test_jobs_in_the_image_may_be_skipped_only_if_none_was_planned(
    planned: str | None, result: str
) -> None:
    given = needs("success", FULL, planned, session="success", contained=result)
    is_green = result == "success" or (result == "skipped" and planned == EMPTY)
    assert (green.problems(given) == []) == is_green


def test_each_job_that_is_not_green_is_named_with_its_result() -> None:
    results = dict(zip("abcd", RESULTS, strict=True))
    found = green.problems(needs("success", FULL, **results))
    assert found == [
        "b: failure; see its log, then fix it or run it again",
        "c: cancelled; see its log, then fix it or run it again",
        "d: skipped, but not because of an empty plan; see why it did not start",
    ]


@pytest.mark.parametrize("result", ["", "neutral", "None"])
def test_unknown_result_is_not_green(result: str) -> None:
    assert green.problems(needs("success", FULL, session=result)) != []


@pytest.mark.parametrize("matrix", ["", "[]", "{}", "null", '{"include": null}', "not json"])
def test_broken_plan_does_not_excuse_a_skip(matrix: str) -> None:
    assert green.problems(needs("success", matrix, session="skipped")) != []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "NEEDS is not JSON", id="empty"),
        pytest.param("[]", "NEEDS contains no jobs", id="a_list"),
        pytest.param('{"plan": 1}', "NEEDS contains no jobs", id="no_results"),
        pytest.param("{}", "NEEDS lacks the job plan", id="no_plan"),
    ],
)
def test_malformed_results_are_an_error(text: str, message: str) -> None:
    with pytest.raises(green.NeedsError, match=message):
        green.problems(text)


def write_manifest(folder: Path, session: str = "lint", result: Result = "passed") -> Path:
    """Write a session's manifest where GitHub unpacks the artifact of its job."""
    run = Manifest(session=session, tiers=["pr"], result=result, commands=["nox"])
    return manifest.write(run, folder / session / "manifests")


def test_planned_session_without_a_manifest_is_missing(tmp_path: Path) -> None:
    passed = needs("success", FULL, session="success")
    expected = ["lint: was planned but did not pass (no manifest); see its log"]
    assert green.missing(passed, tmp_path / "no folder") == expected
    write_manifest(tmp_path, "unit")
    assert green.missing(passed, tmp_path) == expected
    write_manifest(tmp_path)
    assert green.missing(passed, tmp_path) == []


@pytest.mark.parametrize("job", [{"contained": "success"}, {}], ids=["ran", "no_such_job"])
def test_session_planned_for_the_image_without_a_manifest_is_missing(
    job: dict[str, str], tmp_path: Path
) -> None:
    write_manifest(tmp_path, "unit")
    inside, outside = FULL, FULL.replace("lint", "unit")
    given = needs("success", outside, inside, session="success", **job)
    expected = ["lint: was planned but did not pass (no manifest); see its log"]
    assert green.missing(given, tmp_path) == expected
    write_manifest(tmp_path, "lint")
    assert green.missing(given, tmp_path) == []


@pytest.mark.parametrize("result", ["failed", "skipped"])
def test_session_that_did_not_pass_is_missing_even_if_its_job_succeeded(
    result: Result, tmp_path: Path
) -> None:
    write_manifest(tmp_path, result=result)
    (line,) = green.missing(needs("success", FULL, session="success"), tmp_path)
    assert line == f"lint: was planned but did not pass ({result}); see its log"


def test_run_with_arguments_does_not_count_as_the_planned_run(tmp_path: Path) -> None:
    commands = ["nox -s lint -- --help"]
    run = Manifest(session="lint", tiers=["pr"], result="passed", commands=commands)
    manifest.write(run, tmp_path / "lint" / "manifests")
    (line,) = green.missing(needs("success", FULL, session="success"), tmp_path)
    assert line == "lint: was planned but did not pass (a run with arguments); see its log"


def test_truncated_manifest_does_not_count(tmp_path: Path) -> None:
    write_manifest(tmp_path).write_text("{")
    (line,) = green.missing(needs("success", FULL, session="success"), tmp_path)
    assert "not a valid manifest" in line


@pytest.mark.parametrize(("job", "output"), [("session", "matrix"), ("contained", "contained")])
def test_lost_plan_is_reported(job: str, output: str, tmp_path: Path) -> None:
    (line,) = green.missing(needs("success", None, **{job: "success"}), tmp_path)
    assert line == f"plan: its output {output!r} is missing or damaged; see its log"


@pytest.mark.parametrize("result", ["failure", "cancelled", "skipped"])
def test_failed_job_is_not_also_reported_as_missing(result: str, tmp_path: Path) -> None:
    assert green.missing(needs("success", FULL, session=result), tmp_path) == []


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        pytest.param(needs("success", EMPTY, session="skipped"), 0, "", id="green"),
        pytest.param(
            needs("success", FULL, session="success"), 1, "lint: was planned but", id="missing"
        ),
        pytest.param(needs("success", FULL, session="skipped"), 1, "skip", id="red"),
        pytest.param("?", 2, "green: NEEDS is not JSON", id="not_json"),
        pytest.param(None, 2, "green: runs only in a workflow", id="unset"),
    ],
)
def test_exit_code_of_the_session_matches_the_results(
    given: str | None, code: int, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NEEDS", raising=False)
    monkeypatch.setenv("RESULTS", str(tmp_path))
    if given is not None:
        monkeypatch.setenv("NEEDS", given)
    ran = nox("-s", "green")
    assert (ran.returncode, message in ran.stderr) == (code, True), ran.stderr
    assert "Traceback" not in ran.stderr


def test_missing_results_folder_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RESULTS", raising=False)
    ran = nox("-s", "green", NEEDS=needs("success", EMPTY, session="skipped"))
    assert ran.returncode == 2
    assert "green: runs only in a workflow, which must set RESULTS: results;" in ran.stderr
