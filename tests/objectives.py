"""Networks, data and regularizations for tests of the objective, in float64."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from dlopt import prng
from dlopt.activation.tanh import Tanh
from dlopt.arch.cnn import CNN
from dlopt.arch.mlp import MLP
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.batch import BatchNorm, BatchNormalization
from dlopt.normalization.none import NoNormalization
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.parts import Regularization, StochasticSite
from dlopt.regularization.dropout import Dropout
from dlopt.regularization.l2 import L2

B, CLASSES = 8, 3
STRENGTH = 0.3
DROPOUT = Dropout(0.4, 0.0, "train")
KEYS = [prng.key(5, "objective", step) for step in range(3)]
LANE_KEY = prng.Key(*(torch.tensor(half) for half in zip(*KEYS, strict=True)))
EVERYTHING = (L2(STRENGTH), DROPOUT)
SETTINGS = {
    "plain": (False, ()),
    "l2": (False, (L2(STRENGTH),)),
    "batch norm": (True, ()),
    "dropout": (False, (DROPOUT,)),
    "all": (True, EVERYTHING),
}


@dataclass(frozen=True)
class WeightNoise(Regularization):
    """Multiplies each weight by a random factor."""

    size: float

    def weights(self, w, key, layout):
        return w * (1 + self.size * prng.uniform(key, tuple(w.shape)).to(w.dtype))


@dataclass(frozen=True)
class InputNoise(Regularization):
    """Adds a random number to each input."""

    size: float

    def inputs(self, inputs, key):
        return inputs + self.size * prng.uniform(key, tuple(inputs.shape)).to(inputs.dtype)


@dataclass(frozen=True)
class ScaledInference(Regularization):
    """Multiplies inputs and outputs of hidden layers, only in inference."""

    factor: float

    def inference(self, inputs):
        return inputs * self.factor

    def module(self, site):
        return ScaledSite(self, site)


class ScaledSite(StochasticSite):
    def forward(self, x):
        return x if self.training else x * self.regularization.factor


@dataclass(frozen=True)
class ShiftedTargets(Regularization):
    """Moves a fraction of each target to the next class."""

    fraction: float

    def targets(self, targets):
        return torch.lerp(targets, targets.roll(1, -1), self.fraction)


@dataclass(frozen=True)
class StretchedGradient(Regularization):
    """Stretches each gradient and adds random numbers, multiplied by the number of the step."""

    stretch: float

    def gradient(self, g, key, step, layout):
        return self.stretch * g + step * prng.uniform(key, tuple(g.shape)).to(g.dtype)


class KeepWeights(Regularization):
    """Changes nothing, but selects the functional path."""

    def weights(self, w, key, layout):
        return w


class ListedTargets(CrossEntropy):
    """Draws the targets of a list, in turn."""

    def sample_targets(self, outputs, key):
        return self.metrics.pop(0)


def build_net(arch="mlp", batch_norm=False, rules=()):
    """Return a network, with stochastic sites if a regularization has them, and always the same weights."""
    rule = next((r for r in rules if isinstance(r, (Dropout, ScaledInference))), None)
    parts = (CLASSES, Tanh(), BatchNormalization(1e-5, 0.1) if batch_norm else NoNormalization())
    site = rule.module if rule else lambda site: None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if arch == "mlp":
            return MLP((5,), *parts, site, [6, 4], None, None).double()
        return CNN((2, 9), *parts, site, [3, 2], [3, 2], 2, 1).double()


def draw_data(arch="mlp", lanes=None):
    g = torch.Generator().manual_seed(1)
    lead = () if lanes is None else (lanes,)
    x = torch.randn(*lead, B, *{"mlp": (5,), "cnn": (2, 9)}[arch], generator=g, dtype=torch.float64)
    return x, torch.randint(CLASSES, (*lead, B), generator=g)


def draw_weights(problem):
    g = torch.Generator().manual_seed(2)
    lead = () if problem.lanes is None else (problem.lanes,)
    return torch.randn(*lead, problem.layout.size, generator=g, dtype=torch.float64) * 0.5


def make_problem(arch="mlp", batch_norm=False, rules=(), w=None, **keys):
    """Return a problem and its weights, bound if there is one run."""
    problem = Problem(build_net(arch, batch_norm, rules), CrossEntropy([], None), rules, **keys)
    w = draw_weights(problem) if w is None else w.clone()
    return problem, w if problem.lanes else problem.bind(w)


def make_objective(problem, step=0, arch="mlp"):
    return MiniBatchObjective(problem, *draw_data(arch), KEYS[step], step)


def watch_masks(model):
    """Return a dictionary that receives the factors of each dropout module at each evaluation."""
    masks = {}
    for site in (m for m in model.modules() if isinstance(m, StochasticSite)):
        site.register_forward_hook(lambda m, args, out: masks.update({m.index: (out / args[0]).detach()}))
    return masks


def evaluate_by_hand(model, w, x, y, masks=None, strength=0.0):
    """Return the loss at w plus (strength / 2) |W|^2 over matrices, layer by layer."""
    outputs, pieces = compute_outputs_by_hand(model, w, x, masks)
    return F.cross_entropy(outputs, y) + 0.5 * strength * sum(v.square().sum() for v in pieces if v.ndim > 1)


def compute_outputs_by_hand(model, w, x, masks=None):
    """Return the outputs at w, layer by layer, and the parameters."""
    parameters = list(model.parameters())
    pieces = [v.view(p.shape) for v, p in zip(w.split([p.numel() for p in parameters]), parameters, strict=True)]
    left = iter(pieces)
    for layer in [*model.hidden, nn.Flatten(), model.output]:
        if isinstance(layer, nn.Linear):
            x = F.linear(x, next(left), next(left))
        elif isinstance(layer, nn.Conv1d):
            x = F.conv1d(x, next(left), next(left), layer.stride, layer.padding)
        elif isinstance(layer, BatchNorm):
            x = F.batch_norm(x, None, None, next(left), next(left), training=True, eps=layer.eps)
        elif isinstance(layer, StochasticSite):
            x = x * masks[layer.index]
        else:
            x = layer(x)
    return x, pieces
