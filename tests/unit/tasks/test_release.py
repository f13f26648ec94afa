"""The release sessions in a copy of this repository, with real git and real builds."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import nox
import pytest

from tasks.environments import lockfile
from tasks.packaging import wheels
from tasks.project import ROOT, WORKSPACE
from tasks.sessions import release
from tests import nox_session
from tests.nox_session import FailedError, SkippedError
from tests.repository import git
from tests.repository import nox as run_nox

DEFAULT = WORKSPACE.default_project.package


class Session(nox_session.Session):
    """Records commands; the integration tests in test_release_sessions.py run them."""

    def __init__(self, name: str, *posargs: str) -> None:
        super().__init__(*posargs)
        self.name = name
        self.ran: list[tuple[str, ...]] = []

    def run(self, *command: str, **_: object) -> None:
        self.ran.append(command)

    @contextmanager
    def chdir(self, folder: str) -> Iterator[None]:
        assert Path(folder).is_dir()
        yield


def run(name: str, *arguments: str) -> Session:
    session = Session(name, *arguments)
    getattr(release, name)(cast("nox.Session", session))
    return session


@pytest.fixture
def root(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this repository that the sessions use as their root."""
    monkeypatch.setattr(release, "ROOT", checkout)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("GITHUB_BASE_REF", raising=False)
    monkeypatch.delenv("PULL_REQUEST_TITLE", raising=False)
    return checkout


def commit(root: Path, message: str, **files: str) -> None:
    for name, text in files.items():
        (root / name).write_text(text)
    git("add", "--all", cwd=root)
    done = git("commit", "--quiet", "--allow-empty", "--message", message, cwd=root)
    assert done.returncode == 0, done.stderr


def test_nox_runs_the_release_sessions_by_name(checkout: Path) -> None:
    commit(checkout, "repair it")
    ran = run_nox("-s", "version", "commits", cwd=checkout)
    assert ran.returncode == 1
    assert "'repair it' is not of the form" in ran.stdout
    assert "next: 0.1.0, the first release" in ran.stdout
    assert "Session version was successful" in ran.stderr


def test_commits_refuses_a_message_that_is_not_in_the_form(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("commits").logged[0].endswith(": 0, all valid"), (
        "the first commit comes from the template"
    )
    commit(root, "repair it")
    with pytest.raises(FailedError, match=r"1 problem\(s\) found; to reword a commit: git rebase"):
        run("commits")
    assert "'repair it' is not of the form" in capsys.readouterr().out
    commit(root, "fix: repair it")
    assert run("commits").logged[0].endswith(": 1, all valid")
    with pytest.raises(FailedError):
        run("commits", "--since", "HEAD~2")
    with pytest.raises(SystemExit) as ended:
        run("commits", "--since", "nothing")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "commits: git finds no commit nothing here\n"


def test_commits_checks_the_title_of_a_squash_by_the_same_rules(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = f"src/{DEFAULT}/config.schema.json"
    narrower = (root / schema).read_text().replace('"bfloat16",', "").replace('"mlflow"', '"mine"')
    commit(root, "feat!: narrower", **{schema: narrower})
    for title in ("", "feat!: all of it"):
        monkeypatch.setenv("PULL_REQUEST_TITLE", title)
        run("commits")
    for title, expected in (
        ("All of it", "is not of the form"),
        ("feat: all of it", 'must not be "'),
    ):
        monkeypatch.setenv("PULL_REQUEST_TITLE", title)
        with pytest.raises(FailedError):
            run("commits")
        printed = capsys.readouterr().out
        assert printed.startswith("the pull request's title: ")
        assert expected in printed


@pytest.mark.parametrize(
    "title", ["::error::x", "a ##[add-mask]b", "a\x1b[2J", "a\u2028::error::b"]
)
def test_title_cannot_give_the_runner_a_command(
    title: str, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commit(root, f"{title} as a commit")
    monkeypatch.setenv("PULL_REQUEST_TITLE", title)
    with pytest.raises(FailedError):
        run("commits")
    run("version")
    for line in capsys.readouterr().out.splitlines():
        assert line.isprintable()
        assert not line.lstrip().startswith("::")
        assert "##[" not in line


@pytest.mark.parametrize("name", ["commits", "version", "changelog"])
def test_session_skips_in_a_shallow_clone_but_fails_in_ci(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(root, "fix: repair it")
    shallow = tmp_path / "shallow"
    cloned = git("clone", "--quiet", "--depth=1", root.as_uri(), str(shallow), cwd=tmp_path)
    assert cloned.returncode == 0, cloned.stderr
    monkeypatch.setattr(release, "ROOT", shallow)
    with pytest.raises(SkippedError, match="a shallow clone lacks commits; run git fetch --unshal"):
        run(name)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit) as ended:
        run(name)
    assert ended.value.code == 2


@pytest.mark.parametrize("name", ["commits", "build", "version", "changelog"])
def test_folder_without_a_commit_is_reported_in_one_line_and_exits_2(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(release, "ROOT", tmp_path)
    with pytest.raises(SystemExit) as ended:
        run(name)
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_version_explains_and_writes_the_next_version(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    git("tag", "v0.1.0", cwd=root)
    commit(root, "feat(data): more of it")
    run("version", "--write")
    first, second, third = capsys.readouterr().out.splitlines()
    assert first == "commits since v0.1.0: 1"
    assert re.fullmatch(r"minor  [0-9a-f]{8} feat\(data\): more of it", second)
    assert re.fullmatch(r"next: 0.1.0 -> 0.2.0, because [0-9a-f]{8} adds a feature", third)
    assert git("diff", "--numstat", cwd=root).stdout == (
        "1\t1\tpyproject.toml\n"
        + "".join(f"1\t1\tsrc/{name}/pyproject.toml\n" for name in WORKSPACE.packages)
        + f"{len(WORKSPACE.packages) + 1}\t{len(WORKSPACE.packages) + 1}\tuv.lock\n"
    )
    assert lockfile.staleness(root) is None
    git("tag", "v0.2.1", cwd=root)
    with pytest.raises(FailedError, match=r"tagged v0\.2\.1, but pyproject\.toml has 0\.2\.0"):
        run("version")


@pytest.mark.parametrize(
    ("pyproject", "expected"),
    [
        pytest.param('[project]\nname = "a"\nversion = "1.0"\n', "write MAJOR.MINOR", id="form"),
        pytest.param(
            '[project]\nname = "a"\nversion = "1.0.0rc1"\n', "write MAJOR", id="not_final"
        ),
    ],
)
def test_version_in_another_form_is_reported_in_one_line_and_exits_2(
    pyproject: str, expected: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "pyproject.toml").write_text(pyproject)
    with pytest.raises(SystemExit) as ended:
        run("version")
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err


def test_missing_version_is_reported_in_one_line_and_exits_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "a"\ndynamic = ["version"]\n')
    (tmp_path / "uv.lock").write_text("")
    with pytest.raises(SystemExit) as ended:
        release.write_version("1.0.0", tmp_path)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("version: pyproject.toml: expected one line")


HANDWRITTEN = "# Changelog\n\n## [Unreleased]\n\n### Added\n- Written by hand.\n"


def test_changelog_moves_the_text_and_adds_undescribed_commits(root: Path) -> None:
    git("tag", "v0.1.0", cwd=root)
    commit(root, "feat: described", **{"CHANGELOG.md": HANDWRITTEN})
    commit(root, "fix: undescribed")
    logged = run("changelog").logged
    text = (root / "CHANGELOG.md").read_text()
    expected = (
        r"# Changelog\n\n## \[Unreleased\]\n\n## \[0\.2\.0\] - 20\d\d-\d\d-\d\d\n\n"
        r"### Added\n- Written by hand\.\n\n### Fixed\n\n- Undescribed \([0-9a-f]{8}\)\n"
    )
    assert re.fullmatch(expected, text), text
    notes = (root / "artifacts" / "release-notes.md").read_text()
    assert notes.startswith("# 0.2.0\n")
    assert f"| {WORKSPACE.default_project.model} | none |" in notes
    assert any("there is no outputs/latest.pt; run: nox -s" in line for line in logged)
    assert "CHANGELOG.md already has a section for 0.2.0" in run("changelog").logged
    assert (root / "CHANGELOG.md").read_text() == text


def test_first_release_lists_its_commits_only_if_nothing_is_written_by_hand(root: Path) -> None:
    commit(root, "feat: undescribed", **{"CHANGELOG.md": HANDWRITTEN})
    commit(root, "feat: another")
    run("changelog")
    assert "nother" not in (root / "CHANGELOG.md").read_text()
    commit(root, "docs: empty", **{"CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n"})
    run("changelog")
    assert "- Another (" in (root / "CHANGELOG.md").read_text()


def test_changelog_in_ci_needs_a_model(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert root.exists()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit) as ended:
        run("changelog")
    assert ended.value.code == 2
    assert "with CI=true, release notes must name every model" in capsys.readouterr().err


def test_tag_needs_a_section_in_the_changelog(root: Path) -> None:
    git("tag", "v9.0.0", cwd=root)
    with pytest.raises(FailedError, match=r"v9\.0\.0 is tagged but has no section in CHANGELOG"):
        run("changelog")


def test_changelog_without_an_unreleased_heading_is_reported_and_exits_2(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "CHANGELOG.md").write_text("# Changelog\n")
    with pytest.raises(SystemExit) as ended:
        run("changelog")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("changelog: CHANGELOG.md: no heading")


def test_changelog_skips_without_notable_commits(root: Path) -> None:
    git("tag", "v0.1.0", cwd=root)
    commit(root, "docs: nothing notable")
    with pytest.raises(SkippedError, match="next: none"):
        run("changelog")


@pytest.fixture
def checkpoint(root: Path) -> Path:
    """The newest run of the checkout: a checkpoint with its provenance."""
    file = root / "outputs" / "run" / "checkpoint.pt"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    (root / "outputs" / "latest.pt").symlink_to("run/checkpoint.pt")
    document = {"subject": [{"digest": {"sha256": wheels.digest(file)}}]}
    file.with_name("provenance.json").write_text(json.dumps(document))
    return file


def test_release_notes_refuse_a_model_with_another_provenance(checkpoint: Path) -> None:
    checkpoint.write_bytes(b"swapped")
    with pytest.raises(FailedError, match=r"outputs/run/provenance\.json describes another"):
        run("changelog")


@pytest.mark.parametrize("content", [None, "{", "[]", json.dumps({"subject": []})])
def test_unreadable_provenance_is_reported_in_one_line_and_exits_2(
    content: str | None, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint.with_name("provenance.json")
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(SystemExit) as ended:
        run("changelog")
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("changelog: outputs/run/provenance.json: cannot be read as provenance")


def test_build_checks_the_packages_and_writes_their_digests(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # This needs the environment with torch; the integration test covers it.
    monkeypatch.setattr(release, "_test_wheels", lambda *_: None)
    (root / "dist").mkdir()
    (root / "dist" / f"{DEFAULT}-0.0.9.tar.gz").write_text("from an earlier build")
    (root / "uncommitted.py").write_text("")
    session = run("build")
    assert "uncommitted changes are not included" in session.logged[0]
    assert "are identical" in session.logged[1]
    ((_, *twine),) = session.ran
    assert twine[:2] == ["check", "--strict"]
    files = sorted((root / "dist").iterdir())
    names = WORKSPACE.packages
    endings = ("-0.1.0-py3-none-any.whl", "-0.1.0.tar.gz")
    assert [file.name for file in files] == [name + end for name in names for end in endings]
    sums = (root / "artifacts" / "SHA256SUMS").read_text().splitlines()
    assert sums == [f"{wheels.digest(file)}  dist/{file.name}" for file in files]
    assert session.logged[2:] == sums


def test_build_keeps_nothing_if_a_file_changes_while_it_is_checked(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_a_file(_: object, files: list[Path], __: Path) -> None:
        with files[0].open("ab") as file:
            file.write(b"more")

    monkeypatch.setattr(release, "_test_wheels", change_a_file)
    with pytest.raises(FailedError, match="changed while they were checked; nothing is kept"):
        run("build")
    assert not (root / "dist").exists()
    assert not (root / "artifacts" / "SHA256SUMS").exists()


HOOK = """\
import pathlib
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

class CustomBuildHook(BuildHookInterface):
    def initialize(self, version, build_data):
        made = pathlib.Path(self.root, "made.py")
        made.write_text({CONTENTS})
        build_data["force_include"][str(made)] = "made.py"
"""


@pytest.mark.parametrize(
    ("contents", "refused", "printed"),
    [
        pytest.param(
            "self.root", "are not identical", ".whl: gates/made.py", id="not_reproducible"
        ),
        pytest.param(
            "''", "differ from the commit", "also contains gates/made.py", id="uncommitted_file"
        ),
    ],
)
def test_build_refuses_a_package_that_varies_or_differs_from_the_commit(
    contents: str, refused: str, printed: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = root / "src" / "gates" / "pyproject.toml"
    text = file.read_text().replace("exclude = [", 'exclude = ["/hatch_build.py", "/made.py", ')
    file.write_text(f"{text}\n[tool.hatch.build.hooks.custom]\n")
    commit(
        root, "feat: a hook", **{"src/gates/hatch_build.py": HOOK.replace("{CONTENTS}", contents)}
    )
    with pytest.raises(FailedError, match=refused):
        run("build")
    assert printed in capsys.readouterr().out
    assert not (root / "dist").exists()


def test_publish_reports_what_would_be_uploaded_and_uploads_nothing(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dist, sums = root / "dist", root / "artifacts" / "SHA256SUMS"
    with pytest.raises(SystemExit) as ended:
        run("publish")
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("run first: nox -s build\n")
    dist.mkdir()
    sums.parent.mkdir()
    wheel = dist / f"{DEFAULT}-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    sums.write_text(f"{wheels.digest(wheel)}  dist/{wheel.name}\n")
    run("publish")
    printed = capsys.readouterr().out
    assert f"{wheels.digest(wheel)}  dist/{wheel.name}, 7 bytes" in printed
    assert f"to PyPI as {DEFAULT} 0.1.0, by trusted publishing" in printed
    assert "attestations on GitHub" in printed
    assert "not yet: HEAD has no tag v0.1.0" in printed
    git("tag", "v0.1.0", cwd=root)
    run("publish")
    assert "(HEAD is v0.1.0)" in capsys.readouterr().out

    wheel.write_bytes(b"another wheel")
    with pytest.raises(FailedError, match="dist/ differs from the output of nox -s build"):
        run("publish")
    sums.write_text(f"{wheels.digest(wheel)}  dist/{wheel.name}\n")
    release.write_version("0.1.1", root)
    with pytest.raises(FailedError, match=r"any\.whl is not a package of 0\.1\.1"):
        run("publish")


def test_commit_outside_the_default_branch_is_not_released(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEFAULT_BRANCH", "main")
    with pytest.raises(FailedError, match=r"origin/main is not in this clone, .*git fetch origin"):
        run("publish")
    git("update-ref", "refs/remotes/origin/main", "HEAD", cwd=root)
    with pytest.raises(SystemExit):  # by the next check: there is no dist/
        run("publish")
    git("commit", "--allow-empty", "--message", "fix: not reviewed", cwd=root)
    git("tag", "v0.1.0", cwd=root)
    with pytest.raises(FailedError, match="HEAD is not on origin/main"):
        run("publish")


def test_publish_job_uploads_only_what_was_built_and_runs_no_commands() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    job = text.split("\n  publish:\n")[1].split("\n  green:\n")[0]
    assert "run:" not in job
    assert "actions/checkout" not in job
    assert "$/" not in job
    assert "needs: [plan, model, notes, package, session, attest, registry]" in job

    # By ID: another job could upload an artifact with the same name.
    assert "artifact-ids: ${{ needs.package.outputs.dist }}" in job
    assert "name:" not in job.split("steps:")[1]

    # A run started by hand on a tag must not publish.
    pushed = "github.event_name == 'push' && github.ref_type == 'tag'"
    uploads = re.findall(r"uses: (actions/attest|pypa/gh-action-pypi-publish)@\w+.*\n(.+)\n", job)
    assert uploads == [
        ("actions/attest", f"        if: {pushed}"),
        ("pypa/gh-action-pypi-publish", f"        if: {pushed}"),
    ]
    signs = text.split("\n  attest:\n")[1].split("\n  registry:\n")[0]
    assert "run:" not in signs
    assert "environment:" not in signs, "PyPI accepts uploads only from its environment"
    assert "id-token: write" not in text.replace(job, "").replace(signs, "")


def test_registry_job_stages_a_model_only_after_all_checks() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    job = text.split("\n  registry:\n")[1].split("\n  publish:\n")[0]
    assert "needs: [plan, model, notes, package, session, attest]" in job
    ran = re.findall(r"run: (.*)", job)
    assert ran == [
        'nox -s "register($PROJECT)" -- --run-id release',
        'nox -s "promote($PROJECT)" -- --to staging',
    ]
    assert f"--run-id {ran[0].split()[-1]} " in text.split("\n  registry:\n")[0]


def test_release_on_a_laptop_runs_its_sessions_in_a_working_order() -> None:
    listed = run_nox("--list", "-t", "release", cwd=ROOT).stdout
    names = [*dict.fromkeys(re.findall(r"^\* ([\w-]+)", listed, re.MULTILINE))]
    order = ["train", "evaluate", "build", "version", "changelog", "publish", "sbom"]
    assert [name for name in names if name in order] == order
