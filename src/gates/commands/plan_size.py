"""Compute how many held-out examples a comparison needs, before any data is collected."""

import argparse
import math
from pathlib import Path

from gates.display import show
from gates.errors import ConfigError, ExitCode

HELP = "compute the number of held-out examples needed"
EXIT_CODES = "Exit codes: 0 computed, 2 bad input, reported in one line."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--metric", required=True, metavar="NAME", help="a metric of the policy")
    parser.add_argument(
        "--policy",
        type=Path,
        default=Path("configs/gates.yaml"),
        metavar="FILE",
        help="the policy with alpha, power and the metrics (default: %(default)s)",
    )
    numbers = {
        "--margin": (None, "how much may be lost, in the metric's unit (default: the policy's)"),
        "--difference": (0.0, "the candidate's assumed true gain (default: %(default)s)"),
        "--discordance": (
            None,
            "for accuracy: the share of examples on which exactly one model is right",
        ),
        "--spread": (
            None,
            "for another mean: the standard deviation of the paired differences, in its unit",
        ),
        "--cluster-size": (1.0, "the mean number of examples in a cluster (default: %(default)s)"),
        "--correlation": (
            0.0,
            "of the differences of two examples in one cluster (default: %(default)s)",
        ),
    }
    for option, (default, meaning) in numbers.items():
        parser.add_argument(option, type=float, default=default, metavar="X", help=meaning)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the number against the margin as SVG"
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Print the number of examples."""
    from gates.evaluation import planning  # noqa: PLC0415 - deferred: --help stays fast
    from gates.evaluation.policy import load_policy  # noqa: PLC0415
    from gates.files import refuse_to_overwrite  # noqa: PLC0415

    refuse_to_overwrite([options.policy], written=[options.plot])
    rules = load_policy(options.policy).evaluation
    if options.metric not in rules.metrics:
        msg = f"--metric: {options.policy} has no metric {options.metric}; it has "
        msg += ", ".join(rules.metrics)
        raise ConfigError(msg)
    rule = rules.metrics[options.metric]
    margin = rule.margin if options.margin is None else options.margin
    if options.plot is not None and not margin > 0:
        msg = f"--plot: needs a margin above 0, got {margin:g}; give one with --margin"
        raise ConfigError(msg)
    assumed = planning.Assumptions(
        difference=options.difference,
        discordance=options.discordance,
        spread=options.spread,
        cluster_size=options.cluster_size,
        correlation=options.correlation,
    )

    def needed(at: float) -> int:
        return planning.examples_needed(options.metric, rule, at, assumed, rules)

    count = needed(margin)
    show(
        f"{options.metric}: {count:,} held-out examples show non-inferiority at margin {margin:g} "
        f"with probability {rules.power:g} (alpha {rules.alpha:g})"
    )
    if assumed.design_effect != 1:
        clusters = -(-count // assumed.cluster_size)
        show(f"  in {clusters:,.0f} clusters; design effect {assumed.design_effect:.2f}")
    if options.plot is not None:
        from gates.evaluation.plots import draw_sizes  # noqa: PLC0415 - imports matplotlib

        sizes = planning.curve(needed, margin, below=1 if rule.of == "correct" else math.inf)
        draw_sizes(sizes, (margin, count), options.metric, options.plot)
    return ExitCode.PASSED
