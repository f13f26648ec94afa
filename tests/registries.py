"""Fresh registries in SQLite files for tests to change, with consistent versions."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gates.evaluation.policy import Policy
from gates.evidence.provenance import SourceState, source_state
from gates.registry import stages
from gates.registry.history import Stage
from gates.registry.mlflow_store import MlflowStore
from gates.registry.pipeline import Promotion, Registry
from gates.registry.store import Store, Version
from gates.supply.locked import parse_lock
from gates.verdicts.verdict import Outcome
from tests import registered, repository
from tests.registered import Run

if TYPE_CHECKING:
    from mlflow import MlflowClient

MakeRun = Callable[..., Run]

# Before MLflow is imported: these tests must not depend on the user's environment.
for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_USERNAME"):
    os.environ.pop(name, None)


def stage_versions(registry: Registry) -> dict[Stage, int | None]:
    """Return the version in each stage by the log, and check that the aliases agree."""
    found = registry.read().history
    assert found.problems == ()
    current = {stage: place.current for stage, place in stages.replay(found.held).items()}
    aliases = registry.store.record(registry.model).aliases
    assert aliases == {stage: number for stage, number in current.items() if number is not None}
    return current


def to_production(registry: Registry, run: Run, policy: Policy) -> Version:
    """Register `run` and promote it to staging and production."""
    version, _ = registry.register(run.submission())
    stages_: tuple[Stage, ...] = ("staging", "production")
    for stage in stages_:
        verdict = registry.promote(Promotion(stage=stage, number=version.number), policy)
        assert verdict.outcome is Outcome.PASS, verdict.to_text()
    return version


class After:
    """A registry that calls `happens` right after its client's first append.

    Args:
        store: the registry.
        happens: called once.
    """

    def __init__(self, store: Store, happens: Callable[[], None]) -> None:
        self._store, self._happens = store, happens
        self._appended = False
        self.address = store.address

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def append(self, version: Version, text: str, *, summary: str) -> None:
        self._store.append(version, text, summary=summary)
        if not self._appended:
            self._appended = True
            self._happens()


def killed() -> None:
    """End the registry's client here, as a kill would."""
    raise KeyboardInterrupt


def promote_without_check(registry: Registry, policy: Policy, stage: Stage) -> None:
    """Promote to `stage`, but die before the promotion is checked."""
    dying = Registry(After(registry.store, killed), registry.model, say=lambda _: None, by="anna")
    with pytest.raises(KeyboardInterrupt):
        dying.promote(Promotion(stage=stage), policy)
    assert registry.read().stages[stage].unconfirmed is not None


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with MLflow's tables, made once because that takes a second."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowStore(f"sqlite:///{file}", make=True).versions("none")
    return file


def copied(database: Path, folder: Path) -> str:
    """Copy an empty registry into a new `folder`; return its address."""
    folder.mkdir()
    shutil.copy(database, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> Store:
    """An empty registry."""
    return MlflowStore(copied(empty_database, tmp_path / "registry"))


@pytest.fixture
def client(store: Store) -> "MlflowClient":
    """An MLflow client, for changes that bypass our registry code."""
    from mlflow import MlflowClient  # noqa: PLC0415 - takes seconds

    return MlflowClient(store.address, store.address)


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return registered.policy(tmp_path)


@pytest.fixture
def messages() -> list[str]:
    return []


LOCK = """\
version = 1

[[package]]
name = "numpy"
version = "2.3.0"
source = { registry = "https://index.invalid/simple" }
wheels = [{ url = "https://index.invalid/numpy.whl", hash = "sha256:NUMPY" }]

[[package]]
name = "torch"
version = "2.15.0"
source = { registry = "https://index.invalid/simple" }
dependencies = [{ name = "numpy" }]
wheels = [{ url = "https://index.invalid/torch.whl", hash = "sha256:TORCH" }]
""".replace("NUMPY", "a" * 64).replace("TORCH", "b" * 64)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SourceState:
    """The state of a repository with a lock; the test runs in that repository."""
    root = tmp_path / "repository"
    root.mkdir()
    (root / "uv.lock").write_text(LOCK)
    repository.git("init", "--quiet", cwd=root)
    repository.commit(cwd=root)
    monkeypatch.chdir(root)
    return source_state(root)


def write_sbom(file: Path, lock: str = LOCK) -> Path:
    """Write the SBOM of `lock`."""
    from gates.supply.sbom import as_text, sbom  # noqa: PLC0415 - takes a moment

    now = datetime(2026, 11, 26, tzinfo=UTC)
    packages = parse_lock(lock, where="uv.lock")
    file.write_text(as_text(sbom(packages, {}, project="digits", properties={}, time=now)))
    return file


@pytest.fixture
def registry(store: Store, messages: list[str]) -> Registry:
    return Registry(store, "digits", say=messages.append, by="anna")


@pytest.fixture
def run(tmp_path: Path, policy: Policy) -> MakeRun:
    """Make a run that was judged against another one or as a first release."""

    def make(name: str, weights: bytes | None = None, against: Run | None = None) -> Run:
        made = Run(tmp_path / name, weights or name.encode())
        made.judge(policy, against)
        return made

    return make


@pytest.fixture
def one_two(registry: Registry, run: MakeRun, policy: Policy) -> tuple[Run, Run]:
    """Version 1 is in production; version 2, judged against it, in staging."""
    one = run("one")
    to_production(registry, one, policy)
    two = run("two", against=one)
    registry.register(two.submission())
    assert registry.promote(Promotion(stage="staging"), policy).outcome is Outcome.PASS
    return one, two
