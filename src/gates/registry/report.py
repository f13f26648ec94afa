"""The output of status and history."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from gates.display import in_one_line
from gates.errors import GateInputError
from gates.registry import history
from gates.registry.history import STAGES, Entry, Held, History, Problem, Stage, Void
from gates.registry.ledger import Snapshot
from gates.registry.pipeline import Registry
from gates.registry.stages import StageState
from gates.registry.store import Version


def known(registry: Registry) -> Snapshot:
    """Return a snapshot of the registry.

    Raises:
        GateInputError: the registry has no such model.
    """
    snapshot = registry.read()
    if not snapshot.history.held and not snapshot.history.problems:
        registry.check_registered()
    return snapshot


def status(registry: Registry) -> tuple[list[str], bool]:
    """Return a line for each stage, and whether the registry agrees with its history.

    Raises:
        GateInputError: the registry has no such model.
    """
    snapshot = known(registry)
    versions = {each.number: each for each in registry.store.versions(registry.model)}
    lines = [f"{registry.model} in {registry.store.address}"]
    wrong: list[str] = [
        *(each.text for each in snapshot.history.open_problems),
        *snapshot.unexplained,
    ]
    for stage in reversed(STAGES):
        lines.append(f"  {stage:<10}  {_current(snapshot.stages[stage], versions)}")
        wrong += _contradictions(
            stage, snapshot.stages[stage], snapshot.aliases.get(stage), versions
        )
    newest = max(versions.values(), key=lambda each: each.number, default=None)
    if newest is not None:
        lines.append(f"  {'newest':<10}  {_named(newest)}")
    return [*lines, *(f"wrong: {each}" for each in wrong)], not wrong


def _current(state: StageState, versions: dict[int, Version]) -> str:
    if state.current is None or state.since is None:
        return "nothing"
    entry = state.since.entry
    version = versions.get(state.current)
    name = f"version {state.current}" if version is None else _named(version)
    unchecked = ", not checked yet" if state.unconfirmed else ""
    return f"{name} since {_time(state.since.when)} by {_actors(entry)}{unchecked}{_because(entry)}"


def _contradictions(
    stage: Stage, state: StageState, alias: int | None, versions: dict[int, Version]
) -> Iterator[str]:
    current = state.current
    if current is not None and current not in versions:
        yield f"version {current}, which the history has in {stage}, was deleted"
    if state.since is not None and alias != current and (current is None or current in versions):
        yield (
            f"the alias {stage} names version {alias or 'none'}, the history has "
            f"{current or 'none'}; the next promote or rollback corrects it"
        )


def listing(model: str, found: History) -> list[str]:
    """Return one line per entry, oldest first."""
    both: list[Held | Void] = sorted([*found.held, *found.void], key=lambda each: each.number)
    lines = [_line(each) for each in both] or [f"{model}: the history is empty"]
    return [*lines, *(f"wrong: {each.text}" for each in found.problems)]


def verification(model: str, found: History, wrong: Iterable[str]) -> list[str]:
    """Return one line per problem of the log or, if it is intact, one that says so."""
    problems = [f"{model}: {each}" for each in wrong]
    if problems:
        return problems
    head = found.head
    return [f"{model}: {len(found.held)} entries, unbroken; the newest is {head.digest}"]


def compared(found: History, exported: Path) -> list[Problem]:
    """Return how the log differs from an earlier export of it.

    Raises:
        GateInputError: the file cannot be read or is not an export.
    """
    try:
        text = exported.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        msg = f"{exported}: cannot be read ({error}); python -m gates history --export writes it"
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
    # In one line: free text must not be able to imitate a line of the history.
    return in_one_line(f": {entry.why}") if entry.why else ""


def _named(version: Version) -> str:
    return f"version {version.number} ({version.tags.get('gates.model_version', 'unknown')})"


def _time(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
