"""Each project goes from data to production and back, using its own commands in a copy."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import repository


@dataclass(frozen=True)
class Journey:
    """The differences between projects.

    Args:
        project: the package.
        weaker: settings of a first model that is worse than ci-tiny.yaml's.
        checkpoint: file name of a checkpoint.
        library: the model's library, as named on the Hugging Face Hub.
        limits: policy lines that a small model does not meet, each with its replacement.
    """

    project: str
    weaker: tuple[str, ...]
    checkpoint: str
    library: str
    limits: tuple[tuple[str, str], ...] = ()

    @property
    def configs(self) -> Path:
        return Path("configs", self.project)


PROJECTS = [
    Journey(
        project="doctor_visits",
        weaker=("--set", "model.trees=10"),
        checkpoint="checkpoint.onnx",
        library="sklearn",
    ),
    Journey(
        project="char_lm",
        weaker=("--set", "data.passages=160"),
        checkpoint="checkpoint.pt",
        library="pytorch",
        limits=(("floor: 4.0", "floor: 9.0"), ("floor: 4.3", "floor: 9.0")),
    ),
]


class Checkout:
    """A copy of the repository in which a project is trained and released."""

    def __init__(self, root: Path, journey: Journey) -> None:
        self.root = root
        self.journey = journey
        self.outputs = root / "outputs" / journey.project

    def run(self, *arguments: str) -> str:
        """Run `python -m ARGUMENTS` with the packages of the copy; return its output."""
        registries = ("GATES_REGISTRY", "MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_URI")
        variables = repository.outside_of_sessions()
        kept = {name: value for name, value in variables.items() if name not in registries}
        ran = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.root,
            env={**kept, "PYTHONPATH": str(self.root / "src"), "GITHUB_ACTOR": "anna"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, f"{' '.join(arguments)}\n{ran.stdout}{ran.stderr}"
        return ran.stdout + ran.stderr

    def gates(self, command: str, *arguments: str) -> str:
        return self.run("gates", command, "--name", self.journey.project, *arguments)

    def train(self, run: str, *settings: str) -> None:
        config = str(self.journey.configs / "ci-tiny.yaml")
        options = ["--config", config, "--run-id", run, "--require-clean-tree"]
        self.run(f"{self.journey.project}.train", *options, *settings)

    def judge(self, run: str, *baseline: str) -> None:
        checkpoint = str(self.outputs / run / self.journey.checkpoint)
        report = ["--report", f"artifacts/{run}.json"]
        self.run(f"{self.journey.project}.eval", "--checkpoint", checkpoint, *report, *baseline)

    def register(self, run: str) -> str:
        made = ["--run", str(self.outputs / run), "--verdict", f"artifacts/{run}.json"]
        return self.gates("register", *made, "--sbom", "artifacts/sbom.cdx.json")

    def promote(self, stage: str) -> str:
        return self.gates("promote", "--to", stage, "--approver", "ben", *self.policy)

    @property
    def policy(self) -> tuple[str, str]:
        return "--policy", str(self.journey.configs / "gates.yaml")

    def digest(self, run: str) -> str:
        statement = json.loads((self.outputs / run / "provenance.json").read_text())
        (subject,) = statement["subject"]
        assert subject["name"] == self.journey.checkpoint
        return str(subject["digest"]["sha256"])


@pytest.fixture(scope="module", params=PROJECTS, ids=lambda journey: journey.project)
def checkout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    journey: Journey = request.param
    root = repository.copy(tmp_path_factory.mktemp(journey.project) / "a checkout")
    policy = root / journey.configs / "gates.yaml"
    text = policy.read_text()
    for old, new in (("hours_in_staging: 24", "hours_in_staging: 0"), *journey.limits):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    policy.write_text(text)
    repository.commit(cwd=root)
    return Checkout(root, journey)


def test_from_data_to_production_and_back(checkout: Checkout) -> None:
    journey = checkout.journey
    sbom = ["--project", journey.project, "--package", journey.project]
    sbom += ["--output", "artifacts/sbom.cdx.json"]
    checkout.run("gates", "sbom", *sbom)

    checkout.train("first", *journey.weaker)
    checkout.judge("first", "--no-baseline", "the first one")
    assert "version 1 (" in checkout.register("first")
    for stage in ("staging", "production"):
        assert f"version 1 is in {stage}" in checkout.promote(stage)

    # The next model is clearly better and is judged against the one in production.
    checkout.train("second")
    checkout.judge("second", "--baseline", f"models:/{journey.project}@production")
    verdict = json.loads((checkout.root / "artifacts" / "second.json").read_text())
    assert verdict["outcome"] == "pass"
    assert verdict["evidence"]["baseline"] == checkout.digest("first")
    checkout.register("second")
    for stage in ("staging", "production"):
        assert f"version 2 is in {stage}" in checkout.promote(stage)

    checkout.gates("rollback", "--why", "a trial", *checkout.policy)
    status = checkout.gates("status")
    assert "production  version 1 (" in status
    assert "by anna: a trial" in status


def test_the_card_names_the_library(checkout: Checkout) -> None:
    run = str(checkout.outputs / "second")
    about = ["--run", run, "--verdict", "artifacts/second.json"]
    about += ["--settings", str(checkout.journey.configs / "model_card.yaml")]
    checkout.run("gates", "card", *about)
    card = (checkout.outputs / "second" / "model_card.md").read_text()
    assert f"library_name: {checkout.journey.library}\n" in card
    checkout.run("gates", "mlbom", *about, "--output", "artifacts/mlbom.cdx.json")
    traced = checkout.run(
        "gates", "trace", checkout.digest("second"), "--outputs", str(checkout.outputs)
    )
    assert "second: " in traced


def test_training_again_gives_the_same_model(checkout: Checkout) -> None:
    checkout.train("again")
    assert checkout.digest("again") == checkout.digest("second")
    provenance = str(checkout.outputs / "second" / "provenance.json")
    again = ["--from-provenance", provenance, "--run-id", "reproduced"]
    again += ["--config", str(checkout.journey.configs / "ci-tiny.yaml")]
    output = checkout.run(f"{checkout.journey.project}.train", *again)
    assert "reproduced: the checkpoint is the same" in output
