"""CutMix: a rectangle of another image."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt import prng
from dlopt.augmentation._boxes import place_centers
from dlopt.augmentation._mixing import choose_partners, mix, sample_share
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Positive, Probability


@dataclass(frozen=True)
class CutMix(Augmentation):
    """Replaces a rectangle of each image by the same place of another one, and mixes the targets by area.

        x' = m x + (1 - m) x_k,   y' = mean(m) y + (1 - mean(m)) y_k,   s ~ Beta(alpha, alpha)

    m is 0 in a rectangle of sqrt(1 - s) of the height and width, rounded down to even numbers of pixels, and 1
    elsewhere. Its centre is a uniformly random pixel, so the edges may cut it off: the targets are mixed by its actual
    area. k is a random permutation of the mini-batch, so that an image may be its own partner. Classes become
    probabilities, which the loss must take.

    alpha   parameter of the distribution of s: 1 makes it uniform
    p       probability that an image is changed

    s has 16384 equally likely values, the quantiles of the distribution.

    Source: Yun, Han, Oh, Chun, Choe and Yoo 2019, algorithm A1; alpha 1, and p 0.5 on CIFAR or 1 on ImageNet. Each
    image draws its own s and rectangle; in the paper and in torchvision, a mini-batch shares one.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    alpha: Positive
    p: Probability

    @property
    def mixes(self) -> bool:
        return True

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        rows, columns = inputs.shape[-2:]
        share = sample_share(prng.fold_in(key, "share"), self.alpha, self.p, len(inputs), inputs.device)
        half = (1.0 - share).sqrt() / 2
        height, width = (2 * (half * length).long() for length in (rows, columns))
        boxes = place_centers(prng.fold_in(key, "center"), inputs, height, width)
        order = choose_partners(prng.uniform(prng.fold_in(key, "partner"), (len(inputs),), inputs.device))
        mask = (~boxes.mask((rows, columns))).to(inputs.dtype)
        return mix(inputs, targets, order, mask, mask.mean((1, 2, 3)))
