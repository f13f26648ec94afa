"""Which version is in which stage, found by replaying the log from its first entry."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gates.registry.history import STAGES, Action, Held, Stage


@dataclass(kw_only=True)
class StageState:
    """The current version of a stage and the earlier ones.

    Args:
        versions: the versions that a rollback can return to, then the current one.
        since: the entry that put the current version there.
        unconfirmed: the promotion of the current version, until it is checked.
        known_good: every version that was ever in the stage and passed its check.
    """

    versions: list[int] = field(default_factory=list)
    since: Held | None = None
    unconfirmed: Held | None = None
    known_good: set[int] = field(default_factory=set)

    @property
    def current(self) -> int | None:
        """The version in the stage; None if it is empty."""
        return self.versions[-1] if self.versions else None

    @property
    def to_load(self) -> int | None:
        """The version that programs load: until a promotion is checked, the one before it."""
        return self.unconfirmed.entry.before if self.unconfirmed else self.current

    def take(self, held: Held) -> None:
        """Replay one entry of this stage."""
        entry = held.entry
        if entry.action is Action.PROMOTE and entry.after is not None:
            self.versions.append(entry.after)
            self.since = self.unconfirmed = held
        elif entry.action is Action.CONFIRM and entry.after is not None:
            self.known_good.add(entry.after)
            self.unconfirmed = None
        elif entry.action is Action.ROLLBACK:
            self._go_back(entry.after)
            self.since, self.unconfirmed = held, None
        elif entry.action is Action.ACKNOWLEDGE and entry.after not in {None, self.current}:
            self._adopt(held)

    def _adopt(self, held: Held) -> None:
        """Accept a version that is there without an entry, since somebody vouches for it."""
        assert held.entry.after is not None  # noqa: S101 - `take` checked it
        self.versions.append(held.entry.after)
        self.known_good.add(held.entry.after)
        self.since, self.unconfirmed = held, None

    def _go_back(self, version: int | None) -> None:
        # No going back and forth: after a rollback from 3 to 2, the next one leads to 1.
        if version is None:
            self.versions = []
        elif version in self.versions:
            last = len(self.versions) - self.versions[::-1].index(version)
            self.versions = self.versions[:last]
        else:
            self.versions.append(version)


def replay(held: Iterable[Held]) -> dict[Stage, StageState]:
    """Return the state of each stage after the entries of `held`."""
    stages: dict[Stage, StageState] = {stage: StageState() for stage in STAGES}
    for each in held:
        stages[each.entry.stage].take(each)
    return stages
