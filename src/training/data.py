"""The data a project trains and is judged on: read once, checked, split, and kept with a manifest.

A project says with a `Dataset` what a source holds and what is computed from it. The prepared file
is Parquet; its manifest, `NAME.manifest.json` beside it, has its SHA-256, schema and counts.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from gates import locations
from gates.data import columns
from gates.data.declared import DeclaredData
from gates.errors import GateInputError, said_by
from gates.files import atomic_write, sha256, write_text
from training.config import DataConfig
from training.project import Split


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """How a project's data is prepared.

    Args:
        bundled: sources that need no file: by name, what makes a table with `source_schema`.
        generated: further sources, which the project makes in memory; errors name them.
        source_schema: what a source holds.
        schema: what the prepared file holds: besides that the column `split`, and what else is
            computed.
        shares: how much of the hash's range each split takes. A new example joins a split without
            moving any other.
        complete: adds the computed columns to a table with `source_schema`; the second argument is
            what an error names as the table.
        check: raises a `GateInputError` for values that cannot be, of a table in either schema.
    """

    bundled: Mapping[str, Callable[[], pa.Table]]
    generated: tuple[str, ...] = ()
    source_schema: pa.Schema
    schema: pa.Schema
    shares: Mapping[Split, float]
    complete: Callable[[pa.Table, str], pa.Table]
    check: Callable[[pa.Table, str], None]

    def prepare(self, config: DataConfig) -> Path:
        """Return the Parquet file of the examples; write it and its manifest first if need be.

        Raises:
            GateInputError: the source cannot be read, or does not have the source's schema.
        """
        cache = Path(config.cache_dir)
        if config.source in self.bundled:
            file = cache / f"{config.source}.parquet"
            if not self._is_current(file):
                table = self.bundled[config.source]()
                self._write(self.complete(table, config.source), file)
            return file
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "source.parquet"
            self._fetch(config.source, copy)
            # Neither a file's name nor a message holds the signature that opens an address.
            name = locations.shown(config.source)
            file = cache / f"{Path(name).stem}-{sha256(copy)[:12]}.parquet"
            if not self._is_current(file):
                table = self._read(copy, self.source_schema, name=name)
                self._write(self.complete(table, name), file)
        return file

    def load(self, file: Path, split: Split) -> tuple[pa.Table, str]:
        """Return the rows of one split of a prepared `file`, and the file's SHA-256.

        Raises:
            GateInputError: the file is missing or damaged, is not what its manifest says, or has
                no example in that split.
        """
        try:
            manifest = json.loads(manifest_of(file).read_text(encoding="utf-8"))
            digest = str(manifest["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = f"{manifest_of(file)}: missing or damaged; delete it, and the next run writes it "
            msg += "anew"
            raise GateInputError(msg) from error
        if sha256(file) != digest:
            msg = f"{file}: not the file that its manifest describes; delete both, and the next "
            msg += "run writes them anew"
            raise GateInputError(msg)
        table = self._read(file, self.schema, name=str(file))
        rows = table.filter(pa.compute.equal(table["split"], split))
        if not len(rows):
            msg = f"{file}: has no example in the split {split}"
            raise GateInputError(msg)
        return rows, digest

    def declared(self, config: DataConfig) -> DeclaredData:
        """Return what the project declares of its data, as configs/data/PROJECT.json holds it.

        Raises:
            GateInputError: the source cannot be read, or does not have the source's schema.
        """
        file = self.prepare(config)
        self.load(file, "test")  # what does not fit its manifest is not declared
        manifest = json.loads(manifest_of(file).read_text(encoding="utf-8"))
        return DeclaredData(
            digests=[manifest["sha256"]], rows=manifest["counts"], columns=manifest["schema"]
        )

    def split_of(self, identifier: str) -> Split:
        """Return the split of the example with this hash, a hexadecimal string."""
        position = int(identifier, 16) / 16 ** len(identifier)
        last: Split = "test"
        for split, share in self.shares.items():
            if position < share:
                return split
            position -= share
            last = split
        return last

    def _is_current(self, file: Path) -> bool:
        """Whether `file` was prepared, by the rule of today: `load` tells of a damaged manifest."""
        try:
            shares = json.loads(manifest_of(file).read_text(encoding="utf-8")).get("shares")
        except FileNotFoundError:
            return False
        except (OSError, ValueError, AttributeError):
            return True
        return bool(shares == dict(self.shares))

    def _fetch(self, source: str, copy: Path) -> None:
        try:
            locations.download(source, copy)
        except GateInputError as error:
            names = ", ".join([*self.bundled, *self.generated])
            msg = f"data.source: {error}; name {names}, or the path or address of a Parquet file"
            raise GateInputError(msg) from error

    def _read(self, file: Path, schema: pa.Schema, *, name: str) -> pa.Table:
        """Return the table in `file`, which errors call `name`, in the types of `schema`."""
        try:
            table = pq.read_table(file, page_checksum_verification=True)
            table.validate(full=True)  # text that is no UTF-8, for one
        except (OSError, pa.ArrowException) as error:
            msg = f"{name}: not readable as Parquet ({said_by(error).replace(str(file), name)})"
            raise GateInputError(msg) from error
        arrays = [_column(table, field, name) for field in schema]
        table = pa.table(arrays, schema=schema)
        _check_ids(table, name)
        self.check(table, name)
        return table

    def _write(self, table: pa.Table, file: Path) -> None:
        """Write `table` and then its manifest: with the manifest there, both are whole."""
        with atomic_write(file) as stream:
            pq.write_table(table, stream, write_page_checksum=True)
        counts = Counter(table["split"].to_pylist())
        manifest = {
            "sha256": sha256(file),
            "schema": {field.name: str(field.type) for field in table.schema},
            "shares": dict(self.shares),
            "counts": {split: counts[split] for split in get_args(Split)},
        }
        write_text(manifest_of(file), json.dumps(manifest, indent=2))


def files_of(config: DataConfig) -> list[Path]:
    """Return the source, if it is a local file, and everything that is prepared already."""
    prepared = Path(config.cache_dir).glob("*")
    return [Path(config.source), *(file for file in prepared if file.is_file())]


def manifest_of(file: Path) -> Path:
    """Return the path of the manifest of `file`."""
    return file.with_suffix(".manifest.json")


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


def _check_ids(table: pa.Table, name: str) -> None:
    if not len(table):
        msg = f"{name}: holds no example"
        raise GateInputError(msg)
    repeated, count = Counter(table["id"].to_pylist()).most_common(1)[0]
    if count > 1:
        msg = f"{name}: id {repeated} appears {count} times"
        raise GateInputError(msg)
