"""The project, as its commands, the registry and the benchmark use it."""

from pathlib import Path

from training import evaluation, scores
from training.data import files_of
from training.project import Project

from my_project import data
from my_project.config import SETTINGS, RunConfig
from my_project.data import Examples
from my_project.evaluation import predict
from my_project.learner import METHOD

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
