"""What a registry must be able to do, whoever keeps it."""

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

LOG_SUFFIX = ".history"  # of the name under which a model's log is kept

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FILE = re.compile(r"[\w-][\w.-]*")  # no folder, and nothing above
_TAG = "gates."

# How MLflow's tags of a version are called: of an entry of the log its text and digest, and of a
# registered model the run of MLflow's that holds its files. And of a model, the log's newest entry.
ENTRY, DIGEST, RUN = "gates.entry", "gates.digest", "gates.run"
HEAD = "gates.head"


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a registered model.

    Args:
        model: the model's name.
        number: which it is, from 1.
        source: where its files are.
        tags: what was noted of it, by name.
    """

    model: str
    number: int
    source: str
    tags: Mapping[str, str]

    def __str__(self) -> str:
        return f"version {self.number} of {self.model}"

    def fact(self, name: str) -> str:
        """Return what was noted when it was registered.

        Raises:
            GateInputError: it was registered by other means, so nothing vouches for it.
        """
        try:
            return self.tags[_TAG + name]
        except KeyError:
            msg = f"{self}: has no {_TAG}{name}, so nothing says what it must be; register it "
            msg += "with: python -m gates register"
            raise GateInputError(msg) from None

    @property
    def checkpoint(self) -> str | None:
        """SHA-256 of its checkpoint, as it was noted; None if it was not."""
        return self.tags.get(_TAG + "checkpoint")

    @property
    def is_registered(self) -> bool:
        """Whether `gates register` made it, and not somebody by other means."""
        return {_TAG + "checkpoint", _TAG + "files"} <= self.tags.keys()

    @property
    def listed(self) -> dict[str, str]:
        """What was noted of its files, not checked; nothing if that is no list."""
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
            GateInputError: the list is none, or does not fit the checkpoint that was noted.
        """
        files = self.listed
        if not files:
            msg = f"{self}: its {_TAG}files is not a list of digests"
            raise GateInputError(msg)
        for name in files:
            if not _FILE.fullmatch(name):
                msg = f"{self}: its {_TAG}files names {name!r}, which is no name of a file"
                raise GateInputError(msg)
        checkpoint = checkpoint_name(files)
        if checkpoint is None or files[checkpoint] != self.fact("checkpoint"):
            msg = f"{self}: its {_TAG}files lists another checkpoint than its {_TAG}checkpoint "
            msg += "names; somebody has changed one of them"
            raise GateInputError(msg)
        return files

    @property
    def files_digest(self) -> str:
        """SHA-256 of the list of its files: one figure that stands for all of them."""
        return digest_of(self.fact("files"))


def as_tags(facts: Mapping[str, str]) -> dict[str, str]:
    """Return facts about a version as the tags that hold them."""
    return {_TAG + name: value for name, value in facts.items()}


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of a model besides its versions and its log.

    Args:
        aliases: the version that each alias names.
        head: what was noted beside the log as its newest entry.
    """

    aliases: Mapping[str, int]
    head: Head | None


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who acts, and when, as a server knows it.

    Args:
        user: whom it has recognised; None where it lets anybody in.
        time: by its clock.
    """

    user: str | None
    time: datetime


class UnreachableError(GateInputError):
    """A file may be there and could not be copied here: that says nothing of the version."""


class Store(Protocol):
    """A registry. Whatever it cannot do is a GateInputError with its address."""

    address: str

    def caller(self) -> Caller | None:
        """Return who acts, as the server knows it; None where no server says so."""

    def versions(self, model: str) -> list[Version]:
        """Return every version of `model`, oldest first; none if it has no such model."""

    def add(self, model: str, files: Mapping[str, Path], facts: Mapping[str, str]) -> Version:
        """Keep `files` as a new version, which is there with all its facts or not at all."""

    def remove(self, version: Version) -> None:
        """Take out a version that nobody has used."""

    def attach(self, version: Version, file: Path, name: str) -> None:
        """Keep one more file beside those of `version`."""

    def download(self, version: Version, name: str, folder: Path) -> Path:
        """Return a local copy of one file of `version`, not checked.

        Raises:
            UnreachableError: it could not be copied, for another reason than that it is not there.
        """

    def record(self, model: str) -> Record:
        """Return what is kept of `model` itself; nothing if it has no such model."""

    def point(self, model: str, alias: str, number: int | None) -> None:
        """Make `alias` name another version, or none."""

    def entries(self, model: str) -> list[Stored]:
        """Return the log, oldest entry first."""

    def append(self, version: Version, text: str, *, summary: str) -> None:
        """Add an entry to the log, numbered after all that are there, whole or not at all.

        Args:
            version: that the entry is about.
            text: the entry.
            summary: what a person sees of it.
        """

    def note_head(self, model: str, head: Head) -> None:
        """Note the log's newest entry beside it."""


def fetch_checked(store: Store, version: Version, names: Sequence[str], folder: Path) -> None:
    """Copy files of `version` into `folder`, and check that they are what was registered.

    Raises:
        GateInputError: one is missing or was changed since.
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
    """Return the name of a model, if it can be one.

    Raises:
        GateInputError: it cannot.
    """
    if not _NAME.fullmatch(model) or model.endswith(LOG_SUFFIX):
        msg = f"--name {model}: use up to 100 letters, digits, dots, dashes and underscores, and "
        msg += f"not the ending {LOG_SUFFIX}"
        raise GateInputError(msg)
    return model
