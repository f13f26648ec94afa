"""The commands every project has: `python -m NAME.train`, `NAME.eval` and `NAME.data`."""

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gates.commands.evaluate import add_judging_arguments
from gates.display import show
from gates.errors import CommandParser, ConfigError, ExitCode, run_command
from gates.evaluation.policy import Policy, load_policy
from gates.evaluation.predictions import write_predictions
from gates.evidence import provenance
from gates.files import refuse_to_overwrite
from gates.locations import local_copy, shown
from gates.verdicts.verdict import Verdict, publish
from training import config as configs
from training import evaluation
from training.config import Config, DataConfig
from training.data import Dataset
from training.project import Project, Settings


def train(settings: Settings[Config], arguments: Sequence[str] | None = None) -> int:
    """Run `python -m NAME.train`; return its exit code."""
    parser = _train_parser(settings)
    options = parser.parse_args(arguments)
    if options.config is None and options.from_provenance is None:
        parser.error(f"--config: name a file, such as {settings.configs / 'ci-tiny.yaml'}")
    if options.from_provenance is not None and options.overrides:
        parser.error("--set: not allowed with --from-provenance, which sets every key")
    return run_command(lambda: _train(settings, options))


def _train_parser(settings: Settings[Config]) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"python -m {settings.package}.train",
        description="Train a model and write a checkpoint.",
        epilog="Exit codes: 0 trained or reproduced, 1 the loss is not finite or the checkpoint "
        "was not reproduced, 2 bad input, reported in one line.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"what to train, such as {settings.configs / 'ci-tiny.yaml'}; with --from-provenance, "
        f"the configuration whose data location is trusted, by default {settings.defaults}",
    )
    parser.add_argument(
        "--from-provenance",
        type=Path,
        metavar="FILE",
        help="repeat the run that a provenance.json describes, and report whether the checkpoint "
        "is the same",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override one key of the configuration, as in train.epochs=3; may be repeated",
    )
    parser.add_argument(
        "--outputs",
        type=Path,
        default=settings.outputs,
        metavar="FOLDER",
        help="where to create the run's folder (default: %(default)s)",
    )
    parser.add_argument(
        "--run-id", metavar="ID", help="the name of the run's folder (default: date and time)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the run with that ID from its newest snapshot, if there is one",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print the complete configuration and exit without training",
    )
    parser.add_argument(
        "--require-clean-tree",
        action="store_true",
        help="refuse to train from uncommitted source, as for a release",
    )
    return parser


def _train(settings: Settings[Config], options: argparse.Namespace) -> ExitCode:
    described = provenance.read(options.from_provenance) if options.from_provenance else None
    if described is None:
        where = str(options.config)
        config = configs.load(settings.config, options.config, options.overrides)
    else:
        where = str(options.from_provenance)
        tree = provenance.config_of(described)
        config = configs.validate(settings.config, tree, where=where)
        trusted = options.config or settings.defaults
        _check_data(config.data, where, trusted, settings)
    if options.print_config:
        print(configs.dump(config).decode(), end="")
        return ExitCode.PASSED
    # Takes seconds to import, so a typo in the configuration is reported first.
    from training import runs  # noqa: PLC0415

    checkpoint = runs.train(
        runs.Request(
            project=settings.project,
            config=config,
            outputs=options.outputs,
            run_id=options.run_id,
            resume=options.resume,
            needs_clean_tree=options.require_clean_tree,
            where=where,
        )
    )
    if described is None:
        return ExitCode.PASSED
    return _compare(described, provenance.read(checkpoint.with_name("provenance.json")))


def _check_data(
    described: DataConfig, where: str, trusted: Path, settings: Settings[Config]
) -> None:
    """Refuse an address or a folder that only the provenance names: anyone may have written it."""
    known = configs.load(settings.config, trusted).data
    for key in ("source", "cache_dir"):
        found, expected = getattr(described, key), getattr(known, key)
        if found != expected:
            msg = f"{where}: data.{key} is {found}, but {trusted} has {expected}; if you trust the "
            msg += "former, name a configuration that has it with --config"
            raise ConfigError(msg)


def _compare(described: dict[str, Any], again: dict[str, Any]) -> ExitCode:
    """Report whether the repeated run produced the same checkpoint."""
    before, now = provenance.subject_digest(described), provenance.subject_digest(again)
    result = ExitCode.PASSED if before == now else ExitCode.FAILED
    if os.environ.get("RANK", "0") != "0":
        return result  # only the first process reports
    differences = provenance.differences(described, again)
    if before == now:
        show(f"reproduced: the checkpoint is the same, sha256 {now}")
    else:
        show(f"not reproduced: sha256 {before} -> {now}")
    no_difference = ["  nothing that the provenance records differs"]
    show(*([f"  differs: {difference}" for difference in differences] or no_difference))
    return result


def declare(settings: Settings[Config], dataset: Dataset) -> int:
    """Run `python -m NAME.data`, which prints the content for configs/data/NAME.json."""

    def run() -> ExitCode:
        config = configs.load(settings.config, settings.defaults)
        print(dataset.declared(config.data).to_json(), end="")
        return ExitCode.PASSED

    return run_command(run)


def evaluate(settings: Settings[Config], arguments: Sequence[str] | None = None) -> int:
    """Run `python -m NAME.eval`; return its exit code."""
    options = _evaluate_parser(settings).parse_args(arguments)
    return run_command(lambda: _evaluate(settings, options))


def _evaluate_parser(settings: Settings[Config]) -> argparse.ArgumentParser:
    parser = CommandParser(
        prog=f"python -m {settings.package}.eval",
        description="Score a checkpoint on held-out data and judge it against a baseline.",
        epilog="Exit codes: 0 passed, 1 failed (harm is shown or a floor is broken), "
        "2 could not judge, reported in one line, 3 too little evidence.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        metavar="FILE",
        help=f"the checkpoint to score; latest.* in {settings.outputs} links to the newest",
    )
    add_judging_arguments(parser, baseline="checkpoint or predictions.parquet")
    parser.add_argument(
        "--policy",
        type=Path,
        default=settings.policy,
        metavar="FILE",
        help="the file with all other limits (default: %(default)s)",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help=f"the configuration that names the data (default: {settings.defaults}; required if "
        "the model was trained on other data)",
    )
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help="write the predictions here (default: predictions.parquet beside the checkpoint)",
    )
    return parser


def _evaluate(settings: Settings[Config], options: argparse.Namespace) -> ExitCode:
    policy = load_policy(options.policy).with_margin(options.fail_if_worse_than)
    with contextlib.ExitStack() as stack:
        baseline = None
        if options.baseline is not None:
            # Before the model is scored, so that a wrong address fails immediately.
            baseline = stack.enter_context(local_copy(options.baseline))
        verdict = _judge(settings.project, options, policy, baseline)
    return publish(verdict, report=options.report)


def _judge(
    project: Project[Config, Any],
    options: argparse.Namespace,
    policy: Policy,
    baseline: Path | None,
) -> Verdict:
    from gates.evaluation.plots import draw_verdict  # noqa: PLC0415 - takes seconds to import

    # Resolve the link only once: another training run may repoint it in the meantime.
    checkpoint = options.checkpoint
    if checkpoint.is_symlink():
        checkpoint = Path(os.path.realpath(checkpoint))
    written = options.predictions or checkpoint.with_name("predictions.parquet")
    plot = written.with_name("verdict.svg")
    read = [options.policy, options.config, checkpoint, baseline]
    read += evaluation.data_files(project, checkpoint, options.config)
    others = [evaluation.baseline_predictions(written), *project.score_files(written.parent)]
    refuse_to_overwrite(read, written=[written, options.report, plot, *others])
    examples = evaluation.held_out_examples(project, checkpoint, options.config)
    predictions = project.predict(checkpoint, examples)
    write_predictions(predictions, written)
    project.write_scores(predictions, written.parent)
    if baseline is None:
        verdict = evaluation.accept_without_baseline(written, policy, why=options.no_baseline)
    else:
        verdict = evaluation.compare(
            project,
            written,
            baseline,
            policy,
            name=shown(options.baseline),
            examples=examples,
            allow_same_model=options.allow_same_model,
        )
    draw_verdict(verdict, plot)
    return verdict
