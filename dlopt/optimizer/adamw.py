"""Adam with decoupled weight decay."""

from dataclasses import dataclass

from torch import Tensor

from dlopt.linalg.inplace import addcmul_scaled_
from dlopt.optimizer._adam import AdamState, DiagonalAdam, adam_step_
from dlopt.parts import ObjectiveOracle, Step
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class AdamW(DiagonalAdam):
    """Adam with decoupled weight decay.

        m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
        w <- w - lr (m^ / (sqrt(v^) + eps) + weight_decay w)  with  m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t)

    Each weight decays in proportion to its size, whatever the size of its gradient. A penalty (regularization=l2) is
    part of g instead. Divided by sqrt(v^), it hardly affects weights with large gradients. Adam with
    regularization=weight_decay takes the same steps.

    The decay follows the scheduled learning rate, as in torch. The paper scales it by the schedule only, so its lambda
    is lr weight_decay here. Biases and normalization parameters do not decay; torch.optim.AdamW decays them too, unless
    they are in a parameter group of their own. Here optimizer.groups.all.decay=1 makes all parameters decay.

    weight_decay   decay per step, as a multiple of lr

    Source: Loshchilov and Hutter 2019, algorithm 2.
    """

    weight_decay: NonNegative

    def step(self, w: Tensor, state: AdamState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        addcmul_scaled_(w, -(self.lr * self.weight_decay), w, objective.layout.weight_mask(w))
        m, v, t = state
        adam_step_([w], [g], [m], [v], t, lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        return Step(w, state, loss, g)
