"""Scores checkpoints on held-out examples and passes the scores to the evaluation gate."""

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
    """Check that a registered model still makes the predictions recorded with it.

    Predictions and labels of the whole test split are compared, because the verdict rests on
    them.

    Args:
        project: the project the model belongs to.
        folder: contains its checkpoint and `predictions.parquet`.

    Raises:
        AnswerError: the model predicts something else, or the predictions are for other data.
        CheckpointError: the checkpoint cannot be loaded.
        GateInputError: the data the model was judged on is not here.
    """
    checkpoint = folder / project.method.checkpoint
    recorded = open_predictions(folder / "predictions.parquet")
    examples = held_out_examples(project, checkpoint)
    if examples.data_digest != recorded.digests["data"]:
        msg = f"the model was judged on the data {recorded.digests['data'][:12]}, but "
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
        project: the project the model belongs to.
        checkpoint: the model.
        config: the configuration that names the data; None for the project's default.

    Raises:
        GateError: the data cannot be read, or `config` is None and the model was not trained on
            the data of the project's default configuration.
    """
    run = _config_of(project, checkpoint, config)
    return project.examples(run, "test", str(config or project.settings.defaults))


def data_files(
    project: Project[Config, Any], checkpoint: Path, config: Path | None = None
) -> list[Path]:
    """Return the local files that `held_out_examples` reads for the same arguments."""
    return project.data_files(_config_of(project, checkpoint, config).data)


def _config_of(project: Project[Config, Any], checkpoint: Path, config: Path | None) -> Config:
    settings = project.settings
    if config is not None:
        return configs.load(settings.config, config)
    trained_on = project.method.config_of(checkpoint).data.source
    known = configs.load(settings.config, settings.defaults)
    if trained_on != known.data.source:
        msg = f"{checkpoint}: was trained on {trained_on}, but {settings.defaults} names "
        msg += f"{known.data.source}; use --config to name the data to score it on"
        raise GateInputError(msg)
    return known


def compare(  # noqa: PLR0913 - most are keyword-only
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
        project: the project the models belong to.
        candidate: predictions of the model that may be promoted.
        baseline: predictions or checkpoint of the model in production. A checkpoint is scored
            first; its predictions are written beside the candidate's, so that the verdict can be
            reproduced.
        policy: the limits.
        name: the baseline's name for error messages.
        examples: the examples the candidate was scored on.
        allow_same_model: whether candidate and baseline may be the same checkpoint.

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
    """Return the path of the baseline's predictions, beside the candidate's."""
    return candidate.with_name(f"baseline_{candidate.name}")


def _is_parquet(file: Path) -> bool:
    """Whether `file` is Parquet, by its suffix or, as an address may have none, its content."""
    with file.open("rb") as stream:
        return file.suffix == ".parquet" or stream.read(4) == b"PAR1"


def accept_without_baseline(candidate: Path, policy: Policy, *, why: str) -> Verdict:
    """Judge the predictions in `candidate` as a first release."""
    return gate.accept_without_baseline(open_predictions(candidate), policy, why=why)
