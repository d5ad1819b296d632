"""Wall time of a landscape of 51 x 51 points, and of the largest eigenvalue of a ResNet-20 on 512 images."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from benchmarks.curvature import build
from benchmarks.processes import DLOPT, run
from benchmarks.screen import make_console
from dlopt import prng
from dlopt.linalg.lanczos import tridiagonalize
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem

IMAGES, SHAPE = 512, (3, 32, 32)
PRODUCTS = 8
"""Lanczos steps: the residual of the largest eigenvalue tells how far it may be off."""


def main(rounds: int) -> None:
    """Measure both and print a line for each."""
    console = make_console()
    with tempfile.TemporaryDirectory() as name, console.status("dlopt landscape"):
        folder = Path(name) / "run"
        words = ["data=mnist1d", "validation.fraction=0", "epochs=2", f"hydra.run.dir={folder}", "-q"]
        run([DLOPT, "train", *words])
        outs = [str(Path(name) / f"landscape-{i}") for i in range(rounds)]
        seconds = [run([DLOPT, "landscape", str(folder), "--out", out, "-q"])[0] for out in outs]
    figures = ", ".join(f"{f(seconds):.1f} s" for f in (median, min, max))
    console.print(f"51 x 51 points, CNN of MNIST-1D on 4,000 examples: {figures} (median, min, max; at most 30 s)")
    with console.status("ResNet-20"):
        console.print(describe_resnet())


def describe_resnet() -> str:
    """Return the time and the residual of the largest eigenvalue of a ResNet-20."""
    experiment = build(SHAPE, ["arch=resnet"])
    problem = Problem(experiment.model, experiment.loss)
    w = problem.bind(experiment.w.clone())
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(IMAGES, *SHAPE, generator=generator), torch.randint(10, (IMAGES,), generator=generator)
    objective = MiniBatchObjective(problem, x, y, prng.key(0, 1))
    start = time.perf_counter()
    pairs = tridiagonalize(
        lambda v: objective.hvp(w, v), torch.randn(len(w), generator=generator), PRODUCTS
    ).ritz_pairs()
    seconds = time.perf_counter() - start
    value, residual = pairs.values[-1].item(), pairs.residuals[-1].item()
    return (
        f"ResNet-20, {len(w):,} weights, {IMAGES} images: largest eigenvalue {value:.3g}, residual {residual:.1g}, "
        f"after {PRODUCTS} products: {seconds:.1f} s (at most 60 s)"
    )
