"""The catalogue of sessions, in which each declares its tiers, runner, time-out and inputs.

Nox's tags, the plan that CI reads and the table in the README are all generated from it.
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
from tasks.errors import abort
from tasks.evidence import recording
from tasks.project import ROOT, WORKSPACE, members, needed_members

Tier = Literal["pr", "nightly", "release", "data"]
Runner = Literal["cpu", "gpu"]
TIERS: tuple[Tier, ...] = ("pr", "nightly", "release", "data")

# The nightly plan also runs the jobs of pull requests. A pull request skips jobs whose declared
# inputs it does not touch, and only the nightly run checks that those declarations are complete.
_INCLUDED_TIERS: dict[Tier, tuple[Tier, ...]] = {"nightly": ("pr",)}

# A change in these can change the result of every session.
ALWAYS_INPUTS = (
    "noxfile.py",
    "tasks",
    "pyproject.toml",
    *(f"src/{folder.name}/pyproject.toml" for folder in members()),
    "uv.lock",
)


# Done here because every session is declared through this module.
git.forget_locations()
# When a script starts Nox in the background, Nox and its children would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


class DuplicateSessionError(Exception):
    """Two sessions have the same name: Nox would only warn, and the later one would win."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of the runs that a session is split into, such as `unit(gates)`.

    Args:
        name: the text in the parentheses; "" for a session that is not split.
        arguments: arguments for the session's function.
        tiers: the tiers that run it; empty if it only runs by name.
        inputs: files and folders, relative to the root, that can change its result.
        in_image: whether its job in CI may run in the container image.
        takes_arguments: whether it receives the arguments after -- if the user names no part.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    tiers: tuple[Tier, ...] = ()
    inputs: tuple[str, ...] = ()
    in_image: bool = False
    takes_arguments: bool = False


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """A session as the catalogue lists it.

    Args:
        name: what a person types after `nox -s`.
        summary: the first line of its docstring.
        runner: the kind of machine it needs.
        timeout_minutes: how long CI lets it run.
        parallel: whether other sessions may run beside it under `nox -j`.
        label: the label with which a pull request also runs the parts of other tiers.
        parts: the runs that it is split into; a single unnamed one if it is not split.
        each: what each part covers, as help and docs show it; "" if it is not split.
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
    """One job of a tier, with all that CI needs to run `nox -s SESSION`."""

    session: str
    runner: Runner
    timeout_minutes: int
    in_image: bool = False


CATALOGUE: dict[str, Declaration] = {}


def session(  # noqa: PLR0913 - the columns of the catalogue, all keyword-only
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
    """Declare a function as a session; `nox --list` shows its name and docstring.

    Underscores in the name become dashes: `def gpu_test` is `nox -s gpu-test`.

    Args:
        timeout_minutes: how long CI lets it run.
        inputs: files and folders that can change its result, besides `ALWAYS_INPUTS`. Required
            for a session in a tier, since only a change in them makes a pull request run it.
        tiers: the tiers that run it.
        runner: the kind of machine it needs.
        parallel: whether other sessions may run beside it under `nox -j`.
        in_image: whether its job may run in the container image; True only if tried there.
        label: the label with which a pull request also runs the parts of other tiers.
        parts: the runs that it is split into, with their own tiers and inputs; the function then
            takes the arguments of a part.
        each: what each part covers, such as PROJECT.

    Raises:
        DuplicateSessionError: a session with that name already exists.
        ValueError: the function has no docstring.
        SystemExit: with exit code 2 and one line, if a tier or runner is unknown, inputs are
            missing or do not exist, or the time-out is not positive.
    """
    if isinstance(inputs, str):
        whole = Part(name="", tiers=tuple(tiers), inputs=(inputs,), in_image=in_image)
    else:
        whole = Part(name="", tiers=tuple(tiers), inputs=tuple(inputs), in_image=in_image)
    declared = (whole,) if parts is None else tuple(parts)
    problem = _declaration_problem(
        declared, runner, timeout_minutes, is_string=isinstance(inputs, str)
    )

    def declare(function: Callable[..., None]) -> Callable[..., None]:
        name = function.__name__.replace("_", "-")
        if name in CATALOGUE:
            msg = f"{function.__module__}.{name}: there is already a session named {name}"
            raise DuplicateSessionError(msg)
        if problem:
            abort(f"{_location(function)}: session {name}: {problem}")
        if not function.__doc__:
            msg = f"{function.__module__}.{name}: no docstring; nox --list shows its first line"
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
        run = _run_part(function, entry)
        if parts is not None:
            run = _parametrize(run, entry)
        return nox.session(name=name, tags=list(tiers), allow_parallel=parallel)(run)

    return declare


def _run_part(function: Callable[..., None], entry: Declaration) -> Callable[..., None]:
    """Wrap `function` so that Nox calls it with the name of a part and its run is recorded."""
    by_name = {part.name: part for part in entry.parts}

    @functools.wraps(function)
    def run(session: nox.Session, part: str = "") -> None:
        chosen = by_name[part]

        def checked() -> None:
            _require_inputs(chosen.inputs, entry.title(chosen))
            function(session, *chosen.arguments)

        recording.recorded(session, checked, tiers=sorted(chosen.tiers), declared=chosen.inputs)

    return run


def _parametrize(run: Callable[..., None], entry: Declaration) -> Callable[..., None]:
    """Return `run` as one Nox session per part, or only those that take the arguments after --."""
    parts = entry.parts
    if _has_arguments(sys.argv) and not any(
        entry.title(part) in _requested_sessions(sys.argv) for part in parts
    ):
        parts = tuple(part for part in parts if part.takes_arguments) or parts
    # Pass the name, since Nox prints the parameters, for example with --json.
    named = [nox.param(part.name, id=part.name, tags=list(part.tiers)) for part in parts]
    decorate: Callable[[Any], Any] = nox.parametrize("part", named)
    decorated: Callable[..., None] = decorate(run)
    return decorated


def of_projects(*tiers: Tier, in_image: bool = False) -> Iterator[Part]:
    """Yield a part for each project; its inputs are the project's code and configuration.

    The session's function takes a `Project`.

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
    """Return the inputs of a package: its code, the packages it needs and its configuration."""
    code = [f"src/{each}" for each in (package, *needed_members(package))]
    own = [f"configs/{package}", f"configs/data/{package}.json"]
    return (*code, *files_in("configs"), *(each for each in own if (ROOT / each).exists()))


def files_in(folder: str, pattern: str = "*") -> list[str]:
    """Return the files directly in a folder of the repository."""
    found = sorted(file for file in (ROOT / folder).glob(pattern) if file.is_file())
    return [str(file.relative_to(ROOT)) for file in found]


def _declaration_problem(
    parts: Sequence[Part], runner: str, timeout_minutes: int, *, is_string: bool
) -> str | None:
    """Return what is wrong with a declaration and what to write instead, or None."""
    unknown = [tier for part in parts for tier in part.tiers if tier not in TIERS]
    if unknown:
        return f"tier {unknown[0]!r} is unknown; write one of {', '.join(TIERS)}"
    if runner not in get_args(Runner):
        return f"runner {runner!r} is unknown; write one of {', '.join(get_args(Runner))}"
    if timeout_minutes <= 0:
        return f"timeout_minutes is {timeout_minutes}; write a number above 0"
    if is_string:
        (name,) = parts[0].inputs
        listed = f"inputs=[{name!r}]"
        return f"inputs is the string {name!r}; write a list of files and folders: {listed}"
    found = (_inputs_problem(part.inputs, are_required=bool(part.tiers)) for part in parts)
    return next(filter(None, found), None)


def _inputs_problem(inputs: tuple[str, ...], *, are_required: bool) -> str | None:
    """Return what is wrong with the inputs of a declaration, or None."""
    if are_required and not inputs:
        return "has tiers but no inputs; declare the files and folders that can change its result"
    missing = [each for each in inputs if not each or not (ROOT / each).exists()]
    if _is_checkout() and any(not each or not _is_tracked(each) for each in missing):
        expected = "write files and folders relative to its root"
        return f"input {missing[0]!r} is not in the repository; {expected}"
    return None


def _is_tracked(name: str) -> bool:
    """Whether git tracks `name`, which a sparse checkout may lack."""
    return git.output("ls-files", "--error-unmatch", "--", name, cwd=ROOT) is not None


def _require_inputs(inputs: Iterable[str], name: str) -> None:
    """Abort the session `name` if this checkout lacks one of its inputs."""
    missing = [each for each in inputs if not (ROOT / each).exists()]
    if missing and _is_checkout():
        advice = f"git sparse-checkout add {missing[0]}, or git checkout {missing[0]}"
        abort(f"{name}: {missing[0]} is not in this checkout; {advice}")


def _is_checkout() -> bool:
    """Whether this is a checkout: the image lacks .git, and the copies in tests lack tests/."""
    return all((ROOT / name).exists() for name in (".git", "tests"))


def _location(function: Callable[..., None]) -> str:
    code = function.__code__
    file = Path(code.co_filename)
    shown = file.relative_to(ROOT) if file.is_relative_to(ROOT) else file
    return f"{shown}:{code.co_firstlineno}"


def check_asked(arguments: Sequence[str]) -> None:
    """Abort, suggesting the closest name, if Nox's `arguments` request an unknown session."""
    for name in _requested_sessions(arguments):
        _check_name(name)


def _requested_sessions(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the sessions that Nox's `arguments` name."""
    own = list(itertools.takewhile(lambda word: word != "--", arguments))
    for index, word in enumerate(own):
        if word in {"-s", "-e", "--session", "--sessions"}:
            yield from itertools.takewhile(lambda each: not each.startswith("-"), own[index + 1 :])


def _has_arguments(arguments: Sequence[str]) -> bool:
    """Whether Nox's `arguments` include some for the session, after --."""
    return any(itertools.islice(itertools.dropwhile(lambda word: word != "--", arguments), 1, None))


def _check_name(name: str) -> None:
    known = [declared.name for declared in CATALOGUE.values()]
    close = difflib.get_close_matches(name, known, n=1)
    if name.partition("(")[0] not in known and close:
        abort(f"nox: there is no session {name}; did you mean {close[0]}?")


def plan(tier: Tier) -> list[PlannedJob]:
    """Return the jobs of `tier`, one per part, in the catalogue's order."""
    tiers = (tier, *_INCLUDED_TIERS.get(tier, ()))
    return [job for declared in CATALOGUE.values() for job in jobs_of(declared, *tiers)]


def jobs_of(declared: Declaration, *tiers: Tier) -> list[PlannedJob]:
    """Return the jobs of a session in any of `tiers`; without `tiers`, those in any tier."""
    return [
        declared.job(part)
        for part in declared.parts
        if any(tier in part.tiers for tier in tiers or TIERS)
    ]


def tiers_of(declared: Declaration) -> list[Tier]:
    """Return the tiers that run at least one job of `declared`."""
    return [tier for tier in TIERS if jobs_of(declared, tier)]


def markdown_table() -> str:
    """Return the catalogue as the README's table."""
    rows = [
        f"| `{_shown(declared)}` | {', '.join(tiers_of(declared)) or '-'} | {declared.summary} |"
        for declared in sorted(CATALOGUE.values(), key=_by_tier)
    ]
    return "\n".join(["| session | tiers | what it does |", "|---|---|---|", *rows])


def _shown(declared: Declaration) -> str:
    return f"{declared.name}({declared.each})" if declared.each else declared.name


def _by_tier(declared: Declaration) -> tuple[int, int]:
    """Sort key: by earliest tier, then by order of declaration."""
    tiers = tiers_of(declared)
    rank = TIERS.index(tiers[0]) if tiers else len(TIERS)
    return rank, list(CATALOGUE).index(declared.name)
