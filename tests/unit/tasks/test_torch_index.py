"""Torch from an index of its own: one setting, a lock that is portable all the same, and back."""

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
    """A locked project that needs torch in two versions, from the index that has everything."""
    for version in ("2.11.0", "2.13.0"):
        index.publish("torch", version)
    (project / "src" / "own_project" / "pyproject.toml").write_text(MEMBER + EXTRAS)
    text = PYPROJECT.replace('default-groups = "all"\n', f'default-groups = "all"\n{CONFLICTS}')
    (project / "pyproject.toml").write_text(text)
    lockfile.renew(project, [])
    return project


@pytest.fixture(params=["folder", "address"])
def place(request: pytest.FixtureRequest, tmp_path: Path, index: Index) -> str:
    """Where CPU wheels of torch are: in a flat folder, or at an address with other packages."""
    cpu = Index(tmp_path / "index" / "whl" / "cpu", f"{index.url}/whl/cpu")
    versions = ("2.11.0+cpu", "2.13.0+cpu")
    if request.param == "folder":
        cpu.folder.parent.mkdir()
        for version in versions:
            cpu.publish_file("torch", version)
        # Relative to the project, which is not where uv works on its copy of it.
        return "../index/whl/cpu"
    for version in versions:
        cpu.publish("torch", version)
    cpu.publish("tiny", "0.1")
    return cpu.url


def torch_comes_from(place: str, root: Path) -> None:
    pyproject = root / "pyproject.toml"
    text = pyproject.read_text().replace("# torch-index", f'torch-index = "{place}"')
    pyproject.write_text(text)


def with_torch(version: str) -> Environment:
    folder, python = f".nox/torch{version}", environment.default_python()
    return Environment(folder=folder, python=python, torch=version, groups=("build",))


def versions_in(root: Path) -> set[str]:
    """The versions of torch in the lock."""
    blocks = (root / "uv.lock").read_text().split("[[package]]")
    return {block.split('"')[3] for block in blocks if block.startswith('\nname = "torch"\n')}


def test_the_lock_takes_torch_from_there_with_hashes_and_names_no_index(
    torch_project: Path, place: str, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert versions_in(torch_project) == {"2.11.0", "2.13.0"}
    torch_comes_from(place, torch_project)
    changes = lockfile.renew(torch_project, [])
    assert changes == "Updated torch v2.11.0, v2.13.0 -> v2.11.0+cpu, v2.13.0+cpu"
    assert versions_in(torch_project) == {"2.11.0+cpu", "2.13.0+cpu"}
    lock = (torch_project / "uv.lock").read_text()
    assert place.removeprefix("../") not in lock
    assert 'name = "tiny"\nversion = "1.0"' in lock, "and nothing but torch from there"
    for wheel in (index.folder / "whl").rglob("torch-*.whl"):
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        assert f'{wheel.name}", hash = "sha256:{digest}"' in lock
    assert lockfile.main(torch_project) == 0, capsys.readouterr().out


def test_an_environment_gets_it_from_there_against_its_hash(
    torch_project: Path, place: str, index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    torch_comes_from(place, torch_project)
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


def test_renewing_again_changes_nothing_and_without_the_setting_all_is_as_it_was(
    torch_project: Path, place: str
) -> None:
    before = {name: (torch_project / name).read_bytes() for name in ("uv.lock", "pyproject.toml")}
    torch_comes_from(place, torch_project)
    lockfile.renew(torch_project, [])
    with_setting = (torch_project / "uv.lock").read_bytes()
    assert with_setting != before["uv.lock"]
    assert lockfile.renew(torch_project, []) == "uv.lock: no version changed"
    assert (torch_project / "uv.lock").read_bytes() == with_setting
    (torch_project / "pyproject.toml").write_bytes(before["pyproject.toml"])
    lockfile.renew(torch_project, [])
    assert (torch_project / "uv.lock").read_bytes() == before["uv.lock"]


def test_a_place_without_torch_is_one_line_and_leaves_the_lock(
    torch_project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (torch_project / "uv.lock").read_bytes()
    (torch_project / "empty").mkdir()
    torch_comes_from("empty", torch_project)
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
    torch_comes_from(cpu.url, torch_project)
    with pytest.raises(SystemExit) as ended:
        lockfile.renew(torch_project, [])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("lock: the index has no hash of ")
    assert (torch_project / "uv.lock").read_bytes() == before


def test_the_template_itself_takes_torch_from_where_everything_comes_from() -> None:
    assert project.torch_index() is None
