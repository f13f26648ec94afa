"""The image that jobs run in: its name, and whether a registry has it."""

import hashlib
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tasks.catalogue import PlannedJob
from tasks.images import oci
from tasks.project import ROOT, WORKSPACE

# These determine what a job uses from the image besides the packages: system, uv and Python.
_RECIPE = ("Dockerfile", "docker/uv.txt")
# The container engines' names for machines that have another name in Python.
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_LABEL = r"[a-z0-9]+(-+[a-z0-9]+)*"
# A registry's name has a dot or a port: without one, engines look up OWNER/NAME on Docker Hub.
_REPOSITORY = re.compile(
    rf"(?=localhost/|[^/]*[.:]){_LABEL}(\.{_LABEL})*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
)


@dataclass(frozen=True, kw_only=True)
class Container:
    """The image, if any, in which the jobs of a plan run.

    Args:
        digest: the image's digest without "sha256:"; "" if jobs run directly on the machine.
        notes: the reasons, one line each; empty if no image was requested.
    """

    digest: str = ""
    notes: tuple[str, ...] = ()


def tag(target: str) -> str:
    """Return the tag of this checkout's image, which depends on the lock but not on the commit.

    It names the machine, since an image for another one would not run here. The last part
    distinguishes images with the same lock but, for example, another Python, which a job could not
    use. Everything else in the image may be older than the job's checkout: the job creates its
    environment from its own lock, and the image only provides the package files.
    """
    parts = [(ROOT / name).read_bytes() for name in _RECIPE]
    recipe = hashlib.sha256(b"\0".join([*parts, str(WORKSPACE.default).encode()])).hexdigest()
    machine = platform.machine().lower()
    return f"{target}-{_MACHINES.get(machine, machine)}-{lock_digest()[:12]}-{recipe[:12]}"


def lock_digest() -> str:
    """Return the SHA-256 of uv.lock."""
    return hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()


def is_repository(name: str) -> bool:
    """Whether `name` is a valid image name without a tag: REGISTRY/OWNER/NAME."""
    return _REPOSITORY.fullmatch(name) is not None


def login(variables: Mapping[str, str] = os.environ) -> oci.Login | None:
    """Return the login from IMAGE_USER and IMAGE_TOKEN, or None if neither is set.

    Raises:
        CannotAskError: only one of them is set.
    """
    user, token = variables.get("IMAGE_USER", ""), variables.get("IMAGE_TOKEN", "")
    if bool(user) != bool(token):
        missing, found = ("IMAGE_TOKEN", "IMAGE_USER") if user else ("IMAGE_USER", "IMAGE_TOKEN")
        msg = f"{found} is set but {missing} is not; set both or neither"
        raise oci.CannotAskError(msg)
    return oci.Login(user=user, token=token) if user else None


def of(jobs: Iterable[PlannedJob], repository: str) -> Container:
    """Return the image for the `jobs` that can run in one; a problem is a note, not an error.

    Args:
        jobs: the jobs of a plan.
        repository: where to look for the image; if "", no registry is asked.
    """
    inside = [job.session for job in jobs if job.in_image]
    if not repository or not inside:
        return Container()
    if not is_repository(repository):
        return _no_image(
            f"PLAN_IMAGE={repository} is not a name; expected REGISTRY/OWNER/NAME, no tag"
        )
    name = f"{repository}:{tag('cpu')}"
    try:
        digest = oci.digest(repository, tag("cpu"), login())
    except oci.CannotAskError as error:
        return _no_image(str(error))
    if digest is None:
        return _no_image(f"there is no {name} yet; nightly.yml publishes it")
    note = f"plan: {', '.join(inside)} in {name}@{digest}"
    return Container(digest=digest.removeprefix("sha256:"), notes=(note,))


def _no_image(reason: str) -> Container:
    return Container(notes=(f"plan: {reason}, so every job runs without an image",))
