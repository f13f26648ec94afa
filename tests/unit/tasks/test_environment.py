import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.environments import environment, installed, interpreters, lockfile, uv
from tasks.environments.environment import Environment
from tasks.project import ROOT, WORKSPACE, Cell
from tests.local_index import Index
from tests.repository import real_uv

CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"
TINY = Environment(folder=".nox/tiny", python=CURRENT, groups=("build",))


# Prepares the environment in a separate process and prints the installed version of tiny.
PREPARE = """
from pathlib import Path
from tasks.environments import environment
from tests.unit.tasks.test_environment import TINY, tiny_version
print(tiny_version(environment.prepare(TINY, Path({!r}))))
"""


def output_of(folder: Path, code: str) -> str:
    command = [str(folder / "bin" / "python"), "-c", code]
    variables = environment.isolated(folder)
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, check=True
    ).stdout.strip()


def tiny_version(folder: Path) -> str:
    return output_of(folder, "import tiny, own_project; print(tiny.__version__)")


def test_environment_contains_the_locked_packages_and_the_project(project: Path) -> None:
    assert tiny_version(environment.prepare(TINY, project)) == "1.0"


def test_nothing_is_done_when_nothing_changed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = environment.prepare(TINY, project)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    capsys.readouterr()

    environment.prepare(TINY, project)

    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before
    assert capsys.readouterr().err == ""


def test_environment_stays_valid_when_an_image_layer_truncates_file_times(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = environment.prepare(TINY, project)
    for path in folder.rglob("*"):
        os.utime(path, (int(path.stat().st_mtime),) * 2, follow_symlinks=False)
    capsys.readouterr()
    environment.prepare(TINY, project)
    assert capsys.readouterr().err == ""


def test_lock_change_is_installed(project: Path, index: Index) -> None:
    environment.prepare(TINY, project)
    index.publish("tiny", "2.0.0")
    lockfile.renew(project, ["--upgrade"])
    assert tiny_version(environment.prepare(TINY, project)) == "2.0.0"


def test_package_removed_by_hand_is_reinstalled(project: Path) -> None:
    folder = environment.prepare(TINY, project)
    (site_packages,) = folder.glob("lib/*/site-packages")
    shutil.rmtree(site_packages / "tiny-1.0.dist-info")
    (site_packages / "tiny.py").unlink()
    assert tiny_version(environment.prepare(TINY, project)) == "1.0"


def remove_module(folder: Path) -> None:
    next(folder.glob("lib/*/site-packages/tiny.py")).unlink()


def remove_program(folder: Path) -> None:
    (folder / "bin" / "tiny").unlink()


def remove_python(folder: Path) -> None:
    (folder / "bin" / "python").unlink()


def break_python_link(folder: Path) -> None:
    (folder / "bin" / "python").unlink()
    (folder / "bin" / "python").symlink_to("/nowhere/python")


def replace_with_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


@pytest.mark.parametrize(
    "damage",
    [
        remove_module,
        remove_program,
        remove_python,
        break_python_link,
        replace_with_a_file,
    ],
)
def test_damaged_environment_is_repaired(project: Path, damage: Callable[[Path], None]) -> None:
    folder = environment.prepare(TINY, project)
    damage(folder)
    assert tiny_version(environment.prepare(TINY, project)) == "1.0"
    assert (folder / "bin" / "tiny").is_file()
    assert installed.changed(folder) == []


def test_changed_file_is_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Copied: a change to a link into uv's cache would reach every other environment.
    monkeypatch.setenv("UV_LINK_MODE", "copy")
    folder = environment.prepare(TINY, project)
    assert installed.changed(folder) == []
    (module,) = folder.glob("lib/*/site-packages/tiny.py")
    module.write_text(module.read_text() + "evil = True\n")
    assert installed.changed(folder) == [f"{module} (tiny): has changed since it was installed"]
    module.unlink()
    assert installed.changed(folder) == [f"{module} (tiny): is missing"]


def test_package_added_by_hand_is_removed(project: Path, index: Index) -> None:
    folder = environment.prepare(TINY, project)
    index.publish("stray", "1.0")
    python = f"--python={folder / 'bin' / 'python'}"
    subprocess.run([uv.executable(), "pip", "install", "-q", python, "stray"], check=True)
    environment.prepare(TINY, project)
    assert not list(folder.glob("lib/*/site-packages/stray*"))


def test_packages_are_byte_compiled_even_if_python_must_write_no_bytecode(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    folder = environment.prepare(TINY, project)
    assert list(folder.glob("lib/*/site-packages/__pycache__/tiny.*.pyc"))


def test_a_warm_cache_needs_no_network(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(environment.prepare(TINY, project))
    monkeypatch.setenv("UV_OFFLINE", "1")
    assert tiny_version(environment.prepare(TINY, project)) == "1.0"


def test_no_network_and_a_cold_cache_is_reported_in_one_line(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cold"))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    with pytest.raises(SystemExit) as ended:
        environment.prepare(TINY, project)
    assert ended.value.code == 2
    *progress, error = capsys.readouterr().err.splitlines()
    assert progress == ["environment: .nox/tiny: installing 1 packages from uv.lock"]
    assert error.startswith("uv.lock: ")
    assert "connect this machine" in error
    assert not (project / ".nox" / "tiny" / "environment.json").exists()


def test_hash_mismatch_is_reported_in_one_line_and_installs_nothing(
    project: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = index.folder / "tiny" / "tiny-1.0-py3-none-any.whl"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    lock = project / "uv.lock"
    # The sdist's hash stays correct: it must not be built instead of the wheel.
    lock.write_text(lock.read_text().replace(digest, "0" * 64))
    with pytest.raises(SystemExit) as ended:
        environment.prepare(TINY, project)
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("uv.lock: Hash mismatch for `tiny==1.0`: the lock has sha256:")
    assert f"the file has sha256:{digest}" in error
    assert "git checkout uv.lock" in error
    assert not list((project / ".nox" / "tiny").glob("lib/*/site-packages/tiny*"))


def test_package_without_a_hash_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = project / "uv.lock"
    lock.write_text(re.sub(r', hash = "sha256:[0-9a-f]+"', "", lock.read_text()))
    with pytest.raises(SystemExit) as ended:
        environment.prepare(TINY, project)
    assert ended.value.code == 2
    assert "hash" in capsys.readouterr().err.splitlines()[-1]


def test_next_preparation_recovers_from_a_killed_one(project: Path, tmp_path: Path) -> None:
    """The killed session's uv keeps running: the next session must wait for it."""
    reached, go_on = tmp_path / "reached", tmp_path / "go on"
    os.mkfifo(reached)
    os.mkfifo(go_on)
    slow_uv = tmp_path / "uv"
    slow_uv.write_text(
        "#!/bin/sh\n"
        f'case "$2" in sync) echo here >"{reached}"; cat "{go_on}" >/dev/null;; esac\n'
        f'exec "{real_uv()}" "$@"\n'
    )
    slow_uv.chmod(0o755)
    with subprocess.Popen(
        [sys.executable, "-c", PREPARE.format(str(project))],
        cwd=ROOT,
        env={**os.environ, "UV": str(slow_uv)},
    ) as killed:
        assert reached.read_text() == "here\n"
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        with subprocess.Popen(
            [sys.executable, "-c", PREPARE.format(str(project))],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as second:
            assert second.stderr is not None
            assert "waiting for another session" in second.stderr.readline()
            go_on.write_text("")  # lets the orphan end
            assert second.communicate()[0] == "1.0\n"


def test_sessions_that_start_together_share_one_environment(project: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PREPARE.format(str(project))],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    outputs = [process.communicate() for process in processes]
    assert [out for out, _ in outputs] == ["1.0\n"] * 3
    assert sum("installing" in err for _, err in outputs) == 1


def test_moved_repository_gets_a_new_environment(project: Path, tmp_path: Path) -> None:
    environment.prepare(TINY, project)
    moved = project.rename(tmp_path / "moved")
    folder = environment.prepare(TINY, moved)
    assert output_of(folder, "import sys; print(sys.prefix)") == str(folder)
    assert tiny_version(folder) == "1.0"


def test_user_settings_of_python_do_not_leak_into_an_environment(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny.py").write_text("__version__ = 'leaked'")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("UV_PYTHON", "2.7")
    monkeypatch.setenv("UV_SYSTEM_PYTHON", "1")
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("UV_NO_VERIFY_HASHES", "1")
    folder = environment.prepare(TINY, project)
    assert tiny_version(folder) == "1.0"
    assert environment.isolated(folder)["VIRTUAL_ENV"] == str(folder)


def test_uv_run_inside_a_session_changes_nothing(project: Path, index: Index) -> None:
    folder = environment.prepare(TINY, project)
    index.publish("tiny", "2.0.0")
    lockfile.renew(project, ["--upgrade"])
    command = [uv.executable(), "run", "python", "-c", "import tiny; print(tiny.__version__)"]
    ran = subprocess.run(
        command,
        cwd=project,
        env=environment.isolated(folder),
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "1.0\n"


@pytest.mark.parametrize(
    "name",
    ["PYTEST_ADDOPTS", "PYTHONPATH", "PYTHONOPTIMIZE", "MYPYPATH", "RUFF_CONFIG", "COVERAGE_CORE"],
)
def test_user_settings_do_not_change_what_tools_check(name: str, tmp_path: Path) -> None:
    assert name not in environment.isolated(tmp_path, {name: "x", "PATH": ""})


def test_index_settings_of_the_machine_are_kept(tmp_path: Path) -> None:
    outer = {"UV_DEFAULT_INDEX": "x", "UV_CACHE_DIR": "y", "UV_INDEX_MIRROR_PASSWORD": "z"}
    variables = environment.isolated(tmp_path, outer)
    assert outer.items() <= variables.items()


def test_the_environment_comes_first_on_path(tmp_path: Path) -> None:
    path = environment.isolated(tmp_path, {"PATH": "/usr/bin"})["PATH"]
    assert path.split(os.pathsep) == [str(tmp_path / "bin"), "/usr/bin"]


def test_cells_differ_in_folder_and_torch() -> None:
    environments = [environment.of_cell(cell) for cell in WORKSPACE.cells]
    assert len({each.folder for each in environments}) == len(WORKSPACE.cells)
    assert environment.of_cell(Cell("3.11", "2.11")).selection()[:2] == [
        "--all-packages",
        "--extra=torch-2-11",
    ]


@pytest.mark.parametrize("cell", WORKSPACE.cells, ids=str)
def test_every_cell_exports_exactly_its_torch_version(cell: Cell) -> None:
    exported = environment.exported(environment.of_cell(cell))
    (torch,) = [line for line in exported.splitlines() if line.startswith("torch==")]
    assert torch.startswith(f"torch=={cell.torch}.")


def test_package_environment_has_only_declared_dependencies() -> None:
    def names(package: str) -> set[str]:
        cell = environment.own_cell(package)
        exported = environment.exported(environment.of_package(package, cell))
        return {re.split("[=;]", line)[0] for line in exported.splitlines() if line[0].isalnum()}

    assert {"pytest", "mlflow", "scipy"} <= names("gates")
    assert not {"torch", "mypy", "psycopg2-binary"} & names("gates")
    assert "torch" in names("training")


def test_package_can_import_only_the_workspace_packages_it_needs(tmp_path: Path) -> None:
    packages = tmp_path / "lib" / "python3.12" / "site-packages"
    packages.mkdir(parents=True)
    environment._link_packages(tmp_path, "training", ROOT)  # noqa: SLF001
    environment._link_packages(tmp_path, "training", ROOT)  # noqa: SLF001
    (folder,) = (packages / "workspace.pth").read_text().splitlines()
    assert {each.name for each in Path(folder).iterdir()} == {"gates", "training"}
    assert (Path(folder) / "gates" / "errors.py").is_file()


def test_benchmark_peers_have_a_separate_environment() -> None:
    cell = WORKSPACE.default
    peers, checks = environment.of_benchmarks(cell), environment.of_cell(cell)
    assert peers.folder != checks.folder
    names = [
        {line.partition("==")[0] for line in environment.exported(each).splitlines()}
        for each in (peers, checks)
    ]
    assert {"accelerate", "lightning"} <= names[0] - names[1]
    assert "torch" in names[0] & names[1]


def test_missing_default_python_is_replaced_only_on_a_laptop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    oldest = WORKSPACE.pythons[0]
    monkeypatch.setattr(environment, "_is_installed", lambda version: version == oldest)
    monkeypatch.setenv("CI", "true")
    assert environment.default_python() == WORKSPACE.default.python
    monkeypatch.delenv("CI")
    assert environment.default_python() == oldest
    assert f"; using Python {oldest} instead" in capsys.readouterr().err


def test_unavailable_interpreter_is_reported_in_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UV_PYTHON_DOWNLOADS", "never")
    ancient = Environment(folder=".nox/ancient", python="3.99", groups=("build",))
    assert interpreters.find("3.99") is None
    with pytest.raises(SystemExit) as ended:
        environment.prepare(ancient, project)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("Python 3.99: not found on PATH")
