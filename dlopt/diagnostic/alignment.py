"""Predicted and measured change of the objective by a step."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt.parts import Diagnostic, StepRecord


@dataclass(frozen=True)
class Alignment(Diagnostic):
    """Predicted and measured change of the objective by the step d that was taken, on the mini-batch of the step.

        alignment/predicted         g'd + d'Hd / 2, the change of the quadratic model
        alignment/measured          f(w + d) - f(w)
        alignment/alpha             the place of the step on the local parabola
        alignment/gg                g'g
        alignment/gHg               g'Hg
        alignment/ill_conditioned   1 if lr g'Hg / 2 >= g'g, else 0; only for optimizers with a learning rate

    g and H are gradient and Hessian at the iterate before the step, of loss and penalties, with the same masks at both
    ends. d includes clipping, momentum and everything else that moves the weights.

    alpha tells where the step ends on the parabola q(t) = c + b t + a t^2 along w + t d that fits f and its slope m at
    both ends best, in the sense of least squares of f_0 - q(0), f_1 - q(1), m_0 - q'(0) and m_1 - q'(1):

        alpha = 1 / t* - 1 = -2 a / b - 1,  t* = -b / (2 a) the minimum of q

    It is -1 for no step, 0 for a step to the minimum, and 1 for one across the valley to the height of the start. Below
    -1, the parabola opens downwards or the step leads uphill. Above it, the step may lead uphill to a maximum. Cockpit
    weights the four terms by the inverse of their variances over examples; without noise all weights are equal, as
    here. The two agree if f is quadratic.

    Ill-conditioning: a step -lr g raises the quadratic model by lr^2 g'Hg / 2 - lr g'g, so it goes up once lr g'Hg / 2
    exceeds g'g, however small the gradient is. Then lr must shrink as the curvature grows. The flag judges gradient
    descent with this lr, not a step that Adam takes. It is NaN if g'Hg is not finite.

    In float32, a change much smaller than 1e-7 of the loss drowns in rounding.

    Cost: two gradients and two Hessian products per measurement.

    Measured on one core: 15 ms and 96 ms, 1.3% and 1.2% of a run with the defaults (CNN of MNIST-1D, MLP of 1.9
    million weights).

    Source: Schneider, Dangel and Hennig 2021, Cockpit, for alpha; Goodfellow, Bengio and Courville 2016, equation 8.10,
    for the flag.
    """

    uses_curvature = True

    def measure(self, record: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        oracle, w, d = record.objective, record.before, record.after - record.before
        f_0, g = oracle.true_gradient(w)
        f_1, g_1 = oracle.true_gradient(record.after)
        m_0, m_1 = _dot(g, d), _dot(g_1, d)
        gg, ghg = _dot(g, g), _dot(g, oracle.hvp(w, g))
        tags = {
            "alignment/predicted": m_0 + _dot(d, oracle.hvp(w, d)) / 2,
            "alignment/measured": f_1 - f_0,
            "alignment/alpha": _compute_alpha(f_1 - f_0, m_0, m_1),
            "alignment/gg": gg,
            "alignment/gHg": ghg,
        }
        lr = record.lr.squeeze(-1) if isinstance(record.lr, Tensor) else record.lr
        if isinstance(lr, Tensor) or not math.isnan(lr):  # NaN for optimizers without a learning rate
            tags["alignment/ill_conditioned"] = (lr * ghg / 2 >= gg).to(w.dtype).where(ghg.isfinite(), torch.nan)
        return tags, None


def _compute_alpha(change: Tensor, m_0: Tensor, m_1: Tensor) -> Tensor:
    """Return alpha from f_1 - f_0 and the slopes at both ends, in closed form; -1 if the step is zero.

    The residuals of f_0 and f_1 are opposite, since c is free. So the others determine a and b: minimize
    (change - a - b)^2 / 2 + (m_0 - b)^2 + (m_1 - b - 2 a)^2.
    """
    # Normal equations: 9 a + 5 b = change + 4 m_1,  5 a + 5 b = change + 2 m_0 + 2 m_1.
    a = (m_1 - m_0) / 2
    b = (change + 2 * m_0 + 2 * m_1) / 5 - a
    return torch.where((a == 0) & (b == 0), -1.0, -2 * a / b - 1)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1)
