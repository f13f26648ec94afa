"""Audits the real lock against a local stand-in for the database and the index."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest

from gates.__main__ import main
from gates.files import sha256
from gates.supply.audit import lookalikes
from gates.supply.index import withdrawn
from gates.supply.licences import is_allowed
from gates.supply.locked import read_lock
from tests.stand_in_osv import Services, served

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "uv.lock"
LOCKED = read_lock(LOCK)
SETTINGS = (ROOT / "configs" / "audit.yaml").read_text(encoding="utf-8")
LICENCES = ROOT / "configs" / "licences.json"


class Audit(Protocol):
    """Runs `gates audit` with the given settings and arguments."""

    def __call__(self, settings: str = SETTINGS, *arguments: str) -> int: ...


@pytest.fixture
def services() -> Iterator[Services]:
    with served(list(LOCKED)) as server:
        yield server


@pytest.fixture
def audit(tmp_path: Path, services: Services, monkeypatch: pytest.MonkeyPatch) -> Audit:
    for name in ("AUDIT_INDEX", "AUDIT_DATABASE"):
        monkeypatch.delenv(name, raising=False)

    def run(settings: str = SETTINGS, *arguments: str) -> int:
        file = tmp_path / "audit.yaml"
        file.write_text(settings, encoding="utf-8")
        defaults = {
            "--lock": str(LOCK),
            "--licences": str(LICENCES),
            "--settings": str(file),
            "--last-answer": str(tmp_path / "last.json"),
            "--database": services.address,
        }
        words = [word for pair in defaults.items() if pair[0] not in arguments for word in pair]
        return main(["audit", *words, *arguments])

    return run


def with_ignored(expires: str, identifier: str = "CVE-of-OSV-1") -> str:
    entry = f"ignore:\n  - id: {identifier}\n    package: numpy\n    reason: unused\n"
    entry += f"    owner: the team\n    expires: {expires}\n"
    assert "ignore: []\n" in SETTINGS
    return SETTINGS.replace("ignore: []\n", entry)


def numpy_key() -> str:
    return next(package.key for package in LOCKED if package.name == "numpy")


def test_every_locked_version_is_queried(audit: Audit, services: Services) -> None:
    assert audit() == 0
    queried = {f"{each['package']['name']}=={each['version']}" for each in services.asked}
    assert queried == {package.key for package in LOCKED}


def test_a_vulnerability_fails_the_audit_unless_it_is_ignored(
    audit: Audit, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    services.planted[numpy_key()] = ("OSV-1",)
    assert audit() == 1
    assert "OSV-1, CVE-of-OSV-1: planted" in capsys.readouterr().out
    assert audit(with_ignored("2999-01-01")) == 0


def test_a_withdrawn_advisory_does_not_count(audit: Audit, services: Services) -> None:
    services.planted[numpy_key()] = ("OSV-1",)
    services.withdrawn.add("OSV-1")
    assert audit() == 0


def test_advisories_on_later_pages_count(
    audit: Audit, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    services.page_size = 2
    services.planted[numpy_key()] = tuple(f"OSV-{number}" for number in range(5))
    assert audit() == 1
    assert "5 findings" in capsys.readouterr().out


def test_an_expired_or_unused_ignore_entry_fails(
    audit: Audit, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(with_ignored("2999-01-01")) == 1
    assert "CVE-of-OSV-1 for numpy covers nothing" in capsys.readouterr().out
    services.planted[numpy_key()] = ("OSV-1",)
    assert audit(with_ignored("2020-01-01")) == 1
    assert "CVE-of-OSV-1 for numpy expired on 2020-01-01" in capsys.readouterr().out


def test_malware_cannot_be_ignored(audit: Audit, services: Services) -> None:
    services.planted[numpy_key()] = ("MAL-1",)
    assert audit(with_ignored("2999-01-01", "MAL-1")) == 1


@pytest.mark.parametrize("as_html", [False, True])
def test_a_yanked_or_deleted_release_fails(
    *, as_html: bool, audit: Audit, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    services.as_html = as_html
    index = ("--index", f"{services.address}/simple")
    assert audit(SETTINGS, *index) == 0
    services.yanked.add(numpy_key())
    assert audit(SETTINGS, *index) == 1
    assert "yanked by its authors: broken" in capsys.readouterr().out
    services.gone.add(numpy_key())
    assert audit(SETTINGS, *index) == 1
    assert "none of its locked files is on the index" in capsys.readouterr().out


def test_without_an_index_the_verdict_says_that_none_was_queried(
    audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit() == 0
    assert "not checked without a package index" in capsys.readouterr().out


def test_an_unreachable_database_exits_2(
    audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = ("--database", "http://127.0.0.1:9")
    assert audit(SETTINGS, *nowhere) == 2
    assert "has never answered on this machine" in capsys.readouterr().err
    asked = (datetime.now(UTC) - timedelta(hours=5)).isoformat()
    (tmp_path / "last.json").write_text(json.dumps({"asked": asked, "lock": sha256(LOCK)}))
    assert audit(SETTINGS, *nowhere) == 2
    error = capsys.readouterr().err
    assert "its last answer is 5.0 hours old and about this lock" in error
    assert error.count("\n") == 1


def test_findings_that_need_no_database_are_reported_offline(audit: Audit) -> None:
    nowhere = ("--database", "http://127.0.0.1:9")
    assert audit(with_ignored("2020-01-01"), *nowhere) == 1


def test_an_incomplete_answer_is_an_error(audit: Audit, services: Services) -> None:
    services.answers_to = 10
    assert audit() == 2


def test_a_busy_database_is_retried(audit: Audit, services: Services) -> None:
    services.busy = 1
    assert audit() == 0
    services.busy = 100
    assert audit() == 2


def test_an_address_without_a_database_is_an_error(
    audit: Audit, services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(SETTINGS, "--database", f"{services.address}/nothing") == 2
    assert "answered 404 to /nothing/v1/querybatch" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["ftp://127.0.0.1", "nowhere", "http://", "file:///etc/passwd"])
def test_an_invalid_address_is_reported(
    address: str, audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(SETTINGS, "--database", address) == 2
    assert "not an address" in capsys.readouterr().err


def test_a_licence_that_is_not_allowed_fails(
    audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(SETTINGS.replace("  - ISC\n", "")) == 1
    assert "ISC is not among the licences" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0", False),
        ("GPL-3.0 OR MIT", True),
        ("GPL-3.0 AND MIT", False),
        ("MIT AND (GPL-3.0 OR ISC)", True),
        ("Apache-2.0 WITH LLVM-exception", False),
        ("MIT AND", False),
    ],
)
def test_licence_expressions_are_evaluated(expression: str, *, allowed: bool) -> None:
    assert is_allowed(expression, ["MIT", "ISC", "Apache-2.0"]) is allowed


def test_an_unneeded_licence_exception_fails(
    audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = "licence_exceptions:\n  - package: numpy\n    licence: MIT\n    reason: why not\n"
    assert audit(SETTINGS.replace("licence_exceptions:\n", entry)) == 1
    assert "an exception that is not needed" in capsys.readouterr().out


def test_a_version_without_a_recorded_licence_fails(
    audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = json.loads(LICENCES.read_text())
    del record[numpy_key()]
    file = tmp_path / "licences.json"
    file.write_text(json.dumps(record))
    assert audit(SETTINGS, "--licences", str(file)) == 1
    assert "nox -s audit -- --record-licences" in capsys.readouterr().out


@pytest.mark.parametrize("squat", ["numpyy", "nunpy", "nmupy", "pandsa", "huggingface-hubb"])
def test_a_name_similar_to_a_locked_one_is_found(squat: str) -> None:
    locked = [package.name for package in LOCKED]
    assert len(lookalikes([*locked, squat])) == len(lookalikes(locked)) + 1


@pytest.mark.parametrize(
    "beside_original", [True, False], ids=["beside_the_original", "in_its_place"]
)
def test_a_squatted_name_in_the_lock_fails(
    *, beside_original: bool, audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = LOCK.read_text(encoding="utf-8")
    entry = '\n[[package]]\nname = "huye"\nversion = "3.5.4"\n'
    entry += 'source = { registry = "https://index.invalid/simple" }\n'
    huey = next(part for part in text.split("\n[[package]]\n") if part.startswith('name = "huey"'))
    changed = tmp_path / "uv.lock"
    squatted = (
        text + entry if beside_original else text.replace(huey, huey.replace('"huey"', '"huye"'))
    )
    changed.write_text(squatted.replace('{ name = "huey"', '{ name = "huye"'))
    assert audit(SETTINGS, "--lock", str(changed), "--base-lock", str(LOCK)) == 1
    assert "huey / huye" in capsys.readouterr().out


def test_two_removed_packages_are_not_lookalikes(audit: Audit, tmp_path: Path) -> None:
    before = tmp_path / "before.lock"
    entries = [
        f'[[package]]\nname = "{name}"\nversion = "1"\n'
        'source = { registry = "https://index.invalid/simple" }\n'
        for name in ("departed", "departad")
    ]
    before.write_text("\n".join(entries))
    assert audit(SETTINGS, "--base-lock", str(before)) == 0


@pytest.mark.parametrize("damage", ["", "[[package]]\n", "not = toml = at all", "package = 3"])
def test_a_damaged_lock_is_named_in_the_error(
    damage: str, audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "uv.lock"
    file.write_text(damage)
    assert audit(SETTINGS, "--lock", str(file)) == 2
    assert str(file) in capsys.readouterr().err


FIELDS = {
    ("plain", "1.0"): ("License-Expression: MIT", "MIT"),
    ("old", "1.0"): ("License: Apache 2.0", "Apache-2.0"),
    ("older", "1.0"): ("Classifier: License :: OSI Approved :: MIT License", "MIT"),
    ("vague", "1.0"): ("License: BSD", "LicenseRef-BSD"),
    ("source", "1.0.dev0"): ("License-Expression: ISC", "ISC"),
    ("silent", "1.0"): ("Summary: says nothing", None),
}


@pytest.mark.parametrize("has_ranges", [True, False])
def test_licences_are_recorded_from_the_metadata_on_the_index(
    *, has_ranges: bool, audit: Audit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock, record = tmp_path / "uv.lock", tmp_path / "licences.json"
    with served([]) as index:
        index.has_ranges = has_ranges
        entries = []
        for (name, version), (fields, _) in FIELDS.items():
            package = index.publish(name, version, fields, padding=1_000_000)
            (file, digest) = package.files[0]
            entries.append(
                f'[[package]]\nname = "{name}"\nversion = "{version}"\n'
                'source = { registry = "https://index.invalid/simple" }\n'
                f'wheels = [{{ url = "https://index.invalid/{file}", hash = "sha256:{digest}" }}]\n'
            )
        lock.write_text("\n".join(entries))
        arguments = ["--record-licences", "--index", f"{index.address}/simple"]
        assert audit(SETTINGS, "--lock", str(lock), "--licences", str(record), *arguments) == 1
        assert "silent==1.0: its metadata has none" in capsys.readouterr().out
        assert (index.sent < 1_000_000) is has_ranges, "a large file is only read in part"
    expected = {
        f"{name}=={version}": licence for (name, version), (_, licence) in FIELDS.items() if licence
    }
    assert json.loads(record.read_text()) == expected


def test_recording_licences_needs_an_index(
    audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(SETTINGS, "--record-licences") == 2
    assert "AUDIT_INDEX" in capsys.readouterr().err


def test_a_release_whose_files_differ_from_the_lock_counts_as_withdrawn(services: Services) -> None:
    numpy = next(package for package in services.locked if package.name == "numpy")
    services.locked.remove(numpy)
    services.publish("numpy", numpy.version, "License-Expression: MIT")
    assert list(withdrawn([numpy], f"{services.address}/simple")) == [numpy.key]
