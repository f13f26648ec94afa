"""A promotion recomputes the evidence: no file or tag is trusted."""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from gates.data.declared import DeclaredData, read_declared
from gates.errors import GateInputError
from gates.evaluation.policy import Policy
from gates.evaluation.predictions import write_predictions
from gates.evidence.provenance import SourceState
from gates.registry.pipeline import Promotion, Registry
from gates.verdicts.verdict import Outcome, Verdict
from tests import registered
from tests.judged import DATA
from tests.registered import Run
from tests.registries import LOCK, MakeRun, to_production, write_sbom

STAGING = Promotion(stage="staging")
NEWER = "e" * 64


def missing(verdict: Verdict) -> list[str]:
    return [each.check for each in verdict.findings if each.outcome is not Outcome.PASS]


def edit_to_pass(run: Run) -> None:
    """Edit a verdict by hand so that it and all its findings pass."""
    document = json.loads(run.verdict_file.read_text())
    for each in (document, *document["findings"]):
        each["outcome"] = "pass"
    run.verdict_file.write_text(json.dumps(document))


def make_worse(run: Run) -> None:
    """Write predictions of the model of `run` that are right on three examples of ten."""
    write_predictions(
        run.scored([row % 10 < 3 for row in range(200)]), run.folder / "predictions.parquet"
    )


def test_a_verdict_that_was_edited_to_pass_does_not_count(
    registry: Registry, one: Run, policy: Policy, tmp_path: Path
) -> None:
    two = Run(tmp_path / "two", b"two")
    make_worse(two)
    two.judge(policy, against=one)
    edit_to_pass(two)
    registry.register(two.submission())
    verdict = registry.promote(STAGING, policy)
    assert missing(verdict) == ["verdict recomputed"]
    assert "fail: accuracy 1.0000 -> 0.3000" in verdict.to_text()


def test_the_verdict_of_a_first_release_is_recomputed_too(
    registry: Registry, tmp_path: Path
) -> None:
    rules = registered.policy(tmp_path)
    accuracy = rules.evaluation.primary.model_copy(update={"floor": 0.6})
    metrics = {**rules.evaluation.metrics, "accuracy": accuracy}
    evaluation = rules.evaluation.model_copy(update={"metrics": metrics})
    rules = dataclasses.replace(rules, evaluation=evaluation)
    one = Run(tmp_path / "one", b"one")
    make_worse(one)
    one.judge(rules)
    edit_to_pass(one)
    registry.register(one.submission())
    assert missing(registry.promote(STAGING, rules)) == ["verdict recomputed"]


@pytest.fixture
def one(registry: Registry, run: MakeRun, policy: Policy) -> Run:
    """The run in production."""
    in_production = run("one")
    to_production(registry, in_production, policy)
    return in_production


@pytest.fixture
def newer_policy(policy: Policy, one: Run) -> Policy:
    """The policy, after the project declared newer data than production was judged on."""
    assert one.data != NEWER
    file = policy.folder / "declared.json"
    file.write_text(read_declared(file).model_copy(update={"digests": [NEWER]}).to_json())
    return policy


def write_baseline_predictions(one: Run, two: Run, right: list[bool]) -> None:
    """Write the predictions of `one` on the data of `two` into `two`, as an evaluation does."""
    again = one.scored(right, data_digest=two.data)
    write_predictions(again, two.folder / "baseline_predictions.parquet")


def test_predictions_of_production_on_newer_data_are_checked(
    registry: Registry, one: Run, newer_policy: Policy, tmp_path: Path
) -> None:
    two = Run(tmp_path / "two", b"two", data=NEWER)
    write_baseline_predictions(one, two, [True] * 200)
    two.judge(newer_policy, against=one)
    version, _ = registry.register(two.submission())
    assert "baseline_predictions.parquet" in version.files
    verdict = registry.promote(STAGING, newer_policy)
    assert verdict.outcome is Outcome.PASS, verdict.to_text()
    assert verdict.findings[-1].check == "answers of production"


def test_forged_predictions_of_production_do_not_count(
    registry: Registry, one: Run, newer_policy: Policy, tmp_path: Path
) -> None:
    two = Run(tmp_path / "two", b"two", data=NEWER)
    make_worse(two)
    write_baseline_predictions(one, two, [False] * 200)
    two.judge(newer_policy, against=one)
    registry.register(two.submission())
    assert missing(registry.promote(STAGING, newer_policy)) == ["answers of production"]


def test_without_predictions_of_production_the_verdict_cannot_be_recomputed(
    registry: Registry, one: Run, newer_policy: Policy, tmp_path: Path
) -> None:
    two = Run(tmp_path / "two", b"two", data=NEWER)
    write_baseline_predictions(one, two, [True] * 200)
    two.judge(newer_policy, against=one)
    (two.folder / "baseline_predictions.parquet").unlink()
    registry.register(two.submission())
    assert missing(registry.promote(STAGING, newer_policy)) == ["verdict recomputed"]


def test_a_model_that_chose_its_own_exam_is_refused(
    registry: Registry, policy: Policy, tmp_path: Path
) -> None:
    one = Run(tmp_path / "one", b"one", data=NEWER)
    one.judge(policy)
    registry.register(one.submission())
    verdict = registry.promote(STAGING, policy)
    assert missing(verdict) == ["declared data"]
    assert "which promotion.data does not declare and production was not" in verdict.to_text()


def test_data_that_production_was_judged_on_counts_though_no_longer_declared(
    registry: Registry, run: MakeRun, one: Run, newer_policy: Policy
) -> None:
    registry.register(run("two", against=one).submission())
    verdict = registry.promote(STAGING, newer_policy)
    assert verdict.outcome is Outcome.PASS, verdict.to_text()
    assert "version 1, in production, was judged on" in verdict.to_json()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory); promotion.data in the policy names"),
        ("{}", "not a manifest in the format data/1: digests: "),
        ('{"digests": [], "rows": {}, "columns": {}}', "digests: "),
        ('{"digests": ["main"], "rows": {}, "columns": {}}', "digests.0: "),
        ("[" * 9999, "top level: invalid JSON"),
    ],
)
def test_a_missing_or_invalid_data_manifest_is_refused(
    registry: Registry, run: MakeRun, policy: Policy, content: str | None, message: str
) -> None:
    registry.register(run("one").submission())
    file = policy.folder / "declared.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(GateInputError, match=r"declared\.json: ") as raised:
        registry.promote(STAGING, policy)
    assert message in str(raised.value)


def test_the_data_manifest_is_read_back_unchanged(tmp_path: Path) -> None:
    declared = DeclaredData(digests=[DATA, NEWER], rows={"test": 9}, columns={"id": "string"})
    file = tmp_path / "mine.json"
    file.write_text(declared.to_json())
    assert read_declared(file) == declared


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        ("commit", "f" * 40),
        ("dirty", "true"),
        ("model_version", "00000000-000000000000"),
    ],
)
def test_an_edited_tag_is_detected(
    registry: Registry, run: MakeRun, policy: Policy, client: MlflowClient, tag: str, value: str
) -> None:
    registry.register(run("one").submission())
    client.set_model_version_tag("digits", "1", f"gates.{tag}", value)
    verdict = registry.promote(STAGING, policy)
    assert missing(verdict) == ["evidence"]
    assert f"the registered facts differ from its files in: {tag}" in verdict.to_text()


CLEAN = {"clean_source": True}


def register_and_promote(registry: Registry, folder: Path, run: Run) -> Verdict:
    rules = registered.policy(folder, staging=CLEAN)
    run.judge(rules)
    registry.register(run.submission())
    return registry.promote(STAGING, rules)


def test_a_known_commit_with_its_lock_is_clean(
    registry: Registry, source: SourceState, tmp_path: Path
) -> None:
    run = Run(tmp_path / "one", b"one", source)
    verdict = register_and_promote(registry, tmp_path, run)
    assert verdict.outcome is Outcome.PASS, verdict.to_text()


@pytest.mark.parametrize(
    ("changes", "runtime", "message"),
    [
        ({"commit": "f" * 40}, {}, "commit ffffffff cannot be found here: "),
        ({"commit": None}, {}, "it names no commit; commit, then train again"),
        ({"diff_digest": "a" * 64}, {}, "the source differed from commit "),
        ({"lock_digest": "a" * 64}, {}, "uv.lock in commit "),
        ({"lock_digest": None}, {}, "uv.lock in commit "),
        ({}, {"torch": "9.9"}, "it ran with torch 9.9, but uv.lock has 2.15.0"),
        ({}, {"numpy": "1.0+local"}, "it ran with numpy 1.0+local, but uv.lock has 2.3.0"),
    ],
)
def test_a_source_that_contradicts_git_or_the_lock_is_not_clean(
    registry: Registry,
    source: SourceState,
    tmp_path: Path,
    changes: dict[str, str | None],
    runtime: dict[str, str],
    message: str,
) -> None:
    run = Run(
        tmp_path / "one",
        b"one",
        dataclasses.replace(source, **changes),
        runtime={"torch": "2.15.0+cu130", **runtime},
    )
    verdict = register_and_promote(registry, tmp_path, run)
    assert missing(verdict) == ["clean source"]
    assert message in verdict.to_text()


def test_without_a_repository_no_source_is_clean(
    registry: Registry, source: SourceState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    verdict = register_and_promote(registry, tmp_path, Run(tmp_path / "one", b"one", source))
    assert missing(verdict) == ["clean source"]
    assert "not a git repository" in verdict.to_text()


def remove_components(document: dict[str, list[object]]) -> None:
    document["components"] = []


def add_component(document: dict[str, list[object]]) -> None:
    document["components"].append({"name": "evil", "version": "1", "hashes": []})


def change_hash(document: dict[str, list[dict[str, list[dict[str, str]]]]]) -> None:
    document["components"][0]["hashes"][0]["content"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            remove_components,
            r"it lacks numpy==2\.3\.0, torch==2\.15\.0, unlike uv\.lock; run nox -s sbom",
        ),
        (add_component, r"it adds evil==1, unlike uv\.lock"),
        (change_hash, r"it has other files of numpy==2\.3\.0, unlike uv\.lock"),
    ],
)
def test_a_bill_of_materials_that_differs_from_the_lock_is_refused(
    source: SourceState, tmp_path: Path, policy: Policy, change: Callable[..., None], message: str
) -> None:
    run = Run(tmp_path / "one", b"one", source)
    run.judge(policy)
    sbom = write_sbom(tmp_path / "made.json")
    assert run.submission(sbom=sbom).files["sbom.cdx.json"] == sbom
    document = json.loads(sbom.read_text())
    change(document)
    sbom.write_text(json.dumps(document))
    with pytest.raises(GateInputError, match=rf"made\.json: {message}"):
        run.submission(sbom=sbom)


def test_the_lock_of_the_commit_is_used_if_another_is_checked_out(
    source: SourceState, tmp_path: Path, policy: Policy
) -> None:
    run = Run(tmp_path / "one", b"one", source)
    run.judge(policy)
    sbom = write_sbom(tmp_path / "made.json")
    Path("uv.lock").write_text(LOCK.replace("2.3.0", "2.4.0"))
    assert run.submission(sbom=sbom).files["sbom.cdx.json"] == sbom
    elsewhere = dataclasses.replace(source, commit="f" * 40)
    other = Run(tmp_path / "two", b"two", elsewhere)
    other.judge(policy)
    with pytest.raises(GateInputError, match="is neither here nor in its commit"):
        other.submission(sbom=sbom)


SIGNER = "team/project/.github/workflows/release.yml"


@pytest.fixture
def gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for gh that accepts the files in the returned folder and logs its arguments.

    The real one contacts Sigstore, which tests must not do.
    """
    program = tmp_path / "bin" / "gh"
    program.parent.mkdir()
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/asked
for known in {tmp_path}/known/*; do
  cmp -s "$3" "$known" && exit 0
done
echo "Error: verifying with issuer failed" >&2
exit 1
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return tmp_path / "known"


def register_under_attestation(
    registry: Registry, folder: Path, *, bundle: bool = True
) -> tuple[Run, Policy]:
    rules = registered.policy(folder, attested_by=SIGNER)
    run = Run(folder / "one", b"one")
    run.judge(rules)
    if bundle:
        (run.folder / "attestation.json").write_text("{}")
    registry.register(run.submission())
    return run, rules


def test_a_model_signed_by_the_workflow_is_promoted(
    registry: Registry, gh: Path, tmp_path: Path
) -> None:
    run, rules = register_under_attestation(registry, tmp_path)
    gh.mkdir()
    for name in ("checkpoint.pt", "provenance.json"):
        shutil.copy(run.folder / name, gh)
    verdict = registry.promote(STAGING, rules)
    assert verdict.outcome is Outcome.PASS, verdict.to_text()
    checkpoint, provenance = (tmp_path / "asked").read_text().splitlines()
    assert re.fullmatch(
        rf"attestation verify /\S+/checkpoint\.pt --repo team/project --signer-workflow {SIGNER} "
        r"--bundle /\S+/attestation\.json",
        checkpoint,
    )
    assert "/provenance.json " in provenance


@pytest.mark.parametrize("signed", ["checkpoint.pt", "provenance.json"])
def test_a_file_not_signed_by_the_workflow_is_reported(
    registry: Registry, gh: Path, tmp_path: Path, signed: str
) -> None:
    run, rules = register_under_attestation(registry, tmp_path)
    gh.mkdir()
    shutil.copy(run.folder / signed, gh)
    verdict = registry.promote(STAGING, rules)
    assert missing(verdict) == ["attestation"]
    assert f"is not attested by {SIGNER}: Error: verifying with issuer failed" in verdict.to_text()


@pytest.mark.usefixtures("gh")
def test_an_unsigned_model_is_reported(registry: Registry, tmp_path: Path) -> None:
    run, rules = register_under_attestation(registry, tmp_path, bundle=False)
    verdict = registry.promote(STAGING, rules)
    assert missing(verdict) == ["attestation"]
    assert "it has no attestation.json; " in verdict.to_text()
    # Once it is signed, the same checkpoint becomes another version.
    (run.folder / "attestation.json").write_text("{}")
    version, is_new = registry.register(run.submission())
    assert (version.number, is_new) == (2, True)
    assert "attestation.json" in version.files


def test_without_gh_nothing_is_attested(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rules = register_under_attestation(registry, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    verdict = registry.promote(STAGING, rules)
    assert missing(verdict) == ["attestation"]
    assert "gh, GitHub's command line, is needed to check attestations" in verdict.to_text()
