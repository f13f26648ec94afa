"""Registration, promotion and rollback, on a real registry in a SQLite file."""

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from gates.errors import GateError, GateInputError
from gates.evaluation.policy import Policy
from gates.evaluation.predictions import write_predictions
from gates.evidence.provenance import SourceState
from gates.registry import history
from gates.registry.history import STAGES, Action
from gates.registry.ledger import RefusedError
from gates.registry.mlflow_store import MlflowStore
from gates.registry.pipeline import Promotion, Registry
from gates.registry.store import Store, UnreachableError, Version
from gates.verdicts.verdict import Outcome, Verdict
from tests import registered
from tests.judged import scored
from tests.registered import Run
from tests.registries import (
    After,
    MakeRun,
    promote_without_check,
    stage_versions,
    to_production,
    write_sbom,
)


def missing(verdict: Verdict) -> list[str]:
    return [each.check for each in verdict.findings if each.outcome is not Outcome.PASS]


def test_a_registered_run_becomes_a_version_with_its_evidence(
    registry: Registry, run: MakeRun
) -> None:
    one = run("one")
    version, is_new = registry.register(one.submission())
    assert (version.number, is_new) == (1, True)
    assert version.fact("model_version") == f"01234567-{one.checkpoint[:12]}"
    assert version.fact("checkpoint") == one.checkpoint
    assert version.fact("data") == "d" * 64
    assert version.fact("registered_by") == "anna"
    expected = {"checkpoint.pt", "predictions.parquet", "provenance.json", "config.yaml"}
    assert set(version.files) == {*expected, "verdict.json"}


def test_the_same_checkpoint_is_registered_once(registry: Registry, run: MakeRun) -> None:
    one = run("one")
    first, _ = registry.register(one.submission())
    again, is_new = registry.register(one.submission())
    assert (again.number, is_new) == (first.number, False)
    assert len(registry.store.versions("digits")) == 1


def without_file(name: str) -> Callable[[Run], None]:
    return lambda run: (run.folder / name).unlink()


def other_weights(run: Run) -> None:
    (run.folder / "checkpoint.pt").write_bytes(b"other")


def predictions_of_another_model(run: Run) -> None:
    write_predictions(
        scored([True] * 200, checkpoint_digest="a" * 64), run.folder / "predictions.parquet"
    )


def predictions_written_since(run: Run) -> None:
    write_predictions(run.scored([True] * 199 + [False]), run.folder / "predictions.parquet")


def predictions_of_another_config(run: Run) -> None:
    changed = run.scored([True] * 200, config_digest="a" * 64)
    write_predictions(changed, run.folder / "predictions.parquet")


def without_content_digest(run: Run) -> None:
    file = run.folder / "predictions.parquet"
    table = pq.read_table(file)
    kept = {k: v for k, v in table.schema.metadata.items() if k != b"content_digest"}
    pq.write_table(table.replace_schema_metadata(kept), file)


def with_content(name: str, text: str) -> Callable[[Run], None]:
    def write(run: Run) -> None:
        (run.folder / name).write_text(text)

    return write


def in_provenance(*path: str | int, value: object) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        file = run.folder / "provenance.json"
        document = json.loads(file.read_text())
        part = document
        for key in path[:-1]:
            part = part[key]
        part[path[-1]] = value
        file.write_text(json.dumps(document))

    return change


DEFINITION = ("predicate", "buildDefinition")
METADATA = ("predicate", "runDetails", "metadata")


def in_verdict(key: str, value: str) -> Callable[[Run], None]:
    def change(run: Run) -> None:
        document = json.loads(run.verdict_file.read_text())
        document["evidence"][key] = value
        run.verdict_file.write_text(json.dumps(document))

    return change


def verdict_of_another_gate(run: Run) -> None:
    document = json.loads(run.verdict_file.read_text())
    run.verdict_file.write_text(json.dumps({**document, "gate": "schema"}))


def without_data(run: Run) -> None:
    document = json.loads((run.folder / "provenance.json").read_text())
    definition = document["predicate"]["buildDefinition"]
    definition["resolvedDependencies"] = [
        each for each in definition["resolvedDependencies"] if each["name"] != "data"
    ]
    (run.folder / "provenance.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_file("checkpoint.pt"), "checkpoint.pt: is missing; python -m PROJECT.train"),
        (without_file("provenance.json"), "provenance.json: is missing"),
        (without_file("predictions.parquet"), "is missing; python -m PROJECT.eval"),
        (without_file("config.yaml"), "config.yaml: is missing"),
        (without_file("judged.json"), "judged.json: cannot be read"),
        (other_weights, "provenance.json: is about checkpoint [0-9a-f]{12}, but "),
        (predictions_of_another_model, "predictions.parquet: its checkpoint is [0-9a-f]{12}, but "),
        (predictions_written_since, "judged.json: is a verdict on predictions "),
        (
            in_verdict("checkpoint", "a" * 64),
            "judged.json: is a verdict on checkpoint aaaaaaaaaaaa, but ",
        ),
        (in_verdict("data", "a" * 64), "judged.json: is a verdict on data aaaaaaaaaaaa, but "),
        (verdict_of_another_gate, "is a verdict of the gate schema"),
        (without_data, "provenance.json: names no data"),
        (in_provenance("subject", 0, "name", value="other.pt"), "names the checkpoint other.pt"),
        (
            predictions_of_another_config,
            r"predictions\.parquet: its config is aaaaaaaaaaaa, but ",
        ),
        (without_content_digest, r"predictions\.parquet: has no content_digest"),
        (with_content("config.yaml", "junk: ["), r"config\.yaml: line 1: not valid YAML"),
        (
            with_content("config.yaml", "seed: 1"),
            r"config\.yaml: differs from the configuration in ",
        ),
        (
            in_provenance(*DEFINITION, "externalParameters", "config", value={"seed": 0, "lr": 1}),
            r"config\.yaml: differs from the configuration in ",
        ),
        (
            in_provenance(*DEFINITION, "externalParameters", "config", value={"seed": 99}),
            r"provenance\.json: .*determinism\.seed is 0, and the configuration has 99",
        ),
        (
            in_provenance(*METADATA, "finishedOn", value="2999-01-01T00:00:00+00:00"),
            r"provenance\.json: finishedOn is 2999-01-01.*, in the future",
        ),
        (
            in_provenance(*METADATA, "invocationId", value="another"),
            r"provenance\.json describes another run \(another\); rename the folder",
        ),
    ],
)
def test_an_inconsistent_run_is_refused(
    run: MakeRun, damage: Callable[[Run], None], message: str
) -> None:
    one = run("one")
    damage(one)
    with pytest.raises(GateError, match=message):
        one.submission()


def test_predictions_on_other_data_than_in_the_provenance_are_refused(
    run: MakeRun,
) -> None:
    one = run("one")
    document = json.loads((one.folder / "provenance.json").read_text())
    for each in document["predicate"]["buildDefinition"]["resolvedDependencies"]:
        if each["name"] == "data":
            each["digest"]["sha256"] = "e" * 64
    (one.folder / "provenance.json").write_text(json.dumps(document))
    with pytest.raises(GateInputError, match=r"predictions\.parquet: its data is dddddd"):
        one.submission()


@pytest.mark.parametrize("gate", ["x/../../evil", "..", "", "a b", "Schema"])
def test_the_name_of_a_gate_cannot_be_a_path(gate: str, run: MakeRun, tmp_path: Path) -> None:
    one = run("one")
    document = json.loads(one.verdict_file.read_text())
    other = tmp_path / "data.json"
    other.write_text(json.dumps({**document, "gate": gate}))
    with pytest.raises(GateInputError, match="is not a gate name"):
        one.submission(data_verdicts=[other])


def test_two_verdicts_of_the_same_data_gate_are_refused(run: MakeRun, tmp_path: Path) -> None:
    one = run("one")
    document = json.loads(one.verdict_file.read_text())
    files = [tmp_path / "bad.json", tmp_path / "good.json"]
    for file, outcome in zip(files, ("fail", "pass"), strict=True):
        file.write_text(json.dumps({**document, "gate": "schema", "outcome": outcome}))
    with pytest.raises(GateInputError, match=r"good\.json: is a second verdict of its gate"):
        one.submission(data_verdicts=files)


def test_the_same_checkpoint_with_more_files_is_another_version(
    registry: Registry, source: SourceState, tmp_path: Path
) -> None:
    rules = registered.policy(tmp_path, staging={"sbom": True})
    one = Run(tmp_path / "one", b"one", source)
    one.judge(rules)
    registry.register(one.submission())
    assert missing(registry.promote(Promotion(stage="staging"), rules)) == ["SBOM"]
    sbom = write_sbom(tmp_path / "made.json")
    version, is_new = registry.register(one.submission(sbom=sbom))
    assert (version.number, is_new) == (2, True)
    assert registry.register(one.submission(sbom=sbom)) == (version, False)
    assert registry.promote(Promotion(stage="staging"), rules).outcome is Outcome.PASS


def test_a_verdict_on_other_data_and_an_invalid_sbom_are_refused(
    run: MakeRun, tmp_path: Path
) -> None:
    one = run("one")
    data = json.loads(one.verdict_file.read_text())
    data["evidence"]["data"] = "a" * 64
    other = tmp_path / "schema.json"
    other.write_text(json.dumps({**data, "gate": "schema"}))
    with pytest.raises(GateInputError, match="is a verdict on data aaaaaaaaaaaa, but"):
        one.submission(data_verdicts=[other])
    for text in ("{}", "not json", "[]", '{"components": [{}]}'):
        other.write_text(text)
        with pytest.raises(GateInputError, match=r"schema\.json"):
            one.submission(sbom=other)


def test_a_model_goes_through_staging_to_production(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    to_production(registry, run("one"), policy)
    assert stage_versions(registry) == {"staging": 1, "production": 1}
    actions = [each.entry.action for each in registry.read().history.held]
    assert actions == [Action.PROMOTE, Action.CONFIRM] * 2


@pytest.mark.usefixtures("one_two")
def test_a_second_promotion_has_nothing_to_do(registry: Registry, policy: Policy) -> None:
    before = registry.read().history
    verdict = registry.promote(Promotion(stage="staging"), policy)
    assert verdict.outcome is Outcome.PASS
    assert "already" in verdict.reason
    assert registry.read().history == before


def test_production_is_reached_only_from_staging(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    registry.register(run("one").submission())
    with pytest.raises(RefusedError, match="nothing is in staging"):
        registry.promote(Promotion(stage="production"), policy)
    verdict = registry.promote(Promotion(stage="production", number=1), policy)
    assert missing(verdict) == ["in staging"]
    assert stage_versions(registry) == {"staging": None, "production": None}


def test_a_verdict_against_a_former_production_model_does_not_count(
    registry: Registry, run: MakeRun, policy: Policy, tmp_path: Path
) -> None:
    one = run("one")
    to_production(registry, one, policy)
    two, three = run("two", against=one), run("three", against=one)
    to_production(registry, two, policy)
    registry.register(three.submission())
    verdict = registry.promote(Promotion(stage="staging", number=3), policy)
    assert missing(verdict) == ["verdict against production"]
    # Judged again, it is promoted; the new verdict is kept with the model and logged.
    three.judge(policy, against=two)
    newer = Promotion(stage="staging", number=3, verdict=three.verdict_file)
    assert registry.promote(newer, policy).outcome is Outcome.PASS
    noted = registry.read().history.held[-2].entry.verdict
    assert noted is not None
    version = registry.version(3)
    kept = registry.store.download(version, f"verdict-{noted[:12]}.json", tmp_path)
    assert kept.read_bytes() == three.verdict_file.read_bytes()


def test_a_first_release_counts_only_while_nothing_is_in_production(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    to_production(registry, run("one"), policy)
    registry.register(run("two").submission())
    verdict = registry.promote(Promotion(stage="staging", number=2), policy)
    assert missing(verdict) == ["verdict against production"]


def test_a_verdict_that_did_not_pass_or_is_on_another_model_does_not_count(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    one, two = run("one"), run("two")
    registry.register(one.submission())
    document = json.loads(one.verdict_file.read_text())
    one.verdict_file.write_text(json.dumps({**document, "outcome": "inconclusive"}))
    failed = Promotion(stage="staging", verdict=one.verdict_file)
    assert missing(registry.promote(failed, policy)) == ["verdict"]
    other = Promotion(stage="staging", verdict=two.verdict_file)
    assert missing(registry.promote(other, policy)) == ["verdict on this checkpoint"]
    absent = Promotion(stage="staging", verdict=one.folder / "absent.json")
    with pytest.raises(GateInputError, match=r"absent\.json: cannot be read"):
        registry.promote(absent, policy)


def test_a_verdict_on_other_data_or_that_contradicts_itself_does_not_count(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    one = run("one")
    registry.register(one.submission())
    document = json.loads(one.verdict_file.read_text())
    easier = {**document, "evidence": {**document["evidence"], "data": "a" * 64}}
    one.verdict_file.write_text(json.dumps(easier))
    newer = Promotion(stage="staging", verdict=one.verdict_file)
    assert missing(registry.promote(newer, policy)) == ["verdict on its data"]
    findings = [{**each, "outcome": "fail"} for each in document["findings"]]
    one.verdict_file.write_text(json.dumps({**document, "findings": findings}))
    assert missing(registry.promote(newer, policy)) == ["verdict"]


def test_every_criterion_is_named_if_the_registered_verdict_is_missing(
    registry: Registry, run: MakeRun, tmp_path: Path
) -> None:
    rules = registered.policy(tmp_path, staging={"data_gates": ["schema"]})
    one = run("one")
    one.judge(rules)
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({**json.loads(one.verdict_file.read_text()), "gate": "schema"}))
    version, _ = registry.register(one.submission(data_verdicts=[schema]))
    artifact(version, "verdict.json").unlink()
    artifact(version, "verdict-schema.json").write_text("{}")
    verdict = registry.promote(Promotion(stage="staging"), rules)
    assert missing(verdict) == [
        "files",
        "evidence",
        "verdict",
        "verdict recomputed",
        "verdict on this checkpoint",
        "verdict on its data",
        "verdict against production",
        "verdict by this policy",
        "data gate schema",
    ]
    assert "/gates-" not in verdict.to_text()


def test_a_verdict_with_other_limits_does_not_count(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    one = run("one")
    # The policy file is the same, but --fail-if-worse-than changed the margin.
    one.judge(policy.with_margin(0.5))
    registry.register(one.submission())
    verdict = registry.promote(Promotion(stage="staging"), policy)
    assert missing(verdict) == ["verdict by this policy"]


DEMANDING: dict[str, Any] = {
    "data_gates": ["schema"],
    "sbom": True,
    "clean_source": True,
    "approver": "somebody else",
}


def test_each_unmet_criterion_of_the_policy_is_named(registry: Registry, tmp_path: Path) -> None:
    rules = registered.policy(tmp_path, staging=DEMANDING)
    dirty = SourceState(commit=registered.COMMIT, diff_digest="a" * 64, lock_digest=None)
    one = Run(tmp_path / "dirty", b"dirty", dirty)
    one.judge(rules)
    registry.register(one.submission())
    verdict = registry.promote(Promotion(stage="staging"), rules)
    assert verdict.outcome is Outcome.FAIL
    assert missing(verdict) == ["data gate schema", "SBOM", "clean source", "approver"]
    for name in missing(verdict):
        assert name in verdict.reason
    self_approved = Promotion(stage="staging", approver="anna")
    text = registry.promote(self_approved, rules).to_text()
    assert "anna agrees; anna promotes, but the approver must be somebody else" in text


def test_a_model_that_meets_every_criterion_is_promoted(
    registry: Registry, source: SourceState, tmp_path: Path
) -> None:
    rules = registered.policy(tmp_path, staging=DEMANDING)
    one = Run(tmp_path / "one", b"one", source)
    one.judge(rules)
    document = json.loads(one.verdict_file.read_text())
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({**document, "gate": "schema"}))
    sbom = write_sbom(tmp_path / "made.json")
    registry.register(one.submission(data_verdicts=[schema], sbom=sbom))
    verdict = registry.promote(Promotion(stage="staging", approver="ben"), rules)
    assert verdict.outcome is Outcome.PASS, verdict.to_text()
    entry = registry.read().history.held[0].entry
    assert (entry.by, entry.approver) == ("anna", "ben")


def test_a_failed_data_gate_blocks_the_promotion(
    registry: Registry, run: MakeRun, tmp_path: Path
) -> None:
    rules = registered.policy(tmp_path, staging={"data_gates": ["drift"]})
    one = run("one")
    one.judge(rules)
    document = json.loads(one.verdict_file.read_text())
    drift = tmp_path / "drift.json"
    drift.write_text(json.dumps({**document, "gate": "drift", "outcome": "fail"}))
    registry.register(one.submission(data_verdicts=[drift]))
    assert missing(registry.promote(Promotion(stage="staging"), rules)) == ["data gate drift"]


def test_a_model_must_spend_the_required_hours_in_staging(
    store: Store, run: MakeRun, tmp_path: Path, messages: list[str]
) -> None:
    rules = registered.policy(tmp_path, production={"hours_in_staging": 24})
    now = datetime(2026, 11, 24, tzinfo=UTC)
    registry = Registry(store, "digits", say=messages.append, by="anna", now=lambda: now)
    one = run("one")
    one.judge(rules)
    registry.register(one.submission())
    registry.promote(Promotion(stage="staging"), rules)
    now += timedelta(hours=23, minutes=59)
    assert missing(registry.promote(Promotion(stage="production"), rules)) == ["time in staging"]
    now += timedelta(minutes=1)
    assert registry.promote(Promotion(stage="production"), rules).outcome is Outcome.PASS


class ServerClock:
    """A store that adds the time of receipt to each entry by its own clock, as a server does."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def entries(self, model: str) -> list[history.Stored]:
        now = history.now()
        return [dataclasses.replace(each, received=now) for each in self._store.entries(model)]


def test_time_in_staging_is_measured_by_the_clock_of_the_server(
    store: Store, run: MakeRun, tmp_path: Path
) -> None:
    rules = registered.policy(tmp_path, production={"hours_in_staging": 24})
    one = run("one")
    one.judge(rules)
    long_ago = history.now() - timedelta(days=2)
    anna = Registry(store, "digits", say=print, by="anna", now=lambda: long_ago)
    anna.register(one.submission())
    anna.promote(Promotion(stage="staging"), rules)
    on_server = Registry(cast("Store", ServerClock(store)), "digits", say=print, by="anna")
    verdict = on_server.promote(Promotion(stage="production"), rules)
    assert missing(verdict) == ["time in staging"]
    here = Registry(store, "digits", say=print, by="anna")
    assert here.promote(Promotion(stage="production"), rules).outcome is Outcome.PASS


def artifact(version: Version, name: str) -> Path:
    return Path(version.source.removeprefix("file://")) / name


@pytest.mark.parametrize("name", ["checkpoint.pt", "verdict.json", "provenance.json"])
@pytest.mark.usefixtures("one_two")
def test_an_overwritten_file_is_caught_on_promotion(
    registry: Registry, policy: Policy, name: str
) -> None:
    artifact(registry.version(2), name).write_bytes(b"{}")
    verdict = registry.promote(Promotion(stage="production"), policy)
    assert missing(verdict)[0] == "files"
    assert f"{name} was changed after it was registered" in verdict.to_text()
    assert stage_versions(registry)["production"] == 1


@pytest.mark.usefixtures("one_two")
def test_a_deleted_file_is_caught_on_promotion(registry: Registry, policy: Policy) -> None:
    artifact(registry.version(2), "checkpoint.pt").unlink()
    assert missing(registry.promote(Promotion(stage="production"), policy))[0] == "files"


@pytest.mark.usefixtures("one_two")
def test_digests_changed_together_with_the_file_are_caught_by_the_log(
    registry: Registry, policy: Policy, client: MlflowClient
) -> None:
    version = registry.version(2)
    file = artifact(version, "config.yaml")
    file.write_bytes(b"seed: 1\n")
    files = {**version.files, "config.yaml": history.digest_of("seed: 1\n")}
    text = json.dumps(files, sort_keys=True, separators=(",", ":"))
    client.set_model_version_tag("digits", "2", "gates.files", text)
    verdict = registry.promote(Promotion(stage="production"), policy)
    assert verdict.outcome is Outcome.FAIL
    assert "its list of digests differs from the one in entry" in verdict.to_text()
    assert stage_versions(registry)["production"] == 1


def test_another_checkpoint_under_the_same_verdict_is_caught(
    registry: Registry, run: MakeRun, policy: Policy, client: MlflowClient
) -> None:
    version, _ = registry.register(run("one").submission())
    artifact(version, "checkpoint.pt").write_bytes(b"evil")
    files = {**version.files, "checkpoint.pt": history.digest_of("evil")}
    client.set_model_version_tag("digits", "1", "gates.files", json.dumps(files))
    verdict = registry.promote(Promotion(stage="staging"), policy)
    assert missing(verdict)[0] == "files"
    assert "its gates.files and gates.checkpoint disagree on the checkpoint" in verdict.to_text()


@pytest.mark.usefixtures("one_two")
def test_a_version_changed_in_production_fails_though_all_its_tags_match(
    registry: Registry, policy: Policy, client: MlflowClient
) -> None:
    version = registry.version(1)
    artifact(version, "checkpoint.pt").write_bytes(b"evil")
    evil = history.digest_of("evil")
    files = json.dumps({**version.files, "checkpoint.pt": evil})
    client.set_model_version_tag("digits", "1", "gates.files", files)
    client.set_model_version_tag("digits", "1", "gates.checkpoint", evil)
    verdict = registry.promote(Promotion(stage="production", number=1), policy)
    assert verdict.outcome is Outcome.FAIL
    assert "differs from the one in entry" in verdict.to_text()


@pytest.mark.parametrize("name", ["../evil", "/evil", "..", "", "a/b", ".hidden"])
def test_a_listed_file_cannot_be_in_another_folder(
    name: str, registry: Registry, run: MakeRun, policy: Policy, client: MlflowClient
) -> None:
    version, _ = registry.register(run("one").submission())
    files = json.dumps({**version.files, name: "a" * 64})
    client.set_model_version_tag("digits", "1", "gates.files", files)
    verdict = registry.promote(Promotion(stage="staging"), policy)
    assert missing(verdict)[0] == "files"
    assert "is not a file name" in verdict.to_text()


@pytest.mark.usefixtures("one_two")
def test_a_damaged_version_that_is_already_in_the_stage_fails(
    registry: Registry, policy: Policy
) -> None:
    artifact(registry.version(1), "checkpoint.pt").write_bytes(b"evil")
    again = Promotion(stage="production", number=1)
    verdict = registry.promote(again, policy)
    assert verdict.outcome is Outcome.FAIL
    assert "version 1 should not be in production" in verdict.reason
    with pytest.raises(RefusedError, match=r"version 1 of digits: is in production: .*checkpoint"):
        registry.rollback(policy, to=1)


def test_an_alias_without_a_log_entry_is_not_removed(
    registry: Registry, run: MakeRun, policy: Policy, client: MlflowClient
) -> None:
    registry.register(run("one").submission())
    registry.register(run("two").submission())
    client.set_registered_model_alias("digits", "production", "1")
    with pytest.raises(RefusedError, match="the alias production names version 1, and no entry"):
        registry.promote(Promotion(stage="staging", number=2), policy)
    assert registry.store.record("digits").aliases == {"production": 1}
    # Once acknowledged, it is the baseline that the next model must be judged against.
    registry.acknowledge("from before there was a history")
    assert stage_versions(registry) == {"staging": None, "production": 1}
    staging = Promotion(stage="staging", number=2)
    assert missing(registry.promote(staging, policy)) == ["verdict against production"]


def test_a_removed_alias_from_before_the_log_blocks_nothing(
    registry: Registry, run: MakeRun, policy: Policy, client: MlflowClient
) -> None:
    registry.register(run("one").submission())
    client.set_registered_model_alias("digits", "production", "1")
    client.delete_registered_model_alias("digits", "production")
    assert registry.promote(Promotion(stage="staging"), policy).outcome is Outcome.PASS


@pytest.mark.parametrize("deleted", ["1", "2"])
@pytest.mark.usefixtures("one_two")
def test_rollback_does_not_need_deleted_versions(
    deleted: str,
    registry: Registry,
    policy: Policy,
    client: MlflowClient,
) -> None:
    """Version 2 is in production, where it replaced version 1."""
    one, two = registry.version(1), registry.version(2)
    registry.promote(Promotion(stage="production"), policy)
    three = Run(artifact(one, "").parent / "three", b"three")
    three.judge(policy)
    registry.register(three.submission())
    client.delete_model_version("digits", deleted)
    if deleted == "1":
        with pytest.raises(RefusedError, match="there is no version before 2"):
            registry.rollback(policy)
        assert registry.read().version_in("production") == two.number
        return
    assert registry.rollback(policy, why="somebody deleted it").number == one.number
    assert registry.store.record("digits").aliases == {"production": 1}
    assert registry.read().history.problems == ()


@pytest.mark.usefixtures("one_two")
def test_truncating_the_log_together_with_its_note_is_detected(
    registry: Registry, policy: Policy, client: MlflowClient
) -> None:
    registry.promote(Promotion(stage="production"), policy)
    number = registry.read().history.head.number
    for each in (number, number - 1):
        client.delete_model_version("digits.history", str(each))
    client.delete_registered_model_tag("digits", "gates.head")
    client.set_registered_model_alias("digits", "production", "1")
    problems = [each.text for each in registry.read().history.problems]
    assert problems == ["the note of the newest entry is missing"]


def with_smoke(policy: Policy, name: str) -> Policy:
    assert policy.promotion is not None
    promotion = policy.promotion.model_copy(update={"smoke": f"tests.registered:{name}"})
    return dataclasses.replace(policy, promotion=promotion)


@pytest.mark.usefixtures("one_two")
def test_a_smoke_check_that_cannot_be_imported_changes_nothing(
    registry: Registry, policy: Policy
) -> None:
    before = registry.read().history
    with pytest.raises(GateError, match=r"promotion\.smoke: tests\.registered:absent cannot be"):
        registry.promote(Promotion(stage="production"), with_smoke(policy, "absent"))
    assert registry.read().history == before


@pytest.mark.usefixtures("one_two")
def test_a_machine_that_cannot_run_the_smoke_check_rolls_nothing_back(
    registry: Registry, policy: Policy
) -> None:
    here = with_smoke(policy, "needs_a_missing_module")
    before = registry.read().history
    with pytest.raises(GateInputError, match="version 2 of digits: cannot be tried on this mach"):
        registry.promote(Promotion(stage="production"), here)
    assert registry.read().history == before, "nothing is promoted"
    # Nor does it roll back a promotion by another user that is not checked yet.
    promote_without_check(registry, policy, "production")
    with pytest.raises(GateInputError, match=r"cannot be tried on this machine: .*no such library"):
        registry.promote(Promotion(stage="staging", number=1), here)
    assert registry.read().version_in("production") == 2
    registry.promote(Promotion(stage="production"), policy)
    assert stage_versions(registry)["production"] == 2
    assert registry.read().stages["production"].unconfirmed is None


@pytest.mark.usefixtures("one_two")
def test_a_failed_download_does_not_fail_the_version(registry: Registry, policy: Policy) -> None:
    promote_without_check(registry, policy, "production")

    class FullDisk:
        """A store whose user has no disk space left for its files."""

        address = registry.store.address

        def __getattr__(self, name: str) -> Any:
            return getattr(registry.store, name)

        def download(self, version: Version, name: str, _: Path) -> Path:
            msg = f"{version}: {name} cannot be read: No space left on device"
            raise UnreachableError(msg)

    ben = Registry(FullDisk(), "digits", say=lambda _: None, by="ben")
    with pytest.raises(GateInputError, match="No space left on device"):
        ben.promote(Promotion(stage="staging", number=1), policy)
    assert registry.read().version_in("production") == 2
    assert registry.read().stages["production"].unconfirmed is not None


@pytest.mark.usefixtures("one_two")
def test_a_promotion_is_checked_even_after_later_entries(
    registry: Registry, policy: Policy
) -> None:
    promote_without_check(registry, policy, "production")
    # By now another entry is the newest, as after an acknowledgement.
    registry.promote(Promotion(stage="staging", number=1), with_smoke(policy, "smoke"))
    assert registry.read().stages["production"].unconfirmed is None
    registry.rollback(policy)
    promote_without_check(registry, policy, "production")
    artifact(registry.version(2), "checkpoint.pt").write_bytes(b"evil")
    now = registry.read()
    entry = registry._entry(  # noqa: SLF001
        Action.ACKNOWLEDGE, "production", before=2, after=2, why="seen"
    )
    registry._ledger.append(now, entry, registry.version(1))  # noqa: SLF001
    registry.promote(Promotion(stage="staging", number=1), policy)
    assert stage_versions(registry)["production"] == 1


@pytest.mark.usefixtures("one_two")
def test_a_failed_check_is_reported_though_another_user_has_confirmed(
    registry: Registry, policy: Policy
) -> None:
    def confirmed_by_ben_then_damaged() -> None:
        ben = Registry(registry.store, "digits", say=lambda _: None, by="ben")
        ben.promote(Promotion(stage="staging", number=2), policy)
        artifact(registry.version(2), "checkpoint.pt").write_bytes(b"evil")

    anna = Registry(
        After(registry.store, confirmed_by_ben_then_damaged), "digits", say=lambda _: None
    )
    verdict = anna.promote(Promotion(stage="production"), policy)
    assert verdict.outcome is Outcome.FAIL
    assert "checkpoint.pt was changed" in verdict.reason


@pytest.mark.parametrize(
    "approver",
    [
        " ",
        "anna ",
        "Anna",
        "\tANNA",
        pytest.param("\uff41nna", id="full_width"),
        pytest.param("anna\u200b", id="zero_width"),
        pytest.param("anna\u0301", id="combining_accent"),
        pytest.param("ann\u0430", id="cyrillic"),
        pytest.param("a\u00adnna", id="soft_hyphen"),
    ],
)
def test_the_approver_must_be_another_person(
    approver: str, registry: Registry, run: MakeRun, tmp_path: Path
) -> None:
    rules = registered.policy(tmp_path, staging={"approver": "somebody else"})
    one = run("one")
    one.judge(rules)
    registry.register(one.submission())
    verdict = registry.promote(Promotion(stage="staging", approver=approver), rules)
    assert missing(verdict) == ["approver"]


def test_a_model_that_fails_the_smoke_check_is_not_promoted(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    one = run("one")
    to_production(registry, one, policy)
    registry.register(run("bad", registered.BAD, against=one).submission())
    before = registry.read().history
    verdict = registry.promote(Promotion(stage="staging", number=2), policy)
    assert missing(verdict) == ["answers"]
    assert "the model answers nonsense" in verdict.to_text()
    assert registry.read().history == before


def with_damage_before_the_check(registry: Registry, number: int) -> Registry:
    """Return a registry in which a model is overwritten between its promotion and its check."""

    def damage() -> None:
        artifact(registry.version(number), "checkpoint.pt").write_bytes(b"evil")

    return Registry(After(registry.store, damage), "digits", say=lambda _: None, by="anna")


@pytest.mark.usefixtures("one_two")
def test_a_promotion_whose_check_fails_is_rolled_back_automatically(
    registry: Registry, policy: Policy
) -> None:
    verdict = with_damage_before_the_check(registry, 2).promote(
        Promotion(stage="production"), policy
    )
    assert verdict.outcome is Outcome.FAIL
    assert "checkpoint.pt was changed" in verdict.reason
    assert stage_versions(registry) == {"staging": 2, "production": 1}
    last = registry.read().history.held[-1].entry
    assert (last.action, last.before, last.after) == (Action.ROLLBACK, 2, 1)
    assert "checkpoint.pt was changed" in last.why


def test_a_failed_first_promotion_leaves_the_stage_empty(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    registry.register(run("one").submission())
    damaged = with_damage_before_the_check(registry, 1)
    assert damaged.promote(Promotion(stage="staging"), policy).outcome is Outcome.FAIL
    assert stage_versions(registry) == {"staging": None, "production": None}


def test_the_first_model_after_a_deleted_production_needs_no_baseline(
    registry: Registry, run: MakeRun, policy: Policy, client: MlflowClient
) -> None:
    to_production(registry, run("one"), policy)
    client.delete_model_version("digits", "1")
    registry.register(run("two").submission())
    for stage in STAGES:
        verdict = registry.promote(Promotion(stage=stage, number=2), policy)
        assert verdict.outcome is Outcome.PASS, verdict.to_text()
    assert stage_versions(registry) == {"staging": 2, "production": 2}


@pytest.mark.usefixtures("one_two")
def test_rollback_skips_versions_of_the_same_checkpoint(
    registry: Registry, policy: Policy, source: SourceState, tmp_path: Path
) -> None:
    registry.promote(Promotion(stage="production"), policy)
    two = Run(tmp_path / "again", b"two", source)
    two.judge(policy)
    sbom = write_sbom(tmp_path / "made.json")
    version, is_new = registry.register(two.submission(sbom=sbom))
    assert is_new
    for stage in STAGES:
        registry.promote(Promotion(stage=stage, number=version.number), policy)
    assert stage_versions(registry)["production"] == version.number == 3
    assert registry.rollback(policy).number == 1


def test_an_acknowledged_version_from_before_the_log_is_not_a_baseline(
    registry: Registry, run: MakeRun, policy: Policy, client: MlflowClient
) -> None:
    client.create_registered_model("digits")
    client.create_model_version("digits", source="/nowhere")
    client.set_registered_model_alias("digits", "production", "1")
    registry.register(run("two").submission())
    registry.acknowledge("from before there was a history")
    assert registry.read().version_in("production") == 1
    assert registry.promote(Promotion(stage="staging"), policy).outcome is Outcome.PASS
    assert stage_versions(registry) == {"staging": 2, "production": 1}


@pytest.mark.usefixtures("one_two")
def test_a_damaged_version_cannot_be_acknowledged(registry: Registry, client: MlflowClient) -> None:
    version = registry.version(1)
    number = next(
        each.number
        for each in registry.read().history.held
        if each.entry.stage == "production" and each.entry.action is Action.PROMOTE
    )
    client.set_model_version_tag("digits.history", str(number), "gates.entry", "{}")
    artifact(version, "checkpoint.pt").write_bytes(b"evil")
    with pytest.raises(RefusedError, match="version 1 of digits: cannot be accepted as it is"):
        registry.acknowledge("looks fine")


@pytest.mark.usefixtures("one_two")
def test_rollback_restores_the_previous_version(registry: Registry, policy: Policy) -> None:
    registry.promote(Promotion(stage="production"), policy)
    assert stage_versions(registry)["production"] == 2
    assert registry.rollback(policy, why="complaints").number == 1
    assert stage_versions(registry)["production"] == 1
    last = registry.read().history.held[-1].entry
    assert (last.before, last.after, last.why, last.by) == (2, 1, "complaints", "anna")
    with pytest.raises(RefusedError, match="no version before 1"):
        registry.rollback(policy)
    assert registry.rollback(policy, to=2).number == 2
    assert stage_versions(registry)["production"] == 2


@pytest.mark.usefixtures("one_two")
def test_rollback_to_a_version_never_in_production_is_refused(
    registry: Registry, policy: Policy
) -> None:
    with pytest.raises(
        RefusedError, match="--to 2: was never in production; versions that were: 1"
    ):
        registry.rollback(policy, to=2)


@pytest.mark.usefixtures("one_two")
def test_rollback_to_a_damaged_version_is_refused(registry: Registry, policy: Policy) -> None:
    registry.promote(Promotion(stage="production"), policy)
    artifact(registry.version(1), "checkpoint.pt").write_bytes(b"evil")
    with pytest.raises(RefusedError, match=r"checkpoint\.pt was changed after it was registered"):
        registry.rollback(policy)
    assert stage_versions(registry)["production"] == 2


@pytest.mark.usefixtures("one_two")
def test_a_moved_or_deleted_alias_is_restored(
    registry: Registry, policy: Policy, messages: list[str]
) -> None:
    registry.store.point("digits", "production", 2)
    registry.store.point("digits", "staging", None)
    registry.promote(Promotion(stage="staging"), policy)
    assert stage_versions(registry) == {"staging": 2, "production": 1}
    assert [line for line in messages if "corrected them" in line]


@pytest.mark.usefixtures("one_two")
def test_a_damaged_history_blocks_promotions_until_it_is_acknowledged(
    registry: Registry, policy: Policy, client: MlflowClient
) -> None:
    client.set_model_version_tag("digits.history", "3", "gates.entry", "{}")
    with pytest.raises(RefusedError, match="history was damaged: entry 3 was edited"):
        registry.promote(Promotion(stage="production"), policy)
    registry.acknowledge("the disk was restored")
    assert [each.text for each in registry.read().history.problems]
    assert registry.promote(Promotion(stage="staging"), policy).outcome is Outcome.PASS


@pytest.mark.usefixtures("one_two")
def test_removing_the_newest_entry_is_detected(registry: Registry, client: MlflowClient) -> None:
    number = registry.read().history.head.number
    client.delete_model_version("digits.history", str(number))
    problems = [each.text for each in registry.read().history.problems]
    assert problems == [f"entry {number} is missing"]


def test_a_version_added_by_another_program_is_not_promoted(
    registry: Registry, policy: Policy, client: MlflowClient
) -> None:
    client.create_registered_model("digits")
    client.create_model_version("digits", source="/nowhere")
    with pytest.raises(GateInputError, match=r"has no tag gates\.\w+.*register it with"):
        registry.promote(Promotion(stage="staging"), policy)


def test_a_missing_model_or_version_is_named(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    with pytest.raises(GateInputError, match=r"digits: is not in sqlite.*register it first"):
        registry.promote(Promotion(stage="staging"), policy)
    registry.register(run("one").submission())
    with pytest.raises(GateInputError, match=r"has no version 7 in .*; it has 1"):
        registry.promote(Promotion(stage="staging", number=7), policy)


@pytest.mark.usefixtures("one_two")
def test_the_slower_of_two_concurrent_promotions_is_refused(
    registry: Registry, policy: Policy, store: Store
) -> None:
    class Overtaken:
        """A store in which another user acts just before the first append."""

        def __init__(self) -> None:
            self.address = store.address
            self.has_happened = False

        def __getattr__(self, name: str) -> Any:
            if name == "append" and not self.has_happened:
                self.has_happened = True
                Registry(store, "digits", say=lambda _: None, by="ben").rollback(policy, to=1) if (
                    stage_versions(registry)["production"] == 2
                ) else Registry(store, "digits", say=lambda _: None, by="ben").promote(
                    Promotion(stage="production"), policy
                )
            return getattr(store, name)

    slower = Registry(Overtaken(), "digits", say=lambda _: None, by="anna")
    with pytest.raises(RefusedError, match=r"digits: ben was quicker \(production: 1 -> 2\)"):
        slower.promote(Promotion(stage="production"), policy)
    assert stage_versions(registry)["production"] == 2
    assert len(registry.read().history.void) == 1


def race(registry: Registry, count: int, act: Callable[[Registry, int], None]) -> list[int]:
    """Run `act` in concurrent processes; return their exit codes: 0 is done, 1 is refused."""
    ready, go = os.pipe()
    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            code = 3
            try:
                os.read(ready, 1)
                # Each process opens its own connections: the parent's must not be shared.
                mine = Registry(
                    MlflowStore(registry.store.address),
                    "digits",
                    say=lambda _: None,
                    by=f"user{number}",
                )
                act(mine, number)
                code = 0
            except RefusedError:
                code = 1
            except GateError as error:
                os.write(2, f"{error}\n".encode())
                code = 2
            finally:
                os._exit(code)
        children.append(child)
    os.write(go, b"x" * count)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(ready)
    os.close(go)
    return codes


def test_one_of_eight_concurrent_promotions_wins(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    one = run("one")
    to_production(registry, one, policy)
    for number in range(4):
        registry.register(run(f"rival{number}", against=one).submission())

    def act(mine: Registry, number: int) -> None:
        verdict = mine.promote(Promotion(stage="staging", number=2 + number % 4), policy)
        if verdict.outcome is not Outcome.PASS:
            # Promoted, but another process promoted its version before this one was checked.
            raise RefusedError(verdict.reason)

    codes = race(registry, 8, act)
    assert set(codes) <= {0, 1}, codes
    assert 0 in codes
    winner = stage_versions(registry)["staging"]
    assert winner in {2, 3, 4, 5}
    found = registry.read().history
    promoted = [e.entry.after for e in found.held if e.entry.action is Action.PROMOTE]
    assert promoted[-1] == winner


def test_eight_concurrent_registrations_of_one_checkpoint_make_one_version(
    registry: Registry, run: MakeRun
) -> None:
    one = run("one")

    def act(mine: Registry, _: int) -> None:
        mine.register(one.submission())

    codes = race(registry, 8, act)
    assert set(codes) == {0}
    assert len(registry.store.versions("digits")) == 1


def test_keyboard_interrupt_is_not_swallowed(
    registry: Registry, run: MakeRun, policy: Policy
) -> None:
    registry.register(run("one").submission())

    class Interrupted:
        address = registry.store.address

        def __getattr__(self, name: str) -> Any:
            if name == "append":
                signal.raise_signal(signal.SIGINT)
            return getattr(registry.store, name)

    user = Registry(Interrupted(), "digits", say=lambda _: None, by="anna")
    with pytest.raises(KeyboardInterrupt):
        user.promote(Promotion(stage="staging"), policy)
    assert stage_versions(registry)["staging"] is None
