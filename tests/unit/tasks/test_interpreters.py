import sys
from pathlib import Path

import pytest

from tasks.environments import interpreters

CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"
BASE = Path(sys._base_executable)  # type: ignore[attr-defined] # noqa: SLF001 - behind the venv


def write_executable(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)
    return file


def fake_python(version: str, path: str) -> str:
    return f"#!/bin/sh\necho cpython {version} {path}\n"


def bare_environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": "", "HOME": str(tmp_path)}


def test_the_interpreter_under_a_virtual_environment_is_found(tmp_path: Path) -> None:
    assert sys.prefix != sys.base_prefix, "the tests run in a virtual environment"
    assert interpreters.find(CURRENT, bare_environment(tmp_path)) == BASE


def test_an_interpreter_on_path_is_found(tmp_path: Path) -> None:
    write_executable(tmp_path / "bin" / "python3.77", fake_python("3.77", "/opt/real/python3.77"))
    variables = {**bare_environment(tmp_path), "PATH": f"/nonexistent:{tmp_path / 'bin'}"}
    assert interpreters.find("3.77", variables) == Path("/opt/real/python3.77")


def test_newest_pyenv_version_is_found_without_path(tmp_path: Path) -> None:
    for patch in ("3.77.9", "3.77.10"):
        file = tmp_path / ".pyenv" / "versions" / patch / "bin" / "python3.77"
        write_executable(file, fake_python("3.77", str(file)))
    found = interpreters.find("3.77", bare_environment(tmp_path))
    assert found is not None
    assert "3.77.10" in found.parts


def test_pyenv_root_is_respected(tmp_path: Path) -> None:
    file = tmp_path / "root" / "versions" / "3.77.1" / "bin" / "python3.77"
    write_executable(file, fake_python("3.77", str(file)))
    variables = {**bare_environment(tmp_path), "PYENV_ROOT": str(tmp_path / "root")}
    assert interpreters.find("3.77", variables) == file


def test_interpreter_installed_by_uv_is_found(tmp_path: Path) -> None:
    folder = tmp_path / ".local/share/uv/python/cpython-3.77.1-linux-x86_64-gnu"
    file = write_executable(folder / "bin" / "python3.77", fake_python("3.77", "/uv/python3.77"))
    assert interpreters.find("3.77", bare_environment(tmp_path)) == Path("/uv/python3.77")
    assert file.exists()


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("#!/bin/sh\nexit 127\n", id="shim_of_a_missing_version"),
        pytest.param(fake_python("3.76", "/x"), id="another_version"),
        pytest.param("#!/bin/sh\necho pypy 3.77 /x\n", id="another_implementation"),
        pytest.param("#!/nonexistent\n", id="broken"),
        pytest.param("#!/bin/sh\n", id="silent"),
    ],
)
def test_unsuitable_interpreter_is_skipped(script: str, tmp_path: Path) -> None:
    write_executable(tmp_path / "bin" / "python3.77", script)
    variables = {**bare_environment(tmp_path), "PATH": str(tmp_path / "bin")}
    assert interpreters.find("3.77", variables) is None


def test_non_executable_file_is_skipped(tmp_path: Path) -> None:
    write_executable(tmp_path / "bin" / "python3.77", fake_python("3.77", "/x")).chmod(0o644)
    variables = {**bare_environment(tmp_path), "PATH": str(tmp_path / "bin")}
    assert interpreters.find("3.77", variables) is None
