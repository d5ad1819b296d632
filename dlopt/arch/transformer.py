"""Transformers."""

import math
from collections.abc import Callable
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from dlopt.arch._attention import LearnedPositions, Rotary, SelfAttention, SinusoidalPositions, StackedLinear
from dlopt.arch._steps import Pooling, check_shape, make_dropout, normalize_steps, pool_steps, read_steps
from dlopt.errors import OptionError
from dlopt.parts import Activation, Normalization
from dlopt.ranges import Count

Positions = Literal["learned", "rotary", "sinusoidal", "none"]


class Transformer(nn.Module):
    """Blocks of self-attention and feed-forward layers on a sequence, with the normalization before each (pre-norm).

        x <- x + dropout(attention(norm(x))),   x <- x + dropout(feed-forward(norm(x)))
        attention: softmax(q k' / sqrt(d)) v for each of the heads of d = width / heads numbers, then a linear layer

    A token becomes its embedding, and the numbers of a step of a series a linear function of them; then come positions
    and dropout. After the blocks there is a further normalization. A last linear layer maps each step to its outputs,
    or what `pooling` makes of all steps to the outputs of the sequence. Steps of padding get no attention.

    This option selects normalization=layer, over the features of one step, and init=xavier, which draws queries, keys
    and values as matrices of their own. normalization=batch takes the statistics over all steps that are not padding.

    A single run takes the kernel of torch for attention. Lanes, second derivatives and gradients of examples take the
    formula, whose memory grows with the square of the length.

    width          features of each step
    depth          blocks
    heads          heads of the attention; they must divide width
    causal         true: a step sees only itself and the steps before it, as needed to predict the next token; false: it
                   sees all; auto: true if there is a target for each step
    positions      learned: a vector of each step is added; sinusoidal: sines and cosines are added, to embeddings times
                   sqrt(width); rotary: queries and keys are rotated by angles in proportion to their step, so that only
                   distances count; none: without causal, the order of the steps then has no effect
    max_length     largest number of steps with learned positions; null: the length of the data
    feed_forward   activation: linear, the activation, linear; swiglu: (silu(V x) * U x) followed by a linear layer
    hidden         units between the linear layers; null: 4 width, and for swiglu 8/3 width, with as many weights
    pooling        what predicts one target of a sequence: mean or max over its steps, or the last step

    Source: Vaswani et al. 2017, section 3, and 3.5 for sinusoidal; pre-norm: Xiong et al. 2020, table 1, right; rotary:
    Su et al. 2021, equation 34, for pairs of features (i, i + d/2); swiglu: Shazeer 2020, equation 6.
    """

    def __init__(
        self,
        inputs: tuple[int, ...],
        outputs: int,
        tokens: int | None,
        per_step: bool,
        padded: bool,
        activation: Activation,
        normalization: Normalization,
        dropout: Callable[[int], nn.Module | None],
        drop_path: Callable[[int, int], nn.Module | None],
        width: Count,
        depth: Count,
        heads: Count,
        causal: bool | Literal["auto"],
        positions: Positions,
        max_length: Count | None,
        feed_forward: Literal["activation", "swiglu"],
        hidden: Count | None,
        pooling: Pooling,
    ) -> None:
        super().__init__()
        check_shape("transformer", inputs, tokens)
        if width % heads:
            raise OptionError("heads", f"must divide arch.width={width}, got {heads}")
        size, length = width // heads, inputs[-1]
        if positions == "rotary" and size % 2:
            raise OptionError("heads", f"{heads} heads have {size} features each, and rotary positions need even ones")
        if positions == "learned" and max_length is not None and length > max_length:
            wrong = f"is {max_length}, and the data has sequences of up to {length} steps"
            raise OptionError("max_length", f"{wrong}: use arch.max_length={length}, or arch.positions=rotary")
        is_causal = per_step if causal == "auto" else causal
        self.per_step, self.padded, self.pooling = per_step, padded, pooling
        self.embedding = nn.Linear(inputs[0], width) if tokens is None else nn.Embedding(tokens, width)
        self.scale = math.sqrt(width) if positions == "sinusoidal" and tokens is not None else 1.0
        self.positions = _make_positions(positions, max_length or length, length, width)
        self.dropout = make_dropout(dropout, 0)
        rotary = Rotary(length, size) if positions == "rotary" else None
        units = hidden or (4 * width if feed_forward == "activation" else round(8 * width / 3))
        self.blocks = nn.ModuleList()
        for block in range(depth):
            attention = SelfAttention(width, heads, causal=is_causal, rotary=rotary)
            layers: FeedForward | SwiGLU
            layers = SwiGLU(width, units) if feed_forward == "swiglu" else FeedForward(width, units, activation())
            for index, branch in ((2 * block, attention), (2 * block + 1, layers)):
                ends = [make_dropout(dropout, 1 + index), drop_path(index, 2 * depth)]
                self.blocks.append(ResidualBranch(normalization(width, 0), branch, *ends))
        self.norm = normalization(width, 0)
        self.output = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        x, mask = read_steps(inputs, padded=self.padded)
        x = self.embedding(x)
        if self.scale != 1.0:
            x = x * self.scale
        if self.positions is not None:
            x = self.positions(x)
        if self.dropout is not None:
            x = self.dropout(x)
        for branch in self.blocks:
            x = branch(x, mask)
        if self.per_step:
            return self.output(normalize_steps(self.norm, x, mask))
        return self.output(pool_steps(normalize_steps(self.norm, x, mask), mask, self.pooling))


def _make_positions(kind: Positions, most: int, length: int, width: int) -> nn.Module | None:
    """Return the module that adds positions, if they are added."""
    if kind == "learned":
        return LearnedPositions(most, width)
    return SinusoidalPositions(length, width) if kind == "sinusoidal" else None


class ResidualBranch(nn.Module):
    """x + drop_path(dropout(branch(norm(x))))."""

    def __init__(
        self, norm: nn.Module | None, branch: nn.Module, dropout: nn.Module | None, drop_path: nn.Module | None
    ) -> None:
        super().__init__()
        self.norm = norm
        self.branch = branch
        self.dropout = dropout
        self.drop_path = drop_path

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y = self.branch(normalize_steps(self.norm, x, mask), mask)
        for end in (self.dropout, self.drop_path):
            y = y if end is None else end(y)
        return x + y


class FeedForward(nn.Module):
    """Linear, activation, linear, at each step."""

    def __init__(self, width: int, units: int, activation: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(width, units)
        self.activation = activation
        self.second = nn.Linear(units, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        h = self.activation(self.first(x).mT).mT  # diagnostics take the second dimension for the units
        return self.second(h)


class SwiGLU(nn.Module):
    """W (silu(V x) * U x), at each step."""

    def __init__(self, width: int, units: int) -> None:
        super().__init__()
        self.first = StackedLinear(width, units, 2)
        self.second = nn.Linear(units, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        gate, value = self.first(x).chunk(2, -1)
        return self.second(F.silu(gate) * value)
