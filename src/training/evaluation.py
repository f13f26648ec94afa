"""Scores checkpoints on held-out examples, and has the gate judge the scores."""

from pathlib import Path
from typing import Any

from gates.errors import AnswerError, GateInputError
from gates.evaluation import answers
from gates.evaluation import comparison as gate
from gates.evaluation.policy import Policy
from gates.evaluation.predictions import open_predictions, write_predictions
from gates.verdicts.verdict import Verdict
from training import config as configs
from training.config import Config
from training.project import Project


def check_answers(project: Project[Config, Any], folder: Path) -> None:
    """Load a registered model and let it answer: it must predict what its predictions say.

    All of the held-out data is compared, the labels too: a verdict is no better than the
    predictions that it rests on.

    Args:
        project: whose model it is.
        folder: holds its checkpoint and `predictions.parquet`.

    Raises:
        AnswerError: the model answers otherwise, or the predictions are not of this data.
        CheckpointError: it cannot be loaded.
        GateInputError: the data on which it was judged is not here.
    """
    checkpoint = folder / project.method.checkpoint
    recorded = open_predictions(folder / "predictions.parquet")
    examples = held_out_examples(project, checkpoint)
    if examples.data_digest != recorded.digests["data"]:
        msg = f"it was judged on the data {recorded.digests['data'][:12]}, and "
        msg += f"{project.settings.defaults} names {examples.data_digest[:12]}"
        raise GateInputError(msg)
    again = project.predict(checkpoint, examples)
    problem = answers.difference(recorded, again, tolerance=project.tolerance)
    if problem:
        raise AnswerError(problem)


def held_out_examples(
    project: Project[Config, Any], checkpoint: Path, config: Path | None = None
) -> Any:
    """Return the test split that `checkpoint` is scored on.

    Args:
        project: whose model it is.
        checkpoint: the model.
        config: says where the data is; None for the project's configuration.

    Raises:
        GateError: the data cannot be read, or no configuration is named and the model was trained
            on other data than the project's.
    """
    run = _config_of(project, checkpoint, config)
    return project.examples(run, "test", str(config or project.settings.defaults))


def data_files(
    project: Project[Config, Any], checkpoint: Path, config: Path | None = None
) -> list[Path]:
    """Return the local files of the data that `checkpoint` is scored on, as `held_out_examples`."""
    return project.data_files(_config_of(project, checkpoint, config).data)


def _config_of(project: Project[Config, Any], checkpoint: Path, config: Path | None) -> Config:
    settings = project.settings
    if config is not None:
        return configs.load(settings.config, config)
    trained_on = project.method.config_of(checkpoint).data.source
    known = configs.load(settings.config, settings.defaults)
    if trained_on != known.data.source:
        msg = f"{checkpoint}: was trained on {trained_on}, and {settings.defaults} names "
        msg += f"{known.data.source}; say with --config where the data to score it on is"
        raise GateInputError(msg)
    return known


def compare(  # noqa: PLR0913 - what it judges, each given by its name
    project: Project[Config, Any],
    candidate: Path,
    baseline: Path,
    policy: Policy,
    *,
    name: str,
    examples: Any,
    allow_same_model: bool = False,
) -> Verdict:
    """Judge the predictions in `candidate` against `baseline`.

    Args:
        project: whose models they are.
        candidate: predictions of the model that may be promoted.
        baseline: the model in production: its checkpoint, which is then scored, or its
            predictions. The scores are written beside the candidate's, so that the verdict can
            be reached again.
        policy: every limit.
        name: what errors call the baseline.
        examples: what the candidate was scored on.
        allow_same_model: whether both may be one checkpoint.

    Raises:
        GateError: the baseline cannot be read, or the two cannot be compared.
    """
    reference = baseline
    if not _is_parquet(baseline):
        reference = baseline_predictions(candidate)
        write_predictions(project.predict(baseline, examples), reference)
    ours, theirs = open_predictions(candidate), open_predictions(reference, name=name)
    return gate.compare(ours, theirs, policy, allow_same_model=allow_same_model)


def baseline_predictions(candidate: Path) -> Path:
    """Return where the predictions of a baseline go, beside those of the candidate."""
    return candidate.with_name(f"baseline_{candidate.name}")


def _is_parquet(file: Path) -> bool:
    """Whether `file` is one of predictions, by its name or, as an address may have none, within."""
    with file.open("rb") as stream:
        return file.suffix == ".parquet" or stream.read(4) == b"PAR1"


def accept_without_baseline(candidate: Path, policy: Policy, *, why: str) -> Verdict:
    """Judge the predictions in `candidate` as those of a first release."""
    return gate.accept_without_baseline(open_predictions(candidate), policy, why=why)
