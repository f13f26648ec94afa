import dataclasses
import hashlib
import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gates.errors import GateInputError
from gates.evidence import provenance
from gates.evidence.provenance import Attempt, SourceState, TrainingRun
from tests import repository

STARTED = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)
CLEAN = SourceState(commit="c" * 40, diff_digest=None, lock_digest="1" * 64)
ATTEMPT = Attempt(
    first_step=0,
    started=STARTED,
    source=CLEAN,
    runtime={"torch": "2.15.0", "device": "cpu"},
)
RUN = TrainingRun(
    run_id="mine",
    config={"seed": 0, "train": {"lr": 0.5}},
    data_digest="a" * 64,
    determinism={"seed": "0"},
    attempts=[ATTEMPT],
    finished=STARTED + timedelta(minutes=2),
    library="pytorch",
)
DIRTY = dataclasses.replace(CLEAN, diff_digest="d" * 64)
NOWHERE = SourceState(commit=None, diff_digest=None, lock_digest=None)


def run_with(*attempts: Attempt, **changes: Any) -> TrainingRun:
    """Return `RUN` with these attempts, or with a single attempt that has these changes."""
    return dataclasses.replace(RUN, attempts=attempts or [dataclasses.replace(ATTEMPT, **changes)])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    # FIPS 180-2, appendix B.1, publishes the digest of this content.
    file = tmp_path / "checkpoint.pt"
    file.write_text("abc")
    return file


@pytest.fixture
def statement(checkpoint: Path) -> dict[str, Any]:
    return provenance.statement(checkpoint, RUN)


@pytest.fixture
def file(statement: dict[str, Any], tmp_path: Path) -> Path:
    file = tmp_path / "provenance.json"
    provenance.write(statement, file)
    return file


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git repository with a lock, a package and one commit."""
    root = tmp_path / "project"
    (root / "src" / "package").mkdir(parents=True)
    (root / "uv.lock").write_text("abc")
    (root / ".gitignore").write_text("*.log\n")
    (root / "src" / "package" / "a.py").write_text("a = 1\n")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "first"]):
        done = repository.git(*command, cwd=root)
        assert done.returncode == 0, done.stderr
    return root


def error_of(call: Callable[[], object]) -> str:
    with pytest.raises(GateInputError) as raised:
        call()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_statement_follows_in_toto_and_names_the_checkpoint(statement: dict[str, Any]) -> None:
    # https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
    assert statement.keys() == {"_type", "subject", "predicateType", "predicate"}
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert statement["subject"] == [{"name": "checkpoint.pt", "digest": {"sha256": abc}}]
    assert provenance.subject_digest(statement) == abc


def test_provenance_of_an_earlier_version_is_read(statement: dict[str, Any], file: Path) -> None:
    statement["predicate"]["buildDefinition"]["buildType"] = "urn:my-digits:training-run:v1"
    statement["predicate"]["runDetails"]["builder"]["id"] = "urn:my-digits:train"
    del statement["predicate"]["buildDefinition"]["internalParameters"]["library"]
    file.write_text(json.dumps(statement))
    assert provenance.read(file) == statement
    assert provenance.library(statement) == "pytorch"  # the only library of earlier versions


def test_predicate_follows_slsa(statement: dict[str, Any]) -> None:
    # https://slsa.dev/spec/v1.0/provenance: the required fields and those that we use.
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["predicate"] == {
        "buildDefinition": {
            "buildType": "urn:ml-project-template:training-run:v1",
            "externalParameters": {"config": {"seed": 0, "train": {"lr": 0.5}}},
            "internalParameters": {
                "determinism": {"seed": "0"},
                "runtime": {"torch": "2.15.0", "device": "cpu"},
                "dirty": False,
                "earlierAttempts": [],
                "library": "pytorch",
            },
            "resolvedDependencies": [
                {"name": "data", "digest": {"sha256": "a" * 64}},
                {"name": "source", "digest": {"gitCommit": "c" * 40}},
                {"name": "uv.lock", "digest": {"sha256": "1" * 64}},
            ],
        },
        "runDetails": {
            "builder": {"id": "urn:ml-project-template:train"},
            "metadata": {
                "invocationId": "mine",
                "startedOn": "2026-01-31T12:00:00+00:00",
                "finishedOn": "2026-01-31T12:02:00+00:00",
            },
        },
    }


@pytest.mark.parametrize(
    ("source", "is_dirty", "names"),
    [
        pytest.param(CLEAN, False, ["data", "source", "uv.lock"], id="clean"),
        pytest.param(DIRTY, True, ["data", "source", "source-diff", "uv.lock"], id="dirty"),
        pytest.param(NOWHERE, True, ["data"], id="no_repository"),
    ],
)
def test_statement_records_the_source(
    checkpoint: Path, source: SourceState, *, is_dirty: bool, names: list[str]
) -> None:
    definition = provenance.statement(checkpoint, run_with(source=source))["predicate"][
        "buildDefinition"
    ]
    assert definition["internalParameters"]["dirty"] is is_dirty
    assert [entry["name"] for entry in definition["resolvedDependencies"]] == names
    assert source.is_clean is not is_dirty


def test_statement_about_a_missing_checkpoint_is_refused(tmp_path: Path) -> None:
    absent = tmp_path / "absent.pt"
    error = error_of(lambda: provenance.statement(absent, RUN))
    assert error == f"{absent}: cannot be read (No such file or directory)"


def test_read_gives_back_what_was_written(statement: dict[str, Any], file: Path) -> None:
    assert provenance.read(file) == statement
    assert provenance.config_of(statement) == RUN.config


def test_identical_runs_have_no_differences(statement: dict[str, Any], checkpoint: Path) -> None:
    later = dataclasses.replace(run_with(started=STARTED + timedelta(days=1)), run_id="again")
    again = provenance.statement(checkpoint, later)
    assert provenance.differences(statement, again) == []


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        pytest.param(
            run_with(runtime={"torch": "2.13.0", "device": "cpu"}),
            ["torch: 2.15.0 -> 2.13.0"],
            id="torch",
        ),
        pytest.param(
            run_with(runtime={"torch": "2.15.0", "device": "NVIDIA H200"}),
            ["device: cpu -> NVIDIA H200"],
            id="hardware",
        ),
        pytest.param(
            dataclasses.replace(RUN, data_digest="b" * 64),
            [f"data: {'a' * 64} -> {'b' * 64}"],
            id="data",
        ),
        pytest.param(
            run_with(source=dataclasses.replace(CLEAN, commit="e" * 40, lock_digest="2" * 64)),
            [f"source: {'c' * 40} -> {'e' * 40}", f"uv.lock: {'1' * 64} -> {'2' * 64}"],
            id="commit_and_lock",
        ),
        pytest.param(run_with(source=DIRTY), [f"source-diff: none -> {'d' * 64}"], id="diff"),
        pytest.param(
            dataclasses.replace(RUN, config={"seed": 1}),
            ['config: {"seed": 0, "train": {"lr": 0.5}} -> {"seed": 1}'],
            id="config",
        ),
        pytest.param(
            dataclasses.replace(RUN, determinism={"seed": "1"}),
            ["seed: 0 -> 1"],
            id="determinism",
        ),
    ],
)
def test_differences_are_named(
    statement: dict[str, Any],
    checkpoint: Path,
    run: TrainingRun,
    expected: list[str],
) -> None:
    assert provenance.differences(statement, provenance.statement(checkpoint, run)) == expected


def resumed_at(step: int, **changes: Any) -> Attempt:
    return dataclasses.replace(ATTEMPT, first_step=step, **changes)


def test_resumed_run_started_with_its_first_attempt(checkpoint: Path) -> None:
    run = run_with(ATTEMPT, resumed_at(7, started=STARTED + timedelta(days=1)))
    predicate = provenance.statement(checkpoint, run)["predicate"]
    assert predicate["runDetails"]["metadata"]["startedOn"] == STARTED.isoformat()
    (earlier,) = predicate["buildDefinition"]["internalParameters"]["earlierAttempts"]
    assert Attempt.of(earlier) == ATTEMPT


def test_run_is_dirty_if_any_attempt_was(checkpoint: Path) -> None:
    run = run_with(resumed_at(0, source=DIRTY), resumed_at(7))
    assert provenance.is_dirty(provenance.statement(checkpoint, run))
    clean = run_with(resumed_at(0), resumed_at(7))
    assert not provenance.is_dirty(provenance.statement(checkpoint, clean))


def test_attempt_with_other_source_or_runtime_is_a_difference(
    statement: dict[str, Any], checkpoint: Path
) -> None:
    elsewhere = {"torch": "2.13.0", "device": "cpu"}
    run = run_with(resumed_at(0), resumed_at(7, source=DIRTY, runtime=elsewhere), resumed_at(9))
    again = provenance.statement(checkpoint, run)
    assert provenance.differences(statement, again) == [
        f"source-diff from step 7: none -> {'d' * 64}",
        "torch from step 7: none -> 2.13.0",
    ]


def test_identical_attempts_have_no_differences(
    statement: dict[str, Any], checkpoint: Path
) -> None:
    run = run_with(resumed_at(0), resumed_at(7))
    assert provenance.differences(statement, provenance.statement(checkpoint, run)) == []


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xfe", id="not_text"),
        pytest.param(b"seed: 0", id="yaml"),
        pytest.param(b"[" * 100_000, id="deeply_nested"),
    ],
)
def test_file_that_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "provenance.json"
    file.write_bytes(content)
    error = error_of(lambda: provenance.read(file))
    assert error.startswith(f"{file}: not readable as provenance (")
    assert error.endswith("; name a run's provenance.json")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated_provenance_is_refused(file: Path, share: float) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    assert error_of(lambda: provenance.read(file)).startswith(f"{file}: not readable as provenance")


@pytest.mark.parametrize("name", ["absent.json", "."])
def test_missing_provenance_is_refused(tmp_path: Path, name: str) -> None:
    error = error_of(lambda: provenance.read(tmp_path / name))
    assert error.startswith(f"{tmp_path / name}: not readable as provenance (")


@pytest.mark.parametrize(
    "document",
    [
        pytest.param([], id="list"),
        pytest.param(None, id="nothing"),
        pytest.param("statement", id="word"),
        pytest.param({}, id="empty"),
    ],
)
def test_json_that_is_not_a_statement_is_refused(tmp_path: Path, document: object) -> None:
    file = tmp_path / "provenance.json"
    file.write_text(json.dumps(document))
    error = error_of(lambda: provenance.read(file))
    assert error.startswith(f"{file}: not the provenance of a training run (")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param(["subject"], [], id="no_subject"),
        pytest.param(["subject", 0, "digest"], {"sha1": "ab"}, id="no_sha256"),
        pytest.param(["predicate"], "slsa", id="predicate_is_a_word"),
        pytest.param(["predicate", "buildDefinition"], {}, id="no_definition"),
        pytest.param(
            ["predicate", "buildDefinition", "externalParameters"], {}, id="no_configuration"
        ),
        pytest.param(
            ["predicate", "buildDefinition", "internalParameters", "runtime"], [], id="no_runtime"
        ),
        pytest.param(
            ["predicate", "buildDefinition", "internalParameters", "determinism"],
            [],
            id="no_flags",
        ),
        pytest.param(
            ["predicate", "buildDefinition", "resolvedDependencies"], None, id="no_dependencies"
        ),
        pytest.param(
            ["predicate", "buildDefinition", "resolvedDependencies", 0, "digest"],
            {},
            id="dependency_without_a_digest",
        ),
        pytest.param(["predicate", "buildDefinition", "resolvedDependencies", 0], {}, id="no_name"),
    ],
)
def test_incomplete_statement_is_refused(
    statement: dict[str, Any], file: Path, path: list[str | int], value: object
) -> None:
    changed: Any = statement
    for key in path[:-1]:
        changed = changed[key]
    changed[path[-1]] = value
    file.write_text(json.dumps(statement))
    error = error_of(lambda: provenance.read(file))
    assert error.startswith(f"{file}: not the provenance of a training run (")


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(["_type"], id="not_in_toto"),
        pytest.param(["predicateType"], id="another_predicate"),
        pytest.param(["predicate", "buildDefinition", "buildType"], id="another_build"),
    ],
)
def test_provenance_of_something_else_is_refused(
    statement: dict[str, Any], file: Path, path: list[str]
) -> None:
    changed = statement
    for key in path[:-1]:
        changed = changed[key]
    changed[path[-1]] = "https://example.com/other"
    file.write_text(json.dumps(statement))
    error = error_of(lambda: provenance.read(file))
    assert error.startswith(f"{file}: describes ")


def test_clean_repository_is_described_by_its_commit(project: Path) -> None:
    state = provenance.source_state(project / "src" / "package")
    assert state == SourceState(
        commit=repository.git("rev-parse", "HEAD", cwd=project).stdout.strip(),
        diff_digest=None,
        lock_digest=hashlib.sha256(b"abc").hexdigest(),
    )
    assert state.is_clean


def test_reason_for_a_missing_commit_is_gits_own_message(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert provenance.why_no_commit(project) is None
    new, nowhere = tmp_path / "new", tmp_path / "nowhere"
    for folder in (new, nowhere):
        folder.mkdir()
    repository.git("init", "--quiet", cwd=new)
    assert "does not have any commits yet" in str(provenance.why_no_commit(new))
    assert "not a git repository" in str(provenance.why_no_commit(nowhere))
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert "detected dubious ownership" in str(provenance.why_no_commit(project))
    monkeypatch.setenv("PATH", str(nowhere))
    assert provenance.why_no_commit(project) == "git cannot be run (No such file or directory)"


def test_ignored_files_do_not_make_the_source_dirty(project: Path) -> None:
    (project / "run.log").write_text("noise")
    assert provenance.source_state(project).is_clean


def modify(project: Path) -> None:
    (project / "src" / "package" / "a.py").write_text("a = 2\n")


def stage(project: Path) -> None:
    modify(project)
    repository.git("add", "--all", cwd=project)


def delete(project: Path) -> None:
    (project / "src" / "package" / "a.py").unlink()


def add(project: Path) -> None:
    (project / "src" / "package" / "ü b.py").write_text("b = 1\n")


def add_a_dangling_link(project: Path) -> None:
    (project / "link").symlink_to("nowhere")


CHANGES = [modify, stage, delete, add, add_a_dangling_link]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_source_is_recorded_with_its_digest(
    project: Path, change: Callable[[Path], None]
) -> None:
    change(project)
    state = provenance.source_state(project / "src")
    assert not state.is_clean
    assert state.diff_digest is not None
    assert state.commit is not None
    # The same from any folder of the repository.
    assert provenance.source_state(project) == state


def test_different_changes_have_different_digests(project: Path) -> None:
    digests = set()
    for name, content in [("b.py", "1"), ("b.py", "2"), ("c.py", "2")]:
        new = project / name
        new.write_text(content)
        digests.add(provenance.source_state(project).diff_digest)
        new.unlink()
    modify(project)
    digests.add(provenance.source_state(project).diff_digest)
    assert len(digests) == 4
    assert None not in digests


def test_git_settings_of_a_user_hide_no_change(project: Path) -> None:
    modify(project)
    plain = provenance.source_state(project)
    settings = {
        "diff.same.textconv": "echo the same #",
        "diff.noprefix": "true",
        "diff.context": "0",
        "status.showUntrackedFiles": "no",
        "core.quotePath": "true",
    }
    for name, value in settings.items():
        repository.git("config", name, value, cwd=project)
    (project / ".git" / "info" / "attributes").write_text("*.py diff=same\n")
    assert provenance.source_state(project) == plain
    assert not plain.is_clean


def test_mode_change_deletion_and_link_have_different_digests(project: Path) -> None:
    file = project / "src" / "package" / "a.py"
    file.chmod(0o755)
    digests = {provenance.source_state(project).diff_digest}
    file.unlink()
    digests.add(provenance.source_state(project).diff_digest)
    file.symlink_to("b.py")
    digests.add(provenance.source_state(project).diff_digest)
    assert len(digests - {None}) == 3


def test_changed_binary_file_has_a_digest(project: Path) -> None:
    (project / "uv.lock").write_bytes(bytes(range(256)))
    state = provenance.source_state(project)
    assert state.diff_digest is not None
    assert state.lock_digest == hashlib.sha256(bytes(range(256))).hexdigest()


def test_repository_without_a_lock_has_no_lock_digest(project: Path) -> None:
    (project / "uv.lock").unlink()
    assert provenance.source_state(project).lock_digest is None


def test_repository_that_git_cannot_read_is_an_error(project: Path) -> None:
    (project / ".git" / "index").write_bytes(b"damaged")
    modify(project)
    assert error_of(lambda: provenance.source_state(project)).startswith(f"{project}: ")


def test_folder_outside_a_repository_has_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.source_state(tmp_path) == NOWHERE
    assert not NOWHERE.is_clean


def test_repository_without_a_commit_has_no_source(tmp_path: Path) -> None:
    repository.git("init", "--quiet", cwd=tmp_path)
    assert provenance.source_state(tmp_path) == NOWHERE


def test_machine_without_git_has_no_source(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.source_state(project) == NOWHERE


def test_machine_is_described() -> None:
    described = provenance.machine()
    assert described.keys() == {"os", "processor", "cores", "python"}
    assert described["python"] == platform.python_version()
    assert described["cores"] == str(os.cpu_count())
    assert described["processor"]


def test_processor_is_named_without_cpuinfo(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert provenance.machine()["processor"] == "arm64"


def set_value(document: Any, path: list[str | int], value: object) -> None:
    for key in path[:-1]:
        document = document[key]
    document[path[-1]] = value


DEFINITION: list[str | int] = ["predicate", "buildDefinition"]
INTERNAL: list[str | int] = [*DEFINITION, "internalParameters"]
DEPENDENCIES: list[str | int] = [*DEFINITION, "resolvedDependencies"]
DETAILS: list[str | int] = ["predicate", "runDetails"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["subject", 0, "name"], "", "subject.0.name: "),
        (["subject", 0, "digest", "sha256"], 5, "subject.0.digest.sha256: "),
        (["subject", 0, "digest", "sha256"], "A" * 64, "subject.0.digest.sha256: "),
        ([*DEPENDENCIES, 0, "digest", "sha256"], "0" * 63, "resolvedDependencies.0."),
        ([*DEPENDENCIES, 1, "digest", "gitCommit"], "0" * 40, "is git's null commit"),
        ([*DEPENDENCIES, 1, "digest", "gitCommit"], "main", "gitCommit: "),
        ([*DEPENDENCIES, 1, "digest", "gitCommit"], '"\n##[set-output]', "gitCommit: "),
        ([*DEPENDENCIES, 1, "name"], "data", "resolvedDependencies.1."),
        ([*DEPENDENCIES, 2, "name"], "other.lock", "resolvedDependencies.2: "),
        ([*DEFINITION, "externalParameters", "config"], "junk", "config: "),
        ([*DEFINITION, "externalParameters", "config", "seed"], 99, "determinism.seed is 0, and"),
        ([*INTERNAL, "determinism", "seed"], "99", "determinism.seed is 99, and the conf"),
        ([*INTERNAL, "determinism", "seed"], 0, "determinism.seed: "),
        ([*INTERNAL, "runtime", "torch"], None, "runtime.torch: "),
        ([*INTERNAL, "dirty"], True, "dirty is True, but the sources show the opposite"),
        ([*INTERNAL, "dirty"], "no", "dirty: "),
        ([*INTERNAL, "earlierAttempts"], [{}], "earlierAttempts.0."),
        ([*INTERNAL, "more"], 1, "more: "),
        ([*DETAILS, "builder", "id"], "urn:other", "builder.id: "),
        ([*DETAILS, "metadata", "invocationId"], "../mine", "invocationId: "),
        ([*DETAILS, "metadata", "startedOn"], "yesterday", "startedOn: "),
        ([*DETAILS, "metadata", "startedOn"], "2026-01-31T12:00:00", "startedOn: "),
        ([*DETAILS, "metadata", "finishedOn"], "2026-01-31T11:59:59+00:00", "not in order"),
        ([*DETAILS, "metadata", "finishedOn"], 1e9, "finishedOn: "),
    ],
)
def test_invalid_field_is_named(
    file: Path, path: list[str | int], value: object, message: str
) -> None:
    statement = json.loads(file.read_text())
    set_value(statement, path, value)
    file.write_text(json.dumps(statement))
    error = error_of(lambda: provenance.read(file))
    assert error.startswith(f"{file}: not the provenance of a training run (")
    assert message in error


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("started", "2026-01-31T12:00:01+00:00", "startedOn is not the start of the first attempt"),
        ("first_step", 9, "the attempts are not in order"),
        ("first_step", -1, "earlierAttempts.0.first_step: "),
        ("source", {"commit": "c" * 40, "diff_digest": "d" * 64, "lock_digest": None}, "dirty is"),
    ],
)
def test_invalid_earlier_attempt_is_named(
    checkpoint: Path, file: Path, field: str, value: object, message: str
) -> None:
    second = resumed_at(7, started=STARTED + timedelta(minutes=1))
    run = run_with(ATTEMPT, second, resumed_at(8, started=STARTED + timedelta(minutes=1)))
    statement = provenance.statement(checkpoint, run)
    provenance.write(statement, file)
    assert provenance.read(file) == statement
    set_value(statement, [*INTERNAL, "earlierAttempts", 0, field], value)
    file.write_text(json.dumps(statement))
    assert message in error_of(lambda: provenance.read(file))
