"""The sessions `train` and `evaluate`, run as a user would in a separate checkout."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import repository

VERDICT = Path("artifacts", "verdicts", "evaluation.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = repository.copy(tmp_path_factory.mktemp("sessions") / "a checkout")
    ran = nox(root, "train", "--config", "configs/ci-tiny.yaml", "--run-id", "tiny")
    assert ran.returncode == 0, ran.stderr
    return root


def nox(root: Path, session: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nox", "-s", f"{session}(my_project)", "--", *arguments],
        cwd=root,
        env={**os.environ, "CI": "true"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_evaluate_writes_a_verdict_and_a_model_card(trained: Path) -> None:
    ran = nox(trained, "evaluate")
    assert ran.returncode == 0, ran.stderr
    verdict = json.loads((trained / VERDICT).read_text())
    assert verdict["outcome"] == "pass"
    assert verdict["notes"] == {"no baseline": "the template has no model in production"}
    card = (trained / "outputs" / "tiny" / "model_card.md").read_text()
    assert f"value: {round(verdict['metrics']['accuracy'], 6)}" in card


def test_a_failing_verdict_fails_the_session(trained: Path) -> None:
    policy = (trained / "configs" / "gates.yaml").read_text()
    strict = trained / "strict.yaml"
    strict.write_text(re.sub(r"floor: [0-9.]+", "floor: 1.0", policy, count=1))
    ran = nox(trained, "evaluate", "--no-baseline", "a test", "--policy", "strict.yaml")
    assert ran.returncode == 1
    assert re.search("fail: accuracy .* is below the floor 1.0000", ran.stdout + ran.stderr)
    assert json.loads((trained / VERDICT).read_text())["outcome"] == "fail"


def test_an_earlier_verdict_is_removed_if_none_is_reached(trained: Path) -> None:
    assert nox(trained, "evaluate").returncode == 0
    ran = nox(trained, "evaluate", "--baseline", "no/such.pt")
    assert ran.returncode == 1
    assert "no/such.pt: no such file" in ran.stdout + ran.stderr
    assert not (trained / VERDICT).exists()
