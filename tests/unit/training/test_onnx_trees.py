"""ONNX files of trees predict as scikit-learn does; any other ONNX file is never opened."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from sklearn.ensemble import GradientBoostingRegressor

from gates.errors import CheckpointError
from training.config import DataConfig, RunConfig
from training.onnx import trees
from training.onnx.trees import Trees

CONFIG = RunConfig(seed=7, tracking="none", data=DataConfig(source="made up", cache_dir="data"))
DATA = "d" * 64
RANDOM = np.random.default_rng(0)
FEATURES = RANDOM.normal(size=(500, 4)).astype(np.float32)
LABELS = FEATURES[:, 0] ** 2 + np.where(FEATURES[:, 1] > 0, 3, 0) + RANDOM.normal(size=500)


@pytest.fixture(scope="module")
def model() -> GradientBoostingRegressor:
    return GradientBoostingRegressor(n_estimators=30, loss="huber", random_state=0).fit(
        FEATURES, LABELS
    )


@pytest.fixture(scope="module")
def content(model: GradientBoostingRegressor) -> bytes:
    return trees.dump(trees.boosted(model), CONFIG, DATA)


@pytest.fixture
def file(content: bytes, tmp_path: Path) -> Path:
    file = tmp_path / "checkpoint.onnx"
    file.write_bytes(content)
    return file


@pytest.fixture(autouse=True)
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The contents passed to onnxruntime."""
    opened: list[bytes] = []
    real = onnxruntime.InferenceSession

    def note(content: bytes, *arguments: Any, **options: Any) -> Any:
        opened.append(content)
        return real(content, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    return opened


def test_predictions_match_scikit_learn_in_single_precision(
    model: GradientBoostingRegressor, file: Path
) -> None:
    loaded = trees.load(file, RunConfig)
    assert loaded.n_features == 4
    np.testing.assert_allclose(
        loaded.predict(FEATURES), model.predict(FEATURES), rtol=1e-5, atol=1e-5
    )


def test_an_example_near_a_threshold_takes_the_same_branch(
    model: GradientBoostingRegressor, file: Path
) -> None:
    # scikit-learn's thresholds lie halfway between two values, in double precision; these examples
    # are as close to them as single precision allows.
    thresholds = np.concatenate([each.tree_.threshold for each in model.estimators_[:, 0]])
    near = thresholds.astype(np.float32)
    around = [near, np.nextafter(near, np.float32(np.inf)), np.nextafter(near, np.float32(-np.inf))]
    examples = np.tile(np.concatenate(around)[:, None], (1, 4))
    np.testing.assert_allclose(
        trees.load(file, RunConfig).predict(examples), model.predict(examples), rtol=1e-5, atol=1e-5
    )


def test_equal_models_give_identical_bytes(content: bytes) -> None:
    again = GradientBoostingRegressor(n_estimators=30, loss="huber", random_state=0)
    assert trees.dump(trees.boosted(again.fit(FEATURES, LABELS)), CONFIG, DATA) == content


def test_the_file_records_its_configuration_and_data(file: Path) -> None:
    loaded = trees.load(file, RunConfig)
    assert (loaded.config, loaded.data_digest) == (CONFIG, DATA)


def test_file_passes_the_onnx_checker(content: bytes) -> None:
    onnx.checker.check_model(onnx.ModelProto.FromString(content), full_check=True)


def external_data(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer.add(name="secret", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="fifo")


def values_in_another_file(model: onnx.ModelProto) -> None:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="fifo")
    attribute = model.graph.node[0].attribute.add(name="nodes_values_as_tensor")
    attribute.type = onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(tensor)


def another_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "TreeEnsembleClassifier"


def one_more_operator(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["prediction"], ["more"]))


def a_custom_domain(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def a_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="com.example")


def more_metadata(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="run", value="import os")


def metadata_twice(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="data_digest", value=DATA)


def another_producer(model: onnx.ModelProto) -> None:
    model.producer_name = "somebody"


def another_version(model: onnx.ModelProto) -> None:
    model.ir_version = 9


def averages(model: onnx.ModelProto) -> None:
    attribute_of(model, "aggregate_function").s = b"AVERAGE"


def attribute_of(model: onnx.ModelProto, name: str) -> Any:
    return next(each for each in model.graph.node[0].attribute if each.name == name)


def changed(name: str, value: float, *, kind: str = "ints", at: int = 0) -> Any:
    def change(model: onnx.ModelProto) -> None:
        getattr(attribute_of(model, name), kind)[at] = value

    change.__name__ = f"{name}_{at}_{value}"
    return change


HOSTILE = [
    external_data,
    values_in_another_file,
    another_operator,
    one_more_operator,
    a_custom_domain,
    a_function,
    more_metadata,
    metadata_twice,
    another_producer,
    another_version,
    averages,
    changed("nodes_featureids", 4),
    changed("nodes_featureids", -1),
    changed("nodes_truenodeids", 2),
    changed("nodes_falsenodeids", 0),
    changed("nodes_falsenodeids", 10**9),
    changed("nodes_treeids", 10**12),
    changed("nodes_treeids", 10**12, at=-1),
    changed("nodes_treeids", -1),
    changed("target_ids", 1),
    changed("target_nodeids", 1),
    changed("target_treeids", 5),
    changed("target_weights", float("nan"), kind="floats"),
    changed("nodes_values", float("inf"), kind="floats"),
    changed("base_values", float("nan"), kind="floats"),
]


@pytest.mark.parametrize("change", HOSTILE, ids=lambda change: change.__name__)
def test_other_onnx_file_is_refused_before_it_is_opened(
    change: Callable[[onnx.ModelProto], None],
    file: Path,
    sessions: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(file.parent)
    os.mkfifo("fifo")  # reading it would block forever
    model = onnx.ModelProto.FromString(file.read_bytes())
    change(model)
    file.write_bytes(model.SerializeToString(deterministic=True))
    assert refusal(file) == (
        f"{file}: contains something other than the trees that a run writes; train again"
    )
    assert sessions == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda _: b"", id="empty"),
        pytest.param(lambda content: content[: len(content) // 2], id="half"),
        pytest.param(lambda content: content[:-1], id="one_byte_missing"),
        pytest.param(lambda content: content + b"\x00", id="one_byte_extra"),
        # Field 1000, which ONNX does not have, with the value 1.
        pytest.param(lambda content: content + b"\xc0\x3e\x01", id="an_unknown_field"),
        pytest.param(lambda _: b"PK\x03\x04 a zip file", id="a_zip"),
    ],
)
def test_a_damaged_file_is_reported_in_one_line(
    damage: Callable[[bytes], bytes], file: Path, sessions: list[bytes]
) -> None:
    file.write_bytes(damage(file.read_bytes()))
    assert str(file) in refusal(file)
    assert sessions == []


def test_a_missing_file_is_reported_in_one_line(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none.onnx")


def test_a_configuration_of_another_project_is_refused(file: Path) -> None:
    class OtherConfig(RunConfig):
        model: int

    with pytest.raises(CheckpointError, match=r"model: .*name a checkpoint of this project"):
        trees.load(file, OtherConfig)


@pytest.mark.parametrize("digest", ["", "D" * 64, "d" * 63])
def test_an_invalid_data_digest_is_reported_in_one_line(
    digest: str, model: GradientBoostingRegressor, file: Path
) -> None:
    file.write_bytes(trees.dump(trees.boosted(model), CONFIG, digest))
    assert "has no digest of its training data" in refusal(file)


def refusal(file: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        trees.load(file, RunConfig)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def chain(depth: int) -> Trees:
    """Return a tree whose branches each have a leaf on the right; the last has two leaves."""
    nodes = 2 * depth + 1
    numbers = np.arange(nodes)
    is_branch = numbers < depth
    right = np.where(is_branch, nodes - 1 - numbers, 0)
    zeros = np.zeros(nodes, dtype=np.float32)
    return Trees(
        base=0.0,
        n_features=1,
        sizes=np.array([nodes]),
        features=np.zeros(nodes, dtype=np.int64),
        thresholds=zeros,
        left=np.where(is_branch, numbers + 1, 0),
        right=right,
        values=np.where(is_branch, 0, 1).astype(np.float32),
    )


def test_trees_deeper_than_onnxruntime_supports_are_not_sound() -> None:
    assert chain(64).are_sound()
    assert not chain(65).are_sound()
    assert not chain(200_000).are_sound()


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": np.array([], dtype=np.int64)},
        {"sizes": np.array([5, 0])},
        {"sizes": np.array([6])},
        {"n_features": 0},
        {"left": np.array([1, 0, 0, 0, 0])},
        {"left": np.array([1])},
        {"right": np.array([4, 4, 0, 0, 0])},
        {"right": np.array([4, 3, 0, 0, 1])},
        {"values": np.ones(5, dtype=np.float32)},
        {"thresholds": np.ones(5, dtype=np.float32)},
    ],
)
def test_malformed_trees_are_not_sound(change: dict[str, Any]) -> None:
    assert chain(2).are_sound()
    assert not dataclasses.replace(chain(2), **change).are_sound()
