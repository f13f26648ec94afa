"""What status and history print."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from gates.display import in_one_line
from gates.errors import GateInputError
from gates.registry import history
from gates.registry.history import STAGES, Entry, Held, History, Problem, Stage, Void
from gates.registry.ledger import Now
from gates.registry.pipeline import Registry
from gates.registry.stages import Occupancy
from gates.registry.store import Version


def known(registry: Registry) -> Now:
    """Return what the registry says of its model.

    Raises:
        GateInputError: it has never heard of it.
    """
    now = registry.read()
    if not now.history.held and not now.history.problems:
        registry.check_registered()
    return now


def status(registry: Registry) -> tuple[list[str], bool]:
    """Return what is where, a line each, and whether the registry is what its history says.

    Raises:
        GateInputError: the registry has no such model.
    """
    now = known(registry)
    found, where = now.history, now.stages
    versions = {each.number: each for each in registry.store.versions(registry.model)}
    lines = [f"{registry.model} in {registry.store.address}"]
    wrong: list[str] = [*(each.text for each in found.open_problems), *now.unexplained]
    for stage in reversed(STAGES):
        lines.append(f"  {stage:<10}  {_occupant(where[stage], versions)}")
        wrong += _contradictions(stage, where[stage], now.aliases.get(stage), versions)
    newest = max(versions.values(), key=lambda each: each.number, default=None)
    if newest is not None:
        lines.append(f"  {'newest':<10}  {_named(newest)}")
    return [*lines, *(f"wrong: {each}" for each in wrong)], not wrong


def _occupant(place: Occupancy, versions: dict[int, Version]) -> str:
    if place.current is None or place.since is None:
        return "nothing"
    entry = place.since.entry
    version = versions.get(place.current)
    name = f"version {place.current}" if version is None else _named(version)
    unchecked = ", not checked yet" if place.unconfirmed else ""
    return f"{name} since {_time(place.since.when)} by {_actors(entry)}{unchecked}{_because(entry)}"


def _contradictions(
    stage: Stage, place: Occupancy, alias: int | None, versions: dict[int, Version]
) -> Iterator[str]:
    there = place.current
    if there is not None and there not in versions:
        yield f"version {there}, which the history has in {stage}, was deleted"
    if place.since is not None and alias != there and (there is None or there in versions):
        yield (
            f"the alias {stage} names version {alias or 'none'}, the history says "
            f"{there or 'none'}; the next promote or rollback puts it right"
        )


def listing(model: str, found: History) -> list[str]:
    """Return the entries, oldest first, a line each."""
    both: list[Held | Void] = sorted([*found.held, *found.void], key=lambda each: each.number)
    lines = [_line(each) for each in both] or [f"{model}: nothing was ever promoted"]
    return [*lines, *(f"wrong: {each.text}" for each in found.problems)]


def verification(model: str, found: History, wrong: Iterable[str]) -> list[str]:
    """Return whether the log is whole, and what is wrong with it."""
    told = [f"{model}: {each}" for each in wrong]
    if told:
        return told
    head = found.head
    return [f"{model}: {len(found.held)} entries, unbroken; the newest is {head.digest}"]


def compared(found: History, exported: Path) -> list[Problem]:
    """Return what is no longer as it was in an earlier export.

    Raises:
        GateInputError: the file cannot be read or is no export.
    """
    try:
        text = exported.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        msg = f"{exported}: cannot be read ({error}); gates history --export writes it"
        raise GateInputError(msg) from error
    return list(history.differences(found, text, where=str(exported)))


def _line(each: Held | Void) -> str:
    entry = each.entry
    void = f" [void: entry {each.lost_to} came first]" if isinstance(each, Void) else ""
    return (
        f"{each.number:>4}  {_time(each.when)}  {entry.action:<11}  {entry.summary()}  "
        f"by {_actors(entry)}{_because(entry)}{void}"
    )


def _actors(entry: Entry) -> str:
    approved = f", approved by {entry.approver}" if entry.approver else ""
    return in_one_line(entry.by + approved)


def _because(entry: Entry) -> str:
    # What anybody wrote must not look like a line of the history.
    return in_one_line(f": {entry.why}") if entry.why else ""


def _named(version: Version) -> str:
    return f"version {version.number} ({version.tags.get('gates.model_version', 'unknown')})"


def _time(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
