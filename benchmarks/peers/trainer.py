"""Lightning's Trainer, by https://lightning.ai/docs/pytorch/stable/starter/introduction.html."""

from typing import Any

import lightning
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from torch import Tensor

from benchmarks.peers.work import Record, Work


class _Module(lightning.LightningModule):  # type: ignore[misc] # ships no types here
    def __init__(self, work: Work) -> None:
        super().__init__()
        self.model = work.model()
        self._work = work

    def training_step(self, batch: tuple[Tensor, Tensor], _batch_index: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self._work.optimizer(self.model)
        schedule = {"scheduler": self._work.schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


class _Recorder(lightning.Callback):  # type: ignore[misc] # ships no types here
    def __init__(self, record: Record) -> None:
        self._record = record

    def on_train_batch_end(
        self, _trainer: Any, _module: Any, outputs: dict[str, Tensor], *_batch: Any
    ) -> None:
        self._record.step(outputs["loss"])


def train(work: Work, record: Record) -> None:
    """Train with the Trainer stripped of all that could slow it down."""
    config = work.config.train
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=config.epochs,
        gradient_clip_val=config.clip_norm,
        deterministic=config.deterministic,
        use_distributed_sampler=False,
        callbacks=[_Recorder(record)],
        # No logger, checkpoints, progress bar, model summary or sanity check.
        barebones=True,
    )
    trainer.fit(_Module(work), work.batches())
