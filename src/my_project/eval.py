"""Score a checkpoint on held-out data and judge it: python -m my_project.eval --help."""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from gates.commands.evaluate import add_judging_arguments
from gates.errors import CommandParser, ExitCode, run_command
from gates.evaluation.policy import Policy, load_policy
from gates.evaluation.predictions import write_predictions
from gates.files import refuse_to_overwrite
from gates.locations import local_copy, shown
from gates.verdicts.verdict import Verdict, publish
from my_project.config import PROJECT


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    return run_command(lambda: _evaluate(options))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m my_project.eval",
        description="Score a checkpoint on held-out data and judge it against a baseline.",
        epilog="Exit codes: 0 not worse, 1 worse by more than the margin, "
        "2 could not judge, told in one line, 3 too little evidence.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="FILE", help="such as outputs/latest.pt"
    )
    add_judging_arguments(parser, baseline="checkpoint or predictions.parquet")
    parser.add_argument(
        "--policy",
        type=Path,
        default=Path("configs/gates.yaml"),
        metavar="FILE",
        help="every other limit (default: %(default)s)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"where the data is (default: {PROJECT}, if the model was trained on its data)",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write the predictions here (default: predictions.parquet beside the checkpoint)",
    )
    return parser


def _evaluate(options: argparse.Namespace) -> ExitCode:
    policy = load_policy(options.policy).with_margin(options.fail_if_worse_than)
    with contextlib.ExitStack() as stack:
        baseline = None
        if options.baseline is not None:
            # Before anything is scored: an address that is wrong is told at once.
            baseline = stack.enter_context(local_copy(options.baseline))
        verdict = _judge(options, policy, baseline)
    return publish(verdict, report=options.report)


def _judge(options: argparse.Namespace, policy: Policy, baseline: Path | None) -> Verdict:
    # Imports torch: after the options and the policy, so that a typo is told at once.
    from gates.evaluation.plots import draw_verdict  # noqa: PLC0415
    from my_project import evaluation, scores  # noqa: PLC0415

    # Once: while this runs, another training may point the link to its own checkpoint.
    checkpoint = options.checkpoint
    if checkpoint.is_symlink():
        checkpoint = Path(os.path.realpath(checkpoint))
    written = options.predictions or checkpoint.with_name("predictions.parquet")
    plot = written.with_name("verdict.svg")
    read = [options.policy, options.config, checkpoint, baseline]
    read += evaluation.data_files(checkpoint, options.config)
    others = [evaluation.baseline_predictions(written), *scores.files_in(written.parent)]
    refuse_to_overwrite(read, written=[written, options.report, plot, *others])
    examples = evaluation.held_out_examples(checkpoint, options.config)
    predictions = evaluation.predict(checkpoint, examples)
    write_predictions(predictions, written)
    scores.write_scores(predictions, written.parent)
    if baseline is None:
        verdict = evaluation.accept_without_baseline(written, policy, why=options.no_baseline)
    else:
        verdict = evaluation.compare(
            written,
            baseline,
            policy,
            name=shown(options.baseline),
            examples=examples,
            allow_same_model=options.allow_same_model,
        )
    draw_verdict(verdict, plot)
    return verdict


if __name__ == "__main__":
    sys.exit(main())
