"""The commands that a project's sessions run, for the default project and for another."""

import contextlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import nox
import pytest

from tasks.environments import environment
from tasks.hooks import imports
from tasks.project import Project
from tasks.sessions import model, promotion
from tests import nox_session
from tests.nox_session import FailedError

DEFAULT = Project(
    package="images",
    model="digits",
    checkpoint="checkpoint.pt",
    baseline=("--no-baseline", "none yet"),
    is_default=True,
)
OTHER = Project(
    package="visits",
    model="visits",
    checkpoint="checkpoint.onnx",
    baseline=("--baseline", "models:/visits@production"),
    is_default=False,
)
PASS = json.dumps({"outcome": "pass", "reason": "good enough"})
FAIL = json.dumps({"outcome": "fail", "reason": "worse"})


class Session(nox_session.Session):
    """Records commands instead of running them."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.ran: list[list[str]] = []
        self.verdict: str | None = PASS
        self.checkpoints = iter([b"same", b"same"])
        self.chdir = contextlib.chdir

    def run(self, _: Path, *command: str, **__: object) -> None:
        """Record a command; write the verdict or checkpoint that the real one would write."""
        words = [word.replace(f"{self.root}/", "") for word in command]
        self.ran.append(words)
        if words[2].endswith(".eval") and self.verdict is not None:
            report = Path(command[command.index("--report") + 1])
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(self.verdict)
        if "--outputs" in words:
            Path("outputs").mkdir()
            Path("outputs", "latest.onnx").write_bytes(next(self.checkpoints))


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    fake = Session(tmp_path)
    monkeypatch.setattr(model, "ROOT", tmp_path)
    monkeypatch.setattr(promotion, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "prepare_default_cell", Path)
    monkeypatch.setattr(environment, "run", lambda session, *how, **more: session.run(*how, **more))
    return fake


def call(function: Callable[..., Any], session: Session, project: Project, *after: str) -> None:
    """Call a session's function as Nox would, with the arguments after --."""
    session.posargs = [*after]
    inspect.unwrap(function)(cast("nox.Session", session), project)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")


@pytest.mark.parametrize(
    ("project", "config"), [(DEFAULT, "configs/base.yaml"), (OTHER, "configs/visits/base.yaml")]
)
def test_train_adds_a_configuration_unless_one_is_given(
    session: Session, project: Project, config: str
) -> None:
    command = ["python", "-m", f"{project.package}.train", "--config"]
    call(model.train, session, project, "--run-id", "a")
    call(model.train, session, project, "--config", "mine.yaml")
    assert session.ran == [[*command, config, "--run-id", "a"], [*command, "mine.yaml"]]


@pytest.mark.parametrize("project", [DEFAULT, OTHER])
def test_evaluate_trains_if_there_is_no_checkpoint_then_judges_and_writes_the_card(
    session: Session, project: Project
) -> None:
    call(model.evaluate, session, project)
    train, judge, card = session.ran
    assert train[2] == f"{project.package}.train"
    assert judge[2:5] == [f"{project.package}.eval", "--checkpoint", project.latest]
    assert tuple(judge[-2:]) == project.baseline
    assert card[2:] == [
        *("gates", "card", "--run", project.latest, "--settings", project.card),
        *("--verdict", project.verdict),
    ]


@pytest.mark.parametrize(
    ("verdict", "reason"), [(FAIL, "fail: worse"), (None, "visits.eval ended without a verdict")]
)
def test_evaluate_fails_without_a_passing_verdict(
    session: Session, verdict: str | None, reason: str
) -> None:
    touch(session.root, OTHER.latest, OTHER.verdict)
    session.verdict = verdict
    with pytest.raises(FailedError, match=reason):
        call(model.evaluate, session, OTHER)
    assert "visits.train" not in session.ran[0]


def test_reproduce_compares_checkpoints_byte_for_byte(session: Session) -> None:
    call(model.reproduce, session, OTHER)
    assert session.logged[0].startswith("Reproduced: both checkpoints have sha256 ")
    session.checkpoints = iter([b"one", b"another"])
    with pytest.raises(FailedError, match="not reproducible: sha256 "):
        call(model.reproduce, session, OTHER)


@pytest.mark.parametrize("project", [DEFAULT, OTHER])
def test_register_takes_the_newest_run_with_its_verdict_and_sbom(
    session: Session, project: Project
) -> None:
    with pytest.raises(FailedError, match=rf"no {project.latest} to register; .*evaluate\("):
        call(promotion.register, session, project)
    touch(session.root, f"{project.outputs}/first/{project.checkpoint}")
    link = session.root / project.latest
    link.symlink_to(f"first/{project.checkpoint}")
    touch(session.root, project.verdict, project.sbom)
    call(promotion.register, session, project)
    named = ["python", "-m", "gates", "register", "--name", project.model]
    evidence = ["--verdict", project.verdict, "--sbom", project.sbom]
    assert session.ran == [[*named, "--run", f"{project.outputs}/first", *evidence]]
    call(promotion.register, session, project, "--run-id", "other", "--why", "x")
    assert session.ran[1] == [
        *(*named, "--run", f"{project.outputs}/other", *evidence, "--why", "x")
    ]


def test_promote_and_rollback_use_the_policy_of_the_project(session: Session) -> None:
    report = f"{OTHER.artifacts}/verdicts/promotion.json"
    touch(session.root, report)
    call(promotion.promote, session, OTHER, "--to", "staging")
    assert not (session.root / report).exists(), "the report of an earlier run must be deleted"
    call(promotion.rollback, session, OTHER, "--why", "slow")
    policy = ["--policy", OTHER.policy]
    promoted, rolled_back = (command[3:] for command in session.ran)
    assert promoted == [
        *("promote", "--name", "visits", "--report", report, *policy, "--to", "staging")
    ]
    assert rolled_back == ["rollback", "--name", "visits", *policy, "--why", "slow"]


def test_import_contracts_follow_declared_dependencies(tmp_path: Path) -> None:
    declared = {
        "base": "[]",
        "shared": '["base"]',
        "one": '["shared"]\n[tool.tasks]\nmodel = "one"',
        "two": '["base", "shared"]\n[tool.tasks]\nmodel = "two"',
    }
    for name, needs in declared.items():
        file = tmp_path / "src" / name / "pyproject.toml"
        file.parent.mkdir(parents=True)
        file.write_text(f'[project]\nname = "{name}"\ndependencies = {needs}\n')
    written = imports.contracts(tmp_path)
    assert "layers = \n\tone | two\n\tshared\n\tbase\n" in written
    for name in declared:
        assert f"modules = \n\ttasks\n\t{name}\n" in written
