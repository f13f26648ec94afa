"""The image's files, and the image session with fake engines and a stand-in registry."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import nox
import pytest

from tasks.environments import uv
from tasks.images import container, oci
from tasks.project import ROOT, WORKSPACE
from tasks.sessions import image
from tests import nox_session, stand_in_images
from tests.nox_session import FailedError, SkippedError
from tests.stand_in_images import Images, served

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
DIGEST, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return each instruction of a Dockerfile with its arguments."""
    code = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", "", code)
    parts = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(word.upper(), rest) for word, rest in parts]


def stages(dockerfile: str) -> dict[str, list[tuple[str, str]]]:
    """Return each stage's instructions, its FROM first."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions(dockerfile):
        if word == "FROM":
            name = rest.split(" AS ")[1]
        if name:
            found.setdefault(name, []).append((word, rest))
    return found


def last_instruction(stage: str, word: str) -> str:
    return [rest for each, rest in stages(DOCKERFILE)[stage] if each == word][-1]


def test_every_from_is_pinned_by_tag_and_digest_or_is_a_stage() -> None:
    arguments = dict(rest.split("=", 1) for word, rest in instructions(DOCKERFILE) if word == "ARG")
    images = [rest.split(" AS ")[0] for word, rest in instructions(DOCKERFILE) if word == "FROM"]
    resolved = {re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], each) for each in images}
    pinned = {f"{base.name}:{base.tag}@{base.digest}" for base in oci.bases(DOCKERFILE)}
    assert resolved == pinned | {"cpu-base", "gpu-base"}
    assert {"cpu-base", "gpu-base"} <= stages(DOCKERFILE).keys()
    assert len(pinned) == 2


def test_the_base_of_the_cpu_image_has_the_default_python() -> None:
    base = oci.bases(DOCKERFILE)[0]
    assert base.name == "python"
    assert base.tag.startswith(f"{WORKSPACE.default.python}-slim")


def test_base_with_a_platform_is_parsed() -> None:
    digest = f"sha256:{'0' * 64}"
    (base,) = oci.bases(f"FROM --platform=linux/amd64 python:3.12@{digest} AS one\n")
    assert (base.name, base.tag, base.digest) == ("python", "3.12", digest)


@pytest.mark.parametrize("target", image.TARGETS)
def test_the_user_is_not_root(target: str) -> None:
    # Numeric: Kubernetes' runAsNonRoot cannot check a name.
    user = last_instruction(target, "USER")
    assert user.isdecimal()
    assert int(user) > 0
    copies = [rest for word, rest in stages(DOCKERFILE)[target] if word == "COPY"]
    assert all(f"--chown={user}:{user}" in each or "--from=uv" in each for each in copies)


def test_every_install_requires_hashes_and_wheels() -> None:
    commands = [rest for word, rest in instructions(DOCKERFILE) if word == "RUN"]
    installs = [each for each in commands if re.search(r"\bpip (install|sync)\b", each)]
    assert len(installs) == 2
    for each in installs:
        assert "--require-hashes" in each
        assert "--only-binary=:all:" in each or "--no-build" in each
    # The CPU image uses the sessions' environment; test_environment.py tests its hashes.
    assert sum("environment.prepare_image(" in each for each in commands) == 1


def test_gpu_image_keeps_the_torch_of_its_base() -> None:
    (install,) = (rest for word, rest in stages(DOCKERFILE)["gpu"] if "uv export" in rest)
    assert "--frozen" in install
    assert "--prune torch" in install
    assert "--system-site-packages" in install
    assert f"torch-{(WORKSPACE.default.torch or '').replace('.', '-')} " in install


@pytest.mark.parametrize(
    ("target", "command"),
    [("cpu", ["sh", "-c", image.COMMAND]), ("gpu", ["nox", "--no-venv", "-s", "gpu-test"])],
)
def test_image_runs_a_check_and_has_a_health_check(target: str, command: list[str]) -> None:
    assert json.loads(last_instruction(target, "CMD")) == command
    assert "training.runs" in last_instruction(target, "HEALTHCHECK")


def test_python_in_the_image_belongs_to_the_environment() -> None:
    # The link must lead to the folder, not to its bin: Python looks for pyvenv.cfg beside bin and
    # finds no packages without it.
    (install,) = (rest for word, rest in stages(DOCKERFILE)["cpu"] if "prepare_image" in rest)
    (link,) = re.findall(r"os\.symlink\(environment\.prepare_image\(.+?\), '([^']+)'\)", install)
    path = [rest for word, rest in stages(DOCKERFILE)["cpu"] if rest.startswith("PATH=")]
    assert path[0].startswith(f"PATH=/app/{link}/bin:$PATH ")


def test_image_and_ci_use_the_same_uv() -> None:
    """Another version may use another cache folder, so a job would download everything."""
    text = (ROOT / "docker" / "uv.txt").read_text(encoding="utf-8")
    action = (ROOT / ".github" / "actions" / "setup" / "action.yml").read_text(encoding="utf-8")
    assert re.findall(r"^uv==(\S+)", text, re.MULTILINE) == re.findall(
        r"^\s*version: (\d+\.\d+\.\d+)$", action, re.MULTILINE
    )


def test_large_layer_depends_only_on_the_lock_and_the_environment_code() -> None:
    copies = [rest for word, rest in stages(DOCKERFILE)["cpu"] if word == "COPY"]
    assert copies[-1].endswith(" . .")
    copied = {word for each in copies[:-1] for word in each.split() if word.endswith(".py")}
    code = (
        "import sys; from tasks.environments import environment;"
        "print(*(each.__file__ for name, each in sys.modules.items() if name.startswith('tasks')),"
        " sep='\\n')"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = (Path(file).relative_to(ROOT) for file in ran.stdout.splitlines())
    assert copied == {str(file) for file in files}


def test_uv_in_the_image_is_supported_and_pinned_by_hash() -> None:
    text = (ROOT / "docker" / "uv.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^uv==(\S+)", text, re.MULTILINE)
    numbers = [[int(part) for part in each.split(".")] for each in (version, uv.required_version())]
    assert numbers[0] >= numbers[1]
    assert "--hash=sha256:" in text


def test_only_listed_paths_go_into_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    listed = [line[1:] for line in rules[1:] if line.startswith("!")]
    assert all((ROOT / name).exists() for name in listed)
    assert not {".git", ".nox", "data", "outputs"} & {name.split("/")[0] for name in listed}


class Session(nox_session.Session):
    """Runs commands for real."""

    def run(self, *command: str, env: dict[str, str], external: bool, silent: bool) -> str:
        assert external
        done = subprocess.run(
            command, env={**os.environ, **env}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            self.error(f"{command[0]} {command[1]} failed")
        return done.stdout if silent else ""


ENGINE = """\
#!/bin/sh
name="${0##*/}"
if [ "$1" = info ]; then [ ! -e "$0.dead" ]; exit; fi
echo "$name $*" >> "$ENGINE_LOG"
case "$1" in
from) echo pulled; echo working-container;;
login) read -r token; printf %s "$token" > "$ENGINE_LOG.stdin"; echo "who are you" >&2;;
esac
case "$*" in *"$ENGINE_FAILS"*) exit 3;; esac
"""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH, with working fakes of docker, podman and buildah."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in image.ENGINES:
        (folder / name).write_text(ENGINE)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("ENGINE_LOG", str(folder / "log"))
    monkeypatch.setenv("ENGINE_FAILS", "nothing fails")
    for name in ("CI", "IMAGE_USER", "IMAGE_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return folder


def run(*arguments: str) -> list[str]:
    """Run the session; return what it logged."""
    session = Session(*arguments)
    image.image(cast("nox.Session", session))
    return session.logged


def lock_digest() -> str:
    return hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()


def expected_build(engine: str, options: str, target: str = "cpu", extra: str = "") -> str:
    name = f"localhost/workspace:{container.tag(target)}"
    label = f"--label=uv.lock.sha256={lock_digest()}"
    return f"{engine} build {options}--target={target} --tag={name} {label} {extra}."


@pytest.mark.parametrize(
    ("dead", "engine", "options"),
    [
        pytest.param([], "docker", "", id="docker"),
        pytest.param(["docker"], "podman", "--format=docker ", id="podman"),
        pytest.param(["docker", "podman"], "buildah", "--format=docker --layers ", id="buildah"),
    ],
)
def test_first_working_engine_builds_the_image_and_runs_smoke(
    dead: list[str], engine: str, options: str, engines: Path
) -> None:
    for name in dead:
        (engines / f"{name}.dead").touch()
    run()
    built, *ran = (engines / "log").read_text().splitlines()
    assert built == expected_build(engine, options)
    name = f"localhost/workspace:{container.tag('cpu')}"
    assert ran == (
        [
            f"buildah from {name}",
            f"buildah run working-container -- sh -c {image.COMMAND}",
            "buildah rm working-container",
        ]
        if engine == "buildah"
        else [f"{engine} run --rm {name}"]
    )


def test_single_project_is_a_build_argument(engines: Path) -> None:
    project = WORKSPACE.default_project.package
    run("--project", project)
    built, ran = (engines / "log").read_text().splitlines()
    name = f"localhost/{project}:{container.tag('cpu')}"
    assert f"--tag={name} " in built
    assert f"--build-arg=PROJECT={project} ." in built
    assert ran == f"docker run --rm {name}"


@pytest.mark.parametrize(
    ("project", "session"), [("", "smoke"), ("some_project", "isolated(some_project)")]
)
def test_image_runs_the_session_that_suits_its_packages(
    project: str, session: str, tmp_path: Path
) -> None:
    (tmp_path / "nox").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "nox").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = ["sh", "-c", image.COMMAND]
    ran = subprocess.run(
        command, env={"PATH": path, "PROJECT": project}, capture_output=True, text=True, check=True
    )
    assert ran.stdout == f"-s {session}\n"


def test_the_gpu_target_is_built_and_not_run(engines: Path) -> None:
    logged = run("--target", "gpu", "--build-arg", "GPU_BASE=mirror")
    (built,) = (engines / "log").read_text().splitlines()
    assert built == expected_build("docker", "", "gpu", "--build-arg GPU_BASE=mirror ")
    assert "docker run --rm --gpus all" in logged[-1]


def test_container_is_removed_and_the_session_fails_if_smoke_fails(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docker", "podman"):
        (engines / name).unlink()
    monkeypatch.setenv("ENGINE_FAILS", "exec nox")
    with pytest.raises(FailedError, match="buildah run failed"):
        run()
    assert (engines / "log").read_text().splitlines()[-1] == "buildah rm working-container"


def test_session_skips_without_an_engine_but_fails_in_ci(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (engines / "docker.dead").touch()
    for name in ("podman", "buildah"):
        (engines / name).unlink()
    with pytest.raises(SkippedError, match="no container engine responds"):
        run()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("image: no container engine responds (tried")
    assert not (engines / "log").exists()


def test_unknown_target_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--target", "tpu")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("image: argument --target: invalid choice: 'tpu'")


@pytest.fixture
def images() -> Iterator[Images]:
    """A registry with the tags team/image:moved and team/image:fixed."""
    with served() as registry:
        registry.digests = {"team/image:moved": OTHER, "team/image:fixed": DIGEST}
        yield registry


@pytest.fixture
def host(images: Images) -> str:
    return images.host


def check_digests(monkeypatch: pytest.MonkeyPatch, path: Path, *images: str) -> list[str]:
    path.write_text("".join(f"# a base\nFROM {each} AS base\n" for each in images))
    monkeypatch.setattr(image, "DOCKERFILE", path)
    return run("--check-digests")


def test_matching_digests_pass(host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged = check_digests(monkeypatch, tmp_path / "D", f"{host}/team/image:fixed@{DIGEST}")
    assert logged == ["1 bases: tag and digest match"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        pytest.param(f"moved@{DIGEST}", f"has moved to {OTHER}; {DIGEST} is older", id="moved"),
        pytest.param(f"moved@sha256:{'c' * 64}", f"is {OTHER}; there is no image", id="no_digest"),
        pytest.param(f"gone@{DIGEST}", "there is no such tag", id="no_tag"),
    ],
)
def test_mismatched_digest_fails_with_its_line(
    reference: str,
    message: str,
    host: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = f"{host}/team/image:fixed@{DIGEST}", f"{host}/team/image:{reference}"
    with pytest.raises(FailedError, match="1 of 2 bases: tag and digest do not match"):
        check_digests(monkeypatch, tmp_path / "D", good, bad)
    (line,) = capsys.readouterr().out.splitlines()
    tag, _, _ = reference.partition("@")
    assert line.startswith(f"Dockerfile:4: {host}/team/image:{tag}: {message}")


def test_dockerfile_without_a_pinned_base_does_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FailedError, match="no base is pinned by tag and digest"):
        check_digests(monkeypatch, tmp_path / "D", "python:3.12")


@pytest.mark.parametrize(
    ("image_name", "message"),
    [
        pytest.param("{host}/team/broken", "the registry answers with status 500", id="broken"),
        pytest.param("127.0.0.1:9/team/image", "the registry does not answer", id="unreachable"),
    ],
)
def test_unreachable_registry_is_reported_in_one_line_and_does_not_pass(
    image_name: str,
    message: str,
    host: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        check_digests(monkeypatch, tmp_path / "D", f"{image_name.format(host=host)}:x@{DIGEST}")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("image: Dockerfile:2: ")
    assert message in line


@pytest.mark.parametrize(
    ("name", "manifests"),
    [
        ("python", "https://registry-1.docker.io/v2/library/python/manifests"),
        ("team/image", "https://registry-1.docker.io/v2/team/image/manifests"),
        ("nvcr.io/nvidia/pytorch", "https://nvcr.io/v2/nvidia/pytorch/manifests"),
        ("localhost/team/image", "http://localhost/v2/team/image/manifests"),
        ("localhost:5000/image", "http://localhost:5000/v2/image/manifests"),
    ],
)
def test_manifest_address_uses_the_registry_in_the_image_name(name: str, manifests: str) -> None:
    assert oci.manifests(name) == manifests


def build_and_run_commands(engine: str = "docker") -> list[str]:
    name = f"localhost/workspace:{container.tag('cpu')}"
    return [expected_build(engine, ""), f"{engine} run --rm {name}"]


def test_published_image_is_neither_built_nor_pushed(images: Images, engines: Path) -> None:
    images.digests[f"team/image:{container.tag('cpu')}"] = DIGEST
    name = f"{images.host}/team/image"
    logged = run("--publish", name)
    assert logged == [f"{name}:{container.tag('cpu')} is already published: {DIGEST}"]
    assert not (engines / "log").exists()


def test_missing_image_is_built_run_and_pushed(images: Images, engines: Path) -> None:
    name = f"{images.host}/team/image:{container.tag('cpu')}"
    logged = run("--publish", f"{images.host}/team/image")
    assert (engines / "log").read_text().splitlines() == [
        *build_and_run_commands(),
        f"docker tag localhost/workspace:{container.tag('cpu')} {name}",
        f"docker push {name}",
    ]
    assert logged[-1] == f"Published {name}"


def test_mirror_settings_do_not_change_the_tag(images: Images, engines: Path) -> None:
    secrets = ["--secret", "id=uv.toml,src=uv.toml", "--secret=id=pip.conf,src=pip.conf"]
    run("--publish", f"{images.host}/team/image", *secrets)
    (built, *_) = (engines / "log").read_text().splitlines()
    extra = "--secret id=uv.toml,src=uv.toml --secret id=pip.conf,src=pip.conf "
    assert built == expected_build("docker", "", extra=extra)


def test_image_that_fails_smoke_is_not_pushed(
    images: Images, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_FAILS", "run --rm")
    with pytest.raises(FailedError, match="docker run failed"):
        run("--publish", f"{images.host}/team/image")
    assert (engines / "log").read_text().splitlines() == build_and_run_commands()


@pytest.fixture
def _logged_in(monkeypatch: pytest.MonkeyPatch, engines: Path) -> None:
    assert engines.exists()
    monkeypatch.setenv("IMAGE_USER", stand_in_images.USER)
    monkeypatch.setenv("IMAGE_TOKEN", stand_in_images.TOKEN)


@pytest.mark.usefixtures("_logged_in")
@pytest.mark.parametrize("name", ["team/private", "team/closed"])
def test_private_image_is_found_after_login(name: str, images: Images) -> None:
    images.digests[f"{name}:{container.tag('cpu')}"] = DIGEST
    (logged,) = run("--publish", f"{images.host}/{name}")
    assert logged.endswith(f"is already published: {DIGEST}")


@pytest.mark.usefixtures("_logged_in")
@pytest.mark.parametrize("failing", ["nothing", "push"])
def test_token_is_passed_on_stdin_and_the_engine_logs_out(
    failing: str, images: Images, engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_FAILS", f"{failing} {images.host}")
    pushed = [f"docker push {images.host}/team/image:{container.tag('cpu')}"]
    if failing == "push":
        with pytest.raises(FailedError, match="docker push failed"):
            run("--publish", f"{images.host}/team/image")
    else:
        run("--publish", f"{images.host}/team/image")
    log = (engines / "log").read_text()
    assert log.splitlines()[-3:] == [
        f"docker login --username alice --password-stdin {images.host}",
        *pushed,
        f"docker logout {images.host}",
    ]
    assert stand_in_images.TOKEN not in log
    assert (engines / "log.stdin").read_text() == stand_in_images.TOKEN


@pytest.mark.usefixtures("_logged_in")
def test_refused_login_is_reported_in_one_line_and_nothing_is_pushed(
    images: Images,
    engines: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ENGINE_FAILS", "login")
    with pytest.raises(SystemExit) as ended:
        run("--publish", f"{images.host}/team/image")
    assert ended.value.code == 2
    line = f"image: docker cannot log in to {images.host} as IMAGE_USER: who are you\n"
    assert capsys.readouterr().err == line
    assert "push" not in (engines / "log").read_text()


def test_image_is_pushed_if_the_registry_does_not_say_whether_it_exists(
    images: Images, engines: Path
) -> None:
    name = f"{images.host}/team/private"
    logged = run("--publish", name)
    assert logged[0].startswith(
        f"{name}: the registry answers with status 403 and no digest; building and pushing"
    )
    assert (engines / "log").read_text().splitlines()[-1].startswith(f"docker push {name}:cpu-")


def test_publish_without_a_registry_skips(engines: Path) -> None:
    with pytest.raises(SkippedError, match="--publish is empty"):
        run("--publish", "")
    assert not (engines / "log").exists()


@pytest.mark.usefixtures("engines")
@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        pytest.param(
            ["--publish", "ghcr.io/Team/image"],
            {},
            "image: --publish ghcr.io/Team/image: expected REGISTRY/OWNER/NAME in lower case, with",
            id="upper_case",
        ),
        pytest.param(
            ["--publish", "ghcr.io/team/image:newest"],
            {},
            "image: --publish ghcr.io/team/image:newest: expected REGISTRY/OWNER/NAME in lower",
            id="a_tag",
        ),
        pytest.param(
            ["--publish", "ghcr.io/team/image", "--target", "gpu"],
            {},
            "image: --publish with --target gpu: jobs run in the target cpu only",
            id="gpu",
        ),
        pytest.param(
            ["--publish", "ghcr.io/team/image", "--build-arg", "CPU_BASE=mirror"],
            {},
            "image: --publish with --build-arg CPU_BASE=mirror: a published image takes no build ",
            id="another_base",
        ),
        pytest.param(
            ["--platform=linux/arm64", "--publish", ""],
            {},
            "image: --publish with --platform=linux/arm64: a published image takes no build ",
            id="another_machine",
        ),
        pytest.param(
            ["--publish", "ghcr.io/team/image", "--check-digests"],
            {},
            "image: --publish with --check-digests: --check-digests builds nothing to publish",
            id="publish_and_check",
        ),
        pytest.param(
            ["--publish", "ghcr.io/team/image"],
            {"IMAGE_USER": "alice"},
            "image: IMAGE_USER is set but IMAGE_TOKEN is not; set both or neither",
            id="no_token",
        ),
        pytest.param(
            ["--publish", "ghcr.io/team/image"],
            {"IMAGE_TOKEN": "a secret"},
            "image: IMAGE_TOKEN is set but IMAGE_USER is not; set both or neither",
            id="no_user",
        ),
    ],
)
def test_invalid_publish_options_are_reported_in_one_line_and_exit_2(
    arguments: list[str],
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(message)
