"""The examples: handwritten digits, written to Parquet once and split by a hash.

Source of the images: E. Alpaydin and C. Kaynak (1998), "Optical Recognition of
Handwritten Digits", UCI Machine Learning Repository; the 1,797 test images that
scikit-learn bundles.

configs/data/my_project.json declares the data, so that a change is reviewed; after one, update it:

    python -m my_project.data > configs/data/my_project.json
"""

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from gates.errors import GateInputError
from training import command_line
from training.data import Dataset
from training.project import Split

from my_project.config import SETTINGS, ModelConfig, RunConfig

IMAGE_SIDE = 8
LARGEST_PIXEL = 16  # each pixel counts the ink dots in a 4 x 4 block of the scan
CLASSES = 10

# Quartiles of the training split by amount of ink. They are subgroups, because a model may read
# thick strokes and fail on thin ones.
THICKNESSES = ("thinnest", "thin", "thick", "thickest")

# The columns of a source; the split and the thickness are computed from them.
SOURCE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("pixels", pa.list_(pa.uint8(), IMAGE_SIDE * IMAGE_SIDE), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
    ]
)
SCHEMA = pa.schema(
    [
        *SOURCE_SCHEMA,
        pa.field("split", pa.string(), nullable=False),
        pa.field("thickness", pa.string(), nullable=False),
    ]
)

SYNTHETIC_EXAMPLES = 256


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The examples of one split, in memory.

    Args:
        ids: (n_examples,) unique identifiers.
        images: (n_examples, 1, 8, 8) ink from -1 (none) to 1 (full), float32.
        labels: (n_examples,) the digit, int64.
        thicknesses: (n_examples,) one of `THICKNESSES`.
        data_digest: SHA-256 of the file the examples come from.
    """

    ids: npt.NDArray[np.str_]
    images: Tensor
    labels: Tensor
    thicknesses: npt.NDArray[np.str_]
    data_digest: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tensors(self) -> tuple[Tensor, Tensor]:
        """The images and their labels."""
        return self.images, self.labels


def examples_of(config: RunConfig, split: Split, where: str) -> Examples:
    """Return the examples of one split for a run with `config`.

    Args:
        config: names the data, and the model that must accept it.
        split: the split to return.
        where: where the configuration comes from, for error messages.

    Raises:
        GateInputError: the data is missing or damaged, or does not fit the model.
    """
    if config.data.source == "synthetic":
        return synthetic(config.model)
    _check_fits(config.model, where=where)
    return load(DATASET.prepare(config.data), split)


def load(file: Path, split: Split) -> Examples:
    """Return the examples of one split of a prepared `file`.

    Raises:
        GateInputError: the file does not match its manifest, or has no example in that split.
    """
    table, digest = DATASET.load(file, split)
    ink = _pixels(table).reshape(-1, 1, IMAGE_SIDE, IMAGE_SIDE).astype(np.float32) / LARGEST_PIXEL
    return Examples(
        ids=np.array(table["id"].to_pylist(), dtype=np.str_),
        images=torch.from_numpy(2 * ink - 1),
        labels=torch.from_numpy(table["label"].to_numpy().astype(np.int64)),
        thicknesses=np.array(table["thickness"].to_pylist(), dtype=np.str_),
        data_digest=digest,
    )


def digits() -> pa.Table:
    """Return scikit-learn's handwritten digits as a table with `SOURCE_SCHEMA`."""
    # Takes seconds to import, but only the first run needs it.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    images, labels = load_digits(return_X_y=True)
    pixels = images.astype(np.uint8)
    return pa.table(
        {
            "id": [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in pixels],
            "pixels": pa.FixedSizeListArray.from_arrays(pixels.ravel(), pixels.shape[1]),
            "label": labels.astype(np.int8),
        },
        schema=SOURCE_SCHEMA,
    )


def synthetic(model: ModelConfig) -> Examples:
    """Return noise of the shape that `model` takes, for benchmarks; always the same."""
    generator = torch.Generator().manual_seed(0)
    shape = (SYNTHETIC_EXAMPLES, model.channels, model.image_size, model.image_size)
    images = torch.randn(shape, generator=generator)
    labels = torch.randint(model.classes, shape[:1], generator=generator)
    return Examples(
        ids=np.array([f"synthetic-{number}" for number in range(len(images))]),
        images=images,
        labels=labels,
        thicknesses=np.full(len(images), "synthetic"),
        data_digest=hashlib.sha256(f"synthetic {shape}".encode()).hexdigest(),
    )


def complete(source: pa.Table, name: str) -> pa.Table:
    """Return a table with `SCHEMA` from one with `SOURCE_SCHEMA`; errors call the table `name`.

    Raises:
        GateInputError: no example falls into the training split.
    """
    pixels = _pixels(source)
    # Hash the image rather than its id, so that equal images are in the same split.
    hashes = (hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in pixels)
    splits = np.array([DATASET.split_of(each) for each in hashes])
    if "train" not in splits:
        msg = f"{name}: has no examples in the train split"
        raise GateInputError(msg)
    ink = pixels.sum(axis=1, dtype=np.int64)
    table = source.append_column("split", pa.array(splits.tolist(), pa.string()))
    thickness = thicknesses(ink, reference=ink[splits == "train"])
    return table.append_column("thickness", pa.array(thickness, pa.string())).cast(SCHEMA)


def thicknesses(ink: npt.NDArray[np.int64], reference: npt.NDArray[np.int64]) -> list[str]:
    """Return the name of the quartile of `reference` that each image's ink falls into.

    Args:
        ink: (n_examples,) the sum of each image's pixels.
        reference: (n_training_examples,) the same for the training split only, so that new test
            examples do not move the bounds.
    """
    bounds = np.quantile(reference, [0.25, 0.5, 0.75])
    return [THICKNESSES[quarter] for quarter in np.searchsorted(bounds, ink, side="left")]


def _check_fits(model: ModelConfig, *, where: str) -> None:
    """Raise a `GateInputError` unless the model that `where` configures accepts the examples."""
    expected = {"image_size": IMAGE_SIDE, "channels": 1, "classes": CLASSES}
    for key, needed in expected.items():
        found = getattr(model, key)
        if found != needed:
            msg = f"{where}: model.{key}: must be {needed} for these examples, got {found}"
            raise GateInputError(msg)


def _check_values(table: pa.Table, name: str) -> None:
    labels = table["label"].to_numpy()
    if _pixels(table).max() > LARGEST_PIXEL:
        msg = f"{name}: pixels must be from 0 to {LARGEST_PIXEL}, found {_pixels(table).max()}"
        raise GateInputError(msg)
    if labels.min() < 0 or labels.max() >= CLASSES:
        msg = f"{name}: labels must be from 0 to {CLASSES - 1}, found {labels.min()} to "
        msg += f"{labels.max()}"
        raise GateInputError(msg)


def _pixels(table: pa.Table) -> npt.NDArray[np.uint8]:
    """Return the pixels of every row, (n_examples, 64)."""
    pixels: npt.NDArray[np.uint8] = table["pixels"].combine_chunks().flatten().to_numpy()
    return pixels.reshape(-1, IMAGE_SIDE * IMAGE_SIDE)


DATASET = Dataset(
    bundled={"digits": digits},
    generated=("synthetic",),
    source_schema=SOURCE_SCHEMA,
    schema=SCHEMA,
    shares={"train": 0.7, "validation": 0.15, "test": 0.15},
    complete=complete,
    check=_check_values,
)


if __name__ == "__main__":
    sys.exit(command_line.declare(SETTINGS, DATASET))
