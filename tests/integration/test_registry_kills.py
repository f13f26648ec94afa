"""Kills of a registry's user at every moment: the log and the aliases are never torn."""

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
from tests.registries import MakeRun, there


class Stopped(BaseException):
    """What a kill is to the process that it ends: nothing runs after it."""


class StopsAt:
    """A registry whose user is killed before one of its calls: after the one before."""

    def __init__(self, store: Store, at: int) -> None:
        self._store, self._at = store, at
        self.calls = 0
        self.address = store.address

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._store, name)

        def counted(*arguments: Any, **more: Any) -> Any:
            self.calls += 1
            if self.calls == self._at:
                raise Stopped
            return call(*arguments, **more)

        return counted


def silent(_: str) -> None:
    pass


def act(registry: Registry, policy: Policy, command: str) -> None:
    if command == "promote":
        registry.promote(Promotion(stage="production", number=2), policy)
    else:
        registry.rollback(policy, to=1)


@pytest.mark.parametrize("command", ["promote", "rollback"])
@pytest.mark.usefixtures("one_two")
def test_a_kill_at_any_call_leaves_the_old_or_the_new_and_the_next_command_finishes(
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
        dying = StopsAt(registry.store, at)
        try:
            act(Registry(dying, "digits", say=silent, by="anna"), policy, command)
        except Stopped:
            pass
        else:
            break
        found = registry.read().history
        assert found.problems == ()
        assert found.held[: len(known)] == known
        says = stages.replay(found.held)["production"].current
        outcomes.add(says)
        assert says in {old, new}
        assert registry.store.record("digits").aliases["production"] in {old, new}
        act(registry, policy, command)
        assert there(registry)["production"] == new
        # Back to where it began.
        if command == "promote":
            registry.rollback(policy, to=1)
        else:
            registry.rollback(policy, to=2)
    assert at > 5
    assert outcomes == {old, new}


def in_another_process(registry: Registry, action: Callable[[Registry], object]) -> int:
    """Begin `action` in a process of its own; return its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # Its own connections: those of the parent must not be shared.
            action(Registry(MlflowStore(registry.store.address), "digits", say=silent, by="anna"))
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def seconds_of(registry: Registry, action: Callable[[Registry], object]) -> float:
    """Let `action` end, in a process of its own; return how long it took."""
    started = time.monotonic()
    assert ended(in_another_process(registry, action)) == 0
    return time.monotonic() - started


def killed_in_time(child: int, moment: float) -> bool:
    """Kill `child` after `moment` seconds; return whether it had not ended before."""
    # How long is the moment of the kill, not something that is waited for.
    time.sleep(moment)
    os.kill(child, signal.SIGKILL)
    return ended(child) == -signal.SIGKILL


@pytest.mark.usefixtures("one_two")
def test_kills_at_random_moments_leave_no_mixed_state_and_lose_no_entry(
    registry: Registry, policy: Policy, request: pytest.FixtureRequest
) -> None:
    kills: int = request.config.getoption("--kills")
    rng = random.Random(8)  # noqa: S311 - no secret
    whole = seconds_of(registry, lambda mine: act(mine, policy, "promote"))
    killed, trial, outcomes = 0, 0, {"promote": set[int | None](), "rollback": set[int | None]()}
    while killed < kills:
        # After each trial the other version is in production: promote and rollback take turns.
        command = "rollback" if trial % 2 == 0 else "promote"
        old, new = (2, 1) if command == "rollback" else (1, 2)
        known = registry.read().history.held
        child = in_another_process(registry, lambda mine, it=command: act(mine, policy, it))  # type: ignore[misc]
        killed += killed_in_time(child, rng.uniform(0, whole))
        trial += 1
        assert trial < 4 * kills, "most of them end before they are killed"
        found = registry.read().history
        assert found.problems == ()
        assert found.held[: len(known)] == known
        says = stages.replay(found.held)["production"].current
        outcomes[command].add(says)
        assert says in {old, new}
        assert registry.store.record("digits").aliases["production"] in {old, new}
        act(registry, policy, command)
        assert there(registry)["production"] == new
    sys.stdout.write(f"{killed} of {trial} killed in time; then in production: {outcomes}\n")


def test_kills_during_registrations_leave_one_whole_version_or_none(
    registry: Registry, run: MakeRun, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills: int = request.config.getoption("--kills") // 4
    rng = random.Random(9)  # noqa: S311 - no secret
    first = run("first").submission()
    whole = seconds_of(registry, lambda mine: mine.register(first))
    known = registry.store.versions("digits")
    for trial in range(kills):
        submission = run(f"run{trial}").submission()
        child = in_another_process(registry, lambda mine, it=submission: mine.register(it))  # type: ignore[misc]
        killed_in_time(child, rng.uniform(0, whole))
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


def test_kills_while_the_registry_is_made_leave_one_that_works_or_none(
    run: MakeRun, tmp_path: Path
) -> None:
    one = run("one")
    command = [sys.executable, "-m", "gates", "register", "--name", "digits"]
    command += ["--run", str(one.folder), "--verdict", str(one.verdict_file)]
    rng = random.Random(10)  # noqa: S311 - no secret
    whole = None
    for trial in range(4):
        folder = tmp_path / f"made{trial}"
        folder.mkdir()
        variables = {**os.environ, "GATES_REGISTRY": f"sqlite:///{folder}/mlflow.db"}
        started = time.monotonic()
        if whole is not None:
            with subprocess.Popen(command, env=variables) as child:
                time.sleep(rng.uniform(0.2, whole))
                child.kill()
        subprocess.run(command, env=variables, check=True)
        whole = whole or time.monotonic() - started
        assert len(MlflowStore(variables["GATES_REGISTRY"]).versions("digits")) == 1
