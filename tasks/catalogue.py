"""The one table of sessions: each declares its tiers, runner, time-out and inputs here.

Nox's tags, the plan that CI reads and the table in the README all follow from it.
"""

import difflib
import functools
import itertools
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import nox

from tasks import git
from tasks.errors import stop
from tasks.evidence import recording
from tasks.project import ROOT, WORKSPACE, members, needed_members

Tier = Literal["pr", "nightly", "release", "data"]
Runner = Literal["cpu", "gpu"]
TIERS: tuple[Tier, ...] = ("pr", "nightly", "release", "data")

# A plan of the night runs what pull requests do as well: those leave out what they do not affect by
# its declared inputs, which are checked at night only.
_ALSO: dict[Tier, tuple[Tier, ...]] = {"nightly": ("pr",)}

# Whatever a session reads besides, a change in these can change its result.
ALWAYS_INPUTS = (
    "noxfile.py",
    "tasks",
    "pyproject.toml",
    *(f"src/{folder.name}/pyproject.toml" for folder in members()),
    "uv.lock",
)


# Here, as every session is declared through this module.
git.forget_locations()
# Started in the background of a script, Nox and all that it starts would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


class DuplicateSessionError(Exception):
    """Two sessions of one name: Nox would warn and let the later one win."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the runs that a session is split into: `unit(gates)` for one package, say.

    Args:
        name: what stands in the parentheses; "" for a session that is not split.
        arguments: what the session's function is called with.
        tiers: the tiers that run it; empty for one that is only run by name.
        inputs: files and folders, relative to the root, that can change its result.
        in_image: whether its job in CI may run in the container image.
        takes_arguments: whether what stands after -- is for it where no part is named.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    tiers: tuple[Tier, ...] = ()
    inputs: tuple[str, ...] = ()
    in_image: bool = False
    takes_arguments: bool = False


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a session says of itself.

    Args:
        name: what a person types after `nox -s`.
        summary: the first line of its docstring.
        runner: the kind of machine it needs.
        timeout_minutes: when CI gives it up.
        parallel: whether other sessions may run beside it under `nox -j`.
        label: the label that adds those parts to a pull request that its tier has not.
        parts: the runs that it is split into; one without a name if it is not split.
        each: what they are of, as help and docs show it; "" if it is not split.
    """

    name: str
    summary: str
    runner: Runner
    timeout_minutes: int
    parallel: bool
    label: str | None
    parts: tuple[Part, ...]
    each: str

    def title(self, part: Part) -> str:
        """Return what a person types after `nox -s` for one part."""
        return f"{self.name}({part.name})" if part.name else self.name

    def job(self, part: Part) -> "PlannedJob":
        """Return the job that runs one part."""
        return PlannedJob(
            session=self.title(part),
            runner=self.runner,
            timeout_minutes=self.timeout_minutes,
            in_image=part.in_image,
        )


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """One job of a tier: what CI needs to know to run `nox -s SESSION` somewhere."""

    session: str
    runner: Runner
    timeout_minutes: int
    in_image: bool = False


CATALOGUE: dict[str, Declaration] = {}


def session(  # noqa: PLR0913 - the columns of a table, each given by its name
    *,
    timeout_minutes: int,
    inputs: Iterable[str] = (),
    tiers: Sequence[Tier] = (),
    runner: Runner = "cpu",
    parallel: bool = False,
    in_image: bool = False,
    label: str | None = None,
    parts: Iterable[Part] | None = None,
    each: str = "",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Declare a function as a session; its name and docstring are what `nox --list` shows.

    A dash stands for each underscore of the name: `def gpu_test` is `nox -s gpu-test`.

    Args:
        timeout_minutes: when CI gives it up.
        inputs: files and folders that can change its result, besides `ALWAYS_INPUTS`; one that
            is in a tier has some, or a change in them could not ask for it.
        tiers: the tiers that run it.
        runner: the kind of machine it needs.
        parallel: whether other sessions may run beside it under `nox -j`.
        in_image: whether its job may run in the container image: only if it was tried there.
        label: the label of a pull request that adds the parts that only other tiers run.
        parts: the runs that it is split into, with their own tiers and inputs; the function then
            takes the arguments of a part.
        each: what the parts are of, such as PROJECT.

    Raises:
        DuplicateSessionError: a session of that name is declared already.
        ValueError: the function has no docstring.
        SystemExit: with exit code 2 and one line, for an unknown tier or runner, inputs that are
            none or not there, or no time.
    """
    if isinstance(inputs, str):
        whole = Part(name="", tiers=tuple(tiers), inputs=(inputs,), in_image=in_image)
    else:
        whole = Part(name="", tiers=tuple(tiers), inputs=tuple(inputs), in_image=in_image)
    declared = (whole,) if parts is None else tuple(parts)
    wrong = _wrong(declared, runner, timeout_minutes, is_text=isinstance(inputs, str))

    def declare(function: Callable[..., None]) -> Callable[..., None]:
        name = function.__name__.replace("_", "-")
        if name in CATALOGUE:
            msg = f"{function.__module__}.{name}: there is a session named {name} already"
            raise DuplicateSessionError(msg)
        if wrong:
            stop(f"{_place(function)}: session {name}: {wrong}")
        if not function.__doc__:
            msg = f"{function.__module__}.{name}: a session's docstring is its line of help"
            raise ValueError(msg)
        entry = CATALOGUE[name] = Declaration(
            name=name,
            summary=function.__doc__.strip().splitlines()[0],
            runner=runner,
            timeout_minutes=timeout_minutes,
            parallel=parallel,
            label="gpu" if runner == "gpu" else label,
            parts=tuple(replace(part, inputs=(*ALWAYS_INPUTS, *part.inputs)) for part in declared),
            each=each,
        )
        run = _run_of_a_part(function, entry)
        if parts is not None:
            run = _parametrize(run, entry)
        return nox.session(name=name, tags=list(tiers), allow_parallel=parallel)(run)

    return declare


def _run_of_a_part(function: Callable[..., None], entry: Declaration) -> Callable[..., None]:
    """Return `function` as Nox calls it: with the name of a part, whose run is recorded."""
    by_name = {part.name: part for part in entry.parts}

    @functools.wraps(function)
    def run(session: nox.Session, part: str = "") -> None:
        chosen = by_name[part]

        def checked() -> None:
            _needs(chosen.inputs, entry.title(chosen))
            function(session, *chosen.arguments)

        recording.recorded(session, checked, tiers=sorted(chosen.tiers), declared=chosen.inputs)

    return run


def _parametrize(run: Callable[..., None], entry: Declaration) -> Callable[..., None]:
    """Return `run` as Nox's sessions of all parts, or of those that arguments after -- are for."""
    parts = entry.parts
    if _has_arguments(sys.argv) and not any(
        entry.title(part) in _asked(sys.argv) for part in parts
    ):
        parts = tuple(part for part in parts if part.takes_arguments) or parts
    # By name: Nox prints what it calls a session with, as JSON for one.
    named = [nox.param(part.name, id=part.name, tags=list(part.tiers)) for part in parts]
    decorate: Callable[[Any], Any] = nox.parametrize("part", named)
    decorated: Callable[..., None] = decorate(run)
    return decorated


def of_projects(*tiers: Tier, in_image: bool = False) -> Iterator[Part]:
    """Yield a part for each project, which what it and its configurations say can change.

    The function of the session takes a `Project`.

    Args:
        tiers: the tiers that run it.
        in_image: whether its job may run in the container image.
    """
    for project in WORKSPACE.projects:
        yield Part(
            name=project.package,
            arguments=(project,),
            tiers=tiers,
            inputs=read_by(project.package),
            in_image=in_image,
            takes_arguments=project.is_default,
        )


def read_by(package: str) -> tuple[str, ...]:
    """Return what the code of a package reads: its own, that of those it needs, configurations."""
    code = [f"src/{each}" for each in (package, *needed_members(package))]
    own = [f"configs/{package}", f"configs/data/{package}.json"]
    return (*code, *files_in("configs"), *(each for each in own if (ROOT / each).exists()))


def files_in(folder: str, pattern: str = "*") -> list[str]:
    """Return the files in a folder of the repository; those in folders of it are left out."""
    found = sorted(file for file in (ROOT / folder).glob(pattern) if file.is_file())
    return [str(file.relative_to(ROOT)) for file in found]


def _wrong(
    parts: Sequence[Part], runner: str, timeout_minutes: int, *, is_text: bool
) -> str | None:
    """Return what is wrong with a declaration, and what to write instead; None if nothing is."""
    unknown = [tier for part in parts for tier in part.tiers if tier not in TIERS]
    if unknown:
        return f"tier {unknown[0]!r} is unknown; write one of {', '.join(TIERS)}"
    if runner not in get_args(Runner):
        return f"runner {runner!r} is unknown; write one of {', '.join(get_args(Runner))}"
    if timeout_minutes <= 0:
        return f"timeout_minutes is {timeout_minutes}; write a number above 0"
    if is_text:
        (name,) = parts[0].inputs
        listed = f"inputs=[{name!r}]"
        return f"inputs is the text {name!r}; write a list of files and folders: {listed}"
    found = (_wrong_inputs(part.inputs, are_needed=bool(part.tiers)) for part in parts)
    return next(filter(None, found), None)


def _wrong_inputs(inputs: tuple[str, ...], *, are_needed: bool) -> str | None:
    """Return what is wrong with the inputs of a declaration; None if nothing is."""
    if are_needed and not inputs:
        return "has tiers and no inputs; declare the files and folders that can change its result"
    missing = [each for each in inputs if not each or not (ROOT / each).exists()]
    if _is_whole() and any(not each or not _is_tracked(each) for each in missing):
        expected = "write files and folders relative to its root"
        return f"input {missing[0]!r} is not in the repository; {expected}"
    return None


def _is_tracked(name: str) -> bool:
    """Whether git has `name`, which a sparse checkout may leave out."""
    return git.output("ls-files", "--error-unmatch", "--", name, cwd=ROOT) is not None


def _needs(inputs: Iterable[str], name: str) -> None:
    """End the session `name` where one of its inputs is left out of this checkout."""
    missing = [each for each in inputs if not (ROOT / each).exists()]
    if missing and _is_whole():
        advice = f"git sparse-checkout add {missing[0]}, or git checkout {missing[0]}"
        stop(f"{name}: {missing[0]} is not in this checkout; {advice}")


def _is_whole() -> bool:
    """Whether all of the repository is here: the image has no git, and a test's copy no tests."""
    return all((ROOT / name).exists() for name in (".git", "tests"))


def _place(function: Callable[..., None]) -> str:
    code = function.__code__
    file = Path(code.co_filename)
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    return f"{shown}:{code.co_firstlineno}"


def check_asked(arguments: Sequence[str]) -> None:
    """End with the nearest name where `arguments`, of Nox itself, ask for an unknown session."""
    for name in _asked(arguments):
        _check_name(name)


def _asked(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the sessions that `arguments`, of Nox itself, name."""
    own = list(itertools.takewhile(lambda word: word != "--", arguments))
    for at, word in enumerate(own):
        if word in {"-s", "-e", "--session", "--sessions"}:
            yield from itertools.takewhile(lambda each: not each.startswith("-"), own[at + 1 :])


def _has_arguments(arguments: Sequence[str]) -> bool:
    """Whether `arguments`, of Nox itself, have some for its sessions after --."""
    return any(itertools.islice(itertools.dropwhile(lambda word: word != "--", arguments), 1, None))


def _check_name(name: str) -> None:
    known = [declared.name for declared in CATALOGUE.values()]
    close = difflib.get_close_matches(name, known, n=1)
    if name.partition("(")[0] not in known and close:
        stop(f"nox: there is no session {name}; did you mean {close[0]}?")


def plan(tier: Tier) -> list[PlannedJob]:
    """Return the jobs of a run of `tier` in the catalogue's order, parts one by one."""
    tiers = (tier, *_ALSO.get(tier, ()))
    return [job for declared in CATALOGUE.values() for job in jobs_of(declared, *tiers)]


def jobs_of(declared: Declaration, *tiers: Tier) -> list[PlannedJob]:
    """Return the jobs of a session that one of `tiers` has; without any, those of every tier."""
    return [
        declared.job(part)
        for part in declared.parts
        if any(tier in part.tiers for tier in tiers or TIERS)
    ]


def tiers_of(declared: Declaration) -> list[Tier]:
    """Return the tiers that run at least one job of `declared`."""
    return [tier for tier in TIERS if jobs_of(declared, tier)]


def markdown_table() -> str:
    """Return the catalogue as the table that the README shows."""
    rows = [
        f"| `{_shown(declared)}` | {', '.join(tiers_of(declared)) or '-'} | {declared.summary} |"
        for declared in sorted(CATALOGUE.values(), key=_by_tier)
    ]
    return "\n".join(["| session | tiers | what it does |", "|---|---|---|", *rows])


def _shown(declared: Declaration) -> str:
    return f"{declared.name}({declared.each})" if declared.each else declared.name


def _by_tier(declared: Declaration) -> tuple[int, int]:
    """Sort key: the earliest tier first, then the order of declaration."""
    tiers = tiers_of(declared)
    rank = TIERS.index(tiers[0]) if tiers else len(TIERS)
    return rank, list(CATALOGUE).index(declared.name)
