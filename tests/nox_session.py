"""A stand-in for Nox's session, for tests that call a session function directly."""

from typing import NoReturn


class SkippedError(Exception):
    """The session skipped."""


class FailedError(Exception):
    """The session failed."""


class Session:
    """Keeps log messages and warnings in `logged`; each test defines how commands run."""

    def __init__(self, *posargs: str) -> None:
        self.posargs = [*posargs]
        self.logged: list[str] = []

    def log(self, message: str) -> None:
        self.logged.append(message)

    def warn(self, message: str) -> None:
        self.logged.append(message)

    def skip(self, reason: str) -> NoReturn:
        raise SkippedError(reason)

    def error(self, reason: str) -> NoReturn:
        raise FailedError(reason)
