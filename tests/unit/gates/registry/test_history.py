"""The history log: any tampering is detected."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gates.errors import GateInputError
from gates.registry import history, stages
from gates.registry.history import NOTHING_BEFORE, Action, Entry, Head, History, Stored, digest_of

START = datetime(2026, 11, 24, tzinfo=UTC)


def entry(previous: str = NOTHING_BEFORE, **changes: object) -> Entry:
    fields: dict[str, object] = {
        "model": "digits",
        "action": Action.PROMOTE,
        "stage": "production",
        "before": None,
        "after": 1,
        "checkpoint": "c" * 64,
        "files": "f" * 64,
        "by": "anna",
        "when": START,
        "why": "",
        "previous": previous,
    }
    return Entry.model_validate(fields | changes)


def stored(number: int, written: Entry) -> Stored:
    text = written.to_text()
    return Stored(number=number, text=text, digest=digest_of(text))


def chain(length: int) -> list[Stored]:
    found: list[Stored] = []
    previous = NOTHING_BEFORE
    for number in range(1, length + 1):
        found.append(
            stored(
                number,
                entry(
                    previous,
                    before=number - 1 or None,
                    after=number,
                    when=START + timedelta(hours=number),
                ),
            )
        )
        previous = found[-1].digest
    return found


def head_of(log: list[Stored]) -> Head:
    return Head(number=log[-1].number, digest=log[-1].digest)


def problems(found: History) -> list[str]:
    return [each.text for each in found.problems]


def test_every_entry_of_an_unbroken_log_is_held() -> None:
    log = chain(5)
    found = history.read(log, head_of(log))
    assert [each.number for each in found.held] == [1, 2, 3, 4, 5]
    assert (found.void, found.problems, found.head) == ((), (), head_of(log))


def test_an_entry_round_trips_and_always_gives_the_same_text() -> None:
    written = entry(why="ünïcode", when=START.astimezone())
    assert Entry.from_text(written.to_text()) == written
    assert written.to_text() == entry(why="ünïcode").to_text()


@pytest.mark.parametrize("text", ["", "{}", "null", '{"format": "history/2"}', "\ud800"])
def test_text_that_is_not_an_entry_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any kind of ValueError
        Entry.from_text(text)


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValidationError):
        entry(when=datetime(2026, 11, 24))  # noqa: DTZ001 - the naive time is the test


@given(st.integers(2, 9), st.data())
def test_an_edited_entry_is_detected(length: int, data: st.DataObject) -> None:
    log = chain(length)
    at = data.draw(st.integers(0, length - 1))
    edited = entry(Entry.from_text(log[at].text).previous, by="mallory")
    # One forger keeps the old digest, another one recomputes it.
    keeps_digest = data.draw(st.booleans())
    digest = log[at].digest if keeps_digest else digest_of(edited.to_text())
    log[at] = Stored(number=at + 1, text=edited.to_text(), digest=digest)
    head = head_of(chain(length))
    assert problems(history.read(log, head))


@given(st.integers(2, 9), st.data())
def test_a_missing_entry_is_detected(length: int, data: st.DataObject) -> None:
    log = chain(length)
    head = head_of(log)
    at = data.draw(st.integers(0, length - 1))
    del log[at]
    assert problems(history.read(log, head)) == [f"entry {at + 1} is missing"]


@given(st.integers(2, 9), st.data())
def test_an_inserted_entry_has_no_effect_or_is_detected(length: int, data: st.DataObject) -> None:
    log = chain(length)
    at = data.draw(st.integers(0, length - 1))
    previous = data.draw(st.sampled_from([NOTHING_BEFORE, *(each.digest for each in log)]))
    forged = stored(at + 1, entry(previous, by="mallory", after=99))
    later = [Stored(number=e.number + 1, text=e.text, digest=e.digest) for e in log[at:]]
    found = history.read([*log[:at], forged, *later])
    is_held = any(each.entry.by == "mallory" for each in found.held)
    assert not is_held or found.problems or found.void


@given(st.integers(2, 9), st.data())
def test_two_swapped_entries_are_detected(length: int, data: st.DataObject) -> None:
    log = chain(length)
    one, other = sorted(data.draw(st.sets(st.integers(0, length - 1), min_size=2, max_size=2)))
    first, second = log[one], log[other]
    log[one] = Stored(number=one + 1, text=second.text, digest=second.digest)
    log[other] = Stored(number=other + 1, text=first.text, digest=first.digest)
    assert problems(history.read(log))


def test_one_edit_does_not_break_later_entries() -> None:
    log = chain(5)
    log[2] = Stored(number=3, text=entry(by="mallory").to_text(), digest=log[2].digest)
    texts = problems(history.read(log))
    assert texts[0] == "entry 3 was edited: its digest is not that of its text"
    assert not any("entry 4" in each or "entry 5" in each for each in texts)


def test_the_first_of_two_successors_of_one_entry_is_held() -> None:
    log = chain(2)
    late = stored(3, entry(log[0].digest, by="ben", after=7))
    last = stored(4, entry(log[1].digest, by="cleo", after=3))
    found = history.read([*log, late, last])
    assert [each.number for each in found.held] == [1, 2, 4]
    assert [(each.number, each.lost_to) for each in found.void] == [(3, 2)]
    assert found.problems == ()


def test_a_duplicate_entry_counts_once() -> None:
    log = chain(2)
    again = Stored(number=3, text=log[1].text, digest=log[1].digest)
    found = history.read([*log, again])
    assert len(found.held) == 2
    assert found.void[0].lost_to == 2


def test_a_damaged_log_continues_after_an_acknowledgement() -> None:
    log = chain(4)
    del log[1]
    damaged = history.read(log)
    forgives = [each.digest for each in damaged.problems]
    seen = {"action": Action.ACKNOWLEDGE, "why": "restored a backup", "forgives": forgives}
    log.append(stored(5, entry(damaged.head.digest, **seen)))
    found = history.read(log)
    assert problems(found) == ["entry 2 is missing"]
    assert found.open_problems == ()
    later = entry(found.head.digest, after=5)
    log.append(Stored(number=6, text=later.to_text().replace("anna", "mallory"), digest="0" * 64))
    assert [each.number for each in history.read(log).open_problems] == [6]


def test_an_acknowledgement_covers_only_existing_problems() -> None:
    log = chain(4)
    log[1] = Stored(number=2, text=log[1].text.replace("anna", "eve"), digest=log[1].digest)
    damaged = history.read(log)
    forgives = [each.digest for each in damaged.problems]
    seen = {"action": Action.ACKNOWLEDGE, "why": "looked at", "forgives": forgives}
    log.append(stored(5, entry(damaged.head.digest, **seen)))
    assert history.read(log).open_problems == ()
    again = [*log]
    again[1] = Stored(number=2, text=log[1].text.replace("eve", "mallory"), digest=log[1].digest)
    assert [each.number for each in history.read(again).open_problems] == [2]
    older = [*log]
    older[0] = Stored(number=1, text=log[0].text.replace("anna", "eve"), digest=log[0].digest)
    assert [each.number for each in history.read(older).open_problems] == [1]


def test_entries_about_another_model_are_problems() -> None:
    log = chain(3)
    assert problems(history.read(log, model="digits")) == []
    texts = problems(history.read(log, model="letters"))
    assert texts == [f"entry {number} is about another model, digits" for number in (1, 2, 3)]


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_export_proves_nothing(text: str) -> None:
    with pytest.raises(GateInputError, match=r"old\.jsonl: has no entries"):
        list(history.differences(history.read(chain(2)), text, where="old.jsonl"))


def test_an_export_reveals_a_rewritten_log() -> None:
    log = chain(4)
    exported = history.export(history.read(log[:3]))
    assert list(history.differences(history.read(log), exported, where="old.jsonl")) == []
    # A completely rewritten log has no problem in itself.
    forged = [stored(1, entry(by="mallory"))]
    texts = [each.text for each in history.differences(history.read(forged), exported, where="x")]
    assert texts[0] == "entry 1 differs from x"
    assert texts[1] == "entry 2 of x is missing"


@pytest.mark.parametrize("text", ["{}", "[]", "entry", '{"number": "x", "digest": ""}'])
def test_text_that_is_not_an_export_is_refused(text: str) -> None:
    with pytest.raises(GateInputError, match="not a log"):
        list(history.differences(history.read([]), text, where="old.jsonl"))


def replayed(*changes: tuple[Action, int | None]) -> stages.StageState:
    previous, log = NOTHING_BEFORE, []
    for number, (action, after) in enumerate(changes, start=1):
        log.append(stored(number, entry(previous, action=action, after=after)))
        previous = log[-1].digest
    return stages.replay(history.read(log).held)["production"]


def test_repeated_rollbacks_go_further_back() -> None:
    up = [(action, n) for n in (1, 2, 3) for action in (Action.PROMOTE, Action.CONFIRM)]
    assert replayed(*up).versions == [1, 2, 3]
    assert replayed(*up, (Action.ROLLBACK, 2)).versions == [1, 2]
    assert replayed(*up, (Action.ROLLBACK, 2), (Action.ROLLBACK, 1)).versions == [1]
    elsewhere = replayed(*up, (Action.ROLLBACK, 1), (Action.ROLLBACK, 3))
    assert elsewhere.versions == [1, 3]
    assert elsewhere.known_good == {1, 2, 3}


def test_a_promotion_is_unconfirmed_until_confirmed_or_rolled_back() -> None:
    assert replayed((Action.PROMOTE, 1)).unconfirmed is not None
    assert replayed((Action.PROMOTE, 1), (Action.CONFIRM, 1)).unconfirmed is None
    back = replayed((Action.PROMOTE, 1), (Action.ROLLBACK, None))
    assert (back.unconfirmed, back.current, back.known_good) == (None, None, set())


@given(st.lists(st.tuples(st.sampled_from(list(Action)), st.integers(1, 4)), max_size=12))
def test_the_current_version_comes_from_the_last_move(changes: list[tuple[Action, int]]) -> None:
    place = replayed(*changes)
    # A confirmation does not change the version.
    moves = [n for action, n in changes if action is not Action.CONFIRM]
    assert place.current == (moves[-1] if moves else None)
