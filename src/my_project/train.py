"""Train a model: python -m my_project.train --config configs/ci-tiny.yaml."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gates.display import show
from gates.errors import CommandParser, ConfigError, ExitCode, run_command
from gates.evidence import provenance
from my_project.config import PROJECT, DataConfig, load, validate


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.config is None and options.from_provenance is None:
        parser.error("--config: name a file, such as configs/ci-tiny.yaml")
    if options.from_provenance is not None and options.overrides:
        parser.error("--set: not allowed with --from-provenance, which says all of it")
    return run_command(lambda: _train(options))


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="python -m my_project.train",
        description="Train a model and leave a checkpoint.",
        epilog="Exit codes: 0 trained, 1 training failed (a loss that is not finite), "
        "2 bad input, told in one line.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="what to train, such as configs/ci-tiny.yaml; with --from-provenance, where its data "
        f"may come from (default there: {PROJECT})",
    )
    parser.add_argument(
        "--from-provenance",
        type=Path,
        metavar="FILE",
        help="train again what a provenance.json describes, and say whether the result is the same",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="change one key of the configuration, as in train.epochs=3; may be repeated",
    )
    parser.add_argument(
        "--outputs",
        type=Path,
        default=Path("outputs"),
        metavar="FOLDER",
        help="where the run's folder is made (default: %(default)s)",
    )
    parser.add_argument(
        "--run-id", metavar="ID", help="the name of the run's folder (default: date and time)"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run of that name from its newest snapshot, if there is one",
    )
    parser.add_argument(
        "--require-clean-tree",
        action="store_true",
        help="refuse source that no commit describes, as for a release",
    )
    return parser


def _train(options: argparse.Namespace) -> ExitCode:
    described = provenance.read(options.from_provenance) if options.from_provenance else None
    if described is None:
        where = str(options.config)
        config = load(options.config, options.overrides)
    else:
        where = str(options.from_provenance)
        config = validate(provenance.config_of(described), where=where)
        _check_data(config.data, where, options.config or PROJECT)
    # Imports torch: after the configuration, so that a typo is told at once.
    from my_project import runs  # noqa: PLC0415

    checkpoint = runs.train(
        runs.Request(
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


def _check_data(described: DataConfig, where: str, trusted: Path) -> None:
    """Refuse an address or a folder that only a file from elsewhere names."""
    known = load(trusted).data
    for key in ("source", "cache_dir"):
        found, expected = getattr(described, key), getattr(known, key)
        if found != expected:
            msg = f"{where}: data.{key} is {found}, and {trusted} has {expected}; if that is "
            msg += "right, name a configuration that says so with --config"
            raise ConfigError(msg)


def _compare(described: dict[str, Any], again: dict[str, Any]) -> ExitCode:
    """Say whether a run that was trained again came to the same checkpoint."""
    before, now = provenance.subject_digest(described), provenance.subject_digest(again)
    result = ExitCode.PASSED if before == now else ExitCode.FAILED
    if os.environ.get("RANK", "0") != "0":
        return result  # the first of several processes speaks for all
    differences = provenance.differences(described, again)
    if before == now:
        show(f"reproduced: the checkpoint is the same, sha256 {now}")
    else:
        show(f"not reproduced: sha256 {before} -> {now}")
    nothing = ["  nothing that the provenance records differs"]
    show(*([f"  differs: {difference}" for difference in differences] or nothing))
    return result


if __name__ == "__main__":
    sys.exit(main())
