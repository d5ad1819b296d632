"""mixup: convex combinations of two examples."""

from dataclasses import dataclass

from torch import Tensor

from dlopt import prng
from dlopt.augmentation._mixing import choose_partners, mix, sample_share
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Positive, Probability


@dataclass(frozen=True)
class Mixup(Augmentation):
    """Mixes each example with another one of the mini-batch, and their targets in the same proportion.

        x' = s x + (1 - s) x_k,   y' = s y + (1 - s) y_k,   s ~ Beta(alpha, alpha)

    k is a random permutation of the mini-batch, so that an example may be its own partner. Classes become
    probabilities, which the loss must take; numbers to predict are mixed as they are.

    alpha   parameter of the distribution of s: small values make s close to 0 or 1, and 1 makes it uniform
    p       probability that an example is mixed; s is 1 otherwise

    s has 16384 equally likely values, the quantiles of the distribution.

    Source: Zhang, Cisse, Dauphin and Lopez-Paz 2018, equation 1; alpha from 0.1 to 0.4 on ImageNet. Each example draws
    its own s, as the equation has it; in the authors' code and in torchvision, a mini-batch shares one.
    """

    alpha: Positive
    p: Probability

    @property
    def mixes(self) -> bool:
        return True

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        share = sample_share(prng.fold_in(key, "share"), self.alpha, self.p, len(inputs), inputs.device)
        order = choose_partners(prng.uniform(prng.fold_in(key, "partner"), (len(inputs),), inputs.device))
        mask = share.to(inputs.dtype).view(-1, *(1,) * (inputs.ndim - 1))
        return mix(inputs, targets, order, mask, share)
