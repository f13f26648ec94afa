"""This project's own loop."""

from benchmarks.peers.work import Record, Work
from my_project import training


def train(work: Work, record: Record) -> None:
    """Train as `python -m my_project.train` does, without metrics and snapshots."""
    trainer = training.new_trainer(work.model(), work.config.train)
    training.fit(
        trainer,
        work.examples,
        work.config,
        on_step=lambda report: record.step(report.loss),
    )
