"""The project, as its commands and the registry use it."""

from pathlib import Path

from training import evaluation, scores
from training.data import files_of
from training.project import Project

from char_lm import data
from char_lm.config import SETTINGS, RunConfig
from char_lm.data import Examples
from char_lm.evaluation import predict
from char_lm.learner import METHOD

PROJECT: Project[RunConfig, Examples] = Project(
    settings=SETTINGS,
    examples=data.examples_of,
    data_files=files_of,
    method=METHOD,
    predict=predict,
    write_scores=scores.write_scores,
    score_files=scores.files_in,
)


def smoke(folder: Path) -> None:
    """Check that the registered model in `folder` still makes its recorded predictions."""
    evaluation.check_answers(PROJECT, folder)
