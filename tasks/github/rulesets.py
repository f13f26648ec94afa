"""Checks .github/rulesets against GitHub's schema and the checks that the workflows report.

python -m tasks.github.rulesets

Runs in the tools' environment, which has pydantic and ruamel.yaml. A file must state every field,
so that nothing depends on a default that GitHub may change.
"""

import json
import reprlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    StringConstraints,
    ValidationError,
)
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tasks.display import harmless, show
from tasks.github import workflow_source
from tasks.github.job_names import GREEN
from tasks.github.workflow_source import Catalogue, Finding, Source

FOLDER = Path(".github", "rulesets")
WORKFLOWS = Path(".github", "workflows")

# GitHub's keywords for ref patterns, and the default branch of this repository.
_DEFAULT_BRANCH, _ALL_BRANCHES = "~DEFAULT_BRANCH", "~ALL"
_MAIN = "refs/heads/main"

_Text = Annotated[str, StringConstraints(pattern=r"\S")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Actor(_Part):
    actor_id: NonNegativeInt | None
    actor_type: _Text
    bypass_mode: _Text


class _RefName(_Part):
    include: Annotated[list[_Text], Field(min_length=1)]
    exclude: list[_Text]


class _Conditions(_Part):
    ref_name: _RefName


class _Plain(_Part):
    type: Literal[
        "creation",
        "deletion",
        "non_fast_forward",
        "required_linear_history",
        "required_signatures",
    ]


class _PullRequestParameters(_Part):
    allowed_merge_methods: Annotated[list[_Text], Field(min_length=1)]
    dismiss_stale_reviews_on_push: bool
    require_code_owner_review: bool
    require_last_push_approval: bool
    required_approving_review_count: NonNegativeInt
    required_review_thread_resolution: bool


class _PullRequest(_Part):
    type: Literal["pull_request"]
    parameters: _PullRequestParameters


class _Check(_Part):
    context: _Text
    integration_id: NonNegativeInt | None


class _StatusChecksParameters(_Part):
    do_not_enforce_on_create: bool
    required_status_checks: Annotated[list[_Check], Field(min_length=1)]
    strict_required_status_checks_policy: bool


class _StatusChecks(_Part):
    type: Literal["required_status_checks"]
    parameters: _StatusChecksParameters


class _MergeQueueParameters(_Part):
    check_response_timeout_minutes: NonNegativeInt
    grouping_strategy: _Text
    max_entries_to_build: NonNegativeInt
    max_entries_to_merge: NonNegativeInt
    merge_method: _Text
    min_entries_to_merge: NonNegativeInt
    min_entries_to_merge_wait_minutes: NonNegativeInt


class _MergeQueue(_Part):
    type: Literal["merge_queue"]
    parameters: _MergeQueueParameters


_Rule = Annotated[_Plain | _PullRequest | _StatusChecks | _MergeQueue, Field(discriminator="type")]


class Body(_Part):
    """The parts of GitHub's ruleset schema that the files use."""

    name: _Text
    target: Literal["branch", "tag"]
    # A disabled ruleset protects nothing. To drop a ruleset, delete its file.
    enforcement: Literal["active"]
    bypass_actors: list[_Actor]
    conditions: _Conditions
    rules: Annotated[list[_Rule], Field(min_length=1)]

    def required_checks(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield the location and the name of each required check."""
        for number, rule in enumerate(self.rules):
            if isinstance(rule, _StatusChecks):
                place = ("rules", number, "parameters", "required_status_checks")
                for index, check in enumerate(rule.parameters.required_status_checks):
                    yield (*place, index, "context"), check.context


@dataclass(frozen=True)
class _File:
    """A ruleset file.

    Args:
        name: its path relative to the repository root, as shown in findings.
        body: its content.
        tree: the same content as parsed by ruamel, with line numbers.
    """

    name: str
    body: Mapping[str, Any]
    tree: CommentedMap

    def finding(self, place: Iterable[str | int], message: str) -> Finding:
        """Return a finding at the line of `place`, or of the closest parent that exists."""
        node: Any = self.tree
        line = 0
        for part in place:
            if isinstance(node, CommentedMap) and part in node:
                line, node = node.lc.key(part)[0], node[part]
            elif isinstance(node, CommentedSeq) and isinstance(part, int):
                line, node = node.lc.item(part)[0], node[part]
            else:
                break
        return Finding(self.name, line + 1, harmless(message))


def findings(root: Path) -> list[Finding]:
    """Return the problems of the rulesets in `root`, each with file and line."""
    found: list[Finding] = []
    rulesets: list[tuple[_File, Body]] = []
    for path in sorted((root / FOLDER).glob("*.json")):
        file = _read(path, root)
        if isinstance(file, Finding):
            found.append(file)
            continue
        try:
            rulesets.append((file, Body.model_validate(file.body)))
        except ValidationError as error:
            found += [_as_finding(file, each) for each in error.errors()]
    if not rulesets and not found:
        found.append(Finding(str(FOLDER), 1, "contains no ruleset, so nothing is protected"))
    wrong = [*_repeated(rulesets), *_missing_checks(rulesets, root)]
    return found or wrong or [*_unprotected(rulesets)]


def _read(path: Path, root: Path) -> _File | Finding:
    name = str(path.relative_to(root))
    try:
        text = path.read_text(encoding="utf-8")
        body = json.loads(text)  # stricter than YAML, and what GitHub accepts
        tree = YAML(typ="rt").load(text)
    except json.JSONDecodeError as error:
        return Finding(name, error.lineno, f"is not JSON: {error.msg}")
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return Finding(name, line, harmless(str(error.problem)))
    except (OSError, ValueError, RecursionError, YAMLError) as error:
        return Finding(name, 1, harmless(f"cannot be read: {error}"))
    if not isinstance(tree, CommentedMap):
        return Finding(name, 1, "is not a ruleset; expected one JSON object")
    return _File(name, body, tree)


def _as_finding(file: _File, error: Any) -> Finding:
    """Convert one of pydantic's errors to a finding."""
    place = [*error["loc"]]
    if place[0] == "rules":
        del place[2:3]  # pydantic inserts the rule's type, which is not a key in the file
    shown = ".".join(map(str, place))
    message = error["msg"][0].lower() + error["msg"][1:]
    given = "" if error["type"] == "missing" else f", got {reprlib.repr(error['input'])}"
    return file.finding(place, f"{shown}: {message}{given}")


def _repeated(rulesets: Iterable[tuple[_File, Body]]) -> Iterator[Finding]:
    """Yield a finding for each duplicate ruleset name and each duplicate rule type."""
    first: dict[str, str] = {}
    for file, body in rulesets:
        if body.name in first:
            text = f"the name {body.name!r} is already used by {first[body.name]}"
            yield file.finding(["name"], text)
        first.setdefault(body.name, file.name)
        types = [rule.type for rule in body.rules]
        for number, kind in enumerate(types):
            if kind in types[:number]:
                yield file.finding(["rules", number, "type"], f"a second rule of type {kind!r}")


def _missing_checks(rulesets: Iterable[tuple[_File, Body]], root: Path) -> Iterator[Finding]:
    jobs: set[str] = set()
    for path in sorted((root / WORKFLOWS).glob("*.y*ml")):
        source = workflow_source.read(path, root, Catalogue())
        if isinstance(source, Finding):
            yield source  # the unreadable file may be the one that defines the check
            return
        jobs |= set(checks_of_pull_requests(source))
    for file, body in rulesets:
        for place, check in body.required_checks():
            if check not in jobs:
                known = ", ".join(sorted(jobs)) or "none"
                text = f"requires the check {check!r}, which no job reports on pull_request, so no "
                text += f"pull request could be merged; reported checks: {known}"
                yield file.finding(place, text)


def checks_of_pull_requests(source: Source) -> list[str]:
    """Return the names of the checks that a workflow reports on every pull request."""
    if "pull_request" not in source.triggers:
        return []
    names = [str(job.get("name", key)) for key, job in source.jobs.items()]
    # A ruleset compares names literally, so an expression never matches.
    return [name for name in names if "${{" not in name]


def _unprotected(rulesets: Iterable[tuple[_File, Body]]) -> Iterator[Finding]:
    """Yield a finding if a change that fails `GREEN` can be merged to the default branch."""
    requiring = [
        (file, body)
        for file, body in rulesets
        if body.target == "branch" and GREEN in dict(body.required_checks()).values()
    ]
    if not requiring:
        text = f"no branch ruleset requires the check {GREEN!r}, so failing changes can be merged"
        yield Finding(str(FOLDER), 1, text)
    elif not any(_covers_default_branch(body.conditions.ref_name) for _, body in requiring):
        text = f"the check {GREEN!r} is not required on the default branch: no ruleset "
        text += f"that requires it includes {_DEFAULT_BRANCH} without excluding that branch"
        yield requiring[0][0].finding(["conditions", "ref_name"], text)


def _covers_default_branch(names: _RefName) -> bool:
    keywords = {_DEFAULT_BRANCH, _ALL_BRANCHES}
    # In GitHub's patterns, `**/` matches zero or more folders.
    patterns = [each.replace("**/", "*") for each in names.exclude]
    is_excluded = any(each in keywords or fnmatchcase(_MAIN, each) for each in patterns)
    return not keywords.isdisjoint(names.include) and not is_excluded


def main(root: Path) -> int:
    """Print a line for each finding; return 1 if there is one."""
    found = findings(root)
    show(*map(str, found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
