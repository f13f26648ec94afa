"""The sessions of a release, run with Nox in a copy of this repository."""

import json
import re
from pathlib import Path

import pytest

from tasks import lockfile, package, release
from tasks.project import ROOT
from tasks.versions import Version
from tests.repository import git, nox


def commit(checkout: Path, message: str, **files: str) -> None:
    for name, text in files.items():
        (checkout / name).write_text(text)
    git("add", "--all", cwd=checkout)
    done = git("commit", "--quiet", "--allow-empty", "--message", message, cwd=checkout)
    assert done.returncode == 0, done.stderr


def test_commits_refuses_what_is_not_in_the_form(checkout: Path) -> None:
    first = nox("-s", "commits", cwd=checkout)
    assert first.returncode == 0, "GitHub or a template has made it"
    commit(checkout, "mend it")
    refused = nox("-s", "commits", cwd=checkout)
    assert refused.returncode == 1
    assert "'mend it' is not of the form" in refused.stdout
    commit(checkout, "fix: mend it")
    passed = nox("-s", "commits", cwd=checkout)
    assert passed.returncode == 0, passed.stderr
    assert "1, each in the form" in passed.stderr
    assert nox("-s", "commits", "--", "--since", "HEAD~1", cwd=checkout).returncode == 0
    unknown = nox("-s", "commits", "--", "--since", "nothing", cwd=checkout)
    assert unknown.returncode == 2
    assert "commits: git knows no commit nothing here\n" in unknown.stderr


@pytest.mark.parametrize(("ci", "code"), [("", 0), ("true", 2)])
@pytest.mark.parametrize("name", ["commits", "version", "changelog"])
def test_a_shallow_clone_skips_and_says_so_but_not_in_ci(
    name: str, ci: str, code: int, checkout: Path, tmp_path: Path
) -> None:
    commit(checkout, "fix: mend it")
    shallow = tmp_path / "shallow"
    address = checkout.as_uri()
    cloned = git("clone", "--quiet", "--depth=1", address, str(shallow), cwd=tmp_path)
    assert cloned.returncode == 0, cloned.stderr
    ran = nox("-s", name, cwd=shallow, CI=ci)
    assert ran.returncode == code
    assert "a shallow clone lacks commits; git fetch --unshallow --tags" in ran.stderr


def test_version_prints_why_and_writes_it(checkout: Path) -> None:
    git("tag", "v0.1.0", cwd=checkout)
    commit(checkout, "feat(data): more of it")
    ran = nox("-s", "version", "--", "--write", cwd=checkout)
    assert ran.returncode == 0, ran.stderr
    first, second, third = ran.stdout.splitlines()
    assert first == "commits since v0.1.0: 1"
    assert re.fullmatch(r"minor  [0-9a-f]{8} feat\(data\): more of it", second)
    assert re.fullmatch(r"next: 0.1.0 -> 0.2.0, because [0-9a-f]{8} adds a feature", third)
    changed = git("diff", "--stat=100", "--numstat", cwd=checkout).stdout
    assert "1\t1\tpyproject.toml" in changed
    assert "1\t1\tuv.lock" in changed
    assert lockfile.staleness(checkout) is None
    git("tag", "v0.2.1", cwd=checkout)
    wrong = nox("-s", "version", cwd=checkout)
    assert wrong.returncode == 1
    assert "tagged v0.2.1, and pyproject.toml says 0.2.0" in wrong.stderr


def test_a_version_that_stands_nowhere_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "a"\ndynamic = ["version"]\n')
    (tmp_path / "uv.lock").write_text("")
    with pytest.raises(SystemExit) as ended:
        release.write_version(Version(1, 0, 0), tmp_path)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("version: pyproject.toml: no single line")


def test_changelog_moves_the_text_and_adds_what_nobody_wrote(checkout: Path) -> None:
    by_hand = "# Changelog\n\n## [Unreleased]\n\n### Added\n- Told by hand.\n"
    git("tag", "v0.1.0", cwd=checkout)
    commit(checkout, "feat: told", **{"CHANGELOG.md": by_hand})
    commit(checkout, "fix: untold")
    ran = nox("-s", "changelog", cwd=checkout)
    assert ran.returncode == 0, ran.stderr
    text = (checkout / "CHANGELOG.md").read_text()
    expected = (
        r"# Changelog\n\n## \[Unreleased\]\n\n## \[0\.2\.0\] - 20\d\d-\d\d-\d\d\n\n"
        r"### Added\n- Told by hand\.\n\n### Fixed\n\n- Untold \([0-9a-f]{8}\)\n"
    )
    assert re.fullmatch(expected, text), text
    notes = (checkout / "artifacts" / "release-notes.md").read_text()
    assert notes.startswith("# my-project 0.2.0\n")
    assert "none was trained" in notes
    assert "there is no model in outputs/: nox -s train makes one" in ran.stderr
    again = nox("-s", "changelog", cwd=checkout)
    assert again.returncode == 0
    assert (checkout / "CHANGELOG.md").read_text() == text


def test_changelog_in_ci_needs_a_model_and_a_tag_needs_its_section(checkout: Path) -> None:
    without = nox("-s", "changelog", cwd=checkout, CI="true")
    assert without.returncode == 2
    assert "CI=true allows no release notes without it" in without.stderr
    git("checkout", "--", ".", cwd=checkout)
    git("tag", "v9.0.0", cwd=checkout)
    untold = nox("-s", "changelog", cwd=checkout)
    assert untold.returncode == 1
    assert "v9.0.0 is tagged without a section in CHANGELOG.md" in untold.stderr
    git("tag", "--delete", "v9.0.0", cwd=checkout)
    git("tag", "v0.1.0", cwd=checkout)
    commit(checkout, "docs: nothing notable")
    skipped = nox("-s", "changelog", cwd=checkout)
    assert skipped.returncode == 0
    assert "next: none" in skipped.stderr


def test_release_notes_of_a_model_with_another_provenance_are_refused(checkout: Path) -> None:
    run = checkout / "outputs" / "run"
    run.mkdir(parents=True)
    (run / "checkpoint.pt").write_bytes(b"swapped")
    (checkout / "outputs" / "latest.pt").symlink_to("run/checkpoint.pt")
    subject = [{"name": "checkpoint.pt", "digest": {"sha256": "0" * 64}}]
    (run / "provenance.json").write_text(json.dumps({"subject": subject}))
    ran = nox("-s", "changelog", cwd=checkout)
    assert ran.returncode == 1
    assert "outputs/run/provenance.json is about another checkpoint" in ran.stderr


def test_publish_says_what_would_go_where_and_uploads_nothing(checkout: Path) -> None:
    nothing = nox("-s", "publish", cwd=checkout)
    assert nothing.returncode == 2
    assert "run first: nox -s build" in nothing.stderr
    dist, artifacts = checkout / "dist", checkout / "artifacts"
    dist.mkdir()
    artifacts.mkdir(exist_ok=True)
    wheel = dist / "my_project-0.1.0-py3-none-any.whl"
    wheel.write_bytes(b"a wheel")
    sums = artifacts / "SHA256SUMS"
    sums.write_text(f"{package.digest(wheel)}  dist/{wheel.name}\n")
    told = nox("-s", "publish", cwd=checkout)
    assert told.returncode == 0, told.stderr
    assert f"{package.digest(wheel)}  dist/{wheel.name}, 7 bytes" in told.stdout
    assert "to PyPI as my-project 0.1.0, by trusted publishing" in told.stdout
    assert "GitHub's attestations" in told.stdout
    assert "not yet: HEAD has no tag v0.1.0" in told.stdout
    git("tag", "v0.1.0", cwd=checkout)
    assert "(HEAD is v0.1.0)" in nox("-s", "publish", cwd=checkout).stdout

    wheel.write_bytes(b"another wheel")
    swapped = nox("-s", "publish", cwd=checkout)
    assert swapped.returncode == 1
    assert "dist/ is not what nox -s build left there" in swapped.stderr

    sums.write_text(f"{package.digest(wheel)}  dist/{wheel.name}\n")
    release.write_version(Version(0, 1, 1), checkout)
    older = nox("-s", "publish", cwd=checkout)
    assert older.returncode == 1
    assert f"{wheel.name} is not my-project 0.1.1" in older.stderr


def test_the_workflow_publishes_only_what_was_built_and_runs_nothing_beside_it() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    job = text.split("\n  publish:\n")[1].split("\n  green:\n")[0]
    assert "run:" not in job
    assert "actions/checkout" not in job
    assert "$/" not in job
    assert "needs: [plan, model, package, session]" in job
    uploads = re.findall(r"uses: (actions/attest|pypa/gh-action-pypi-publish)@\w+.*\n(.+)\n", job)
    assert uploads == [
        ("actions/attest", "        if: github.ref_type == 'tag'"),
        ("pypa/gh-action-pypi-publish", "        if: github.ref_type == 'tag'"),
    ]
    assert "id-token: write" not in text.replace(job, ""), "no other job can publish"
