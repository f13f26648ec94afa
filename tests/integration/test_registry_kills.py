"""Killing a registry's client at any moment never leaves a torn log or torn aliases."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gates.evaluation.policy import Policy
from gates.registry import stages
from gates.registry.mlflow_store import MlflowStore
from gates.registry.pipeline import Promotion, Registry
from gates.registry.store import Store, fetch_checked
from tests.registries import MakeRun, stage_versions


class Killed(BaseException):
    """Ends a command as a kill would: nothing of it runs afterwards."""


class DiesAt:
    """A registry whose client is killed just before its call number `at`."""

    def __init__(self, store: Store, at: int) -> None:
        self._store, self._at = store, at
        self.calls = 0
        self.address = store.address

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                raise Killed
            return call(*arguments, **more)

        return counted


def ignore(_: str) -> None:
    pass


def act(registry: Registry, policy: Policy, command: str) -> None:
    if command == "promote":
        registry.promote(Promotion(stage="production", number=2), policy)
    else:
        registry.rollback(policy, to=1)


@pytest.mark.parametrize("command", ["promote", "rollback"])
@pytest.mark.usefixtures("one_two")
def test_after_a_kill_at_any_call_the_next_command_finishes(
    registry: Registry,
    policy: Policy,
    command: str,
) -> None:
    if command == "rollback":
        registry.promote(Promotion(stage="production"), policy)
    old, new = (1, 2) if command == "promote" else (2, 1)

    outcomes = set()
    at = 0
    while True:
        at += 1
        known = registry.read().history.held
        dying = DiesAt(registry.store, at)
        try:
            act(Registry(dying, "digits", say=ignore, by="anna"), policy, command)
        except Killed:
            pass
        else:
            break
        found = registry.read().history
        assert found.problems == ()
        assert found.held[: len(known)] == known
        current = stages.replay(found.held)["production"].current
        outcomes.add(current)
        assert current in {old, new}
        assert registry.store.record("digits").aliases["production"] in {old, new}
        act(registry, policy, command)
        assert stage_versions(registry)["production"] == new
        # Restore the initial state.
        if command == "promote":
            registry.rollback(policy, to=1)
        else:
            registry.rollback(policy, to=2)
    assert at > 5
    assert outcomes == {old, new}


def in_child(registry: Registry, action: Callable[[Registry], object]) -> int:
    """Start `action` in a child process; return its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # A new store: connections must not be shared with the parent.
            action(Registry(MlflowStore(registry.store.address), "digits", say=ignore, by="anna"))
            code = 0
        finally:
            os._exit(code)
    return child


def exit_code(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def seconds_of(registry: Registry, action: Callable[[Registry], object]) -> float:
    """Run `action` in a child process; return how long it took."""
    started = time.monotonic()
    assert exit_code(in_child(registry, action)) == 0
    return time.monotonic() - started


def killed_in_time(child: int, moment: float) -> bool:
    """Kill `child` after `moment` seconds; return whether it was still running."""
    # This sleep chooses the moment of the kill; it does not wait for anything.
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    return exit_code(child) == -signal.SIGKILL


@pytest.mark.usefixtures("one_two")
def test_random_kills_leave_no_mixed_state_and_lose_no_entry(
    registry: Registry, policy: Policy, request: pytest.FixtureRequest
) -> None:
    kills: int = request.config.getoption("--kills")
    rng = random.Random(8)  # noqa: S311 - not cryptographic
    duration = seconds_of(registry, lambda mine: act(mine, policy, "promote"))
    killed, trial, outcomes = 0, 0, {"promote": set[int | None](), "rollback": set[int | None]()}
    while killed < kills:
        # Each trial ends with the other version in production, so promote and rollback alternate.
        command = "rollback" if trial % 2 == 0 else "promote"
        old, new = (2, 1) if command == "rollback" else (1, 2)
        known = registry.read().history.held
        child = in_child(registry, lambda mine, it=command: act(mine, policy, it))  # type: ignore[misc]
        killed += killed_in_time(child, rng.uniform(0, duration))
        trial += 1
        assert trial < 4 * kills, "most processes end before they are killed"
        found = registry.read().history
        assert found.problems == ()
        assert found.held[: len(known)] == known
        current = stages.replay(found.held)["production"].current
        outcomes[command].add(current)
        assert current in {old, new}
        assert registry.store.record("digits").aliases["production"] in {old, new}
        act(registry, policy, command)
        assert stage_versions(registry)["production"] == new
    sys.stdout.write(
        f"{killed} of {trial} processes killed in time; in production afterwards: {outcomes}\n"
    )


def test_kills_during_registration_leave_a_complete_version_or_none(
    registry: Registry, run: MakeRun, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills: int = request.config.getoption("--kills") // 4
    rng = random.Random(9)  # noqa: S311 - not cryptographic
    first = run("first").submission()
    duration = seconds_of(registry, lambda mine: mine.register(first))
    known = registry.store.versions("digits")
    for trial in range(kills):
        submission = run(f"run{trial}").submission()
        child = in_child(registry, lambda mine, it=submission: mine.register(it))  # type: ignore[misc]
        killed_in_time(child, rng.uniform(0, duration))
        left = registry.store.versions("digits")
        assert left[: len(known)] == known
        assert len(left) - len(known) in {0, 1}
        version, is_new = registry.register(submission)
        assert is_new == (len(left) == len(known))
        known = registry.store.versions("digits")
        assert known[-1] == version
        folder = tmp_path / f"copy{trial}"
        folder.mkdir()
        fetch_checked(registry.store, version, list(version.files), folder)


def test_kills_during_creation_leave_a_working_registry_or_none(
    run: MakeRun, tmp_path: Path
) -> None:
    one = run("one")
    command = [sys.executable, "-m", "gates", "register", "--name", "digits"]
    command += ["--run", str(one.folder), "--verdict", str(one.verdict_file)]
    rng = random.Random(10)  # noqa: S311 - not cryptographic
    duration = None
    for trial in range(4):
        folder = tmp_path / f"made{trial}"
        folder.mkdir()
        variables = {**os.environ, "GATES_REGISTRY": f"sqlite:///{folder}/mlflow.db"}
        started = time.monotonic()
        if duration is not None:
            with subprocess.Popen(command, env=variables) as child:
                time.sleep(rng.uniform(0.2, duration))
                child.kill()
        subprocess.run(command, env=variables, check=True)
        duration = duration or time.monotonic() - started
        assert len(MlflowStore(variables["GATES_REGISTRY"]).versions("digits")) == 1
