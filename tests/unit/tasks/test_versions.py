from pathlib import Path

import pytest

from tasks.packaging import versions
from tests.history import History


# Items 2, 9 and 10 of Semantic Versioning: no leading zeros; no pre-release, no build metadata.
@pytest.mark.parametrize(
    "text",
    ["1.2", "1.2.3.4", "01.2.3", "1.2.03", "1.2.3-rc1", "1.2.3+b", "v1.2.3", " 1.2.3", "1.2.٣"],
)
def test_any_other_text_is_not_a_final_version(text: str) -> None:
    assert not versions.is_version(text)


# Items 4, 6, 7 and 8 of https://semver.org/spec/v2.0.0.html; the level of a commit type follows
# items 1 to 3 of the Conventional Commits specification.
@pytest.mark.parametrize(
    ("last", "messages", "expected"),
    [
        pytest.param("1.2.3", ["fix: x"], "1.2.4", id="fix"),
        pytest.param("1.2.3", ["perf: x"], "1.2.4", id="perf"),
        pytest.param("1.2.3", ['Revert "fix: x"'], "1.2.4", id="revert"),
        pytest.param("1.2.3", ["feat: x", "fix: y"], "1.3.0", id="feat"),
        pytest.param("1.2.3", ["fix!: x", "feat: y"], "2.0.0", id="breaking"),
        pytest.param("1.2.3", ["docs!: x"], "2.0.0", id="any_type_breaks"),
        pytest.param("1.2.3", ["fix: x\n\nBREAKING CHANGE: y"], "2.0.0", id="footer"),
        pytest.param("0.2.3", ["feat!: x"], "0.3.0", id="breaking_before_1"),
        pytest.param("0.2.3", ["feat: x"], "0.3.0", id="feat_before_1"),
        pytest.param("0.2.3", ["fix: x"], "0.2.4", id="fix_before_1"),
        pytest.param("0.0.3", ["fix: x", "docs!: x"], "0.1.0", id="breaking_before_0_1"),
        pytest.param("0.0.3", ["feat: x"], "0.1.0", id="feat_before_0_1"),
        pytest.param("1.2.3", ["fix: x", "feat: y", "chore: z"], "1.3.0", id="largest_wins"),
        pytest.param("1.2.3", ["docs: x", "ci: y", "refactor: z"], None, id="nothing_notable"),
        pytest.param("1.2.3", ["whatever"], None, id="not_in_the_form"),
    ],
)
def test_next_version_follows_from_the_commits_since_the_last(
    last: str, messages: list[str], expected: str | None, tmp_path: Path
) -> None:
    history = History(tmp_path / "a")
    history.commit("feat!: before the last release")
    history.tag(f"v{last}")
    for message in messages:
        history.commit(message)
    assert versions.of_head("0.1.0", history.root).version == expected


def test_merge_counts_by_the_commits_it_brings_in(tmp_path: Path) -> None:
    history = History(tmp_path / "a")
    history.commit("feat: begin")
    history.switch("topic")
    history.commit("fix: made before the tag")
    history.switch("main")
    history.commit("chore: release")
    history.tag("v1.2.3")
    history.merge("topic", "feat: a merge whose message has the form")
    release = versions.of_head("0.1.0", history.root)
    assert [commit.header for commit in release.log.commits] == ["fix: made before the tag"]
    assert release.version == "1.2.4"


def test_last_version_is_the_highest_tag_reachable_from_head(tmp_path: Path) -> None:
    history = History(tmp_path / "a")
    history.commit("feat: begin")
    for tag in ("v0.1.0", "v0.10.0", "v0.9.0"):  # as git sorts them
        history.tag(tag)
    history.commit("fix: x")
    history.tag("v0.11.0-rc1")  # not a final version
    history.tag("vendor")
    history.switch("elsewhere")
    history.commit("feat!: y")
    history.tag("v3.0.0")  # not in the history of main
    history.switch("main")
    release = versions.of_head("0.1.0", history.root)
    assert (release.last, release.version, release.tagged) == (
        "0.10.0",
        "0.10.1",
        None,
    )


def test_first_release_has_the_version_in_pyproject(tmp_path: Path) -> None:
    history = History(tmp_path / "a")
    history.commit("feat!: begin")
    release = versions.of_head("0.1.0", history.root)
    assert (release.last, release.version) == (None, "0.1.0")
    assert versions.account(release)[-1].startswith("next: 0.1.0, the first release")


def test_tagged_head_is_reported_with_the_version_its_commits_imply(tmp_path: Path) -> None:
    history = History(tmp_path / "a")
    history.commit("feat: begin")
    history.tag("v0.1.0")
    history.commit("fix: x")
    history.tag("v1.0.0")
    release = versions.of_head("1.0.0", history.root)
    assert release.tagged == "1.0.0"
    assert versions.account(release)[-1] == "HEAD is v1.0.0; its commits ask for 0.1.1"


def test_account_lists_each_commit_and_names_the_deciding_one(tmp_path: Path) -> None:
    history = History(tmp_path / "a")
    history.commit("feat: begin")
    history.tag("v0.1.0")
    history.commit("docs: a")
    first = history.commit("feat: b")
    history.commit("feat: c")
    history.commit("whatever")
    release = versions.of_head("0.1.0", history.root)
    head, *lines, last = versions.account(release)
    assert head == "commits since v0.1.0: 4"
    assert [(line.split()[0], line.split(maxsplit=2)[2]) for line in lines] == [
        ("?", "whatever"),
        ("minor", "feat: c"),
        ("minor", "feat: b"),
        ("none", "docs: a"),
    ]
    assert last == f"next: 0.1.0 -> 0.2.0, because {first[:8]} adds a feature"


@pytest.mark.parametrize(
    ("messages", "tag", "declared", "expected"),
    [
        pytest.param(["fix: x"], "v0.1.1", "0.1.1", [], id="matching"),
        pytest.param(["fix: x"], "v1.0.0", "1.0.0", [], id="higher_by_choice"),
        pytest.param(
            ["feat: x"],
            "v0.1.1",
            "0.1.1",
            ["tagged v0.1.1, but its commits ask for 0.2.0"],
            id="too_low",
        ),
        pytest.param(
            ["fix: x"],
            "v0.1.1",
            "0.1.0",
            ["tagged v0.1.1, but pyproject.toml has 0.1.0"],
            id="not_what_pyproject_says",
        ),
        pytest.param(["feat: x"], None, "0.1.0", [], id="no_tag"),
    ],
)
def test_tag_must_agree_with_pyproject_and_its_commits(
    messages: list[str], tag: str | None, declared: str, expected: list[str], tmp_path: Path
) -> None:
    history = History(tmp_path / "a")
    history.commit("feat: begin")
    history.tag("v0.1.0")
    for message in messages:
        history.commit(message)
    if tag:
        history.tag(tag)
    release = versions.of_head(declared, history.root)
    assert versions.problems(release, declared) == expected
