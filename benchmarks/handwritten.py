"""Training loops written by hand: plain torch.nn and torch.optim, no logging. This module imports only torch."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, relu, scaled_dot_product_attention
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.cases import BATCH, LSTM, MLP, Net, ResNet, Transformer


def build_network(example: Tensor, net: Net) -> nn.Module:
    """Build a network for such examples, with its parameters in the order of dlopt's."""
    if isinstance(net, LSTM):
        return LastState(net.width)
    if isinstance(net, Transformer):
        return Encoder(net, example.shape[-1])
    if isinstance(net, MLP):
        return build_mlp(example.numel(), net)
    return build_resnet(example, net) if isinstance(net, ResNet) else build_cnn(example)


def build_mlp(inputs: int, net: MLP) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    for width in net.widths:
        layers += [nn.Linear(inputs, width), nn.Tanh() if net.activation == "tanh" else nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def build_cnn(example: Tensor) -> nn.Sequential:
    series = example.ndim == 2
    convolution = nn.Conv1d if series else nn.Conv2d
    return nn.Sequential(
        *(convolution(1, 25, 5, 2, 1), nn.ReLU()),
        *(convolution(25, 25, 3, 2, 1), nn.ReLU()),
        *(convolution(25, 25, 3, 2, 1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(125 if series else 400, 10)),
    )


def build_resnet(example: Tensor, net: ResNet) -> nn.Sequential:
    """Build a residual network for series."""
    before = net.channels[0]
    layers: list[nn.Module] = [nn.Conv1d(len(example), before, 3, padding=1, bias=False), nn.BatchNorm1d(before)]
    layers += [nn.ReLU()]
    for features in net.channels:
        for _ in range(net.blocks):
            layers.append(Block(before, features))
            before = features
    return nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(before, 10))


class Block(nn.Module):
    """Two convolutions and an identity; where the number of channels grows, the number of positions halves."""

    def __init__(self, before: int, features: int) -> None:
        super().__init__()
        self.more = features - before
        self.stride = 2 if self.more else 1
        self.conv1 = nn.Conv1d(before, features, 3, self.stride, 1, bias=False)
        self.norm1 = nn.BatchNorm1d(features)
        self.conv2 = nn.Conv1d(features, features, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(relu(self.norm1(self.conv1(x)))))
        if self.more:
            x = pad(x[:, :, :: self.stride], (0, 0, 0, self.more))
        return relu(y + x)


class LastState(nn.Module):
    """An LSTM on a series of one channel, and a linear layer on its last state."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, width, batch_first=True)
        self.output = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.lstm(x.mT)[0][:, -1])


class Encoder(nn.Module):
    """Blocks of attention and feed-forward layers, a normalization, and a linear layer on the mean."""

    def __init__(self, net: Transformer, steps: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(1, net.width)
        self.positions = nn.Embedding(steps, net.width)
        self.blocks = nn.Sequential(*(EncoderBlock(net.width, net.heads) for _ in range(net.depth)))
        self.norm = nn.LayerNorm(net.width)
        self.output = nn.Linear(net.width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.norm(self.blocks(self.embedding(x.mT) + self.positions.weight)).mean(1))


class EncoderBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, 4 * width)
        self.linear2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        x = x + self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, width))
        return x + self.linear2(relu(self.linear1(self.norm2(x))))


def build_adam(net: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=lr, fused=True)


def train_by_index(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int) -> None:
    """Train with the shortest loop: a permutation of the examples per epoch, and batches gathered by index."""
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


def train_by_loader(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int) -> None:
    """Train with the loop of the tutorials, on a DataLoader."""
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
