"""Sessions that need a GPU: whether training on it is correct, and how fast it is."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nox

from tasks.catalogue import session
from tasks.environments import environment
from tasks.errors import abort
from tasks.evidence import manifest
from tasks.project import ROOT, WORKSPACE

INPUTS = ("src", "configs")

# The sessions install nothing into an image, so the project is imported from its source.
_SOURCE = str(ROOT / "src")

# The modules besides torch that training imports, by their pip names. An image must include them,
# because the sessions install nothing into it.
IMAGE_MODULES = ("numpy", "pyarrow", "pydantic", "rich", "ruamel.yaml")

# Runs in the image's Python and prints what it finds there.
PROBE = """\
import importlib.util, json, sys, warnings
def has(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # the parent package is missing
        return False
found = {"executable": sys.executable, "prefix": sys.prefix,
         "python": "%d.%d" % sys.version_info[:2], "torch": None, "problem": None,
         "sees_gpu": False, "missing": [name for name in sys.argv[1:] if not has(name)]}
if has("torch"):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            import torch
            found["torch"] = torch.__version__
            found["sees_gpu"] = torch.cuda.is_available()
        except Exception as error:
            found["problem"] = str(error) or type(error).__name__
    if warned and not found["sees_gpu"] and not found["problem"]:
        found["problem"] = str(warned[-1].message)
print(json.dumps(found))
"""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The output of `PROBE`, run by one interpreter.

    Args:
        executable: path of the interpreter.
        prefix: folder of its environment.
        python: its version, `major.minor`.
        torch: version of the installed torch; None if torch cannot be imported.
        sees_gpu: whether torch can use a GPU.
        problem: torch's error or warning, if it cannot be imported or cannot use a GPU.
        missing: requested modules that are not installed.
    """

    executable: str
    prefix: str
    python: str
    torch: str | None
    sees_gpu: bool
    problem: str | None
    missing: tuple[str, ...]


@session(tiers=["release"], runner="gpu", timeout_minutes=30, inputs=[*INPUTS, "tests"])
def gpu_test(session: nox.Session) -> None:
    """Compare training on the GPU with the CPU: bfloat16, compiled, deterministic, resumed.

    Skipped if torch sees no GPU, which fails with CI=true. Nox's option --no-venv uses the python
    on PATH, for images that include torch. After --: arguments of pytest.
    """
    python = _python(session, "gpu-test", needs=(*IMAGE_MODULES, "pytest"))
    _run(session, python, "-m", "pytest", *(session.posargs or ["tests/gpu"]))


@session(tiers=["release"], runner="gpu", timeout_minutes=30, inputs=INPUTS)
def gpu_bench(session: nox.Session) -> None:
    """Measure the GPU's peak rates and how close training comes; writes artifacts/gpu-bench.json.

    Skipped if torch sees no GPU, which fails with CI=true. Nox's option --no-venv uses the python
    on PATH, for images that include torch. After --: arguments of python -m PROJECT.gpu_bench.
    """
    python = _python(session, "gpu-bench", needs=IMAGE_MODULES)
    _run(session, python, "-m", f"{WORKSPACE.default_project.package}.gpu_bench", *session.posargs)


def _python(session: nox.Session, name: str, *, needs: Iterable[str]) -> Found:
    """Return the locked environment's interpreter, or with --no-venv the image's."""
    if _without_environment(session):
        python = _image_python(name, needs)
    else:
        folder = environment.prepare_default_cell()
        python = _probe(folder / "bin" / "python", [])
    if python.torch is None or not python.sees_gpu:
        cause = f" ({' '.join(python.problem.split())[:200]})" if python.problem else ""
        reason = f"torch {python.torch} sees no GPU here{cause}"
        if environment.in_ci():
            session.error(f"{reason}; with CI=true, {name} must not be skipped")
        session.skip(reason)
    if _without_environment(session):
        manifest.note_image(python.prefix, python.python, python.torch)
    return python


def _without_environment(session: nox.Session) -> bool:
    """Whether Nox was started with --no-venv, short for --force-venv-backend none.

    No public attribute shows this: `session.venv_backend` is always "none" here, because Nox does
    not create the environments of this project's sessions.
    """
    return session._runner.global_config.force_venv_backend == "none"  # noqa: SLF001


def _image_python(name: str, needs: Iterable[str]) -> Found:
    """Return the first python on PATH that has torch, if it is usable.

    The first python overall would be wrong: `uvx nox` puts the Python that runs Nox first.

    Raises:
        SystemExit: with exit code 2 and one line, if there is none or it lacks a requirement.
    """
    found = [_probe(python, needs) for python in _on_path()]
    oldest = WORKSPACE.torches[0]
    python = next((each for each in found if each.torch or each.problem), None)
    if python is None:
        looked = ", ".join(each.executable for each in found) or "none"
        abort(
            f"{name} --no-venv: no python on PATH has torch (found: {looked}); use an image with "
            f"torch {oldest} or newer, or drop --no-venv to use the locked torch"
        )
    where = f"{name} --no-venv: {python.executable}"
    if python.torch is None:
        problem = " ".join((python.problem or "").split())[:200]
        abort(f"{where}: torch cannot be imported ({problem}); fix it, or use another image")
    for requirement, version, needed in (
        ("torch", python.torch, oldest),
        ("Python", python.python, WORKSPACE.pythons[0]),
    ):
        if _numbers(version) < _numbers(needed):
            abort(
                f"{where}: has {requirement} {version}; {needed} or newer is required; use a newer "
                "image, or drop --no-venv to use the locked environment"
            )
    if python.missing:
        abort(
            f"{where}: lacks {', '.join(python.missing)}; "
            f"run: {python.executable} -m pip install {' '.join(python.missing)}"
        )
    return python


def _on_path() -> Iterator[Path]:
    """Yield the interpreters on PATH, in order."""
    for folder in os.get_exec_path():
        for name in ("python", "python3"):
            program = shutil.which(name, path=folder)
            if program:
                yield Path(program)
                break


def _probe(python: Path, modules: Iterable[str]) -> Found:
    """Run `PROBE` with `python`; an interpreter that fails counts as having no modules."""
    completed = subprocess.run(
        [str(python), "-c", PROBE, *modules],
        env={**environment.isolated(python.parent.parent), "PYTHONPATH": _SOURCE},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    if completed.returncode:
        return Found(
            executable=str(python),
            prefix=str(python.parent.parent),
            python="0",
            torch=None,
            sees_gpu=False,
            problem=None,
            missing=tuple(modules),
        )
    answer = json.loads(completed.stdout.splitlines()[-1])
    return Found(**{**answer, "missing": tuple(answer["missing"])})


def _run(session: nox.Session, python: Found, *arguments: str) -> None:
    # The full path: an image's interpreter may be outside the bin folder of its prefix.
    folder = Path(python.prefix)
    environment.run(session, folder, python.executable, *arguments, PYTHONPATH=_SOURCE)


def _numbers(version: str) -> tuple[int, ...]:
    """Return major and minor of a version such as 2.11.0a0+git1234 as integers."""
    return tuple(int(part) for part in version.split(".")[:2])
