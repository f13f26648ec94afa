"""The image's files, the session with engines that only note what they are told, a registry."""

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, cast

import nox
import pytest

from tasks import image, registry, uv
from tasks.project import PROJECT, ROOT
from tasks.registry import Base

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
DIGEST, OTHER = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return each instruction of a Dockerfile with what follows it."""
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


def last(stage: str, word: str) -> str:
    return [rest for each, rest in stages(DOCKERFILE)[stage] if each == word][-1]


def test_every_from_is_pinned_by_tag_and_digest_or_is_a_stage() -> None:
    arguments = dict(rest.split("=", 1) for word, rest in instructions(DOCKERFILE) if word == "ARG")
    images = [rest.split(" AS ")[0] for word, rest in instructions(DOCKERFILE) if word == "FROM"]
    resolved = {re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], each) for each in images}
    pinned = {f"{base.name}:{base.tag}@{base.digest}" for base in registry.bases(DOCKERFILE)}
    assert resolved == pinned | {"cpu-base", "gpu-base"}
    assert {"cpu-base", "gpu-base"} <= stages(DOCKERFILE).keys()
    assert len(pinned) == 2


def test_the_base_of_the_cpu_image_has_the_default_python() -> None:
    base = registry.bases(DOCKERFILE)[0]
    assert base.name == "python"
    assert base.tag.startswith(f"{PROJECT.default.python}-slim")


@pytest.mark.parametrize("target", image.TARGETS)
def test_the_user_is_not_root(target: str) -> None:
    # By number: Kubernetes' runAsNonRoot does not know a name.
    user = last(target, "USER")
    assert user.isdecimal()
    assert int(user) > 0
    copies = [rest for word, rest in stages(DOCKERFILE)[target] if word == "COPY"]
    assert all(f"--chown={user}:{user}" in each or "--from=uv" in each for each in copies)


def test_every_install_demands_hashes_and_takes_wheels_only() -> None:
    commands = [rest for word, rest in instructions(DOCKERFILE) if word == "RUN"]
    installs = [each for each in commands if re.search(r"\bpip (install|sync)\b", each)]
    assert len(installs) == 2
    for each in installs:
        assert "--require-hashes" in each
        assert "--only-binary=:all:" in each or "--no-build" in each
    # The CPU's environment is the sessions' own, which test_environment.py holds to hashes.
    assert sum("environment.prepare_default_cell()" in each for each in commands) == 1


def test_the_gpu_image_keeps_the_bases_own_torch() -> None:
    (install,) = (rest for word, rest in stages(DOCKERFILE)["gpu"] if "uv export" in rest)
    assert "--frozen" in install
    assert "--prune torch" in install
    assert "--system-site-packages" in install
    assert f"torch-{PROJECT.default.torch.replace('.', '-')} " in install


@pytest.mark.parametrize(
    ("target", "command"),
    [("cpu", ["nox", "-s", "smoke"]), ("gpu", ["nox", "--no-venv", "-s", "gpu-test"])],
)
def test_the_image_runs_a_check_and_says_its_health(target: str, command: list[str]) -> None:
    assert json.loads(last(target, "CMD")) == command
    assert "my_project.train" in last(target, "HEALTHCHECK")


def test_python_in_the_image_is_that_of_the_environment() -> None:
    # A link to the folder, not to its bin: beside that Python looks for pyvenv.cfg, and without it
    # finds no package.
    (made,) = (rest for word, rest in stages(DOCKERFILE)["cpu"] if "prepare_default_cell" in rest)
    (link,) = re.findall(r"os\.symlink\(environment\.prepare_default_cell\(\), '(.+)'\)", made)
    path = [rest for word, rest in stages(DOCKERFILE)["cpu"] if rest.startswith("PATH=")]
    assert path[0].startswith(f"PATH=/app/{link}/bin:$PATH ")


def test_the_uv_of_the_image_is_that_of_ci() -> None:
    """Another version can keep its cache elsewhere, and a job would download everything."""
    text = (ROOT / "docker" / "uv.txt").read_text(encoding="utf-8")
    action = (ROOT / ".github" / "actions" / "setup" / "action.yml").read_text(encoding="utf-8")
    assert re.findall(r"^uv==(\S+)", text, re.MULTILINE) == re.findall(
        r"^\s*version: (\d+\.\d+\.\d+)$", action, re.MULTILINE
    )


def test_the_large_layer_is_made_from_the_lock_and_what_makes_environments() -> None:
    copies = [rest for word, rest in stages(DOCKERFILE)["cpu"] if word == "COPY"]
    assert copies[-1].endswith(" . .")
    copied = {word for each in copies[:-1] for word in each.split() if word.endswith(".py")}
    code = (
        "import sys; from tasks import environment;"
        "print(*(each.__file__ for name, each in sys.modules.items() if name.startswith('tasks')),"
        " sep='\\n')"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    files = (Path(file).relative_to(ROOT) for file in ran.stdout.splitlines())
    assert copied == {str(file) for file in files}


def test_uv_in_the_image_is_one_that_the_project_admits_with_hashes() -> None:
    text = (ROOT / "docker" / "uv.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"^uv==(\S+)", text, re.MULTILINE)
    numbers = [[int(part) for part in each.split(".")] for each in (version, uv.required_version())]
    assert numbers[0] >= numbers[1]
    assert "--hash=sha256:" in text


def test_only_what_is_named_goes_into_the_image() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    named = [line[1:] for line in rules[1:] if line.startswith("!")]
    assert all((ROOT / name).exists() for name in named)
    assert not {".git", ".nox", "data", "outputs"} & {name.split("/")[0] for name in named}


class SkippedError(Exception):
    pass


class FailedError(Exception):
    pass


class Session:
    """As much of Nox's session as this one uses; its commands run for real."""

    def __init__(self, *posargs: str) -> None:
        self.posargs = list(posargs)
        self.logged: list[str] = []

    def log(self, message: str) -> None:
        self.logged.append(message)

    def skip(self, reason: str) -> NoReturn:
        raise SkippedError(reason)

    def error(self, reason: str) -> NoReturn:
        raise FailedError(reason)

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
case "$1" in from) echo pulled; echo working-container;; esac
case "$*" in *"$ENGINE_FAILS"*) exit 3;; esac
"""


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH, and has docker, podman and buildah, all alive."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name in image.ENGINES:
        (folder / name).write_text(ENGINE)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("ENGINE_LOG", str(folder / "log"))
    monkeypatch.setenv("ENGINE_FAILS", "nothing fails")
    monkeypatch.delenv("CI", raising=False)
    return folder


def run(*arguments: str) -> list[str]:
    """Run the session; return what it logged."""
    session = Session(*arguments)
    image.image(cast("nox.Session", session))
    return session.logged


def lock_digest() -> str:
    return hashlib.sha256((ROOT / "uv.lock").read_bytes()).hexdigest()


def expected_build(engine: str, options: str, target: str = "cpu", more: str = "") -> str:
    name = f"localhost/my-project:{target}-{lock_digest()[:12]}"
    label = f"--label=uv.lock.sha256={lock_digest()}"
    return f"{engine} build {options}--target={target} --tag={name} {label} {more}."


@pytest.mark.parametrize(
    ("dead", "engine", "options"),
    [
        pytest.param([], "docker", "", id="docker"),
        pytest.param(["docker"], "podman", "--format=docker ", id="podman"),
        pytest.param(["docker", "podman"], "buildah", "--format=docker --layers ", id="buildah"),
    ],
)
def test_the_first_engine_that_answers_builds_and_runs_smoke(
    dead: list[str], engine: str, options: str, engines: Path
) -> None:
    for name in dead:
        (engines / f"{name}.dead").touch()
    run()
    built, *ran = (engines / "log").read_text().splitlines()
    assert built == expected_build(engine, options)
    name = f"localhost/my-project:cpu-{lock_digest()[:12]}"
    assert ran == (
        [
            f"buildah from {name}",
            "buildah run working-container -- sh -c exec nox -s smoke",
            "buildah rm working-container",
        ]
        if engine == "buildah"
        else [f"{engine} run --rm {name}"]
    )


def test_the_gpu_target_is_built_and_not_run(engines: Path) -> None:
    logged = run("--target", "gpu", "--build-arg", "GPU_BASE=mirror")
    (built,) = (engines / "log").read_text().splitlines()
    assert built == expected_build("docker", "", "gpu", "--build-arg GPU_BASE=mirror ")
    assert "docker run --rm --gpus all" in logged[-1]


def test_the_container_goes_even_if_smoke_fails_and_the_session_fails(
    engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("docker", "podman"):
        (engines / name).unlink()
    monkeypatch.setenv("ENGINE_FAILS", "-s smoke")
    with pytest.raises(FailedError, match="buildah run failed"):
        run()
    assert (engines / "log").read_text().splitlines()[-1] == "buildah rm working-container"


def test_without_an_engine_it_skips_but_not_in_ci(
    engines: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (engines / "docker.dead").touch()
    for name in ("podman", "buildah"):
        (engines / name).unlink()
    with pytest.raises(SkippedError, match="no container engine answers here"):
        run()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("image: no container engine answers here (looked for")
    assert not (engines / "log").exists()


def test_a_target_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--target", "tpu")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("image: argument --target: invalid choice: 'tpu'")


class _Registry(http.server.BaseHTTPRequestHandler):
    """Has team/image:moved and :fixed; tells only those who fetched its token."""

    def do_HEAD(self) -> None:
        if self.headers["Authorization"] != "Bearer a-token":
            host = f"http://127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
            challenge = f'Bearer realm="{host}/token",service="s",scope="repository:pull"'
            return self._answer(401, **{"WWW-Authenticate": challenge})
        known = {"moved": OTHER, "fixed": DIGEST, DIGEST: DIGEST}
        path, _, reference = self.path.rpartition("/")
        if path == "/v2/team/broken/manifests":
            return self._answer(500)
        listed = "oci.image.index" in self.headers["Accept"]
        if path != "/v2/team/image/manifests" or reference not in known or not listed:
            return self._answer(404)
        return self._answer(200, **{"Docker-Content-Digest": known[reference]})

    def do_GET(self) -> None:
        assert self.path == "/token?service=s&scope=repository%3Apull"
        self._answer(200)
        self.wfile.write(b'{"token": "a-token"}')

    def _answer(self, code: int, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def host() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Registry) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def check_digests(monkeypatch: pytest.MonkeyPatch, path: Path, *images: str) -> list[str]:
    path.write_text("".join(f"# a base\nFROM {each} AS base\n" for each in images))
    monkeypatch.setattr(image, "DOCKERFILE", path)
    return run("--check-digests")


def test_digests_that_agree_pass(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = check_digests(monkeypatch, tmp_path / "D", f"{host}/team/image:fixed@{DIGEST}")
    assert logged == ["1 bases: tag and digest agree"]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        pytest.param(f"moved@{DIGEST}", f"has moved on to {OTHER}; {DIGEST} is an", id="moved"),
        pytest.param(f"moved@sha256:{'c' * 64}", f"is {OTHER}; there is no image", id="no_digest"),
        pytest.param(f"gone@{DIGEST}", "there is no such tag", id="no_tag"),
    ],
)
def test_digests_that_disagree_fail_with_the_line(
    reference: str,
    said: str,
    host: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good, bad = f"{host}/team/image:fixed@{DIGEST}", f"{host}/team/image:{reference}"
    with pytest.raises(FailedError, match="1 of 2 bases: tag and digest do not agree"):
        check_digests(monkeypatch, tmp_path / "D", good, bad)
    (line,) = capsys.readouterr().out.splitlines()
    tag, _, _ = reference.partition("@")
    assert line.startswith(f"Dockerfile:4: {host}/team/image:{tag}: {said}")


def test_no_base_at_all_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FailedError, match="names no base by tag and digest"):
        check_digests(monkeypatch, tmp_path / "D", "python:3.12")


@pytest.mark.parametrize(
    ("image_name", "said"),
    [
        pytest.param("{host}/team/broken", "the registry answers 500", id="broken"),
        pytest.param("127.0.0.1:9/team/image", "the registry does not answer", id="unreachable"),
    ],
)
def test_a_registry_that_does_not_answer_is_one_line_and_no_pass(
    image_name: str,
    said: str,
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
    assert said in line


@pytest.mark.parametrize(
    ("name", "manifests"),
    [
        ("python", "https://registry-1.docker.io/v2/library/python/manifests"),
        ("team/image", "https://registry-1.docker.io/v2/team/image/manifests"),
        ("nvcr.io/nvidia/pytorch", "https://nvcr.io/v2/nvidia/pytorch/manifests"),
    ],
)
def test_an_image_is_asked_of_the_registry_in_its_name(name: str, manifests: str) -> None:
    assert Base(line=1, name=name, tag="1", digest=DIGEST).manifests == manifests
