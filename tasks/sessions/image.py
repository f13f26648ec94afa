"""The container image: the environment of the lock, built by any available engine."""

import argparse
import shutil
import subprocess

import nox

from tasks.catalogue import session
from tasks.environments import environment
from tasks.errors import abort
from tasks.images import container, oci
from tasks.options import Options
from tasks.project import ROOT, WORKSPACE, project_table

# In order of preference. buildah needs no daemon and few privileges.
ENGINES = ("docker", "podman", "buildah")
TARGETS = ("cpu", "gpu")
DOCKERFILE = ROOT / "Dockerfile"
# The image's default command: smoke, or `isolated` in the image of one project, which lacks the
# packages that smoke needs.
COMMAND = 'session=smoke; [ -z "$PROJECT" ] || session="isolated($PROJECT)"; exec nox -s "$session"'


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
    """Build the container image from the lock and run its default session.

    Uses the first of docker, podman and buildah that responds; skipped if none does, which is an
    error with CI=true. The tag is the lock's digest. The image has every package and runs nox -s
    smoke. After --:
    --project NAME builds an image with only NAME's dependencies; it runs nox -s "isolated(NAME)";
    --publish ghcr.io/OWNER/NAME pushes the image for CI jobs, unless the registry already has it,
    with the credentials in IMAGE_USER and IMAGE_TOKEN;
    --target gpu builds on NVIDIA's image and runs nothing in it;
    --check-digests asks the registries whether each base's tag still has its digest, and builds
    nothing;
    all other arguments go to the engine's build command (with --publish, only --secret).
    """
    options, others = _options(session.posargs)
    if options.check_digests:
        _check_digests(session)
    elif options.publish is None:
        engine = _engine_or_end(session)
        _build(session, engine, options.target, others, project=options.project)
    else:
        _publish(session, options.publish, others)


def _options(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the session's options, and the arguments for the engine."""
    parser = Options("image")
    parser.add_argument("--target", choices=TARGETS, default="cpu")
    parser.add_argument("--project", choices=[each.package for each in WORKSPACE.projects])
    parser.add_argument("--publish", metavar="REGISTRY/OWNER/NAME")
    parser.add_argument("--check-digests", action="store_true")
    parser.add_argument("--secret", action="append", default=[])
    options, others = parser.parse_known_args(arguments)
    if options.publish is not None:
        _check_publish(parser, options, others)
    return options, [*others, *(word for each in options.secret for word in ("--secret", each))]


def _check_publish(parser: Options, options: argparse.Namespace, others: list[str]) -> None:
    """Reject options that would publish an image whose content does not match its tag."""
    if options.check_digests:
        parser.error("--publish with --check-digests: --check-digests builds nothing to publish")
    if options.target != "cpu":
        parser.error(f"--publish with --target {options.target}: jobs run in the target cpu only")
    if options.project:
        parser.error("--publish with --project: jobs need the image with every package")
    if others:
        expected = "a published image takes no build arguments except --secret"
        parser.error(f"--publish with {' '.join(others)}: {expected}")
    if options.publish and not container.is_repository(options.publish):
        expected = "expected REGISTRY/OWNER/NAME in lower case, without a tag"
        parser.error(f"--publish {options.publish}: {expected}")


def _engine_or_end(session: nox.Session) -> str:
    engine = _engine()
    if engine is None:
        reason = f"no container engine responds (tried {', '.join(ENGINES)})"
        if environment.in_ci():
            abort(f"image: {reason}; with CI=true, image must not be skipped")
        session.skip(reason)
    return engine


def _build(
    session: nox.Session, engine: str, target: str, others: list[str], *, project: str | None = None
) -> None:
    """Build `target`; run the session of a cpu image."""
    name = local_name(target, project)
    _run(session, engine, *build_arguments(engine, target, project), *others, ".")
    session.log(f"Built {name}")
    if target == "cpu":
        _try(session, engine, name)
    else:
        session.log(f"On a machine with a GPU: docker run --rm --gpus all {name}")


def _publish(session: nox.Session, repository: str, others: list[str]) -> None:
    """Build, test and push the image to `repository`, unless it is already there."""
    if not repository:
        session.skip("--publish is empty, so there is no registry to publish to")
    login = _login_or_end()
    name = f"{repository}:{container.tag('cpu')}"
    if digest := _published(session, repository, login):
        session.log(f"{name} is already published: {digest}")
        return
    engine = _engine_or_end(session)
    _build(session, engine, "cpu", others)
    _run(session, engine, "tag", local_name("cpu"), name)
    if login is None:
        _run(session, engine, "push", name)
    else:
        _push_as(session, engine, name, login)
    session.log(f"Published {name}")


def _login_or_end() -> oci.Login | None:
    try:
        return container.login()
    except oci.CannotAskError as error:
        abort(f"image: {error}")


def _published(session: nox.Session, repository: str, login: oci.Login | None) -> str | None:
    """Return the digest of the published image; None if there is none or the registry fails."""
    try:
        return oci.digest(repository, container.tag("cpu"), login)
    except oci.CannotAskError as error:
        # Some registries deny access to a name that nobody has pushed to yet. A real problem makes
        # the push fail.
        session.warn(f"{error}; building and pushing the image anyway")
        return None


def _push_as(session: nox.Session, engine: str, name: str, login: oci.Login) -> None:
    """Push `name` with the credentials `login`, and log out afterwards."""
    host = name.partition("/")[0]
    # Not session.run: the token is passed on standard input, so no log or process list shows it.
    command = [engine, "login", "--username", login.user, "--password-stdin", host]
    logged_in = subprocess.run(
        command,
        input=login.token,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        check=False,
    )
    if logged_in.returncode:
        lines = logged_in.stderr.strip().splitlines() or ["no error message"]
        abort(f"image: {engine} cannot log in to {host} as IMAGE_USER: {lines[-1]}")
    try:
        _run(session, engine, "push", name)
    finally:
        _run(session, engine, "logout", host)


def local_name(target: str, project: str | None = None) -> str:
    """Return the local name of the image with all packages, or of one project's image."""
    return f"localhost/{project or project_table(ROOT)['name']}:{container.tag(target)}"


def build_arguments(engine: str, target: str, project: str | None = None) -> list[str]:
    """Return the engine's arguments that build `target`, without the context folder."""
    # Only docker's format supports HEALTHCHECK. Without --layers, buildah caches nothing.
    format_and_cache = {"docker": [], "podman": ["--format=docker"]}.get(
        engine, ["--format=docker", "--layers"]
    )
    return [
        "build",
        *format_and_cache,
        f"--target={target}",
        f"--tag={local_name(target, project)}",
        f"--label=uv.lock.sha256={container.lock_digest()}",
        *([f"--build-arg=PROJECT={project}"] if project else []),
    ]


def _engine() -> str | None:
    """Return the first engine that responds; docker does not without its daemon."""
    for engine in ENGINES:
        program = shutil.which(engine)
        if program is None:
            continue
        command = [program, "info"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return engine
    return None


def _try(session: nox.Session, engine: str, name: str) -> None:
    """Run the image's default command, which is a session."""
    if engine != "buildah":
        _run(session, engine, "run", "--rm", name)
        return
    started = _run(session, engine, "from", name, silent=True).strip().splitlines()[-1]
    try:
        # A shell is needed: with chroot isolation, buildah searches the host's PATH for programs.
        _run(session, engine, "run", started, "--", "sh", "-c", COMMAND)
    finally:
        _run(session, engine, "rm", started)


def _run(session: nox.Session, engine: str, *arguments: str, silent: bool = False) -> str:
    # The Dockerfile's secrets need BuildKit, which older docker versions enable by this variable.
    output = session.run(
        engine, *arguments, external=True, silent=silent, env={"DOCKER_BUILDKIT": "1"}
    )
    return str(output or "")


def _check_digests(session: nox.Session) -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    bases = oci.bases(text)
    if not bases:
        session.error("Dockerfile: no base is pinned by tag and digest")
    disagreeing = [line for base in bases if (line := _disagreement(base))]
    if disagreeing:
        session.error(f"{len(disagreeing)} of {len(bases)} bases: tag and digest do not match")
    session.log(f"{len(bases)} bases: tag and digest match")


def _disagreement(base: oci.Base) -> str | None:
    """Print and return the problem with the digest of `base`, if there is one."""
    try:
        problem = oci.disagreement(base)
    except oci.CannotAskError as error:
        abort(f"image: Dockerfile:{base.line}: {error}; check the network connection and try again")
    line = f"Dockerfile:{base.line}: {problem}" if problem else None
    if line:
        print(line)
    return line
