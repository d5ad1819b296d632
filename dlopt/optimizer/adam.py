"""Adam."""

from dataclasses import dataclass

from torch import Tensor

from dlopt.optimizer._adam import AdamState, DiagonalAdam, adam_step_
from dlopt.parts import ObjectiveOracle, Step


@dataclass(frozen=True)
class Adam(DiagonalAdam):
    """Adam: bias-corrected moving averages of the gradient and of its square.

        m <- beta1 m + (1 - beta1) g,  v <- beta2 v + (1 - beta2) g^2
        w <- w - lr m^ / (sqrt(v^) + eps)  with  m^ = m / (1 - beta1^t),  v^ = v / (1 - beta2^t),  t = 1, 2, ...

    The corrections remove the bias of m and v towards their initial value, zero. Without them, the first steps are too
    large by a factor of up to 6.6 for the usual betas. eps is added outside the root, as in the paper and in torch.

    Slip: the Georgia Tech lecture defines the corrected moments and then steps by v and G without them, the NYU lecture
    leaves the corrections out, and one of the CMU lecture's slides repeats the line of RMSProp. The KTH lecture
    corrects by 1 - beta^k with k = 0 at the first step, which divides by zero: t counts from 1.

    Source: Kingma and Ba 2015, algorithm 1.
    """

    def step(self, w: Tensor, state: AdamState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        m, v, t = state
        adam_step_([w], [g], [m], [v], t, lr=self.lr, beta1=self.beta1, beta2=self.beta2, eps=self.eps)
        return Step(w, state, loss, g)
