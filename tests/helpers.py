"""Short ways to what many tests need."""

import os
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from dlopt.config import paths
from dlopt.config.build import build
from dlopt.experiment import Experiment
from dlopt.run import Run
from dlopt.train import train
from dlopt.watch import Watch

DEVICE = os.environ.get("DLOPT_TEST_DEVICE", "cpu")
"""The same tests run on another device: DLOPT_TEST_DEVICE=cuda make test"""
BLOBS = (
    "data=custom",
    "data._target_=mine.Blobs",
    "arch=mlp",
    "arch.widths=[8]",
    "batch_size=16",
    "epochs=3",
    f"device={DEVICE}",
)
"""A tiny problem: 48 examples for training, 12 for validation, three steps an epoch, 67 weights."""


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(paths.CONF)):
        return compose("config", list(overrides))


def built(*overrides: str) -> Experiment:
    return build(composed(*overrides), overrides)[0]


def blobs(*overrides: str) -> Experiment:
    return built(*BLOBS, *overrides)


def trained(
    folder: Path, *experiments: Experiment, watch: Watch | None = None
) -> tuple[list[dict[str, Any]], list[Run]]:
    """Train in lanes (or one alone), in run directories folder/0, folder/1, ..."""
    runs = [Run.create(folder / str(i)) for i in range(len(experiments))]
    return train(experiments, runs, watch), runs


class StopAfter(Watch):
    """Ends the loop after so many steps, as Ctrl-C would."""

    def __init__(self, last: int) -> None:
        self.last = last
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "step" and value == self.last:
            self.stop = True


def stopped(folder: Path, last: int, experiment: Experiment) -> Run:
    """A run that was interrupted after so many steps, ready to go on."""
    run = Run.create(folder)
    (summary,) = train([experiment], [run], StopAfter(last))
    assert summary["status"] == run.status["status"] == "interrupted"
    assert summary["step"] == last
    return Run.create(folder, again=True)


def weights(run: Run, which: Any = "last") -> torch.Tensor:
    """All numbers of a checkpoint's network, buffers too, as one vector."""
    return torch.cat([v.double().flatten() for v in run.load(which)["model"].values()])


def curves(run: Run) -> list[dict[str, Any]]:
    """The logged rows without the clock."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "time/steps_per_second")} for row in run.rows()]
