"""The image's name, and where jobs run depending on the registry's answer."""

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
    """A copy of the files that determine the image's name."""
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
    ("machine", "architecture"),
    [
        ("x86_64", "amd64"),
        ("AMD64", "amd64"),
        ("aarch64", "arm64"),
        ("arm64", "arm64"),
        ("riscv64", "riscv64"),
    ],
)
def test_tag_starts_with_target_architecture_and_lock(
    machine: str, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    lock = hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()
    assert container.tag("cpu").startswith(f"cpu-{architecture}-{lock[:12]}-")


@pytest.mark.parametrize("file", ["uv.lock", "Dockerfile", "docker/uv.txt"])
def test_tag_changes_with_each_file_that_determines_the_image(file: str, root: Path) -> None:
    before = container.tag("cpu")
    (root / file).write_text("changed")
    assert container.tag("cpu") != before


def test_tag_ignores_files_that_jobs_do_not_take_from_the_image(root: Path) -> None:
    before = container.tag("cpu")
    (root / "README.md").write_text("changed")
    assert container.tag("cpu") == before


@pytest.mark.usefixtures("root")
def test_tag_changes_with_the_default_python(monkeypatch: pytest.MonkeyPatch) -> None:
    before = container.tag("cpu")
    changed = project.Workspace(**{**vars(project.WORKSPACE), "default": Cell("3.11", "2.11")})
    monkeypatch.setattr(container, "WORKSPACE", changed)
    assert container.tag("cpu") != before


def test_jobs_run_in_the_image_of_the_lock_pinned_by_digest(images: Images) -> None:
    images.digests[f"team/image:{container.tag('cpu')}"] = f"sha256:{DIGEST}"
    found = container.of(JOBS, f"{images.host}/team/image")
    assert found.digest == DIGEST
    name = f"{images.host}/team/image:{container.tag('cpu')}@sha256:{DIGEST}"
    assert found.notes == (f"plan: smoke in {name}",)


@pytest.mark.parametrize(
    ("repository", "reason"),
    [
        pytest.param(
            "{host}/team/image", "there is no {host}/team/image:{tag} yet; n", id="missing"
        ),
        pytest.param(
            "{host}/team/broken",
            "{host}/team/broken: the registry answers with status 500",
            id="error",
        ),
        pytest.param("{host}/team/private", "{host}/team/private: the registry answ", id="private"),
        pytest.param("{host}/team/closed", "{host}/team/closed: the registry does", id="closed"),
        pytest.param("127.0.0.1:9/team/image", "127.0.0.1:9/team/image: the reg", id="unreachable"),
        pytest.param(
            "Team Image", "PLAN_IMAGE=Team Image is not a name; expected", id="invalid_name"
        ),
    ],
)
def test_jobs_run_without_an_image_if_none_is_found_and_plan_says_why(
    repository: str, reason: str, images: Images
) -> None:
    found = container.of(JOBS, repository.format(host=images.host))
    assert found.digest == ""
    (note,) = found.notes
    assert note.startswith(f"plan: {reason.format(host=images.host, tag=container.tag('cpu'))}")
    assert note.endswith(", so every job runs without an image")


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"[]", id="list"),
        pytest.param(b'"x"', id="string"),
        pytest.param(b"{}", id="no_token"),
        pytest.param(b'{"token": 5}', id="number"),
        pytest.param(b'{"token": null}', id="null"),
        pytest.param(b'{"token": ["x"]}', id="tokens"),
        pytest.param(b'{"token": "a\\nb"}', id="line_break"),
        pytest.param(b'{"token": "\xe2\x82\xac"}', id="not_ascii"),
        pytest.param(b"<html>", id="not_json"),
        pytest.param(b"\xff", id="not_utf_8"),
        pytest.param(b"[" * 100_000, id="nested"),
    ],
)
def test_invalid_token_counts_as_no_answer(answer: bytes, images: Images) -> None:
    images.token_body = answer
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
def test_token_is_not_fetched_from_an_untrusted_realm(realm: str, images: Images) -> None:
    images.realm = realm
    (note,) = container.of(JOBS, f"{images.host}/team/image").notes
    assert note.startswith(f"plan: {images.host}/team/image: the registry does not answer: ")
    assert f"issues tokens at {realm!r}, which is neither https nor on this machine" in note
    assert images.asked == [None], "nothing was sent to the realm"


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
def test_invalid_digest_counts_as_no_answer(digest: str, images: Images) -> None:
    images.digests[f"team/image:{container.tag('cpu')}"] = digest
    found = container.of(JOBS, f"{images.host}/team/image")
    assert found.digest == ""
    (note,) = found.notes
    assert (
        "/team/image: the registry answers with status 200 and no digest, so every job runs" in note
    )


@pytest.mark.parametrize("name", ["IMAGE_USER", "IMAGE_TOKEN"])
def test_half_a_login_does_not_abort_the_plan(
    name: str, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in ("IMAGE_USER", "IMAGE_TOKEN"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "a secret")
    found = container.of(JOBS, f"{images.host}/team/image")
    assert found.digest == ""
    (note,) = found.notes
    assert note.startswith(f"plan: {name} is set but ")
    assert note.endswith(" is not; set both or neither, so every job runs without an image")
    assert "a secret" not in note


def test_registry_is_not_asked_without_a_name_or_a_job_in_the_image(images: Images) -> None:
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
def test_valid_repository_name_is_accepted(name: str) -> None:
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
def test_invalid_repository_name_is_rejected(name: str) -> None:
    assert not container.is_repository(name)
