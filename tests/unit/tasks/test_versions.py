from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks import commits, versions
from tasks.commits import Message
from tasks.versions import Level, Version
from tests.history import History

NUMBERS = st.integers(0, 20)
VERSIONS = st.builds(Version, NUMBERS, NUMBERS, NUMBERS)
MESSAGES = st.builds(
    Message,
    type=st.sampled_from(commits.TYPES),
    scope=st.none() | st.just("data"),
    description=st.just("x"),
    is_breaking=st.booleans(),
)


def next_of(version: Version, messages: list[Message]) -> Version:
    return version.after(max(map(versions.level_of, messages), default=Level.NONE))


@given(VERSIONS, st.lists(MESSAGES))
def test_a_next_version_is_later_or_there_is_nothing_to_release(
    version: Version, messages: list[Message]
) -> None:
    following = next_of(version, messages)
    notable = [each for each in messages if versions.level_of(each)]
    assert (following > version) == bool(notable)
    assert (following == version) == (not notable)


@given(VERSIONS, st.lists(MESSAGES), MESSAGES)
def test_one_more_commit_never_lowers_the_next_version(
    version: Version, messages: list[Message], more: Message
) -> None:
    assert next_of(version, [*messages, more]) >= next_of(version, messages)


@given(VERSIONS, st.lists(MESSAGES).flatmap(lambda each: st.tuples(*[st.permutations(each)] * 2)))
def test_the_order_of_commits_does_not_matter(
    version: Version, orders: tuple[list[Message], list[Message]]
) -> None:
    assert next_of(version, orders[0]) == next_of(version, orders[1])


@given(VERSIONS, MESSAGES)
def test_exactly_one_number_rises_by_one_and_those_after_it_are_zero(
    version: Version, message: Message
) -> None:
    following = next_of(version, [message])
    successors = {
        Version(version.major + 1, 0, 0),
        Version(version.major, version.minor + 1, 0),
        Version(version.major, version.minor, version.patch + 1),
    }
    assert following in successors | {version}


@given(VERSIONS)
def test_a_version_is_read_as_it_is_written(version: Version) -> None:
    assert versions.read(str(version)) == version


# Items 2, 9 and 10 of the specification: no leading zero; pre-releases and builds are others.
@pytest.mark.parametrize(
    "text",
    ["1.2", "1.2.3.4", "01.2.3", "1.2.03", "1.2.3-rc1", "1.2.3+b", "v1.2.3", " 1.2.3", "1.2.٣"],
)
def test_what_is_no_final_version_is_not_read(text: str) -> None:
    assert versions.read(text) is None


# Items 4, 6, 7 and 8 of https://semver.org/spec/v2.0.0.html; what a type asks for is item 1 to 3
# of the specification of Conventional Commits.
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
        pytest.param("1.2.3", ["docs: x", "ci: y", "refactor: z"], None, id="nothing_notable"),
        pytest.param("1.2.3", ["whatever"], None, id="not_in_the_form"),
    ],
)
def test_the_next_version_of_a_real_history(
    last: str, messages: list[str], expected: str | None, tmp_path: Path
) -> None:
    history = History(tmp_path / "a")
    history.commit("feat!: what was before does not count")
    history.tag(f"v{last}")
    for message in messages:
        history.commit(message)
    found = versions.of_head(Version(0, 1, 0), history.root).version
    assert (str(found) if found else None) == expected


def test_the_last_version_is_the_highest_that_head_has(tmp_path: Path) -> None:
    history = History(tmp_path / "a")
    history.commit("feat: begin")
    for tag in ("v0.1.0", "v0.10.0", "v0.9.0"):  # as git sorts them
        history.tag(tag)
    history.commit("fix: x")
    history.tag("v0.11.0-rc1")  # no final version
    history.tag("vendor")
    history.switch("elsewhere")
    history.commit("feat!: y")
    history.tag("v3.0.0")  # not in the history of main
    history.switch("main")
    release = versions.of_head(Version(0, 1, 0), history.root)
    assert (release.last, release.version, release.tagged) == (
        Version(0, 10, 0),
        Version(0, 10, 1),
        None,
    )


def test_the_first_release_is_what_pyproject_says(tmp_path: Path) -> None:
    history = History(tmp_path / "a")
    history.commit("feat!: begin")
    release = versions.of_head(Version(0, 1, 0), history.root)
    assert (release.last, release.version) == (None, Version(0, 1, 0))
    assert versions.account(release)[-1].startswith("next: 0.1.0, the first release")


def test_a_tagged_head_is_told_with_what_its_commits_ask_for(tmp_path: Path) -> None:
    history = History(tmp_path / "a")
    history.commit("feat: begin")
    history.tag("v0.1.0")
    history.commit("fix: x")
    history.tag("v1.0.0")
    release = versions.of_head(Version(1, 0, 0), history.root)
    assert release.tagged == Version(1, 0, 0)
    assert versions.account(release)[-1] == "HEAD is v1.0.0; its commits ask for 0.1.1"


def test_the_account_names_each_commit_and_the_one_that_decides(tmp_path: Path) -> None:
    history = History(tmp_path / "a")
    history.commit("feat: begin")
    history.tag("v0.1.0")
    history.commit("docs: a")
    first = history.commit("feat: b")
    history.commit("feat: c")
    history.commit("whatever")
    release = versions.of_head(Version(0, 1, 0), history.root)
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
    ("messages", "tag", "declared", "said"),
    [
        pytest.param(["fix: x"], "v0.1.1", "0.1.1", [], id="right"),
        pytest.param(["fix: x"], "v1.0.0", "1.0.0", [], id="higher_as_people_decide_that"),
        pytest.param(
            ["feat: x"],
            "v0.1.1",
            "0.1.1",
            ["tagged v0.1.1, and its commits ask for 0.2.0"],
            id="too_low",
        ),
        pytest.param(
            ["fix: x"],
            "v0.1.1",
            "0.1.0",
            ["tagged v0.1.1, and pyproject.toml says 0.1.0"],
            id="not_what_pyproject_says",
        ),
        pytest.param(["feat: x"], None, "0.1.0", [], id="no_tag"),
    ],
)
def test_a_tag_is_held_to_pyproject_and_to_its_commits(
    messages: list[str], tag: str | None, declared: str, said: list[str], tmp_path: Path
) -> None:
    history = History(tmp_path / "a")
    history.commit("feat: begin")
    history.tag("v0.1.0")
    for message in messages:
        history.commit(message)
    if tag:
        history.tag(tag)
    version = versions.read(declared)
    assert version is not None
    release = versions.of_head(version, history.root)
    assert versions.problems(release, version) == said
