"""This project's own loop."""

from training.pytorch import loop

from benchmarks.peers.work import Record, Work
from my_project.learner import LEARNER


def train(work: Work, record: Record) -> None:
    """Train as `python -m my_project.train` does, without metrics and snapshots."""
    trainer = loop.new_trainer(work.model(), work.config.train)
    loop.fit(
        trainer,
        work.examples,
        work.config,
        LEARNER,
        on_step=lambda report: record.step(report.loss),
    )
