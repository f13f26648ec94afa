"""Accelerate, by https://huggingface.co/docs/accelerate/basic_tutorials/migration."""

import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from accelerate import Accelerator

from benchmarks.peers.work import Record, Work


def train(work: Work, record: Record) -> None:
    """Train with a loop of our own, on what Accelerate has prepared."""
    config = work.config.train
    accelerator = Accelerator(cpu=True)
    bare = work.model()
    optimizer = work.optimizer(bare)
    model, optimizer, batches, schedule = accelerator.prepare(
        bare, optimizer, work.batches(), work.schedule(optimizer)
    )
    model.train()
    for _ in range(config.epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(model.parameters(), config.clip_norm)
            optimizer.step()
            schedule.step()
            record.step(loss)
