"""A sum of regression trees as an ONNX file: written, checked, and run by onnxruntime.

A file is refused unless it is, byte for byte, what this module writes for the trees in it. No other
operator, attribute or address of a second file can therefore reach onnxruntime.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper

from gates.configuration import parse_yaml
from gates.errors import CheckpointError, ConfigError, said_by
from training import config as configs
from training.config import Config, RunConfig

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_DEEPEST = 64  # onnxruntime follows branches by recursion
_VERSIONS = {"ir_version": 8, "opset_imports": [helper.make_opsetid("ai.onnx.ml", 3)]}


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Regression trees, whose values are added up.

    In each tree, a branch comes right before its left child and somewhere before its right one.

    Args:
        base: where each sum starts.
        n_features: how many features there are.
        sizes: (n_trees,) the number of nodes in each tree.
        features: (n_nodes,) the feature that a branch looks at; 0 in a leaf.
        thresholds: (n_nodes,) a branch goes left up to it; 0 in a leaf.
        left: (n_nodes,) a branch's child, counted from the start of its tree; 0 in a leaf.
        right: (n_nodes,) the same.
        values: (n_nodes,) what a leaf adds; 0 in a branch.
    """

    base: float
    n_features: int
    sizes: Integers
    features: Integers
    thresholds: Float32
    left: Integers
    right: Integers
    values: Float32

    @property
    def is_leaf(self) -> npt.NDArray[np.bool_]:
        """Whether each node is a leaf, (n_nodes,)."""
        found: npt.NDArray[np.bool_] = self.left == 0
        return found

    @property
    def starts(self) -> Integers:
        """The first node of the tree that each node is in, (n_nodes,)."""
        return np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)

    def are_sound(self) -> bool:
        """Whether every node is reached once, from the first of its tree, and has a finite value.

        Anything else could send onnxruntime in circles, or to memory that is not the model's.
        """
        columns = (self.features, self.thresholds, self.left, self.right, self.values)
        if {len(column) for column in columns} != {int(self.sizes.sum())}:
            return False
        numbers, is_leaf = np.arange(len(self.features)), self.is_leaf
        inner = ~is_leaf
        children = np.concatenate([(self.starts + each)[inner] for each in (self.left, self.right)])
        expected = numbers[numbers != self.starts]
        return bool(
            self.n_features > 0
            and len(self.sizes)
            and self.sizes.min() > 0
            and np.isfinite([self.base, *self.thresholds, *self.values]).all()
            and ((self.features >= 0) & (self.features < self.n_features)).all()
            and (self.left[inner] == (numbers - self.starts)[inner] + 1).all()
            and (self.right[inner] > self.left[inner]).all()
            and np.array_equal(np.sort(children), expected)
            and not (self.right[is_leaf].any() or self.values[inner].any())
            and not (self.features[is_leaf].any() or self.thresholds[is_leaf].any())
            and self._depth() <= _DEEPEST
        )

    def _depth(self) -> int:
        """Return the number of branches on the longest way to a leaf, if that is not too many."""
        nodes, depth = np.unique(self.starts), 0
        while depth <= _DEEPEST:
            nodes = nodes[~self.is_leaf[nodes]]
            if not len(nodes):
                break
            start = self.starts[nodes]
            nodes = np.concatenate([start + self.left[nodes], start + self.right[nodes]])
            depth += 1
        return depth


def boosted(model: Any) -> Trees:
    """Return the trees of scikit-learn's `GradientBoostingRegressor`, which starts at a constant.

    Predictions are the same, up to the rounding of a sum in single precision: the features of both
    are float32, so rounding a threshold down moves no example to the other side.
    """
    trees = [estimator.tree_ for estimator in model.estimators_[:, 0]]

    def joined(name: str) -> Any:
        return np.concatenate([getattr(tree, name) for tree in trees])

    left = joined("children_left").astype(np.int64)
    is_leaf = left == -1
    values = model.learning_rate * np.concatenate([tree.value[:, 0, 0] for tree in trees])
    return Trees(
        base=float(np.float32(np.ravel(model.init_.constant_)[0])),
        n_features=int(model.n_features_in_),
        sizes=np.array([tree.node_count for tree in trees], dtype=np.int64),
        features=np.where(is_leaf, 0, joined("feature")).astype(np.int64),
        thresholds=_rounded_down(np.where(is_leaf, 0, joined("threshold"))),
        left=np.where(is_leaf, 0, left),
        right=np.where(is_leaf, 0, joined("children_right")).astype(np.int64),
        values=np.where(is_leaf, values, 0).astype(np.float32),
    )


def _rounded_down(values: Float64) -> Float32:
    nearest = values.astype(np.float32)
    below = np.nextafter(nearest, np.float32(-np.inf))
    rounded: Float32 = np.where(nearest > values, below, nearest)
    return rounded


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Generic[Config]):
    """A model in a file.

    Args:
        content: of the file.
        n_features: how many features it takes.
        config: of the run that made it.
        config_digest: SHA-256 of the run's config.yaml.
        data_digest: SHA-256 of the data that it learned from.
    """

    content: bytes
    n_features: int
    config: Config
    config_digest: str
    data_digest: str

    def predict(self, features: Float32) -> Float64:
        """Return what the model predicts, (n_examples,), on one thread: the same on any machine.

        Args:
            features: (n_examples, n_features).
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        providers = ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(self.content, options, providers=providers)
        (predictions,) = session.run(None, {"features": features})
        flat: Float64 = predictions[:, 0].astype(np.float64)
        return flat


def dump(trees: Trees, config: RunConfig, data_digest: str) -> bytes:
    """Return the content of a model's file, always the same for the same trees."""
    return _serialised(trees, configs.dump(config).decode(), data_digest)


def load(file: Path, kind: type[Config]) -> Checkpoint[Config]:
    """Return the model in `file`; nothing in it is executed, and no other file is read.

    Args:
        file: the model's.
        kind: the class of the project's configurations.

    Raises:
        CheckpointError: it cannot be read, or is not what `dump` writes.
    """
    try:
        content = file.read_bytes()
        model = onnx.ModelProto.FromString(content)
    except (OSError, DecodeError) as error:
        msg = f"{file}: not readable as ONNX ({said_by(error)}); train again"
        raise CheckpointError(msg) from error
    about = {each.key: each.value for each in model.metadata_props}
    text, data_digest = about.get("config", ""), about.get("data_digest", "")
    trees = _trees_of(model)
    if trees is None or content != _serialised(trees, text, data_digest):
        msg = f"{file}: holds something else than the trees that a run writes; it is not opened"
        raise CheckpointError(msg)
    if not re.fullmatch(r"[0-9a-f]{64}", data_digest):
        msg = f"{file}: names no digest of the data that it learned from; train again"
        raise CheckpointError(msg)
    try:
        config = configs.validate(kind, parse_yaml(text.encode(), where=str(file)), where=str(file))
    except ConfigError as error:
        msg = f"{error}; train again, or name a checkpoint of this project"
        raise CheckpointError(msg) from error
    return Checkpoint(
        content=content,
        n_features=trees.n_features,
        config=config,
        config_digest=hashlib.sha256(text.encode()).hexdigest(),
        data_digest=data_digest,
    )


def _serialised(trees: Trees, config: str, data_digest: str) -> bytes:
    is_leaf, numbers = trees.is_leaf, np.arange(len(trees.features)) - trees.starts
    ids = np.repeat(np.arange(len(trees.sizes)), trees.sizes)
    node = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["prediction"],
        domain="ai.onnx.ml",
        aggregate_function="SUM",
        base_values=[trees.base],
        n_targets=1,
        nodes_falsenodeids=trees.right.tolist(),
        nodes_featureids=trees.features.tolist(),
        nodes_modes=np.where(is_leaf, "LEAF", "BRANCH_LEQ").tolist(),
        nodes_nodeids=numbers.tolist(),
        nodes_treeids=ids.tolist(),
        nodes_truenodeids=trees.left.tolist(),
        nodes_values=trees.thresholds.tolist(),
        post_transform="NONE",
        target_ids=[0] * int(is_leaf.sum()),
        target_nodeids=numbers[is_leaf].tolist(),
        target_treeids=ids[is_leaf].tolist(),
        target_weights=trees.values[is_leaf].tolist(),
    )
    taken = helper.make_tensor_value_info(
        "features", TensorProto.FLOAT, ["examples", trees.n_features]
    )
    given = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["examples", 1])
    graph = helper.make_graph([node], "trees", [taken], [given])
    model = helper.make_model(graph, **_VERSIONS)
    helper.set_model_props(model, {"config": config, "data_digest": data_digest})
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _trees_of(model: onnx.ModelProto) -> Trees | None:
    """Return the sound trees in a graph; None if it holds none, whatever else it holds."""
    try:
        (node,) = model.graph.node
        ints = {each.name: np.array(each.ints, dtype=np.int64) for each in node.attribute}
        floats = {each.name: np.array(each.floats, dtype=np.float32) for each in node.attribute}
        ids, is_leaf = ints["nodes_treeids"], ints["nodes_truenodeids"] == 0
        values = np.zeros(len(is_leaf), dtype=np.float32)
        values[is_leaf] = floats["target_weights"]
        (base,) = floats["base_values"]
        trees = Trees(
            base=float(base),
            n_features=model.graph.input[0].type.tensor_type.shape.dim[1].dim_value,
            # The digits of a number say nothing of how many trees there are.
            sizes=np.bincount(ids[ids < len(ids)]),
            features=ints["nodes_featureids"],
            thresholds=floats["nodes_values"],
            left=ints["nodes_truenodeids"],
            right=ints["nodes_falsenodeids"],
            values=values,
        )
        return trees if trees.are_sound() else None
    except (ValueError, KeyError, IndexError, OverflowError, MemoryError):
        return None
