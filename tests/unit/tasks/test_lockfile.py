import re
import shutil
from pathlib import Path

import pytest

from tasks.environments import lockfile, uv
from tasks.project import ROOT, members
from tests.local_index import Index
from tests.repository import git

LOCK = """\
[[package]]
name = "tiny"
version = "1.0"
source = { registry = "https://mirror.example/simple" }
sdist = { url = "https://files.example/ab/cd/tiny-1.0.tar.gz", hash = "sha256:00", size = 1 }
wheels = [
    { url = "http://files.example:8080/x/tiny-1.0-py3-none-any.whl", hash = "sha256:01", size = 2 },
]
"""


def test_portable_form_names_no_index() -> None:
    text = lockfile.portable(LOCK)
    assert set(re.findall(r"https?://[^/\"]+", text)) == {"https://index.invalid"}
    assert 'registry = "https://index.invalid/simple"' in text
    assert 'url = "https://index.invalid/tiny-1.0.tar.gz"' in text


def test_portable_form_keeps_versions_hashes_and_sizes() -> None:
    pattern = r'version = "[^"]+"|hash = "[^"]+"|size = \d+'
    assert re.findall(pattern, lockfile.portable(LOCK)) == re.findall(pattern, LOCK)


def test_portable_form_of_a_portable_lock_is_unchanged() -> None:
    assert lockfile.portable(lockfile.portable(LOCK)) == lockfile.portable(LOCK)


@pytest.mark.parametrize(
    ("line", "foreign"),
    [
        pytest.param('source = { registry = "https://mirror.example/simple" }', 1, id="mirror"),
        pytest.param('source = { registry = "/opt/wheels" }', 1, id="folder"),
        pytest.param('source = { git = "ssh://git@host.example/tiny?rev=1" }', 1, id="git"),
        pytest.param('source = { url = "https://host.example/tiny.tar.gz" }', 1, id="file"),
        pytest.param('source = { registry = "https://index.invalid/simple" }', 0, id="placeholder"),
        pytest.param('source = { editable = "." }', 0, id="the_project_itself"),
    ],
)
def test_a_source_that_is_not_the_placeholder_is_foreign(line: str, foreign: int) -> None:
    lock = f'[[package]]\nname = "tiny"\n{line}\n'
    assert len(lockfile.foreign_sources(lock)) == foreign


def test_files_in_a_folder_become_portable_too() -> None:
    lock = (
        '[[package]]\nname = "tiny"\nsource = { registry = "/opt/wheels" }\n'
        'wheels = [\n    { path = "tiny-1.0-py3-none-any.whl", hash = "sha256:00" },\n]\n'
    )
    assert len(lockfile.foreign_sources(lock)) == 2
    assert lockfile.foreign_sources(lockfile.portable(lock)) == []


def test_lock_of_this_repository_is_portable_and_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert lockfile.main(ROOT) == 0, capsys.readouterr().out


def test_a_lock_that_names_a_host_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GITHUB_HEAD_REF", raising=False)
    (tmp_path / "uv.lock").write_text(LOCK)
    assert lockfile.main(tmp_path) == 1
    assert capsys.readouterr().out == (
        "uv.lock: names https://mirror.example/simple and 2 more, so it can be installed only "
        "from there; write the portable form: nox -s lock\n"
    )


@pytest.fixture
def user_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's uv configuration that asks for older versions and forbids wheels."""
    (tmp_path / "uv").mkdir()
    lines = ['exclude-newer = "2024-01-01T00:00:00Z"', "[pip]", 'no-binary = ["tiny"]']
    (tmp_path / "uv" / "uv.toml").write_text("\n".join(lines))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.mark.usefixtures("user_config")
def test_user_configuration_of_uv_does_not_make_the_lock_stale() -> None:
    assert lockfile.main(ROOT) == 0


@pytest.mark.usefixtures("user_config")
def test_user_configuration_of_uv_is_not_written_into_the_lock(project: Path, index: Index) -> None:
    index.publish("tiny", "2.0")
    assert lockfile.renew(project, ["--upgrade"]) == "Updated tiny v1.0 -> v2.0"
    assert "exclude-newer" not in (project / "uv.lock").read_text()


def copy_lock(folder: Path) -> None:
    """Copy the lock and the pyproject files that it is resolved from."""
    for each in (ROOT, *members(ROOT)):
        copy = folder / each.relative_to(ROOT)
        copy.mkdir(parents=True, exist_ok=True)
        shutil.copy(each / "pyproject.toml", copy)
    shutil.copy(ROOT / "uv.lock", folder)


def rename_package(folder: Path) -> None:
    """Rename the package with the torch extras by search and replace over all files."""
    copy_lock(folder)
    (folder / "src" / "training").rename(folder / "src" / "learning")
    for name in (
        "pyproject.toml",
        "uv.lock",
        *(f"src/{each.name}/pyproject.toml" for each in members(folder)),
    ):
        text = (folder / name).read_text()
        text = re.sub(r"(?<!-)\btraining(?!-torch)\b", "learning", text)
        (folder / name).write_text(text)


def test_a_lock_whose_markers_select_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rename_package(tmp_path)
    # uv accepts this lock, but would export both torch versions together.
    index = f"--default-index={lockfile.PLACEHOLDER}/simple"
    assert uv.problem("lock", "--check", "--offline", index, cwd=tmp_path) is None
    assert lockfile.main(tmp_path) == 1
    assert capsys.readouterr().out == (
        "uv.lock: does not match pyproject.toml (its markers name the extra "
        "extra-8-training-torch-2-11, which no package here has); update it: "
        "nox -s lock\n"
    )


@pytest.mark.parametrize(
    "types",
    [
        pytest.param('["mypy>=2.3", "flask"]', id="added"),
        pytest.param('["mypy>=2.2"]', id="changed"),
        pytest.param("[]", id="removed"),
    ],
)
def test_changed_requirements_make_the_lock_stale(
    types: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy_lock(tmp_path)
    pyproject = (ROOT / "pyproject.toml").read_text()
    changed = pyproject.replace('types = ["mypy>=2.3"]', f"types = {types}")
    assert changed != pyproject
    (tmp_path / "pyproject.toml").write_text(changed)
    before = (tmp_path / "uv.lock").read_bytes()

    assert lockfile.main(tmp_path) == 1
    expected = "uv.lock: does not match pyproject.toml; update it: nox -s lock\n"
    assert capsys.readouterr().out == expected
    assert (tmp_path / "uv.lock").read_bytes() == before


def test_truncated_lock_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy_lock(tmp_path)
    text = (ROOT / "uv.lock").read_text()
    (tmp_path / "uv.lock").write_text(text[: len(text) // 2])
    assert lockfile.main(tmp_path) == 1
    assert "git checkout uv.lock" in capsys.readouterr().out


def test_renew_writes_the_portable_form(project: Path) -> None:
    lock = (project / "uv.lock").read_text()
    assert lockfile.foreign_sources(lock) == []
    assert 'name = "tiny"\nversion = "1.0"' in lock


def test_renew_keeps_the_pins(project: Path, index: Index) -> None:
    before = (project / "uv.lock").read_text()
    index.publish("tiny", "2.0")
    lockfile.renew(project, [])
    assert (project / "uv.lock").read_text() == before


def test_renew_upgrades_when_asked(project: Path, index: Index) -> None:
    index.publish("tiny", "2.0")
    assert lockfile.renew(project, ["--upgrade"]) == "Updated tiny v1.0 -> v2.0"
    assert 'name = "tiny"\nversion = "2.0"' in (project / "uv.lock").read_text()


@pytest.fixture
def dependabot_project(project: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project with an upgraded lock as uv writes it, which names the index."""
    for name in ("GITHUB_ACTOR", "GITHUB_HEAD_REF"):
        monkeypatch.delenv(name, raising=False)
    git("init", "--quiet", "--initial-branch=main", cwd=project)
    index.publish("tiny", "2.0")
    assert uv.problem("lock", "--upgrade", cwd=project) is None
    assert index.url in (project / "uv.lock").read_text()
    return project


BRANCH = "dependabot/uv/python-1a2b3c"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"GITHUB_HEAD_REF": BRANCH, "GITHUB_ACTOR": "mallory"},
        {"GITHUB_ACTOR": "dependabot[bot]"},  # the merge queue
    ],
    ids=["laptop", "another_actor", "merge_queue"],
)
def test_branch_name_alone_does_not_permit_the_full_form(
    dependabot_project: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    git("checkout", "--quiet", "-b", BRANCH, cwd=dependabot_project)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert lockfile.main(dependabot_project) == 1


def test_full_form_is_accepted_from_dependabot(
    dependabot_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_HEAD_REF", BRANCH)
    monkeypatch.setenv("GITHUB_ACTOR", "dependabot[bot]")
    assert lockfile.main(dependabot_project) == 0
    message = "uv.lock: in the form that Dependabot writes; before merging, run: nox -s lock\n"
    assert capsys.readouterr().out == message


def test_stale_lock_from_dependabot_is_refused(
    dependabot_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_HEAD_REF", BRANCH)
    monkeypatch.setenv("GITHUB_ACTOR", "dependabot[bot]")
    pyproject = dependabot_project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"tiny"', '"tiny<2"'))
    assert lockfile.main(dependabot_project) == 1
    assert capsys.readouterr().out.startswith("uv.lock: does not match pyproject.toml; ")


def test_renew_makes_the_full_form_portable_and_keeps_its_versions(
    dependabot_project: Path, index: Index
) -> None:
    lockfile.renew(dependabot_project, [])
    lock = (dependabot_project / "uv.lock").read_text()
    assert index.url not in lock
    assert 'name = "tiny"\nversion = "2.0"' in lock
    assert lockfile.main(dependabot_project) == 0


def test_renew_without_a_solution_leaves_the_lock_unchanged(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (project / "uv.lock").read_bytes()
    pyproject = project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"tiny"', '"tiny>=9"'))
    with pytest.raises(SystemExit) as ended:
        lockfile.renew(project, [])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (project / "uv.lock").read_bytes() == before
