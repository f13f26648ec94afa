"""Keeps models, data, secrets and deceptive text out of git.

python3 -m tasks.hooks.tracked_files FILE …     checks the given files
"""

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
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

# The first bytes of such files, which identify them under any name.
_BEGINNINGS = {
    rb"PK\x03\x04": "a zip archive, as torch.save writes",
    rb"\x80[\x02-\x05]": "a pickle",
    rb"\x89HDF\r\n": "HDF5",
    rb'.{8}\{\s*"': "safetensors",
    rb"GGUF": "GGUF",
    rb"PAR1": "Parquet",
    rb"ARROW1": "Arrow",
    rb"\x93NUMPY": "a NumPy array",
    rb"SQLite format 3": "SQLite",
    rb"\x1f\x8b": "gzip",
    rb"\x28\xb5\x2f\xfd": "Zstandard",
}
# Characters that change the order in which text is displayed: https://trojansource.codes
_BIDIRECTIONAL = re.compile(
    rb"\xd8\x9c|\xe2\x80[\x8e\x8f\xaa-\xae]|\xe2\x81[\xa6-\xa9]"  # in UTF-8
)
_ENVIRONMENT = re.compile(r"\.env(\..+)?")
_EXAMPLES = (".example", ".sample", ".template")
# Such values stay in a layer, where everybody who has the image can read them.
_SECRET_IN_IMAGE = re.compile(
    rb"^\s*(?:ENV|ARG)\s+(\w*(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?))[= ]\s*[^\s$]",
    re.IGNORECASE | re.MULTILINE,
)


def problems(file: Path, root: Path) -> Iterator[str]:
    """Yield each reason why `file` must not be in git.

    Args:
        file: its path.
        root: the folder of the repository.
    """
    if file.is_symlink():
        target = file.resolve()
        if not target.is_relative_to(root.resolve()):
            yield f"links to {file.readlink()}, which is outside the repository"
        elif not target.exists():
            yield f"links to {file.readlink()}, which does not exist"
        return
    if not file.is_file():
        return
    if file.suffix.lower() in FORBIDDEN_SUFFIXES:
        yield f"a model or data file ({file.suffix}); keep it in a registry, not in git"
        return
    if _ENVIRONMENT.fullmatch(file.name) and file.suffix not in _EXAMPLES:
        yield "contains one machine's settings and secrets; keep a .env.example in git instead"
    size = file.stat().st_size
    if size > LARGEST_BYTES:
        yield f"{size:,} bytes; at most {LARGEST_BYTES:,} are allowed in git"
        return
    yield from _problems_of_content(file, file.read_bytes())


def _problems_of_content(file: Path, content: bytes) -> Iterator[str]:
    for beginning, kind in _BEGINNINGS.items():
        if re.match(beginning, content, re.DOTALL):
            yield f"begins like {kind}; keep models and data in a registry, not in git"
    mark = _BIDIRECTIONAL.search(content)
    if mark:
        line = content.count(b"\n", 0, mark.start()) + 1
        yield f"line {line} has a character that reverses text; write it as an escape sequence"
    if os.access(file, os.X_OK) and not content.startswith(b"#!"):
        yield "is executable but not a script (no #!); run chmod -x"
    if file.suffix == ".ipynb" and _has_outputs(content):
        yield "a notebook with outputs, which may contain data; clear them"
    secret = _SECRET_IN_IMAGE.search(content) if file.name.startswith("Dockerfile") else None
    if secret:
        yield f"{secret[1].decode()} would stay in a layer; mount it: RUN --mount=type=secret"


def _has_outputs(content: bytes) -> bool:
    try:
        return any(cell.get("outputs") for cell in json.loads(content)["cells"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return True  # not a valid notebook, so it could contain anything


def main(files: Iterable[str]) -> int:
    """Print one line per reason why one of `files` must not be in git; return 1 if there is any."""
    root = Path.cwd()
    found = [f"{name}: {problem}" for name in files for problem in problems(Path(name), root)]
    show(*found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
