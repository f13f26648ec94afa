"""What the log says is where: replays it from its first entry."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gates.registry.history import STAGES, Action, Held, Stage


@dataclass(kw_only=True)
class Occupancy:
    """Who is in one stage, and who was.

    Args:
        versions: those to which the way back leads, the current one last.
        since: the entry that put the current one there.
        unconfirmed: the promotion of the current one, while nobody has checked it.
        known_good: every version that was there and was checked.
    """

    versions: list[int] = field(default_factory=list)
    since: Held | None = None
    unconfirmed: Held | None = None
    known_good: set[int] = field(default_factory=set)

    @property
    def current(self) -> int | None:
        """The version that is there; None if there is none."""
        return self.versions[-1] if self.versions else None

    @property
    def to_load(self) -> int | None:
        """The version that programs get: until a promotion is checked, the one before it."""
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
        """Take what was there without an entry, as somebody vouches for it."""
        assert held.entry.after is not None  # noqa: S101 - else there is nothing to adopt
        self.versions.append(held.entry.after)
        self.known_good.add(held.entry.after)
        self.since, self.unconfirmed = held, None

    def _go_back(self, version: int | None) -> None:
        # Not back and forth: after a rollback from 3 to 2, the way back leads on to 1.
        if version is None:
            self.versions = []
        elif version in self.versions:
            last = len(self.versions) - self.versions[::-1].index(version)
            self.versions = self.versions[:last]
        else:
            self.versions.append(version)


def replay(held: Iterable[Held]) -> dict[Stage, Occupancy]:
    """Return who is where after the entries of `held`."""
    stages: dict[Stage, Occupancy] = {stage: Occupancy() for stage in STAGES}
    for each in held:
        stages[each.entry.stage].take(each)
    return stages
