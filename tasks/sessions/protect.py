"""Branch protection as code: compares .github/rulesets with the rulesets on GitHub."""

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
from tasks.errors import abort
from tasks.github import code_owners
from tasks.options import Options
from tasks.project import ROOT

RULESETS = Path(".github", "rulesets")

# gh's documented exit code for "not logged in".
_NOT_LOGGED_IN = 4
# Names that GitHub allows. Checked because the name becomes part of URLs.
_REPOSITORY = re.compile(r"[A-Za-z0-9_-]+/(?!\.{1,2}$)[A-Za-z0-9._-]+")


class _CannotAskError(Exception):
    """GitHub cannot be queried: gh is not installed or not logged in."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A ruleset file compared with the ruleset of the same name on GitHub.

    Args:
        file: path of the file, relative to the root.
        body: content of the file.
        id: GitHub's id of the ruleset; None if it is not on GitHub.
        differences: one line per difference; a missing ruleset counts as one.
    """

    file: Path
    body: Mapping[str, Any]
    id: int | None
    differences: list[str]


@session(timeout_minutes=5, inputs=[".github"])
def protect(session: nox.Session) -> None:
    """Compare the branch and tag rules in .github/rulesets with GitHub's; -- --apply sets them.

    Uses gh, GitHub's command line. If gh is missing or not logged in, only the files are checked
    and the rest is skipped, which is an error with CI=true. After --: --apply updates GitHub's
    rulesets to match the files; --repo OWNER/NAME selects a repository other than this clone's.
    Rulesets on GitHub without a file are reported and left unchanged.
    """
    parser = Options("protect")
    parser.add_argument("--apply", action="store_true")
    parser.add_argument("--repo")
    options = parser.parse_args(session.posargs)
    if options.repo is not None and not _REPOSITORY.fullmatch(options.repo):
        parser.error(f"--repo {options.repo!r}: expected OWNER/NAME")
    tools = environment.prepare(environment.of_tools(environment.default_python()))
    environment.run(session, tools, "python", "-m", "tasks.github.rulesets")
    # Only a warning, because the template has no team. But without owners, nobody has to approve.
    for line in code_owners.unowned(ROOT):
        print(line)
    try:
        repository = options.repo or _this_repository()
        differing = compare(repository)
        if options.apply:
            differing = apply(repository, differing)
    except _CannotAskError as error:
        if environment.in_ci():
            abort(f"protect: {error}; with CI=true, protect must not be skipped")
        session.skip(str(error))
    if differing:
        session.error(f"{repository} does not match the files; run: nox -s protect -- --apply")
    session.log(f"{repository} matches the files")


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
            show(f"{repository}: the ruleset {extra['name']!r} has no file here; left unchanged")
    return [one for one in compared if one.differences]


def apply(repository: str, differing: Sequence[Comparison]) -> list[Comparison]:
    """Update GitHub's rulesets to match the files; return those that still differ."""
    for one in differing:
        where = f"repos/{repository}/rulesets"
        if one.id is None:
            _api("POST", where, one.body)
        else:
            _api("PUT", f"{where}/{one.id}", one.body)
        show(f"{one.file}: {'created' if one.id is None else 'updated'}")
    # GitHub may accept a request without applying all of it, so compare again.
    return compare(repository) if differing else []


def _compare(file: Path, repository: str, live: Sequence[dict[str, Any]]) -> Comparison:
    wanted = json.loads(file.read_text(encoding="utf-8"))
    name, file = wanted["name"], file.relative_to(ROOT)
    numbers = [each["id"] for each in live if each["name"] == name]
    if not numbers:
        return Comparison(file=file, body=wanted, id=None, differences=["is not on GitHub"])
    if len(numbers) > 1:
        abort(
            f"protect: {repository} has {len(numbers)} rulesets named {name!r}; delete all but one"
        )
    body = _api("GET", f"repos/{repository}/rulesets/{numbers[0]}")
    if "bypass_actors" not in body:
        abort(
            f"protect: {repository} does not show who may bypass {name!r}, so it cannot be "
            "compared; log in as an administrator: gh auth login"
        )
    return Comparison(file=file, body=wanted, id=numbers[0], differences=differences(wanted, body))


def differences(wanted: Mapping[str, Any], live: Mapping[str, Any]) -> list[str]:
    """Return the differences between `live`, GitHub's ruleset, and `wanted`, the file's.

    GitHub adds fields such as ids, dates and links. A file states every field that matters, so only
    the file's fields are compared.
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
    """Return the fields of `body` that `wanted` states, by dotted path."""
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
    """Sort a list whose order has no meaning; reduce its objects to the keys that `wanted` uses."""
    if not isinstance(value, list):
        return value
    keys = {key for each in wanted if isinstance(each, dict) for key in each}
    kept = [{key: each.get(key) for key in keys} if keys else each for each in value]
    return sorted(kept, key=lambda entry: json.dumps(entry, sort_keys=True))


def _live(repository: str) -> list[dict[str, Any]]:
    """Return the repository's rulesets, without their rules."""
    # One page is enough: GitHub allows 75. Rulesets of the organisation are excluded.
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
        abort(f"protect: gh api {method} {path}: the response is not JSON; is this GitHub's API?")


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
    """Exit with gh's error message in one line."""
    call = " ".join(word for word in arguments if not word.startswith("-"))
    cause = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
    hint = "; name the repository: -- --repo OWNER/NAME" if arguments[0] == "repo" else ""
    abort(f"protect: gh {call}: {cause}{hint}")
