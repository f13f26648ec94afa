import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.packaging import changelog, versions
from tasks.packaging.changelog import ChangelogError
from tests.history import History

NEW = "0.2.0"

TEXT = """\
# Changelog

Words.

## [Unreleased]

A note by hand.

### Added
- One thing
  over two lines.

### Own heading
- Another.

## [0.1.0] - 2026-01-02

### Fixed
- Old.

[0.1.0]: compare/0.1.0
"""

RELEASED = """\
# Changelog

Words.

## [Unreleased]

## [0.2.0] - 2026-11-24

A note by hand.

### Added
- One thing
  over two lines.
- Two (11111111)

### Fixed

- Three (22222222)
- Four (33333333)

### Own heading
- Another.

## [0.1.0] - 2026-01-02

### Fixed
- Old.

[0.1.0]: compare/0.1.0
"""


def test_a_release_takes_the_text_and_the_lines_of_its_commits() -> None:
    more = "### Added\n\n- Two (11111111)\n\n### Fixed\n\n- Three (22222222)\n- Four (33333333)"
    assert changelog.release(TEXT, NEW, "2026-11-24", more) == RELEASED


def test_a_second_time_changes_nothing() -> None:
    assert changelog.release(RELEASED, NEW, "2026-12-31", "### Added\n\n- New") == RELEASED


def test_a_changelog_without_a_place_for_a_release_is_told_in_one_line() -> None:
    with pytest.raises(ChangelogError, match=r"no heading `## \[Unreleased\]`"):
        changelog.release("# Changelog\n", NEW, "2026-11-24", "")


@pytest.mark.parametrize(
    "heading",
    ["## [Unreleased]", "## Unreleased", "## [unreleased]", "## Unreleased  "],
)
def test_the_heading_stays_as_it_is_written(heading: str) -> None:
    text = f"# Changelog\n\n{heading}\n\n### Added\n- One.\n"
    assert changelog.release(text, NEW, "2026-11-24", "") == (
        f"# Changelog\n\n{heading}\n\n## [0.2.0] - 2026-11-24\n\n### Added\n- One.\n"
    )


WORDS = st.text("ab `-#[]", min_size=1, max_size=8).filter(
    lambda text: not re.match(r"#{1,3} |\[[^\]]+\]: ", text)
)
BODIES = st.lists(
    WORDS | st.just("") | st.sampled_from(["### Added", "### Fixed", "### Mine"]), max_size=12
).map("\n".join)
MORE = st.dictionaries(
    st.sampled_from(["Added", "Changed", "Fixed"]), st.lists(WORDS, min_size=1, max_size=3)
).map(lambda more: "\n\n".join(f"### {kind}\n\n" + "\n".join(more[kind]) for kind in more))


@given(BODIES, BODIES, MORE)
def test_not_a_line_by_hand_is_lost_or_moved(body: str, older: str, more: str) -> None:
    text = f"# Changelog\n\n## [Unreleased]\n\n{body}\n\n## [0.1.0] - 2026-01-02\n\n{older}\n"
    done = changelog.release(text, NEW, "2026-11-24", more)
    written = [line for line in text.splitlines() if line.strip()]
    lines = iter(line for line in done.splitlines() if line.strip())
    assert all(line in lines for line in written), "each is found after the one before it"
    assert all(line.strip() in done for line in more.splitlines())
    assert changelog.release(done, NEW, "2026-11-24", more) == done
    assert done.endswith(text[text.index("## [0.1.0]") :]), "what is released stays as it is"


def history(root: Path) -> History:
    made = History(root / "a")
    made.commit("feat: begin", {"CHANGELOG.md": "# Changelog\n"})
    made.tag("v0.1.0")
    return made


def test_a_commit_that_changed_the_changelog_gets_no_line(tmp_path: Path) -> None:
    made = history(tmp_path)
    made.commit("feat: described by hand", {"CHANGELOG.md": "# Changelog\n\nA.\n", "a": "1"})
    digest = made.commit("fix: not described", {"a": "2"})
    made.switch("topic")
    made.commit("feat: described on a branch", {"CHANGELOG.md": "# Changelog\n\nA. B.\n"})
    made.switch("main")
    made.merge("topic")
    release = versions.of_head(NEW, made.root)
    assert changelog.missing(release, made.root) == (f"### Fixed\n\n- Not described ({digest[:8]})")


def test_each_notable_commit_gets_a_line_under_its_heading(tmp_path: Path) -> None:
    made = history(tmp_path)
    messages = [
        "feat(data): read more",
        "fix: é",
        "perf: faster",
        "feat!: needs a seed",
        'Revert "feat: x" (#12)',
        "docs: not listed",
        "not in the form",
    ]
    digests = [made.commit(message)[:8] for message in messages]
    assert changelog.missing(versions.of_head(NEW, made.root), made.root) == (
        f"### Added\n\n- data: Read more ({digests[0]})\n\n"
        f"### Changed\n\n- Faster ({digests[2]})\n"
        f"- **Breaking:** Needs a seed ({digests[3]})\n"
        f"- Reverted: Feat: x (#12) ({digests[4]})\n\n"
        f"### Fixed\n\n- É ({digests[1]})"
    )


def test_the_notes_say_which_models_go_with_the_packages() -> None:
    models = {"own": "cccccccc-123456789abc", "another": None}
    notes = changelog.notes(NEW, "c" * 40, models, "### Added\n- One.")
    assert notes == (
        f"# 0.2.0\n\nCommit `{'c' * 40}`\n\n| model | version |\n|---|---|\n"
        "| own | `cccccccc-123456789abc` |\n| another | none |\n\n## Added\n- One.\n"
    )
