"""A stand-in for Nox's session, for tests that call a session's function themselves."""

from typing import NoReturn


class SkippedError(Exception):
    """The session skipped."""


class FailedError(Exception):
    """The session failed."""


class Session:
    """What sessions say to Nox, kept in `logged`; how commands run is for each test to define."""

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
