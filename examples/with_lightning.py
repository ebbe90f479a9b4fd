"""A small classifier trained by Lightning's Trainer without weight transport.

::

    python examples/with_lightning.py
"""

from __future__ import annotations

import tempfile

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

import backroads as br
from backroads.contrib.lightning import FeedbackCallback


class Classifier(pl.LightningModule):
    """Two hidden layers with their own way back. (N, 20) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        first, second, head = torch.nn.Linear(20, 64), torch.nn.Linear(64, 64), torch.nn.Linear(64, 4)
        self.net = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), head)
        br.convert(self.net, br.rules.symmetric_alignment())  # in the constructor: checkpoints then hold B

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(br.param_groups(self.net, lr=0.1, momentum=0.9))


def train(epochs: int, folder: str, accumulate: int = 1) -> tuple[Classifier, pl.Trainer]:
    """Train on points in four clusters; checkpoints go to ``folder``."""
    pl.seed_everything(0, verbose=False)
    y = torch.arange(512) % 4
    x = torch.randn(4, 20)[y] + torch.randn(512, 20)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 32, shuffle=True)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,  # B's gradient is the mean over the parts
        callbacks=[FeedbackCallback(every=10)],
        default_root_dir=folder,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Classifier()
    trainer.fit(model, loader)
    return model, trainer


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        model, trainer = train(epochs=5, folder=folder)
        print({name: round(float(value), 3) for name, value in trainer.callback_metrics.items()})
