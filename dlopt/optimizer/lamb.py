"""LAMB: layer-wise adaptive moments for large batches."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.linalg.inplace import axpy_
from dlopt.optimizer._adam import AdamHyperparameters, AdamState, adam_step_
from dlopt.optimizer._layerwise import compute_norms, divide_norms, select
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class LAMB(AdamHyperparameters):
    """LAMB: AdamW whose step of each weight tensor has a length of lr times the norm of the weights.

        m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
        u = m^ / (sqrt(v^) + eps) + weight_decay w  with  m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t)
        W <- W - lr (|W| / |U|) U   for each weight tensor W

    Each step changes each tensor by the fraction lr of its norm, whatever the size of its gradients. So one lr suits
    all layers, and with large batches and a warm-up it can be large. The ratio |W| / |U| is the trust ratio; it is 1 if
    either norm is 0. Biases and normalization parameters take the steps of Adam, without ratio and decay.

    lr                learning rate: relative change of each weight tensor per step
    weight_decay      multiple of w in u. It turns the direction of a step, not its length
    bias_correction   false: m and v in place of m^ and v^

    Departures: the paper's phi(|W|) is |W| here, as in the authors' code (tensorflow/addons). Other implementations
    limit |W| to 10. The paper has a ratio for every layer; the code has one for every tensor, and none for tensors that
    it leaves out of the decay. Version 1 of the paper corrects the bias, version 3 does not, and version 5 (ICLR) does,
    where appendix E shows that a warm-up can replace it. The authors' code corrects it, the code of ALBERT does not.

    Source: You, Li, Reddi, Hseu, Kumar, Bhojanapalli, Song, Demmel, Keutzer and Hsieh 2020, algorithm 2.
    """

    weight_decay: NonNegative
    bias_correction: bool

    def step(self, w: Tensor, state: AdamState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, v, t = state
        u = w * -self.weight_decay
        weights, others = objective.layout.partition_weights()
        for p in objective.layout:
            if p.decay != 1.0:
                u[..., p.slice] *= p.decay
        count = t if self.bias_correction else torch.full_like(t, torch.inf)  # at infinity corrections are 1
        adam_step_([u], [g], [m], [v], count, lr=1.0, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        parts, directions = select(w, weights), select(u, weights)
        rates = self.lr * divide_norms(compute_norms(parts, w), compute_norms(directions, w))
        for part, rate, direction in zip(parts, rates.split(1, dim=-1), directions, strict=True):
            axpy_(part, rate, direction)
        for part, direction in zip(select(w, others), select(u, others), strict=True):
            axpy_(part, self.lr, direction)
        return Step(w, state, loss, g)
