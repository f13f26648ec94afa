"""Lightning Fabric, by https://lightning.ai/docs/fabric/stable/fundamentals/convert.html."""

import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from lightning.fabric import Fabric

from benchmarks.peers.work import Record, Work


def train(work: Work, record: Record) -> None:
    """Train with a loop of our own, in which Fabric places, differentiates and clips."""
    config = work.config.train
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    bare = work.model()
    model, optimizer = fabric.setup(bare, work.optimizer(bare))
    batches = fabric.setup_dataloaders(work.batches())
    schedule = work.schedule(optimizer)
    model.train()
    for _ in range(config.epochs):
        for images, labels in batches:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            fabric.backward(loss)
            fabric.clip_gradients(model, optimizer, max_norm=config.clip_norm)
            optimizer.step()
            schedule.step()
            record.step(loss)
