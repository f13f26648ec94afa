"""Kills of a registry's user at every moment: the log and the aliases are never torn."""

import os
import random
import signal
import sys
import time
from typing import Any

import pytest

from gates.policy import Policy
from gates.registry import stages
from gates.registry.pipeline import Promotion, Registry
from gates.registry.store import Store
from tests.registries import opened_again, there


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


def in_another_process(registry: Registry, policy: Policy, command: str) -> int:
    """Begin `command` in a process of its own; return its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            # Its own connections: those of the parent must not be shared.
            mine = opened_again(registry.store)
            act(Registry(mine, "digits", say=silent, by="anna"), policy, command)
            code = 0
        finally:
            os._exit(code)
    return child


@pytest.mark.usefixtures("one_two")
def test_kills_at_random_moments_leave_no_mixed_state_and_lose_no_entry(
    registry: Registry, policy: Policy, request: pytest.FixtureRequest
) -> None:
    kills: int = request.config.getoption("--kills")
    rng = random.Random(8)  # noqa: S311 - no secret
    started = time.monotonic()
    child = in_another_process(registry, policy, "promote")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    whole = time.monotonic() - started
    killed, outcomes = 0, {"promote": set[int | None](), "rollback": set[int | None]()}
    for trial in range(kills):
        # After each trial the other version is in production: promote and rollback take turns.
        command = "rollback" if trial % 2 == 0 else "promote"
        old, new = (2, 1) if command == "rollback" else (1, 2)
        known = registry.read().history.held
        child = in_another_process(registry, policy, command)
        # How long is the moment of the kill, not something that is waited for.
        time.sleep(rng.uniform(0, whole))
        os.kill(child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        killed += status == -signal.SIGKILL
        found = registry.read().history
        assert found.problems == ()
        assert found.held[: len(known)] == known
        says = stages.replay(found.held)["production"].current
        outcomes[command].add(says)
        assert says in {old, new}
        assert registry.store.record("digits").aliases["production"] in {old, new}
        act(registry, policy, command)
        assert there(registry)["production"] == new
    sys.stdout.write(f"{killed} of {kills} killed in time; then in production: {outcomes}\n")
    assert killed > kills / 4
