"""Prepares a project's data: read once, checked, split, and kept with a manifest.

A project describes its source and the columns computed from it in a `Dataset`. The prepared file
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
from gates.errors import GateInputError, describe
from gates.files import atomic_write, sha256, write_text
from training.config import DataConfig
from training.project import Split


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """How a project's data is prepared.

    Args:
        bundled: sources that need no file: for each name, a function that returns a table with
            `source_schema`.
        generated: names of sources that the project generates in memory, for error messages.
        source_schema: the columns of a source.
        schema: the columns of the prepared file: those of a source, `split`, and any other
            computed column.
        shares: fraction of examples in each split. The hash of an example decides its split, so
            new examples do not move old ones.
        complete: adds the computed columns to a table with `source_schema`; the second argument is
            the table's name for error messages.
        check: raises a `GateInputError` for impossible values in a table with either schema; the
            second argument is the same as for `complete`.
    """

    bundled: Mapping[str, Callable[[], pa.Table]]
    generated: tuple[str, ...] = ()
    source_schema: pa.Schema
    schema: pa.Schema
    shares: Mapping[Split, float]
    complete: Callable[[pa.Table, str], pa.Table]
    check: Callable[[pa.Table, str], None]

    def prepare(self, config: DataConfig) -> Path:
        """Return the Parquet file with the examples; write it and its manifest first if needed.

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
            # A signed address is a secret: keep its signature out of file names and messages.
            name = locations.shown(config.source)
            file = cache / f"{Path(name).stem}-{sha256(copy)[:12]}.parquet"
            if not self._is_current(file):
                table = self._read(copy, self.source_schema, name=name)
                self._write(self.complete(table, name), file)
        return file

    def load(self, file: Path, split: Split) -> tuple[pa.Table, str]:
        """Return the rows of one split of a prepared `file`, and the file's SHA-256.

        Raises:
            GateInputError: the file is missing or damaged, does not match its manifest, or has no
                example in that split.
        """
        try:
            manifest = json.loads(manifest_of(file).read_text(encoding="utf-8"))
            digest = str(manifest["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            msg = f"{manifest_of(file)}: missing or damaged; delete it if it is there, and the "
            msg += "next run writes it again"
            raise GateInputError(msg) from error
        if sha256(file) != digest:
            msg = f"{file}: does not match the SHA-256 in its manifest; delete both, and the next "
            msg += "run writes them again"
            raise GateInputError(msg)
        table = self._read(file, self.schema, name=str(file))
        rows = table.filter(pa.compute.equal(table["split"], split))
        if not len(rows):
            msg = f"{file}: has no examples in the {split} split"
            raise GateInputError(msg)
        return rows, digest

    def declared(self, config: DataConfig) -> DeclaredData:
        """Return the declaration of the project's data, the content of configs/data/PROJECT.json.

        Raises:
            GateInputError: the source cannot be read, or does not have the source's schema.
        """
        file = self.prepare(config)
        self.load(file, "test")  # raises if the file does not match its manifest
        manifest = json.loads(manifest_of(file).read_text(encoding="utf-8"))
        return DeclaredData(
            digests=[manifest["sha256"]], rows=manifest["counts"], columns=manifest["schema"]
        )

    def split_of(self, identifier: str) -> Split:
        """Return the split for the example whose hash is `identifier`, a hexadecimal string."""
        position = int(identifier, 16) / 16 ** len(identifier)
        last: Split = "test"
        for split, share in self.shares.items():
            if position < share:
                return split
            position -= share
            last = split
        return last

    def _is_current(self, file: Path) -> bool:
        """Whether `file` is prepared with the current shares; `load` reports a damaged manifest."""
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
        """Return the table in `file` with the types of `schema`; errors call the file `name`."""
        try:
            table = pq.read_table(file, page_checksum_verification=True)
            table.validate(full=True)  # catches invalid UTF-8, for example
        except (OSError, pa.ArrowException) as error:
            msg = f"{name}: not readable as Parquet ({describe(error).replace(str(file), name)})"
            raise GateInputError(msg) from error
        arrays = [_column(table, field, name) for field in schema]
        table = pa.table(arrays, schema=schema)
        _check_ids(table, name)
        self.check(table, name)
        return table

    def _write(self, table: pa.Table, file: Path) -> None:
        """Write `table`, then its manifest: if the manifest exists, both are complete."""
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
    """Return the path of the source, which may not exist, and all files in the cache."""
    prepared = Path(config.cache_dir).glob("*")
    return [Path(config.source), *(file for file in prepared if file.is_file())]


def manifest_of(file: Path) -> Path:
    """Return the path of the manifest of `file`."""
    return file.with_suffix(".manifest.json")


def _column(table: pa.Table, field: pa.Field, name: str) -> pa.Array:
    """Return a column cast to the type of `field`; programs write the same values differently."""
    found = table.schema.get_all_field_indices(field.name)
    if len(found) != 1:
        problem = "several" if found else "no such column"
        msg = f"{name}: column {field.name} must be {field.type}, none missing; found {problem}"
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
        msg = f"{name}: has no examples; name a file with rows"
        raise GateInputError(msg)
    repeated, count = Counter(table["id"].to_pylist()).most_common(1)[0]
    if count > 1:
        msg = f"{name}: id {repeated} appears {count} times; make the ids unique"
        raise GateInputError(msg)
