"""Modules directly in the `training` package import without torch and ONNX installed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# An entry of None in sys.modules makes importing that name raise ImportError.
IMPORT = """
import importlib, pkgutil, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
import training
for module in pkgutil.iter_modules(training.__path__):
    if not module.ispkg:
        importlib.import_module(f"training.{module.name}")
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


@pytest.mark.parametrize(
    ("missing", "others"),
    [("torch,onnx,onnxruntime,mlflow", []), ("torch", ["training.onnx.trees"])],
)
def test_modules_import_without_missing_packages(missing: str, others: list[str]) -> None:
    command = [sys.executable, "-c", IMPORT, missing, *others]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
