"""The container image: the environment of the lock, built by whichever engine is there."""

import argparse
import shutil
import subprocess

import nox

from tasks.catalogue import session
from tasks.environments import environment
from tasks.errors import stop
from tasks.images import container, oci
from tasks.options import Options
from tasks.project import ROOT, WORKSPACE, project_table

# The last needs neither a daemon nor much of a machine.
ENGINES = ("docker", "podman", "buildah")
TARGETS = ("cpu", "gpu")
DOCKERFILE = ROOT / "Dockerfile"
# What the image runs: the session smoke or, of one project alone, what its packages are enough for.
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
    """Build the container image from the lock and run its own session in it.

    With docker, podman or buildah, the first that answers; skipped where none does (with CI=true
    that is an error). The tag is the lock's digest. The image has every package, and runs nox -s
    smoke. After --: --project NAME builds one that has what NAME declares and no more, and runs
    nox -s "isolated(NAME)"; --publish ghcr.io/OWNER/NAME pushes the image to a registry for jobs to
    run in, unless it is there, with the credentials in IMAGE_USER and IMAGE_TOKEN; --target gpu
    builds on NVIDIA's image and runs nothing in it; --check-digests asks the registries whether
    each base's tag still has its digest, and builds nothing; the rest goes to the engine's build,
    of which --publish takes --secret only.
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
    """Return the session's own options, and what goes to the engine."""
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
    """End with what stands beside --publish and would not be the image of its name."""
    if options.check_digests:
        parser.error("--publish with --check-digests: the one builds, the other does not")
    if options.target != "cpu":
        parser.error(f"--publish with --target {options.target}: jobs run in the target cpu only")
    if options.project:
        parser.error("--publish with --project: jobs run in the image of every package")
    if others:
        expected = "what has the image's name is built as the files say, with --secret at most"
        parser.error(f"--publish with {' '.join(others)}: {expected}")
    if options.publish and not container.is_repository(options.publish):
        expected = "expected REGISTRY/OWNER/NAME in lower case, without a tag"
        parser.error(f"--publish {options.publish}: {expected}")


def _engine_or_end(session: nox.Session) -> str:
    engine = _engine()
    if engine is None:
        reason = f"no container engine answers here (looked for {', '.join(ENGINES)})"
        if environment.in_ci():
            stop(f"image: {reason}; CI=true allows no skipped image")
        session.skip(reason)
    return engine


def _build(
    session: nox.Session, engine: str, target: str, others: list[str], *, project: str | None = None
) -> None:
    """Build `target` and, of the cpu, try it."""
    name = local_name(target, project)
    _run(session, engine, *build_arguments(engine, target, project), *others, ".")
    session.log(f"Built {name}")
    if target == "cpu":
        _try(session, engine, name)
    else:
        session.log(f"On a machine with a GPU: docker run --rm --gpus all {name}")


def _publish(session: nox.Session, repository: str, others: list[str]) -> None:
    """Build the image, try it and push it to `repository`, unless it is there."""
    if not repository:
        session.skip("--publish names no registry, so there is nowhere to publish to")
    login = _login_or_end()
    name = f"{repository}:{container.tag('cpu')}"
    if digest := _published(session, repository, login):
        session.log(f"{name} is there already: {digest}")
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
        stop(f"image: {error}")


def _published(session: nox.Session, repository: str, login: oci.Login | None) -> str | None:
    """Return the digest of the image that `repository` has; None, too, where it does not say."""
    try:
        return oci.digest(repository, container.tag("cpu"), login)
    except oci.CannotAskError as error:
        # Some deny that they have a name nobody has pushed to yet. If it is more, the push fails.
        session.warn(f"{error}; so the image is built and pushed")
        return None


def _push_as(session: nox.Session, engine: str, name: str, login: oci.Login) -> None:
    """Push `name` as `login`, whom the engine has forgotten at the end."""
    host = name.partition("/")[0]
    # Not by the session: the token goes by standard input, where no log and no process list is.
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
        said = logged_in.stderr.strip().splitlines() or ["no word"]
        stop(f"image: {engine} cannot log in to {host} as IMAGE_USER: {said[-1]}")
    try:
        _run(session, engine, "push", name)
    finally:
        _run(session, engine, "logout", host)


def local_name(target: str, project: str | None = None) -> str:
    """Return the name on this machine of the image of all packages, or of one project's."""
    return f"localhost/{project or project_table(ROOT)['name']}:{container.tag(target)}"


def build_arguments(engine: str, target: str, project: str | None = None) -> list[str]:
    """Return the engine's arguments that build `target`, less the folder to build from."""
    # The classic form keeps HEALTHCHECK; without --layers buildah keeps nothing for the next build.
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
    """Return the first engine that answers; a docker without its daemon does not."""
    for engine in ENGINES:
        program = shutil.which(engine)
        if program is None:
            continue
        command = [program, "info"]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return engine
    return None


def _try(session: nox.Session, engine: str, name: str) -> None:
    """Run the image's own command, which is a session, in it."""
    if engine != "buildah":
        _run(session, engine, "run", "--rm", name)
        return
    started = _run(session, engine, "from", name, silent=True).strip().splitlines()[-1]
    try:
        # Through a shell: isolated by chroot only, buildah looks on its own PATH for a program.
        _run(session, engine, "run", started, "--", "sh", "-c", COMMAND)
    finally:
        _run(session, engine, "rm", started)


def _run(session: nox.Session, engine: str, *arguments: str, silent: bool = False) -> str:
    # The secrets of the Dockerfile are BuildKit's; older dockers ask for it by variable.
    said = session.run(
        engine, *arguments, external=True, silent=silent, env={"DOCKER_BUILDKIT": "1"}
    )
    return str(said or "")


def _check_digests(session: nox.Session) -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    bases = oci.bases(text)
    if not bases:
        session.error("Dockerfile: names no base by tag and digest")
    disagreeing = [line for base in bases if (line := _disagreement(base))]
    if disagreeing:
        session.error(f"{len(disagreeing)} of {len(bases)} bases: tag and digest do not agree")
    session.log(f"{len(bases)} bases: tag and digest agree")


def _disagreement(base: oci.Base) -> str | None:
    """Print and return what is wrong with the digest of `base`, if anything is."""
    try:
        problem = oci.disagreement(base)
    except oci.CannotAskError as error:
        stop(f"image: Dockerfile:{base.line}: {error}; connect this machine and try again")
    line = f"Dockerfile:{base.line}: {problem}" if problem else None
    if line:
        print(line)
    return line
