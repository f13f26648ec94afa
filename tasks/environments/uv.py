"""Finds and runs uv, with fixed settings, and reports its errors in one line."""

import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.errors import abort
from tasks.project import ROOT

# Where uv finds packages, keeps its cache and reaches the network is up to the machine; any other
# UV_ variable would change what a session runs on.
_MACHINE_SETTINGS = re.compile(
    r"UV_(CACHE_DIR|CONCURRENT_.*|CONFIG_FILE|CREDENTIALS_DIR|DEFAULT_INDEX|EXTRA_INDEX_URL"
    r"|FIND_LINKS|HTTP_.*|INDEX|INDEX_.*|INSECURE_HOST|KEYRING_PROVIDER|LINK_MODE|NATIVE_TLS"
    r"|NO_CONFIG|NO_INDEX|OFFLINE|PYTHON_CACHE_DIR|PYTHON_DOWNLOADS|PYTHON_DOWNLOADS_JSON_URL"
    r"|PYTHON_INSTALL_DIR|PYTHON_INSTALL_MIRROR|REQUEST_TIMEOUT|SYSTEM_CERTS)"
)


def without_user_choices(variables: Mapping[str, str]) -> dict[str, str]:
    """Return `variables` without those that choose what uv installs, where or for which Python."""
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith("UV_") or _MACHINE_SETTINGS.fullmatch(name)
    }


def output(*arguments: str, cwd: Path, lock: int | None = None) -> str:
    """Return what uv prints; if it fails, abort with its error in one line.

    uv inherits the file descriptor `lock`, so that if we are killed, the file stays locked until
    uv ends.
    """
    done = _call(arguments, cwd, lock)
    if done.returncode:
        abort(explain(done.stderr))
    return done.stdout


def problem(*arguments: str, cwd: Path) -> str | None:
    """Run uv; return its error in one line, or None."""
    done = _call(arguments, cwd)
    return explain(done.stderr) if done.returncode else None


def changes(*arguments: str, cwd: Path) -> str:
    """Run uv and return its list of changes; if it fails, abort with its error in one line."""
    done = _call(arguments, cwd)
    if done.returncode:
        abort(explain(done.stderr))
    verbs = ("Added", "Removed", "Updated")  # a line for each package
    return "\n".join(line for line in done.stderr.splitlines() if line.startswith(verbs))


def install(*arguments: str, cwd: Path, lock: int) -> None:
    """Run a uv command that installs packages, from its cache if possible, else the network.

    The lock has every hash, so the cache and the network give the same files, and a
    laptop works offline as long as its cache is warm. For `lock`, see `output`.
    """
    if _call((*arguments, "--offline"), cwd, lock).returncode == 0:
        return
    errors: list[str] = []
    with subprocess.Popen(
        [executable(), *arguments],
        cwd=cwd,
        env=_variables(),
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
        pass_fds=(lock,),
    ) as process:
        for line in process.stderr or ():
            if errors or line.startswith("error:"):
                errors.append(line)
            elif line.lstrip().startswith("Download"):
                print(line, end="", file=sys.stderr, flush=True)
    if process.returncode:
        abort(f"uv.lock: {explain(''.join(errors))}")


# What `explain` says of a lock that needs an update.
OUTDATED = "it does not match pyproject.toml"
# What `explain` says if no index answers.
CONNECT = "connect this machine to the network"


def explain(stderr: str) -> str:
    """Return uv's error as one line, which if possible ends with what to do about it."""
    errors = re.findall(r"^\s*(?:error|cause): (.+)$", stderr, re.MULTILINE)
    clashes = re.findall(r"^The package .+$", stderr, re.MULTILINE)  # from uv pip check
    error, *causes = errors or clashes or ["uv failed"]
    text = "; ".join([error, *causes[:1], *causes[1:][-1:]])
    if "Hash mismatch" in text:
        *locked, computed = re.findall(r"^\s*(sha\d+:\S+)$", stderr, re.MULTILINE)
        return (
            f"{causes[0]}: the lock has {' or '.join(locked)}, but the file has {computed}; "
            "restore uv.lock (git checkout uv.lock); if the error persists, do not trust this index"
        )
    if _is_network_failure(stderr):
        return (
            f"{text}; it is not in uv's cache either: {CONNECT}, "
            "or set UV_DEFAULT_INDEX to an index that it can reach"
        )
    restore = f"{error}; restore it: git checkout uv.lock"
    known = {
        "Required uv version": f"pyproject.toml: {text}; run: pip install --upgrade uv",
        "needs to be updated": f"{OUTDATED}; run: nox -s lock",
        "Failed to parse `uv.lock`": restore,
        "Unable to find lockfile": restore,
    }
    for fragment, line in known.items():
        if fragment in text:
            return line
    if "build backend" in text:
        return f"{text}; its last line: {stderr.strip().splitlines()[-1].strip()}"
    return text


def _is_network_failure(stderr: str) -> bool:
    errors = ("error sending request", "Network connectivity is disabled", "network was disabled")
    return any(error in stderr for error in errors)


def executable() -> str:
    """Return the uv to run: the one that started `uvx nox`, or the one on PATH.

    Raises:
        SystemExit: with exit code 2 and one line, if uv is missing or too old.
    """
    return _found()[0]


def version() -> str:
    """Return the version of the uv to run."""
    return _found()[1]


def forget() -> None:
    """Clear the cache, so that the next call searches for uv again."""
    _found.cache_clear()


@functools.cache
def _found() -> tuple[str, str]:
    found = os.environ.get("UV") or shutil.which("uv")
    if found is None:
        abort("uv is not on PATH; run: pip install uv")
    printed = subprocess.run(
        [found, "--version"],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    reported = re.search(r"\d+(\.\d+)+", printed.stdout)
    if reported is None:
        abort(f"uv does not run ({found}); run: pip install --upgrade uv")
    minimum = required_version()
    if _numbers(reported[0]) < _numbers(minimum):
        abort(f"uv {reported[0]} is older than {minimum}; run: pip install --upgrade uv")
    return found, reported[0]


def required_version(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """Return the oldest uv version that pyproject.toml allows."""
    table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    required: str = table["tool"]["uv"]["required-version"]
    return required.removeprefix(">=")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _variables() -> dict[str, str]:
    foreign = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME")
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    # A folder that does not exist, so that the user's uv.toml does not change what is installed.
    return {**without_user_choices(kept), "XDG_CONFIG_HOME": str(ROOT / ".nox" / "nobody")}


def _call(
    arguments: Iterable[str],
    cwd: Path,
    lock: int | None = None,
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [executable(), *arguments],
        cwd=cwd,
        env=_variables(),
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
        pass_fds=() if lock is None else (lock,),
    )
