"""The examples: noise of 4 x 4 pixels with one brighter row, whose index is the label."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from gates.errors import GateInputError
from training.data import Dataset
from training.project import Split

from toy.config import ModelConfig, RunConfig

SIDE = 4
PIXELS = SIDE * SIDE
LARGEST_PIXEL = 9
CLASSES = SIDE
BUNDLED_EXAMPLES = 240
SYNTHETIC_EXAMPLES = 256

SOURCE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("pixels", pa.list_(pa.uint8(), PIXELS), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
    ]
)
SCHEMA = pa.schema(
    [
        *SOURCE_SCHEMA,
        pa.field("split", pa.string(), nullable=False),
        pa.field("brightness", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The examples of one split, in memory.

    Args:
        ids: (n_examples,) unique names.
        images: (n_examples, 16) from 0 to 1, float32.
        labels: (n_examples,) the brightest row, int64.
        brightnesses: (n_examples,) `dark` or `bright`.
        data_digest: SHA-256 of their file.
    """

    ids: npt.NDArray[np.str_]
    images: Tensor
    labels: Tensor
    brightnesses: npt.NDArray[np.str_]
    data_digest: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """The images and their labels."""
        return self.images, self.labels


def examples_of(config: RunConfig, split: Split, where: str) -> Examples:
    """Return the examples of one split for a run with `config`."""
    if config.data.source == "synthetic":
        return synthetic(config.model)
    for key, needed in {"pixels": PIXELS, "classes": CLASSES}.items():
        found = getattr(config.model, key)
        if found != needed:
            msg = f"{where}: model.{key}: must be {needed} for these examples, got {found}"
            raise GateInputError(msg)
    return load(DATASET.prepare(config.data), split)


def load(file: Path, split: Split) -> Examples:
    """Return the examples of one split of a prepared `file`."""
    table, digest = DATASET.load(file, split)
    images = pixels_of(table).astype(np.float32) / LARGEST_PIXEL
    return Examples(
        ids=np.array(table["id"].to_pylist(), dtype=np.str_),
        images=torch.from_numpy(images),
        labels=torch.from_numpy(table["label"].to_numpy().astype(np.int64)),
        brightnesses=np.array(table["brightness"].to_pylist(), dtype=np.str_),
        data_digest=digest,
    )


def bars() -> pa.Table:
    """Return the bundled examples, which never change, as a table with `SOURCE_SCHEMA`."""
    random = np.random.default_rng(0)
    labels = np.arange(BUNDLED_EXAMPLES) % CLASSES
    images = random.integers(0, 6, (BUNDLED_EXAMPLES, SIDE, SIDE))
    images[np.arange(BUNDLED_EXAMPLES), labels] += 3
    return pa.table(
        {
            "id": [f"bar-{row:03d}" for row in range(BUNDLED_EXAMPLES)],
            "pixels": pa.FixedSizeListArray.from_arrays(images.astype(np.uint8).ravel(), PIXELS),
            "label": labels.astype(np.int8),
        },
        schema=SOURCE_SCHEMA,
    )


def synthetic(model: ModelConfig) -> Examples:
    """Return noise, always the same, in the shape that `model` expects."""
    generator = torch.Generator().manual_seed(0)
    shape = (SYNTHETIC_EXAMPLES, model.pixels)
    return Examples(
        ids=np.array([f"synthetic-{number}" for number in range(SYNTHETIC_EXAMPLES)]),
        images=torch.rand(shape, generator=generator),
        labels=torch.randint(model.classes, shape[:1], generator=generator),
        brightnesses=np.full(SYNTHETIC_EXAMPLES, "dark"),
        data_digest=hashlib.sha256(f"synthetic {shape}".encode()).hexdigest(),
    )


def complete(source: pa.Table, name: str) -> pa.Table:
    """Return a table with `SCHEMA` from one with `SOURCE_SCHEMA`, which errors call `name`."""
    pixels = pixels_of(source)
    hashes = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in pixels]
    splits = np.array([DATASET.split_of(each) for each in hashes])
    if "train" not in splits:
        msg = f"{name}: has no examples in the train split"
        raise GateInputError(msg)
    light = pixels.sum(axis=1, dtype=np.int64)
    is_bright = light > np.median(light[splits == "train"])
    table = source.append_column("split", pa.array(splits.tolist(), pa.string()))
    brightnesses = np.where(is_bright, "bright", "dark").tolist()
    return table.append_column("brightness", pa.array(brightnesses, pa.string())).cast(SCHEMA)


def pixels_of(table: pa.Table) -> npt.NDArray[np.uint8]:
    """Return the pixels of every row, (n_examples, 16)."""
    pixels: npt.NDArray[np.uint8] = table["pixels"].combine_chunks().flatten().to_numpy()
    return pixels.reshape(-1, PIXELS)


def _check_values(table: pa.Table, name: str) -> None:
    brightest = pixels_of(table).max()
    if brightest > LARGEST_PIXEL:
        msg = f"{name}: pixels must be from 0 to {LARGEST_PIXEL}, found {brightest}"
        raise GateInputError(msg)


DATASET = Dataset(
    bundled={"bars": bars},
    generated=("synthetic",),
    source_schema=SOURCE_SCHEMA,
    schema=SCHEMA,
    shares={"train": 0.7, "validation": 0.15, "test": 0.15},
    complete=complete,
    check=_check_values,
)
