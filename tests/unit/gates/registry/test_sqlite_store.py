"""MLflow's tables without its client: what one writes, the other reads, and every row is alike."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gates.errors import GateInputError
from gates.policy import Policy
from gates.registry import sqlite_store
from gates.registry.history import Head
from gates.registry.mlflow_store import MlflowStore
from gates.registry.pipeline import Promotion, Registry
from gates.registry.sqlite_store import REVISION, SqliteStore, open_known
from gates.registry.store import Store, open_store
from tests.registries import MakeRun, opened, to_production

TABLES = (
    "experiments",
    "runs",
    "tags",
    "registered_models",
    "registered_model_tags",
    "registered_model_aliases",
    "model_versions",
    "model_version_tags",
)
# Of what differs between two registries that had the same done to them, only whether it is there.
OWN = {"run_uuid", "run_id", "creation_time", "last_updated_time", "last_update_time"} | {
    "start_time",
    "end_time",
}


def copied(database: Path, folder: Path) -> str:
    """Return the address of an empty registry in `folder`."""
    folder.mkdir()
    shutil.copy(database, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


def run_sql(address: str, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(address.removeprefix("sqlite:///"))) as tables:
        for statement in statements:
            tables.execute(statement)
        tables.commit()


def rows(address: str) -> dict[str, list[dict[str, Any]]]:
    """Return every row of the registry, with what is its own taken out."""
    folder = str(Path(address.removeprefix("sqlite:///")).parent)
    found = {}
    with contextlib.closing(sqlite3.connect(address.removeprefix("sqlite:///"))) as tables:
        tables.row_factory = sqlite3.Row
        runs = [uuid for (uuid,) in tables.execute("SELECT run_uuid FROM runs")]
        for table in TABLES:
            found[table] = [
                {key: _shared(key, value, [folder, *runs]) for key, value in dict(row).items()}
                for row in tables.execute(f"SELECT * FROM {table} ORDER BY rowid")  # noqa: S608
            ]
    return found


def _shared(key: str, value: Any, own: list[str]) -> Any:
    if key in OWN:
        return value is not None
    for each in own:
        value = value.replace(each, "…") if isinstance(value, str) else value
    return value


def use(store: Store, file: Path) -> None:
    """Do everything that a store can do."""
    one = store.add("m", {"checkpoint.pt": file}, {"model_version": "a-b", "checkpoint": "c"})
    two = store.add("m", {"checkpoint.pt": file}, {"model_version": "d-e", "checkpoint": "f"})
    store.attach(one, file, "verdict.json")
    for stage, number in (("staging", 1), ("staging", 2), ("production", 1), ("staging", None)):
        store.append(one, f"{stage} {number}", summary=f"{stage}: {number}")
        store.point("m", stage, number)
        store.note_head("m", Head(number=1, digest="0" * 64))
    store.point("m", "staging", 2)
    store.remove(two)


def test_every_row_is_what_mlflow_itself_would_write(empty_database: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    written = []
    for kind in (SqliteStore, MlflowStore):
        address = copied(empty_database, tmp_path / kind.__name__)
        use(opened(kind, address), file)
        written.append(rows(address))
    tables, client = written
    assert [len(tables[name]) for name in TABLES] == [2, 2, 2, 2, 1, 1, 6, 14]
    for name in TABLES:
        # MLflow's client adds tags in an order of its own.
        assert sorted(map(repr, tables[name])) == sorted(map(repr, client[name])), name


@pytest.mark.parametrize(
    ("writer", "reader"), [(SqliteStore, MlflowStore), (MlflowStore, SqliteStore)]
)
def test_what_one_writes_the_other_reads(
    writer: type[Store], reader: type[Store], empty_database: Path, tmp_path: Path
) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    address = copied(empty_database, tmp_path / "registry")
    wrote, reads = opened(writer, address), opened(reader, address)
    use(wrote, file)
    assert reads.versions("m") == wrote.versions("m")
    assert [each.number for each in reads.versions("m")] == [1]
    assert reads.entries("m") == wrote.entries("m")
    assert [each.text for each in reads.entries("m")] == [
        "staging 1",
        "staging 2",
        "production 1",
        "staging None",
    ]
    assert reads.record("m") == wrote.record("m")
    assert reads.record("m").aliases == {"production": 1}
    (one,) = reads.versions("m")
    for name in ("checkpoint.pt", "verdict.json"):
        assert reads.download(one, name, tmp_path).read_bytes() == b"weights"


def test_the_revision_is_that_of_the_locked_mlflow(empty_database: Path) -> None:
    # Where this fails after an update of MLflow: compare its tables with those that the module
    # writes (the test of every row does), then put the new revision there.
    with contextlib.closing(sqlite3.connect(empty_database)) as tables:
        assert tables.execute("SELECT version_num FROM alembic_version").fetchall() == [(REVISION,)]


def of_another_revision(address: str) -> str:
    run_sql(address, "UPDATE alembic_version SET version_num = '000000000000'")
    return address


def with_files_elsewhere(address: str) -> str:
    run_sql(
        address,
        "INSERT INTO experiments (name, artifact_location, lifecycle_stage) "
        "VALUES ('registry/m', 's3://bucket/models', 'active')",
    )
    return address


def no_database(address: str) -> str:
    Path(address.removeprefix("sqlite:///")).write_text("not a database")
    return address


@pytest.mark.parametrize(
    "change",
    [
        of_another_revision,
        with_files_elsewhere,
        lambda address: f"{address}?timeout=5",
        lambda address: address.replace("registry", "%72egistry"),
        lambda _: "http://127.0.0.1:9",
        lambda address: address.replace("mlflow.db", "absent.db"),
    ],
)
def test_what_is_not_known_is_left_to_mlflow(
    change: Callable[[str], str], empty_database: Path, tmp_path: Path
) -> None:
    address = copied(empty_database, tmp_path / "registry")
    assert open_known(address) is not None
    changed = change(address)
    assert open_known(changed) is None
    assert not (tmp_path / "registry" / "absent.db").exists()


def empty(address: str) -> str:
    Path(address.removeprefix("sqlite:///")).write_bytes(b"")
    return address


def of_somebody_else(address: str) -> str:
    empty(address)
    run_sql(address, "CREATE TABLE bookmarks (url TEXT)")
    return address


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_database, "file is not a database"),
        (empty, "is a file without MLflow's tables; name another"),
        (of_somebody_else, "is a file without MLflow's tables; name another"),
    ],
)
def test_a_file_of_something_else_is_one_line_and_stays_what_it_was(
    change: Callable[[str], str],
    message: str,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    address = change(copied(empty_database, tmp_path / "registry"))
    file = tmp_path / "registry" / "mlflow.db"
    before = file.read_bytes()
    monkeypatch.setenv("GATES_REGISTRY", address)
    for make in (False, True):
        with pytest.raises(GateInputError, match=message):
            open_store(make=make)
    assert file.read_bytes() == before


def test_workspaces_are_left_to_mlflow(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = copied(empty_database, tmp_path / "registry")
    monkeypatch.setenv("MLFLOW_ENABLE_WORKSPACES", "true")
    assert open_known(address) is None


def test_files_elsewhere_are_still_reached_through_mlflow(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = with_files_elsewhere(copied(empty_database, tmp_path / "registry"))
    monkeypatch.setenv("GATES_REGISTRY", address)
    assert isinstance(open_store(), MlflowStore)


@pytest.mark.parametrize("name", ["a b", "a#b", "ä", "a'b"])
def test_any_path_will_do(
    name: str, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = copied(empty_database, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    relative = opened(SqliteStore, f"sqlite:///{name}/mlflow.db")
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    version = relative.add("m", {"checkpoint.pt": file}, {})
    assert (tmp_path / name / "artifacts").is_dir()
    assert (
        MlflowStore(address).download(version, "checkpoint.pt", tmp_path).read_bytes() == b"weights"
    )


def test_a_version_is_there_with_all_its_files_or_not_at_all(
    empty_database: Path, tmp_path: Path
) -> None:
    address = copied(empty_database, tmp_path / "registry")
    store = opened(SqliteStore, address)
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    with pytest.raises(FileNotFoundError):
        store.add("m", {"a": file, "b": tmp_path / "absent"}, {})
    assert store.versions("m") == []
    assert not list((tmp_path / "registry" / "artifacts").iterdir())


def test_an_alias_names_a_version_that_is_there(empty_database: Path, tmp_path: Path) -> None:
    store = opened(SqliteStore, copied(empty_database, tmp_path / "registry"))
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    gone = store.add("m", {"checkpoint.pt": file}, {})
    store.remove(gone)
    for number in (gone.number, 7):
        with pytest.raises(GateInputError, match=f"m has no version {number}"):
            store.point("m", "production", number)
    assert store.record("m").aliases == {}


def test_the_files_of_a_version_outlive_an_interruption_that_came_too_late(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(SqliteStore, copied(empty_database, tmp_path / "registry"))
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    add_version = sqlite_store._add_version  # noqa: SLF001

    def committed_then_interrupted(tables: sqlite3.Connection, *arguments: Any, **more: Any) -> int:
        add_version(tables, *arguments, **more)
        tables.execute("COMMIT")
        raise KeyboardInterrupt

    monkeypatch.setattr(sqlite_store, "_add_version", committed_then_interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.add("m", {"checkpoint.pt": file}, {})
    (version,) = store.versions("m")
    assert store.download(version, "checkpoint.pt", tmp_path).read_bytes() == b"weights"


def test_a_file_that_somebody_else_is_writing_is_one_line(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "_SECONDS", 0)
    address = copied(empty_database, tmp_path / "registry")
    store = opened(SqliteStore, address)
    with contextlib.closing(sqlite3.connect(address.removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN IMMEDIATE")
        assert store.record("m").aliases == {}
        with pytest.raises(GateInputError, match=r"the registry sqlite:.*database is locked"):
            store.note_head("m", Head(number=1, digest="0" * 64))


def test_what_is_no_folder_here_is_told(empty_database: Path, tmp_path: Path) -> None:
    address = copied(empty_database, tmp_path / "registry")
    store = opened(SqliteStore, address)
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    store.add("m", {"checkpoint.pt": file}, {})
    run_sql(address, "UPDATE model_versions SET source = 's3://bucket/elsewhere'")
    with pytest.raises(GateInputError, match="s3://bucket/elsewhere is no folder of this machine"):
        store.download(store.versions("m")[0], "checkpoint.pt", tmp_path)


def test_no_command_needs_mlflow(
    registry: Registry, run: MakeRun, policy: Policy, tmp_path: Path
) -> None:
    one = run("one")
    to_production(registry, one, policy)
    two = run("two", against=one)
    registry.register(two.submission())
    registry.promote(Promotion(stage="staging"), policy)
    three = run("three", against=one)
    files = ["--run", str(three.folder), "--verdict", str(three.verdict_file)]
    rules = ["--policy", "gates.yaml"]
    for command, *arguments in (
        ["status"],
        ["history", "--verify"],
        ["register", *files],
        ["promote", "--to", "production", *rules],
        ["rollback", *rules],
    ):
        # As on a machine without the extra: `import mlflow` is an ImportError.
        code = "import sys; sys.modules['mlflow'] = None; from gates.__main__ import main; "
        code += f"sys.exit(main({[command, '--name', 'digits', *arguments]!r}))"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env={
                **os.environ,
                "GATES_REGISTRY": registry.store.address,
                "PYTHONPATH": str(Path(__file__).parents[4]),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
