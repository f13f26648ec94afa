"""The image's name, which says what is in it."""

import hashlib
import shutil
from pathlib import Path

import pytest

from tasks import container, project
from tasks.project import ROOT, Cell


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the name is made from."""
    for name in ("uv.lock", "Dockerfile", "docker/uv.txt", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(container, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("root")
def test_the_tag_begins_with_the_target_and_the_lock() -> None:
    lock = hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()
    assert container.tag("cpu").startswith(f"cpu-{lock[:12]}-")


@pytest.mark.parametrize("file", ["uv.lock", "Dockerfile", "docker/uv.txt"])
def test_an_image_is_another_if_a_job_could_miss_something_in_it(file: str, root: Path) -> None:
    before = container.tag("cpu")
    (root / file).write_text("another")
    assert container.tag("cpu") != before


def test_an_image_is_the_same_if_only_what_jobs_do_not_take_from_it_is_another(root: Path) -> None:
    before = container.tag("cpu")
    (root / "README.md").write_text("another")
    assert container.tag("cpu") == before


@pytest.mark.usefixtures("root")
def test_another_default_python_needs_another_image(monkeypatch: pytest.MonkeyPatch) -> None:
    before = container.tag("cpu")
    changed = project.Project(**{**vars(project.PROJECT), "default": Cell("3.11", "2.11")})
    monkeypatch.setattr(container, "PROJECT", changed)
    assert container.tag("cpu") != before


@pytest.mark.parametrize(
    "name", ["ghcr.io/owner/name", "127.0.0.1:5000/team/my-project", "ghcr.io/a/b/c.d_e"]
)
def test_the_name_of_a_repository_is_one(name: str) -> None:
    assert container.is_repository(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ghcr.io",
        "ghcr.io/",
        "ghcr.io/owner/name:tag",
        "ghcr.io/owner/name@sha256:0",
        "ghcr.io/Owner/name",
        "ghcr.io/owner/name --help",
        "--all-tags",
    ],
)
def test_what_is_no_name_of_a_repository_is_none(name: str) -> None:
    assert not container.is_repository(name)
