"""Bills of materials for software and models, in CycloneDX, from the real lock."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gates.__main__ import main
from gates.errors import GateInputError
from gates.evidence.provenance import SourceState
from gates.files import sha256
from gates.registry.address import open_store
from gates.supply.locked import read_lock, shipped
from tests.judged import DATA, policy
from tests.registered import COMMIT, Run

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "uv.lock"
LOCKED = read_lock(LOCK)


def sbom(file: Path, *more: str, lock: Path = LOCK) -> int:
    where = {
        "--lock": lock,
        "--licences": ROOT / "configs" / "licences.json",
        "--settings": ROOT / "configs" / "audit.yaml",
        "--output": file,
    }
    return main(
        [
            "sbom",
            "--project",
            "mine",
            *(str(word) for pair in where.items() for word in pair),
            *more,
        ]
    )


@pytest.fixture(scope="module")
def sbom_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sbom") / "sbom.json"
    assert sbom(file) == 0
    return file


def test_the_sbom_lists_exactly_the_locked_packages(sbom_file: Path) -> None:
    document = json.loads(sbom_file.read_bytes())
    listed = {f"{each['name']}=={each['version']}" for each in document["components"]}
    locked = {package.key: package for package in LOCKED}
    assert listed == locked.keys()
    for each in document["components"]:
        hashes = {digest["content"] for digest in each["hashes"]}
        assert hashes == {d for _, d in locked[f"{each['name']}=={each['version']}"].files}
        assert each["licenses"], each["name"]
    assert "index.invalid" not in sbom_file.read_text()


def test_the_dependency_graph_matches_the_lock(sbom_file: Path) -> None:
    document = json.loads(sbom_file.read_bytes())
    graph = {each["ref"]: set(each.get("dependsOn", [])) for each in document["dependencies"]}
    assert graph.keys() == {"project", *(each["bom-ref"] for each in document["components"])}
    (torch,) = [ref for ref in graph if ref.startswith("pkg:pypi/torch@2.15")]
    assert {ref.partition("@")[0] for ref in graph[torch]} >= {
        "pkg:pypi/filelock",
        "pkg:pypi/sympy",
    }


def test_the_same_lock_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    assert (sbom(one), sbom(other)) == (0, 0)
    assert one.read_bytes() == other.read_bytes()
    assert json.loads(one.read_bytes())["metadata"]["timestamp"] == "2023-11-14T22:13:20+00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert sbom(one) == 2


def drop(document: dict[str, Any]) -> None:
    document["components"].pop()


def add(document: dict[str, Any]) -> None:
    document["components"].append({**document["components"][0], "bom-ref": "pkg:pypi/more@1"})


def relicense(document: dict[str, Any]) -> None:
    document["components"][0]["licenses"] = [{"license": {"id": "GPL-3.0-only"}}]


def rehash(document: dict[str, Any]) -> None:
    document["components"][0]["hashes"][0]["content"] = "0" * 64


def cut(document: dict[str, Any]) -> None:
    next(each for each in document["dependencies"] if each.get("dependsOn"))["dependsOn"].pop()


def relock(document: dict[str, Any]) -> None:
    document["metadata"]["properties"][1]["value"] = "0" * 64


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop, "is missing"),
        (add, "pkg:pypi/more@1: is not in the lock"),
        (relicense, "differs from the lock"),
        (rehash, "differs from the lock"),
        (cut, "dependencies: was changed"),
        (relock, "metadata: was changed"),
    ],
)
def test_an_sbom_edited_by_hand_fails_the_check(
    edit: Callable[[dict[str, Any]], None],
    message: str,
    sbom_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = json.loads(sbom_file.read_bytes())
    edit(document)
    file = tmp_path / "sbom.json"
    file.write_text(json.dumps(document))
    assert sbom(file, "--check") == 1
    assert message in capsys.readouterr().out


def test_an_unchanged_sbom_passes_the_check(sbom_file: Path, tmp_path: Path) -> None:
    file = Path(shutil.copy(sbom_file, tmp_path))
    assert sbom(file, "--check") == 0
    assert file.read_bytes() == sbom_file.read_bytes()


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"metadata": {"timestamp": 3}}'])
def test_a_file_that_is_not_an_sbom_is_reported(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "sbom.json"
    file.write_text(damage)
    assert sbom(file, "--check") == 2
    assert f"{file}: not a CycloneDX document" in capsys.readouterr().err


def test_a_cell_lists_only_its_exported_requirements(tmp_path: Path) -> None:
    exported, file = tmp_path / "requirements.txt", tmp_path / "sbom.json"
    torches = {each.version for each in LOCKED if each.name == "torch"}
    newest = max(torches)
    lines = [f"torch=={newest} ; sys_platform == 'linux' \\", "    --hash=sha256:00"]
    exported.write_text("\n".join([*lines, "colorama==0.4.6 ; sys_platform == 'win32'"]))
    assert sbom(file, "--cell", "3.12-2.15", "--requirements", str(exported)) == 0
    assert [each["purl"] for each in json.loads(file.read_bytes())["components"]] == [
        f"pkg:pypi/torch@{newest}"
    ]
    assert sbom(file, "--cell", "newest", "--requirements", str(exported)) == 2
    assert sbom(file, "--cell", "3.12-2.15", "--requirements", str(tmp_path / "none")) == 2


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "outputs").mkdir()
    first = Run(tmp_path / "outputs" / "first", b"weights")
    first.judge(policy(tmp_path))
    return first


def mlbom(run: Run, file: Path, *more: str) -> int:
    card = str(ROOT / "configs" / "model_card.yaml")
    where = ["--run", str(run.folder), "--verdict", str(run.verdict_file), "--settings", card]
    return main(["mlbom", *where, "--output", str(file), *more])


def test_the_mlbom_links_code_data_and_model(run: Run, tmp_path: Path) -> None:
    data, wheel, file = tmp_path / "data", tmp_path / "some.whl", tmp_path / "mlbom.json"
    wheel.write_bytes(b"wheel")
    data.mkdir()
    for name, digest in (("another", "0" * 64), ("digits", DATA)):
        manifest = {
            "sha256": digest,
            "schema": {"label": "int64"},
            "counts": {"train": len(name)},
        }
        (data / f"{name}.manifest.json").write_text(json.dumps(manifest))
    linked = ["--sbom", str(LOCK), "--wheel", str(wheel), "--data", str(data)]
    assert mlbom(run, file, *linked) == 0
    document = json.loads(file.read_bytes())
    model = document["metadata"]["component"]
    assert (model["type"], model["version"]) == (
        "machine-learning-model",
        f"{COMMIT[:8]}-{run.checkpoint[:12]}",
    )
    parts = {each["bom-ref"]: each for each in document["components"]}
    assert parts.keys() == {
        f"data:{DATA}",
        f"code:{COMMIT}",
        f"file:{sha256(LOCK)}",
        f"file:{sha256(wheel)}",
    }
    (links,) = [each for each in document["dependencies"] if "dependsOn" in each]
    assert links["ref"] == model["bom-ref"] == f"model:{run.checkpoint}"
    assert set(links["dependsOn"]) == parts.keys()
    properties = {each["name"]: each["value"] for each in parts[f"data:{DATA}"]["properties"]}
    assert properties == {"rows:train": "6", "schema": "label: int64"}
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": f"data:{DATA}"}]


def test_the_mlbom_card_has_every_metric_of_the_verdict(run: Run, tmp_path: Path) -> None:
    verdict = json.loads(run.verdict_file.read_text())
    floor = {"check": "accuracy floor", "group": "digit=3", "outcome": "pass", "reason": "-"}
    figures = {"n": 9, "value": 0.9, "reference": 0.6, "interval": [0.2, 0.4]}
    verdict["findings"].append(floor | figures)
    run.verdict_file.write_text(json.dumps(verdict))
    assert mlbom(run, tmp_path / "mlbom.json") == 0
    document = json.loads((tmp_path / "mlbom.json").read_bytes())
    card = document["metadata"]["component"]["modelCard"]
    metrics = card["quantitativeAnalysis"]["performanceMetrics"]
    assert metrics[-1] == {
        "type": "accuracy",
        "slice": "digit=3",
        "value": "0.900000",
        "confidenceInterval": {"lowerBound": "0.800000", "upperBound": "1.000000"},
    }
    assert {each["type"] for each in metrics} >= verdict["metrics"].keys()


def test_evaluation_data_is_listed_if_it_differs_from_training_data(
    run: Run, tmp_path: Path
) -> None:
    verdict = json.loads(run.verdict_file.read_text())
    verdict["evidence"]["data"] = "9" * 64
    run.verdict_file.write_text(json.dumps(verdict))
    assert mlbom(run, tmp_path / "mlbom.json") == 0
    document = json.loads((tmp_path / "mlbom.json").read_bytes())
    data = [each["bom-ref"] for each in document["components"] if each["type"] == "data"]
    assert set(data) == {f"data:{DATA}", f"data:{'9' * 64}"}


def test_a_verdict_on_another_model_is_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Run(tmp_path / "outputs" / "second", b"other weights")
    other.judge(policy(tmp_path))
    run.verdict_file.write_bytes(other.verdict_file.read_bytes())
    assert mlbom(run, tmp_path / "mlbom.json") == 2
    assert "the verdict is about checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "mlbom.json").exists()


def test_a_damaged_data_manifest_is_reported(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits.manifest.json").write_text("{")
    assert mlbom(run, tmp_path / "mlbom.json", "--data", str(tmp_path)) == 2
    assert "not a data manifest" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["model", "data", "source"])
def test_trace_finds_the_other_parts_from_any_one(
    part: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    digests = {"model": run.checkpoint, "data": DATA, "source": COMMIT}
    assert main(["trace", digests[part][:12], "--outputs", str(run.folder.parent)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"first: {digests[part][:12]} is its {part}")
    assert all(f"{name} {digest}" in printed for name, digest in digests.items())


def test_trace_finds_models_in_the_registry(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/registry/mlflow.db")
    submission = run.submission()
    open_store(make=True).add("mine", submission.files, submission.facts)
    shutil.rmtree(run.folder)
    digests = {"model": run.checkpoint, "data": DATA, "source": COMMIT}
    for digest in digests.values():
        arguments = ["trace", digest[:12], "--outputs", str(tmp_path / "none"), "--name", "mine"]
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("version 1 of mine in sqlite:")
        assert all(f"{name} {each}" in printed for name, each in digests.items())


def test_trace_names_every_model_trained_on_the_data(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dirty = SourceState(commit=COMMIT, diff_digest="5" * 64, lock_digest=None)
    Run(tmp_path / "outputs" / "second", b"other weights", source=dirty)
    assert main(["trace", DATA, "--outputs", str(run.folder.parent)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "no commit describes" not in first
    assert second.endswith("from source that no commit describes")


@pytest.mark.parametrize(
    ("digest", "message"), [("ddd", "too short"), ("0" * 12, "not part of any")]
)
def test_trace_reports_a_short_or_unknown_digest(
    digest: str, message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trace", digest, "--outputs", str(run.folder.parent)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["trace", "mlbom"])
def test_provenance_of_another_checkpoint_is_refused(
    command: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.folder / "checkpoint.pt").write_bytes(b"other weights")
    outputs = str(run.folder.parent)
    exit_code = (
        main(["trace", DATA, "--outputs", outputs])
        if command == "trace"
        else mlbom(run, tmp_path / "mlbom.json")
    )
    assert exit_code == 2
    assert "one of them was changed" in capsys.readouterr().err


def test_a_package_ships_only_its_run_time_dependencies() -> None:
    text = (ROOT / "uv.lock").read_text()
    gates, training = (shipped(text, name, where="uv.lock") for name in ("gates", "training"))
    names = {each.name for each in gates}
    assert {"numpy", "pyarrow", "pydantic", "annotated-types"} <= names
    assert not {"torch", "pytest", "mlflow", "ruff"} & names, "extras and groups are not shipped"
    assert names <= {each.name for each in training}
    with pytest.raises(GateInputError, match="has no package numpy of this workspace"):
        shipped(text, "numpy", where="uv.lock")
