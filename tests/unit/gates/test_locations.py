import tempfile
from pathlib import Path

import fsspec
import pytest

from gates.errors import ConfigError, GateInputError
from gates.locations import local_copy, shown


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that copies are made in; every test must leave it empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def put(address: str, content: bytes) -> str:
    with fsspec.open(address, "wb") as stream:
        stream.write(content)
    return address


def error_of(uri: str) -> str:
    with pytest.raises(GateInputError) as raised, local_copy(uri):
        pass
    return str(raised.value)


def test_local_path_is_returned_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a:b ü.parquet").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    with local_copy("a:b ü.parquet") as file:
        assert file == Path("a:b ü.parquet")


@pytest.mark.parametrize("name", ["model.pt", "b.parquet", "no-ending", "ü b.parquet"])
def test_remote_file_is_copied_and_the_copy_removed_afterwards(temporary: Path, name: str) -> None:
    with local_copy(put(f"memory://models/{name}", b"content")) as file:
        assert file.read_bytes() == b"content"
        assert file.name == name
        assert temporary in file.parents
    assert not list(temporary.iterdir())


def test_file_uri_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"x")
    with local_copy((tmp_path / "x.pt").as_uri()) as file:
        assert file.read_bytes() == b"x"


@pytest.mark.parametrize(
    ("uri", "explanation"),
    [
        ("", "the address of a model or its predictions is empty; give one"),
        ("  ", "the address of a model or its predictions is empty; give one"),
        ("absent.parquet", "absent.parquet: no such file"),
        (".", ".: is a folder; name a file in it, such as predictions.parquet"),
        ("memory://absent.parquet", "memory://absent.parquet: cannot be read ("),
        ("memory://", "memory://: cannot be read ("),
        ("memory://..", "memory://..: cannot be read ("),
        ("nosuch://x", "nosuch://x: cannot be read (Protocol not known: nosuch)"),
        ("file:///absent/file.pt", "file:///absent/file.pt: cannot be read ("),
        ("memory://" + "x" * 300, "cannot be read ("),
    ],
)
def test_unreadable_address_is_an_error(temporary: Path, uri: str, explanation: str) -> None:
    assert explanation in error_of(uri)
    assert not list(temporary.iterdir())


def test_error_names_the_address_and_not_the_copy(temporary: Path) -> None:
    uri = put("memory://models/broken.pt", b"x")

    def judge() -> None:
        with local_copy(uri) as file:
            msg = f"{file}: broken"
            raise ConfigError(msg)

    with pytest.raises(ConfigError, match=f"^{uri}: broken$"):
        judge()
    assert not list(temporary.iterdir())


def test_interrupt_leaves_no_copy(temporary: Path) -> None:
    uri = put("memory://models/any.pt", b"x")
    with pytest.raises(KeyboardInterrupt), local_copy(uri):
        raise KeyboardInterrupt
    assert not list(temporary.iterdir())


def test_signature_in_an_address_is_not_printed() -> None:
    signed = "memory://bucket/p.parquet?X-Amz-Signature=secret"
    assert error_of(signed).startswith("memory://bucket/p.parquet: cannot be read")
    assert "secret" not in error_of(signed)
    assert shown(signed) == "memory://bucket/p.parquet"
    assert shown("odd?name.parquet") == "odd?name.parquet"


def test_missing_registry_is_reported_and_not_created(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)
    assert error_of("models:/digits@production") == (
        "models:/digits@production: sqlite:///registry/mlflow.db: there is no registry yet (no "
        "such file); register a model "
        "with python -m gates register, or set MLFLOW_TRACKING_URI"
    )
    # MLflow itself would create an empty registry there.
    absent = tmp_path / "absent.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{absent}")
    assert "there is no registry yet (no such file)" in error_of("models:/digits@production")
    assert not absent.exists()
