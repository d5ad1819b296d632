"""Short ways to what many tests need."""

import os
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

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


def options(group: str) -> list[str]:
    """The options of a group, but for people's own."""
    return [name for name in paths.options(group) if name != "custom"]


def named(group: str, option: str, **keys: Any) -> Any:
    """The part that an option of a group with one option makes, with some of its keys changed."""
    return instantiate({**OmegaConf.load(paths.CONF / group / f"{option}.yaml"), **keys})


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


def weights(run: Run, which: Any = "last") -> torch.Tensor:
    """All numbers of a checkpoint's network, buffers too, as one vector."""
    return torch.cat([v.double().flatten() for v in run.load(which)["model"].values()])


def curves(run: Run) -> list[dict[str, Any]]:
    """The logged rows without the clock."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "time/steps_per_second")} for row in run.rows()]
