"""Sessions that need a GPU: what training computes on it, and how fast."""

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
from tasks.errors import stop
from tasks.evidence import manifest
from tasks.project import ROOT, WORKSPACE

INPUTS = ("src", "configs")

# Nothing is installed into an image: the project is imported from its source.
_SOURCE = str(ROOT / "src")

# What an image must carry beside torch, as nothing is installed into it: what the project imports
# to train. The modules are named as pip names them.
IMAGE_MODULES = ("numpy", "pyarrow", "pydantic", "rich", "ruamel.yaml")

# Runs on whatever Python an image has, and says what that sees.
PROBE = """\
import importlib.util, json, sys, warnings
def has(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ImportError:  # of the package that it is in
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
    """What an interpreter says of itself.

    Args:
        executable: its path.
        prefix: the folder of its environment.
        python: its version, `major.minor`.
        torch: the version of torch in it; None if there is none that can be imported.
        sees_gpu: whether torch can compute on a GPU.
        problem: why not, in torch's words, if it gives any.
        missing: the modules that were asked for and are not there.
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

    Skipped where torch sees no GPU; with CI=true that is a failure. With Nox's own --no-venv the
    python on PATH runs it, as in an image that carries torch. After --: arguments of pytest.
    """
    python = _python(session, "gpu-test", needs=(*IMAGE_MODULES, "pytest"))
    _run(session, python, "-m", "pytest", *(session.posargs or ["tests/gpu"]))


@session(tiers=["release"], runner="gpu", timeout_minutes=30, inputs=INPUTS)
def gpu_bench(session: nox.Session) -> None:
    """Measure the GPU's ceilings and how near to them training comes; artifacts/gpu-bench.json.

    Skipped where torch sees no GPU; with CI=true that is a failure. With Nox's own --no-venv the
    python on PATH runs it, as in an image that carries torch. After --: arguments of
    python -m PROJECT.gpu_bench.
    """
    python = _python(session, "gpu-bench", needs=IMAGE_MODULES)
    _run(session, python, "-m", f"{WORKSPACE.default_project.package}.gpu_bench", *session.posargs)


def _python(session: nox.Session, name: str, *, needs: Iterable[str]) -> Found:
    """Return the interpreter to use: the locked environment's, or under --no-venv the image's."""
    if _without_environment(session):
        python = _of_image(name, needs)
    else:
        folder = environment.prepare_default_cell()
        python = _ask(folder / "bin" / "python", [])
    if python.torch is None or not python.sees_gpu:
        cause = f" ({' '.join(python.problem.split())[:200]})" if python.problem else ""
        reason = f"torch {python.torch} sees no GPU here{cause}"
        if environment.in_ci():
            session.error(f"{reason}; CI=true allows no skipped {name}")
        session.skip(reason)
    if _without_environment(session):
        manifest.note_image(python.prefix, python.python, python.torch)
    return python


def _without_environment(session: nox.Session) -> bool:
    """Whether Nox was started with --no-venv, or --force-venv-backend none, its long form.

    Nothing public says so: for the sessions of this project, whose environments Nox does not
    make, `session.venv_backend` is always "none".
    """
    return session._runner.global_config.force_venv_backend == "none"  # noqa: SLF001


def _of_image(name: str, needs: Iterable[str]) -> Found:
    """Return the first python on PATH that has torch, if it is one that can be used.

    Not merely the first: `uvx nox` puts the Python that runs Nox before the image's.

    Raises:
        SystemExit: with exit code 2 and one line, when there is none or it lacks something.
    """
    found = [_ask(python, needs) for python in _on_path()]
    oldest = WORKSPACE.torches[0]
    python = next((each for each in found if each.torch or each.problem), None)
    if python is None:
        looked = ", ".join(each.executable for each in found) or "none"
        stop(
            f"{name} --no-venv: no python on PATH has torch (found: {looked}); use an image that "
            f"carries torch {oldest} or newer, or leave --no-venv out to use the locked one"
        )
    where = f"{name} --no-venv: {python.executable}"
    if python.torch is None:
        problem = " ".join((python.problem or "").split())[:200]
        stop(f"{where}: its torch cannot be imported ({problem}); mend it, or use another image")
    for what, version, needed in (
        ("torch", python.torch, oldest),
        ("Python", python.python, WORKSPACE.pythons[0]),
    ):
        if _numbers(version) < _numbers(needed):
            stop(
                f"{where}: has {what} {version}, and {needed} or newer is needed; use a newer "
                "image, or leave --no-venv out to use the locked environment"
            )
    if python.missing:
        stop(
            f"{where}: lacks {', '.join(python.missing)}; "
            f"run: {python.executable} -m pip install {' '.join(python.missing)}"
        )
    return python


def _on_path() -> Iterator[Path]:
    """Yield the interpreters on PATH, in its order."""
    for folder in os.get_exec_path():
        for name in ("python", "python3"):
            program = shutil.which(name, path=folder)
            if program:
                yield Path(program)
                break


def _ask(python: Path, modules: Iterable[str]) -> Found:
    """Return what `python` says of itself; one that does not run has nothing."""
    asked = subprocess.run(
        [str(python), "-c", PROBE, *modules],
        env={**environment.isolated(python.parent.parent), "PYTHONPATH": _SOURCE},
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    if asked.returncode:
        return Found(
            executable=str(python),
            prefix=str(python.parent.parent),
            python="0",
            torch=None,
            sees_gpu=False,
            problem=None,
            missing=tuple(modules),
        )
    answer = json.loads(asked.stdout.splitlines()[-1])
    return Found(**{**answer, "missing": tuple(answer["missing"])})


def _run(session: nox.Session, python: Found, *arguments: str) -> None:
    # The interpreter by its whole path: an image's need not be in the folder bin of its prefix.
    folder = Path(python.prefix)
    environment.run(session, folder, python.executable, *arguments, PYTHONPATH=_SOURCE)


def _numbers(version: str) -> tuple[int, ...]:
    """Return `major.minor` of a version such as 2.11.0a0+git1234 as numbers."""
    return tuple(int(part) for part in version.split(".")[:2])
