"""Data of a project as training finds it on the disk, prepared."""

import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_prepared(table: pa.Table, file: Path) -> Path:
    """Write `table` and the manifest that describes it, as `Dataset.prepare` leaves them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    # A file with other shares would be prepared again.
    manifest = {"sha256": digest, "shares": {"train": 0.7, "validation": 0.15, "test": 0.15}}
    file.with_suffix(".manifest.json").write_text(json.dumps(manifest))
    return file
