"""The interface that every registry implements, and its data types."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from gates.errors import GateInputError
from gates.files import sha256
from gates.registry.files import checkpoint_name
from gates.registry.history import Head, Stored, digest_of

LOG_SUFFIX = ".history"  # a model's log is stored under the model's name with this suffix

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE = re.compile(r"[\w-][\w.-]*")  # a plain file name: no folders, no ".."
_TAG = "gates."

# MLflow tags. ENTRY and DIGEST are on each version of a log: the entry's text and digest.
ENTRY, DIGEST = "gates.entry", "gates.digest"
RUN = "gates.run"  # on each version of a model: the MLflow run that holds its files
HEAD = "gates.head"  # on each model: the newest entry of its log


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model.

    Args:
        model: the model's name.
        number: the version number, from 1.
        source: where its files are.
        tags: what is recorded about it, by name.
    """

    model: str
    number: int
    source: str
    tags: Mapping[str, str]

    def __str__(self) -> str:
        return f"version {self.number} of {self.model}"

    def fact(self, name: str) -> str:
        """Return a fact that `gates register` recorded.

        Raises:
            GateInputError: the version was registered by other means, so nothing vouches for it.
        """
        try:
            return self.tags[_TAG + name]
        except KeyError:
            msg = f"{self}: has no tag {_TAG}{name}, so it cannot be checked; register it with: "
            msg += "python -m gates register"
            raise GateInputError(msg) from None

    @property
    def checkpoint(self) -> str | None:
        """The recorded SHA-256 of its checkpoint; None if there is none."""
        return self.tags.get(_TAG + "checkpoint")

    @property
    def is_registered(self) -> bool:
        """Whether it was created by `gates register` and not by other means."""
        return {_TAG + "checkpoint", _TAG + "files"} <= self.tags.keys()

    @property
    def listed(self) -> dict[str, str]:
        """The recorded digests of its files, not checked; empty if they cannot be parsed."""
        try:
            return {
                str(name): str(digest) for name, digest in json.loads(self.fact("files")).items()
            }
        except (ValueError, AttributeError):
            return {}

    @property
    def files(self) -> dict[str, str]:
        """SHA-256 of each of its files, by name.

        Raises:
            GateInputError: the list is malformed, or contradicts the recorded checkpoint.
        """
        files = self.listed
        if not files:
            msg = f"{self}: its {_TAG}files is not a list of digests"
            raise GateInputError(msg)
        for name in files:
            if not _FILE.fullmatch(name):
                msg = f"{self}: its {_TAG}files names {name!r}, which is not a file name"
                raise GateInputError(msg)
        checkpoint = checkpoint_name(files)
        if checkpoint is None or files[checkpoint] != self.fact("checkpoint"):
            msg = f"{self}: its {_TAG}files and {_TAG}checkpoint disagree on the checkpoint; "
            msg += "somebody has changed one of them"
            raise GateInputError(msg)
        return files

    @property
    def files_digest(self) -> str:
        """SHA-256 of the list of its files: one digest for all of them."""
        return digest_of(self.fact("files"))


def as_tags(facts: Mapping[str, str]) -> dict[str, str]:
    """Return facts about a version as tags."""
    return {_TAG + name: value for name, value in facts.items()}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What the registry stores about a model besides its versions and its log.

    Args:
        aliases: the version that each alias names.
        head: the newest entry of the log, as noted beside it.
    """

    aliases: Mapping[str, int]
    head: Head | None


@dataclass(frozen=True, kw_only=True)
class Caller:
    """The user and the time according to the server.

    Args:
        user: the authenticated user; None if the server has no authentication.
        time: the time by the server's clock.
    """

    user: str | None
    time: datetime


class UnreachableError(GateInputError):
    """A file could not be copied here although it may exist; the version may be intact."""


class Store(Protocol):
    """A registry. Every failure is a GateInputError that names the registry's address."""

    address: str

    def caller(self) -> Caller | None:
        """Return the user and time according to the server; None without a server."""

    def versions(self, model: str) -> list[Version]:
        """Return every version of `model`, oldest first; empty if there is no such model."""

    def add(self, model: str, files: Mapping[str, Path], facts: Mapping[str, str]) -> Version:
        """Store `files` and `facts` as a new version, completely or not at all."""

    def remove(self, version: Version) -> None:
        """Delete a version that nobody has used."""

    def attach(self, version: Version, file: Path, name: str) -> None:
        """Store another file with those of `version`."""

    def download(self, version: Version, name: str, folder: Path) -> Path:
        """Return a local, unchecked copy of one file of `version`.

        Raises:
            UnreachableError: the file could not be copied, although it may exist.
        """

    def record(self, model: str) -> Record:
        """Return the aliases and the noted head of `model`; empty if there is no such model."""

    def point(self, model: str, alias: str, number: int | None) -> None:
        """Point `alias` to another version, or delete it."""

    def entries(self, model: str) -> list[Stored]:
        """Return the log, oldest entry first."""

    def append(self, version: Version, text: str, *, summary: str) -> None:
        """Append an entry to the log with the next number, completely or not at all.

        Args:
            version: the version that the entry is about.
            text: the entry.
            summary: a short description for people who look at the registry.
        """

    def note_head(self, model: str, head: Head) -> None:
        """Note the log's newest entry beside it."""


def fetch_checked(store: Store, version: Version, names: Sequence[str], folder: Path) -> None:
    """Copy files of `version` into `folder`, and check that they are as registered.

    Raises:
        GateInputError: a file is missing or has changed.
    """
    digests = version.files
    for name in names:
        if name not in digests:
            msg = f"{version}: {name} is not one of its files; it has {', '.join(digests)}"
            raise GateInputError(msg)
        found = sha256(store.download(version, name, folder))
        if found != digests[name]:
            msg = f"{version}: {name} was changed after it was registered (SHA-256 "
            msg += f"{found[:12]}, registered as {digests[name][:12]}); do not use it, and "
            msg += "find out who could write to the registry's files"
            raise GateInputError(msg)


def check_name(model: str) -> str:
    """Return `model` if it is a valid name.

    Raises:
        GateInputError: it is not.
    """
    if not _NAME.fullmatch(model) or model.endswith(LOG_SUFFIX):
        msg = f"--name {model}: use up to 100 letters, digits, dots, dashes and underscores; the "
        msg += f"name must not end in {LOG_SUFFIX}"
        raise GateInputError(msg)
    return model
