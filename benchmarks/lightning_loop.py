"""The same training in PyTorch Lightning: no progress bar, no checkpoints, loss and accuracy logged per epoch."""

import logging
import warnings
from pathlib import Path

import lightning
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases import BATCH
from benchmarks.handwritten import build_adam

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", module="lightning")  # its advice on workers does not apply: the data are in memory


class Classifier(lightning.LightningModule):
    """A network with its loss, its metrics and its optimizer."""

    def __init__(self, net: nn.Module, lr: float) -> None:
        super().__init__()
        self.net = net
        self.lr = lr

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        inputs, targets = batch
        outputs = self.net(inputs)
        loss = cross_entropy(outputs, targets)
        accuracy = (outputs.argmax(1) == targets).float().mean()
        self.log_dict({"train/loss": loss, "train/accuracy": accuracy}, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Optimizer:
        return build_adam(self.net, self.lr)


class Fit:
    """One run; calling it trains."""

    def __init__(self, net: nn.Module, lr: float, x: Tensor, y: Tensor, steps: int, folder: Path) -> None:
        self.module = Classifier(net, lr)
        self.loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True, num_workers=0)
        self.trainer = lightning.Trainer(
            max_steps=steps,
            accelerator="cpu",
            devices=1,
            logger=CSVLogger(folder),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )

    def __call__(self) -> None:
        self.trainer.fit(self.module, self.loader)
