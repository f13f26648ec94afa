"""The model card: prose from the settings, and figures from the evidence only."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from gates.__main__ import main
from gates.errors import ConfigError, GateInputError
from gates.evidence import provenance
from gates.files import sha256, write_text
from gates.report.model_card import load_settings, model_card
from gates.verdicts.verdict import NOT_JUDGED, Finding, Outcome, Verdict

SETTINGS = Path(__file__).parents[3] / "configs" / "model_card.yaml"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run, with its checkpoint and provenance."""
    folder = tmp_path / "run"
    folder.mkdir()
    checkpoint = folder / "checkpoint.pt"
    checkpoint.write_bytes(b"weights")
    attempt = provenance.Attempt(
        first_step=0,
        started=datetime(2026, 11, 1, tzinfo=UTC),
        source=provenance.SourceState(commit=COMMIT, diff_digest="e" * 64, lock_digest="f" * 64),
        runtime={"torch": "2.15.0"},
    )
    training_run = provenance.TrainingRun(
        run_id="run",
        config={"seed": 7, "train": {"lr": 0.001}},
        data_digest="d" * 64,
        determinism={"seed": "7"},
        attempts=[attempt],
        finished=datetime(2026, 11, 2, tzinfo=UTC),
        library="pytorch",
    )
    document = provenance.statement(checkpoint, training_run)
    provenance.write(document, folder / "provenance.json")
    return folder


def floor(group: str, value: float, n: int) -> Finding:
    return Finding(
        check="accuracy floor",
        group=group,
        outcome=Outcome.PASS,
        reason="not below 0.6000",
        n=n,
        value=value,
        reference=0.6,
        difference=value - 0.6,
        interval=(value - 0.6 - 0.02, value - 0.6 + 0.01),
        confidence=0.9,
    )


def verdict_on(folder: Path, **changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "gate": "evaluation",
        "outcome": Outcome.INCONCLUSIVE,
        "reason": "accuracy 0.9500 -> 0.9700",
        "findings": (
            floor("overall", 0.97, 1234),
            floor("digit=3", 0.91, 56),
            Finding(
                check="accuracy",
                group="overall",
                outcome=Outcome.INCONCLUSIVE,
                reason="900 examples would settle it",
                n=1234,
                value=0.97,
                reference=0.95,
                difference=0.02,
                interval=(-0.03, 0.05),
            ),
            Finding(
                check="accuracy", group="digit=8", outcome=NOT_JUDGED, reason="has 3 examples", n=3
            ),
        ),
        "metrics": {"accuracy": 0.97, "nll": 0.125, "baseline_accuracy": 0.95, "difference": 0.02},
        "evidence": {"checkpoint": sha256(folder / "checkpoint.pt"), "data": "d" * 64},
    }
    return Verdict.model_validate({**fields, **changes})


def card_of(folder: Path, verdict: Verdict) -> str:
    statement = provenance.read(folder / "provenance.json")
    return model_card(load_settings(SETTINGS), statement, verdict)


def test_hugging_face_parses_the_metadata(run: Path) -> None:
    data: Any = ModelCard(card_of(run, verdict_on(run))).data
    read = data.to_dict()
    results = read["model-index"][0]["results"][0]["metrics"]
    assert results == [
        {"type": "accuracy", "value": 0.97},
        {"type": "nll", "value": 0.125},
    ]
    assert read["license"] == "mit"
    assert read["pipeline_tag"] == "image-classification"


def test_model_is_named_by_commit_and_checkpoint(run: Path) -> None:
    digest = sha256(run / "checkpoint.pt")
    name = load_settings(SETTINGS).name
    assert f"# {name} 01234567-{digest[:12]}" in card_of(run, verdict_on(run))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("| digit=3 | 56 | 0.9100 | 0.8900 to 0.9200 |", id="subgroup_with_interval"),
        pytest.param("| accuracy | overall | +0.0200 | -0.0300 to +0.0500 |", id="difference"),
        pytest.param("- accuracy, overall: 900 examples would settle it", id="open_question"),
        pytest.param("- Too few examples to judge 1 subgroups: digit=8", id="not_judged"),
        pytest.param("**Evaluation: inconclusive.**", id="outcome"),
        pytest.param(f"| source | `{COMMIT}` |", id="commit"),
        pytest.param(f"| data | `{'d' * 64}` |", id="data"),
        pytest.param(f"| uv.lock | `{'f' * 64}` |", id="lock"),
        pytest.param("| torch | `2.15.0` |", id="version"),
        pytest.param("**not fully committed**", id="dirty_tree"),
        pytest.param('"lr": 0.001', id="configuration"),
        pytest.param("Overall: nll 0.1250.", id="other_metrics"),
        pytest.param("scanned in the 1990s", id="text_from_settings"),
    ],
)
def test_card_contains(run: Path, line: str) -> None:
    assert line in card_of(run, verdict_on(run))


def test_card_of_a_first_release_says_that_there_was_no_baseline(run: Path) -> None:
    verdict = verdict_on(
        run, notes={"no baseline": "first release"}, findings=[floor("overall", 0.97, 9)]
    )
    card = card_of(run, verdict)
    assert "_no baseline: first release_" in card
    assert "Comparison with the previous model" not in card


def test_verdict_on_another_checkpoint_is_refused(run: Path) -> None:
    other = verdict_on(run, evidence={"checkpoint": "9" * 64})
    with pytest.raises(GateInputError, match="evaluate this run's checkpoint again"):
        card_of(run, other)


def test_verdict_of_another_gate_is_refused(run: Path) -> None:
    with pytest.raises(GateInputError, match="expected one from evaluation"):
        card_of(run, verdict_on(run, gate="drift"))


def test_settings_have_no_defaults(tmp_path: Path) -> None:
    file = tmp_path / "card.yaml"
    file.write_text(SETTINGS.read_text().replace("license: mit\n", ""))
    with pytest.raises(ConfigError, match=r"card\.yaml: license: missing"):
        load_settings(file)


@pytest.mark.parametrize("path", ["", "checkpoint.pt", "../latest.pt"])
def test_command_writes_the_card_to_the_runs_folder(
    path: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.parent / "latest.pt").symlink_to(run / "checkpoint.pt")
    verdict = verdict_on(run)
    write_text(tmp_path / "verdict.json", verdict.to_json())
    arguments = ["card", "--run", str(run / path), "--verdict", str(tmp_path / "verdict.json")]
    assert main([*arguments, "--settings", str(SETTINGS)]) == 0
    assert (run / "model_card.md").read_text() == card_of(run, verdict)
    assert capsys.readouterr().out == f"model card: {run / 'model_card.md'}\n"


def test_missing_verdict_is_reported_in_one_line_and_writes_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["card", "--run", str(run), "--verdict", str(tmp_path / "none.json")]
    assert main([*arguments, "--settings", str(SETTINGS)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert not (run / "model_card.md").exists()
