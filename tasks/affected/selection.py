"""Which jobs of a tier a change needs: those whose declared inputs it touches."""

import os
import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tasks import catalogue, git
from tasks.catalogue import CATALOGUE, TIERS, Declaration, Part, PlannedJob, Tier
from tasks.errors import stop
from tasks.evidence import inputs
from tasks.options import Options
from tasks.project import ROOT, WORKSPACE

LABELS = ("gpu", "full-matrix")
_OFF = (
    "plan: {tier} is off, as this is a fork; to turn it on, set the repository variable "
    "RUN_ON_FORK to true (Settings, Secrets and variables, Actions, Variables)"
)
# GitHub's own machines, which end with the job; a name that is not known is taken for one of ours.
_HOSTED = re.compile(r"(ubuntu|windows|macos)-(latest|[\d.]+)(-arm|-large|-xlarge|-intel)?")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a tier runs.

    Args:
        jobs: the jobs to run.
        notes: what was left out and why, a line for each reason.
        off: why nothing runs at all, if that is so.
    """

    jobs: list[PlannedJob]
    notes: list[str] = field(default_factory=list)
    off: str = ""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What changed since a commit.

    Args:
        since: the commit, as the user named it.
        files: the files that differ; None where that cannot be told.
        problem: why not.
    """

    since: str
    files: frozenset[str] | None = None
    problem: str = ""


def plan(arguments: Sequence[str], root: Path = ROOT) -> Plan:
    """Return what `arguments` ask for, as in `pr --since origin/main --label gpu`.

    Only pull requests are selected from: every other tier runs everything.

    Raises:
        SystemExit: with exit code 2 and one line, when they name no tier or what is unknown.
    """
    parser = Options("plan")
    parser.add_argument("tier", nargs="*")
    parser.add_argument("--since", metavar="COMMIT")
    parser.add_argument("--label", action="append", default=[], choices=LABELS)
    parser.add_argument("--without", action="append", default=[], metavar="SESSION")
    asked = parser.parse_args(arguments)
    if len(asked.tier) != 1 or asked.tier[0] not in TIERS:
        stop(f"plan: name one tier, as in: nox -s plan -- pr (of {', '.join(TIERS)})")
    (tier,) = asked.tier
    if os.environ.get("RUNS_HERE") == "false":
        return Plan(jobs=[], off=_OFF.format(tier=tier))
    _check_without(asked.without, tier)
    if tier == "pr":
        # A pull request has labels for other readers too.
        labels = {each.strip() for each in os.environ.get("PLAN_LABELS", "").split(",")}
        change = None if asked.since is None else changed_since(asked.since, root)
        chosen = _of_pull_request(change, {*asked.label, *labels})
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
            stop(f"plan: --without {name}: the tier {tier} has no such job")


def _is_one_of(job: str, names: Container[str]) -> bool:
    """Whether `names` has a job, or its session with all of its parts."""
    return job in names or job.partition("(")[0] in names


def _check_machines(jobs: Iterable[PlannedJob], without: Container[str]) -> None:
    """Refuse what a stranger would run on a machine of our own, which outlives the job."""
    for job in jobs:
        labels = WORKSPACE.runners[job.runner]
        if not _is_one_of(job.session, without) and not all(map(_HOSTED.fullmatch, labels)):
            stop(
                f"plan: {job.session} runs on {', '.join(labels)}, and the pull request comes from "
                "a fork, whose code must not run on a self-hosted machine; take its label away, or "
                "push the branch to this repository once you have read it"
            )


def changed_since(since: str, root: Path) -> Change:
    """Return what differs between `root` and where its branch left `since`.

    Counts what is committed, what is not yet, and files that git does not know yet.
    """
    commit = git.output(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{since}^{{commit}}", cwd=root
    )
    if commit is None:
        return Change(since=since, problem=f"git knows no commit {since!r} here")
    base = git.output("merge-base", commit.strip(), "HEAD", cwd=root)
    if base is None:
        problem = f"no merge base with {since}; in a shallow clone, fetch the whole history"
        return Change(since=since, problem=problem)
    # Without renames: both the old and the new name count.
    listing = ("diff", "--name-only", "-z", "--no-renames", "--no-relative", "--no-ext-diff")
    tracked = git.output(*listing, base.strip(), "--", cwd=root)
    untracked = git.output("ls-files", "-z", "--others", "--exclude-standard", cwd=root)
    if tracked is None or untracked is None:
        return Change(since=since, problem=f"git cannot compare with {since}")
    files = frozenset(filter(None, (tracked + untracked).split("\0")))
    if not files:
        # After a merge, main is compared with itself: a plan of nothing would be green.
        return Change(since=since, problem=f"nothing differs from {since}")
    return Change(since=since, files=files)


def _of_pull_request(change: Change | None, labels: set[str]) -> Plan:
    """Choose among the jobs of the tier and those that a label adds to it."""
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
        notes.insert(0, f"plan: {change.problem}, so nothing is left out for being unaffected")
    return Plan(jobs=jobs, notes=notes)


def _why_not(
    declared: Declaration, part: Part, change: Change | None, labels: set[str]
) -> str | None:
    """Return why a job is not for the pull request; None if it is, "" if it never would be."""
    label = declared.label
    if label in labels:
        return None
    files = None if change is None else change.files
    if "pr" not in part.tiers:
        if label is None or not part.tiers:
            return ""
        # What the cells of the matrix differ in are the versions that the lock gives them.
        if label == "full-matrix" and files and "uv.lock" in files:
            return None
        lock = ", or when uv.lock changed" if label == "full-matrix" else ""
        return f"on a pull request only with the label {label}{lock}"
    if change is None or files is None or _touches(part, files):
        return None
    return f"none of its inputs changed since {change.since} (see {declared.name} in tasks/)"


def _touches(part: Part, files: Iterable[str]) -> bool:
    return any(inputs.covers(part.inputs, file) for file in files)
