"""The same run elsewhere gives the same bits, and a difference is reported."""

import json
from pathlib import Path

import pytest

from tasks.project import ROOT
from tests.integration.trainings import Settings, command, digest, run_folder

TRAIN = ["-m", "my_project.train"]
DATA = ["--config", str(ROOT / "configs" / "base.yaml")]


@pytest.fixture(scope="module")
def settings(small: Settings) -> Settings:
    """Settings with which each run prepares its data below its working directory."""
    return small.but(data__cache_dir="data", train__epochs=1)


@pytest.fixture(scope="module")
def first(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    ended = command([*TRAIN, *settings.arguments(), "--run-id", "run"], folder, PYTHONHASHSEED="1")
    assert ended.returncode == 0, ended.stderr
    return folder


def test_run_from_provenance_elsewhere_is_reproduced(first: Path, tmp_path: Path) -> None:
    provenance = run_folder(first) / "provenance.json"
    arguments = [*TRAIN, *DATA, "--from-provenance", str(provenance), "--run-id", "run"]
    ended = command(arguments, tmp_path, PYTHONHASHSEED="2")
    assert ended.returncode == 0, ended.stderr
    assert digest(tmp_path) == digest(first)
    assert f"reproduced: the checkpoint is the same, sha256 {digest(first)}" in ended.stdout
    assert "differs:" not in ended.stdout


def test_run_with_an_edited_seed_is_not_reproduced(first: Path, tmp_path: Path) -> None:
    document = json.loads((run_folder(first) / "provenance.json").read_text())
    definition = document["predicate"]["buildDefinition"]
    definition["externalParameters"]["config"]["seed"] = 1
    definition["internalParameters"]["determinism"]["seed"] = "1"
    provenance = tmp_path / "provenance.json"
    provenance.write_text(json.dumps(document))
    arguments = [*TRAIN, *DATA, "--from-provenance", str(provenance), "--run-id", "run"]
    ended = command(arguments, tmp_path, PYTHONHASHSEED="2")
    assert ended.returncode == 1, ended.stderr
    assert digest(tmp_path) != digest(first)
    assert f"not reproduced: sha256 {digest(first)} -> {digest(tmp_path)}" in ended.stdout
    assert "nothing that the provenance records differs" in ended.stdout
