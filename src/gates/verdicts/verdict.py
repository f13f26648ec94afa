"""The one result that every gate returns, and how it is shown.

    verdict.publish(result, report=Path("artifacts/verdicts/evaluation.json"))

prints it, writes it as JSON, and on GitHub adds it to the job's summary and annotates the run.
The JSON Schema of what is written is `src/gates/verdict.schema.json`; after a change:

    python -m gates.verdicts.verdict > src/gates/verdict.schema.json
"""

import json
import os
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gates.configuration import first_problem
from gates.display import in_one_line, show
from gates.errors import ExitCode, GateInputError
from gates.files import write_text

SCHEMA: Literal["verdict/1"] = "verdict/1"

# The group that is all examples.
OVERALL = "overall"

# Ends the name of a check that compares the candidate with a bar, and with no other model.
_FLOOR = " floor"

# What a finding says of a subgroup that the policy wants reported, and not judged.
NOT_JUDGED: Literal["not judged"] = "not judged"


def floor_of(metric: str) -> str:
    """Return the name of the check of a metric against its floor."""
    return metric + _FLOOR


def is_floor(check: str) -> bool:
    """Whether a check compares with a floor."""
    return check.endswith(_FLOOR)


def metric_of(check: str) -> str:
    """Return the metric that a check is of."""
    return check.removesuffix(_FLOOR)


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Outcome(StrEnum):
    """What a gate concludes from the evidence."""

    PASS = "pass"  # noqa: S105 - an outcome, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> ExitCode:
        """The exit code that says this outcome."""
        return {
            Outcome.PASS: ExitCode.PASSED,
            Outcome.FAIL: ExitCode.FAILED,
            Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
        }[self]

    @classmethod
    def worst(cls, outcomes: Iterable["Outcome"]) -> "Outcome":
        """Return fail if one is, else inconclusive if one is; with none at all nothing is shown."""
        found = set(outcomes)
        if cls.FAIL in found:
            return cls.FAIL
        return cls.PASS if found == {cls.PASS} else cls.INCONCLUSIVE


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Finding(_Part):
    """What a gate found in one place.

    Args:
        check: what was looked at, such as `accuracy`.
        group: where: `overall`, or a subgroup such as `digit=3`.
        outcome: the conclusion; `not judged` where the policy wants it reported only.
        reason: one sentence that says why.
        n: examples it rests on.
        value: the candidate's figure.
        reference: the figure it is compared with, such as the baseline's.
        difference: how much better the candidate is; negative: worse.
        interval: lower and upper limit of the difference.
        confidence: of the interval, a fraction.
        limit: what the difference must stay above.
        p_value: how likely so much evidence is if the conclusion were wrong.
        adjusted_p_value: the same, corrected for the number of subgroups.
        n_needed: examples that would settle it, where it is inconclusive and any number would.
    """

    check: str
    group: str
    outcome: Outcome | Literal["not judged"]
    reason: str
    n: int = Field(ge=0)
    value: float | None = None
    reference: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    limit: float | None = None
    p_value: float | None = None
    adjusted_p_value: float | None = None
    n_needed: int | None = None

    @property
    def value_interval(self) -> tuple[float, float] | None:
        """The interval of the value itself: `interval` is of its distance to the reference.

        The distance counts what is better, so where less of the metric is better it is turned.
        """
        if self.value is None or self.reference is None or self.interval is None:
            return None
        is_turned = (self.value - self.reference) * (self.difference or 0.0) < 0
        sign = -1.0 if is_turned else 1.0
        low, high = sorted(self.reference + sign * end for end in self.interval)
        return low, high

    @property
    def holds(self) -> bool:
        """Whether it does not speak against a pass."""
        return self.outcome in {Outcome.PASS, NOT_JUDGED}


class Verdict(_Part):
    """What a gate concluded, why, and from what.

    Args:
        schema_: the format's name and version; `schema` in JSON.
        gate: the gate's name.
        outcome: its conclusion: the worst of its findings.
        reason: one sentence with the figures that decided.
        findings: what it rests on.
        metrics: every figure of the candidate that was computed, by name.
        evidence: SHA-256 of each thing that was judged, by name.
        policy: the limits that it was judged by, by name.
        notes: what a reader must know besides, such as why there was no baseline.
    """

    schema_: Literal["verdict/1"] = Field(default=SCHEMA, alias="schema")
    gate: str
    outcome: Outcome
    reason: str
    findings: tuple[Finding, ...]
    metrics: dict[str, float]
    evidence: dict[str, Digest]
    policy: dict[str, str | int | float | bool] = Field(default_factory=dict)
    notes: dict[str, str] = Field(default_factory=dict)

    @property
    def is_pass(self) -> bool:
        """Whether it is a pass, and no finding of its own speaks against that."""
        judged = {each.outcome for each in self.findings} - {NOT_JUDGED}
        return self.outcome is Outcome.PASS and judged == {Outcome.PASS}

    @property
    def n_needed(self) -> int | None:
        """Examples that would settle every open finding; None if there is none, or no number.

        Of all examples, in which a subgroup is as frequent as now.
        """
        everything = max((each.n for each in self.findings), default=0)
        open_findings = [each for each in self.findings if each.outcome == Outcome.INCONCLUSIVE]
        known = [
            -(-each.n_needed * everything // each.n)  # rounded up
            for each in open_findings
            if each.n_needed is not None and each.n
        ]
        return max(known) if known and len(known) == len(open_findings) else None

    def check_is_of(self, checkpoint: str) -> None:
        """Refuse to describe a model by a verdict on another one, or by that of another gate.

        Args:
            checkpoint: SHA-256 of the model's checkpoint.

        Raises:
            GateInputError: it is not the evaluation of that checkpoint.
        """
        if self.gate != "evaluation":
            msg = f"the verdict is of the gate {self.gate}; expected one of evaluation"
            raise GateInputError(msg)
        judged = self.evidence.get("checkpoint", "none")
        if judged != checkpoint:
            msg = f"the verdict is about checkpoint {judged[:12]}, and the provenance about "
            msg += f"{checkpoint[:12]}: evaluate this run's checkpoint again"
            raise GateInputError(msg)

    def to_json(self) -> str:
        """Return the verdict as JSON text, keys sorted."""
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Return the verdict for a terminal: the conclusion, then a table of what decided."""
        lines = [in_one_line(f"{self.gate}: {self.outcome.upper()} - {self.reason}")]
        lines += [f"  {in_one_line(f'{name}: {note}')}" for name, note in self.notes.items()]
        if self.findings:
            lines += ["", *_text_table(self._table())]
        lines += [f"  {line}" for line in self._not_judged()]
        return "\n".join(lines)

    @property
    def shown(self) -> list[Finding]:
        """What a reader needs: what was judged, less the floors that subgroups keep."""
        judged = [each for each in self.findings if each.outcome != NOT_JUDGED]
        return [each for each in judged if each.group == OVERALL or not _is_kept_floor(each)]

    def _table(self) -> list[list[str]]:
        """Return the header and a row for each finding, less the columns that say nothing."""
        rows = [_HEADER, *(_row(each) for each in self.shown)]
        used = [i for i in range(len(_HEADER)) if any(row[i] != "-" for row in rows[1:])]
        return [[row[i] for i in used] for row in rows]

    def _not_judged(self) -> list[str]:
        """Return a line that names what was not judged, if there is any."""
        left = [each for each in self.findings if each.outcome == NOT_JUDGED]
        if not left:
            return []
        names = "; ".join(f"{each.group} ({each.n:,})" for each in left[:5])
        more = f"; and {len(left) - 5} more" if len(left) > 5 else ""  # noqa: PLR2004
        return [in_one_line(f"not judged, as there are too few examples: {names}{more}")]

    def to_markdown(self) -> str:
        """Return the verdict for a page, such as a job's summary on GitHub."""
        title = f"### {self.gate}: {self.outcome.upper()}"
        notes = [f"- {_escape(f'{name}: {note}')}" for name, note in self.notes.items()]
        header, *rows_of_table = self._table()
        table = [header, ["---"] * len(header), *rows_of_table]
        rows = [f"| {' | '.join(_escape(cell) for cell in row)} |" for row in table]
        digests = [
            f"- {_escape(name)}: `{in_one_line(digest).replace('`', '')}`"
            for name, digest in sorted(self.evidence.items())
        ]
        left = [_escape(line) for line in self._not_judged()]
        parts = [[title], [_escape(self.reason)], notes, rows, left, digests]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"

    def to_annotations(self) -> list[str]:
        """Return a GitHub workflow command for each finding that did not pass.

        https://docs.github.com/en/actions/reference/workflows-and-actions/workflow-commands
        """
        levels: dict[str, str] = {Outcome.FAIL: "error", Outcome.INCONCLUSIVE: "warning"}
        return [
            f"::{levels[finding.outcome]} "
            f"title={_command_value(f'{self.gate}: {finding.check}, {finding.group}', ',:')}"
            f"::{_command_value(finding.reason)}"
            for finding in self.findings
            if finding.outcome in levels
        ]


def publish(verdict: Verdict, *, report: Path | None) -> ExitCode:
    """Show `verdict` wherever somebody looks for it; return its exit code.

    Args:
        verdict: printed on stdout; on GitHub, also in the job's summary and as annotations.
        report: where it is written as JSON, if it is.
    """
    # Printed last: where it cannot be written, nobody shall read that all is well.
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary:
        _append(Path(summary), verdict.to_markdown() + "\n")
    if report is not None:
        write_text(report, verdict.to_json())
    annotations = verdict.to_annotations() if os.environ.get("GITHUB_ACTIONS") else []
    show(*verdict.to_text().split("\n"))
    print(*annotations, sep="\n", end="\n" if annotations else "")
    return verdict.outcome.exit_code


def _append(file: Path, text: str) -> None:
    try:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        msg = f"{file}: cannot be written ({error.strerror}); GITHUB_STEP_SUMMARY names it"
        raise GateInputError(msg) from error


def read_verdict(file: Path) -> Verdict:
    """Return the verdict in `file`.

    Raises:
        GateInputError: it is missing, or not a verdict.
    """
    try:
        return Verdict.model_validate_json(file.read_bytes())
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror}); a gate writes it with --report"
        raise GateInputError(msg) from error
    except ValidationError as error:
        msg = f"{file}: not a verdict of the format {SCHEMA}: {first_problem(error)}"
        raise GateInputError(msg) from error


def json_schema() -> str:
    """Return the JSON Schema of what `Verdict.to_json` writes, as text."""
    schema = Verdict.model_json_schema(by_alias=True, mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA}
    return json.dumps({**head, **schema}, indent=2, sort_keys=True) + "\n"


_MARKDOWN = {character: f"\\{character}" for character in "\\|`*_[]~"} | {
    "<": "&lt;",
    "&": "&amp;",
    # GitHub makes links of these.
    "@": "&#64;",
    "#": "&#35;",
}

_HEADER = ["check", "group", "n", "candidate", "baseline", "difference", "interval", "outcome"]


def _is_kept_floor(finding: Finding) -> bool:
    """Whether it says no more than that a floor holds."""
    return is_floor(finding.check) and finding.outcome == Outcome.PASS


def _row(finding: Finding) -> list[str]:
    interval = finding.interval
    outcome = str(finding.outcome)
    if finding.outcome != Outcome.PASS:
        outcome = f"{outcome}: {finding.reason}"
    cells = [
        finding.check,
        finding.group,
        f"{finding.n:,}" if finding.n else "-",
        _figure(finding.value),
        _figure(finding.reference),
        _figure(finding.difference, sign="+"),
        f"{interval[0]:+.4f} to {interval[1]:+.4f}" if interval else "-",
        outcome,
    ]
    return [in_one_line(cell) for cell in cells]


def _figure(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4f}"


def _text_table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines in which the columns stand under each other; the last is as long as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _escape(text: str) -> str:
    """Escape what Markdown would read as its own syntax, or as HTML."""
    escaped = "".join(_MARKDOWN.get(character, character) for character in in_one_line(text))
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;")


def _command_value(text: str, more: str = "") -> str:
    """Escape what a workflow command would read as its own syntax, or as another command."""
    text = in_one_line(text)
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


if __name__ == "__main__":
    print(json_schema(), end="")
