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

A handwritten note.

### Added
- One thing
  over two lines.

### Custom heading
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

A handwritten note.

### Added
- One thing
  over two lines.
- Two (11111111)

### Fixed

- Three (22222222)
- Four (33333333)

### Custom heading
- Another.

## [0.1.0] - 2026-01-02

### Fixed
- Old.

[0.1.0]: compare/0.1.0
"""


def test_release_moves_the_text_and_adds_lines_for_commits() -> None:
    generated = (
        "### Added\n\n- Two (11111111)\n\n### Fixed\n\n- Three (22222222)\n- Four (33333333)"
    )
    assert changelog.release(TEXT, NEW, "2026-11-24", generated) == RELEASED


def test_releasing_twice_changes_nothing() -> None:
    assert changelog.release(RELEASED, NEW, "2026-12-31", "### Added\n\n- New") == RELEASED


def test_changelog_without_an_unreleased_heading_is_an_error() -> None:
    with pytest.raises(ChangelogError, match=r"no heading `## \[Unreleased\]`"):
        changelog.release("# Changelog\n", NEW, "2026-11-24", "")


@pytest.mark.parametrize(
    "heading",
    ["## [Unreleased]", "## Unreleased", "## [unreleased]", "## Unreleased  "],
)
def test_unreleased_heading_keeps_its_spelling(heading: str) -> None:
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
GENERATED = st.dictionaries(
    st.sampled_from(["Added", "Changed", "Fixed"]), st.lists(WORDS, min_size=1, max_size=3)
).map(
    lambda generated: "\n\n".join(
        f"### {kind}\n\n" + "\n".join(generated[kind]) for kind in generated
    )
)


@given(BODIES, BODIES, GENERATED)
def test_no_handwritten_line_is_lost_or_moved(body: str, older: str, generated: str) -> None:
    text = f"# Changelog\n\n## [Unreleased]\n\n{body}\n\n## [0.1.0] - 2026-01-02\n\n{older}\n"
    released = changelog.release(text, NEW, "2026-11-24", generated)
    written = [line for line in text.splitlines() if line.strip()]
    lines = iter(line for line in released.splitlines() if line.strip())
    assert all(line in lines for line in written), "lines keep their order"
    assert all(line.strip() in released for line in generated.splitlines())
    assert changelog.release(released, NEW, "2026-11-24", generated) == released
    assert released.endswith(text[text.index("## [0.1.0]") :]), "released sections do not change"


def history(root: Path) -> History:
    repository = History(root / "a")
    repository.commit("feat: begin", {"CHANGELOG.md": "# Changelog\n"})
    repository.tag("v0.1.0")
    return repository


def test_a_commit_that_changed_the_changelog_gets_no_line(tmp_path: Path) -> None:
    repository = history(tmp_path)
    repository.commit("feat: described by hand", {"CHANGELOG.md": "# Changelog\n\nA.\n", "a": "1"})
    digest = repository.commit("fix: not described", {"a": "2"})
    repository.switch("topic")
    repository.commit("feat: described on a branch", {"CHANGELOG.md": "# Changelog\n\nA. B.\n"})
    repository.switch("main")
    repository.merge("topic")
    release = versions.of_head(NEW, repository.root)
    assert changelog.missing(release, repository.root) == (
        f"### Fixed\n\n- Not described ({digest[:8]})"
    )


def test_each_notable_commit_gets_a_line_under_its_heading(tmp_path: Path) -> None:
    repository = history(tmp_path)
    messages = [
        "feat(data): read Parquet",
        "fix: é",
        "perf: faster",
        "feat!: needs a seed",
        'Revert "feat: x" (#12)',
        "docs: not listed",
        "not in the form",
    ]
    digests = [repository.commit(message)[:8] for message in messages]
    assert changelog.missing(versions.of_head(NEW, repository.root), repository.root) == (
        f"### Added\n\n- data: Read Parquet ({digests[0]})\n\n"
        f"### Changed\n\n- Faster ({digests[2]})\n"
        f"- **Breaking:** Needs a seed ({digests[3]})\n"
        f"- Reverted: Feat: x (#12) ({digests[4]})\n\n"
        f"### Fixed\n\n- É ({digests[1]})"
    )


def test_release_notes_list_the_model_versions() -> None:
    models = {"own": "cccccccc-123456789abc", "another": None}
    notes = changelog.notes(NEW, "c" * 40, models, "### Added\n- One.")
    assert notes == (
        f"# 0.2.0\n\nCommit `{'c' * 40}`\n\n| model | version |\n|---|---|\n"
        "| own | `cccccccc-123456789abc` |\n| another | none |\n\n## Added\n- One.\n"
    )
