"""Judge a model's predictions against the predictions of the model in production."""

import argparse
from pathlib import Path

from gates.commands.options import JUDGED
from gates.errors import ExitCode

HELP = "check that a model is no worse than the one in production"
EXIT_CODES = JUDGED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--candidate", required=True, metavar="URI", help="predictions.parquet of the new model"
    )
    parser.add_argument(
        "--policy",
        type=Path,
        required=True,
        metavar="FILE",
        help="the limits, such as configs/gates.yaml",
    )
    add_judging_arguments(parser, baseline="predictions.parquet")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the verdict as SVG")


def add_judging_arguments(parser: argparse.ArgumentParser, *, baseline: str) -> None:
    """Declare the options for judging a model, which a project's own command shares.

    Args:
        parser: receives `--baseline`, `--no-baseline`, `--fail-if-worse-than`,
            `--allow-same-model` and `--report`.
        baseline: which file of the model in production the command reads.
    """
    against = parser.add_mutually_exclusive_group(required=True)
    against.add_argument(
        "--baseline",
        metavar="URI",
        help=f"{baseline} of the model in production: a path, an address that fsspec opens, or "
        "models:/NAME@production",
    )
    against.add_argument(
        "--no-baseline", metavar="WHY", help="judge a first release; WHY goes into the verdict"
    )
    parser.add_argument(
        "--fail-if-worse-than",
        type=float,
        metavar="MARGIN",
        help="how much of the primary metric may be lost; for accuracy, 0.02 is two percentage "
        "points (default: the policy's)",
    )
    parser.add_argument(
        "--allow-same-model",
        action="store_true",
        help="allow comparing a model with itself, to try the gate",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write the verdict here as JSON"
    )


def run(options: argparse.Namespace) -> ExitCode:
    """Judge the model, and show the verdict."""
    # Slow imports: after the options are parsed, so that --help and typos are answered quickly.
    from gates.evaluation import comparison  # noqa: PLC0415
    from gates.evaluation.policy import load_policy  # noqa: PLC0415
    from gates.evaluation.predictions import open_predictions  # noqa: PLC0415
    from gates.files import refuse_to_overwrite  # noqa: PLC0415
    from gates.locations import local_copy, shown  # noqa: PLC0415
    from gates.verdicts.verdict import publish  # noqa: PLC0415

    policy = load_policy(options.policy).with_margin(options.fail_if_worse_than)
    wanted = "predictions.parquet"
    written = [options.report, options.plot]
    with local_copy(options.candidate, prefer=wanted) as ours:
        refuse_to_overwrite([options.policy, ours], written=written)
        candidate = open_predictions(ours, name=shown(options.candidate))
        if options.baseline is None:
            verdict = comparison.accept_without_baseline(candidate, policy, why=options.no_baseline)
        else:
            with local_copy(options.baseline, prefer=wanted) as theirs:
                refuse_to_overwrite([theirs], written=written)
                baseline = open_predictions(theirs, name=shown(options.baseline))
                verdict = comparison.compare(
                    candidate, baseline, policy, allow_same_model=options.allow_same_model
                )
    if options.plot is not None:
        from gates.evaluation.plots import draw_verdict  # noqa: PLC0415

        draw_verdict(verdict, options.plot)
    return publish(verdict, report=options.report)
