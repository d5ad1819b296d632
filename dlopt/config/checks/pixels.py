"""Check that augmentations of pixel values suit the data, and find how its preprocessing changes a pixel."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dlopt import parts, prng
from dlopt.base.mapped_inputs import Inputs, MappedInputs
from dlopt.base.transforms import PixelScale
from dlopt.config.make_parts import Components
from dlopt.config.problems import Problems

TOLERANCE = 1e-4
"""Largest deviation of an affine map from its values at black and white, relative to their distance."""


def find_pixel_scale(
    components: Components,
    images: Inputs,
    statistics: Mapping[str, Mapping[str, Tensor]],
    problems: Problems,
) -> PixelScale | None:
    """Return the scale of preprocessed pixels, if an augmentation needs it; None if it is that of the images.

    images are the training inputs before the preprocessing; of those in a file, the first are checked. A problem is
    added for each augmentation of pixel values if these are not from 0 to 1, or if the preprocessing is not affine in
    each pixel.
    """
    preprocess = components.several["preprocess"]
    keys = [f"augmentation.{name}" for name, part in components.several["augmentation"].items() if part.uses_pixels]
    keys = [key for key in keys if problems.has_no_problem(key)]
    if not keys:
        return None
    some = next(images.chunks()) if isinstance(images, MappedInputs) else images  # reading a file would take minutes
    low, high = (float(bound) for bound in some.aminmax())
    if low < 0 or high > 1:
        for key in keys:
            wrong = "works on pixel values, which must be from 0 to 1 before the preprocessing"
            problems.add(key, f"{wrong}; these are from {low:.6g} to {high:.6g}: scale them, or leave it out")
        return None
    if not preprocess:
        return None
    scale = fit_scale(images[:1], preprocess, statistics)
    if scale is None:
        for key in keys:
            wrong = f"works on pixel values, and preprocess={','.join(preprocess)} is not a x + b for each pixel"
            problems.add(key, f"{wrong}: use preprocess=per_channel or standardize, or leave it out")
    return scale


def fit_scale(
    like: Tensor, preprocess: Mapping[str, parts.Preprocess], statistics: Mapping[str, Mapping[str, Tensor]]
) -> PixelScale | None:
    """Return the values of black and white after the preprocessing; None unless others lie between them linearly."""
    between = prng.uniform(prng.key(0, "pixels"), tuple(like.shape)).to(like.dtype)
    x = torch.cat([torch.zeros_like(like), torch.ones_like(like), between])
    for name, part in preprocess.items():
        x = part.apply(x, statistics[name])
    if x.shape[1:] != like.shape[1:]:
        return None
    black, white, actual = x
    distance = (white - black).abs()
    is_affine = (actual - torch.lerp(black, white, between[0])).abs() <= TOLERANCE * distance
    return PixelScale(black, white) if bool((is_affine & (distance > 0)).all()) else None
