"""A stochastic quadratic with the spectrum of a deep network."""

import numpy as np
import torch
from torch import Tensor, nn

SEED, SMALL, LARGE = 42, 90, 10


class Quadratic(nn.Module):
    """The loss of each example x: (w - x)'Q(w - x) / 2, with 100 weights w that start at ones.

    Of the eigenvalues of Q, 90 are from U(0, 1) and 10 from U(30, 60): a few directions are steep and most are flat, as
    in deep networks. The eigenvectors are a random rotation, uniform under Haar's measure. numpy's RandomState(42)
    draws the eigenvalues, then the rotation, as DeepOBS does. With loss=output, f(w) is the mean over the batch.

    Inputs have shape (100,), as those of data=quadratic. No init changes w.

    Source: Schneider, Balles and Hennig 2019, DeepOBS, quadratic_deep; its spectrum follows Chaudhari et al. 2017,
    Entropy-SGD, the rotation Diaconis and Shahshahani 1987, The subgroup algorithm.
    """

    hessian: Tensor

    def __init__(self, inputs: tuple[int, ...]) -> None:
        super().__init__()
        if tuple(inputs) != (SMALL + LARGE,):
            raise ValueError(f"needs examples of {SMALL + LARGE} features, got the shape {tuple(inputs)}")
        generator = np.random.RandomState(SEED)
        eigenvalues = np.concatenate([generator.uniform(0.0, 1.0, SMALL), generator.uniform(30.0, 60.0, LARGE)])
        rotation = sample_rotation(len(eigenvalues), generator)
        hessian = rotation.T @ np.diag(eigenvalues) @ rotation
        self.w = nn.Parameter(torch.ones(len(eigenvalues)))
        self.register_buffer("hessian", torch.from_numpy(hessian), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        difference = self.w - x
        return ((difference @ self.hessian) * difference).sum(-1, keepdim=True) / 2


def sample_rotation(n: int, generator: np.random.RandomState) -> np.ndarray:
    """Return a rotation from Haar's measure on SO(n), by the subgroup algorithm.

    A rotation of the plane is extended by one dimension at a time: R <- (I - 2 uu')(1 + R), where the reflection sends
    the first axis to a uniform point of the sphere.
    """
    angle = 2 * np.pi * generator.uniform()
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for size in range(3, n + 1):
        point = generator.normal(size=size)
        u = -point / np.linalg.norm(point)
        u[0] += 1.0
        u /= np.linalg.norm(u)
        larger = np.eye(size)
        larger[1:, 1:] = rotation
        rotation = larger - 2 * np.outer(u, u @ larger)
    return -rotation  # each reflection changes the sign of the determinant
