"""The image that jobs run in: what its name is, and whether a registry has it."""

import hashlib
import os
import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tasks.catalogue import PlannedJob
from tasks.images import oci
from tasks.project import ROOT, WORKSPACE

# What a job takes from the image besides the packages: the system under it, uv and Python.
_RECIPE = ("Dockerfile", "docker/uv.txt")
# What engines call a machine, where Python calls it otherwise.
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_LABEL = r"[a-z0-9]+(-+[a-z0-9]+)*"
# The first part names a registry, as it has a dot or a port: OWNER/NAME is Docker's to engines.
_REPOSITORY = re.compile(
    rf"(?=localhost/|[^/]*[.:]){_LABEL}(\.{_LABEL})*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
)


@dataclass(frozen=True, kw_only=True)
class Container:
    """What the jobs of a plan run in.

    Args:
        digest: of the image, less its "sha256:"; "" for the machine itself.
        notes: why, a line each; none where nobody asked for an image.
    """

    digest: str = ""
    notes: tuple[str, ...] = ()


def tag(target: str) -> str:
    """Return the tag of this checkout's image: of one lock there is one, whatever the commit.

    It names the machine, as an image for another starts nothing here. The last part tells images
    of one lock apart that are made otherwise, of another Python, say, which a job would look for in
    vain. What else goes into the image can be older than the job's checkout: from its own lock the
    job makes its own environment, of which the image has the files.
    """
    parts = [(ROOT / name).read_bytes() for name in _RECIPE]
    recipe = hashlib.sha256(b"\0".join([*parts, str(WORKSPACE.default).encode()])).hexdigest()
    machine = platform.machine().lower()
    return f"{target}-{_MACHINES.get(machine, machine)}-{lock_digest()[:12]}-{recipe[:12]}"


def lock_digest() -> str:
    """Return the SHA-256 of uv.lock."""
    return hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()


def is_repository(name: str) -> bool:
    """Whether `name` can be that of images in a registry, without a tag: REGISTRY/OWNER/NAME."""
    return _REPOSITORY.fullmatch(name) is not None


def login(variables: Mapping[str, str] = os.environ) -> oci.Login | None:
    """Return who IMAGE_USER and IMAGE_TOKEN say that we are, if they do.

    Raises:
        CannotAskError: one of them is missing.
    """
    user, token = variables.get("IMAGE_USER", ""), variables.get("IMAGE_TOKEN", "")
    if bool(user) != bool(token):
        missing, there = ("IMAGE_TOKEN", "IMAGE_USER") if user else ("IMAGE_USER", "IMAGE_TOKEN")
        msg = f"{there} is set and {missing} is not; set both, or neither"
        raise oci.CannotAskError(msg)
    return oci.Login(user=user, token=token) if user else None


def of(jobs: Iterable[PlannedJob], repository: str) -> Container:
    """Return what those of `jobs` run in that can run in an image; of that a job never fails.

    Args:
        jobs: a plan's.
        repository: where the image is looked for; "" asks nobody.
    """
    inside = [job.session for job in jobs if job.in_image]
    if not repository or not inside:
        return Container()
    if not is_repository(repository):
        return _none(f"PLAN_IMAGE={repository} is no name; expected REGISTRY/OWNER/NAME, no tag")
    name = f"{repository}:{tag('cpu')}"
    try:
        digest = oci.digest(repository, tag("cpu"), login())
    except oci.CannotAskError as error:
        return _none(str(error))
    if digest is None:
        return _none(f"there is no {name} yet; nightly.yml publishes it")
    told = f"plan: {', '.join(inside)} in {name}@{digest}"
    return Container(digest=digest.removeprefix("sha256:"), notes=(told,))


def _none(reason: str) -> Container:
    return Container(notes=(f"plan: {reason}, so every job runs without an image",))
