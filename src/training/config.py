"""The configuration of a run: typed, complete, and checked before anything heavy is imported.

A project adds its own sections in a subclass:

    class RunConfig(config.TorchConfig):
        model: ModelConfig

    run = config.load(RunConfig, Path("configs/ci-tiny.yaml"), overrides=["train.epochs=3"])

A key without a default is required and unknown keys are refused, so a file shows everything a run
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
        source: the name of a source built into the project, or the path or fsspec address of a
            Parquet file.
        cache_dir: folder for the prepared file, relative to the working directory.
    """

    source: Address
    cache_dir: str = Field(min_length=1)


class TorchDataConfig(DataConfig):
    """Where the examples come from, and how the PyTorch loop loads them.

    Args:
        workers: processes that load batches; 0 reads them from memory, for small data.
    """

    workers: int = Field(ge=0, le=256)


class TrainConfig(Section):
    """How the PyTorch loop trains a model.

    Args:
        epochs: passes over the training split.
        batch_size: examples in one optimiser step, summed over all processes.
        accumulation_steps: micro-batches into which each process splits its share of a batch.
        lr: the peak learning rate.
        weight_decay: AdamW's weight decay.
        warmup_share: fraction of all steps over which the learning rate rises to `lr`.
        clip_norm: the gradient norm, over all parameters, above which gradients are clipped.
        precision: the precision of the forward and backward pass; weights are float32.
        compile: whether to compile the model with torch.compile.
        deterministic: whether to use only algorithms that give the same bits every time.
        snapshot_every: steps between two snapshots; a run can be resumed from a snapshot.
        parallelism: how several processes share the work, `ddp` or `fsdp` (FSDP2).
        device: `auto` uses a GPU if there is one.
        patience: epochs without a better validation score after which training stops; null to
            never stop early.
        keep: the epoch whose weights go into the checkpoint: the `last` one, or the one with the
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
    # These have defaults so that older files and checkpoints can still be read.
    patience: int | None = Field(default=None, gt=0, le=1_000_000)
    keep: Literal["last", "best"] = "last"


class RunConfig(Section):
    """Everything a run depends on besides the code; a project adds its own sections."""

    seed: int = Field(ge=0, lt=2**32)
    tracking: Literal["none", "mlflow"]
    data: DataConfig


class TorchConfig(RunConfig):
    """The configuration of a run that the PyTorch loop trains."""

    data: TorchDataConfig
    train: TrainConfig


Config = TypeVar("Config", bound=RunConfig)


def load(kind: type[Config], file: Path, overrides: Iterable[str] = ()) -> Config:
    """Return the configuration in the YAML `file`, changed by `key=value` overrides.

    Raises:
        ConfigError: the file is missing or malformed, or a key or value is not allowed.
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
        kind: the project's configuration class.
        tree: nested mappings, as read from a YAML file or a checkpoint.
        where: where `tree` comes from, for error messages.
        overridden: keys set with `--set`; errors name that option instead of `where`.

    Raises:
        ConfigError: a key is missing or unknown, or a value is not allowed.
    """
    return configuration.validate(kind, tree, where=where, overridden=overridden)


def dump(config: RunConfig) -> bytes:
    """Return `config` as YAML, which `load` reads back unchanged."""
    return dump_tree(config.model_dump())


def dump_tree(tree: Mapping[str, Any]) -> bytes:
    """Return nested mappings as YAML, with the keys in their original order."""
    stream = io.BytesIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment] # typed as None
    yaml.dump(dict(tree), stream)
    return stream.getvalue()


def json_schema(kind: type[RunConfig]) -> str:
    """Return the JSON Schema for a project's configuration files, as text."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = {**head, **kind.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"
