"""The sessions audit, sbom and trace in a copy of this repository, with real commands."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import nox
import pytest

from gates.supply.locked import read_lock
from tasks.environments import environment
from tasks.project import WORKSPACE
from tasks.sessions import supply_chain
from tests import nox_session, repository
from tests.nox_session import FailedError, SkippedError
from tests.stand_in_osv import served

PROJECT = WORKSPACE.default_project


class Session(nox_session.Session):
    """Runs commands in the folder `root`."""

    def __init__(self, root: Path, *posargs: str) -> None:
        super().__init__(*posargs)
        self.root = root

    def run(
        self, *command: str, env: dict[str, str], success_codes: Sequence[int], **_: Any
    ) -> None:
        ended = subprocess.run(command, cwd=self.root, env=env, check=False)
        if ended.returncode not in success_codes:
            raise SystemExit(ended.returncode)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this repository, whose sessions use the environment of this process."""
    checkout = repository.copy(tmp_path / "a checkout")
    monkeypatch.setattr(supply_chain, "ROOT", checkout)
    monkeypatch.setattr(environment, "prepare", lambda _: Path(sys.prefix))
    registries = ("GATES_REGISTRY", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI")
    for name in ("AUDIT_INDEX", "AUDIT_DATABASE", "CI", "GITHUB_BASE_REF", *registries):
        monkeypatch.delenv(name, raising=False)
    (checkout / ".nox").mkdir(exist_ok=True)
    return checkout


def run(name: str, root: Path, *arguments: str) -> Session:
    session = Session(root, *arguments)
    function = getattr(supply_chain, name)
    function(cast("nox.Session", session), *([PROJECT.package] if name == "sbom" else []))
    return session


def test_audit_uses_the_index_of_uv_and_compares_with_the_base_lock(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(read_lock(root / "uv.lock")) as services:
        monkeypatch.setenv("AUDIT_DATABASE", services.address)
        monkeypatch.setenv("UV_DEFAULT_INDEX", f"{services.address}/simple")
        run("audit", root)
        assert "AUDIT_INDEX" not in os.environ, "a session after this one would inherit it"
        verdict = json.loads((root / "artifacts/verdicts/audit.json").read_text())
        assert verdict["outcome"] == "pass"
        assert {each["check"] for each in verdict["findings"]} >= {"yanked", "name", "licence"}
        assert (root / ".nox/base.uv.lock").read_bytes() == (root / "uv.lock").read_bytes()
        services.yanked.add(next(each.key for each in services.locked))
        with pytest.raises(SystemExit) as ended:
            run("audit", root)
        assert ended.value.code == 1


def test_audit_without_a_database_is_skipped_except_in_ci(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AUDIT_DATABASE", "http://127.0.0.1:9")
    monkeypatch.setenv("AUDIT_INDEX", "http://127.0.0.1:9/simple")
    with pytest.raises(SkippedError, match=r"the vulnerability database .* did not answer"):
        run("audit", root)
    assert "name a mirror in AUDIT_DATABASE" in capfd.readouterr().err
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit) as ended:
        run("audit", root)
    assert ended.value.code == 2


def test_audit_that_ends_without_a_verdict_fails(root: Path) -> None:
    with pytest.raises(FailedError, match="ended without a verdict"):
        run("audit", root, "--settings", "none.yaml")
    with pytest.raises(SystemExit):
        run("audit", root, "--record-licences", "--settings", "none.yaml")


def test_sbom_covers_everything_or_one_cell(root: Path) -> None:
    session = run("sbom", root)
    (line,) = session.logged
    assert line.startswith("No ML-BOM: there is no evaluated model here; ")
    run("sbom", root, "--check")
    cell = WORKSPACE.cells[0]
    assert run("sbom", root, "--cell", f"{cell.python}-{cell.torch}").logged == []
    every, one = (
        json.loads((root / "artifacts" / name).read_text())["components"]
        for name in ("sbom.cdx.json", f"sbom.{cell}.cdx.json")
    )
    torches = [each["version"] for each in one if each["name"] == "torch"]
    assert [version.startswith(f"{cell.torch}.") for version in torches] == [True]
    assert len(every) > len(one) > 30
    assert not {"pytest", "mypy"} & {each["name"] for each in every}, (
        "development tools are not shipped"
    )


def test_sbom_check_fails_if_the_file_was_edited_by_hand(root: Path) -> None:
    run("sbom", root)
    file = root / "artifacts/sbom.cdx.json"
    file.write_text(file.read_text().replace("torch", "torch-more"))
    with pytest.raises(SystemExit) as ended:
        run("sbom", root, "--check")
    assert ended.value.code == 1


def test_trace_asks_the_registry_only_if_one_is_configured(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        run("trace", root, "0" * 12)
    assert ended.value.code == 2
    assert "is not part of any run" in capfd.readouterr().err
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "GATES_REGISTRY"):
        with monkeypatch.context() as named:
            named.setenv(name, f"sqlite:///{root}/none.db")
            with pytest.raises(SystemExit):
                run("trace", root, "0" * 12)
        assert "there is no registry yet" in capfd.readouterr().err
