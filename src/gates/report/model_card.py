"""A model card from the evidence: what a model is for, what made it, how well it does, for whom.

Source of the form: Mitchell et al. (2019), Model Cards for Model Reporting, FAT*; the metadata is
Hugging Face's (https://huggingface.co/docs/hub/model-cards). Only what no file can say is typed by
hand, in `configs/model_card.yaml`.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from pydantic import Field

from gates.configuration import Section, read_yaml, validate
from gates.evidence import provenance
from gates.verdicts.verdict import (
    NOT_JUDGED,
    Finding,
    Outcome,
    Verdict,
    is_floor,
    metric_of,
)


class CardSettings(Section):
    """What people say of a model; the rest is computed.

    Args:
        name: the model's.
        license: an SPDX identifier, in lower case as on the Hugging Face Hub.
        task: one of the Hub's tasks, such as `image-classification`.
        dataset: what the data is called.
        tags: words to find the model by.
        summary: one sentence.
        intended_use: what it is for.
        out_of_scope: what it must not be used for.
        limits: what is known of its weaknesses, besides the figures.
    """

    name: str = Field(min_length=1)
    license: str = Field(min_length=1)
    task: str = Field(min_length=1)
    dataset: str = Field(min_length=1)
    tags: list[str]
    summary: str = Field(min_length=1)
    intended_use: list[str] = Field(min_length=1)
    out_of_scope: list[str] = Field(min_length=1)
    limits: list[str] = Field(min_length=1)


def load_settings(file: Path) -> CardSettings:
    """Return what people say of the model, from the YAML `file`.

    Raises:
        ConfigError: the file is missing or malformed, or a value in it is not allowed.
    """
    return validate(CardSettings, read_yaml(file), where=str(file))


def model_card(settings: CardSettings, statement: Mapping[str, Any], verdict: Verdict) -> str:
    """Return the card of the model that `statement` and `verdict` are about, as Markdown.

    Args:
        settings: what people say of it.
        statement: its provenance.
        verdict: of the evaluation gate.

    Raises:
        GateInputError: the verdict is not of the evaluation gate, or about another checkpoint.
    """
    verdict.check_is_of(provenance.subject_digest(statement))
    parts = [
        f"# {settings.name} {provenance.model_version(statement)}",
        settings.summary,
        f"**Evaluation: {verdict.outcome}.** {verdict.reason}.",
        *(f"_{name}: {note}_" for name, note in verdict.notes.items()),
        _section("Intended use", _list(settings.intended_use)),
        _section("Out of scope", _list(settings.out_of_scope)),
        _section("How well it does", _values(verdict)),
        _section("Against the model before it", _differences(verdict)),
        _section("Limits", _list([*settings.limits, *_open_questions(verdict)])),
        _section("What made it", _origin(statement)),
        _section("What was judged", _list(f"{k}: `{v}`" for k, v in verdict.evidence.items())),
    ]
    body = "\n\n".join(part for part in parts if part)
    metadata = _metadata(settings, verdict, library=provenance.library(statement))
    card = ModelCard(f"---\n{metadata}\n---\n\n{body}\n")
    return str(card)


def _metadata(settings: CardSettings, verdict: Verdict, *, library: str) -> str:
    results = [
        EvalResult(
            task_type=settings.task,
            dataset_type=settings.dataset.lower().replace(" ", "-"),
            dataset_name=settings.dataset,
            dataset_split="test",
            metric_type=name,
            metric_value=round(value, 6),
        )
        for name, value in _figures(verdict).items()
    ]
    data = ModelCardData(
        model_name=settings.name,
        license=settings.license,
        library_name=library,
        pipeline_tag=settings.task,
        tags=settings.tags,
        eval_results=results,
    )
    metadata: str = data.to_yaml()
    return metadata


def _figures(verdict: Verdict) -> dict[str, float]:
    """Return the figures of the model itself, by name: not those of what it was compared with."""
    return {
        name: value
        for name, value in verdict.metrics.items()
        if not name.startswith("baseline_") and name != "difference"
    }


def _values(verdict: Verdict) -> str:
    """Return each metric that has a floor, in each group, with its interval, as a table."""
    floors = [finding for finding in verdict.findings if is_floor(finding.check)]
    shown = dict.fromkeys(metric_of(finding.check) for finding in floors)
    tables = [_table_of(name, [f for f in floors if metric_of(f.check) == name]) for name in shown]
    others = {name: value for name, value in _figures(verdict).items() if name not in shown}
    figures = ", ".join(f"{name} {value:.4f}" for name, value in others.items())
    return "\n\n".join([*tables, *([f"Overall: {figures}."] if figures else [])])


def _table_of(metric: str, floors: list[Finding]) -> str:
    rows = [
        [finding.group, f"{finding.n:,}", f"{finding.value:.4f}", _absolute(finding)]
        for finding in floors
    ]
    confidence = next((each.confidence for each in floors if each.confidence), None)
    interval = f"{confidence:.0%} interval" if confidence else "interval"
    return _table(["group", "examples", metric, interval], rows)


def _absolute(finding: Finding) -> str:
    """Return the interval of a figure, from that of its distance to a reference."""
    if finding.value_interval is None:
        return "-"
    low, high = finding.value_interval
    return f"{low:.4f} to {high:.4f}"


def _differences(verdict: Verdict) -> str:
    rows = [
        [
            finding.check,
            finding.group,
            f"{finding.difference:+.4f}",
            f"{finding.interval[0]:+.4f} to {finding.interval[1]:+.4f}",
            str(finding.outcome),
        ]
        for finding in verdict.findings
        if not is_floor(finding.check) and finding.interval and finding.difference is not None
    ]
    if not rows:
        return ""
    return _table(["metric", "group", "better by", "interval", "outcome"], rows)


def _open_questions(verdict: Verdict) -> list[str]:
    """Return what the evaluation could not say, or says against the model."""
    told = [
        f"{each.check}, {each.group}: {each.reason}"
        for each in verdict.findings
        if each.outcome in {Outcome.FAIL, Outcome.INCONCLUSIVE}
    ]
    left = [
        each.group for each in verdict.findings if each.outcome == NOT_JUDGED and each.value is None
    ]
    if left:
        told.append(f"Too few examples to judge {len(left)} subgroups: {'; '.join(left)}")
    return told


def _origin(statement: Mapping[str, Any]) -> str:
    facts = provenance.facts(statement)
    settings = facts.pop("config")
    rows = [[name, f"`{value}`"] for name, value in facts.items()]
    if provenance.is_dirty(statement):
        rows.append(["working tree", "**not what the commit says**"])
    config = json.dumps(json.loads(settings), indent=2)
    return f"{_table(['what', 'value'], rows)}\n\n```json\n{config}\n```"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)
