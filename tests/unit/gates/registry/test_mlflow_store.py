"""A registry in a SQLite file: files that are not registries, and odd folder names."""

import contextlib
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import artifacts

from gates.errors import GateInputError
from gates.registry.address import open_store
from gates.registry.mlflow_store import MlflowStore
from gates.registry.store import Store
from tests.registries import copied


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    file = tmp_path / "weights"
    file.write_bytes(b"weights")
    return file


def not_a_database(file: Path) -> None:
    file.write_text("not a database")


def empty(file: Path) -> None:
    file.write_bytes(b"")


def another_program(file: Path) -> None:
    empty(file)
    run_sql(file, "CREATE TABLE bookmarks (url TEXT)")


def another_revision(file: Path) -> None:
    run_sql(file, "UPDATE alembic_version SET version_num = '000000000000'")


def run_sql(file: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute(statement)
        database.commit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(not_a_database, "file is not a database", id="not_a_database"),
        pytest.param(empty, "is not an MLflow registry; name a new file", id="empty"),
        pytest.param(another_program, "is not an MLflow registry", id="another_program"),
        pytest.param(another_revision, "out-of-date database schema", id="another_revision"),
    ],
)
def test_a_file_that_is_not_a_registry_is_refused_and_unchanged(
    change: Callable[[Path], None],
    message: str,
    empty_database: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GATES_REGISTRY", copied(empty_database, tmp_path / "registry"))
    file = tmp_path / "registry" / "mlflow.db"
    change(file)
    before = file.read_bytes()
    for make in (False, True):
        with pytest.raises(GateInputError, match=message) as refused:
            open_store(make=make)
        assert "\n" not in str(refused.value)
    assert file.read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == [file.name]


ODD_NAMES = ["a b", "a#b", "ä", "a'b", "a%20b", "ws_feature%2Fx", "50%", "a?b=c"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_any_folder_name_works_for_us_and_for_mlflow(
    name: str, weights: Path, empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "places" / name
    folder.mkdir(parents=True)
    # MLflow caches by address, even a relative one, so each test needs its own.
    registry = folder / f"registry{ODD_NAMES.index(name)}"
    copied(empty_database, registry)
    monkeypatch.chdir(folder)
    address = f"sqlite:///{registry.name}/mlflow.db"
    version = MlflowStore(address).add("m", {"checkpoint.pt": weights}, {})
    copy = MlflowStore(address).download(version, "checkpoint.pt", tmp_path)
    assert copy.read_bytes() == b"weights"
    uri = f"{version.source}/checkpoint.pt"
    theirs = artifacts.download_artifacts(uri, dst_path=str(tmp_path), tracking_uri=address)
    assert Path(theirs).read_bytes() == b"weights"
    assert sorted(each.name for each in registry.iterdir()) == ["artifacts", "mlflow.db"]
    assert [each.name for each in folder.parent.iterdir()] == [name], "no other folder is created"


@pytest.mark.parametrize("name", ["a b", "a%20b"])
def test_a_registry_is_created_in_the_working_directory(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "places" / name
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GATES_REGISTRY", raising=False)
    assert open_store(make=True).versions("m") == []
    assert [each.name for each in (folder / "registry").iterdir()] == ["mlflow.db"]
    assert [each.name for each in folder.parent.iterdir()] == [name], "no other folder is created"


def test_a_version_is_added_with_all_its_files_or_not_at_all(
    store: Store, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(GateInputError, match="No such file"):
        store.add("m", {"a": weights, "b": tmp_path / "absent"}, {})
    assert store.versions("m") == []


def test_an_alias_can_only_name_an_existing_version(store: Store, weights: Path) -> None:
    gone = store.add("m", {"checkpoint.pt": weights}, {})
    store.remove(gone)
    for number in (gone.number, 7):
        with pytest.raises(GateInputError, match=rf"version.*{number}"):
            store.point("m", "production", number)
    assert store.record("m").aliases == {}


def test_without_mlflow_the_extra_is_named(
    empty_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = copied(empty_database, tmp_path / "registry")
    monkeypatch.setitem(sys.modules, "mlflow", None)  # `import mlflow` is an ImportError
    with pytest.raises(GateInputError, match="needs MLflow; install the extra"):
        MlflowStore(address)
