"""Calls uv: which one, with which settings, and what its failures mean in one line."""

import functools
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from tasks.errors import stop
from tasks.project import ROOT

# Settings that say where uv finds packages, keeps its cache and reaches the network are the
# machine's; every other UV_ variable would change what a session runs on.
_MACHINE_SETTINGS = re.compile(
    r"UV_(CACHE_DIR|CONCURRENT_.*|CONFIG_FILE|CREDENTIALS_DIR|DEFAULT_INDEX|EXTRA_INDEX_URL"
    r"|FIND_LINKS|HTTP_.*|INDEX|INDEX_.*|INSECURE_HOST|KEYRING_PROVIDER|LINK_MODE|NATIVE_TLS"
    r"|NO_CONFIG|NO_INDEX|OFFLINE|PYTHON_CACHE_DIR|PYTHON_DOWNLOADS|PYTHON_DOWNLOADS_JSON_URL"
    r"|PYTHON_INSTALL_DIR|PYTHON_INSTALL_MIRROR|REQUEST_TIMEOUT|SYSTEM_CERTS)"
)


def without_user_choices(variables: Mapping[str, str]) -> dict[str, str]:
    """Return `variables` less those that tell uv what to install, where, or with which Python."""
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith("UV_") or _MACHINE_SETTINGS.fullmatch(name)
    }


def output(*arguments: str, cwd: Path, lock: int | None = None) -> str:
    """Return what uv prints; end with its error in one line if it fails.

    A `lock` is a descriptor that uv holds as well: if we are killed, it stays locked until
    uv has ended.
    """
    done = _call(arguments, cwd, lock)
    if done.returncode:
        stop(explain(done.stderr))
    return done.stdout


def problem(*arguments: str, cwd: Path) -> str | None:
    """Run uv; return its error in one line, or None."""
    done = _call(arguments, cwd)
    return explain(done.stderr) if done.returncode else None


def changes(*arguments: str, cwd: Path) -> str:
    """Run uv; return the lines that say what it changed, or end with its error in one line."""
    done = _call(arguments, cwd)
    if done.returncode:
        stop(explain(done.stderr))
    verbs = ("Added", "Removed", "Updated")  # a line for each package
    return "\n".join(line for line in done.stderr.splitlines() if line.startswith(verbs))


def install(*arguments: str, cwd: Path, lock: int) -> None:
    """Run a uv command that needs packages: from its cache, else from the network.

    The lock fixes every hash, so the cache and the network give the same files, and a
    laptop without network works as long as its cache is warm. For `lock` see `output`.
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
        stop(f"uv.lock: {explain(''.join(errors))}")


def explain(stderr: str) -> str:
    """Return uv's error as one line that ends in what to do about it."""
    errors = re.findall(r"^\s*(?:error|cause): (.+)$", stderr, re.MULTILINE)
    clashes = re.findall(r"^The package .+$", stderr, re.MULTILINE)  # of uv pip check
    error, *causes = errors or clashes or ["uv failed"]
    text = "; ".join([error, *causes[:1], *causes[1:][-1:]])
    if "Hash mismatch" in text:
        *locked, computed = re.findall(r"^\s*(sha\d+:\S+)$", stderr, re.MULTILINE)
        return (
            f"{causes[0]}: the lock says {' or '.join(locked)}, the file has {computed}; "
            "take uv.lock back (git checkout uv.lock) and, if it stays, do not trust this index"
        )
    if _is_network_failure(stderr):
        return (
            f"{text}; uv's cache does not hold it either: connect this machine, "
            "or name an index that it reaches in UV_DEFAULT_INDEX"
        )
    taken_back = f"{error}; take it back: git checkout uv.lock"
    known = {
        "Required uv version": f"pyproject.toml: {text}; run: pip install --upgrade uv",
        "needs to be updated": "it is not what pyproject.toml asks for; run: nox -s lock",
        "Failed to parse `uv.lock`": taken_back,
        "Unable to find lockfile": taken_back,
    }
    for sign, line in known.items():
        if sign in text:
            return line
    if "build backend" in text:
        return f"{text}; its last words: {stderr.strip().splitlines()[-1].strip()}"
    return text


def _is_network_failure(stderr: str) -> bool:
    signs = ("error sending request", "Network connectivity is disabled", "network was disabled")
    return any(sign in stderr for sign in signs)


def executable() -> str:
    """Return the uv to call: the one that runs `uvx nox`, else the one on PATH.

    Raises:
        SystemExit: with exit code 2 and one line, when there is none or it is too old.
    """
    return _found()[0]


def version() -> str:
    """Return the version of the uv to call."""
    return _found()[1]


def forget() -> None:
    """Look for uv anew at the next call."""
    _found.cache_clear()


@functools.cache
def _found() -> tuple[str, str]:
    found = os.environ.get("UV") or shutil.which("uv")
    if found is None:
        stop("uv is not on PATH; run: pip install uv")
    asked = subprocess.run(
        [found, "--version"],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    said = re.search(r"\d+(\.\d+)+", asked.stdout)
    if said is None:
        stop(f"uv does not run ({found}); run: pip install --upgrade uv")
    minimum = required_version()
    if _numbers(said[0]) < _numbers(minimum):
        stop(f"uv {said[0]} is older than {minimum}; run: pip install --upgrade uv")
    return found, said[0]


def required_version(pyproject: Path = ROOT / "pyproject.toml") -> str:
    """Return the oldest uv that pyproject.toml admits."""
    table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    required: str = table["tool"]["uv"]["required-version"]
    return required.removeprefix(">=")


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _variables() -> dict[str, str]:
    foreign = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME")
    kept = {name: value for name, value in os.environ.items() if name not in foreign}
    # A folder that is not there: the user's uv.toml may ask for other versions, or for no wheels.
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
