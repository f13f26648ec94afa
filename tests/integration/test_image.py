"""The container image: `nox -s image` builds it with a real engine, and smoke passes in it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tasks.project import ROOT
from tasks.sessions import image

CERTIFICATES = "/etc/ssl/certs"
BASE = "localhost/project-test-base"

# Where no hub can be reached, buildah builds on a Debian base made by mmdebstrap.
BUILDAH = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
PACKAGES = "ca-certificates,git,python3,python3-pip,python3-venv"


def run(*command: str, **variables: str) -> str:
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def base(tmp_path: Path) -> Iterator[list[str]]:
    """Yield the arguments that replace the hub's base image with one made on this machine."""
    archive = tmp_path / "base.tar"
    run("mmdebstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(archive))
    container = run("buildah", "from", "scratch", **BUILDAH).strip()
    try:
        run("buildah", "add", container, str(archive), "/", **BUILDAH)
        run("buildah", "commit", container, BASE, **BUILDAH)
    finally:
        run("buildah", "rm", container, **BUILDAH)
    archive.unlink()
    # This machine's certificate authorities: an index may be behind a proxy with its own.
    settings = tmp_path / "uv.toml"
    settings.write_text("system-certs = true\n")
    yield [
        f"--volume={CERTIFICATES}:{CERTIFICATES}:ro",
        f"--secret=id=uv.toml,src={settings}",
        f"--build-arg=CPU_BASE={BASE}",
    ]
    run("buildah", "rmi", "--force", BASE, **BUILDAH)


def nox_image(variables: Mapping[str, str], *arguments: str) -> str:
    return run(sys.executable, "-m", "nox", "-s", "image", "--", *arguments, **variables)


def test_the_image_is_built_from_the_lock_and_smoke_passes_in_it(
    request: pytest.FixtureRequest,
) -> None:
    engine = image._engine()  # noqa: SLF001 - the engine that the session will use
    if engine is None:
        pytest.skip("no container engine answers here")
    if engine != "buildah":
        output = nox_image({})
    elif shutil.which("mmdebstrap") is None:
        pytest.skip("buildah without a hub needs a base: apt-get install mmdebstrap")
    else:
        try:
            output = nox_image(BUILDAH, *request.getfixturevalue("base"))
        finally:
            run("buildah", "rmi", "--force", image.local_name("cpu"), **BUILDAH)
    assert f"Built {image.local_name('cpu')}" in output
    assert " passed in " in output
