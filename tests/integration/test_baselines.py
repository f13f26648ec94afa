"""Baselines in buckets and registries, each with a local stand-in."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

from gates.verdicts.verdict import read_verdict
from tests.judged import BASELINE, pair, write_policy, written

COPY = "import sys, fsspec\nwith open(sys.argv[1], 'rb') as f, fsspec.open(sys.argv[2], 'wb') as g:"
COPY += "\n    g.write(f.read())"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a policy and a candidate three points worse than `baseline.parquet`."""
    kinds = {"kind": np.array(["a", "b"] * 100)}
    for each, name in zip(
        pair(180, 0, 6, 14, subgroups=kinds), ("candidate", "baseline"), strict=True
    ):
        written(each, tmp_path, name)
    write_policy(tmp_path / "policy.yaml", {"subgroups.columns": {"kind": ["a", "b"]}})
    return tmp_path


def python(folder: Path, store: dict[str, str], *arguments: str) -> tuple[int, str, str]:
    """Run Python in `folder`, with `store` added to the environment."""
    variables = {**os.environ, "TMPDIR": str(folder), **store}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def judge(folder: Path, store: dict[str, str], baseline: str) -> tuple[int, str, str]:
    options = ("--candidate=candidate.parquet", "--policy=policy.yaml", "--report=v.json")
    return python(folder, store, "-m", "gates", "evaluate", *options, f"--baseline={baseline}")


def assert_judged(folder: Path, store: dict[str, str], baseline: str) -> None:
    before = set(folder.iterdir())
    code, out, err = judge(folder, store, baseline)
    assert code == 1, err
    assert out.startswith("evaluation: FAIL - accuracy 0.9300 -> 0.9000 (-0.0300)")
    assert read_verdict(folder / "v.json").evidence["baseline"] == BASELINE
    assert set(folder.iterdir()) == before | {folder / "v.json"}, "no copy must be left"
    (folder / "v.json").unlink()


def assert_not_judged(folder: Path, store: dict[str, str], baseline: str) -> str:
    """Return the error line for a baseline that cannot be read."""
    before = set(folder.iterdir())
    code, out, err = judge(folder, store, baseline)
    assert (code, out) == (2, "")
    assert set(folder.iterdir()) == before
    *others, line = err.splitlines()
    # Without an account, gcsfs logs that it cannot determine the bucket type.
    assert all("Could not determine bucket type" in other for other in others), others
    assert line.startswith(f"{baseline}: ")
    return line


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",  # pragma: allowlist secret
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    server.stop()


def test_baseline_in_s3(folder: Path, s3: dict[str, str]) -> None:
    make = "import s3fs; s3fs.S3FileSystem().mkdir('models')"
    assert python(folder, s3, "-c", make)[0] == 0
    uri = "s3://models/production/predictions.parquet"
    assert python(folder, s3, "-c", COPY, "baseline.parquet", uri)[0] == 0
    assert_judged(folder, s3, uri)
    line = assert_not_judged(folder, s3, "s3://models/production/absent.parquet")
    assert "cannot be read (no such file: models/production/absent.parquet)" in line
    line = assert_not_judged(folder, s3, "s3://no-such-bucket/predictions.parquet")
    assert "The specified bucket does not exist" in line


def test_unreachable_s3_is_not_treated_as_a_cold_start(folder: Path, s3: dict[str, str]) -> None:
    gone = {**s3, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    line = assert_not_judged(folder, gone, "s3://models/predictions.parquet")
    assert "cannot be read (connection failed: " in line


@pytest.fixture
def gs() -> Iterator[dict[str, str]]:
    server = create_server("localhost", 0, in_memory=True, default_bucket="models")
    server.start()
    port = server._api._httpd.server_port  # noqa: SLF001 - the port it chose is not public
    yield {"STORAGE_EMULATOR_HOST": f"http://localhost:{port}", "NO_GCE_CHECK": "true"}
    server.stop()


def test_baseline_in_gs(folder: Path, gs: dict[str, str]) -> None:
    uri = "gs://models/production/predictions.parquet"
    assert python(folder, gs, "-c", COPY, "baseline.parquet", uri)[0] == 0
    assert_judged(folder, gs, uri)
    line = assert_not_judged(folder, gs, "gs://models/production/absent.parquet")
    assert "cannot be read (no such file: " in line


REGISTER = """
import json, os, sys
from pathlib import Path
from gates.files import sha256
from gates.registry.mlflow_store import MlflowStore
store = MlflowStore(os.environ["MLFLOW_TRACKING_URI"], make=True)
for folder in map(Path, sys.argv[1:]):
    files = {file.name: file for file in folder.iterdir()}
    digests = {name: sha256(file) for name, file in sorted(files.items())}
    checkpoint = digests.get("checkpoint.pt", "c" * 64)
    store.add("digits", files, {"files": json.dumps(digests), "checkpoint": checkpoint})
store.point("digits", "champion", 1)
store.point("digits", "production", 2)
"""


SHOW = """
import sys
from gates.errors import GateInputError
from gates.locations import local_copy
for uri in sys.argv[1:]:
    try:
        with local_copy(uri) as file:
            print(file.name, file.read_text())
    except GateInputError as error:
        print(error)
"""


@pytest.fixture
def registry(folder: Path) -> dict[str, str]:
    """A registry whose version 1 has a run's files and whose version 2 has no model."""
    run, empty = folder / "run", folder / "empty"
    for each in (run, empty):
        each.mkdir()
    (folder / "baseline.parquet").rename(run / "predictions.parquet")
    (run / "checkpoint.pt").write_bytes(b"weights")
    (empty / "notes.txt").write_text("nothing to judge")
    store = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    code, _, err = python(folder, store, "-c", REGISTER, str(run), str(empty))
    assert code == 0, err
    return store


def test_baseline_in_the_registry(folder: Path, registry: dict[str, str]) -> None:
    assert_judged(folder, registry, "models:/digits@champion")
    assert "there is no alias staging of digits" in assert_not_judged(
        folder, registry, "models:/digits@staging"
    )
    # All in one process, because importing MLflow takes seconds. A project that scores the baseline
    # itself gets the checkpoint.
    names = [
        "digits@champion",
        "digits/1",
        "digits/9",
        "other@production",
        "digits/2",
        "digits@production",
        "",
    ]
    code, out, err = python(folder, registry, "-c", SHOW, *(f"models:/{name}" for name in names))
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:2] == ["checkpoint.pt weights"] * 2
    for line, why in zip(
        lines[2:],
        [
            "models:/digits/9: there is no version 9 of digits in the registry",
            "there is no alias production of other",
            "version 2 of digits: its gates.files and gates.checkpoint disagree on the checkpoint",
            "somebody has moved the alias",
            "models:/: expected models:/NAME@production or models:/NAME/VERSION",
        ],
        strict=True,
    ):
        assert why in line


def test_unreachable_registry_is_not_treated_as_a_cold_start(folder: Path) -> None:
    gone = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    line = assert_not_judged(folder, gone, "models:/digits@production")
    assert "the registry http://127.0.0.1:9: " in line


def test_missing_registry_is_not_created(folder: Path) -> None:
    absent = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'absent.db'}"}
    line = assert_not_judged(folder, absent, "models:/digits@production")
    assert "there is no registry yet (no such file)" in line
