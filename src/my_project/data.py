"""The examples: handwritten digits, written to Parquet once and split by a hash.

Source of the images: E. Alpaydin and C. Kaynak (1998), "Optical Recognition of
Handwritten Digits", UCI Machine Learning Repository; the 1,797 test images that
scikit-learn bundles.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gates.errors import GateInputError
from gates.files import atomic_write, sha256
from my_project.config import DataConfig, ModelConfig

Split = Literal["train", "validation", "test"]

# How much of the hash's range each split takes. A new example joins a split without moving
# any other, and equal images fall into the same one.
_SHARES: tuple[tuple[Split, float], ...] = (("train", 0.7), ("validation", 0.15), ("test", 0.15))

IMAGE_SIDE = 8
LARGEST_PIXEL = 16  # each pixel counts the ink dots in a 4 x 4 block of the scan
CLASSES = 10

# Quarters of the training split by how much ink an image has: a subgroup of its own, as a
# model may read thick strokes and fail on thin ones.
THICKNESSES = ("thinnest", "thin", "thick", "thickest")

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("pixels", pa.list_(pa.uint8(), IMAGE_SIDE * IMAGE_SIDE), nullable=False),
        pa.field("label", pa.int8(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("thickness", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The examples of one split, in memory.

    Args:
        ids: (n_examples,) unique names.
        images: (n_examples, 1, 8, 8) ink from -1 (none) to 1 (full), float32.
        labels: (n_examples,) the digit, int64.
        thicknesses: (n_examples,) one of `THICKNESSES`.
        data_digest: SHA-256 of the file that they come from.
    """

    ids: npt.NDArray[np.str_]
    images: torch.Tensor
    labels: torch.Tensor
    thicknesses: npt.NDArray[np.str_]
    data_digest: str

    def __len__(self) -> int:
        return len(self.ids)


def prepare(config: DataConfig) -> Path:
    """Return the Parquet file of the examples; write it first if it is not there."""
    file = Path(config.cache_dir) / f"{config.source}.parquet"
    if not file.exists():
        table = digits()
        with atomic_write(file) as stream:
            pq.write_table(table, stream, write_page_checksum=True)
    return file


def digits() -> pa.Table:
    """Return scikit-learn's handwritten digits as a table with `SCHEMA`."""
    # Takes seconds to import, and only the first run needs it.
    from sklearn.datasets import load_digits  # noqa: PLC0415

    images, labels = load_digits(return_X_y=True)
    pixels = images.astype(np.uint8)
    ids = [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in pixels]
    splits = np.array([split_of(identifier) for identifier in ids])
    ink = pixels.sum(axis=1, dtype=np.int64)
    return pa.table(
        {
            "id": ids,
            "pixels": pa.FixedSizeListArray.from_arrays(pixels.ravel(), pixels.shape[1]),
            "label": labels.astype(np.int8),
            "split": splits.tolist(),
            "thickness": thicknesses(ink, reference=ink[splits == "train"]),
        },
        schema=SCHEMA,
    )


def thicknesses(ink: npt.NDArray[np.int64], reference: npt.NDArray[np.int64]) -> list[str]:
    """Return the quarter of `reference` that each image's ink falls into.

    Args:
        ink: (n_examples,) the sum of each image's pixels.
        reference: (n_training_examples,) the same for the training split, so that examples
            which arrive later do not move the bounds.
    """
    bounds = np.quantile(reference, [0.25, 0.5, 0.75])
    return [THICKNESSES[quarter] for quarter in np.searchsorted(bounds, ink, side="left")]


def split_of(identifier: str) -> Split:
    """Return the split of the example with this hash, a hexadecimal string."""
    position = int(identifier, 16) / 16 ** len(identifier)
    for split, share in _SHARES:
        if position < share:
            return split
        position -= share
    return _SHARES[-1][0]


def check_fits(model: ModelConfig, *, where: str) -> None:
    """Raise a `GateInputError` unless `model`, configured at `where`, can take the examples."""
    expected = {"image_size": IMAGE_SIDE, "channels": 1, "classes": CLASSES}
    for key, needed in expected.items():
        found = getattr(model, key)
        if found != needed:
            msg = f"{where}: model.{key}: must be {needed} for these examples, got {found}"
            raise GateInputError(msg)


def load(file: Path, split: Split) -> Examples:
    """Return the examples of one split of `file`.

    Raises:
        GateInputError: the file is missing or damaged, does not have `SCHEMA`, or has no
            example in that split.
    """
    try:
        table = pq.read_table(file, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        msg = f"{file}: not readable as Parquet; delete it, and the next run writes it anew"
        raise GateInputError(msg) from error
    if not table.schema.equals(SCHEMA):
        msg = f"{file}: its columns are not those of my_project.data.SCHEMA; delete it"
        raise GateInputError(msg)
    rows = table.filter(pa.compute.equal(table["split"], split))
    if not len(rows):
        msg = f"{file}: has no example in the split {split}"
        raise GateInputError(msg)
    pixels = rows["pixels"].combine_chunks().flatten().to_numpy()
    labels = rows["label"].to_numpy().astype(np.int64)
    if pixels.max() > LARGEST_PIXEL or labels.min() < 0 or labels.max() >= CLASSES:
        msg = f"{file}: a pixel is above {LARGEST_PIXEL} or a label no digit; delete it"
        raise GateInputError(msg)
    ink = pixels.reshape(-1, 1, IMAGE_SIDE, IMAGE_SIDE).astype(np.float32) / LARGEST_PIXEL
    return Examples(
        ids=np.array(rows["id"].to_pylist(), dtype=np.str_),
        images=torch.from_numpy(2 * ink - 1),
        labels=torch.from_numpy(labels),
        thicknesses=np.array(rows["thickness"].to_pylist(), dtype=np.str_),
        data_digest=sha256(file),
    )
