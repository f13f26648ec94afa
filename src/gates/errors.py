"""Errors and their exit codes, and how a command reports them."""

import argparse
import contextlib
import difflib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any, ClassVar, NoReturn

from gates.display import discard, in_one_line

_TRACEBACK = "GATES_TRACEBACK"


class ExitCode(IntEnum):
    """The exit codes of every command, in `gates` and in projects."""

    PASSED = 0
    FAILED = 1
    COULD_NOT_JUDGE = 2
    INCONCLUSIVE = 3
    INTERRUPTED = 130


class GateError(Exception):
    """An error that is reported in one line: what was wrong, where, and what to do."""

    exit_code: ClassVar[ExitCode] = ExitCode.COULD_NOT_JUDGE


class GateInputError(GateError):
    """An input is missing, unreadable, or not what it should be."""


class ConfigError(GateError):
    """A configuration is malformed, or a value in it is not allowed."""


class CheckpointError(GateError):
    """A checkpoint is missing, damaged, or in an unknown format."""


class AnswerError(GateError):
    """A model's answers are not what they must be."""

    exit_code = ExitCode.FAILED


class TrainingError(GateError):
    """Training cannot continue."""

    exit_code = ExitCode.FAILED


class CommandParser(argparse.ArgumentParser):
    """A parser that reports a wrong option in one line, like any other bad input."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the options; an unknown argument ends the command.

        A subcommand's parser checks this itself, because only it knows the subcommand's options.
        """
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            hint = _nearest(unknown[0], self._option_string_actions)
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        """End the command with one line on stderr."""
        choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        hint = _nearest(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else ""
        line = in_one_line(f"{self.prog}: {message}{hint}; see --help")
        self.exit(ExitCode.COULD_NOT_JUDGE, f"{line}\n")


def _nearest(word: str, known: Iterable[str]) -> str:
    """Return a suggestion for a misspelt `word`, or "" if no known word is similar.

    For a path without an option, suggest the option that the path's first part resembles.
    """
    names = {name.lstrip("-"): name for name in known}
    begins_with = re.split("[=/.]", word.lstrip("-"))[0]
    close = difflib.get_close_matches(begins_with, names, n=1, cutoff=0.75)
    if not close:
        return ""
    meant = names[close[0]]
    is_value = meant.startswith("-") and not word.startswith("-")
    return f"; did you mean {meant}{f' {word}' if is_value else ''}?"


def describe(error: Exception, *, longest: int = 300) -> str:
    """Return a third-party error's message on one line, or its class name if it has none."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def underlying(error: BaseException) -> str:
    """Return the file system's message if it caused `error`, else the message of `error`.

    Libraries often wrap the file system's errors in their own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__


def run_command(command: Callable[[], ExitCode]) -> int:
    """Run `command` and return its exit code; an error becomes one line on stderr.

    Exit code 1 means that harm was shown, so an unexpected error must not end with it. If the
    variable GATES_TRACEBACK is set, the traceback is printed as well.
    """
    try:
        code = command()
        _flush()
    except KeyboardInterrupt:
        _print_error("interrupted")
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - no error may look like a verdict
        if os.environ.get(_TRACEBACK):
            traceback.print_exc()
        with contextlib.suppress(OSError):
            _flush()
        _print_error(_line_of(error))
        return error.exit_code if isinstance(error, GateError) else ExitCode.COULD_NOT_JUDGE
    return code


# The extra of this package that installs each module.
_EXTRAS = {
    "aiohttp": "supply",
    "cyclonedx": "supply",
    "gcsfs": "gcs",
    "license_expression": "supply",
    "mlflow": "mlflow",
    "packageurl": "supply",
    "packaging": "supply",
    "rapidfuzz": "supply",
    "s3fs": "s3",
    "wandb": "wandb",
}


def _line_of(error: Exception) -> str:
    if isinstance(error, GateError):
        return str(error)
    if isinstance(error, OSError):
        # Not handled where it happened: a full disk, a deleted folder.
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    if _is_out_of_memory(error):
        return (
            "there is not enough memory; use a smaller batch or model, fewer examples, or a larger "
            "machine"
        )
    if isinstance(error, ModuleNotFoundError) and error.name:
        extra = _EXTRAS.get(error.name.partition(".")[0])
        if extra:
            return f"{error.name} is not installed; install the extra: gates[{extra}]"
    what = f"{type(error).__name__}: {error}"
    return f"unexpected {what}; set {_TRACEBACK}=1 to get a traceback for a bug report"


def _print_error(line: str) -> None:
    print(in_one_line(line), file=sys.stderr)


def _flush() -> None:
    """Flush stdout; if that fails, keep Python from trying again when it exits."""
    if sys.stdout is None:  # closed by the parent process
        return
    try:
        sys.stdout.flush()
    except OSError:
        discard(sys.stdout)
        raise


def _is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch raises its own RuntimeError, or names the allocator in it."""
    message = str(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in message
        or "bad_alloc" in message
    )
