"""The bill of materials of a model: code, data and model in one CycloneDX document."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import Property
from cyclonedx.model.component import Component, ComponentType

from gates.errors import GateInputError
from gates.evidence import provenance
from gates.files import sha256
from gates.report.model_card import CardSettings
from gates.supply.sbom import document, sha256_of
from gates.verdicts.verdict import Finding, Verdict, is_floor, metric_of


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence about a model.

    Args:
        run: the folder with its checkpoint and `provenance.json`.
        verdict: the evaluation gate's verdict on it.
        data_folder: the folder to search for the manifest of its training data.
        links: other files about it by kind, such as the SBOM and the wheel.
    """

    run: Path
    verdict: Verdict
    data_folder: Path | None = None
    links: Mapping[str, Path] = field(default_factory=dict)


def mlbom(evidence: Evidence, settings: CardSettings, *, time: datetime) -> dict[str, Any]:
    """Return the bill of materials of a model.

    Args:
        evidence: the evidence about the model.
        settings: the parts of its model card that people write.
        time: the document's timestamp.

    Raises:
        GateInputError: verdict or provenance are about another model, or cannot be read.
    """
    statement = provenance.read_of_run(evidence.run)
    model = provenance.subject_digest(statement)
    evidence.verdict.check_is_of(model)
    facts = provenance.facts(statement)
    judged_on = evidence.verdict.evidence.get("data", facts["data"])
    about = _about(facts["data"], evidence.data_folder) if evidence.data_folder else []
    root = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{model}",
        name=settings.name,
        version=provenance.model_version(statement),
        description=settings.summary,
        hashes=sha256_of([model]),
        licenses=[LicenseFactory().make_from_string(settings.license)],
    )
    data = [_data(settings.dataset, facts["data"], about)]
    if judged_on != facts["data"]:
        data.append(_data(f"{settings.dataset}, held out", judged_on, []))
    links = [_file(what, file) for what, file in sorted(evidence.links.items())]
    parts = [*data, _code(facts), *links]
    found = document(root, {root: parts, **{part: [] for part in parts}}, properties={}, time=time)
    # The cyclonedx library cannot write model cards and data components yet.
    found["metadata"]["component"]["modelCard"] = _card(settings, statement, evidence.verdict, data)
    for component in found["components"]:
        if component["type"] == "data":
            component["data"] = [{"type": "dataset", "name": component["name"]}]
    return found


def _about(digest: str, folder: Path) -> list[Property]:
    """Return facts about the data with this digest, from its `NAME.manifest.json` in `folder`."""
    for file in sorted(folder.glob("**/*.manifest.json")):
        try:
            manifest = json.loads(file.read_text(encoding="utf-8"))
            if manifest["sha256"] != digest:
                continue
            columns = ", ".join(f"{name}: {kind}" for name, kind in manifest["schema"].items())
            rows = {f"rows:{split}": str(count) for split, count in manifest["counts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            msg = f"{file}: not a data manifest ({error}); delete it and its data"
            raise GateInputError(msg) from error
        facts = {**rows, "schema": columns}
        return [Property(name=name, value=value) for name, value in facts.items()]
    return []


def _data(name: str, digest: str, about: Sequence[Property]) -> Component:
    return Component(
        type=ComponentType.DATA,
        bom_ref=f"data:{digest}",
        name=name,
        hashes=sha256_of([digest]),
        properties=about,
    )


def _code(facts: Mapping[str, str]) -> Component:
    commit = facts.get("source", "no commit")
    state = ("source-diff", "uv.lock")
    return Component(
        type=ComponentType.APPLICATION,
        bom_ref=f"code:{commit}",
        name="source",
        version=commit,
        properties=[Property(name=name, value=facts[name]) for name in state if name in facts],
    )


def _file(what: str, file: Path) -> Component:
    digest = sha256(file)
    return Component(
        type=ComponentType.FILE,
        bom_ref=f"file:{digest}",
        name=f"{what}: {file.name}",
        hashes=sha256_of([digest]),
    )


def _card(
    settings: CardSettings,
    statement: Mapping[str, Any],
    verdict: Verdict,
    data: Sequence[Component],
) -> dict[str, Any]:
    config = provenance.config_of(statement)
    architecture = config.get("model", config) if isinstance(config, dict) else config
    floors = [each for each in verdict.findings if is_floor(each.check)]
    overall = [
        {"type": name, "value": f"{value:.6f}"} for name, value in sorted(verdict.metrics.items())
    ]
    return {
        "modelParameters": {
            "task": settings.task,
            "modelArchitecture": json.dumps(architecture, sort_keys=True),
            "datasets": [{"ref": str(each.bom_ref)} for each in data],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [*overall, *(_value(each) for each in floors)]
        },
        "considerations": {
            "useCases": settings.intended_use,
            "technicalLimitations": [*settings.limits, *settings.out_of_scope],
            "performanceTradeoffs": [f"evaluation: {verdict.outcome}: {verdict.reason}"],
        },
        "properties": [
            {"name": "library", "value": provenance.library(statement)},
            {"name": "file", "value": statement["subject"][0]["name"]},
        ],
    }


def _value(floor: Finding) -> dict[str, Any]:
    metric: dict[str, Any] = {"type": metric_of(floor.check), "slice": floor.group}
    if floor.value is not None:
        metric["value"] = f"{floor.value:.6f}"
    if floor.value_interval is not None:
        low, high = floor.value_interval
        metric["confidenceInterval"] = {"lowerBound": f"{low:.6f}", "upperBound": f"{high:.6f}"}
    return metric
