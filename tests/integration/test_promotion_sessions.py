"""The sessions `register`, `promote` and `rollback`, run as a user would in a checkout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import repository

PRODUCTION = "models:/my_project@production"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout whose policy does not require a day in staging."""
    root = repository.copy(tmp_path_factory.mktemp("sessions") / "a checkout")
    policy = root / "configs" / "gates.yaml"
    policy.write_text(policy.read_text().replace("hours_in_staging: 24", "hours_in_staging: 0"))
    repository.commit(cwd=root)
    return root


def nox(root: Path, session: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    registries = ("GATES_REGISTRY", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI")
    variables = {name: value for name, value in os.environ.items() if name not in registries}
    return subprocess.run(
        [sys.executable, "-m", "nox", "-s", f"{session}(my_project)", "--", *arguments],
        cwd=root,
        env={**variables, "CI": "true", "GITHUB_ACTOR": "anna"},
        capture_output=True,
        text=True,
        check=False,
    )


def done(root: Path, session: str, *arguments: str) -> str:
    ran = nox(root, session, *arguments)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def train_and_judge(root: Path, run: str, epochs: int, *baseline: str) -> None:
    config = ["--config", "configs/ci-tiny.yaml", "--set", f"train.epochs={epochs}"]
    done(root, "train", *config, "--run-id", run)
    done(root, "evaluate", *baseline)


def status(root: Path) -> str:
    command = [sys.executable, "-m", "gates", "status", "--name", "my_project"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout


def test_nothing_to_register_is_reported_in_one_line(root: Path) -> None:
    ran = nox(root, "register")
    assert ran.returncode == 1
    assert "There is no outputs/latest.pt to register; " in ran.stderr
    assert 'nox -s "train(my_project)"' in ran.stderr


def test_from_a_run_to_production_and_back(root: Path) -> None:
    done(root, "sbom")
    train_and_judge(root, "first", 3, "--no-baseline", "the first one")
    assert "version 1 (" in done(root, "register")
    done(root, "promote", "--to", "staging")
    done(root, "promote", "--to", "production", "--approver", "ben", "--why", "a start")
    report = root / "artifacts" / "verdicts" / "promotion.json"
    assert json.loads(report.read_text())["outcome"] == "pass"

    # The next model is clearly better and is judged against the one in production.
    train_and_judge(root, "second", 9, "--baseline", PRODUCTION)
    verdict = json.loads((root / "artifacts" / "verdicts" / "evaluation.json").read_text())
    in_production = json.loads((root / "outputs" / "first" / "provenance.json").read_text())
    assert verdict["evidence"]["baseline"] == in_production["subject"][0]["digest"]["sha256"]
    done(root, "register", "--run-id", "second")
    refused = nox(root, "promote", "--to", "staging", "--approver", "ben", "--version", "9")
    assert refused.returncode == 1
    assert "has no version 9" in refused.stdout + refused.stderr
    assert not report.exists(), "the earlier verdict must be removed"
    for stage in ("staging", "production"):
        done(root, "promote", "--to", stage, "--approver", "ben")
    assert "production  version 2 (" in status(root)
    done(root, "rollback", "--why", "wrong on thick sevens")
    assert "production  version 1 (" in status(root)
    assert "by anna: wrong on thick sevens" in status(root)
