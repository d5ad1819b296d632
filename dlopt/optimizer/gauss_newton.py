"""The Gauss-Newton method."""

from dataclasses import dataclass

from torch import Tensor

from dlopt.optimizer._levenberg_marquardt import DampedModelOptimizer
from dlopt.parts import ObjectiveOracle


@dataclass(frozen=True)
class GaussNewton(DampedModelOptimizer):
    """The damped Gauss-Newton method: Newton's method without the curvature of the network itself.

        w <- w + lr p,   (B + damping I) p = -g,   B = J' H_L J + H_R

    J is the Jacobian of the network's outputs by w, H_L the Hessian of the loss by the outputs, and H_R the Hessian of
    the penalties. If loss and penalties are convex, B is positive semidefinite, and every p is a direction of descent,
    where Newton's method may be drawn to a saddle. With cross entropy or squared error, J' H_L J is the Fisher
    information of the model, up to a factor, so this is also natural gradient descent. It is Newton's method for a
    network that is linear in w. B needs no second derivatives of activations, so ReLU is no restriction. With a loss
    that is linear in the outputs, as on test surfaces, B is H_R, and steps are those of gradient descent with lr /
    damping: use newton there.

    p comes from conjugate gradients on products with B, of one mini-batch, from zero in each step. Martens starts from
    the last p, and ends by the progress of the model: both are left out here, as a step is a function of its own batch.

    lr          factor of the step; 1 is the minimum of the model
    damping     added to the curvature of every direction
    tolerance   cg ends when |(B + damping I) p + g| <= tolerance |g|
    max_iter    largest number of products of cg in a step
    adapt       none, or levenberg_marquardt: compares the fall of the objective with that of the model,
                    rho = (f(w) - f(w + lr p)) / -(lr g'p + lr^2 p'Bp / 2),
                and divides damping by `factor` if rho > 3/4, multiplies it if rho < 1/4, from 1e-10 to 1e10 of the
                configured one. A step to a larger or no finite value is not taken, but for rounding. It costs one
                evaluation more, and one product
    factor      of levenberg_marquardt

    Rows hold optimizer/damping, the mean of what was added.

    Source: Schraudolph 2002, sections 3 and 4; Martens 2010, sections 4.1 and 4.2.
    """

    def multiply(self, objective: ObjectiveOracle, w: Tensor, v: Tensor) -> Tensor:
        return objective.gauss_newton_product(w, v)
