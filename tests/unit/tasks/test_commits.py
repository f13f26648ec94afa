import json
from pathlib import Path

import pytest

from tasks import commits, contracts
from tasks.commits import MessageError
from tests.history import History
from tests.repository import git

CONFIG = "src/my_project/config.schema.json"
OLD = json.dumps({"type": "object", "properties": {"lr": {"type": "number"}}, "required": ["lr"]})
NEEDS_MORE = json.dumps(
    {"type": "object", "properties": {"lr": {"type": "number"}}, "required": ["lr", "seed"]}
)


@pytest.fixture
def history(tmp_path: Path) -> History:
    made = History(tmp_path / "a repository")
    made.commit("feat: begin", {CONFIG: OLD})
    return made


# The examples of the specification, and how our own history is written.
@pytest.mark.parametrize(
    ("text", "type_", "scope", "is_breaking"),
    [
        pytest.param("docs: correct spelling of CHANGELOG", "docs", None, False, id="plain"),
        pytest.param("feat(lang): add Polish language", "feat", "lang", False, id="scope"),
        pytest.param("feat!: send an email", "feat", None, True, id="mark"),
        pytest.param("feat(api)!: send an email", "feat", "api", True, id="scope_and_mark"),
        pytest.param(
            "feat: x\n\nBREAKING CHANGE: `extends` is now a path", "feat", None, True, id="footer"
        ),
        pytest.param("fix: x\n\nBREAKING-CHANGE: y", "fix", None, True, id="footer_with_a_dash"),
        pytest.param("fix: x\n\nbreaking change: y", "fix", None, False, id="footer_in_small"),
        pytest.param("fix: x\n\nno BREAKING CHANGE: y", "fix", None, False, id="not_a_footer"),
        pytest.param('Revert "feat: x"\n\nThis reverts 1.', "revert", None, False, id="git_revert"),
    ],
)
def test_a_message_in_the_form_is_read(
    text: str, type_: str, scope: str | None, *, is_breaking: bool
) -> None:
    message = commits.parse(text)
    assert (message.type, message.scope, message.is_breaking) == (type_, scope, is_breaking)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("add a thing", "is not of the form", id="no_type"),
        pytest.param("feat:add a thing", "is not of the form", id="no_space"),
        pytest.param("feat: ", "is not of the form", id="no_description"),
        pytest.param("feat (x): y", "is not of the form", id="a_space_before_the_scope"),
        pytest.param("feature: x", "feature is none of build, chore", id="unknown_type"),
        pytest.param("Feat: x", "Feat is none of", id="capital"),
        pytest.param("feat(): x", "the scope is empty", id="empty_scope"),
        pytest.param("feat: x\nand more", "leave the second line empty", id="no_empty_line"),
        pytest.param("", "is not of the form", id="empty"),
        pytest.param("Merge the loaders", "is not of the form", id="not_a_merge"),
    ],
)
def test_a_message_in_another_form_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(MessageError) as refused:
        commits.parse(text)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_commits_are_read_newest_first_without_merges(history: History) -> None:
    history.switch("topic")
    history.commit("fix: é and\n\na body\nof two lines")
    history.switch("main")
    history.commit("docs: beside it")
    history.merge("topic")
    read = commits.read("HEAD", history.root)
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
    read = commits.read(f"{base}..HEAD", history.root)
    assert [commit.digest for commit in read] == [two, one]


def test_the_target_that_github_names_comes_first(history: History, tmp_path: Path) -> None:
    release = history.commit("fix: on the branch of a release")
    history.commit("fix: newer")
    git("branch", "v1", release, cwd=history.root)
    git("clone", "--quiet", str(history.root), str(tmp_path / "clone"), cwd=tmp_path)
    git("switch", "--quiet", "--create", "topic", cwd=tmp_path / "clone")
    git("commit", "--allow-empty", "--quiet", "-m", "fix: mine", cwd=tmp_path / "clone")
    assert commits.base(tmp_path / "clone", "v1") == release


def test_on_the_target_itself_the_last_commit_is_new(history: History) -> None:
    first = commits.base(history.root)
    assert commits.read(f"{first}..HEAD", history.root) == [], "a first commit has none before it"
    last = history.commit("fix: last")
    read = commits.read(f"{commits.base(history.root)}..HEAD", history.root)
    assert [commit.digest for commit in read] == [last]


def test_on_a_schedule_which_has_no_target_the_last_commit_is_new(
    history: History, tmp_path: Path
) -> None:
    history.commit("fix: earlier")
    last = history.commit("fix: last")
    git("clone", "--quiet", str(history.root), str(tmp_path / "clone"), cwd=tmp_path)
    # What GitHub sets where there is no pull request.
    since = commits.base(tmp_path / "clone", "")
    read = commits.read(f"{since}..HEAD", tmp_path / "clone")
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
    (commit, _) = commits.read("HEAD", history.root)
    problems = commits.problems(commit, history.root)
    assert len(problems) == count
    if count:
        assert problems[0].endswith(
            f"{CONFIG}: old files: seed is required; "
            "say that it breaks something: feat!: needs a seed"
        )


def test_a_schema_that_is_deleted_or_no_json_breaks(history: History) -> None:
    history.commit("fix: a", {CONFIG: "{"})
    history.commit("fix: b", {CONFIG: OLD})
    history.commit("fix: c", {CONFIG: None})
    history.commit("fix: d", {CONFIG: NEEDS_MORE})
    found = {
        commit.header: len(commits.problems(commit, history.root))
        for commit in commits.read("HEAD", history.root)
    }
    assert found == {"feat: begin": 0, "fix: a": 1, "fix: b": 1, "fix: c": 1, "fix: d": 0}


def test_a_commit_to_be_squashed_is_none_to_keep(history: History) -> None:
    history.commit("fixup! feat: begin")
    (commit, _) = commits.read("HEAD", history.root)
    (problem,) = commits.problems(commit, history.root)
    assert "git rebase --interactive --autosquash" in problem


def check(history: History, text: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    file = history.root / ".git" / "COMMIT_EDITMSG"
    file.write_text(text, encoding="utf-8")
    return commits.main([str(file)], history.root), capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("fix: x\n", id="plain"),
        pytest.param("# Please enter\n\nfix: x\n# On branch main\n", id="comments"),
        pytest.param(
            "fix: x\n# ------------------------ >8 ------------------------\ndiff\n", id="verbose"
        ),
        pytest.param("fixup! fix: x\n", id="fixup"),
        pytest.param("# nothing\n", id="empty_as_git_refuses_it_itself"),
    ],
)
def test_the_hook_takes_what_git_hands_over(
    text: str, history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(history, text, capsys) == (0, "")


def test_the_hook_refuses_in_one_line(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(history, "fine\n", capsys)
    assert code == 1
    assert said.count("\n") == 1
    assert said.startswith("commit message: 'fine' is not of the form TYPE: WHAT")


def test_the_hook_compares_what_is_staged(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    history.stage({CONFIG: NEEDS_MORE})
    code, said = check(history, "feat: needs a seed\n", capsys)
    assert code == 1
    assert "seed is required" in said
    assert check(history, "feat!: needs a seed\n", capsys) == (0, "")


def test_the_hook_leaves_a_merge_alone(
    history: History, capsys: pytest.CaptureFixture[str]
) -> None:
    history.switch("topic")
    history.commit("fix: one")
    history.switch("main")
    history.commit("fix: two")
    assert check(history, "Merge branch 'topic'\n", capsys)[0] == 1, "nothing is being merged"
    git("merge", "--no-commit", "--no-ff", "topic", cwd=history.root)
    assert check(history, "Merge branch 'topic'\n", capsys) == (0, "")


def test_the_contracts_are_files_of_this_repository() -> None:
    listed = git("ls-files", *contracts.CONTRACTS).stdout.split()
    assert sorted(listed) == sorted(contracts.CONTRACTS)
