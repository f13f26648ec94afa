"""Writes a manifest of every session run, however it ends, and checks its inputs on request."""

import contextlib
import importlib.metadata
import os
import time
from collections.abc import Callable, Iterator, Sequence

import nox
import nox.command
import nox.sessions

from tasks.evidence import inputs, manifest
from tasks.evidence.manifest import Manifest, Result

_SHOWN_FILES = 20


def recorded(
    session: nox.Session,
    run: Callable[[], None],
    *,
    tiers: Sequence[str],
    declared: Sequence[str],
) -> None:
    """Call `run` and write its manifest.

    Args:
        session: the session.
        run: does the session's work.
        tiers: the tiers that run the session.
        declared: the files and folders that can change its result.
    """
    # A session that a test runs inside another session belongs to the outer one.
    if "NOX_CURRENT_SESSION" in os.environ:
        run()
        return
    with _recording(session, tiers, declared), _checked(session, declared):
        run()


@contextlib.contextmanager
def _recording(
    session: nox.Session, tiers: Sequence[str], declared: Sequence[str]
) -> Iterator[None]:
    started = time.perf_counter()
    begun: Manifest | None = None
    with _only_a_warning(session):
        version = importlib.metadata.version("nox")
        begun = manifest.begin(session.name, tiers, declared, version)
        arguments = ["--", *session.posargs] if session.posargs else []
        manifest.note_command(["nox", "-s", session.name, *arguments], {})
    result: Result = "passed"
    reason: str | None = None
    try:
        yield
    except BaseException as error:
        result, reason = _result_and_reason(error)
        raise
    finally:
        manifest.end()
        if begun is not None:
            begun.result = result
            begun.reason = None if reason is None else manifest.relative(" ".join(reason.split()))
            begun.seconds = round(time.perf_counter() - started, 3)
            with _only_a_warning(session):
                manifest.write(begun)


@contextlib.contextmanager
def _only_a_warning(session: nox.Session) -> Iterator[None]:
    """Turn any problem with the manifest into a warning, so that the session's result counts."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - any problem
        session.warn(f"No manifest of this run: {type(error).__name__}: {error}")


def _result_and_reason(error: BaseException) -> tuple[Result, str]:
    """Return the result of a session that raised `error`, and why."""
    if isinstance(error, nox.sessions._SessionSkip):  # noqa: SLF001 - has no public name
        return "skipped", str(error)
    if isinstance(error, nox.sessions._SessionQuit):  # noqa: SLF001 - has no public name
        return "failed", str(error)
    if isinstance(error, KeyboardInterrupt):
        return "failed", "interrupted"
    if isinstance(error, nox.command.CommandFailed):
        return "failed", f"a command failed: {error}"
    if isinstance(error, SystemExit):
        notes = getattr(error, "__notes__", [])
        return "failed", " ".join([f"exit code {error.code}", *notes])
    return "failed", f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _checked(session: nox.Session, declared: Sequence[str]) -> Iterator[None]:
    """Fail if the session reads files that are not `declared`, if the user asked for this check."""
    if not inputs.is_checked():
        yield
        return
    opened: set[str] = set()
    try:
        with inputs.observed(opened):
            yield
    except BaseException:
        stray = inputs.undeclared(declared, opened)
        if stray:
            session.warn(f"{session.name} {_describe(session, stray)}")
        raise
    stray = inputs.undeclared(declared, opened)
    if stray:
        session.error(_describe(session, stray))
    session.log(f"The inputs of {session.name} cover every file that it read")


def _describe(session: nox.Session, stray: Sequence[str]) -> str:
    more = f" and {len(stray) - _SHOWN_FILES} more" if len(stray) > _SHOWN_FILES else ""
    return (
        f"reads {', '.join(stray[:_SHOWN_FILES])}{more}, which its inputs do not cover; "
        f"add them to the inputs of {session.name} in tasks/, or do not read them"
    )
