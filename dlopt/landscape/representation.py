"""Similarity of what each layer represents during training to what it represents at the end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dlopt.landscape.trajectories import WeightTrajectory
from dlopt.objective.activation_hooks import record_outputs
from dlopt.training.batches import Examples
from dlopt.training.evaluation import get_chunk_size, recompute_statistics
from dlopt.training.inference import Predictor

MAX_EXAMPLES = 1000
"""Largest number of examples: their inner products are a matrix of this size for each layer."""


def compare_layers(
    predictor: Predictor, trajectory: WeightTrajectory, examples: Examples, advance: Callable[[int], None]
) -> dict[str, Tensor]:
    """Return the CKA of each layer's outputs at the points of a trajectory, (n,), with those at its last point.

    Layers are the activations of the network in order, and its outputs. Nothing is random. The statistics of batch
    normalization are computed on the examples at each point, since a trajectory has none of its own. advance is called
    with 1 for each point. The predictor keeps the weights and statistics that it has.
    """
    problem, w = predictor.problem, predictor.w
    kept, stored = w.clone(), {name: b.clone() for name, b in problem.running.items()}
    columns: dict[str, list[Tensor]] = {}
    last: dict[str, Tensor] = {}
    try:
        for point in trajectory.points.flip(0):
            w.copy_(point)
            for name, value in recompute_statistics(problem, w, examples).items():
                problem.running[name].copy_(value)
            products = {name: center_products(x) for name, x in _compute_outputs(predictor, examples).items()}
            last = last or products
            for name, k in products.items():
                columns.setdefault(name, []).append(compute_cka(k, last[name]))
            advance(1)
    finally:
        w.copy_(kept)
        for name, value in stored.items():
            problem.running[name].copy_(value)
    return {name: torch.stack(column[::-1]).cpu() for name, column in columns.items()}


def center_products(x: Tensor) -> Tensor:
    """Return the inner products, (N, N), of centered examples, (N, ...), in float64."""
    x = x.flatten(1).double()
    x = x - x.mean(0)
    return x @ x.mT


def compute_cka(k: Tensor, l: Tensor) -> Tensor:
    """Return the linear CKA, shape (), of two representations by their centered inner products K, L, (N, N).

        CKA = sum_ij K_ij L_ij / (|K| |L|) = |Y'X|^2 / (|X'X| |Y'Y|),   K = XX', L = YY', Frobenius norms

    It is 1 for representations that are equal up to a rotation and a scale, and NaN for one that is constant.

    Source: Kornblith, Norouzi, Lee and Hinton 2019, Similarity of neural network representations revisited, equation 5.
    """
    return (k * l).sum() / (k.norm() * l.norm())


def _compute_outputs(predictor: Predictor, examples: Examples) -> dict[str, Tensor]:
    """Return the outputs of each activation and of the network on all examples, each (N, ...), by label."""
    problem = predictor.problem
    parts: dict[str, list[Tensor]] = {}
    for x, _ in examples.chunks(get_chunk_size(problem)):
        with record_outputs(problem.activations) as recorded:
            outputs = problem.predict(predictor.w, x)
        layers = {problem.layout.label_activation(name): y for name, y in recorded.items()}
        for name, y in (layers | {"output": outputs}).items():
            parts.setdefault(name, []).append(y)
    return {name: torch.cat(column) for name, column in parts.items()}
