"""The loops that one writes by hand: plain torch.nn, torch.optim, no logging. This module needs torch alone."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases import BATCH, LR


def network(example: Tensor, widths: tuple[int, ...] | None) -> nn.Sequential:
    """The network of a case for such examples, with its parameters in the order of dlopt's."""
    if widths is None:
        series = example.ndim == 2
        convolution = nn.Conv1d if series else nn.Conv2d
        return nn.Sequential(
            *(convolution(1, 25, 5, 2, 1), nn.ReLU()),
            *(convolution(25, 25, 3, 2, 1), nn.ReLU()),
            *(convolution(25, 25, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(125 if series else 400, 10)),
        )
    inputs = example.numel()
    layers: list[nn.Module] = [nn.Flatten()]
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def adam(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=LR, fused=True)


def straight(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int) -> None:
    """The shortest loop: an order of the examples per epoch, and batches gathered by index."""
    step = 0
    while True:
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == steps:
                return


def loaded(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int) -> None:
    """The loop of the tutorials: the same on a DataLoader."""
    loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True, num_workers=0)
    step = 0
    while True:
        for inputs, targets in loader:
            loss = cross_entropy(net(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step == steps:
                return
