import stat
from pathlib import Path

import pytest

from tasks.environments import uv

# What uv 0.13.9 printed.
HASH_MISMATCH = """\
error: Failed to download `ruff==0.17.6`
  cause: Hash mismatch for `ruff==0.17.6`

         Expected:
           sha256:0000000000000000000000000000000000000000000000000000000000000001

         Computed:
           sha256:aa3b08254a732acba246891089a152c47c5733dc36b8ecb76ce8602f8326e5e4
"""
NO_NETWORK = """\
error: Request failed after 3 retries in 4.4s
  cause: Failed to fetch: https://index.example/simple/cfgv/
  cause: error sending request for url (https://index.example/simple/cfgv/)
  cause: client error (Connect)
  cause: dns error
  cause: error resolving DNS
  cause: failed to lookup address information: Temporary failure in name resolution
"""
CLASH = """\
Using Python 3.12.1 environment at: .nox/py3.12-torch2.15-wheel
Checked 69 packages in 1ms
Found 2 incompatibilities
The package `aa` requires `not-locked>=1`, but it's not installed
The package `aa` requires `numpy>=99`, but `2.5.5` is installed
"""
TOO_OLD = "error: Required uv version `>=0.13.0` does not match the running version `0.12.24`\n"


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        pytest.param(
            CLASH,
            "The package `aa` requires `not-locked>=1`, but it's not installed; "
            "The package `aa` requires `numpy>=99`, but `2.5.5` is installed",
            id="incompatible",
        ),
        pytest.param(
            HASH_MISMATCH,
            "Hash mismatch for `ruff==0.17.6`: the lock has "
            "sha256:0000000000000000000000000000000000000000000000000000000000000001, but the file "
            "has sha256:aa3b08254a732acba246891089a152c47c5733dc36b8ecb76ce8602f8326e5e4; "
            "restore uv.lock (git checkout uv.lock); if the error persists, do not trust this "
            "index",
            id="hash_mismatch",
        ),
        pytest.param(
            NO_NETWORK,
            "Request failed after 3 retries in 4.4s; Failed to fetch: "
            "https://index.example/simple/cfgv/; failed to lookup address information: Temporary "
            "failure in name resolution; it is not in uv's cache either: connect this "
            "machine to the network, or set UV_DEFAULT_INDEX to an index that it can reach",
            id="no_network",
        ),
        pytest.param(
            TOO_OLD,
            "pyproject.toml: Required uv version `>=0.13.0` does not match the running version "
            "`0.12.24`; run: pip install --upgrade uv",
            id="uv_too_old",
        ),
        pytest.param("error: plain\n", "plain", id="no_cause"),
        pytest.param(
            "error: The lockfile at `uv.lock` needs to be updated, but `--locked` was provided. To "
            "update the lockfile, run `uv lock`.\n",
            "it does not match pyproject.toml; run: nox -s lock",
            id="stale",
        ),
        pytest.param("", "uv failed", id="silence"),
    ],
)
def test_uv_failure_is_reported_in_one_line(stderr: str, line: str) -> None:
    assert uv.explain(stderr) == line


@pytest.mark.parametrize(
    ("script", "message"),
    [
        pytest.param("echo 'uv 0.4.30'", "uv 0.4.30 is older than ", id="too_old"),
        pytest.param("exit 3", "uv does not run", id="broken"),
    ],
)
def test_unusable_uv_is_refused(
    script: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake = tmp_path / "uv"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("UV", str(fake))
    with pytest.raises(SystemExit) as ended:
        uv.executable()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
    assert line.endswith("run: pip install --upgrade uv")


def test_missing_uv_is_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        uv.executable()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "uv is not on PATH; run: pip install uv\n"


def test_user_settings_do_not_change_what_is_installed() -> None:
    chosen = {
        "UV_CONSTRAINT": "x",
        "UV_EXCLUDE_NEWER": "x",
        "UV_FROZEN": "x",
        "UV_NO_VERIFY_HASHES": "x",
        "UV_OVERRIDE": "x",
        "UV_PYTHON": "x",
        "UV_SYSTEM_PYTHON": "x",
        "UV_TARGET": "x",
    }
    assert uv.without_user_choices(chosen) == {}
    assert uv.without_user_choices({"HOME": "x", "UV": "x"}) == {"HOME": "x", "UV": "x"}
