"""The sessions audit, sbom and trace: their commands, and how they handle the results.

tests/integration/test_supply_chain_sessions.py runs the commands.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import nox
import pytest

from tasks.environments import environment
from tasks.project import WORKSPACE
from tasks.sessions import supply_chain
from tests import nox_session
from tests.nox_session import FailedError, SkippedError

PROJECT = WORKSPACE.default_project


class Session(nox_session.Session):
    """Records commands. An audit writes a verdict with `outcome`, or none if it is None."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.ran: list[list[str]] = []
        self.outcome: str | None = "pass"
        self.codes: list[tuple[int, ...]] = []

    def run(self, _: Path, *command: str, success_codes: tuple[int, ...] = (0,), **__: Any) -> None:
        self.ran.append([word.replace(f"{self.root}/", "") for word in command])
        self.codes.append(success_codes)
        if command[3] == "audit" and self.outcome:
            report = self.root / command[command.index("--report") + 1]
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(json.dumps({"outcome": self.outcome}))


@pytest.fixture
def session(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    fake = Session(checkout)
    monkeypatch.setattr(supply_chain, "ROOT", checkout)
    monkeypatch.setattr(environment, "prepare", lambda _: Path())
    monkeypatch.setattr(environment, "prepare_default_cell", Path)
    monkeypatch.setattr(environment, "run", lambda session, *how, **more: session.run(*how, **more))
    for name in ("AUDIT_INDEX", "CI", "GITHUB_BASE_REF"):
        monkeypatch.delenv(name, raising=False)
    (checkout / ".nox").mkdir()
    return fake


def call(
    function: Callable[..., Any], session: Session, *after: str, parameters: tuple[str, ...] = ()
) -> None:
    session.posargs = [*after]
    function(cast("nox.Session", session), *parameters)


def sbom(session: Session, *after: str) -> None:
    call(supply_chain.sbom, session, *after, parameters=(PROJECT.package,))


def test_audit_compares_with_the_lock_at_the_start_of_the_branch(session: Session) -> None:
    call(supply_chain.audit, session)
    base = session.root / ".nox/base.uv.lock"
    assert base.read_bytes() == (session.root / "uv.lock").read_bytes()
    command = ["python", "-m", "gates", "audit", "--base-lock", ".nox/base.uv.lock"]
    assert session.ran == [[*command, "--report", "artifacts/verdicts/audit.json"]]
    call(supply_chain.audit, session, "--base-lock", "mine.lock")
    assert session.ran[1][3:6] == ["audit", "--base-lock", "mine.lock"]


def test_inconclusive_audit_skips_but_fails_in_ci(
    session: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    session.outcome = "inconclusive"
    with pytest.raises(SkippedError, match="did not answer"):
        call(supply_chain.audit, session)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit) as ended:
        call(supply_chain.audit, session)
    assert ended.value.code == 2
    assert "with CI=true, audit must not be skipped" in capsys.readouterr().err


def test_audit_that_ends_without_a_verdict_fails(session: Session) -> None:
    """The verdict of an earlier run does not count."""
    call(supply_chain.audit, session)
    session.outcome = None
    with pytest.raises(FailedError, match="ended without a verdict"):
        call(supply_chain.audit, session)


def test_audit_that_only_records_licences_must_exit_0(session: Session) -> None:
    session.outcome = None
    call(supply_chain.audit, session, "--record-licences")
    assert session.codes == [(0,)]


def test_sbom_without_an_evaluated_model_says_so(session: Session) -> None:
    sbom(session)
    names = ["--project", PROJECT.model, "--package", PROJECT.package]
    assert session.ran == [["python", "-m", "gates", "sbom", *names, "--output", PROJECT.sbom]]
    (line,) = session.logged
    assert line.startswith("No ML-BOM: there is no evaluated model here; ")


def test_sbom_of_an_evaluated_model_adds_an_ml_bom_with_the_newest_wheel(session: Session) -> None:
    wheels = [f"dist/{PROJECT.package}-0.{minor}.0-py3-none-any.whl" for minor in (1, 2)]
    for name in (PROJECT.latest, PROJECT.verdict, *wheels):
        (session.root / name).parent.mkdir(parents=True, exist_ok=True)
        (session.root / name).write_text("")
    sbom(session)
    _, command = session.ran
    assert command[3] == "mlbom"
    assert command[-2:] == ["--wheel", wheels[1]]
    assert session.logged == []


@pytest.mark.parametrize("option", ["--check", "--cell"])
def test_sbom_with_check_or_cell_writes_no_ml_bom(option: str, session: Session) -> None:
    cell = WORKSPACE.cells[0]
    sbom(session, option, *([f"{cell.python}-{cell.torch}"] if option == "--cell" else []))
    (command,) = session.ran
    file = "sbom.cdx.json" if option == "--check" else f"sbom.{cell}.cdx.json"
    assert f"{PROJECT.artifacts}/{file}" in command
    if option == "--cell":
        exported = (session.root / ".nox/shipped-requirements.txt").read_text()
        assert f"\ntorch=={cell.torch}." in exported
        assert "\npytest==" not in exported
    assert session.logged == []


def test_unknown_cell_is_reported_in_one_line(
    session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        sbom(session, "--cell", "3.1-2")
    assert ended.value.code == 2
    assert "not a cell of the matrix; use one of 3.11-2.11" in capsys.readouterr().err


def test_trace_searches_the_models_of_every_project(session: Session) -> None:
    call(supply_chain.trace, session, "0" * 12)
    names = [word for each in WORKSPACE.projects for word in ("--name", each.model)]
    assert session.ran == [["python", "-m", "gates", "trace", *names, "0" * 12]]


def test_audit_index_is_a_url() -> None:
    assert supply_chain._index().startswith(("http://", "https://", "file://"))  # noqa: SLF001
