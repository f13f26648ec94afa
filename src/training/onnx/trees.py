"""Writes, checks and runs sums of regression trees as ONNX files.

A file is refused unless it is, byte for byte, what this module writes for the trees in it. This
keeps other operators, other attributes and references to external files away from onnxruntime.
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
from gates.errors import CheckpointError, ConfigError, describe
from training import config as configs
from training.config import Config, RunConfig

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_MAX_DEPTH = 64  # onnxruntime follows branches recursively
_VERSIONS = {"ir_version": 8, "opset_imports": [helper.make_opsetid("ai.onnx.ml", 3)]}


@dataclass(frozen=True, kw_only=True)
class Trees:
    """Regression trees; the prediction is `base` plus the value of one leaf in each tree.

    In each tree, a branch's left child is the next node, and its right child comes later.

    Args:
        base: the constant added to every prediction.
        n_features: number of features.
        sizes: (n_trees,) number of nodes in each tree.
        features: (n_nodes,) index of the feature a branch splits on; 0 in a leaf.
        thresholds: (n_nodes,) a branch goes left if its feature is at most this; 0 in a leaf.
        left: (n_nodes,) index of a branch's left child within its tree; 0 in a leaf.
        right: (n_nodes,) index of its right child within its tree; 0 in a leaf.
        values: (n_nodes,) the value of a leaf; 0 in a branch.
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
        """Index of the first node of each node's tree, (n_nodes,)."""
        return np.repeat(np.cumsum(self.sizes) - self.sizes, self.sizes)

    def are_sound(self) -> bool:
        """Whether the trees are well-formed, have finite values and are at most `_MAX_DEPTH` deep.

        Otherwise onnxruntime might loop forever or read memory outside the model.
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
            and self._depth() <= _MAX_DEPTH
        )

    def _depth(self) -> int:
        """Return the depth of the deepest tree, at most `_MAX_DEPTH + 1`."""
        nodes, depth = np.unique(self.starts), 0
        while depth <= _MAX_DEPTH:
            nodes = nodes[~self.is_leaf[nodes]]
            if not len(nodes):
                break
            start = self.starts[nodes]
            nodes = np.concatenate([start + self.left[nodes], start + self.right[nodes]])
            depth += 1
        return depth


def boosted(model: Any) -> Trees:
    """Return the trees of a scikit-learn `GradientBoostingRegressor` with a constant `init_`.

    Predictions are equal up to single-precision rounding of the sum. Both use float32 features, so
    rounding a threshold down moves no example to the other side.
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
        content: the bytes of the file.
        n_features: number of input features.
        config: the configuration of the run that trained it.
        config_digest: SHA-256 of the run's config.yaml.
        data_digest: SHA-256 of the training data.
    """

    content: bytes
    n_features: int
    config: Config
    config_digest: str
    data_digest: str

    def predict(self, features: Float32) -> Float64:
        """Return the predictions, (n_examples,), computed on one thread for reproducibility.

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
    """Return the bytes of a model file; the same arguments always give the same bytes."""
    return _serialised(trees, configs.dump(config).decode(), data_digest)


def load(file: Path, kind: type[Config]) -> Checkpoint[Config]:
    """Return the model in `file`, without executing any code or reading any other file.

    Args:
        file: the model file.
        kind: the project's configuration class.

    Raises:
        CheckpointError: the file cannot be read, or is not what `dump` writes.
    """
    try:
        content = file.read_bytes()
        model = onnx.ModelProto.FromString(content)
    except (OSError, DecodeError) as error:
        msg = f"{file}: not readable as ONNX ({describe(error)}); train again"
        raise CheckpointError(msg) from error
    about = {each.key: each.value for each in model.metadata_props}
    text, data_digest = about.get("config", ""), about.get("data_digest", "")
    trees = _trees_of(model)
    if trees is None or content != _serialised(trees, text, data_digest):
        msg = f"{file}: contains something other than the trees that a run writes; train again"
        raise CheckpointError(msg)
    if not re.fullmatch(r"[0-9a-f]{64}", data_digest):
        msg = f"{file}: has no digest of its training data; train again"
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
    inputs = helper.make_tensor_value_info(
        "features", TensorProto.FLOAT, ["examples", trees.n_features]
    )
    outputs = helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["examples", 1])
    graph = helper.make_graph([node], "trees", [inputs], [outputs])
    model = helper.make_model(graph, **_VERSIONS)
    helper.set_model_props(model, {"config": config, "data_digest": data_digest})
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _trees_of(model: onnx.ModelProto) -> Trees | None:
    """Return the trees in a model; None if there are none or they are not well-formed."""
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
            # Without the limit, a huge tree id would make bincount allocate a huge array.
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
