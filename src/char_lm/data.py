"""The examples: passages of documentation, written to Parquet once and split by module.

The text is the docstrings of scikit-learn and statsmodels (BSD-3-Clause), whose versions uv.lock
pins. They are read from source files, because Python 3.13 changes docstrings when it compiles.

configs/data/char_lm.json declares the data, so that a change is reviewed; after one, update it:

    python -m char_lm.data > configs/data/char_lm.json
"""

import ast
import hashlib
import importlib.util
import inspect
import sys
import warnings
from collections.abc import Iterator
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

from char_lm.config import SETTINGS, RunConfig
from char_lm.vocabulary import PADDING, encode

PACKAGES = ("sklearn", "statsmodels")
PASSAGE = 256  # characters; the last passage of a module may be shorter

SOURCE_SCHEMA = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("id", "text", "module", "package")]
)
SCHEMA = SOURCE_SCHEMA.append(pa.field("split", pa.string(), nullable=False))


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The passages of one split, in memory.

    Args:
        ids: (n_examples,) unique identifiers.
        symbols: (n_examples, 256) a symbol for each character, then `PADDING`; int8.
        modules: (n_examples,) the module each passage comes from.
        packages: (n_examples,) the package of that module.
        data_digest: SHA-256 of the file the examples come from.
    """

    ids: npt.NDArray[np.str_]
    symbols: Tensor
    modules: npt.NDArray[np.str_]
    packages: npt.NDArray[np.str_]
    data_digest: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def tensors(self) -> tuple[Tensor]:
        """The symbols, which are both the inputs and the targets."""
        return (self.symbols,)


def examples_of(config: RunConfig, split: Split, where: str) -> Examples:  # noqa: ARG001 - interface
    """Return the examples of one split for a run with `config`."""
    limit = None if split == "test" else config.data.passages
    return load(DATASET.prepare(config.data), split, limit)


def load(file: Path, split: Split, limit: int | None = None) -> Examples:
    """Return the examples of one split of a prepared `file`, or `limit` evenly spaced ones."""
    table, digest = DATASET.load(file, split)
    count = min(limit or len(table), len(table))
    table = table.take(np.arange(count) * len(table) // count)
    symbols = np.full((count, PASSAGE), PADDING, np.int8)
    for row, text in zip(symbols, table["text"].to_pylist(), strict=True):
        row[: len(text)] = encode(text)
    return Examples(
        ids=np.array(table["id"].to_pylist(), dtype=np.str_),
        symbols=torch.from_numpy(symbols),
        modules=np.array(table["module"].to_pylist(), dtype=np.str_),
        packages=np.array(table["package"].to_pylist(), dtype=np.str_),
        data_digest=digest,
    )


def docstrings() -> pa.Table:
    """Return the passages of all packages as a table with `SOURCE_SCHEMA`."""
    rows: list[tuple[str, str, str, str]] = []
    seen: set[str] = set()
    for package in PACKAGES:
        for module, source in _modules(package):
            # Text repeated from an earlier module could end up in two splits.
            new = [each for each in docstrings_in(source) if each not in seen]
            seen.update(new)
            passages = cut("\n\n".join(new))
            rows += [(f"{module}:{n}", text, module, package) for n, text in enumerate(passages)]
    return pa.table([pa.array(each) for each in zip(*rows, strict=True)], schema=SOURCE_SCHEMA)


def _modules(package: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the source of each module of a package, without its tests."""
    found = importlib.util.find_spec(package)  # does not import it
    if found is None or not found.submodule_search_locations:
        msg = f"{package} is not installed, but its docstrings are data; install from uv.lock"
        raise GateInputError(msg)
    root = Path(found.submodule_search_locations[0])
    for file in sorted(root.rglob("*.py"), key=lambda file: file.with_suffix("").parts):
        parts = file.relative_to(root.parent).with_suffix("").parts
        if "tests" not in parts:
            yield ".".join(parts).removesuffix(".__init__"), file.read_text(encoding="utf-8")


def docstrings_in(source: str) -> list[str]:
    """Return the docstrings in a module's source in source order, with indentation removed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12+ warns of invalid escape sequences
        tree = ast.parse(source)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    found = (ast.get_docstring(node, clean=False) for node in nodes)
    return [inspect.cleandoc(text) for text in found if text]


def cut(text: str) -> list[str]:
    """Return `text` split into passages; only the last one may be shorter."""
    return [text[start : start + PASSAGE] for start in range(0, len(text), PASSAGE)]


def complete(source: pa.Table, name: str) -> pa.Table:  # noqa: ARG001 - interface
    """Return a table with `SCHEMA` from one with `SOURCE_SCHEMA`; each module is in one split."""
    hashes = [hashlib.sha256(module.encode()) for module in source["module"].to_pylist()]
    splits = [DATASET.split_of(each.hexdigest()[:16]) for each in hashes]
    return source.append_column(SCHEMA.field("split"), pa.array(splits))


def _check_values(table: pa.Table, name: str) -> None:
    lengths = sorted(len(text) for text in table["text"].to_pylist())
    if lengths[0] < 1 or lengths[-1] > PASSAGE:
        msg = f"{name}: text must have 1 to {PASSAGE} characters, got {lengths[0]} to {lengths[-1]}"
        raise GateInputError(msg)


DATASET = Dataset(
    bundled={"docstrings": docstrings},
    source_schema=SOURCE_SCHEMA,
    schema=SCHEMA,
    shares={"train": 0.7, "validation": 0.15, "test": 0.15},
    complete=complete,
    check=_check_values,
)


if __name__ == "__main__":
    sys.exit(command_line.declare(SETTINGS, DATASET))
