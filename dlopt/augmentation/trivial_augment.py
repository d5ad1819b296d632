"""TrivialAugment: one random operation with a random strength for each image."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from dlopt import prng
from dlopt.augmentation import _tones
from dlopt.augmentation._color import blend, check_gray_or_color, to_gray
from dlopt.augmentation._sampling import warp_images
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Range

OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness", "color", "contrast"),
    *("sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
"""The wide set of operations, in torchvision's order."""
MOST_SHEAR, MOST_TRANSLATION, MOST_DEGREES, MOST_BLEND, MOST_BITS = 0.99, 32, 135.0, 0.99, 6


@dataclass(frozen=True)
class TrivialAugment(Augmentation):
    """Changes each image by one of 14 operations, drawn uniformly, with a strength t = 0, 1/(levels - 1), ..., 1.

        identity
        shear_x, shear_y: about the upper left corner, by a tangent of +-0.99 t
        translate_x, translate_y: by +-32 t pixels, rounded towards 0; at most the width or height
        rotate: about the centre, by +-135 t degrees
        brightness, color, contrast, sharpness: clip(f x + (1 - f) z, 0, 1), f = 1 +- 0.99 t
        posterize: keeps 8 - round(6 t) bits
        solarize: inverts values of at least 1 - t, so at t = 0 only white
        autocontrast: maps the range of each channel to 0, ..., 1
        equalize: makes the histogram of each channel nearly uniform

    z is black for brightness, the brightness of each pixel for color, the mean brightness of the image for contrast,
    and the image smoothed by [[1, 1, 1], [1, 5, 1], [1, 1, 1]]/13 for sharpness.

    t and the sign are uniform. x is the image without the preprocessing, from 0 (black) to 1 (white); the result is
    preprocessed again. Data with other values are refused, and preprocessing that mixes pixels or is not affine. Black
    enters at the edges.

    levels   number of strengths

    Needs 1 or 3 channels, else ValueError. All operations are computed for all images, so that no step waits for the
    device: on a CPU this takes a third of a step of the small CNN for MNIST, and two thirds for CIFAR.

    Source: Mueller and Hutter 2021, TrivialAugment (Wide), algorithm 1. The operations and ranges are those of
    torchvision's TrivialAugmentWide, with bilinear interpolation in place of the nearest pixel, and without rounding to
    8 bits except in posterize and equalize.
    """

    dims: ClassVar[tuple[int, ...]] = (2,)
    uses_pixels: ClassVar[bool] = True
    levels: Annotated[int, Range(ge=2)]

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        check_gray_or_color(inputs)
        u = prng.uniform(key, (3, len(inputs)), inputs.device)
        operation = (u[0] * len(OPERATIONS)).long()
        strength = (u[1] * self.levels).floor().to(inputs.dtype) / (self.levels - 1)
        sign = torch.where(u[2] < 0.5, -1.0, 1.0).to(inputs.dtype)
        return apply_operations(inputs, operation, strength, sign), targets


def apply_operations(pixels: Tensor, operation: Tensor, strength: Tensor, sign: Tensor) -> Tensor:
    """Apply to each image its operation, an index of OPERATIONS, with its strength in [0, 1] and its sign, all (B,)."""

    def chosen(*names: str) -> Tensor:
        """Return whether the operation of an image is one of these, (B, 1, 1, 1)."""
        return torch.stack([operation == OPERATIONS.index(name) for name in names]).any(0).view(-1, 1, 1, 1)

    signed = sign * strength
    gray = to_gray(pixels)
    other = torch.where(chosen("color"), gray, torch.zeros_like(pixels))
    other = torch.where(chosen("contrast"), gray.mean((-2, -1), keepdim=True), other)
    other = torch.where(chosen("sharpness"), _tones.smooth(pixels), other)
    results = {
        ("shear_x", "shear_y", "translate_x", "translate_y", "rotate"): _warp(pixels, operation, signed),
        ("brightness", "color", "contrast", "sharpness"): blend(pixels, other, 1.0 + MOST_BLEND * signed),
        ("posterize",): _tones.posterize(pixels, 8.0 - (MOST_BITS * strength).round()),
        ("solarize",): _tones.solarize(pixels, 1.0 - strength),
        ("autocontrast",): _tones.stretch_contrast(pixels),
        ("equalize",): _tones.equalize(pixels),
    }
    for names, result in results.items():
        pixels = torch.where(chosen(*names), result, pixels)
    return pixels


def _warp(pixels: Tensor, operation: Tensor, signed: Tensor) -> Tensor:
    """Shear, translate or rotate each image by its operation; an image with another operation stays."""
    height, width = pixels.shape[-2:]

    def choose(name: str, value: Tensor) -> Tensor:
        return torch.where(operation == OPERATIONS.index(name), value, 0.0)

    angle = choose("rotate", math.radians(MOST_DEGREES) * signed)
    across, down = choose("shear_x", MOST_SHEAR * signed), choose("shear_y", MOST_SHEAR * signed)
    shift_x, shift_y = (
        choose(name, (min(MOST_TRANSLATION, length) * signed).trunc())
        for name, length in (("translate_x", width), ("translate_y", height))
    )
    # at most one of them is not 0; the origin of a shear is the corner
    return warp_images(
        pixels,
        torch.complex(angle.cos(), angle.sin() + (down - across) / 2),
        "zero",
        conjugate=torch.complex(torch.zeros_like(down), (down + across) / 2),
        offset=torch.complex(shift_x + across * height / 2, shift_y + down * width / 2),
    )
