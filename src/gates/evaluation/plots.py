"""Plots as SVG files that are legible in black and white and identical each time."""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gates.display import in_one_line
from gates.files import atomic_write
from gates.verdicts.verdict import Finding, Outcome, Verdict

# Text stays searchable text, and a $ in it does not start a formula. A fixed salt makes the ids
# reproducible.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gates",
    "font.size": 9,
    "text.parse_math": False,
}

# Markers that differ without colour.
_MARKS = {Outcome.PASS: "o", Outcome.FAIL: "X", Outcome.INCONCLUSIVE: "s"}


@contextmanager
def figure(width: float, height: float, file: Path) -> Iterator[Figure]:
    """Yield an empty figure, sized in inches, that is written to `file` if the block succeeds."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The reader's fonts draw the text; a glyph that ours lack only moves the margins.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn
        picture = io.BytesIO()
        drawn.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    with atomic_write(file) as stream:
        stream.write(picture.getvalue())


def draw_sizes(
    sizes: Sequence[tuple[float, int]], chosen: tuple[float, int], metric: str, file: Path
) -> None:
    """Draw how many examples are needed at each margin, and the chosen one.

    Args:
        sizes: margins with the number of examples that each needs.
        chosen: the margin in question, with its number.
        metric: the name of the metric.
        file: where to write the SVG.

    Raises:
        GateInputError: the file cannot be written.
    """
    margin, count = chosen
    with figure(4.5, 3, file) as drawn:
        axes = drawn.subplots()
        axes.plot(*zip(*sizes, strict=True), color="black", linewidth=1)
        axes.plot(margin, count, "o", color="black")
        axes.set_xscale("log")
        axes.set_yscale("log")
        # Logarithmic axes label powers of ten, of which such a short range may have none.
        marked = [sizes[0], chosen, sizes[-1]]
        axes.set_xticks([each for each, _ in marked], labels=[f"{each:g}" for each, _ in marked])
        axes.set_yticks([size for _, size in marked], labels=[f"{size:,}" for _, size in marked])
        axes.minorticks_off()
        axes.set_xlabel(f"margin of {in_one_line(metric)}")
        axes.set_ylabel("held-out examples")
        axes.grid(visible=True, which="major", color="0.85")


def draw_verdict(verdict: Verdict, file: Path) -> None:
    """Draw each difference with its interval and the limit that it must stay above.

    Findings that were not judged or have no interval are left out, and so are floors that were met.

    Args:
        verdict: of any gate.
        file: where to write the SVG.

    Raises:
        GateInputError: the file cannot be written.
    """
    shown = [finding for finding in verdict.shown if _has_interval(finding)]
    # Metrics differ in unit, so each check gets its own axes.
    checks = list(dict.fromkeys(finding.check for finding in shown))
    rows = [[finding for finding in shown if finding.check == check] for check in checks]
    heights = [len(part) + 2 for part in rows] or [1]
    with figure(7.5, 0.9 + 0.26 * sum(heights), file) as drawn:
        drawn.suptitle(f"{verdict.gate}: {verdict.outcome.upper()}", fontweight="bold")
        axes = drawn.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axis, check, findings in zip(axes, checks, rows, strict=False):
            _draw_check(axis, check, findings)
        if not checks:
            axes[0].set_axis_off()
            axes[0].text(0.5, 0.5, "no finding has an interval to draw", ha="center")


def _has_interval(finding: Finding) -> bool:
    return finding.interval is not None and finding.difference is not None


def _draw_check(axis: Axes, check: str, findings: list[Finding]) -> None:
    for row, finding in enumerate(findings):
        if finding.interval is None or finding.difference is None:
            continue
        axis.plot(finding.interval, [row, row], color="black", linewidth=1.2)
        _mark(axis, [finding.difference], [row], Outcome(finding.outcome))
        if finding.limit is not None:
            axis.plot([finding.limit] * 2, [row - 0.4, row + 0.4], color="black", linestyle=":")
    axis.axvline(0, color="0.6", linewidth=0.8)
    names = [in_one_line(f"{each.group} (n = {each.n:,})") for each in findings]
    axis.set_yticks(range(len(findings)), names)
    axis.set_ylim(len(findings) - 0.4, -0.6)
    confidence = findings[0].confidence
    interval = f", {confidence:.0%} interval" if confidence is not None else ""
    axis.set_xlabel(f"{check}: how much better the candidate is{interval}; dotted: the limit")
    for outcome in dict.fromkeys(Outcome(finding.outcome) for finding in findings):
        _mark(axis, [], [], outcome, label=str(outcome))
    axis.legend(loc="lower right", fontsize=7, framealpha=1)
    axis.spines[["top", "right"]].set_visible(False)


def _mark(axis: Axes, x: list[float], y: list[int], outcome: Outcome, *, label: str = "") -> None:
    inside = "white" if outcome == Outcome.INCONCLUSIVE else "black"
    axis.plot(
        x, y, _MARKS[outcome], color="black", markerfacecolor=inside, linestyle="", label=label
    )
