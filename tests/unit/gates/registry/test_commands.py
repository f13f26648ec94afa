"""The registry's commands: output and exit codes."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gates.__main__ import main
from gates.errors import GateInputError
from gates.evaluation.policy import Policy
from gates.locations import local_copy
from gates.registry.pipeline import Promotion, Registry
from gates.registry.store import Store
from tests.registered import Run
from tests.registries import MakeRun, promote_without_check, to_production

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def address(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.address)
    monkeypatch.setenv("GITHUB_ACTOR", "anna")
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.chdir(tmp_path)


def register(run: Run) -> int:
    files = ["--run", str(run.folder), "--verdict", str(run.verdict_file)]
    return main(["register", "--name", "digits", *files])


def promote(*more: str) -> int:
    return main(["promote", "--name", "digits", "--policy", "gates.yaml", *more])


@pytest.mark.usefixtures("policy")
def test_a_model_is_promoted_to_production_and_rolled_back(run: MakeRun, capsys: Capture) -> None:
    one = run("one")
    assert register(one) == 0
    assert "digits: version 1 (01234567-" in capsys.readouterr().out
    assert register(one) == 0
    assert "is already registered with this checkpoint; nothing to do" in capsys.readouterr().out
    assert promote("--to", "staging", "--why", "first", "--report", "promotion.json") == 0
    assert json.loads(Path("promotion.json").read_text())["outcome"] == "pass"
    assert promote("--to", "production", "--approver", "ben") == 0
    capsys.readouterr()
    assert main(["status", "--name", "digits"]) == 0
    out = capsys.readouterr().out
    assert "by anna, approved by ben" in out
    assert "by anna: first" in out
    two = run("two", against=one)
    assert register(two) == 0
    for stage in ("staging", "production"):
        assert promote("--to", stage) == 0
    assert main(["rollback", "--name", "digits", "--policy", "gates.yaml", "--why", "bad"]) == 0
    capsys.readouterr()
    assert main(["history", "--name", "digits"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert lines[-1].endswith("rollback     production: 2 -> 1  by anna: bad")
    assert main(["history", "--name", "digits", "--export", "log.jsonl"]) == 0
    assert main(["history", "--name", "digits", "--verify", "--against", "log.jsonl"]) == 0
    assert "digits: 9 entries, unbroken; the newest is " in capsys.readouterr().out
    assert len(Path("log.jsonl").read_text().splitlines()) == 9


@pytest.mark.parametrize("command", ["status", "history", "promote", "rollback"])
@pytest.mark.usefixtures("policy")
def test_an_unregistered_model_is_bad_input(command: str, capsys: Capture) -> None:
    more = {
        "history": ["--verify"],
        "promote": ["--policy", "gates.yaml", "--to", "production"],
        "rollback": ["--policy", "gates.yaml"],
    }
    assert main([command, "--name", "digits", *more.get(command, [])]) == 2
    error = capsys.readouterr().err
    assert error.startswith("digits: is not in sqlite:")
    assert error.count("\n") == 1


@pytest.mark.usefixtures("policy")
def test_a_reason_cannot_forge_a_line_of_the_history(run: MakeRun, capsys: Capture) -> None:
    assert register(run("one")) == 0
    why = "ok\n  99  2026-11-24 production: 1 -> 9  by boss\x1b[2K\udce9"
    assert promote("--to", "staging", "--why", why) == 0
    capsys.readouterr()
    for command in ("history", "status"):
        assert main([command, "--name", "digits"]) == 0
        printed = capsys.readouterr().out
        assert "\x1b" not in printed
        assert not [line for line in printed.splitlines() if line.startswith("  99")]


@pytest.mark.usefixtures("policy")
def test_an_unwritable_report_is_refused_before_anything_is_promoted(
    run: MakeRun, registry: Registry, capsys: Capture
) -> None:
    one = run("one")
    assert register(one) == 0
    Path("a file").write_text("")
    assert promote("--to", "staging", "--report", "a file/verdict.json") == 2
    assert "a file/verdict.json: cannot be written" in capsys.readouterr().err
    for file in (str(one.verdict_file), "gates.yaml", "declared.json"):
        files = ["--verdict", str(one.verdict_file), "--report", file]
        assert promote("--to", "staging", *files) == 2
        assert f"{file}: would overwrite" in capsys.readouterr().err
    assert registry.read().history.held == ()


@pytest.mark.usefixtures("policy")
def test_an_acknowledgement_needs_a_reason(run: MakeRun, capsys: Capture) -> None:
    assert register(run("one")) == 0
    assert main(["history", "--name", "digits", "--acknowledge", " "]) == 2
    assert "--acknowledge: say why" in capsys.readouterr().err


@pytest.mark.usefixtures("policy")
def test_a_refusal_exits_1_and_bad_input_exits_2(run: MakeRun, capsys: Capture) -> None:
    assert promote("--to", "staging") == 2
    assert "is not in sqlite" in capsys.readouterr().err
    assert register(run("one")) == 0
    assert promote("--to", "production", "--version", "1") == 1
    assert "criteria not met: in staging" in capsys.readouterr().out
    assert promote("--to", "production") == 1
    assert capsys.readouterr().err == "digits: nothing is in staging; promote --to staging first\n"
    assert main(["rollback", "--name", "digits", "--policy", "gates.yaml"]) == 1
    assert "nothing is in production, so there is nothing to" in capsys.readouterr().err
    for name in ("", "a b", "x.history", "../x", "x'y"):
        assert main(["status", "--name", name]) == 2
        assert capsys.readouterr().err.startswith(f"--name {name}: use up to 100 letters")
    assert main(["status", "--name", "other"]) == 2
    assert promote("--to", "staging", "--why", "x" * 1001) == 2
    assert "--why: is longer than 1000 characters" in capsys.readouterr().err


def test_a_policy_without_a_promotion_section_is_bad_input(
    run: MakeRun, policy: Policy, capsys: Capture
) -> None:
    assert policy.promotion is not None
    assert register(run("one")) == 0
    document = json.loads(Path("gates.yaml").read_text())
    Path("gates.yaml").write_text(json.dumps({"evaluation": document["evaluation"]}))
    assert promote("--to", "staging") == 2
    assert "has no section promotion" in capsys.readouterr().err


def test_a_registry_that_contradicts_its_history_exits_1(
    registry: Registry, run: MakeRun, policy: Policy, client: MlflowClient, capsys: Capture
) -> None:
    one = run("one")
    to_production(registry, one, policy)
    registry.register(run("two", against=one).submission())
    registry.store.point("digits", "production", 2)
    assert main(["status", "--name", "digits"]) == 1
    assert "wrong: the alias production names version 2, the history has 1" in (
        capsys.readouterr().out
    )
    with (
        pytest.raises(GateInputError, match="somebody has moved the alias"),
        local_copy("models:/digits@production"),
    ):
        pass
    client.delete_model_version("digits.history", "2")
    assert main(["history", "--name", "digits", "--verify"]) == 1
    assert "digits: entry 2 is missing" in capsys.readouterr().out
    assert main(["history", "--name", "digits", "--acknowledge", "a backup", "--verify"]) == 0


def test_only_registered_content_is_loaded(
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


def load_production() -> bytes:
    with local_copy("models:/digits@production") as file:
        return file.read_bytes()


def test_production_is_loaded_by_the_confirmed_history_and_not_by_the_alias(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    one = run("one")
    to_production(registry, one, policy)
    registry.register(run("two", against=one).submission())
    registry.promote(Promotion(stage="staging", number=2), policy)
    promote_without_check(registry, policy, "production")
    assert registry.read().version_in("production") == 2
    assert load_production() == b"one"
    registry.promote(Promotion(stage="production"), policy)
    assert load_production() == b"two"
    # Others can move the alias; pointing it back at the old version changes nothing.
    registry.store.point("digits", "production", 1)
    assert load_production() == b"two"
    registry.rollback(policy)
    registry.store.point("digits", "production", 2)
    assert load_production() == b"one"
