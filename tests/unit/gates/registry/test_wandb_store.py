"""A registry on Weights & Biases, as far as offline mode can test it."""

import sys
from pathlib import Path

import pytest
import wandb

from gates.__main__ import main
from gates.errors import GateInputError
from gates.registry.address import open_store
from gates.registry.history import Head
from gates.registry.store import Version
from gates.registry.wandb_store import WandbStore
from tests.registered import Run
from tests.registries import MakeRun

ADDRESS = "wandb://a-team/models"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of offline runs, in an environment without settings of W&B."""
    kept = tmp_path / "kept here"
    kept.mkdir()
    for name in ("WANDB_API_KEY", "WANDB_DIR", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staging"))
    monkeypatch.setenv("GATES_REGISTRY", ADDRESS)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(kept)
    # W&B reads its variables once per process and would keep those of the previous test.
    wandb.teardown()
    return kept


def uploaded(folder: Path) -> bytes:
    """Return everything that `wandb sync` would upload for the runs in `folder`."""
    return b"".join(file.read_bytes() for file in folder.rglob("*.wandb"))


@pytest.mark.usefixtures("folder")
def test_offline_a_registered_run_waits_to_be_uploaded(
    run_of_one: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["register", "--name", "digits", "--run", str(run_of_one.folder)]
    assert main([*arguments, "--verdict", str(run_of_one.verdict_file)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    kept = Path(error.strip().rpartition("wandb sync ")[2])
    assert kept.is_dir()
    sent = uploaded(kept)
    assert run_of_one.checkpoint.encode() in sent, "the registered digest is uploaded"
    for name in ("checkpoint.pt", "provenance.json", "predictions.parquet"):
        assert name.encode() in sent


def test_offline_a_log_entry_is_kept_with_its_digest(folder: Path) -> None:
    store = WandbStore(ADDRESS)
    version = Version(model="digits", number=1, source="", tags={})
    with pytest.raises(GateInputError, match=r"digits\.history: offline, .* wandb sync "):
        store.append(version, "the entry", summary="promoted")
    assert b"gates.entry.digest" in uploaded(folder)


@pytest.mark.parametrize("command", ["status", "history", "promote", "rollback"])
def test_offline_only_register_works(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--to", "staging"] if command == "promote" else []
    policy = Path(__file__).parents[4] / "configs" / "gates.yaml"
    needs = ["--policy", str(policy)] if command in {"promote", "rollback"} else []
    assert main([command, "--name", "digits", *where, *needs]) == 2
    assert "WANDB_MODE is offline; only gates register works offline" in capsys.readouterr().err
    assert not list(folder.iterdir())


@pytest.mark.parametrize("call", ["record", "entries"])
@pytest.mark.usefixtures("folder")
def test_offline_reading_is_an_error_and_not_an_empty_registry(call: str) -> None:
    with pytest.raises(GateInputError, match="offline"):
        getattr(WandbStore(ADDRESS), call)("digits")


@pytest.mark.usefixtures("folder")
def test_a_missing_key_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    assert main(["status", "--name", "digits"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"the registry {ADDRESS}: the versions of digits cannot be read: No API key" in error
    with pytest.raises(GateInputError, match="cannot be noted: No API key"):
        WandbStore(ADDRESS).note_head("digits", Head(number=1, digest="0" * 64))


@pytest.mark.parametrize(
    "address", ["wandb://", "wandb://team", "wandb:team/models", "wandb://a/b/c"]
)
def test_an_invalid_address_is_reported(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GATES_REGISTRY", address)
    assert main(["status", "--name", "digits"]) == 2
    assert "expected wandb://ENTITY/PROJECT" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(GateInputError, match=r"install the extra: gates\[wandb\]"):
        open_store()


@pytest.fixture
def run_of_one(run: MakeRun) -> Run:
    return run("one")
