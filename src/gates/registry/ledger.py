"""The log of one model in a registry, and the aliases that follow it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from gates.errors import ExitCode, GateError
from gates.registry import history, stages
from gates.registry.history import STAGES, Entry, Head, Held, History, Problem, Stage
from gates.registry.stages import StageState
from gates.registry.store import Store, Version


class RefusedError(GateError):
    """The state of the registry does not allow the operation."""

    exit_code: ClassVar[ExitCode] = ExitCode.FAILED


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot of the registry.

    Args:
        model: the name of the model.
        history: the log.
        stages: the state of each stage, according to the log.
        aliases: the version that each alias names; may lag behind the log.
        noted: the newest entry according to the note beside the log.
    """

    model: str
    history: History
    stages: Mapping[Stage, StageState]
    aliases: Mapping[str, int]
    noted: Head | None

    def version_in(self, stage: Stage) -> int | None:
        """Return the version that is in `stage`."""
        return self.stages[stage].current

    @property
    def unexplained(self) -> list[str]:
        """One sentence for each stage alias that no entry of the log explains."""
        return [
            f"the alias {stage} names version {self.aliases[stage]}, and no entry of the history "
            "put it there"
            for stage in self.foreign
        ]

    @property
    def foreign(self) -> list[Stage]:
        """The stages that have an alias but no entry in the log: something else set it."""
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

    def read(self) -> Snapshot:
        """Return a snapshot of the registry."""
        # The note first, then the log: in the other order, an entry appended in between would
        # look as if it were missing from the log.
        record = self._store.record(self._model)
        entries = self._store.entries(self._model)
        found = history.read(entries, record.head, model=self._model)
        # A writer notes the first entry before it appends the second, so with two entries there
        # must be a note. Both may have been appended since the note was read: read it again.
        if record.head is None and len(found.held) > 1:
            record = self._store.record(self._model)
        if record.head is None and len(found.held) > 1:
            lost = Problem(number=found.head.number, text="the note of the newest entry is missing")
            found = replace(found, problems=(*found.problems, lost))
        return Snapshot(
            model=self._model,
            history=found,
            stages=stages.replay(found.held),
            aliases=record.aliases,
            noted=record.head,
        )

    def append(self, snapshot: Snapshot, entry: Entry, version: Version) -> tuple[Held, Snapshot]:
        """Append `entry` to the log of `snapshot`; return it as logged, and the new snapshot.

        Raises:
            RefusedError: somebody else appended an entry first.
        """
        before = snapshot.history.head.digest
        entry = entry.model_copy(update={"previous": before})
        text = entry.to_text()
        self._store.append(version, text, summary=f"{entry.summary()}, {entry.by}")
        after = self.read()
        for each in after.history.held:
            if each.digest == history.digest_of(text):
                return each, after
        winner = next((e for e in after.history.held if e.entry.previous == before), None)
        cause = (
            f"{winner.entry.by} was quicker ({winner.entry.summary()})"
            if winner
            else "the new entry is void"
        )
        msg = f"{self._model}: {cause}; nothing was changed. Run python -m gates status and "
        msg += "decide again"
        raise RefusedError(msg)

    def align(self, snapshot: Snapshot) -> Snapshot:
        """Set the aliases to match the log, and note its newest entry.

        Reads the log again after each change. If several processes do this at the same time, the
        last to write then sees the entries that the others have appended.
        """
        while wrong := self._wrong(snapshot):
            for stage, number in wrong.items():
                self._store.point(self._model, stage, number)
            snapshot = self.read()
        if snapshot.history.held and (
            not snapshot.noted or snapshot.noted.number < snapshot.history.head.number
        ):
            self._store.note_head(self._model, snapshot.history.head)
        return snapshot

    def _wrong(self, snapshot: Snapshot) -> dict[Stage, int | None]:
        """Return the correct version for each alias that names another one.

        Leaves an alias alone if the log has no entry for its stage, since something else set it,
        or if the version in the log was deleted, since the alias may be all that is left.
        """
        wrong = {
            stage: state.to_load
            for stage, state in snapshot.stages.items()
            if state.since is not None and snapshot.aliases.get(stage) != state.to_load
        }
        if not wrong:
            return {}
        existing = {None, *(each.number for each in self._store.versions(self._model))}
        return {stage: number for stage, number in wrong.items() if number in existing}
