"""Selects the jobs of a tier that a change needs: those whose declared inputs it touches."""

import os
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks import catalogue, git
from tasks.catalogue import CATALOGUE, TIERS, Declaration, Part, PlannedJob, Tier
from tasks.errors import abort
from tasks.evidence import inputs
from tasks.options import Options
from tasks.project import ROOT, WORKSPACE

LABELS = ("gpu", "full-matrix")
_OFF = (
    "plan: {tier} is off because this is a fork; to turn it on, set the repository variable "
    "RUN_ON_FORK to true (Settings, Secrets and variables, Actions, Variables)"
)
# GitHub-hosted machines, which are discarded after the job. Other names count as self-hosted.
_HOSTED = re.compile(r"(ubuntu|windows|macos)-(latest|[\d.]+)(-arm|-large|-xlarge|-intel)?")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a tier runs.

    Args:
        jobs: the jobs to run.
        notes: what was left out and why, one line per reason.
        off: why nothing runs at all; "" if something may run.
    """

    jobs: list[PlannedJob]
    notes: list[str] = field(default_factory=list)
    off: str = ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What changed since a commit.

    Args:
        since: the commit, as the user named it.
        files: the files that differ; None if that is unknown.
        problem: why it is unknown.
    """

    since: str
    files: frozenset[str] | None = None
    problem: str = ""


def plan(arguments: Sequence[str], root: Path = ROOT) -> Plan:
    """Return the plan for `arguments` such as `pr --since origin/main --label gpu`.

    Only the tier `pr` leaves jobs out; every other tier runs all of its jobs.

    Raises:
        SystemExit: with exit code 2 and one line, if the arguments name no tier or an unknown
            tier, option, label or session.
    """
    parser = Options("plan")
    parser.add_argument("tier", nargs="*")
    parser.add_argument("--since", metavar="COMMIT")
    parser.add_argument("--label", action="append", default=[], choices=LABELS)
    parser.add_argument("--without", action="append", default=[], metavar="SESSION")
    asked = parser.parse_args(arguments)
    if len(asked.tier) != 1 or asked.tier[0] not in TIERS:
        abort(f"plan: name one tier, as in: nox -s plan -- pr (of {', '.join(TIERS)})")
    (tier,) = asked.tier
    if os.environ.get("RUNS_HERE") == "false":
        return Plan(jobs=[], off=_OFF.format(tier=tier))
    _check_without(asked.without, tier)
    if tier == "pr":
        # A pull request may also have labels that mean nothing here.
        labels = {each.strip() for each in os.environ.get("PLAN_LABELS", "").split(",")}
        change = None if asked.since is None else changed_since(asked.since, root)
        chosen = _plan_pull_request(change, {*asked.label, *labels})
        if os.environ.get("PLAN_FROM_FORK", "false") != "false":
            _check_machines(chosen.jobs, asked.without)
    else:
        narrowed = asked.since is not None or asked.label
        note = f"plan: {tier} runs everything: --since and --label are for pr"
        chosen = Plan(jobs=catalogue.plan(tier), notes=[note] if narrowed else [])
    kept = [job for job in chosen.jobs if not _is_one_of(job.session, asked.without)]
    return Plan(jobs=kept, notes=chosen.notes)


def _check_without(names: Iterable[str], tier: Tier) -> None:
    jobs = [job.session for job in catalogue.plan(tier)]
    for name in names:
        if not any(_is_one_of(job, [name]) for job in jobs):
            abort(f"plan: --without {name}: the tier {tier} has no such job")


def _is_one_of(job: str, names: Container[str]) -> bool:
    """Whether `names` contains a job, or the session that the job is a part of."""
    return job in names or job.partition("(")[0] in names


def _check_machines(jobs: Iterable[PlannedJob], without: Container[str]) -> None:
    """Abort if a fork's code would run on a self-hosted machine, which outlives the job."""
    for job in jobs:
        labels = WORKSPACE.runners[job.runner]
        if not _is_one_of(job.session, without) and not all(map(_HOSTED.fullmatch, labels)):
            abort(
                f"plan: {job.session} runs on {', '.join(labels)}, but the pull request comes from "
                "a fork, whose code must not run on a self-hosted machine; remove its label, or "
                "review the branch and push it to this repository"
            )


def changed_since(since: str, root: Path) -> Change:
    """Return what changed in `root` since its branch left `since`.

    Committed, uncommitted and untracked changes all count.
    """
    commit = git.output(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{since}^{{commit}}", cwd=root
    )
    if commit is None:
        return Change(since=since, problem=f"git finds no commit {since!r} here")
    base = git.output("merge-base", commit.strip(), "HEAD", cwd=root)
    if base is None:
        problem = f"no merge base with {since}; in a shallow clone, fetch the whole history"
        return Change(since=since, problem=problem)
    # --no-renames: both the old and the new name count.
    listing = ("diff", "--name-only", "-z", "--no-renames", "--no-relative", "--no-ext-diff")
    tracked = git.output(*listing, base.strip(), "--", cwd=root)
    untracked = git.output("ls-files", "-z", "--others", "--exclude-standard", cwd=root)
    if tracked is None or untracked is None:
        return Change(since=since, problem=f"git cannot compare with {since}")
    files = frozenset(filter(None, (tracked + untracked).split("\0")))
    if not files:
        # After a merge, main is compared with itself; an empty plan would be green.
        return Change(since=since, problem=f"nothing differs from {since}")
    return Change(since=since, files=files)


def _plan_pull_request(change: Change | None, labels: set[str]) -> Plan:
    """Choose among the jobs of the tier `pr` and the jobs that a label adds to it."""
    jobs: list[PlannedJob] = []
    left_out: dict[str, list[str]] = {}
    for declared in CATALOGUE.values():
        for part in declared.parts:
            reason = _why_not(declared, part, change, labels)
            if reason is None:
                jobs.append(declared.job(part))
            elif reason:
                left_out.setdefault(reason, []).append(declared.title(part))
    notes = [f"plan: left out {', '.join(names)}: {reason}" for reason, names in left_out.items()]
    if change is not None and change.files is None:
        notes.insert(0, f"plan: {change.problem}, so no job is left out as unaffected")
    return Plan(jobs=jobs, notes=notes)


def _why_not(
    declared: Declaration, part: Part, change: Change | None, labels: set[str]
) -> str | None:
    """Return why the pull request does not need a job; None if it does, "" if it never would."""
    label = declared.label
    if label in labels:
        return None
    files = None if change is None else change.files
    if "pr" not in part.tiers:
        if label is None or not part.tiers:
            return ""
        # The cells of the matrix differ only in the versions that they get from the lock.
        if label == "full-matrix" and files and "uv.lock" in files:
            return None
        lock = ", or when uv.lock changed" if label == "full-matrix" else ""
        return f"on a pull request only with the label {label}{lock}"
    if change is None or files is None or _touches(part, files):
        return None
    return f"none of its inputs changed since {change.since} (see {declared.name} in tasks/)"


def _touches(part: Part, files: Iterable[str]) -> bool:
    return any(inputs.covers(part.inputs, file) for file in files)
