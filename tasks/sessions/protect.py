"""Branch protection as code: the rulesets of .github/rulesets against those that are in force."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import nox

from tasks.catalogue import session
from tasks.display import show
from tasks.environments import environment
from tasks.errors import stop
from tasks.github import code_owners
from tasks.options import Options
from tasks.project import ROOT

RULESETS = Path(".github", "rulesets")

# What gh documents for "not logged in".
_NOT_LOGGED_IN = 4
# What GitHub admits; it becomes a part of addresses.
_REPOSITORY = re.compile(r"[A-Za-z0-9_-]+/(?!\.{1,2}$)[A-Za-z0-9._-]+")


class _CannotAskError(Exception):
    """This machine has no gh, or one that is not logged in: whoever runs it cannot ask GitHub."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A ruleset of the repository beside the one of its name on GitHub.

    Args:
        file: its path from the root.
        body: what the file holds.
        id: GitHub's number for it; None if it is not there.
        differences: each a line; one that is not there has one.
    """

    file: Path
    body: Mapping[str, Any]
    id: int | None
    differences: list[str]


@session(timeout_minutes=5, inputs=[".github"])
def protect(session: nox.Session) -> None:
    """Compare the branch and tag rules in .github/rulesets with GitHub's; -- --apply sets them.

    Asks through gh, GitHub's command line; where that is missing or not logged in, the files alone
    are checked and the rest is skipped (with CI=true that is an error). After --: --apply makes
    GitHub's equal to the files, --repo OWNER/NAME names another repository than this clone's.
    Rulesets that no file names are reported and left alone.
    """
    parser = Options("protect")
    parser.add_argument("--apply", action="store_true")
    parser.add_argument("--repo")
    options = parser.parse_args(session.posargs)
    if options.repo is not None and not _REPOSITORY.fullmatch(options.repo):
        parser.error(f"--repo {options.repo!r}: expected OWNER/NAME")
    tools = environment.prepare(environment.of_tools(environment.default_python()))
    environment.run(session, tools, "python", "-m", "tasks.github.rulesets")
    # No failure: the template has no team. A required review of nobody's is no protection, though.
    for line in code_owners.unowned(ROOT):
        print(line)
    try:
        repository = options.repo or _this_repository()
        differing = compare(repository)
        if options.apply:
            differing = apply(repository, differing)
    except _CannotAskError as error:
        if environment.in_ci():
            stop(f"protect: {error}; CI=true allows no skipped protect")
        session.skip(str(error))
    if differing:
        session.error(f"{repository} is not protected as the files say: nox -s protect -- --apply")
    session.log(f"{repository} is protected as the files say")


def compare(repository: str) -> list[Comparison]:
    """Print how GitHub's rulesets differ from the files; return the files that differ."""
    live = _live(repository)
    files = sorted((ROOT / RULESETS).glob("*.json"))
    compared = [_compare(file, repository, live) for file in files]
    for one in compared:
        for difference in one.differences:
            show(f"{one.file}: {difference}")
    for extra in live:
        if extra["name"] not in [one.body["name"] for one in compared]:
            show(f"{repository}: has a ruleset {extra['name']!r} that no file names; left alone")
    return [one for one in compared if one.differences]


def apply(repository: str, differing: Sequence[Comparison]) -> list[Comparison]:
    """Make GitHub's rulesets equal to the files; return those that differ even then."""
    for one in differing:
        where = f"repos/{repository}/rulesets"
        if one.id is None:
            _api("POST", where, one.body)
        else:
            _api("PUT", f"{where}/{one.id}", one.body)
        show(f"{one.file}: {'made' if one.id is None else 'changed'}")
    # What GitHub made of it counts, not that it took it.
    return compare(repository) if differing else []


def _compare(file: Path, repository: str, live: Sequence[dict[str, Any]]) -> Comparison:
    wanted = json.loads(file.read_text(encoding="utf-8"))
    name, file = wanted["name"], file.relative_to(ROOT)
    numbers = [each["id"] for each in live if each["name"] == name]
    if not numbers:
        return Comparison(file=file, body=wanted, id=None, differences=["is not on GitHub"])
    if len(numbers) > 1:
        stop(
            f"protect: {repository} has {len(numbers)} rulesets named {name!r}; delete all but one"
        )
    body = _api("GET", f"repos/{repository}/rulesets/{numbers[0]}")
    if "bypass_actors" not in body:
        stop(
            f"protect: {repository} does not show who may bypass {name!r}, so it can't be judged; "
            "log in as one who may administer it: gh auth login"
        )
    return Comparison(file=file, body=wanted, id=numbers[0], differences=differences(wanted, body))


def differences(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Return how `live`, a ruleset as GitHub gives it, differs from `wanted`, a file's.

    GitHub adds fields of its own to what it is given (ids, dates, links). A file states every field
    that matters, so only those that it states are compared.
    """
    ours, theirs = _flat(wanted, wanted), _flat(live, wanted)
    return [
        f"{place}: live {_shown(theirs, place)}, file {_shown(ours, place)}"
        for place in sorted(ours.keys() | theirs.keys())
        if ours.get(place) != theirs.get(place) or (place in ours) != (place in theirs)
    ]


def _shown(values: Mapping[str, object], place: str) -> str:
    return json.dumps(values[place], sort_keys=True) if place in values else "has none"


def _flat(body: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, object]:
    """Return the fields of `body` that `wanted` states, by place."""
    flat = {key: body.get(key) for key in ("name", "target", "enforcement")}
    flat["bypass_actors"] = _unordered(body["bypass_actors"], wanted["bypass_actors"])
    for key in ("include", "exclude"):
        flat[f"conditions.{key}"] = _unordered(body["conditions"]["ref_name"].get(key), [])
    stated = {rule["type"]: rule.get("parameters", {}) for rule in wanted["rules"]}
    for rule in body["rules"]:
        kind, parameters = rule["type"], rule.get("parameters") or {}
        flat[kind] = True
        for key, value in stated.get(kind, {}).items():
            flat[f"{kind}.{key}"] = _unordered(parameters.get(key), value)
    return flat


def _unordered(value: Any, wanted: Any) -> Any:
    """Return a list in one order, which means nothing, its objects with the keys of `wanted`'s."""
    if not isinstance(value, list):
        return value
    keys = {key for each in wanted if isinstance(each, dict) for key in each}
    kept = [{key: each.get(key) for key in keys} if keys else each for each in value]
    return sorted(kept, key=lambda entry: json.dumps(entry, sort_keys=True))


def _live(repository: str) -> list[dict[str, Any]]:
    """Return the rulesets of the repository's own, without their rules."""
    # One page holds all: GitHub allows 75. An organisation's rulesets are not the repository's.
    listed: list[dict[str, Any]] = _api(
        "GET", f"repos/{repository}/rulesets?includes_parents=false&per_page=100"
    )
    return listed


def _this_repository() -> str:
    arguments = ["repo", "view", "--json", "nameWithOwner", "--jq", ".nameWithOwner"]
    return _gh(arguments).strip()


def _api(method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    arguments = ["api", "--method", method, path]
    if body is not None:
        arguments += ["--input", "-"]
    answer = _gh(arguments, None if body is None else json.dumps(body))
    try:
        return json.loads(answer)
    except json.JSONDecodeError:
        stop(f"protect: gh api {method} {path}: the answer is no JSON; is this GitHub's API?")


def _gh(arguments: Sequence[str], body: str | None = None) -> str:
    program = shutil.which("gh")
    if program is None:
        msg = "gh, GitHub's command line, is not installed: https://cli.github.com"
        raise _CannotAskError(msg)
    done = subprocess.run(
        [program, *arguments],
        cwd=ROOT,
        env={**os.environ, "GH_PROMPT_DISABLED": "1"},
        input=body,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    if done.returncode == _NOT_LOGGED_IN:
        msg = "gh is not logged in: run gh auth login, or set GH_TOKEN"
        raise _CannotAskError(msg)
    if done.returncode:
        _explain(arguments, done)
    return done.stdout


def _explain(arguments: Sequence[str], done: subprocess.CompletedProcess[str]) -> NoReturn:
    """End with what gh said in one line."""
    call = " ".join(word for word in arguments if not word.startswith("-"))
    said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    hint = "; name the repository: -- --repo OWNER/NAME" if arguments[0] == "repo" else ""
    stop(f"protect: gh {call}: {said}{hint}")
