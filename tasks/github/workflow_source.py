"""A parsed workflow or action, with line numbers for the rules' findings."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError


@dataclass(frozen=True, order=True)
class Finding:
    """A problem: where it is, what it is and how to fix it."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a job must contain, as declared in pyproject.toml.

    Jobs that every workflow has, such as `plan`, are not declared.

    Args:
        runs: the commands it runs, in order.
        needs: the jobs that must pass before it.
        condition: its `if:`, or "".
        environment: its environment, or "".
        machine: its `runs-on:`.
        writes: its write permissions; all others are read-only.
        uploads: the folders that it may upload.
        uses: the actions it uses, in order, each with its `if:`; None for any actions.
    """

    runs: Sequence[str]
    needs: Sequence[str] = ()
    condition: str = ""
    environment: str = ""
    machine: str = "ubuntu-24.04"
    writes: Sequence[str] = ()
    uploads: Sequence[str] = ()
    uses: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Catalogue:
    """What a workflow may call and use.

    Args:
        sessions: names of all sessions.
        tiers: names of all tiers.
        actions: actions that a step may use, without the revision.
        reusable: workflows that a job may call, without the revision.
        variables: environment variables that a step may set, each with its only allowed value.
        jobs: the declared jobs of each workflow, by the file's stem.
    """

    sessions: frozenset[str] = frozenset()
    tiers: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    reusable: frozenset[str] = frozenset()
    variables: Mapping[str, str] = field(default_factory=dict)
    jobs: Mapping[str, Mapping[str, Job]] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A workflow or a composite action, parsed."""

    file: str
    lines: Sequence[str]
    content: CommentedMap
    catalogue: Catalogue

    @property
    def triggers(self) -> Mapping[str, Any]:
        """The workflow's triggers and their settings; empty for an action."""
        on = self.content.get("on")
        return on if isinstance(on, Mapping) else dict.fromkeys(map(str, names_in(on)))

    @property
    def is_workflow(self) -> bool:
        """Whether this is a workflow rather than an action."""
        return Path(self.file).parent.name == "workflows"

    @property
    def jobs(self) -> Mapping[str, CommentedMap]:
        """The workflow's jobs by id; empty for an action."""
        jobs = self.content.get("jobs")
        found = jobs if isinstance(jobs, Mapping) else {}
        return {name: job for name, job in found.items() if isinstance(job, CommentedMap)}

    @property
    def steps(self) -> list[CommentedMap]:
        """The steps of all jobs, or of the action."""
        owners = [*self.jobs.values(), mapping_at(self.content, "runs")]
        return [step for owner in owners for step in steps_of(owner)]

    def finding(self, parent: CommentedMap, key: str | None, text: str) -> Finding:
        """Return a finding at the line of `key` in `parent`, or of `parent` if it lacks `key`."""
        where = parent.lc.key(key)[0] if key is not None and key in parent else parent.lc.line
        return Finding(self.file, where + 1, text)

    def job_finding(self, name: str, key: str | None, text: str) -> Finding:
        """Return a finding at the line of `key` in a job, or of its name if it lacks `key`."""
        job = self.jobs[name]
        line = job.lc.key(key)[0] if key is not None and key in job else self._line_of_job(name)
        return Finding(self.file, line + 1, text)

    def _line_of_job(self, name: str) -> int:
        line: int = self.content["jobs"].lc.key(name)[0]
        return line


def read(file: Path, root: Path, catalogue: Catalogue) -> Source | Finding:
    """Return the parsed `file`, or a finding if it cannot be read."""
    name = str(file.relative_to(root))
    try:
        text = file.read_text(encoding="utf-8")
        content = YAML(typ="rt").load(text)
    # ruamel does not wrap errors from tag constructors: `!!bool x` raises LookupError.
    except (YAMLError, LookupError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        cause = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        text = f"is not valid YAML ({cause}); fix the syntax"
        return Finding(name, mark.line + 1 if mark else 1, text)
    if not isinstance(content, CommentedMap):
        text = "is neither a workflow nor an action; compare it with the files beside it"
        return Finding(name, 1, text)
    return Source(name, text.splitlines(), content, catalogue)


def steps_of(owner: Mapping[str, Any]) -> list[CommentedMap]:
    """Return the steps of a job, or of an action's `runs`."""
    steps = owner.get("steps")
    return [step for step in steps if isinstance(step, CommentedMap)] if steps else []


def mapping_at(parent: Mapping[str, Any], key: str) -> CommentedMap:
    """Return the mapping at `key`, or an empty one if the value is missing or an expression."""
    value = parent.get(key)
    return value if isinstance(value, CommentedMap) else CommentedMap()


def names_in(setting: object) -> list[str]:
    """Return the names in a setting that accepts one name or a list of names."""
    if isinstance(setting, str):
        return [setting]
    return [*setting] if isinstance(setting, list) else []


def without_comment(line: str) -> str:
    """Return `line` without its comment."""
    return re.sub(r"(^|\s)#.*", "", line)
