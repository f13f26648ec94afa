"""The one required check: every combination of results, and what is not results at all."""

import json

import pytest

from tasks import green
from tests.unit.tasks.test_sessions import nox

RESULTS = ("success", "failure", "cancelled", "skipped")
EMPTY, FULL = '{"include": []}', '{"include": [{"session": "lint"}]}'


def needs(plan: str, matrix: str | None, **others: str) -> str:
    outputs = {} if matrix is None else {"matrix": matrix}
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


@pytest.mark.parametrize(
    ("given", "code", "says"),
    [
        pytest.param(needs("success", EMPTY, session="skipped"), 0, "", id="green"),
        pytest.param(needs("success", FULL, session="skipped"), 1, "skip", id="red"),
        pytest.param("?", 2, "green: NEEDS is no JSON", id="no_json"),
        pytest.param(None, 2, "green: judges a workflow's jobs", id="unset"),
    ],
)
def test_the_session_says_it_with_its_exit_code(
    given: str | None, code: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NEEDS", raising=False)
    if given is not None:
        monkeypatch.setenv("NEEDS", given)
    ran = nox("-s", "green")
    assert (ran.returncode, says in ran.stderr) == (code, True), ran.stderr
    assert "Traceback" not in ran.stderr
