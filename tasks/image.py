"""The container image: the environment of the lock, built by whichever engine is there."""

import hashlib
import shutil
import subprocess
import tomllib

import nox

from tasks import environment, registry, uv
from tasks.catalogue import session
from tasks.options import Options
from tasks.project import ROOT

# The last needs neither a daemon nor much of a machine.
ENGINES = ("docker", "podman", "buildah")
TARGETS = ("cpu", "gpu")
DOCKERFILE = ROOT / "Dockerfile"


@session(
    tiers=["release"],
    timeout_minutes=60,
    inputs=[
        "Dockerfile",
        ".dockerignore",
        "docker",
        "src",
        "tests",
        "configs",
        "README.md",
        "LICENSE",
    ],
)
def image(session: nox.Session) -> None:
    """Build the container image from the lock and run nox -s smoke in it.

    With docker, podman or buildah, the first that answers; skipped where none does (with CI=true
    that is an error). The tag is the lock's digest. After --: --target gpu builds on NVIDIA's
    image and runs nothing in it; --check-digests asks the registries whether each base's tag still
    has its digest, and builds nothing; the rest goes to the engine's build.
    """
    parser = Options("image")
    parser.add_argument("--target", choices=TARGETS, default="cpu")
    parser.add_argument("--check-digests", action="store_true")
    options, others = parser.parse_known_args(session.posargs)
    if options.check_digests:
        _check_digests(session)
        return
    engine = _engine()
    if engine is None:
        reason = f"no container engine answers here (looked for {', '.join(ENGINES)})"
        if environment.in_ci():
            uv.stop(f"image: {reason}; CI=true allows no skipped image")
        session.skip(reason)
    name = tag(options.target)
    _run(session, engine, *build_arguments(engine, options.target), *others, ".")
    session.log(f"Built {name}")
    if options.target == "cpu":
        _smoke(session, engine, name)
    else:
        session.log(f"On a machine with a GPU: docker run --rm --gpus all {name}")


def tag(target: str) -> str:
    """Return the image's name: of one lock there is one, whatever the commit."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return f"localhost/{project['name']}:{target}-{_lock_digest()[:12]}"


def build_arguments(engine: str, target: str) -> list[str]:
    """Return the engine's arguments that build `target`, less the folder to build from."""
    # The classic form keeps HEALTHCHECK; without --layers buildah keeps nothing for the next build.
    format_and_cache = {"docker": [], "podman": ["--format=docker"]}.get(
        engine, ["--format=docker", "--layers"]
    )
    return [
        "build",
        *format_and_cache,
        f"--target={target}",
        f"--tag={tag(target)}",
        f"--label=uv.lock.sha256={_lock_digest()}",
    ]


def _lock_digest() -> str:
    return hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()


def _engine() -> str | None:
    """Return the first engine that answers; a docker without its daemon does not."""
    for engine in ENGINES:
        program = shutil.which(engine)
        if program is None:
            continue
        command = [program, "info"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return engine
    return None


def _smoke(session: nox.Session, engine: str, name: str) -> None:
    """Run the image's own command, nox -s smoke, in it."""
    if engine != "buildah":
        _run(session, engine, "run", "--rm", name)
        return
    container = _run(session, engine, "from", name, silent=True).strip().splitlines()[-1]
    try:
        # Through a shell: isolated by chroot only, buildah looks on its own PATH for a program.
        _run(session, engine, "run", container, "--", "sh", "-c", "exec nox -s smoke")
    finally:
        _run(session, engine, "rm", container)


def _run(session: nox.Session, engine: str, *arguments: str, silent: bool = False) -> str:
    # The secrets of the Dockerfile are BuildKit's; older dockers ask for it by variable.
    said = session.run(
        engine, *arguments, external=True, silent=silent, env={"DOCKER_BUILDKIT": "1"}
    )
    return str(said or "")


def _check_digests(session: nox.Session) -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    bases = registry.bases(text)
    if not bases:
        session.error("Dockerfile: names no base by tag and digest")
    disagreeing = [line for base in bases if (line := _disagreement(base))]
    if disagreeing:
        session.error(f"{len(disagreeing)} of {len(bases)} bases: tag and digest do not agree")
    session.log(f"{len(bases)} bases: tag and digest agree")


def _disagreement(base: registry.Base) -> str | None:
    """Print and return what is wrong with the digest of `base`, if anything is."""
    try:
        problem = registry.disagreement(base)
    except registry.CannotAskError as error:
        uv.stop(f"image: Dockerfile:{base.line}: {error}; connect this machine and try again")
    line = f"Dockerfile:{base.line}: {problem}" if problem else None
    if line:
        print(line)
    return line
