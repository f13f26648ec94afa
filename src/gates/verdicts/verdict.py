"""The result that every gate returns, and how it is shown.

    verdict.publish(result, report=Path("artifacts/verdicts/evaluation.json"))

prints it, writes it as JSON, and on GitHub adds it to the job's summary and annotates the run.
The JSON Schema of the file is `src/gates/verdict.schema.json`; after a change, run:

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

# The group of all examples.
OVERALL = "overall"

# The suffix of a check that compares the candidate with a fixed limit, not with another model.
_FLOOR = " floor"

# The outcome of a finding that the policy only reports.
NOT_JUDGED: Literal["not judged"] = "not judged"


def floor_of(metric: str) -> str:
    """Return the name of the check that compares a metric with its floor."""
    return metric + _FLOOR


def is_floor(check: str) -> bool:
    """Whether a check compares a metric with its floor."""
    return check.endswith(_FLOOR)


def metric_of(check: str) -> str:
    """Return the name of the metric that a check judges."""
    return check.removesuffix(_FLOOR)


Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Outcome(StrEnum):
    """What a gate concludes from the evidence."""

    PASS = "pass"  # noqa: S105 - an outcome, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"

    @property
    def exit_code(self) -> ExitCode:
        """The exit code for this outcome."""
        return {
            Outcome.PASS: ExitCode.PASSED,
            Outcome.FAIL: ExitCode.FAILED,
            Outcome.INCONCLUSIVE: ExitCode.INCONCLUSIVE,
        }[self]

    @classmethod
    def worst(cls, outcomes: Iterable["Outcome"]) -> "Outcome":
        """Return the worst of the outcomes; inconclusive if there are none."""
        found = set(outcomes)
        if cls.FAIL in found:
            return cls.FAIL
        return cls.PASS if found == {cls.PASS} else cls.INCONCLUSIVE


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Finding(_Part):
    """What a gate found for one check in one group.

    Args:
        check: what was checked, such as `accuracy`.
        group: where: `overall`, or a subgroup such as `digit=3`.
        outcome: the conclusion; `not judged` if the policy only reports it.
        reason: one sentence that says why.
        n: how many examples it is based on.
        value: the candidate's figure.
        reference: the figure it is compared with, such as the baseline's.
        difference: how much better the candidate is; negative if it is worse.
        interval: lower and upper limit of the difference.
        confidence: of the interval, a fraction.
        limit: the value that the difference must stay above.
        p_value: how likely this much evidence would be if the conclusion were wrong.
        adjusted_p_value: the same, corrected for the number of subgroups.
        n_needed: examples that would settle it, if it is inconclusive and any number would.
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
        """The interval of the value itself; `interval` is about its distance to the reference.

        The distance is positive if the candidate is better, so it is mirrored if lower is better.
        """
        if self.value is None or self.reference is None or self.interval is None:
            return None
        is_mirrored = (self.value - self.reference) * (self.difference or 0.0) < 0
        sign = -1.0 if is_mirrored else 1.0
        low, high = sorted(self.reference + sign * end for end in self.interval)
        return low, high

    @property
    def holds(self) -> bool:
        """Whether it is compatible with a pass."""
        return self.outcome in {Outcome.PASS, NOT_JUDGED}


class Verdict(_Part):
    """What a gate concluded, why, and from which evidence.

    Args:
        schema_: the format's name and version; `schema` in JSON.
        gate: the gate's name.
        outcome: its conclusion: the worst of its findings.
        reason: one sentence with the deciding figures.
        findings: the findings that it is based on.
        metrics: all computed figures of the candidate, by name.
        evidence: SHA-256 of everything that was judged, by name.
        policy: the limits that were applied, by name.
        notes: what else a reader must know, such as why there was no baseline.
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
        """Whether it is a pass, and all of its judged findings are passes too."""
        judged = {each.outcome for each in self.findings} - {NOT_JUDGED}
        return self.outcome is Outcome.PASS and judged == {Outcome.PASS}

    @property
    def n_needed(self) -> int | None:
        """Examples that would settle all inconclusive findings; None if there is no such number.

        This is a total over all groups, assuming that each subgroup keeps its present share.
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
        """Refuse a verdict on another model, or of another gate.

        Args:
            checkpoint: SHA-256 of the model's checkpoint.

        Raises:
            GateInputError: this is not the evaluation of that checkpoint.
        """
        if self.gate != "evaluation":
            msg = f"the verdict is from the gate {self.gate}; expected one from evaluation"
            raise GateInputError(msg)
        judged = self.evidence.get("checkpoint", "none")
        if judged != checkpoint:
            msg = f"the verdict is about checkpoint {judged[:12]}, but the provenance is about "
            msg += f"{checkpoint[:12]}; evaluate this run's checkpoint again"
            raise GateInputError(msg)

    def to_json(self) -> str:
        """Return the verdict as JSON text, keys sorted."""
        document = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        return json.dumps(document, indent=2, sort_keys=True, allow_nan=False) + "\n"

    def to_text(self) -> str:
        """Return the verdict for a terminal: the conclusion, then a table of findings."""
        lines = [in_one_line(f"{self.gate}: {self.outcome.upper()} - {self.reason}")]
        lines += [f"  {in_one_line(f'{name}: {note}')}" for name, note in self.notes.items()]
        if self.findings:
            lines += ["", *_text_table(self._table())]
        lines += [f"  {line}" for line in self._not_judged()]
        return "\n".join(lines)

    @property
    def shown(self) -> list[Finding]:
        """The findings to show: all but small subgroups and floors that subgroups meet."""
        return [
            each
            for each in self.findings
            if each.group == OVERALL or not (each.outcome == NOT_JUDGED or _is_met_floor(each))
        ]

    def _table(self) -> list[list[str]]:
        """Return the header and a row for each finding, without empty columns."""
        rows = [_HEADER, *(_row(each) for each in self.shown)]
        used = [i for i in range(len(_HEADER)) if any(row[i] != "-" for row in rows[1:])]
        return [[row[i] for i in used] for row in rows]

    def _not_judged(self) -> list[str]:
        """Return a line that names the subgroups that are too small to judge, if there are any."""
        left = [
            each for each in self.findings if each.outcome == NOT_JUDGED and each.group != OVERALL
        ]
        if not left:
            return []
        names = "; ".join(f"{each.group} ({each.n:,})" for each in left[:5])
        more = f"; and {len(left) - 5} more" if len(left) > 5 else ""  # noqa: PLR2004
        return [in_one_line(f"not judged, because there are too few examples: {names}{more}")]

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
    """Print and write `verdict`; return its exit code.

    Args:
        verdict: printed on stdout; on GitHub, also in the job's summary and as annotations.
        report: where to write it as JSON; None for nowhere.
    """
    # Printed last, so that no pass is printed if a file cannot be written.
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
        GateInputError: the file is missing, or not a verdict.
    """
    try:
        return Verdict.model_validate_json(file.read_bytes())
    except OSError as error:
        msg = f"{file}: cannot be read ({error.strerror}); a gate writes it with --report"
        raise GateInputError(msg) from error
    except ValidationError as error:
        msg = f"{file}: not a verdict in the format {SCHEMA}: {first_problem(error)}"
        raise GateInputError(msg) from error


def json_schema() -> str:
    """Return the JSON Schema of what `Verdict.to_json` writes, as text."""
    schema = Verdict.model_json_schema(by_alias=True, mode="serialization")
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA}
    return json.dumps({**head, **schema}, indent=2, sort_keys=True) + "\n"


_MARKDOWN = {character: f"\\{character}" for character in "\\|`*_[]~"} | {
    "<": "&lt;",
    "&": "&amp;",
    # GitHub turns these into links.
    "@": "&#64;",
    "#": "&#35;",
}

_HEADER = ["check", "group", "n", "candidate", "baseline", "difference", "interval", "outcome"]


def _is_met_floor(finding: Finding) -> bool:
    """Whether it only says that a floor is met."""
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
    """Return the rows as lines with aligned columns; the last column is not padded."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _escape(text: str) -> str:
    """Escape text that Markdown would read as syntax or as HTML."""
    escaped = "".join(_MARKDOWN.get(character, character) for character in in_one_line(text))
    return escaped.replace("://", "&#58;//").replace("www.", "www&#46;")


def _command_value(text: str, more: str = "") -> str:
    """Escape text that a workflow command would read as syntax, or as another command."""
    text = in_one_line(text)
    for character in "%\r\n" + more:
        text = text.replace(character, f"%{ord(character):02X}")
    return text


if __name__ == "__main__":
    print(json_schema(), end="")
