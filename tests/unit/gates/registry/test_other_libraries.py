"""Models from libraries other than torch: the provenance names the file and the library."""

import json
import shutil
from pathlib import Path

import pytest

from gates.__main__ import main
from gates.errors import GateInputError
from gates.evaluation.policy import Policy
from gates.evidence import provenance
from gates.locations import local_copy
from gates.registry.files import checkpoint_name, identity
from gates.registry.pipeline import Promotion, Registry
from gates.registry.store import Store
from gates.verdicts.verdict import Outcome
from tests.registered import BAD, Run
from tests.registries import to_production

CARD = Path(__file__).parents[4] / "configs" / "model_card.yaml"


@pytest.fixture(autouse=True)
def address(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.address)


def run_of(folder: Path, weights: bytes, rules: Policy, against: Run | None = None) -> Run:
    run = Run(
        folder,
        weights,
        runtime={"scikit-learn": "1.7.2"},
        file="checkpoint.onnx",
        library="sklearn",
    )
    run.judge(rules, against)
    return run


@pytest.fixture
def onnx(tmp_path: Path, policy: Policy) -> Run:
    (tmp_path / "outputs").mkdir()
    return run_of(tmp_path / "outputs" / "one", b"trees", policy)


def test_an_onnx_model_is_registered_promoted_and_rolled_back(
    registry: Registry, onnx: Run, policy: Policy, tmp_path: Path
) -> None:
    version = to_production(registry, onnx, policy)
    assert "checkpoint.onnx" in version.files
    assert "checkpoint.pt" not in version.files
    to_production(registry, run_of(tmp_path / "two", b"more trees", policy, onnx), policy)
    assert registry.rollback(policy).number == 1
    with local_copy("models:/digits@production") as file:
        assert (file.name, file.read_bytes()) == ("checkpoint.onnx", b"trees")
    with local_copy("models:/digits@production", prefer="predictions.parquet") as file:
        assert file.name == "predictions.parquet"


def test_an_onnx_model_must_pass_the_smoke_check(
    registry: Registry, policy: Policy, tmp_path: Path
) -> None:
    registry.register(run_of(tmp_path / "bad", BAD, policy).submission())
    verdict = registry.promote(Promotion(stage="staging"), policy)
    assert verdict.outcome is Outcome.FAIL
    assert "the model answers nonsense" in verdict.to_text()


def test_a_changed_onnx_model_is_detected(registry: Registry, onnx: Run, policy: Policy) -> None:
    version = to_production(registry, onnx, policy)
    Path(version.source.removeprefix("file://"), "checkpoint.onnx").write_bytes(b"evil")
    with (
        pytest.raises(GateInputError, match=r"checkpoint\.onnx was changed after it was registere"),
        local_copy("models:/digits@production"),
    ):
        pass


def test_a_torch_model_may_follow_one_of_another_library(
    registry: Registry, onnx: Run, policy: Policy, tmp_path: Path
) -> None:
    to_production(registry, onnx, policy)
    torch = Run(tmp_path / "torch", b"weights")
    torch.judge(policy, onnx)
    assert "checkpoint.pt" in to_production(registry, torch, policy).files


def test_card_and_ml_bom_name_the_library(onnx: Run, tmp_path: Path) -> None:
    arguments = ["--run", str(onnx.folder), "--verdict", str(onnx.verdict_file)]
    arguments += ["--settings", str(CARD)]
    assert main(["card", *arguments]) == 0
    assert "library_name: sklearn\n" in (onnx.folder / "model_card.md").read_text()
    assert main(["mlbom", *arguments, "--output", str(tmp_path / "mlbom.json")]) == 0
    model = json.loads((tmp_path / "mlbom.json").read_bytes())["metadata"]["component"]
    assert model["modelCard"]["properties"] == [
        {"name": "library", "value": "sklearn"},
        {"name": "file", "value": "checkpoint.onnx"},
    ]


def test_an_onnx_model_is_traced(onnx: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trace", onnx.checkpoint, "--outputs", str(onnx.folder.parent)]) == 0
    assert f"one: {onnx.checkpoint} is its model" in capsys.readouterr().out


def test_the_file_that_the_provenance_names_must_exist(onnx: Run) -> None:
    shutil.move(onnx.folder / "checkpoint.onnx", onnx.folder / "checkpoint.pt")
    with pytest.raises(GateInputError, match=r"checkpoint\.onnx: is missing; python -m PROJECT"):
        onnx.submission()


@pytest.mark.parametrize(
    "name", ["checkpoint", "checkpoint.", "../checkpoint.pt", "model.onnx", "checkpoint.pt\n", "x"]
)
def test_an_invalid_checkpoint_name_is_refused(name: str, onnx: Run) -> None:
    file = onnx.folder / "provenance.json"
    document = json.loads(file.read_text())
    document["subject"][0]["name"] = name
    file.write_text(json.dumps(document))
    with pytest.raises(GateInputError, match="expected checkpoint with a suffix"):
        provenance.read_of_run(onnx.folder)


@pytest.mark.parametrize("library", ["", "Py Torch", "a" * 51, 3])
def test_an_invalid_library_name_is_refused(library: object, onnx: Run) -> None:
    file = onnx.folder / "provenance.json"
    document = json.loads(file.read_text())
    document["predicate"]["buildDefinition"]["internalParameters"]["library"] = library
    file.write_text(json.dumps(document))
    with pytest.raises(GateInputError, match=r"not the provenance of a training run \(.*library"):
        provenance.read(file)


def test_a_version_with_two_checkpoints_is_ambiguous() -> None:
    assert checkpoint_name(["checkpoint.pt", "checkpoint.onnx"]) is None
    assert identity({"checkpoint.pt": "1", "checkpoint.onnx": "2"})["checkpoint"] == ""
    assert checkpoint_name(["config.yaml", "checkpoint.onnx"]) == "checkpoint.onnx"
