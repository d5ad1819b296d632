"""The cases: a data set, a network and a number of steps, the same for every side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dlopt.training.experiment import Experiment

BATCH = 100


@dataclass(frozen=True)
class MLP:
    """Fully connected layers; a deep network starts orthogonal, because other inits lose the signal."""

    widths: tuple[int, ...]
    activation: str = "relu"

    @property
    def overrides(self) -> list[str]:
        first, depth = self.widths[0], len(self.widths)
        equal = self.widths == (first,) * depth
        widths = [f"arch.depth={depth}", f"arch.width={first}"] if equal else [f"arch.widths={list(self.widths)}"]
        return ["arch=mlp", *widths, f"activation={self.activation}", f"init={'orthogonal' if depth > 9 else 'he'}"]


@dataclass(frozen=True)
class CNN:
    """The convolutional net of the MNIST-1D paper."""

    @property
    def overrides(self) -> list[str]:
        return ["arch=cnn"]


@dataclass(frozen=True)
class ResNet:
    """Residual blocks with batch normalization; between two stages channels double and positions halve."""

    channels: tuple[int, ...]
    blocks: int

    @property
    def overrides(self) -> list[str]:
        return ["arch=resnet", f"arch.channels={list(self.channels)}", f"arch.blocks={self.blocks}"]


@dataclass(frozen=True)
class LSTM:
    """One layer that reads a series; its last state predicts the class."""

    width: int

    @property
    def overrides(self) -> list[str]:
        return ["arch=lstm", f"arch.width={self.width}"]


@dataclass(frozen=True)
class Transformer:
    """Pre-norm blocks with learned positions; the mean over the steps of a series predicts the class."""

    width: int
    heads: int
    depth: int

    @property
    def overrides(self) -> list[str]:
        return [
            "arch=transformer", f"arch.width={self.width}", f"arch.heads={self.heads}", f"arch.depth={self.depth}"
        ]  # fmt: skip


Net = MLP | CNN | ResNet | LSTM | Transformer


@dataclass(frozen=True)
class Case:
    """One training problem.

    data      mnist1d, fashion_mnist, or synthetic
    net       the network
    steps     steps of a run
    target    the smallest acceptable ratio of steps per second, dlopt over the hand-written loop
    threads   that torch may use, on both sides
    lr        the learning rate
    """

    name: str
    data: str
    net: Net
    steps: int
    target: float
    threads: int = 1
    lr: float = 0.001

    @property
    def overrides(self) -> list[str]:
        """Return the overrides of the case for dlopt."""
        own = ["data=custom", "data._target_=benchmarks.data.Synthetic"]
        data = own if self.data == "synthetic" else [f"data={self.data}"]
        fixed = [f"batch_size={BATCH}", f"optimizer.lr={self.lr}", "validation.fraction=0", f"threads={self.threads}"]
        return [*data, *self.net.overrides, f"steps={self.steps}", "device=cpu", *fixed]


CASES = (
    Case("MLP 40-100-100-10", "mnist1d", MLP((100, 100)), steps=6000, target=1.0),
    Case("CNN of MNIST-1D", "mnist1d", CNN(), steps=3000, target=0.97),
    Case("MLP 784-1024-1024-10", "synthetic", MLP((1024, 1024)), steps=600, target=0.95),
    Case("CNN on Fashion-MNIST", "fashion_mnist", CNN(), steps=1800, target=0.97, threads=2),  # three epochs
    Case("tanh MLP of 1000 layers", "mnist1d", MLP((32,) * 1000, "tanh"), steps=200, target=0.90, lr=0.0001),
    Case("residual CNN", "mnist1d", ResNet((16, 32, 64), blocks=3), steps=600, target=0.97),
    Case("LSTM of 64 units", "mnist1d", LSTM(64), steps=600, target=0.95),
    Case("transformer of 2 blocks", "mnist1d", Transformer(32, 4, 2), steps=600, target=0.95),
)


def build_experiment(overrides: Sequence[str]) -> Experiment:
    """Build an experiment of dlopt. The imports are here because the hand-written side must not have them."""
    from hydra import compose, initialize_config_dir

    from dlopt.config.build import build
    from dlopt.config.compose import groups

    with initialize_config_dir(version_base="1.3", config_dir=str(groups.CONF)):
        return build(compose("config", list(overrides)), overrides)[0]
