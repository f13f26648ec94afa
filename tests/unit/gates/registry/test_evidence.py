"""What a promotion computes for itself: nothing counts because a file or a tag says it."""

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


def edited_to_pass(run: Run) -> None:
    """Make a verdict a pass by hand, in every place that says otherwise."""
    document = json.loads(run.verdict_file.read_text())
    for each in (document, *document["findings"]):
        each["outcome"] = "pass"
    run.verdict_file.write_text(json.dumps(document))


def worse(run: Run) -> None:
    """Make the model of `run` right on three examples of ten."""
    write_predictions(
        run.scored([row % 10 < 3 for row in range(200)]), run.folder / "predictions.parquet"
    )


def test_a_verdict_that_was_edited_to_pass_does_not_count(
    registry: Registry, one: Run, policy: Policy, tmp_path: Path
) -> None:
    two = Run(tmp_path / "two", b"two")
    worse(two)
    two.judge(policy, against=one)
    edited_to_pass(two)
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
    worse(one)
    one.judge(rules)
    edited_to_pass(one)
    registry.register(one.submission())
    assert missing(registry.promote(STAGING, rules)) == ["verdict recomputed"]


@pytest.fixture
def one(registry: Registry, run: MakeRun, policy: Policy) -> Run:
    """The run in production."""
    made = run("one")
    to_production(registry, made, policy)
    return made


@pytest.fixture
def moved_on(policy: Policy, one: Run) -> Policy:
    """The project declares newer data than that on which production was judged."""
    assert one.data != NEWER
    file = policy.folder / "declared.json"
    file.write_text(read_declared(file).model_copy(update={"digests": [NEWER]}).to_json())
    return policy


def scored_again(one: Run, two: Run, right: list[bool]) -> None:
    """Leave what the model of `one` predicts on the data of `two`, as an evaluation does."""
    again = one.scored(right, data_digest=two.data)
    write_predictions(again, two.folder / "baseline_predictions.parquet")


def test_on_newer_data_production_is_scored_again_and_must_answer_so(
    registry: Registry, one: Run, moved_on: Policy, tmp_path: Path
) -> None:
    two = Run(tmp_path / "two", b"two", data=NEWER)
    scored_again(one, two, [True] * 200)
    two.judge(moved_on, against=one)
    version, _ = registry.register(two.submission())
    assert "baseline_predictions.parquet" in version.files
    verdict = registry.promote(STAGING, moved_on)
    assert verdict.outcome is Outcome.PASS, verdict.to_text()
    assert verdict.findings[-1].check == "answers of production"


def test_predictions_of_production_that_it_does_not_give_do_not_count(
    registry: Registry, one: Run, moved_on: Policy, tmp_path: Path
) -> None:
    two = Run(tmp_path / "two", b"two", data=NEWER)
    worse(two)
    scored_again(one, two, [False] * 200)
    two.judge(moved_on, against=one)
    registry.register(two.submission())
    assert missing(registry.promote(STAGING, moved_on)) == ["answers of production"]


def test_without_predictions_of_production_nothing_can_be_recomputed(
    registry: Registry, one: Run, moved_on: Policy, tmp_path: Path
) -> None:
    two = Run(tmp_path / "two", b"two", data=NEWER)
    scored_again(one, two, [True] * 200)
    two.judge(moved_on, against=one)
    (two.folder / "baseline_predictions.parquet").unlink()
    registry.register(two.submission())
    assert missing(registry.promote(STAGING, moved_on)) == ["verdict recomputed"]


def test_a_model_that_chose_its_own_exam_is_refused(
    registry: Registry, policy: Policy, tmp_path: Path
) -> None:
    one = Run(tmp_path / "one", b"one", data=NEWER)
    one.judge(policy)
    registry.register(one.submission())
    verdict = registry.promote(STAGING, policy)
    assert missing(verdict) == ["declared data"]
    assert "which promotion.data does not declare and production was not" in verdict.to_text()


def test_what_production_was_judged_on_counts_when_it_is_no_longer_declared(
    registry: Registry, run: MakeRun, one: Run, moved_on: Policy
) -> None:
    registry.register(run("two", against=one).submission())
    verdict = registry.promote(STAGING, moved_on)
    assert verdict.outcome is Outcome.PASS, verdict.to_text()
    assert "what version 1, in production, was judged on" in verdict.to_json()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory); promotion.data in the policy names"),
        ("{}", "not a manifest of the format data/1: digests: "),
        ('{"digests": [], "rows": {}, "columns": {}}', "digests: "),
        ('{"digests": ["main"], "rows": {}, "columns": {}}', "digests.0: "),
        ("[" * 9999, "top level: invalid JSON"),
    ],
)
def test_data_that_is_not_declared_is_no_data(
    registry: Registry, run: MakeRun, policy: Policy, content: str | None, told: str
) -> None:
    registry.register(run("one").submission())
    file = policy.folder / "declared.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    with pytest.raises(GateInputError, match=r"declared\.json: ") as raised:
        registry.promote(STAGING, policy)
    assert told in str(raised.value)


def test_the_manifest_is_read_back_as_it_was_written(tmp_path: Path) -> None:
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
def test_a_tag_that_was_edited_is_found(
    registry: Registry, run: MakeRun, policy: Policy, client: MlflowClient, tag: str, value: str
) -> None:
    registry.register(run("one").submission())
    client.set_model_version_tag("digits", "1", f"gates.{tag}", value)
    verdict = registry.promote(STAGING, policy)
    assert missing(verdict) == ["evidence"]
    assert f"is not what its files say: {tag}" in verdict.to_text()


CLEAN = {"clean_source": True}


def promoted(registry: Registry, folder: Path, made: Run) -> Verdict:
    rules = registered.policy(folder, staging=CLEAN)
    made.judge(rules)
    registry.register(made.submission())
    return registry.promote(STAGING, rules)


def test_a_commit_that_git_knows_with_its_lock_is_clean(
    registry: Registry, source: SourceState, tmp_path: Path
) -> None:
    made = Run(tmp_path / "one", b"one", source)
    verdict = promoted(registry, tmp_path, made)
    assert verdict.outcome is Outcome.PASS, verdict.to_text()


@pytest.mark.parametrize(
    ("changes", "runtime", "told"),
    [
        ({"commit": "f" * 40}, {}, "commit ffffffff cannot be found here: "),
        ({"commit": None}, {}, "it names no commit; commit, then train"),
        ({"diff_digest": "a" * 64}, {}, "and the source was not what it says"),
        ({"lock_digest": "a" * 64}, {}, "uv.lock of commit "),
        ({"lock_digest": None}, {}, "uv.lock of commit "),
        ({}, {"torch": "9.9"}, "it ran on torch 9.9, and uv.lock has 2.15.0"),
        ({}, {"numpy": "1.0+local"}, "it ran on numpy 1.0+local, and uv.lock has 2.3.0"),
    ],
)
def test_a_source_that_git_and_the_lock_do_not_know_is_not_clean(
    registry: Registry,
    source: SourceState,
    tmp_path: Path,
    changes: dict[str, str | None],
    runtime: dict[str, str],
    told: str,
) -> None:
    made = Run(
        tmp_path / "one",
        b"one",
        dataclasses.replace(source, **changes),
        runtime={"torch": "2.15.0+cu130", **runtime},
    )
    verdict = promoted(registry, tmp_path, made)
    assert missing(verdict) == ["clean source"]
    assert told in verdict.to_text()


def test_without_a_repository_no_source_is_clean(
    registry: Registry, source: SourceState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    verdict = promoted(registry, tmp_path, Run(tmp_path / "one", b"one", source))
    assert missing(verdict) == ["clean source"]
    assert "not a git repository" in verdict.to_text()


def emptied(document: dict[str, list[object]]) -> None:
    document["components"] = []


def with_a_foreign_one(document: dict[str, list[object]]) -> None:
    document["components"].append({"name": "evil", "version": "1", "hashes": []})


def with_another_file(document: dict[str, list[dict[str, list[dict[str, str]]]]]) -> None:
    document["components"][0]["hashes"][0]["content"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (emptied, r"it lacks numpy==2\.3\.0, torch==2\.15\.0, unlike uv\.lock; nox -s sbom"),
        (with_a_foreign_one, r"it adds evil==1, unlike uv\.lock"),
        (with_another_file, r"it has other files of numpy==2\.3\.0, unlike uv\.lock"),
    ],
)
def test_a_bill_of_materials_that_is_not_that_of_the_lock_is_refused(
    source: SourceState, tmp_path: Path, policy: Policy, change: Callable[..., None], told: str
) -> None:
    made = Run(tmp_path / "one", b"one", source)
    made.judge(policy)
    sbom = write_sbom(tmp_path / "made.json")
    assert made.submission(sbom=sbom).files["sbom.cdx.json"] == sbom
    document = json.loads(sbom.read_text())
    change(document)
    sbom.write_text(json.dumps(document))
    with pytest.raises(GateInputError, match=rf"made\.json: {told}"):
        made.submission(sbom=sbom)


def test_the_lock_is_taken_from_the_commit_where_another_is_checked_out(
    source: SourceState, tmp_path: Path, policy: Policy
) -> None:
    made = Run(tmp_path / "one", b"one", source)
    made.judge(policy)
    sbom = write_sbom(tmp_path / "made.json")
    Path("uv.lock").write_text(LOCK.replace("2.3.0", "2.4.0"))
    assert made.submission(sbom=sbom).files["sbom.cdx.json"] == sbom
    elsewhere = dataclasses.replace(source, commit="f" * 40)
    other = Run(tmp_path / "two", b"two", elsewhere)
    other.judge(policy)
    with pytest.raises(GateInputError, match="is neither here nor in its commit"):
        other.submission(sbom=sbom)


SIGNER = "team/project/.github/workflows/release.yml"


@pytest.fixture
def gh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for gh: it notes what it is asked, and knows the files whose content is in known.

    The real one asks Sigstore whom to trust, which tests do not.
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


def attested(registry: Registry, folder: Path, *, bundle: bool = True) -> tuple[Run, Policy]:
    rules = registered.policy(folder, attested_by=SIGNER)
    made = Run(folder / "one", b"one")
    made.judge(rules)
    if bundle:
        (made.folder / "attestation.json").write_text("{}")
    registry.register(made.submission())
    return made, rules


def test_a_model_that_the_workflow_has_signed_is_promoted(
    registry: Registry, gh: Path, tmp_path: Path
) -> None:
    made, rules = attested(registry, tmp_path)
    gh.mkdir()
    for name in ("checkpoint.pt", "provenance.json"):
        shutil.copy(made.folder / name, gh)
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
def test_a_file_that_the_workflow_has_not_signed_is_told(
    registry: Registry, gh: Path, tmp_path: Path, signed: str
) -> None:
    made, rules = attested(registry, tmp_path)
    gh.mkdir()
    shutil.copy(made.folder / signed, gh)
    verdict = registry.promote(STAGING, rules)
    assert missing(verdict) == ["attestation"]
    assert f"is not attested by {SIGNER}: Error: verifying with issuer failed" in verdict.to_text()


@pytest.mark.usefixtures("gh")
def test_a_model_that_nobody_signed_is_told(registry: Registry, tmp_path: Path) -> None:
    made, rules = attested(registry, tmp_path, bundle=False)
    verdict = registry.promote(STAGING, rules)
    assert missing(verdict) == ["attestation"]
    assert "there is no attestation.json among its files" in verdict.to_text()
    # Signed later, the same checkpoint is another version.
    (made.folder / "attestation.json").write_text("{}")
    version, is_new = registry.register(made.submission())
    assert (version.number, is_new) == (2, True)
    assert "attestation.json" in version.files


def test_without_gh_nothing_is_attested(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rules = attested(registry, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    verdict = registry.promote(STAGING, rules)
    assert missing(verdict) == ["attestation"]
    assert "gh, GitHub's command line, checks attestations and is missing" in verdict.to_text()
