"""The configuration of a run: typed, complete, and checked before anything heavy is imported.

    config = load(Path("configs/ci-tiny.yaml"), overrides=["train.epochs=3"])

Every key is required and no other is allowed, so a file shows all that a run depends on.
The JSON Schema of a file is `config.schema.json` beside this module; after a change:

    python -m my_project.config > src/my_project/config.schema.json
"""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator
from ruamel.yaml import YAML

from gates import configuration
from gates.configuration import Address, Section, apply_override, read_yaml

# The configuration that says where the project's data is. What a checkpoint or a provenance says of
# that is only compared with it: whoever wrote the file could name any address and any folder.
PROJECT = Path("configs/base.yaml")


class DataConfig(Section):
    """Where the examples come from.

    Args:
        source: `digits`, `synthetic`, or a Parquet file's path or fsspec address.
        cache_dir: where the prepared file is kept, relative to where a run is started.
        workers: processes that load batches; 0 takes them from memory, for small data.
    """

    source: Address
    cache_dir: str = Field(min_length=1)
    workers: int = Field(ge=0, le=256)


class ModelConfig(Section):
    """The size of the Vision Transformer."""

    image_size: int = Field(gt=0, le=65_536)
    channels: int = Field(gt=0, le=65_536)
    classes: int = Field(gt=1, le=1_000_000)
    patch_size: int = Field(gt=0, le=65_536)
    width: int = Field(gt=0, le=65_536)
    depth: int = Field(gt=0, le=1_024)
    heads: int = Field(gt=0, le=65_536)

    @model_validator(mode="after")
    def _divides_evenly(self) -> Self:
        if self.image_size % self.patch_size:
            msg = f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            raise ValueError(msg)
        if self.width % self.heads:
            msg = f"width {self.width} is not a multiple of heads {self.heads}"
            raise ValueError(msg)
        return self


class TrainConfig(Section):
    """How the model is trained.

    Args:
        epochs: passes over the training split.
        batch_size: examples in one optimiser step, over all processes together.
        accumulation_steps: parts in which each process takes its share of a batch.
        lr: the highest learning rate.
        weight_decay: AdamW's.
        warmup_share: the share of all steps in which the rate rises to `lr`.
        clip_norm: the largest norm of all gradients together.
        distortion: how far images are turned, scaled, sheared and moved at random, each epoch anew:
            1 is up to 10 degrees, 5 %, 0.1 and a quarter of a pixel; 0 is not at all.
        mixup: alpha of the Beta(alpha, alpha) from which the share of an image is drawn when it is
            mixed with another one; 1 is any share alike, 0 mixes nothing.
        noise: standard deviation of the noise that is added to the pixels, which go from -1 to 1.
        precision: of the forward and backward pass; weights are float32.
        compile: whether torch.compile compiles the model.
        deterministic: whether only algorithms are used that repeat bit for bit.
        snapshot_every: steps between two snapshots from which a run can be resumed.
        parallelism: how several processes share the work, `ddp` or `fsdp` (FSDP2).
        device: `auto` is a GPU where there is one.
    """

    epochs: int = Field(gt=0, le=1_000_000)
    batch_size: int = Field(gt=0, le=1_000_000)
    accumulation_steps: int = Field(gt=0, le=65_536)
    lr: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0, le=10)
    warmup_share: float = Field(ge=0, lt=1)
    clip_norm: float = Field(gt=0, le=1e9)
    distortion: float = Field(ge=0, le=10)
    mixup: float = Field(ge=0, le=10)
    noise: float = Field(ge=0, le=10)
    precision: Literal["float32", "bfloat16"]
    compile: bool
    deterministic: bool
    snapshot_every: int = Field(gt=0, le=1_000_000_000)
    parallelism: Literal["ddp", "fsdp"]
    device: Literal["auto", "cpu", "cuda"]


class RunConfig(Section):
    """All that a run depends on besides the code."""

    seed: int = Field(ge=0, lt=2**32)
    tracking: Literal["none", "mlflow"]
    data: DataConfig
    model: ModelConfig
    train: TrainConfig


def load(file: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Return the configuration in the YAML `file`, changed by `key=value` overrides.

    Raises:
        ConfigError: the file is missing or malformed, or a key or a value is not allowed.
    """
    tree = read_yaml(file)
    overridden = set()
    for override in overrides:
        overridden.add(apply_override(tree, override))
    return validate(tree, where=str(file), overridden=overridden)


def validate(tree: Any, *, where: str, overridden: Iterable[str] = ()) -> RunConfig:
    """Return `tree` as a configuration.

    Args:
        tree: nested mappings, as a YAML file or a checkpoint holds them.
        where: what the error names when a key or a value is not allowed.
        overridden: keys that come from `--set`, so that the error names that instead.

    Raises:
        ConfigError: a key is missing or unknown, or a value is not allowed.
    """
    return configuration.validate(RunConfig, tree, where=where, overridden=overridden)


def dump(config: RunConfig) -> bytes:
    """Return `config` as YAML that `load` reads back to the same configuration."""
    stream = io.BytesIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment] # typed as None
    yaml.dump(config.model_dump(), stream)
    return stream.getvalue()


def json_schema() -> str:
    """Return the JSON Schema of a configuration file, as text."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema = {**head, **RunConfig.model_json_schema()}
    return json.dumps(schema, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(json_schema(), end="")
