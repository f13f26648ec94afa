"""Keeps models, data and large files out of git: they belong in a registry.

python3 -m tasks.tracked_files FILE …     checks the files that are given
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from tasks.display import show

LARGEST_BYTES = 1_000_000

FORBIDDEN_SUFFIXES = frozenset(
    f".{suffix}"
    for suffixes in (
        "arrow avro db feather h5 h5ad hdf5 mat npy npz orc parquet sqlite tfrecord",  # data
        "ckpt engine gguf joblib keras mlmodel msgpack onnx pb pickle pkl pt pt2 pth safetensors",
        "tflite",  # models
        "7z bin gz tar tgz whl zip zst",  # either
    )
    for suffix in suffixes.split()
)


def problem(file: Path) -> str | None:
    """Return why `file` may not be in git, or None if it may."""
    if file.suffix.lower() in FORBIDDEN_SUFFIXES:
        return f"{file}: a model or data file ({file.suffix}); keep it in a registry, not in git"
    size = file.lstat().st_size
    if size > LARGEST_BYTES:
        return f"{file}: {size:,} bytes; at most {LARGEST_BYTES:,} go into git"
    return None


def main(files: Iterable[str]) -> int:
    """Print a line for each of `files` that may not be in git; return 1 if there is one."""
    problems = [found for name in files if (found := problem(Path(name)))]
    show(*problems)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
