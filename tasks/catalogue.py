"""The one table of sessions: each declares its tiers, runner, time-out and inputs here.

Nox's tags, the plan that CI reads and the table in the README all follow from it.
"""

import difflib
import functools
import itertools
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import nox

from tasks import git
from tasks.errors import stop
from tasks.evidence import recording
from tasks.project import PROJECT, ROOT, Cell

Tier = Literal["pr", "nightly", "release", "data"]
Runner = Literal["cpu", "gpu"]
TIERS: tuple[Tier, ...] = ("pr", "nightly", "release", "data")

# A plan of the night runs what pull requests do as well: those leave out what they do not affect by
# its declared inputs, which are checked at night only.
_ALSO: dict[Tier, tuple[Tier, ...]] = {"nightly": ("pr",)}

# Whatever a session reads besides, a change in these can change its result.
ALWAYS_INPUTS = ("noxfile.py", "tasks", "pyproject.toml", "uv.lock")


# Here, as every session is declared through this module.
git.forget_locations()
# Started in the background of a script, Nox and all that it starts would ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


class DuplicateSessionError(Exception):
    """Two sessions of one name: Nox would warn and let the later one win."""


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a session says of itself.

    Args:
        name: what a person types after `nox -s`.
        summary: the first line of its docstring.
        tiers: the tiers that run it; empty for one that is only run by name.
        runner: the kind of machine it needs.
        timeout_minutes: when CI gives it up.
        inputs: files and folders, relative to the root, that can change its result.
        parallel: whether other sessions may run beside it under `nox -j`.
        in_image: whether its job in CI may run in the container image; of a matrix only the
            default cell, which is the one whose packages are in it.
        cells: the matrix cells it is split into, each with its own tiers.
    """

    name: str
    summary: str
    tiers: tuple[Tier, ...]
    runner: Runner
    timeout_minutes: int
    inputs: tuple[str, ...]
    parallel: bool
    in_image: bool
    cells: Mapping[Cell, tuple[Tier, ...]]


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
    cells: Mapping[Cell, tuple[Tier, ...]] | None = None,
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
        cells: matrix cells with their tiers; the function then takes `python` and `torch`.

    Raises:
        DuplicateSessionError: a session of that name is declared already.
        ValueError: the function has no docstring.
        SystemExit: with exit code 2 and one line, for an unknown tier or runner, inputs that are
            none or not there, or no time.
    """
    # Of a text a tuple would have the letters.
    declared_inputs = inputs if isinstance(inputs, str) else tuple(inputs)
    all_tiers = [*tiers, *(tier for each in (cells or {}).values() for tier in each)]
    wrong = _wrong(all_tiers, runner, timeout_minutes) or _wrong_inputs(
        declared_inputs, are_needed=bool(all_tiers)
    )

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
        CATALOGUE[name] = Declaration(
            name=name,
            summary=function.__doc__.strip().splitlines()[0],
            tiers=tuple(tiers),
            runner=runner,
            timeout_minutes=timeout_minutes,
            inputs=(*ALWAYS_INPUTS, *declared_inputs),
            parallel=parallel,
            in_image=in_image,
            cells=cells or {},
        )
        needed = CATALOGUE[name].inputs

        @functools.wraps(function)
        def run(*arguments: Any, **cell: str) -> None:
            _needs(needed, name)
            function(*arguments, **cell)

        recorded = recording.recorded(run, sorted({*all_tiers}), needed)
        if cells:
            recorded = _parametrize(recorded, cells)
        # `python` would be Nox's own word for the interpreter that it looks for itself.
        return nox.session(name=name, tags=list(tiers), allow_parallel=parallel)(recorded)

    return declare


def _wrong(tiers: Iterable[str], runner: str, timeout_minutes: int) -> str | None:
    """Return what is wrong with a declaration, and what to write instead; None if nothing is."""
    unknown = [tier for tier in tiers if tier not in TIERS]
    if unknown:
        return f"tier {unknown[0]!r} is unknown; write one of {', '.join(TIERS)}"
    if runner not in get_args(Runner):
        return f"runner {runner!r} is unknown; write one of {', '.join(get_args(Runner))}"
    if timeout_minutes <= 0:
        return f"timeout_minutes is {timeout_minutes}; write a number above 0"
    return None


def _wrong_inputs(inputs: str | tuple[str, ...], *, are_needed: bool) -> str | None:
    """Return what is wrong with the inputs of a declaration; None if nothing is."""
    if isinstance(inputs, str):
        listed = f"inputs=[{inputs!r}]"
        return f"inputs is the text {inputs!r}; write a list of files and folders: {listed}"
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


def _parametrize(
    function: Callable[..., None], cells: Mapping[Cell, tuple[Tier, ...]]
) -> Callable[..., None]:
    parameters = [
        nox.param(cell.python, cell.torch, id=str(cell), tags=list(tiers))
        for cell, tiers in cells.items()
    ]
    decorate: Callable[[Any], Any] = nox.parametrize(
        ["python_version", "torch_version"], parameters
    )
    decorated: Callable[..., None] = decorate(function)
    return decorated


def check_asked(arguments: Sequence[str]) -> None:
    """End with the nearest name where `arguments`, of Nox itself, ask for an unknown session."""
    own = list(itertools.takewhile(lambda word: word != "--", arguments))
    for at, word in enumerate(own):
        if word in {"-s", "-e", "--session", "--sessions"}:
            for name in itertools.takewhile(lambda each: not each.startswith("-"), own[at + 1 :]):
                _check_name(name)


def _check_name(name: str) -> None:
    known = [declared.name for declared in CATALOGUE.values()]
    close = difflib.get_close_matches(name, known, n=1)
    if name.partition("(")[0] not in known and close:
        stop(f"nox: there is no session {name}; did you mean {close[0]}?")


def plan(tier: Tier) -> list[PlannedJob]:
    """Return the jobs of a run of `tier` in the catalogue's order, matrix cells one by one."""
    tiers = (tier, *_ALSO.get(tier, ()))
    return [job for declared in CATALOGUE.values() for job in jobs_of(declared, *tiers)]


def jobs_of(declared: Declaration, *tiers: Tier) -> list[PlannedJob]:
    """Return the jobs of a session that one of `tiers` has; without any, those of every tier."""

    def has_job(of: Sequence[Tier]) -> bool:
        return any(tier in of for tier in tiers or TIERS)

    if declared.cells:
        chosen = (cell for cell, tiers in declared.cells.items() if has_job(tiers))
        jobs = {f"{declared.name}({cell})": cell == PROJECT.default for cell in chosen}
    else:
        jobs = {declared.name: True} if has_job(declared.tiers) else {}
    return [
        PlannedJob(
            session=name,
            runner=declared.runner,
            timeout_minutes=declared.timeout_minutes,
            in_image=declared.in_image and has_its_packages,
        )
        for name, has_its_packages in jobs.items()
    ]


def tiers_of(declared: Declaration) -> list[Tier]:
    """Return the tiers that run at least one job of `declared`."""
    return [tier for tier in TIERS if jobs_of(declared, tier)]


def markdown_table() -> str:
    """Return the catalogue as the table that the README shows."""
    rows = [
        f"| `{declared.name}` | {', '.join(tiers_of(declared)) or '-'} | {declared.summary} |"
        for declared in sorted(CATALOGUE.values(), key=_by_tier)
    ]
    return "\n".join(["| session | tiers | what it does |", "|---|---|---|", *rows])


def _by_tier(declared: Declaration) -> tuple[int, int]:
    """Sort key: the earliest tier first, then the order of declaration."""
    tiers = tiers_of(declared)
    rank = TIERS.index(tiers[0]) if tiers else len(TIERS)
    return rank, list(CATALOGUE).index(declared.name)
