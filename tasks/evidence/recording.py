"""Every run of a session leaves a manifest, however it ends, and can have its inputs checked."""

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
    """Call `run`, and leave a manifest of it.

    Args:
        session: the session that it is.
        run: what the session does.
        tiers: the tiers that run it.
        declared: the files and folders that can change its result.
    """
    # A session that a test runs inside of another is part of that one.
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
        result, reason = _judge(error)
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
    """Let nothing that goes wrong with a manifest hide the session's own result."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        session.warn(f"No manifest of this run: {type(error).__name__}: {error}")


def _judge(error: BaseException) -> tuple[Result, str]:
    """Return how a session ended that raised `error`."""
    if isinstance(error, nox.sessions._SessionSkip):  # noqa: SLF001 - has no public name
        return "skipped", str(error)
    if isinstance(error, nox.sessions._SessionQuit):  # noqa: SLF001 - nor has this
        return "failed", str(error)
    if isinstance(error, KeyboardInterrupt):
        return "failed", "interrupted"
    if isinstance(error, nox.command.CommandFailed):
        return "failed", f"a command failed: {error}"
    if isinstance(error, SystemExit):
        told = getattr(error, "__notes__", [])
        return "failed", " ".join([f"exit code {error.code}", *told])
    return "failed", f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _checked(session: nox.Session, declared: Sequence[str]) -> Iterator[None]:
    """Fail if files are read that are not `declared`, if the user asked for that."""
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
            session.warn(f"{session.name} {_told(session, stray)}")
        raise
    stray = inputs.undeclared(declared, opened)
    if stray:
        session.error(_told(session, stray))
    session.log(f"The inputs of {session.name} cover every file that it read")


def _told(session: nox.Session, stray: Sequence[str]) -> str:
    more = f" and {len(stray) - _SHOWN_FILES} more" if len(stray) > _SHOWN_FILES else ""
    return (
        f"reads {', '.join(stray[:_SHOWN_FILES])}{more}, which its inputs do not name; "
        f"add them to the inputs of {session.name} in tasks/, or do not read them"
    )
