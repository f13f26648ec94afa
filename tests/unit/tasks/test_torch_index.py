"""Torch from a separate index: one setting, a lock that stays portable, and the way back."""

import hashlib
import re
import subprocess
from pathlib import Path

import pytest

from tasks import project
from tasks.environments import environment, lockfile
from tasks.environments.environment import Environment
from tests.local_index import Index
from tests.unit.tasks.conftest import MEMBER, PYPROJECT

# As in src/training/pyproject.toml: every supported torch is an extra, and they conflict.
EXTRAS = """\
dependencies = ["torch"]

[project.optional-dependencies]
torch-2-11 = ["torch==2.11.*"]
torch-2-13 = ["torch==2.13.*"]
"""
CONFLICTS = """\
conflicts = [
  [
    { package = "own-project", extra = "torch-2-11" },
    { package = "own-project", extra = "torch-2-13" },
  ],
]

[tool.tasks]
# torch-index
"""


@pytest.fixture
def torch_project(project: Path, index: Index) -> Path:
    """A locked project that needs two torch versions, from the default index."""
    for version in ("2.11.0", "2.13.0"):
        index.publish("torch", version)
    (project / "src" / "own_project" / "pyproject.toml").write_text(MEMBER + EXTRAS)
    text = PYPROJECT.replace('default-groups = "all"\n', f'default-groups = "all"\n{CONFLICTS}')
    (project / "pyproject.toml").write_text(text)
    lockfile.renew(project, [])
    return project


@pytest.fixture(params=["folder", "url"])
def location(request: pytest.FixtureRequest, tmp_path: Path, index: Index) -> str:
    """The location of CPU wheels of torch: a flat folder, or an index with other packages."""
    cpu = Index(tmp_path / "index" / "whl" / "cpu", f"{index.url}/whl/cpu")
    versions = ("2.11.0+cpu", "2.13.0+cpu")
    if request.param == "folder":
        cpu.folder.parent.mkdir()
        for version in versions:
            cpu.publish_file("torch", version)
        # Relative to the project, although uv works on a copy of it elsewhere.
        return "../index/whl/cpu"
    for version in versions:
        cpu.publish("torch", version)
    cpu.publish("tiny", "0.1")
    return cpu.url


def set_torch_index(location: str, root: Path) -> None:
    pyproject = root / "pyproject.toml"
    text = pyproject.read_text().replace("# torch-index", f'torch-index = "{location}"')
    pyproject.write_text(text)


def with_torch(version: str) -> Environment:
    folder, python = f".nox/torch{version}", environment.default_python()
    return Environment(folder=folder, python=python, torch=version, groups=("build",))


def versions_in(root: Path) -> set[str]:
    """Return the versions of torch in the lock."""
    blocks = (root / "uv.lock").read_text().split("[[package]]")
    return {block.split('"')[3] for block in blocks if block.startswith('\nname = "torch"\n')}


def test_lock_takes_torch_from_its_index_with_hashes_and_names_no_index(
    torch_project: Path, location: str, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert versions_in(torch_project) == {"2.11.0", "2.13.0"}
    set_torch_index(location, torch_project)
    changes = lockfile.renew(torch_project, [])
    assert changes == "Updated torch v2.11.0, v2.13.0 -> v2.11.0+cpu, v2.13.0+cpu"
    assert versions_in(torch_project) == {"2.11.0+cpu", "2.13.0+cpu"}
    lock = (torch_project / "uv.lock").read_text()
    assert location.removeprefix("../") not in lock
    assert 'name = "tiny"\nversion = "1.0"' in lock, "only torch comes from its index"
    for wheel in (index.folder / "whl").rglob("torch-*.whl"):
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert f'{wheel.name}", hash = "sha256:{digest}"' in lock
    assert lockfile.main(torch_project) == 0, capsys.readouterr().out


def test_environment_gets_torch_from_its_index_and_checks_the_hash(
    torch_project: Path, location: str, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    set_torch_index(location, torch_project)
    lockfile.renew(torch_project, [])
    folder = environment.prepare(with_torch("2.11"), torch_project)
    code = "import tiny, torch; print(tiny.__version__, torch.__version__)"
    command = [str(folder / "bin" / "python"), "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout == "1.0 2.11.0+cpu\n"
    capsys.readouterr()
    (wheel,) = (index.folder / "whl").rglob("torch-2.13.0+cpu*.whl")
    wheel.write_bytes(wheel.read_bytes().replace(b"2.13.0", b"2.13.1"))
    with pytest.raises(SystemExit) as ended:
        environment.prepare(with_torch("2.13"), torch_project)
    assert ended.value.code == 2
    assert "torch" in capsys.readouterr().err.splitlines()[-1]


def test_renewing_is_stable_and_removing_the_setting_restores_the_lock(
    torch_project: Path, location: str
) -> None:
    before = {name: (torch_project / name).read_bytes() for name in ("uv.lock", "pyproject.toml")}
    set_torch_index(location, torch_project)
    lockfile.renew(torch_project, [])
    with_setting = (torch_project / "uv.lock").read_bytes()
    assert with_setting != before["uv.lock"]
    assert lockfile.renew(torch_project, []) == "uv.lock: no version changed"
    assert (torch_project / "uv.lock").read_bytes() == with_setting
    (torch_project / "pyproject.toml").write_bytes(before["pyproject.toml"])
    lockfile.renew(torch_project, [])
    assert (torch_project / "uv.lock").read_bytes() == before["uv.lock"]


def test_index_without_torch_is_reported_in_one_line_and_leaves_the_lock(
    torch_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (torch_project / "uv.lock").read_bytes()
    (torch_project / "empty").mkdir()
    set_torch_index("empty", torch_project)
    with pytest.raises(SystemExit) as ended:
        lockfile.renew(torch_project, [])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "torch" in line
    assert (torch_project / "uv.lock").read_bytes() == before


def test_a_file_without_a_hash_is_refused(
    torch_project: Path, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = Index(index.folder / "cpu", f"{index.url}/cpu")
    for version in ("2.11.0+cpu", "2.13.0+cpu"):
        cpu.publish("torch", version)
    page = cpu.folder / "torch" / "index.html"
    page.write_text(re.sub("#sha256=[0-9a-f]+", "", page.read_text()))
    before = (torch_project / "uv.lock").read_bytes()
    set_torch_index(cpu.url, torch_project)
    with pytest.raises(SystemExit) as ended:
        lockfile.renew(torch_project, [])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lock: the index has no hash for ")
    assert (torch_project / "uv.lock").read_bytes() == before


def test_template_takes_torch_from_the_default_index() -> None:
    assert project.torch_index() is None
