"""The registry in a SQLite file of MLflow's, in MLflow's own tables but without its client.

Importing MLflow takes longer than all that a command of the registry does. So the few rows that a
registry is made of are read and written here, as the client does it: MLflow's other programs see
what they expect, and may use the file at the same time. Only tables of the one revision that is
known here are touched; a file of any other goes through MLflow (`gates.registry.mlflow_store`).
"""

import contextlib
import os
import shutil
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from gates.errors import GateInputError, said_by
from gates.files import atomic_write
from gates.registry.history import Head, Stored, digest_of
from gates.registry.store import (
    DIGEST,
    ENTRY,
    HEAD,
    LOG_SUFFIX,
    RUN,
    Record,
    Store,
    UnreachableError,
    Version,
    as_tags,
)

# Of MLflow 3.17, by its own name. A test holds it against the MLflow of the lock.
REVISION = "dc11669786a5"

_PREFIX = "sqlite:///"
_SECONDS = 20  # that MLflow, too, waits for somebody else who is writing

# A version that was taken out stays as a row, so that its number is never given again.
_TAKEN_OUT = "Deleted_Internal"


def open_known(address: str) -> Store | None:
    """Return the registry in the file that `address` names, if its tables are known here."""
    path = address.removeprefix(_PREFIX)
    is_plain = path != address and not {"?", "%"} & set(path)  # else it is more than a path
    # With workspaces, MLflow shows each user a part of the tables.
    if not is_plain or os.environ.get("MLFLOW_ENABLE_WORKSPACES"):
        return None
    file = Path(path).absolute()
    if not file.is_file():
        return None
    store = SqliteStore(file, address)
    return store if store.is_known() else None


class SqliteStore:
    """A registry of MLflow's in a SQLite file.

    Args:
        file: with MLflow's tables.
        address: of the registry, as errors show it.
    """

    def __init__(self, file: Path, address: str) -> None:
        self.address = address
        self._file = file

    def is_known(self) -> bool:
        """Whether the tables are of the known revision, and all files on this machine.

        Raises:
            GateInputError: the file is no database, or holds something else than a registry.
        """
        with self._reading() as tables:
            if not tables.execute(
                "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"
            ).fetchone():
                msg = f"{self.address}: is a file without MLflow's tables; name another, and "
                msg += "python -m gates register makes it"
                raise GateInputError(msg)
            revision = tables.execute("SELECT version_num FROM alembic_version").fetchall()
            places = tables.execute(
                "SELECT artifact_location FROM experiments WHERE name LIKE 'registry/%'"
            ).fetchall()
        return revision == [(REVISION,)] and all(_folder(place) for (place,) in places)

    def versions(self, model: str) -> list[Version]:
        """Return every version of `model`, oldest first."""
        with self._reading() as tables:
            found = tables.execute(
                "SELECT version, source FROM model_versions WHERE workspace = 'default' "
                "AND name = ? AND current_stage IS NOT ? ORDER BY version",
                (model, _TAKEN_OUT),
            ).fetchall()
            tags: dict[int, dict[str, str]] = {number: {} for number, _ in found}
            for number, key, value in tables.execute(
                "SELECT version, key, value FROM model_version_tags "
                "WHERE workspace = 'default' AND name = ?",
                (model,),
            ):
                tags.setdefault(number, {})[key] = value
        return [
            Version(model=model, number=number, source=source, tags=tags[number])
            for number, source in found
        ]

    def add(self, model: str, files: Mapping[str, Path], facts: Mapping[str, str]) -> Version:
        """Keep `files` as a new version of `model`."""
        experiment, place = self._experiment(model)
        run = uuid.uuid4().hex
        source = f"{place}/{run}/artifacts"
        folder = self._files(source)
        name = facts.get("model_version", "")
        tags = {**as_tags(facts), RUN: run}
        try:
            for each, file in files.items():
                _copy(file, folder / each)
        except BaseException:
            # Not later: whether an interrupted change of the tables has come about, nobody knows.
            shutil.rmtree(folder.parent, ignore_errors=True)
            raise
        with self._writing() as tables:
            _add_run(tables, run, experiment=experiment, name=name, source=source)
            _ensure(tables, model)
            number = _add_version(tables, model, tags, source=source, run=run, says=name)
        return Version(model=model, number=number, source=source, tags=tags)

    def remove(self, version: Version) -> None:
        """Take out a version that nobody has used."""
        with self._writing() as tables:
            tables.execute(
                "UPDATE model_versions SET current_stage = ?, last_updated_time = ?, "
                "description = NULL, user_id = NULL, source = 'REDACTED-SOURCE-PATH', "
                "run_id = 'REDACTED-RUN-ID', run_link = 'REDACTED-RUN-LINK', "
                "status_message = NULL WHERE workspace = 'default' AND name = ? AND version = ?",
                (_TAKEN_OUT, _now(), version.model, version.number),
            )
            tables.execute(
                "DELETE FROM registered_model_aliases "
                "WHERE workspace = 'default' AND name = ? AND version = ?",
                (version.model, version.number),
            )

    def attach(self, version: Version, file: Path, name: str) -> None:
        """Keep one more file beside those of `version`."""
        _copy(file, self._files(version.source) / name)

    def download(self, version: Version, name: str, folder: Path) -> Path:
        """Return a local copy of one file of `version`, not checked."""
        try:
            return Path(shutil.copyfile(self._files(version.source) / name, folder / name))
        except OSError as error:
            msg = f"{version}: {name} cannot be read from the registry {self.address}: "
            kind = GateInputError if isinstance(error, FileNotFoundError) else UnreachableError
            raise kind(msg + said_by(error)) from error

    def record(self, model: str) -> Record:
        """Return what is kept of `model` itself; nothing if there is no such model."""
        with self._reading() as tables:
            aliases = tables.execute(
                "SELECT alias, version FROM registered_model_aliases "
                "WHERE workspace = 'default' AND name = ?",
                (model,),
            ).fetchall()
            noted = tables.execute(
                "SELECT value FROM registered_model_tags "
                "WHERE workspace = 'default' AND name = ? AND key = ?",
                (model, HEAD),
            ).fetchone()
        return Record(aliases=dict(aliases), head=Head.parse(noted[0]) if noted else None)

    def point(self, model: str, alias: str, number: int | None) -> None:
        """Make `alias` name another version, or none."""
        with self._writing() as tables:
            if number is None:
                tables.execute(
                    "DELETE FROM registered_model_aliases "
                    "WHERE workspace = 'default' AND name = ? AND alias = ?",
                    (model, alias),
                )
                return
            there = tables.execute(
                "SELECT 1 FROM model_versions WHERE workspace = 'default' AND name = ? "
                "AND version = ? AND current_stage IS NOT ?",
                (model, number, _TAKEN_OUT),
            ).fetchone()
            if there is None:
                msg = f"the registry {self.address}: {model} has no version {number}"
                raise GateInputError(msg)
            tables.execute(
                "INSERT OR REPLACE INTO registered_model_aliases "
                "(workspace, name, alias, version) VALUES ('default', ?, ?, ?)",
                (model, alias, number),
            )

    def entries(self, model: str) -> list[Stored]:
        """Return the log, oldest entry first."""
        return [
            Stored(
                number=each.number, text=each.tags.get(ENTRY, ""), digest=each.tags.get(DIGEST, "")
            )
            for each in self.versions(model + LOG_SUFFIX)
        ]

    def append(self, version: Version, text: str, *, summary: str) -> None:
        """Add an entry to the log."""
        log, tags = version.model + LOG_SUFFIX, {ENTRY: text, DIGEST: digest_of(text)}
        run = version.tags.get(RUN)
        with self._writing() as tables:
            _ensure(tables, log)
            _add_version(tables, log, tags, source=version.source, run=run, says=summary)

    def note_head(self, model: str, head: Head) -> None:
        """Note the log's newest entry beside it."""
        with self._writing() as tables:
            tables.execute(
                "INSERT OR REPLACE INTO registered_model_tags (workspace, name, key, value) "
                "VALUES ('default', ?, ?, ?)",
                (model, HEAD, str(head)),
            )

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """Give the tables, as they are at one moment, to a block that changes nothing."""
        with self._told(), contextlib.closing(self._connect()) as tables:
            tables.execute("BEGIN")
            yield tables

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """Give the tables to a block whose changes come about together, or not at all."""
        with self._told(), contextlib.closing(self._connect()) as tables:
            tables.execute("PRAGMA foreign_keys = ON")
            tables.execute("BEGIN IMMEDIATE")  # who reads first and then writes, waits here
            yield tables
            tables.execute("COMMIT")  # a block that raises closes without it

    def _connect(self) -> sqlite3.Connection:
        """Return a connection of its own to each block: none is shared with a forked process."""
        # By default a file that is not there would be made.
        address = f"file:{quote(str(self._file))}?mode=rw"
        return sqlite3.connect(address, uri=True, timeout=_SECONDS, isolation_level=None)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            msg = f"the registry {self.address}: {said_by(error)}"
            raise GateInputError(msg) from error

    def _experiment(self, model: str) -> tuple[int, str]:
        """Return the number of the model's experiment, and where it keeps files; make it first."""
        name = f"registry/{model}"
        # MLflow's own choice would be a folder wherever the command happens to run.
        place, now = str(self._file.with_name("artifacts")), _now()
        with self._writing() as tables:
            tables.execute(
                "INSERT OR IGNORE INTO experiments (workspace, name, artifact_location, "
                "lifecycle_stage, creation_time, last_update_time) "
                "VALUES ('default', ?, ?, 'active', ?, ?)",
                (name, place, now, now),
            )
            found: tuple[int, str] = tables.execute(
                "SELECT experiment_id, artifact_location FROM experiments "
                "WHERE workspace = 'default' AND name = ?",
                (name,),
            ).fetchone()
        return found

    def _files(self, place: str) -> Path:
        """Return the folder that MLflow calls `place`.

        Raises:
            GateInputError: it is not on this machine.
        """
        folder = _folder(place)
        if folder is None:
            msg = f"the registry {self.address}: {place} is no folder of this machine"
            raise GateInputError(msg)
        return folder


def _folder(place: str) -> Path | None:
    """Return the folder that MLflow calls `place`; None if it is not on this machine."""
    if place.startswith("/"):
        return Path(place)
    address = urlsplit(place)
    return Path(unquote(address.path)) if address.scheme == "file" else None


def _ensure(tables: sqlite3.Connection, model: str) -> None:
    now = _now()
    tables.execute(
        "INSERT OR IGNORE INTO registered_models "
        "(workspace, name, creation_time, last_updated_time) VALUES ('default', ?, ?, ?)",
        (model, now, now),
    )


def _add_run(
    tables: sqlite3.Connection, run: str, *, experiment: int, name: str, source: str
) -> None:
    """Add the run of MLflow's that holds a version's files, as an MLflow server wants one."""
    now = _now()
    tables.execute(
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, "
        "status, start_time, end_time, source_version, lifecycle_stage, artifact_uri, "
        "experiment_id) VALUES (?, ?, 'UNKNOWN', '', '', 'unknown', 'FINISHED', ?, ?, '', "
        "'active', ?, ?)",
        (run, name, now, now, source, experiment),
    )
    tables.execute(
        "INSERT INTO tags (run_uuid, key, value) VALUES (?, 'mlflow.runName', ?)", (run, name)
    )


def _add_version(
    tables: sqlite3.Connection,
    model: str,
    tags: Mapping[str, str],
    *,
    source: str,
    run: str | None,
    says: str,
) -> int:
    """Add a version with the number after all that there ever were; return that."""
    (newest,) = tables.execute(
        "SELECT max(version) FROM model_versions WHERE workspace = 'default' AND name = ?",
        (model,),
    ).fetchone()
    number, now = (newest or 0) + 1, _now()
    tables.execute(
        "INSERT INTO model_versions (workspace, name, version, creation_time, last_updated_time, "
        "description, current_stage, source, storage_location, run_id, status) "
        "VALUES ('default', ?, ?, ?, ?, ?, 'None', ?, ?, ?, 'READY')",
        (model, number, now, now, says, source, source, run),
    )
    tables.executemany(
        "INSERT INTO model_version_tags (workspace, name, version, key, value) "
        "VALUES ('default', ?, ?, ?, ?)",
        [(model, number, key, value) for key, value in tags.items()],
    )
    tables.execute(
        "UPDATE registered_models SET last_updated_time = ? "
        "WHERE workspace = 'default' AND name = ?",
        (now, model),
    )
    return number


def _copy(file: Path, target: Path) -> None:
    with file.open("rb") as stream, atomic_write(target) as copy:
        shutil.copyfileobj(stream, copy)


def _now() -> int:
    """Return the time as MLflow notes it, in milliseconds."""
    return time.time_ns() // 1_000_000
