"""Files of a registered model, fetched by its address and checked to be as registered."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from gates.errors import GateInputError
from gates.registry.address import open_store
from gates.registry.history import STAGES, History, Stage
from gates.registry.ledger import Ledger, Snapshot
from gates.registry.store import Store, Version, fetch_checked

_ADDRESS = re.compile(r"models:/(?P<model>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>[1-9]\d*))")


def fetch_model(uri: str, patterns: Sequence[str], folder: Path) -> Path:
    """Return a local copy of the first file of a registered model that matches `patterns`.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        patterns: file name patterns such as `checkpoint.*`, most preferred first.
        folder: the folder for the copy.

    Raises:
        GateInputError: there is no such version, it has no matching file, its files are not as
            registered, or the alias contradicts the history.
    """
    parts = _ADDRESS.fullmatch(uri)
    if parts is None:
        msg = f"{uri}: expected models:/NAME@production or models:/NAME/VERSION"
        raise GateInputError(msg)
    store = open_store()
    snapshot = Ledger(store, parts["model"]).read()
    version = _version(store, parts, snapshot)
    check_as_recorded(version, snapshot.history)
    for pattern in patterns:
        for name in fnmatch.filter(version.files, pattern):
            fetch_checked(store, version, [name], folder)
            return folder / name
    msg = f"{uri}: this version has none of {', '.join(patterns)}; register a run's folder"
    raise GateInputError(msg)


def check_as_recorded(version: Version, log: History) -> None:
    """Refuse a version whose list of digests differs from the one in the log.

    Raises:
        GateInputError: the list was changed after a promotion.
    """
    for each in log.held:
        is_about = each.entry.after == version.number and each.entry.files is not None
        if is_about and each.entry.files != version.files_digest:
            msg = f"{version}: its list of digests differs from the one in entry "
            msg += f"{each.number} of the history; somebody has changed it"
            raise GateInputError(msg)


def _version(store: Store, parts: re.Match[str], snapshot: Snapshot) -> Version:
    model, alias = parts["model"], parts["alias"]
    wanted = _named(parts[0], alias, snapshot) if alias else int(parts["number"])
    for each in store.versions(model):
        if each.number == wanted:
            return each
    what = f"version {wanted}" if wanted else f"alias {alias}"
    msg = f"{parts[0]}: there is no {what} of {model} in the registry {store.address}"
    raise GateInputError(msg)


def _named(uri: str, alias: str, snapshot: Snapshot) -> int | None:
    """Return the version that an alias names; for a stage, the log decides."""
    named = snapshot.aliases.get(alias)
    for stage in STAGES:
        if alias == stage:
            return _in_stage(uri, stage, named, snapshot)
    return named


def _in_stage(uri: str, stage: Stage, named: int | None, snapshot: Snapshot) -> int | None:
    """Return the version to load for `stage` according to the log; the alias may lag behind it.

    Raises:
        GateInputError: the alias was moved by something other than a promotion or a rollback.
    """
    state = snapshot.stages[stage]
    before = state.since.entry.before if state.since else None
    if named in {None, before, state.current}:
        return state.to_load
    msg = f"{uri}: names version {named}, and the history has {state.current or 'none'} in "
    msg += f"{stage}; somebody has moved the alias: run python -m gates status --name "
    msg += snapshot.model
    raise GateInputError(msg)
