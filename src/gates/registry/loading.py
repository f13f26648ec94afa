"""Files of a registered model by its address, checked to be what was registered."""

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path

from gates.errors import GateInputError
from gates.registry.address import open_store
from gates.registry.history import STAGES, History, Stage
from gates.registry.ledger import Ledger, Now
from gates.registry.store import Store, Version, fetch_checked

_ADDRESS = re.compile(r"models:/(?P<model>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<number>[1-9]\d*))")


def fetch_model(uri: str, patterns: Sequence[str], folder: Path) -> Path:
    """Return a local copy of the first file of a registered model that fits one of `patterns`.

    Args:
        uri: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.
        patterns: of the names of files, such as `checkpoint.*`, in the order of preference.
        folder: where the copy goes.

    Raises:
        GateInputError: there is no such version, it has none of the files, its files are not what
            was registered, or it is not where the history says.
    """
    parts = _ADDRESS.fullmatch(uri)
    if parts is None:
        msg = f"{uri}: write models:/NAME@production, or models:/NAME/VERSION"
        raise GateInputError(msg)
    store = open_store()
    now = Ledger(store, parts["model"]).read()
    version = _version(store, parts, now)
    check_as_recorded(version, now.history)
    for pattern in patterns:
        for name in fnmatch.filter(version.files, pattern):
            fetch_checked(store, version, [name], folder)
            return folder / name
    msg = f"{uri}: this version holds none of {', '.join(patterns)}; register a run's folder"
    raise GateInputError(msg)


def check_as_recorded(version: Version, log: History) -> None:
    """Refuse a version of which the log says that its files were others.

    Raises:
        GateInputError: the list of their digests was changed after a promotion.
    """
    for each in log.held:
        is_about = each.entry.after == version.number and each.entry.files is not None
        if is_about and each.entry.files != version.files_digest:
            msg = f"{version}: its list of digests is not what entry {each.number} of the "
            msg += "history recorded; somebody has changed it"
            raise GateInputError(msg)


def _version(store: Store, parts: re.Match[str], now: Now) -> Version:
    model, alias = parts["model"], parts["alias"]
    wanted = _named(parts[0], alias, now) if alias else int(parts["number"])
    for each in store.versions(model):
        if each.number == wanted:
            return each
    what = f"version {wanted}" if wanted else f"alias {alias}"
    msg = f"{parts[0]}: there is no {what} of {model} in the registry {store.address}"
    raise GateInputError(msg)


def _named(uri: str, alias: str, now: Now) -> int | None:
    """Return the version that an alias stands for: at a stage, the one that the log has there."""
    named = now.aliases.get(alias)
    for stage in STAGES:
        if alias == stage:
            return _in_stage(uri, stage, named, now)
    return named


def _in_stage(uri: str, stage: Stage, named: int | None, now: Now) -> int | None:
    """Return the version that the log has in `stage` for programs; the alias may be behind it.

    Raises:
        GateInputError: the alias was moved by other means than a promotion or a rollback.
    """
    place = now.stages[stage]
    before = place.since.entry.before if place.since else None
    if named in {None, before, place.current}:
        return place.to_load
    msg = f"{uri}: names version {named}, and the history has {place.current or 'none'} in "
    msg += f"{stage}; somebody has moved it: see python -m gates status --name {now.model}"
    raise GateInputError(msg)
