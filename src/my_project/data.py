"""The examples: handwritten digits, written to Parquet once and split by a hash.

Source of the images: E. Alpaydin and C. Kaynak (1998), "Optical Recognition of
Handwritten Digits", UCI Machine Learning Repository; the 1,797 test images that
scikit-learn bundles.

What the project declares of its data, for a review like that of code; after a change:

    python -m my_project.data > configs/data/my_project.json
"""

import hashlib
import json
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from gates import locations
from gates.data import columns
from gates.data.declared import DeclaredData
from gates.errors import ExitCode, GateInputError, run_command, said_by
from gates.files import atomic_write, sha256, write_text
from my_project.config import PROJECT, DataConfig, ModelConfig, RunConfig
from my_project.config import load as load_config

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

# What a source holds; the split and the thickness are computed from it.
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


def examples_of(config: RunConfig, split: Split, *, where: str) -> Examples:
    """Return the examples of one split that a run on `config` sees.

    Args:
        config: names the data, and the model that must be able to take it.
        split: which part.
        where: what an error names as the place of the configuration.

    Raises:
        GateInputError: the data is missing or damaged, or does not fit the model.
    """
    if config.data.source == "synthetic":
        return synthetic(config.model)
    _check_fits(config.model, where=where)
    return load(prepare(config.data), split)


def prepare(config: DataConfig) -> Path:
    """Return the Parquet file of the examples; write it and its manifest first if need be.

    The manifest beside it, `NAME.manifest.json`, has its SHA-256, schema and counts.

    Raises:
        GateInputError: the source cannot be read, or does not have `SOURCE_SCHEMA`.
    """
    cache = Path(config.cache_dir)
    if config.source == "digits":
        file = cache / "digits.parquet"
        if not _is_current(file):
            _write(with_splits(digits()), file)
        return file
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "source.parquet"
        _fetch(config.source, copy)
        # Neither a file's name nor a message holds the signature that opens an address.
        name = locations.shown(config.source)
        file = cache / f"{Path(name).stem}-{sha256(copy)[:12]}.parquet"
        if not _is_current(file):
            _write(with_splits(_read(copy, SOURCE_SCHEMA, name=name), name=name), file)
    return file


def files_of(config: DataConfig) -> list[Path]:
    """Return the source, if it is a local file, and everything that is prepared already."""
    prepared = Path(config.cache_dir).glob("*")
    return [Path(config.source), *(file for file in prepared if file.is_file())]


def manifest_of(file: Path) -> Path:
    """Return the path of the manifest of `file`."""
    return file.with_suffix(".manifest.json")


def digits() -> pa.Table:
    """Return scikit-learn's handwritten digits as a table with `SOURCE_SCHEMA`."""
    # Takes seconds to import, and only the first run needs it.
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
    """Return noise in the shape that `model` takes, to measure speed with; always the same."""
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


def with_splits(source: pa.Table, *, name: str = "source") -> pa.Table:
    """Return a table with `SCHEMA` from one with `SOURCE_SCHEMA`.

    Raises:
        GateInputError: no example of `name` falls into the training split.
    """
    pixels = _pixels(source)
    splits = np.array(
        # By what the image shows, not by its name: equal images belong to the same split.
        [split_of(hashlib.sha256(image.tobytes()).hexdigest()[:16]) for image in pixels]
    )
    if "train" not in splits:
        msg = f"{name}: has no example in the split train"
        raise GateInputError(msg)
    ink = pixels.sum(axis=1, dtype=np.int64)
    table = source.append_column("split", pa.array(splits.tolist(), pa.string()))
    thickness = thicknesses(ink, reference=ink[splits == "train"])
    return table.append_column("thickness", pa.array(thickness, pa.string())).cast(SCHEMA)


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


def _check_fits(model: ModelConfig, *, where: str) -> None:
    """Raise a `GateInputError` unless `model`, configured at `where`, can take the examples."""
    expected = {"image_size": IMAGE_SIDE, "channels": 1, "classes": CLASSES}
    for key, needed in expected.items():
        found = getattr(model, key)
        if found != needed:
            msg = f"{where}: model.{key}: must be {needed} for these examples, got {found}"
            raise GateInputError(msg)


def load(file: Path, split: Split) -> Examples:
    """Return the examples of one split of a prepared `file`.

    Raises:
        GateInputError: the file is missing or damaged, is not what its manifest says, or has
            no example in that split.
    """
    try:
        manifest = json.loads(manifest_of(file).read_text(encoding="utf-8"))
        digest = manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        msg = f"{manifest_of(file)}: missing or damaged; delete it, and the next run writes it anew"
        raise GateInputError(msg) from error
    if sha256(file) != digest:
        msg = f"{file}: not the file that its manifest describes; delete both, and the next run "
        msg += "writes them anew"
        raise GateInputError(msg)
    table = _read(file, SCHEMA, name=str(file))
    rows = table.filter(pa.compute.equal(table["split"], split))
    if not len(rows):
        msg = f"{file}: has no example in the split {split}"
        raise GateInputError(msg)
    ink = _pixels(rows).reshape(-1, 1, IMAGE_SIDE, IMAGE_SIDE).astype(np.float32) / LARGEST_PIXEL
    return Examples(
        ids=np.array(rows["id"].to_pylist(), dtype=np.str_),
        images=torch.from_numpy(2 * ink - 1),
        labels=torch.from_numpy(rows["label"].to_numpy().astype(np.int64)),
        thicknesses=np.array(rows["thickness"].to_pylist(), dtype=np.str_),
        data_digest=digest,
    )


def declared(config: DataConfig) -> DeclaredData:
    """Return what the project declares of its data, as configs/data/my_project.json holds it.

    Raises:
        GateInputError: the source cannot be read, or does not have `SOURCE_SCHEMA`.
    """
    file = prepare(config)
    load(file, "test")  # what does not fit its manifest is not declared
    manifest = json.loads(manifest_of(file).read_text(encoding="utf-8"))
    return DeclaredData(
        digests=[manifest["sha256"]], rows=manifest["counts"], columns=manifest["schema"]
    )


def _is_current(file: Path) -> bool:
    """Whether `file` was prepared, by the rule of today: a damaged manifest is told by `load`."""
    try:
        shares = json.loads(manifest_of(file).read_text(encoding="utf-8")).get("shares")
    except FileNotFoundError:
        return False
    except (OSError, ValueError, AttributeError):
        return True
    return bool(shares == dict(_SHARES))


def _fetch(source: str, copy: Path) -> None:
    try:
        locations.download(source, copy)
    except GateInputError as error:
        msg = f"data.source: {error}; name digits, synthetic, or the path or address of a "
        msg += "Parquet file"
        raise GateInputError(msg) from error


def _read(file: Path, schema: pa.Schema, *, name: str) -> pa.Table:
    """Return the table in `file`, which errors call `name`, in the types of `schema`."""
    try:
        table = pq.read_table(file, page_checksum_verification=True)
        table.validate(full=True)  # text that is no UTF-8, for one
    except (OSError, pa.ArrowException) as error:
        msg = f"{name}: not readable as Parquet ({said_by(error).replace(str(file), name)})"
        raise GateInputError(msg) from error
    arrays = [_column(table, field, name) for field in schema]
    table = pa.table(arrays, schema=schema)
    _check_values(table, name)
    return table


def _column(table: pa.Table, field: pa.Field, name: str) -> pa.Array:
    """Return a column in its type, whatever program has written it."""
    found = table.schema.get_all_field_indices(field.name)
    if len(found) != 1:
        what = "several" if found else "no such column"
        msg = f"{name}: column {field.name} must be {field.type}, none missing; found {what}"
        raise GateInputError(msg)
    try:
        return columns.fitted(table.column(found[0]), field.type)
    except columns.MisfitError as error:
        where = "" if error.row is None else f" in row {error.row + 1}"
        msg = (
            f"{name}: column {field.name} must be {field.type}, none missing; found {error}{where}"
        )
        raise GateInputError(msg) from error


def _check_values(table: pa.Table, name: str) -> None:
    labels, ids = table["label"].to_numpy(), table["id"].to_pylist()
    if not len(table):
        msg = f"{name}: holds no example"
        raise GateInputError(msg)
    if _pixels(table).max() > LARGEST_PIXEL:
        msg = f"{name}: pixels must be from 0 to {LARGEST_PIXEL}, found {_pixels(table).max()}"
        raise GateInputError(msg)
    if labels.min() < 0 or labels.max() >= CLASSES:
        msg = f"{name}: labels must be from 0 to {CLASSES - 1}, found {labels.min()} to "
        msg += f"{labels.max()}"
        raise GateInputError(msg)
    repeated, count = Counter(ids).most_common(1)[0]
    if count > 1:
        msg = f"{name}: id {repeated} appears {count} times"
        raise GateInputError(msg)


def _pixels(table: pa.Table) -> npt.NDArray[np.uint8]:
    """Return the pixels of every row, (n_examples, 64)."""
    pixels: npt.NDArray[np.uint8] = table["pixels"].combine_chunks().flatten().to_numpy()
    return pixels.reshape(-1, IMAGE_SIDE * IMAGE_SIDE)


def _write(table: pa.Table, file: Path) -> None:
    """Write `table` and then its manifest: with the manifest there, both are whole."""
    with atomic_write(file) as stream:
        pq.write_table(table, stream, write_page_checksum=True)
    counts = Counter(table["split"].to_pylist())
    manifest = {
        "sha256": sha256(file),
        "schema": {field.name: str(field.type) for field in table.schema},
        "shares": dict(_SHARES),
        "counts": {split: counts[split] for split in get_args(Split)},
    }
    write_text(manifest_of(file), json.dumps(manifest, indent=2))


def _print_declared() -> ExitCode:
    print(declared(load_config(PROJECT).data).to_json(), end="")
    return ExitCode.PASSED


if __name__ == "__main__":
    sys.exit(run_command(_print_declared))
