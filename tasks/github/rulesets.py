"""The rulesets in .github/rulesets, checked against what GitHub takes and what the workflows give.

python -m tasks.github.rulesets

Run by the Python of the tools' environment, which has pydantic and ruamel.yaml. A file states every
field, so that nothing is left to a default that GitHub may change.
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

# Patterns of a condition that are GitHub's own words, and the branch that the first one is here.
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
    """What GitHub's API takes, as far as the files use it."""

    name: _Text
    target: Literal["branch", "tag"]
    # A ruleset that is not in force protects nothing; one that is not wanted has no file.
    enforcement: Literal["active"]
    bypass_actors: list[_Actor]
    conditions: _Conditions
    rules: Annotated[list[_Rule], Field(min_length=1)]

    def required_checks(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield the place and the name of each check that a rule requires."""
        for number, rule in enumerate(self.rules):
            if isinstance(rule, _StatusChecks):
                place = ("rules", number, "parameters", "required_status_checks")
                for index, check in enumerate(rule.parameters.required_status_checks):
                    yield (*place, index, "context"), check.context


@dataclass(frozen=True)
class _File:
    """A ruleset's file.

    Args:
        name: its path from the repository's root, as findings show it.
        body: its content.
        tree: the same as ruamel reads it, with the line of each place.
    """

    name: str
    body: Mapping[str, Any]
    tree: CommentedMap

    def finding(self, place: Iterable[str | int], message: str) -> Finding:
        """Return `message` with the line of `place`, or of the nearest place around it."""
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
    """Return what is wrong with the rulesets in `root`, each with file and line."""
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
            found += [_told(file, each) for each in error.errors()]
    if not rulesets and not found:
        nothing = Finding(str(FOLDER), 1, "holds no ruleset, so nothing is protected")
        found.append(nothing)
    wrong = [*_repeated(rulesets), *_missing_checks(rulesets, root)]
    return found or wrong or [*_unprotected(rulesets)]


def _read(path: Path, root: Path) -> _File | Finding:
    name = str(path.relative_to(root))
    try:
        text = path.read_text(encoding="utf-8")
        body = json.loads(text)  # YAML would take more than GitHub does
        tree = YAML(typ="rt").load(text)
    except json.JSONDecodeError as error:
        return Finding(name, error.lineno, f"is not JSON: {error.msg}")
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        return Finding(name, line, harmless(str(error.problem)))
    except (OSError, ValueError, RecursionError, YAMLError) as error:
        return Finding(name, 1, harmless(f"cannot be read: {error}"))
    if not isinstance(tree, CommentedMap):
        return Finding(name, 1, "must be one ruleset, an object in braces")
    return _File(name, body, tree)


def _told(file: _File, error: Any) -> Finding:
    """Return one of pydantic's errors as a finding."""
    place = [*error["loc"]]
    if place[0] == "rules":
        del place[2:3]  # the rule's type, which is no place in the file
    shown = ".".join(map(str, place))
    message = error["msg"][0].lower() + error["msg"][1:]
    given = "" if error["type"] == "missing" else f", got {reprlib.repr(error['input'])}"
    return file.finding(place, f"{shown}: {message}{given}")


def _repeated(rulesets: Iterable[tuple[_File, Body]]) -> Iterator[Finding]:
    """Yield a finding for each name that two rulesets have, and each type that two rules have."""
    first: dict[str, str] = {}
    for file, body in rulesets:
        if body.name in first:
            text = f"{first[body.name]} has the name {body.name!r} already"
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
            yield source  # it may be the one that has the check
            return
        jobs |= set(checks_of_pull_requests(source))
    for file, body in rulesets:
        for place, check in body.required_checks():
            if check not in jobs:
                known = ", ".join(sorted(jobs)) or "none"
                text = f"requires the check {check!r}, which no job reports on pull_request, so no "
                text += f"pull request could be merged; jobs that do: {known}"
                yield file.finding(place, text)


def checks_of_pull_requests(source: Source) -> list[str]:
    """Return the names of the checks that a workflow gives every pull request."""
    if "pull_request" not in source.triggers:
        return []
    names = [str(job.get("name", key)) for key, job in source.jobs.items()]
    return [name for name in names if "${{" not in name]  # a ruleset takes that for the name


def _unprotected(rulesets: Iterable[tuple[_File, Body]]) -> Iterator[Finding]:
    """Yield a finding if a change that fails `GREEN` can get into the default branch."""
    requiring = [
        (file, body)
        for file, body in rulesets
        if body.target == "branch" and GREEN in dict(body.required_checks()).values()
    ]
    if not requiring:
        text = f"no ruleset of branches requires the check {GREEN!r}, so what fails it "
        yield Finding(str(FOLDER), 1, f"{text}can be merged")
    elif not any(_is_of_the_default_branch(body.conditions.ref_name) for _, body in requiring):
        text = f"the check {GREEN!r} is not required on the default branch: no ruleset "
        text += f"that requires it includes {_DEFAULT_BRANCH} without excluding that branch"
        yield requiring[0][0].finding(["conditions", "ref_name"], text)


def _is_of_the_default_branch(names: _RefName) -> bool:
    own_words = {_DEFAULT_BRANCH, _ALL_BRANCHES}
    # GitHub's `**/` is any number of folders, none included.
    patterns = [each.replace("**/", "*") for each in names.exclude]
    is_excluded = any(each in own_words or fnmatchcase(_MAIN, each) for each in patterns)
    return not own_words.isdisjoint(names.include) and not is_excluded


def main(root: Path) -> int:
    """Print a line for each finding; return 1 if there is one."""
    found = findings(root)
    show(*map(str, found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
