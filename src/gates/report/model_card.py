"""A model card built from the evidence: intended use, origin, and performance by group.

The sections follow Mitchell et al. (2019), Model Cards for Model Reporting, FAT*; the metadata
follows Hugging Face (https://huggingface.co/docs/hub/model-cards). Only facts that no file contains
are written by hand, in `configs/model_card.yaml`.
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
    """The parts of a model card that people write; the rest is computed.

    Args:
        name: the model's name.
        license: an SPDX identifier, in lower case as on the Hugging Face Hub.
        task: one of the Hub's tasks, such as `image-classification`.
        dataset: the name of the data set.
        tags: search terms for the model.
        summary: one sentence.
        intended_use: what the model is for.
        out_of_scope: what it must not be used for.
        limits: its known weaknesses, besides the figures.
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
    """Return the settings in the YAML `file`.

    Raises:
        ConfigError: the file is missing or malformed, or a value in it is not allowed.
    """
    return validate(CardSettings, read_yaml(file), where=str(file))


def model_card(settings: CardSettings, statement: Mapping[str, Any], verdict: Verdict) -> str:
    """Return the card of the model that `statement` and `verdict` are about, as Markdown.

    Args:
        settings: the parts that people write.
        statement: the model's provenance.
        verdict: the evaluation gate's verdict on it.

    Raises:
        GateInputError: the verdict is from another gate, or about another checkpoint.
    """
    verdict.check_is_of(provenance.subject_digest(statement))
    parts = [
        f"# {settings.name} {provenance.model_version(statement)}",
        settings.summary,
        f"**Evaluation: {verdict.outcome}.** {verdict.reason}.",
        *(f"_{name}: {note}_" for name, note in verdict.notes.items()),
        _section("Intended use", _list(settings.intended_use)),
        _section("Out of scope", _list(settings.out_of_scope)),
        _section("Performance", _values(verdict)),
        _section("Comparison with the previous model", _differences(verdict)),
        _section("Limits", _list([*settings.limits, *_open_questions(verdict)])),
        _section("Origin", _origin(statement)),
        _section("Evaluated files", _list(f"{k}: `{v}`" for k, v in verdict.evidence.items())),
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
    """Return the model's own figures by name, without the baseline's."""
    return {
        name: value
        for name, value in verdict.metrics.items()
        if not name.startswith("baseline_") and name != "difference"
    }


def _values(verdict: Verdict) -> str:
    """Return a table per metric with a floor, with the value and interval in each group."""
    floors = [finding for finding in verdict.findings if is_floor(finding.check)]
    shown = dict.fromkeys(metric_of(finding.check) for finding in floors)
    tables = [_table_of(name, [f for f in floors if metric_of(f.check) == name]) for name in shown]
    others = {name: value for name, value in _figures(verdict).items() if name not in shown}
    figures = ", ".join(f"{name} {value:.4f}" for name, value in others.items())
    return "\n\n".join([*tables, *([f"Overall: {figures}."] if figures else [])])


def _table_of(metric: str, floors: list[Finding]) -> str:
    rows = [
        [finding.group, f"{finding.n:,}", f"{finding.value:.4f}", _interval(finding)]
        for finding in floors
    ]
    confidence = next((each.confidence for each in floors if each.confidence), None)
    interval = f"{confidence:.0%} interval" if confidence else "interval"
    return _table(["group", "examples", metric, interval], rows)


def _interval(finding: Finding) -> str:
    """Return the confidence interval of a figure as text."""
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
    """Return the findings that failed, were inconclusive, or had too few examples."""
    lines = [
        f"{each.check}, {each.group}: {each.reason}"
        for each in verdict.findings
        if each.outcome in {Outcome.FAIL, Outcome.INCONCLUSIVE}
    ]
    not_judged = [
        each.group for each in verdict.findings if each.outcome == NOT_JUDGED and each.value is None
    ]
    if not_judged:
        groups = "; ".join(not_judged)
        lines.append(f"Too few examples to judge {len(not_judged)} subgroups: {groups}")
    return lines


def _origin(statement: Mapping[str, Any]) -> str:
    facts = provenance.facts(statement)
    settings = facts.pop("config")
    rows = [[name, f"`{value}`"] for name, value in facts.items()]
    if provenance.is_dirty(statement):
        rows.append(["working tree", "**not fully committed**"])
    config = json.dumps(json.loads(settings), indent=2)
    return f"{_table(['name', 'value'], rows)}\n\n```json\n{config}\n```"


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n{text}" if text else ""


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines)
