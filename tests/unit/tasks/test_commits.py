import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.packaging import commits, contracts
from tasks.packaging.commits import Level
from tasks.project import ROOT, WORKSPACE
from tests.history import History
from tests.repository import git

CONFIG = f"src/{WORKSPACE.default_project.package}/config.schema.json"
OLD = json.dumps({"type": "object", "properties": {"lr": {"type": "number"}}, "required": ["lr"]})
NEEDS_MORE = json.dumps(
    {"type": "object", "properties": {"lr": {"type": "number"}}, "required": ["lr", "seed"]}
)


@pytest.fixture
def history(tmp_path: Path) -> History:
    repository = History(tmp_path / "a repository")
    repository.commit("feat: begin", {CONFIG: OLD})
    return repository


# Expected levels come from the specification (https://www.conventionalcommits.org/en/v1.0.0/),
# whose examples come first. It leaves reverts open; here a revert is a patch.
@pytest.mark.parametrize(
    ("text", "level"),
    [
        pytest.param("docs: correct spelling of CHANGELOG", Level.NONE, id="no_body"),
        pytest.param("feat(lang): add Polish language", Level.MINOR, id="scope"),
        pytest.param(
            "feat: a\n\nBREAKING CHANGE: `extends` is now a path", Level.MAJOR, id="footer"
        ),
        pytest.param("feat!: send an email", Level.MAJOR, id="mark"),
        pytest.param("feat(api)!: send an email", Level.MAJOR, id="scope_and_mark"),
        pytest.param("feat!: a\n\nBREAKING CHANGE: use b", Level.MAJOR, id="mark_and_footer"),
        pytest.param(
            "fix: a\n\nA body.\n\nMore.\n\nReviewed-by: Z\nRefs: #123",
            Level.PATCH,
            id="many_paragraphs",
        ),
        pytest.param("perf: a", Level.PATCH, id="perf"),
        pytest.param("chore(deps)!: a", Level.MAJOR, id="any_type_breaks"),
        pytest.param("fix: é 漢", Level.PATCH, id="not_ascii"),
        pytest.param("fix(@org/pkg, b): a", Level.PATCH, id="scope_with_punctuation"),
        pytest.param("fix: a\n\nBREAKING-CHANGE: b", Level.MAJOR, id="footer_with_a_hyphen"),
        pytest.param(
            "fix: a\n\nBREAKING CHANGE:\nb is gone", Level.MAJOR, id="footer_on_two_lines"
        ),
        pytest.param(
            "fix: a\n\nA body.\n\nReviewed-by: Z\nBREAKING CHANGE: b\nRefs: #1",
            Level.MAJOR,
            id="footer_between_others",
        ),
        pytest.param("fix: a\r\n\r\nBREAKING CHANGE: b\r\n", Level.MAJOR, id="windows_line_ends"),
        pytest.param("fix: a\n\nno BREAKING CHANGE: b", Level.PATCH, id="prose"),
        pytest.param("docs: a\n\nfeat!: was not done", Level.NONE, id="header_in_the_body"),
        pytest.param("fix: a\n\nCo-authored-by: feat!: <a@b.c>", Level.PATCH, id="trailer"),
        pytest.param('Revert "feat: a"\n\nThis reverts commit 1.', Level.PATCH, id="revert"),
        pytest.param('Revert "feat!: a" (#12)', Level.PATCH, id="revert_squashed"),
        pytest.param('Revert "a thing"', Level.PATCH, id="revert_of_a_free_form_message"),
        pytest.param("revert: feat: a", Level.PATCH, id="revert_by_hand"),
        pytest.param('Revert "Reapply "fix: a""', Level.PATCH, id="revert_of_a_reapply"),
        pytest.param('Reapply "feat: a"\n\nThis reverts commit 1.', Level.MINOR, id="reapply"),
        pytest.param('Reapply "feat!: a" (#13)', Level.MAJOR, id="reapply_squashed"),
        pytest.param("fix: a (#12)\n\n* docs: b\n\n* chore: c", Level.PATCH, id="squash"),
    ],
)
def test_conventional_message_passes_with_its_level(
    text: str, level: Level, history: History
) -> None:
    assert commits.parse(text, history.root).level == level
    assert commits.problems_of_new(text, history.root) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("add a thing", "is not of the form", id="no_type"),
        pytest.param("feat:add a thing", "is not of the form", id="no_space"),
        pytest.param("feat: ", "is not of the form", id="no_description"),
        pytest.param("feat (a): b", "is not of the form", id="a_space_before_the_scope"),
        pytest.param("feat(): a", "is not of the form", id="empty_scope"),
        pytest.param("feat: a\nand more", "then an empty line", id="no_empty_line"),
        pytest.param("Merge the loaders", "is not of the form", id="not_a_merge"),
        pytest.param("feature: a", "unknown type feature", id="unknown_type"),
        pytest.param("feature!: a", "unknown type feature", id="unknown_type_that_breaks"),
        pytest.param("Feat: a", "unknown type Feat", id="capital"),
        pytest.param("fix: a\n\nBREAKING CHANGE:b", "an empty line, then BREAKING", id="tight"),
        pytest.param("fix: a\n\nbreaking change: b", "in capitals", id="not_in_capitals"),
        pytest.param("fix: a\n\nBREAKING CHANGES: b", "does not count", id="plural"),
        pytest.param("fix: a\n\nB.\nBREAKING CHANGE: c", "an empty line", id="not_a_footer"),
    ],
)
def test_other_message_is_refused_in_one_line(text: str, reason: str, history: History) -> None:
    (problem,) = commits.problems_of_new(text, history.root)
    assert reason in problem
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("messages", "title", "reason"),
    [
        pytest.param(["feat!: a", "fix: b"], "fix: c", "a breaking change: add !", id="breaking"),
        pytest.param(["fix: a\n\nBREAKING CHANGE: b"], "feat: c", "add !", id="by_a_footer"),
        pytest.param(["feat: a", "docs: b"], "docs: c", "a feature: write feat: …", id="feature"),
        pytest.param(["feat!: a"], "refactor!: c", None, id="title_marks_the_break"),
        pytest.param(["feat: a", "fix: b"], "feat: c", None, id="title_is_a_feature"),
        pytest.param(["fix: a bug from an earlier commit"], "refactor: c", None, id="fixes_itself"),
    ],
)
def test_squash_title_does_not_hide_the_level_of_its_commits(
    messages: list[str], title: str, reason: str | None, history: History
) -> None:
    first = commits.base(history.root)
    for message in messages:
        history.commit(message)
    found = commits.problems_of_title(title, first, history.root)
    assert len(found) == (reason is not None)
    assert all(reason and reason in each and messages[0].split("\n")[0] in each for each in found)


def test_commits_are_read_newest_first_without_merges(history: History) -> None:
    history.switch("topic")
    history.commit("fix: é and\n\na body\nof two lines")
    history.switch("main")
    history.commit("docs: beside it")
    history.merge("topic")
    read = commits.read(None, history.root).commits
    assert {commit.header for commit in read} == {"feat: begin", "fix: é and", "docs: beside it"}
    (fix,) = [commit for commit in read if commit.header == "fix: é and"]
    assert fix.text == "fix: é and\n\na body\nof two lines"
    assert read[-1].header == "feat: begin"


def test_new_commits_are_those_since_the_branch_left_its_target(history: History) -> None:
    history.switch("topic")
    one = history.commit("fix: one")
    history.switch("main")
    history.commit("fix: somebody else's")
    history.switch("topic")
    two = history.commit("fix: two")
    base = commits.base(history.root)
    read = commits.read(base, history.root).commits
    assert [commit.digest for commit in read] == [two, one]


def test_target_named_by_github_takes_precedence(history: History, tmp_path: Path) -> None:
    release = history.commit("fix: on the branch of a release")
    history.commit("fix: newer")
    git("branch", "v1", release, cwd=history.root)
    git("clone", "--quiet", str(history.root), str(tmp_path / "clone"), cwd=tmp_path)
    git("switch", "--quiet", "--create", "topic", cwd=tmp_path / "clone")
    git("commit", "--allow-empty", "--quiet", "-m", "fix: mine", cwd=tmp_path / "clone")
    assert commits.base(tmp_path / "clone", "v1") == release


def test_on_the_target_itself_the_last_commit_is_new(history: History) -> None:
    first = commits.base(history.root)
    assert commits.read(first, history.root).commits == [], "the first commit has no parent"
    last = history.commit("fix: last")
    read = commits.read(commits.base(history.root), history.root).commits
    assert [commit.digest for commit in read] == [last]


def test_last_commit_is_new_in_a_scheduled_run_without_a_target(
    history: History, tmp_path: Path
) -> None:
    history.commit("fix: earlier")
    last = history.commit("fix: last")
    git("clone", "--quiet", str(history.root), str(tmp_path / "clone"), cwd=tmp_path)
    # GitHub sets an empty value when there is no pull request.
    since = commits.base(tmp_path / "clone", "")
    read = commits.read(since, tmp_path / "clone").commits
    assert [commit.digest for commit in read] == [last]


@pytest.mark.parametrize(
    ("message", "count"),
    [
        pytest.param("feat: needs a seed", 1, id="silent"),
        pytest.param("feat!: needs a seed", 0, id="mark"),
        pytest.param("feat: needs a seed\n\nBREAKING CHANGE: add seed", 0, id="footer"),
    ],
)
def test_a_commit_that_breaks_a_schema_must_say_so(
    message: str, count: int, history: History
) -> None:
    history.commit(message, {CONFIG: NEEDS_MORE})
    (commit, _) = commits.read(None, history.root).commits
    problems = commits.problems(commit, history.root)
    assert len(problems) == count
    if count:
        assert problems[0].endswith(
            f"{CONFIG}: old files: seed is required; "
            "mark the commit as breaking: feat!: needs a seed"
        )


def test_deleting_or_corrupting_a_schema_is_breaking(history: History) -> None:
    history.commit("fix: a", {CONFIG: "{"})
    history.commit("fix: b", {CONFIG: OLD})
    history.commit("fix: c", {CONFIG: None})
    history.commit("fix: d", {CONFIG: NEEDS_MORE})
    found = {
        commit.header: len(commits.problems(commit, history.root))
        for commit in commits.read(None, history.root).commits
    }
    assert found == {"feat: begin": 0, "fix: a": 1, "fix: b": 1, "fix: c": 1, "fix: d": 0}


def test_fixup_commit_must_be_squashed(history: History) -> None:
    history.commit("fixup! feat: begin")
    (commit, _) = commits.read(None, history.root).commits
    (problem,) = commits.problems(commit, history.root)
    assert "git rebase --interactive --autosquash" in problem


def check(history: History, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    file = history.root / ".git" / "COMMIT_EDITMSG"
    file.write_text(text, encoding="utf-8")
    return commits.main([str(file)], history.root), capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "code", "output"),
    [
        ("fix: café\n".encode(), 0, ""),
        ("café\n".encode(), 1, r"\xe9' is not of the form"),
        ("fix: café\n".encode("latin-1"), 1, "commit message: is not UTF-8; write it in UTF-8"),
    ],
    ids=["valid", "invalid", "latin_1"],
)
def test_hook_reads_utf_8_in_any_locale(
    content: bytes, code: int, output: str, history: History
) -> None:
    file = history.root / ".git" / "COMMIT_EDITMSG"
    file.write_bytes(content)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run(
        [sys.executable, "-m", "tasks.packaging.commits", str(file)],
        cwd=ROOT,
        env={**os.environ, **ascii_only},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == code, ran.stderr
    assert "Traceback" not in ran.stderr
    assert output in ran.stdout


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("fix: x\n", id="plain"),
        pytest.param("# Please enter\n\nfix: x\n# On branch main\n", id="comments"),
        pytest.param(
            "fix: x\n# ------------------------ >8 ------------------------\ndiff\n", id="verbose"
        ),
        pytest.param("fixup! fix: x\n", id="fixup"),
        pytest.param("# nothing\n", id="empty_which_git_itself_refuses"),
    ],
)
def test_hook_accepts_messages_as_git_passes_them(
    text: str, history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(history, text, capsys) == (0, "")


def test_hook_refuses_in_one_line(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    code, output = check(history, "fine\n", capsys)
    assert code == 1
    assert output.count("\n") == 1
    assert output.startswith("commit message: 'fine' is not of the form TYPE: WHAT")


def test_hook_checks_staged_schemas(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    history.stage({CONFIG: NEEDS_MORE})
    code, output = check(history, "feat: needs a seed\n", capsys)
    assert code == 1
    assert "seed is required" in output
    assert check(history, "feat!: needs a seed\n", capsys) == (0, "")


def test_hook_accepts_any_first_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(History(tmp_path / "new"), "begin\n", capsys) == (0, "")


def test_hook_accepts_a_merge(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    history.switch("topic")
    history.commit("fix: one")
    history.switch("main")
    history.commit("fix: two")
    assert check(history, "Merge branch 'topic'\n", capsys)[0] == 1, "nothing is being merged"
    git("merge", "--no-commit", "--no-ff", "topic", cwd=history.root)
    assert check(history, "Merge branch 'topic'\n", capsys) == (0, "")


def test_contracts_are_schemas_in_this_repository() -> None:
    configurations = {
        f"src/{project.package}/config.schema.json": "read" for project in WORKSPACE.projects
    }
    assert dict(contracts.contracts("HEAD", ROOT)) == {
        "src/gates/verdict.schema.json": "written",
        **configurations,
    }
