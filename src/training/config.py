"""The configuration of a run: typed, complete, and checked before anything heavy is imported.

A project has a class of its own with what only it needs:

    class RunConfig(config.TorchConfig):
        model: ModelConfig

    run = config.load(RunConfig, Path("configs/ci-tiny.yaml"), overrides=["train.epochs=3"])

A key without a default is required and no unknown one is allowed, so a file shows all that a run
depends on.
"""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field
from ruamel.yaml import YAML

from gates import configuration
from gates.configuration import Address, Section, apply_override, read_yaml


class DataConfig(Section):
    """Where the examples come from.

    Args:
        source: one of the project's own, or a Parquet file's path or fsspec address.
        cache_dir: where the prepared file is kept, relative to where a run is started.
    """

    source: Address
    cache_dir: str = Field(min_length=1)


class TorchDataConfig(DataConfig):
    """Where the examples come from, and how torch's loop loads them.

    Args:
        workers: processes that load batches; 0 takes them from memory, for small data.
    """

    workers: int = Field(ge=0, le=256)


class TrainConfig(Section):
    """How a model is trained by torch's loop.

    Args:
        epochs: passes over the training split.
        batch_size: examples in one optimiser step, over all processes together.
        accumulation_steps: parts in which each process takes its share of a batch.
        lr: the highest learning rate.
        weight_decay: AdamW's.
        warmup_share: the share of all steps in which the rate rises to `lr`.
        clip_norm: the largest norm of all gradients together.
        precision: of the forward and backward pass; weights are float32.
        compile: whether torch.compile compiles the model.
        deterministic: whether only algorithms are used that repeat bit for bit.
        snapshot_every: steps between two snapshots from which a run can be resumed.
        parallelism: how several processes share the work, `ddp` or `fsdp` (FSDP2).
        device: `auto` is a GPU where there is one.
        patience: epochs without a better validation score after which training stops; null for
            never.
        keep: the epoch whose weights the checkpoint holds: the `last` one, or the one with the
            `best` validation score.
    """

    epochs: int = Field(gt=0, le=1_000_000)
    batch_size: int = Field(gt=0, le=1_000_000)
    accumulation_steps: int = Field(gt=0, le=65_536)
    lr: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0, le=10)
    warmup_share: float = Field(ge=0, lt=1)
    clip_norm: float = Field(gt=0, le=1e9)
    precision: Literal["float32", "bfloat16"]
    compile: bool
    deterministic: bool
    snapshot_every: int = Field(gt=0, le=1_000_000_000)
    parallelism: Literal["ddp", "fsdp"]
    device: Literal["auto", "cpu", "cuda"]
    # With defaults, so that the files and checkpoints of before these options stay readable.
    patience: int | None = Field(default=None, gt=0, le=1_000_000)
    keep: Literal["last", "best"] = "last"


class RunConfig(Section):
    """All that a run depends on besides the code; a project adds its own sections."""

    seed: int = Field(ge=0, lt=2**32)
    tracking: Literal["none", "mlflow"]
    data: DataConfig


class TorchConfig(RunConfig):
    """The configuration of a run of torch's loop."""

    data: TorchDataConfig
    train: TrainConfig


Config = TypeVar("Config", bound=RunConfig)


def load(kind: type[Config], file: Path, overrides: Iterable[str] = ()) -> Config:
    """Return the configuration in the YAML `file`, changed by `key=value` overrides.

    Raises:
        ConfigError: the file is missing or malformed, or a key or a value is not allowed.
    """
    tree = read_yaml(file)
    overridden = set()
    for override in overrides:
        overridden.add(apply_override(tree, override))
    return validate(kind, tree, where=str(file), overridden=overridden)


def validate(
    kind: type[Config], tree: Any, *, where: str, overridden: Iterable[str] = ()
) -> Config:
    """Return `tree` as a configuration.

    Args:
        kind: the project's class.
        tree: nested mappings, as a YAML file or a checkpoint holds them.
        where: what the error names when a key or a value is not allowed.
        overridden: keys that come from `--set`, so that the error names that instead.

    Raises:
        ConfigError: a key is missing or unknown, or a value is not allowed.
    """
    return configuration.validate(kind, tree, where=where, overridden=overridden)


def dump(config: RunConfig) -> bytes:
    """Return `config` as YAML that `load` reads back to the same configuration."""
    return dump_tree(config.model_dump())


def dump_tree(tree: Mapping[str, Any]) -> bytes:
    """Return nested mappings as YAML, in their own order."""
    stream = io.BytesIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment] # typed as None
    yaml.dump(dict(tree), stream)
    return stream.getvalue()


def json_schema(kind: type[RunConfig]) -> str:
    """Return the JSON Schema of a project's configuration files, as text."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = {**head, **kind.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
