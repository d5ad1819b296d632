"""Handwritten digits as sequences of pixels."""

from dataclasses import dataclass, replace

import torch

from dlopt import prng
from dlopt.data.digits import Digits
from dlopt.parts import Dataset, Split


@dataclass(frozen=True)
class SequentialDigits(Digits):
    """The handwritten digits of data=digits, one pixel at a time: series of 64 numbers in 0..1, ten classes.

    Inputs have shape (1, 64): the rows of an image from top to bottom. The splits are those of data=digits.

    permuted   put the pixels into a random order, the same for all images and every seed: neighbors in the image are
               then far from each other in time
    path       folder for a copy that loads faster; null: dlopt's cache

    Source: Le, Jaitly and Hinton 2015, A simple way to initialize recurrent networks of rectified linear units, section
    4.2, with MNIST; the digits are those of Alpaydin and Kaynak 1998, as they ship with scikit-learn.
    """

    permuted: bool

    def load(self) -> Dataset:
        images = super().load()
        order = torch.arange(64)
        if self.permuted:
            order = torch.randperm(64, generator=prng.generator(prng.key(0, "pixels")))

        def to_series(split: Split) -> Split:
            pixels, digits = split.gather()
            return Split(pixels.flatten(2)[:, :, order], digits)

        return replace(images, train=to_series(images.train), test=to_series(images.test))
