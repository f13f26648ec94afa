"""The log of a model: one entry for each change of a stage, chained by digests.

Each entry contains the digest of the entry before it, so editing, removing or inserting one leaves
a trace. If two writers append at the same time, both entries name the same predecessor. The
registry numbers entries as it receives them; the lower number is valid and the other is void. The
append alone therefore decides who won, on any store that numbers its entries.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from gates.display import in_one_line
from gates.errors import GateInputError
from gates.verdicts.verdict import Digest

FORMAT: Literal["history/1"] = "history/1"

# The predecessor's digest in the first entry.
NOTHING_BEFORE = "0" * 64

Stage = Literal["staging", "production"]
STAGES: tuple[Stage, ...] = ("staging", "production")
LONGEST_REASON = 1000  # characters


class Action(StrEnum):
    """What an entry records.

    A promotion takes effect immediately; it is confirmed once the model was loaded from the
    registry and has answered. An acknowledgement lets the log continue after damage, and accepts
    a version that is in a stage without an entry.
    """

    PROMOTE = "promote"
    CONFIRM = "confirm"
    ROLLBACK = "rollback"
    ACKNOWLEDGE = "acknowledge"


class Entry(BaseModel):
    """One change of a stage.

    Args:
        format: the format's name and version.
        model: the name of the registered model.
        action: the kind of change.
        stage: the stage that changed.
        before: the version that was there; None if there was none.
        after: the version that is there now; None if there is none.
        checkpoint: SHA-256 of the checkpoint of `after`.
        files: SHA-256 of the list of files of `after`.
        verdict: SHA-256 of the verdict that allowed a promotion.
        commit: the git commit that `after` was made from.
        by: who did it.
        approver: who else agreed.
        when: the time, by the clock of the machine that did it.
        why: the reason, in the actor's own words.
        forgives: digests of the problems that an acknowledgement accepts.
        previous: SHA-256 of the entry before this one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    format: Literal["history/1"] = FORMAT
    model: str
    action: Action
    stage: Stage
    before: Annotated[int | None, Field(alias="from", gt=0)]
    after: Annotated[int | None, Field(alias="to", gt=0)]
    checkpoint: Digest | None = None
    files: Digest | None = None
    verdict: Digest | None = None
    commit: str | None = None
    by: str
    approver: str | None = None
    when: AwareDatetime
    why: Annotated[str, Field(max_length=LONGEST_REASON)]
    forgives: tuple[Digest, ...] = ()
    previous: Digest

    def to_text(self) -> str:
        """Return the entry as canonical JSON, the form in which the registry keeps it."""
        document = self.model_dump(mode="json", by_alias=True)
        document["when"] = self.when.astimezone(UTC).isoformat(timespec="milliseconds")
        return json.dumps(document, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Parse the text of an entry.

        Raises:
            ValueError: the text is not an entry.
        """
        return cls.model_validate_json(text)

    def summary(self) -> str:
        """Return the change in a few words, such as `production: 3 -> 4`."""
        move = f"{self.before or 'none'} -> {self.after or 'none'}"
        if self.action is Action.CONFIRM:
            return f"{self.stage}: {self.after} checked"
        if self.action is Action.ACKNOWLEDGE:
            if self.before == self.after:
                return "damage acknowledged"
            return f"{self.stage}: {move}, taken as it is"
        return f"{self.stage}: {move}"


def digest_of(text: str) -> str:
    """Return the SHA-256 of an entry's text."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Stored:
    """An entry as read from the registry, not yet checked.

    Args:
        number: its position in the log, from 1.
        text: the entry.
        digest: the SHA-256 stored with it.
        received: when the server received it, by the server's clock; None without a server.
    """

    number: int
    text: str
    digest: str
    received: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Head:
    """The newest entry seen so far, kept outside the log so that a truncated log is detected."""

    number: int
    digest: str

    def __str__(self) -> str:
        return f"{self.number} {self.digest}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse the output of `str`; None for any other text."""
        number, _, digest = text.partition(" ")
        return cls(number=int(number), digest=digest) if number.isdecimal() and digest else None


@dataclass(frozen=True, kw_only=True)
class _Read:
    number: int
    entry: Entry
    received: datetime | None = None

    @property
    def when(self) -> datetime:
        """When it was made; the server's clock, if there is one, overrides the entry."""
        return self.received or self.entry.when


@dataclass(frozen=True, kw_only=True)
class Held(_Read):
    """A valid entry: part of the chain."""

    digest: str


@dataclass(frozen=True, kw_only=True)
class Void(_Read):
    """An entry that lost a race and has no effect."""

    lost_to: int


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A place where the log is not as it was written.

    Args:
        number: the number of the entry.
        text: what is wrong with it.
        found: the text found in its place.
    """

    number: int
    text: str
    found: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the problem; it changes if the same entry is edited again.

        Acknowledgements record it, so rewording a problem revokes them.
        """
        return digest_of(f"{self.number} {self.text}\n{self.found}")


@dataclass(frozen=True, kw_only=True)
class History:
    """A log that has been read and checked.

    Args:
        held: the valid entries, oldest first.
        void: the entries that lost a race.
        problems: the entries that were edited or are missing.
    """

    held: tuple[Held, ...]
    void: tuple[Void, ...]
    problems: tuple[Problem, ...]

    @property
    def head(self) -> Head:
        """The newest valid entry."""
        if not self.held:
            return Head(number=0, digest=NOTHING_BEFORE)
        return Head(number=self.held[-1].number, digest=self.held[-1].digest)

    @property
    def open_problems(self) -> tuple[Problem, ...]:
        """The problems that nobody has acknowledged."""
        forgiven = {digest for each in self.held for digest in each.entry.forgives}
        return tuple(each for each in self.problems if each.digest not in forgiven)


def read(
    stored: Sequence[Stored], head: Head | None = None, *, model: str | None = None
) -> History:
    """Check a log from its first entry to its last.

    Args:
        stored: the entries, in the order of their numbers.
        head: the newest entry according to the registry's note beside the log.
        model: the model that every entry must be about; None for any model.
    """
    reader = _Reader(model)
    for each in stored:
        reader.take(each)
    if head is not None:
        reader.compare_with(head)
    return History(
        held=tuple(reader.held), void=tuple(reader.void), problems=tuple(reader.problems)
    )


class _Reader:
    def __init__(self, model: str | None) -> None:
        self._model = model
        self.held: list[Held] = []
        self.void: list[Void] = []
        self.problems: list[Problem] = []
        self._last = 0
        self._digest = NOTHING_BEFORE
        # The number of each entry's successor, by the digest of the entry.
        self._follower: dict[str, int] = {}
        self._digests: dict[int, str] = {}

    def take(self, stored: Stored) -> None:
        missing = range(self._last + 1, stored.number)
        for number in missing:
            self._find(number, "is missing")
        self._last = stored.number
        self._digests[stored.number] = stored.digest
        if digest_of(stored.text) != stored.digest:
            self._pass_over(stored, "was edited: its digest is not that of its text")
            return
        try:
            entry = Entry.from_text(stored.text)
        except ValidationError:
            self._pass_over(stored, "is not readable")
            return
        if self._model not in {None, entry.model}:
            self._pass_over(stored, f"is about another model, {in_one_line(entry.model)}")
            return
        if entry.previous != self._digest and entry.previous in self._follower:
            lost_to = self._follower[entry.previous]
            void = Void(
                number=stored.number, entry=entry, received=stored.received, lost_to=lost_to
            )
            self.void.append(void)
            return
        if entry.previous != self._digest and not missing:
            self._find(
                stored.number, "does not name the entry before it: one was changed", stored.text
            )
        self._follower[entry.previous] = stored.number
        self._digest = stored.digest
        held = Held(
            number=stored.number, entry=entry, digest=stored.digest, received=stored.received
        )
        self.held.append(held)

    def compare_with(self, head: Head) -> None:
        if head.number == 0:
            return
        if head.number > self._last:
            for number in range(self._last + 1, head.number + 1):
                self._find(number, "is missing")
        elif self._digests.get(head.number) != head.digest and head.number in self._digests:
            self._find(head.number, "is not the entry that the registry noted as its newest")

    def _pass_over(self, stored: Stored, problem: str) -> None:
        """Continue the chain from the stored digest, so that one edit is reported only once."""
        self._find(stored.number, problem, stored.text)
        self._follower[self._digest] = stored.number
        self._digest = stored.digest

    def _find(self, number: int, text: str, found: str = "") -> None:
        self.problems.append(Problem(number=number, text=f"entry {number} {text}", found=found))


def export(history: History) -> str:
    """Return the log as JSON lines, one entry per line."""
    lines = [
        {"number": each.number, "digest": each.digest, "entry": json.loads(each.entry.to_text())}
        for each in history.held
    ]
    return "".join(json.dumps(line, sort_keys=True) + "\n" for line in lines)


def differences(history: History, exported: str, *, where: str) -> Iterator[Problem]:
    """Yield each entry of an earlier export that is missing from the log or differs in it.

    Args:
        history: the log now.
        exported: the earlier output of `export`.
        where: the name of the export in messages.

    Raises:
        GateInputError: the text is not an export of a log.
    """
    now = {each.number: each for each in history.held}
    if not exported.strip():
        msg = f"{where}: has no entries, so there is nothing to compare; name an export that has"
        raise GateInputError(msg)
    for line in exported.splitlines():
        number, digest = _exported(line, where)
        if number not in now:
            yield Problem(number=number, text=f"entry {number} of {where} is missing")
        elif now[number].digest != digest:
            yield Problem(number=number, text=f"entry {number} differs from {where}")


def _exported(line: str, where: str) -> tuple[int, str]:
    try:
        document: dict[str, Any] = json.loads(line)
        return int(document["number"]), str(document["digest"])
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        msg = f"{where}: not a log that python -m gates history --export wrote"
        raise GateInputError(msg) from error


def now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)
