"""The GPU sessions on a machine without a GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.project import ROOT, WORKSPACE
from tasks.sessions import gpu

SESSIONS = ["gpu-test", "gpu-bench"]
OLDEST = WORKSPACE.torches[0]
PROJECT = WORKSPACE.default_project.package


def nox(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nox", *arguments],
        cwd=ROOT,
        # Hide the GPU if there is one.
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


# A fake interpreter: answers the probe as the test says and logs every other command.
PYTHON = """\
#!/bin/sh
if [ "$1" = -c ]; then cat "$0.answer"; else echo "$PYTHONPATH: $*" >> "$0.ran"; fi
"""


def image(folder: Path, **differences: object) -> Path:
    """Put a fake interpreter into `folder`; `differences` override a good image's answer."""
    folder.mkdir(parents=True)
    program = folder / "python"
    program.write_text(PYTHON)
    program.chmod(0o755)
    answer = {
        "executable": str(program),
        "prefix": str(folder.parent),
        "python": "3.12",
        "torch": "2.14.0a0+abc",
        "sees_gpu": True,
        "problem": None,
        "missing": [],
    }
    (folder / "python.answer").write_text(f"a greeting\n{json.dumps({**answer, **differences})}\n")
    return program


def without_torch(tmp_path: Path) -> str:
    """Return a PATH on which the only python has no torch."""
    image(tmp_path / "bare" / "bin", torch=None)
    return f"{tmp_path / 'bare' / 'bin'}{os.pathsep}{essentials(tmp_path)}"


def essentials(tmp_path: Path) -> str:
    """Return a folder with the programs that the fake interpreter needs."""
    folder = tmp_path / "essentials"
    folder.mkdir(exist_ok=True)
    for name in ("cat", "sh"):
        program = shutil.which(name)
        assert program is not None
        (folder / name).symlink_to(program)
    return str(folder)


@pytest.mark.parametrize(
    ("ci", "code", "status"),
    [pytest.param("", 0, "skipped", id="laptop"), pytest.param("true", 1, "aborted", id="ci")],
)
@pytest.mark.parametrize("session", SESSIONS)
def test_session_skips_without_a_gpu_but_fails_in_ci(
    session: str, ci: str, code: int, status: str, tmp_path: Path
) -> None:
    problem = "The driver on\n your system is too old"
    python = image(tmp_path / "image" / "bin", sees_gpu=False, problem=problem)
    path = f"{python.parent}{os.pathsep}{essentials(tmp_path)}"
    ran = nox("--no-venv", "-s", session, CI=ci, PATH=path)
    assert ran.returncode == code, ran.stderr
    reason = (
        f"{session} {status}: torch 2.14.0a0+abc sees no GPU here (The driver on your system is"
    )
    assert reason in ran.stderr
    assert not python.with_name("python.ran").exists()


def test_locked_torch_is_probed_without_no_venv() -> None:
    ran = nox("-s", "gpu-bench", CI="")
    assert ran.returncode == 0, ran.stderr
    assert f"gpu-bench skipped: torch {WORKSPACE.default.torch}." in ran.stderr
    assert "sees no GPU here" in ran.stderr


@pytest.mark.parametrize(
    ("session", "arguments", "expected"),
    [
        ("gpu-test", [], "-m pytest tests/gpu"),
        ("gpu-test", ["--", "-k", "bits"], "-m pytest -k bits"),
        ("gpu-bench", [], f"-m {PROJECT}.gpu_bench"),
        ("gpu-bench", ["--", "--steps", "9"], f"-m {PROJECT}.gpu_bench --steps 9"),
    ],
)
def test_no_venv_runs_the_first_python_on_path_that_has_torch(
    session: str, arguments: list[str], expected: str, tmp_path: Path
) -> None:
    path = without_torch(tmp_path)
    python = image(tmp_path / "image" / "bin")
    ran = nox("--no-venv", "-s", session, *arguments, PATH=f"{path}{os.pathsep}{python.parent}")
    assert ran.returncode == 0, ran.stderr
    # With CHECK_INPUTS=1 the observer comes before src on the path.
    assert python.with_name("python.ran").read_text().endswith(f"{ROOT / 'src'}: {expected}\n")


@pytest.mark.parametrize(
    ("differences", "explanation"),
    [
        pytest.param(
            {"torch": "2.9.1+cu128"},
            f"has torch 2.9.1+cu128; {OLDEST} or newer is required; use a newer image, or",
            id="old_torch",
        ),
        pytest.param({"python": "3.10"}, "has Python 3.10; 3.11 or newer is", id="old_python"),
        pytest.param(
            {"torch": None, "problem": "libcudart.so: cannot\nopen"},
            "torch cannot be imported (libcudart.so: cannot open); fix it",
            id="broken_torch",
        ),
        pytest.param(
            {"missing": ["rich", "ruamel.yaml"]},
            "python -m pip install rich ruamel.yaml",
            id="missing_modules",
        ),
    ],
)
@pytest.mark.parametrize("session", SESSIONS)
def test_unusable_image_is_reported_in_one_line_and_exits_2(
    session: str, differences: dict[str, object], explanation: str, tmp_path: Path
) -> None:
    python = image(tmp_path / "image" / "bin", **differences)
    path = f"{python.parent}{os.pathsep}{essentials(tmp_path)}"
    ran = nox("--no-venv", "-s", session, CI="true", PATH=path)
    assert ran.returncode == 2, ran.stderr
    *announced, line = ran.stderr.splitlines()
    assert all(other.startswith("nox > ") for other in announced)
    assert line.startswith(f"{session} --no-venv: {python}: ")
    assert explanation in line
    assert not python.with_name("python.ran").exists()


def test_image_without_torch_is_reported_in_one_line_and_exits_2(tmp_path: Path) -> None:
    ran = nox("--no-venv", "-s", "gpu-test", PATH=without_torch(tmp_path))
    assert ran.returncode == 2
    line = ran.stderr.splitlines()[-1]
    assert line.startswith("gpu-test --no-venv: no python on PATH has torch (found: ")
    assert f"torch {OLDEST} or newer, or drop --no-venv" in line


def test_probe_reports_versions_and_missing_modules_of_a_real_interpreter() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", gpu.PROBE, "json", "no_such", "no_such.module"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    found = gpu.Found(**json.loads(ran.stdout))
    assert found.executable == sys.executable
    assert found.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert list(found.missing) == ["no_such", "no_such.module"]
    assert found.torch is not None
    assert not found.sees_gpu
