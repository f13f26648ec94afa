"""The registry's commands: what they print, and their exit codes."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gates.__main__ import main
from gates.errors import GateInputError
from gates.locations import local_copy
from gates.policy import Policy
from gates.registry.history import STAGES
from gates.registry.pipeline import Promotion, Registry
from gates.registry.store import Store
from tests.registered import Run
from tests.registries import MakeRun, to_production

Told = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def address(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.address)
    monkeypatch.setenv("GITHUB_ACTOR", "anna")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.chdir(tmp_path)


def registered(run: Run) -> int:
    files = ["--run", str(run.folder), "--verdict", str(run.verdict_file)]
    return main(["register", "--name", "digits", *files])


def promoted(*more: str) -> int:
    return main(["promote", "--name", "digits", "--policy", "gates.yaml", *more])


@pytest.mark.usefixtures("policy")
def test_the_way_to_production_and_back(run: MakeRun, capsys: Told) -> None:
    one = run("one")
    assert registered(one) == 0
    assert "digits: version 1 (01234567-" in capsys.readouterr().out
    assert registered(one) == 0
    assert "is registered already, as this checkpoint; nothing to do" in capsys.readouterr().out
    assert promoted("--to", "staging", "--why", "first", "--report", "promotion.json") == 0
    assert json.loads(Path("promotion.json").read_text())["outcome"] == "pass"
    assert promoted("--to", "production", "--approver", "ben") == 0
    capsys.readouterr()
    assert main(["status", "--name", "digits"]) == 0
    out = capsys.readouterr().out
    assert "by anna, approved by ben" in out
    assert "by anna: first" in out
    two = run("two", against=one)
    assert registered(two) == 0
    for stage in ("staging", "production"):
        assert promoted("--to", stage) == 0
    assert main(["rollback", "--name", "digits", "--policy", "gates.yaml", "--why", "bad"]) == 0
    capsys.readouterr()
    assert main(["history", "--name", "digits"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 9
    assert told[-1].endswith("rollback     production: 2 -> 1  by anna: bad")
    assert main(["history", "--name", "digits", "--export", "log.jsonl"]) == 0
    assert main(["history", "--name", "digits", "--verify", "--against", "log.jsonl"]) == 0
    assert "digits: 9 entries, unbroken; the newest is " in capsys.readouterr().out
    assert len(Path("log.jsonl").read_text().splitlines()) == 9


@pytest.mark.usefixtures("policy")
def test_a_refusal_is_exit_code_1_and_bad_input_2(run: MakeRun, capsys: Told) -> None:
    assert promoted("--to", "staging") == 2
    assert "is not in sqlite" in capsys.readouterr().err
    assert registered(run("one")) == 0
    assert promoted("--to", "production", "--version", "1") == 1
    assert "for want of: in staging" in capsys.readouterr().out
    assert promoted("--to", "production") == 1
    assert capsys.readouterr().err == "digits: nothing is in staging; promote --to staging first\n"
    assert main(["rollback", "--name", "digits", "--policy", "gates.yaml"]) == 1
    assert "no version before none to go back to" in capsys.readouterr().err
    for name in ("", "a b", "x.history", "../x", "x'y"):
        assert main(["status", "--name", name]) == 2
        assert capsys.readouterr().err.startswith(f"--name {name}: use up to 100 letters")
    assert main(["status", "--name", "other"]) == 2
    assert promoted("--to", "staging", "--why", "x" * 1001) == 2
    assert "--why: is longer than 1000 letters" in capsys.readouterr().err


def test_a_policy_without_a_promotion_promotes_nothing(
    run: MakeRun, policy: Policy, capsys: Told
) -> None:
    assert policy.promotion is not None
    assert registered(run("one")) == 0
    document = json.loads(Path("gates.yaml").read_text())
    Path("gates.yaml").write_text(json.dumps({"evaluation": document["evaluation"]}))
    assert promoted("--to", "staging") == 2
    assert "has no section promotion" in capsys.readouterr().err


def test_a_registry_that_contradicts_its_history_is_a_failure(
    registry: Registry, run: MakeRun, policy: Policy, client: MlflowClient, capsys: Told
) -> None:
    one = run("one")
    to_production(registry, one, policy)
    registry.register(run("two", against=one).submission())
    registry.store.point("digits", "production", 2)
    assert main(["status", "--name", "digits"]) == 1
    assert "wrong: the alias production names version 2, the history says 1" in (
        capsys.readouterr().out
    )
    with (
        pytest.raises(GateInputError, match="somebody has moved it"),
        local_copy("models:/digits@production"),
    ):
        pass
    client.delete_model_version("digits.history", "2")
    assert main(["history", "--name", "digits", "--verify"]) == 1
    assert "digits: entry 2 is missing" in capsys.readouterr().out
    assert main(["history", "--name", "digits", "--acknowledge", "a backup", "--verify"]) == 0


def test_what_is_loaded_is_what_was_registered(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    version = to_production(registry, run("one"), policy)
    with local_copy("models:/digits@production") as file:
        assert (file.name, file.read_bytes()) == ("checkpoint.pt", b"one")
    with local_copy("models:/digits/1", prefer="predictions.parquet") as file:
        assert file.name == "predictions.parquet"
    Path(version.source.removeprefix("file://"), "checkpoint.pt").write_bytes(b"evil")
    with (
        pytest.raises(GateInputError, match=r"checkpoint\.pt was changed after it was registered"),
        local_copy("models:/digits@production"),
    ):
        pass


def test_while_a_promotion_is_under_way_the_old_one_is_loaded(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    one = run("one")
    to_production(registry, one, policy)
    registry.register(run("two", against=one).submission())
    for stage in STAGES:
        registry.promote(Promotion(stage=stage, number=2), policy)
    # As if the alias had not been moved yet.
    registry.store.point("digits", "production", 1)
    with local_copy("models:/digits@production") as file:
        assert file.read_bytes() == b"one"
