"""The configuration of a run: typed, complete, and checked before anything heavy is imported.

    config = load(Path("configs/ci-tiny.yaml"), overrides=["train.epochs=3"])

Every key is required and no other is allowed, so a file shows all that a run depends on.
"""

import difflib
import io
import types
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from gates.errors import ConfigError


class Section(BaseModel):
    """A part of the configuration: read-only, no unknown keys, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class DataConfig(Section):
    """Where the examples come from.

    Args:
        source: `digits`, `synthetic`, or a Parquet file's path or fsspec address.
        cache_dir: where the prepared file is kept, relative to where a run is started.
        workers: processes that load batches; 0 takes them from memory, for small data.
    """

    source: str = Field(min_length=1)
    cache_dir: str = Field(min_length=1)
    workers: int = Field(ge=0)


class ModelConfig(Section):
    """The size of the Vision Transformer."""

    image_size: int = Field(gt=0)
    channels: int = Field(gt=0)
    classes: int = Field(gt=1)
    patch_size: int = Field(gt=0)
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
        precision: of the forward and backward pass; weights are float32.
        compile: whether torch.compile compiles the model.
        deterministic: whether only algorithms are used that repeat bit for bit.
        snapshot_every: steps between two snapshots from which a run can be resumed.
        parallelism: how several processes share the work, `ddp` or `fsdp` (FSDP2).
        device: `auto` is a GPU where there is one.
    """

    epochs: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    accumulation_steps: int = Field(gt=0)
    lr: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0)
    warmup_share: float = Field(ge=0, lt=1)
    clip_norm: float = Field(gt=0)
    precision: Literal["float32", "bfloat16"]
    compile: bool
    deterministic: bool
    snapshot_every: int = Field(gt=0)
    parallelism: Literal["ddp", "fsdp"]
    device: Literal["auto", "cpu", "cuda"]


class RunConfig(Section):
    """All that a run depends on besides the code."""

    seed: int = Field(ge=0, lt=2**32)
    tracking: Literal["none", "mlflow"]
    data: DataConfig
    model: ModelConfig
    train: TrainConfig


# Beyond its own errors, ruamel lets those of the types through: `2024-13-45`, `!!bool x`.
_INVALID_YAML = (YAMLError, ValueError, LookupError, RecursionError)


def load(file: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Return the configuration in the YAML `file`, changed by `key=value` overrides.

    Raises:
        ConfigError: the file is missing or malformed, or a key or a value is not allowed.
    """
    tree = _read(file)
    overridden = set()
    for override in overrides:
        overridden.add(_apply(tree, override))
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
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        details = error.errors()
        # A misspelt key is missing as well: the misspelling is what to correct.
        first = min(details, key=lambda detail: detail["type"] != "extra_forbidden")
        key = ".".join(str(part) for part in first["loc"])
        source = "--set" if any(_overlap(key, other) for other in overridden) else where
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        msg = f"{source}: {key or 'top level'}: {_explain(first)}{more}"
        raise ConfigError(msg) from error


def _overlap(one: str, other: str) -> bool:
    """Whether one of two keys is the other, or a section that the other is in."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested `tree` by their dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        dotted = f"{prefix}{key}"
        leaves |= flat(value, f"{dotted}.") if isinstance(value, dict) else {dotted: value}
    return leaves


def dump(config: RunConfig) -> bytes:
    """Return `config` as YAML that `load` reads back to the same configuration."""
    stream = io.BytesIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment] # typed as None
    yaml.dump(config.model_dump(), stream)
    return stream.getvalue()


def _read(file: Path) -> dict[str, Any]:
    try:
        # Pure YAML 1.2: `1e-3` is a number, `no` is a word, a key given twice is an error.
        tree = YAML(typ="safe", pure=True).load(file.read_bytes())
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror}); the configurations are in configs/"
        raise ConfigError(msg) from error
    except MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        msg = f"{file}: {line}not valid YAML: {error.problem}; correct that line"
        raise ConfigError(msg) from error
    except _INVALID_YAML as error:
        msg = f"{file}: not valid YAML: {error}"
        raise ConfigError(msg) from error
    if not isinstance(tree, dict):
        msg = f"{file}: expected keys and values, such as `seed: 0`, found {_name_of_type(tree)}"
        raise ConfigError(msg)
    return tree


def _apply(tree: dict[str, Any], override: str) -> str:
    """Set one `key=value` in `tree`; return the key."""
    key, equals, text = override.partition("=")
    if not (key and equals):
        msg = f"--set {override}: expected KEY=VALUE, as in --set train.epochs=3"
        raise ConfigError(msg)
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except _INVALID_YAML as error:
        msg = f"--set {override}: the value is not valid YAML; quote it"
        raise ConfigError(msg) from error
    *parents, leaf = key.split(".")
    section = tree
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            msg = f"--set {override}: {parent} is a value, not a section"
            raise ConfigError(msg)
    section[leaf] = value
    return key


# Pydantic's kinds of error in our words: what must be true, and what was there.
_EXPLANATIONS = {
    "missing": "missing; every key must be given",
    "model_type": "must be a section with keys of its own, got {input!r}",
    "greater_than": "must be > {gt:g}, got {input}",
    "greater_than_equal": "must be >= {ge:g}, got {input}",
    "less_than": "must be < {lt:g}, got {input}",
    "less_than_equal": "must be <= {le:g}, got {input}",
    "literal_error": "must be {expected}, got {input!r}",
    "value_error": "{error}",
}


def _explain(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return _unknown_key(str(error["loc"][-1]), _keys_at(error["loc"][:-1]))
    explanation = _EXPLANATIONS.get(error["type"])
    if explanation is None:
        return f"{error['msg'][:1].lower()}{error['msg'][1:]}, got {error['input']!r}"
    return explanation.format(input=error["input"], **error.get("ctx", {}))


def _unknown_key(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"unknown key; {hint}"


def _keys_at(location: Iterable[int | str]) -> list[str]:
    """Return the keys that the section at `location` has."""
    section: type[BaseModel] = RunConfig
    for key in location:
        section = typing.cast("type[BaseModel]", section.model_fields[str(key)].annotation)
    return list(section.model_fields)


def _name_of_type(tree: object) -> str:
    return "nothing" if isinstance(tree, types.NoneType) else f"a {type(tree).__name__}"
