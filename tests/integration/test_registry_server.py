"""The whole pipeline over HTTP: an MLflow server with basic-auth on PostgreSQL."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gates.errors import GateInputError
from gates.evaluation.policy import Policy
from gates.locations import local_copy
from gates.registry import stages
from gates.registry.history import Action
from gates.registry.ledger import RefusedError
from gates.registry.mlflow_store import MlflowStore
from gates.registry.pipeline import Promotion, Registry
from gates.verdicts.verdict import Outcome
from tests import registered
from tests.integration.servers import (
    ADMIN,
    PASSWORD,
    READER,
    READERS,
    MlflowServer,
    postgres,
    postgres_programs,
)
from tests.registered import Run
from tests.registries import stage_versions

ROOT = Path(__file__).parent.parent.parent
MODEL = "digits"
WORDS, LOGIN = ("username", "password"), (ADMIN, PASSWORD)

# All tests share one server, because starting one takes half a minute. Each test continues from the
# state that the previous one left, and asserts what it needs of that state.
pytestmark = pytest.mark.xdist_group("mlflow-server")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[MlflowServer]:
    programs = postgres_programs()
    if programs is None:
        reason = "PostgreSQL is not installed (no initdb); apt-get install postgresql"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; CI=true allows no skipped server")
        pytest.skip(reason)
    with postgres(programs) as database:
        running = MlflowServer(database, place)
        try:
            running.start()
            running.add_user(READER, READERS)
            yield running
        finally:
            running.kill()


@pytest.fixture(scope="module")
def policy(place: Path) -> Policy:
    return registered.policy(place)


@pytest.fixture(autouse=True)
def client(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.variables().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def registry(server: MlflowServer) -> Registry:
    return Registry(MlflowStore(server.address), MODEL, say=lambda _: None)


def gates(
    place: Path, variables: Mapping[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gates", *arguments],
        cwd=place,
        env=clean_environment(variables),
        capture_output=True,
        text=True,
        check=False,
    )


def clean_environment(variables: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return {**kept, "PYTHONPATH": str(ROOT), **variables}


def runs(place: Path, policy: Policy) -> Callable[..., Run]:
    def make(name: str, against: Run | None = None, weights: bytes | None = None) -> Run:
        made = Run(place / name, weights or name.encode())
        made.judge(policy, against)
        return made

    return make


@pytest.fixture(scope="module")
def one(place: Path, policy: Policy) -> Run:
    return runs(place, policy)("one")


@pytest.fixture(scope="module")
def rivals(place: Path, policy: Policy, one: Run) -> list[Run]:
    """Three runs judged against `one`."""
    return [runs(place, policy)(f"rival{number}", one) for number in range(3)]


def test_commands_register_and_promote_a_run(
    server: MlflowServer, place: Path, one: Run, registry: Registry
) -> None:
    register = ["register", "--run", str(one.folder), "--verdict", str(one.verdict_file)]
    for expected in ("version 1 (", "nothing to do"):
        done = gates(place, server.variables(), *register, "--name", MODEL)
        assert (done.returncode, done.stderr) == (0, "")
        assert expected in done.stdout
    for stage in ("staging", "production"):
        words = ["promote", "--name", MODEL, "--to", stage, "--policy", "gates.yaml"]
        done = gates(place, server.variables(), *words)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert f"version 1 is in {stage}" in done.stdout
    assert stage_versions(registry) == {"staging": 1, "production": 1}
    done = gates(place, server.variables(), "status", "--name", MODEL)
    assert done.returncode == 0
    assert "by admin" in done.stdout
    assert "correct horse" not in done.stdout + done.stderr


def test_user_and_time_come_from_the_server(
    server: MlflowServer, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The credentials are in a file, and the environment names another user.
    (tmp_path / ".mlflow").mkdir()
    lines = [f"mlflow_tracking_{name} = {value}" for name, value in zip(WORDS, LOGIN, strict=True)]
    (tmp_path / ".mlflow" / "credentials").write_text("\n".join(["[mlflow]", *lines]))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("GITHUB_ACTOR", "mallory")
    assert registry.by == ADMIN
    caller = registry.store.caller()
    assert caller is not None
    assert abs(caller.time - datetime.now(UTC)) < timedelta(minutes=1)
    held = registry.read().history.held
    assert held
    assert all(each.received and each.when == each.received for each in held)
    assert server.address.startswith("http")


def test_a_reader_can_read_but_not_promote(
    server: MlflowServer, place: Path, registry: Registry, rivals: list[Run]
) -> None:
    for rival in rivals:
        registry.register(rival.submission())
    before = registry.read().history
    reader = server.variables(READER, READERS)
    assert gates(place, reader, "status", "--name", MODEL).returncode == 0
    words = ["promote", "--name", MODEL, "--to", "staging", "--policy", "gates.yaml"]
    refused = gates(place, reader, *words)
    assert refused.returncode == 2
    assert "not allowed (403)" in refused.stderr
    assert refused.stderr.count("\n") == 1
    refused = gates(place, reader, "rollback", "--name", MODEL, "--policy", "gates.yaml")
    assert refused.returncode != 0
    assert registry.read().history == before


@pytest.mark.parametrize(("user", "password"), [(None, ""), ("admin", "guessed")])
def test_access_without_a_login_is_refused(
    server: MlflowServer, place: Path, user: str | None, password: str
) -> None:
    stranger = server.variables(user, password)
    for command in ("status", "history"):
        refused = gates(place, stranger, command, "--name", MODEL)
        assert refused.returncode == 2
        assert "not logged in (401)" in refused.stderr
        assert refused.stderr.count("\n") == 1


def test_eight_concurrent_promotions_leave_a_consistent_registry(
    server: MlflowServer, place: Path, registry: Registry
) -> None:
    entries = len(registry.read().history.held)
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "gates", "promote", "--name", MODEL, "--to", "staging"),
                *("--version", str(2 + number % 3), "--policy", "gates.yaml"),
            ],
            cwd=place,
            env=clean_environment(server.variables()),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(8)
    ]
    ended = [(*process.communicate(), process.returncode) for process in processes]
    codes = [code for _, _, code in ended]
    assert set(codes) <= {0, 1}, ended
    assert 0 in codes
    for out, err, code in ended:
        assert code == 0 or "was quicker" in err or "has replaced it" in out, (out, err)
    found = registry.read().history
    promoted = [e.entry.after for e in found.held[entries:] if e.entry.action is Action.PROMOTE]
    assert promoted[-1] == stage_versions(registry)["staging"]


class Interrupted:
    """A registry whose server is killed before or after its call `at`."""

    def __init__(self, store: MlflowStore, server: MlflowServer, at: str, *, after: bool) -> None:
        self._store, self._server, self._at, self._after = store, server, at, after
        self.address = store.address

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        def killed(*arguments: Any, **more: Any) -> Any:
            if not self._after:
                self._server.kill()
            result = call(*arguments, **more)
            self._server.kill()
            return result

        return killed if name == self._at else call


@pytest.mark.parametrize("after", [False, True])
def test_a_server_killed_during_a_promotion_loses_nothing(
    server: MlflowServer, registry: Registry, policy: Policy, *, after: bool
) -> None:
    number = 3 if after else 2
    registry.promote(Promotion(stage="staging", number=1), policy)
    known = registry.read().history.held
    dying = Interrupted(MlflowStore(server.address), server, "append", after=after)
    with pytest.raises(GateInputError, match=f"the registry {server.address}"):
        Registry(dying, MODEL, say=lambda _: None).promote(
            Promotion(stage="staging", number=number), policy
        )
    server.start()
    found = registry.read().history
    assert found.problems == ()
    assert found.held[: len(known)] == known
    current = stages.replay(found.held)["staging"].current
    assert current == (number if after else 1)
    # The next command completes the promotion or starts it again.
    verdict = registry.promote(Promotion(stage="staging", number=number), policy)
    assert verdict.outcome is Outcome.PASS
    assert stage_versions(registry)["staging"] == number
    assert stages.replay(registry.read().history.held)["staging"].unconfirmed is None


def test_rollback_command_restores_production(
    server: MlflowServer, place: Path, registry: Registry, policy: Policy
) -> None:
    assert registry.promote(Promotion(stage="production"), policy).outcome is Outcome.PASS
    assert stage_versions(registry)["production"] == 3
    words = ["rollback", "--name", MODEL, "--policy", "gates.yaml", "--why", "complaints"]
    done = gates(place, server.variables(), *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert stage_versions(registry)["production"] == 1
    verified = gates(place, server.variables(), "history", "--name", MODEL, "--verify")
    assert verified.returncode == 0
    assert "unbroken" in verified.stdout


def test_an_artifact_overwritten_on_the_server_is_detected(
    server: MlflowServer, registry: Registry, policy: Policy
) -> None:
    with local_copy(f"models:/{MODEL}@production") as file:
        assert file.read_bytes() == b"one"
    for checkpoint in server.artifacts.rglob("checkpoint.pt"):
        checkpoint.write_bytes(b"evil")
    with (
        pytest.raises(GateInputError, match=r"checkpoint\.pt was changed after it was registered"),
        local_copy(f"models:/{MODEL}@production"),
    ):
        pass
    verdict = registry.promote(Promotion(stage="production"), policy)
    assert verdict.outcome is Outcome.FAIL
    assert "checkpoint.pt was changed" in verdict.to_text()
    with pytest.raises(RefusedError, match="was changed after it was registered"):
        registry.rollback(policy, to=3)
    assert stage_versions(registry)["production"] == 1
