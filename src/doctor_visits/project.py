"""The project, as its commands and the registry use it."""

from pathlib import Path

from training import evaluation, scores
from training.data import files_of
from training.project import Project

from doctor_visits import data
from doctor_visits.config import SETTINGS, RunConfig
from doctor_visits.data import Examples
from doctor_visits.evaluation import predict
from doctor_visits.method import METHOD

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
