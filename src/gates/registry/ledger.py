"""The log of one model in a registry, and the aliases that follow it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from gates.errors import ExitCode, GateError
from gates.registry import history, stages
from gates.registry.history import STAGES, Entry, Head, Held, History, Problem, Stage
from gates.registry.stages import Occupancy
from gates.registry.store import Store, Version


class RefusedError(GateError):
    """The registry is not in a state in which this may be done."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


@dataclass(frozen=True, kw_only=True)
class Now:
    """What the registry says at one moment.

    Args:
        model: the name of the model.
        history: the log.
        stages: who is where, by the log.
        aliases: who is where, by the aliases, which may be a moment behind.
        noted: the entry that is noted beside the log as its newest.
    """

    model: str
    history: History
    stages: Mapping[Stage, Occupancy]
    aliases: Mapping[str, int]
    noted: Head | None

    def version_in(self, stage: Stage) -> int | None:
        """Return the version that is in `stage`."""
        return self.stages[stage].current

    @property
    def unexplained(self) -> list[str]:
        """The aliases of stages at which no entry ever put anything, a sentence each."""
        return [
            f"the alias {stage} names version {self.aliases[stage]}, and no entry of the history "
            "put it there"
            for stage in self.foreign
        ]

    @property
    def foreign(self) -> list[Stage]:
        """The stages whose aliases are somebody else's doing."""
        return [each for each in STAGES if each in self.aliases and not self.stages[each].since]


class Ledger:
    """The log of one model.

    Args:
        store: the registry.
        model: the name of the model.
    """

    def __init__(self, store: Store, model: str) -> None:
        self._store = store
        self._model = model

    def read(self) -> Now:
        """Return what the registry says now."""
        # First what was noted, then the log: the other way round, an entry in between is missing.
        record = self._store.record(self._model)
        entries = self._store.entries(self._model)
        found = history.read(entries, record.head, model=self._model)
        # Who appends the second entry has noted the first one before.
        if record.head is None and len(found.held) > 1:
            record = self._store.record(self._model)  # by now, where both came since the first look
        if record.head is None and len(found.held) > 1:
            lost = Problem(number=found.head.number, text="the note of the newest entry is missing")
            found = replace(found, problems=(*found.problems, lost))
        return Now(
            model=self._model,
            history=found,
            stages=stages.replay(found.held),
            aliases=record.aliases,
            noted=record.head,
        )

    def append(self, now: Now, entry: Entry, version: Version) -> tuple[Held, Now]:
        """Add `entry` after what `now` holds; return it in the log, and what holds then.

        Raises:
            RefusedError: somebody else's came first.
        """
        before = now.history.head.digest
        entry = entry.model_copy(update={"previous": before})
        text = entry.to_text()
        self._store.append(version, text, summary=f"{entry.summary()}, {entry.by}")
        after = self.read()
        for each in after.history.held:
            if each.digest == history.digest_of(text):
                return each, after
        winner = next((e for e in after.history.held if e.entry.previous == before), None)
        did = (
            f"{winner.entry.by} was quicker ({winner.entry.summary()})" if winner else "it is void"
        )
        msg = f"{self._model}: {did}; nothing was changed. Look at gates status, and decide again"
        raise RefusedError(msg)

    def align(self, now: Now) -> Now:
        """Make the aliases name what the log says, and note its newest entry.

        Reads the log again after each change: of several who do this at once, each with what it
        read a moment ago, the last to write sees what the others have appended.
        """
        while wrong := self._wrong(now):
            for stage, number in wrong.items():
                self._store.point(self._model, stage, number)
            now = self.read()
        if now.history.held and (not now.noted or now.noted.number < now.history.head.number):
            self._store.note_head(self._model, now.history.head)
        return now

    def _wrong(self, now: Now) -> dict[Stage, int | None]:
        """Return what each alias must name that names something else.

        An alias of a stage that the log does not know is somebody else's; where the version that
        the log knows was deleted, it may be all that is left.
        """
        wrong = {
            stage: place.to_load
            for stage, place in now.stages.items()
            if place.since is not None and now.aliases.get(stage) != place.to_load
        }
        if not wrong:
            return {}
        there = {None, *(each.number for each in self._store.versions(self._model))}
        return {stage: number for stage, number in wrong.items() if number in there}
