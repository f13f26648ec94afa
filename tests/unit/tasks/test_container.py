"""The image's name, and what jobs run in when a registry has it, has it not, or does not say."""

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import container, project
from tasks.catalogue import PlannedJob
from tasks.container import Container
from tasks.project import ROOT, Cell
from tests.stand_in_images import Images, served

DIGEST = "a" * 64
JOBS = [
    PlannedJob(session="lint", runner="cpu", timeout_minutes=5),
    PlannedJob(session="smoke", runner="cpu", timeout_minutes=5, in_image=True),
]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what the name is made from."""
    for name in ("uv.lock", "Dockerfile", "docker/uv.txt", "README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(container, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def images() -> Iterator[Images]:
    with served() as registry:
        yield registry


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


def test_jobs_run_in_the_image_of_the_lock_by_its_digest(images: Images) -> None:
    images.digests[f"team/image:{container.tag('cpu')}"] = f"sha256:{DIGEST}"
    found = container.of(JOBS, f"{images.host}/team/image")
    assert found.digest == DIGEST
    name = f"{images.host}/team/image:{container.tag('cpu')}@sha256:{DIGEST}"
    assert found.notes == (f"plan: smoke in {name}",)


@pytest.mark.parametrize(
    ("repository", "reason"),
    [
        pytest.param("{host}/team/image", "there is no {host}/team/image:{tag} yet; n", id="none"),
        pytest.param("{host}/team/broken", "{host}/team/broken: the registry answers 500", id="no"),
        pytest.param("{host}/team/private", "{host}/team/private: the registry answ", id="private"),
        pytest.param("{host}/team/closed", "{host}/team/closed: the registry does", id="closed"),
        pytest.param("127.0.0.1:9/team/image", "127.0.0.1:9/team/image: the reg", id="unreachable"),
        pytest.param("Team Image", "PLAN_IMAGE=Team Image is no name; expected", id="no_name"),
    ],
)
def test_where_no_image_is_found_jobs_run_without_one_and_plan_says_why(
    repository: str, reason: str, images: Images
) -> None:
    found = container.of(JOBS, repository.format(host=images.host))
    assert found.digest == ""
    (note,) = found.notes
    assert note.startswith(f"plan: {reason.format(host=images.host, tag=container.tag('cpu'))}")
    assert note.endswith(", so every job runs without an image")


def test_nobody_is_asked_without_a_name_or_a_job_for_it(images: Images) -> None:
    assert container.of(JOBS, "") == Container()
    assert container.of(JOBS[:1], f"{images.host}/team/image") == Container()
    assert images.asked == []


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
