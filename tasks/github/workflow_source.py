"""A workflow or an action as the rules read it, with the number of each line."""

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
    """Something to mend: where it is, what it is and what to do."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a job must have that is not one of every workflow: pyproject.toml declares it.

    Args:
        runs: the lines it runs, in order.
        needs: the jobs that must have passed before it.
        condition: its `if:`, or "".
        environment: its environment, or "".
        machine: its `runs-on:`.
        writes: what it may write; its other rights are to read.
        uploads: the folders that it may upload.
        uses: the actions it uses, in order, each with its `if:`; None if that is left open.
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
        sessions: the sessions that there are.
        tiers: the tiers that there are.
        actions: what a step may use, without its revision.
        reusable: the workflows that a job may call, without their revision.
        variables: what a step may set, each with its one value.
        jobs: by the name of a workflow's file, the jobs that it has of its own.
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
        """What starts the workflow, with the settings of each; nothing starts an action."""
        on = self.content.get("on")
        return on if isinstance(on, Mapping) else dict.fromkeys(map(str, names_in(on)))

    @property
    def is_workflow(self) -> bool:
        """Whether this is a workflow, and not an action."""
        return Path(self.file).parent.name == "workflows"

    @property
    def jobs(self) -> Mapping[str, CommentedMap]:
        """The jobs of a workflow by id; an action has none."""
        jobs = self.content.get("jobs")
        found = jobs if isinstance(jobs, Mapping) else {}
        return {name: job for name, job in found.items() if isinstance(job, CommentedMap)}

    @property
    def steps(self) -> list[CommentedMap]:
        """Every step, whatever job it is in."""
        owners = [*self.jobs.values(), mapping_at(self.content, "runs")]
        return [step for owner in owners for step in steps_of(owner)]

    def finding(self, parent: CommentedMap, key: str | None, text: str) -> Finding:
        """Return what was found at `key` of `parent`, or at `parent` itself where it lacks it."""
        where = parent.lc.key(key)[0] if key is not None and key in parent else parent.lc.line
        return Finding(self.file, where + 1, text)

    def job_finding(self, name: str, key: str | None, text: str) -> Finding:
        """Return what was found at `key` of a job, or at the job's name where it lacks the key."""
        job = self.jobs[name]
        line = job.lc.key(key)[0] if key is not None and key in job else self._line_of_job(name)
        return Finding(self.file, line + 1, text)

    def _line_of_job(self, name: str) -> int:
        line: int = self.content["jobs"].lc.key(name)[0]
        return line


def read(file: Path, root: Path, catalogue: Catalogue) -> Source | Finding:
    """Return what is in `file`, or why it cannot be read."""
    name = str(file.relative_to(root))
    try:
        text = file.read_text(encoding="utf-8")
        content = YAML(typ="rt").load(text)
    # ruamel lets errors of the types through: `!!bool x` is a LookupError.
    except (YAMLError, LookupError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        said = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        return Finding(name, mark.line + 1 if mark else 1, f"is no YAML ({said}); mend it")
    if not isinstance(content, CommentedMap):
        return Finding(name, 1, "is no workflow and no action; see the files beside it")
    return Source(name, text.splitlines(), content, catalogue)


def steps_of(owner: Mapping[str, Any]) -> list[CommentedMap]:
    """Return the steps of a job, or of an action's `runs`."""
    steps = owner.get("steps")
    return [step for step in steps if isinstance(step, CommentedMap)] if steps else []


def mapping_at(parent: Mapping[str, Any], key: str) -> CommentedMap:
    """Return what is at `key`, or an empty mapping where that is none: an expression, say."""
    value = parent.get(key)
    return value if isinstance(value, CommentedMap) else CommentedMap()


def names_in(setting: object) -> list[str]:
    """Return what a setting names that takes one name or a list of them."""
    if isinstance(setting, str):
        return [setting]
    return [*setting] if isinstance(setting, list) else []


def without_comment(line: str) -> str:
    """Return a line up to its comment."""
    return re.sub(r"(^|\s)#.*", "", line)
