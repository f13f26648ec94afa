"""The image's name, and what jobs run in when a registry has it, has it not, or does not say."""

import hashlib
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import project
from tasks.catalogue import PlannedJob
from tasks.images import container
from tasks.images.container import Container
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
    (tmp_path / "README.md").write_text("A page")
    for name in ("uv.lock", "Dockerfile", "docker/uv.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(container, "ROOT", tmp_path)
    return tmp_path


@pytest.fixture
def images() -> Iterator[Images]:
    with served() as registry:
        yield registry


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize(
    ("machine", "named"),
    [
        ("x86_64", "amd64"),
        ("AMD64", "amd64"),
        ("aarch64", "arm64"),
        ("arm64", "arm64"),
        ("riscv64", "riscv64"),
    ],
)
def test_the_tag_begins_with_target_machine_and_lock(
    machine: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    lock = hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()
    assert container.tag("cpu").startswith(f"cpu-{named}-{lock[:12]}-")


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
    changed = project.Workspace(**{**vars(project.WORKSPACE), "default": Cell("3.11", "2.11")})
    monkeypatch.setattr(container, "WORKSPACE", changed)
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


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(b"[]", id="list"),
        pytest.param(b'"x"', id="text"),
        pytest.param(b"{}", id="nothing"),
        pytest.param(b'{"token": 5}', id="number"),
        pytest.param(b'{"token": null}', id="null"),
        pytest.param(b'{"token": ["x"]}', id="tokens"),
        pytest.param(b'{"token": "a\\nb"}', id="line_break"),
        pytest.param(b'{"token": "\xe2\x82\xac"}', id="no_ascii"),
        pytest.param(b"<html>", id="no_json"),
        pytest.param(b"\xff", id="no_text"),
        pytest.param(b"[" * 100_000, id="nested"),
    ],
)
def test_what_is_no_token_is_no_answer(told: bytes, images: Images) -> None:
    images.told = told
    (note,) = container.of(JOBS, f"{images.host}/team/image").notes
    assert note.startswith(f"plan: {images.host}/team/image: the registry does not answer: ")
    assert note.endswith(", so every job runs without an image")


@pytest.mark.parametrize(
    "realm",
    [
        "http://registry.example/token",
        "http://127.0.0.1@registry.example/token",
        "http://localhost.example/token",
        "file:///etc/hostname",
        "ftp://127.0.0.1/token",
        "//127.0.0.1/token",
        "https:///token",
        "token",
        "",
    ],
)
def test_a_token_is_fetched_from_nobody_who_could_be_another(realm: str, images: Images) -> None:
    images.realm = realm
    (note,) = container.of(JOBS, f"{images.host}/team/image").notes
    assert note.startswith(f"plan: {images.host}/team/image: the registry does not answer: ")
    assert f"has its tokens at {realm!r}, which is neither https nor on this machine" in note
    assert images.asked == [None], "and nothing was sent there"


@pytest.mark.parametrize(
    "digest",
    [
        pytest.param(f"sha512:{'a' * 128}", id="another_hash"),
        pytest.param("sha256:abc", id="short"),
        pytest.param(f"sha256:{'a' * 65}", id="long"),
        pytest.param(f"sha256:{'A' * 64}", id="upper_case"),
        pytest.param("latest ${{ }}", id="expression"),
    ],
)
def test_what_is_no_digest_is_no_answer(digest: str, images: Images) -> None:
    images.digests[f"team/image:{container.tag('cpu')}"] = digest
    found = container.of(JOBS, f"{images.host}/team/image")
    assert found.digest == ""
    (note,) = found.notes
    assert "/team/image: the registry answers 200 and no digest, so every job runs" in note


@pytest.mark.parametrize("name", ["IMAGE_USER", "IMAGE_TOKEN"])
def test_half_a_login_does_not_end_the_plan(
    name: str, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("IMAGE_USER", "IMAGE_TOKEN"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "a secret")
    found = container.of(JOBS, f"{images.host}/team/image")
    assert found.digest == ""
    (note,) = found.notes
    assert note.startswith(f"plan: {name} is set and ")
    assert note.endswith(" is not; set both, or neither, so every job runs without an image")
    assert "a secret" not in note


def test_nobody_is_asked_without_a_name_or_a_job_for_it(images: Images) -> None:
    assert container.of(JOBS, "") == Container()
    assert container.of(JOBS[:1], f"{images.host}/team/image") == Container()
    assert images.asked == []


@pytest.mark.parametrize(
    "name",
    [
        "ghcr.io/owner/name",
        "localhost/name",
        "registry:5000/a",
        "127.0.0.1:5000/team/our-image",
        "ghcr.io/a/b/c.d_e",
    ],
)
def test_the_name_of_a_repository_is_one(name: str) -> None:
    assert container.is_repository(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ghcr.io",
        "ghcr.io/",
        "owner/name",
        "localhosts/name",
        "-/name",
        "..../name",
        "ghcr.io:/name",
        "ghcr.io/owner/name\n",
        "ghcr.io/owner/name:tag",
        "ghcr.io/owner/name@sha256:0",
        "ghcr.io/Owner/name",
        "ghcr.io/owner/name --help",
        "--all-tags",
    ],
)
def test_what_is_no_name_of_a_repository_is_none(name: str) -> None:
    assert not container.is_repository(name)
