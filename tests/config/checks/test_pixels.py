"""Augmentations of pixel values see the image without the preprocessing, and are refused for other data."""

import math

import numpy as np
import pytest
import torch
from helpers import assert_build_refused, build_experiment, compose_config
from hydra.utils import instantiate

from dlopt.augmentation.jitter import Jitter
from dlopt.augmentation.mixup import Mixup
from dlopt.augmentation.shift import Shift
from dlopt.base.mapped_inputs import MappedInputs
from dlopt.config.checks.compatibility import check_dims
from dlopt.config.checks.pixels import find_pixel_scale
from dlopt.config.make_parts import Components
from dlopt.config.problems import Problems
from dlopt.parts import Dataset, Split
from dlopt.training.state import TrainState

PIXELS = ("data=custom", "data._target_=mine.Pixels", "arch=mlp", "arch.widths=[4]", "batch_size=16", "threads=1",
          "precision=float64")  # fmt: skip
COLORS = (*PIXELS, "+data.shape=[3,6,6]", "augmentation=[color_jitter,trivial_augment]")


@pytest.mark.parametrize("preprocess", ["per_channel", "standardize", "minmax", "[center,per_channel]", "mean_image"])
def test_preprocessing_and_augmentation_commute(preprocess):
    """Preprocessing after the augmentation of raw pixels gives the batch that training sees."""
    plain, prepared = (build_experiment(*COLORS, f"preprocess={name}") for name in ("none", preprocess))
    assert plain.pixel_scale is None
    expected = TrainState([plain]).next_batch()[0]
    nodes = compose_config(f"preprocess={preprocess}").preprocess
    for name, statistics in prepared.preprocessing.items():
        expected = instantiate(nodes[name]).apply(expected, statistics)
    actual = TrainState([prepared]).next_batch()[0]
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)  # statistics are in float32
    assert not torch.allclose(actual, TrainState([prepared]).batches(0)[0])


def test_each_lane_has_the_scale_of_its_own_training_split():
    """Also after a lane has left."""
    experiments = [build_experiment(*COLORS, "preprocess=per_channel", f"seed={seed}") for seed in range(3)]
    assert not torch.equal(experiments[0].pixel_scale.white, experiments[1].pixel_scale.white)
    lanes = TrainState(experiments)
    together = lanes.next_batch()[0]
    lanes.select_lanes(torch.tensor([2, 0]))
    fewer = lanes.next_batch()[0]
    for i, experiment in enumerate(experiments):
        solo = TrainState([experiment]).next_batch()[0]
        torch.testing.assert_close(together[i], solo, rtol=1e-12, atol=1e-12)
        if i != 1:
            torch.testing.assert_close(fewer[{2: 0, 0: 1}[i]], solo, rtol=1e-12, atol=1e-12)


REFUSED = {
    "preprocessing that mixes pixels": ((*PIXELS, "+data.shape=[1,6,6]", "preprocess=zca", "augmentation=contrast"),
        "augmentation.contrast", "preprocess=zca is not a x + b for each pixel"),
    "values beyond 0 to 1": (("data=custom", "data._target_=mine.Blobs", "arch=mlp", "batch_size=8", "+data.shape=[1,6,6]", "augmentation=brightness"),
        "augmentation.brightness", "must be from 0 to 1 before the preprocessing; these are from -"),
    "colour of gray images": ((*PIXELS, "+data.shape=[1,6,6]", "augmentation=color_jitter"),
        "augmentation.color_jitter.saturation", "needs colours: 3 channels; these images have 1"),
    "two channels": ((*PIXELS, "+data.shape=[2,6,6]", "augmentation=trivial_augment"),
        "augmentation.trivial_augment", "1 or 3 channels; these images have 2"),
    "pictures on features": ((*PIXELS, "augmentation=cutmix"), "augmentation.cutmix", "this data is features"),
    "pictures on series": ((*PIXELS, "+data.shape=[1,8]", "augmentation=random_erasing"), "augmentation.random_erasing", "1-D"),
    "series on pictures": ((*PIXELS, "+data.shape=[1,6,6]", "augmentation=time_mask"), "augmentation.time_mask", "2-D"),
    "a mask longer than the series": ((*PIXELS, "+data.shape=[1,6]", "augmentation=time_mask"), "augmentation.time_mask.most",
        "at most 6, the length of a series, got 8"),
    "a square larger than the image": ((*PIXELS, "+data.shape=[1,3,6]", "augmentation=cutout"), "augmentation.cutout.size", "at most 6"),
    "a reversed interval": ((*PIXELS, "+data.shape=[1,6,6]", "augmentation=scale", "augmentation.scale.low=3"),
        "augmentation.scale.low", "at most high, got 3 and 1.2"),
    "mixed targets for a loss of classes": ((*PIXELS, "augmentation=mixup", "loss=hinge"), "loss", "mixup mixes targets"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_augmentation_is_refused_for_data_that_it_does_not_fit(case):
    overrides, key, words = REFUSED[case]
    assert_build_refused(lambda: build_experiment(*overrides), key, words)


def find_problems(inputs, targets, tokens=None, **augmentation):
    """Return the keys of the augmentations that the data refuse, with the messages."""
    problems = Problems()
    split = Split(inputs, targets)
    check_dims(augmentation, Dataset(split, split, outputs=2, tokens=tokens), problems)
    return dict(problems.errors)


def test_tokens_padding_and_targets_of_steps_refuse_what_would_move_or_mix_them():
    """What keeps each step in its place is accepted."""
    options = {"mixup": Mixup(1.0, 1.0), "shift": Shift(2, "wrap"), "jitter": Jitter(0.1, "value")}
    classes = torch.zeros(4, dtype=torch.int64)
    series = torch.zeros(4, 2, 6)
    padded = series.index_fill(2, torch.tensor([5]), math.nan)
    assert not find_problems(series, classes, **options)
    assert find_problems(padded, classes, **options).keys() == {"augmentation.mixup", "augmentation.shift"}
    steps = find_problems(series, classes[:, None].expand(4, 6), **options)
    assert steps.keys() == {"augmentation.mixup", "augmentation.shift"}
    assert "a target for each step" in steps["augmentation.mixup"]
    tokens = find_problems(torch.ones(4, 6, dtype=torch.int64), classes, tokens=2, **options)
    assert len(tokens) == 3
    assert all("tokens" in message for message in tokens.values())


def test_a_custom_preprocessing_is_undone_by_its_values_of_black_and_white():
    experiment = build_experiment(*PIXELS, "+data.shape=[1,6,6]", "augmentation=brightness", "preprocess=custom",
                                  "preprocess.custom._target_=mine.Negation")  # fmt: skip
    black, white = experiment.pixel_scale
    assert torch.equal(black, torch.zeros(1, 6, 6))
    assert torch.equal(white, -torch.ones(1, 6, 6))


def test_images_in_a_file_have_the_scale_of_images_in_memory():
    """Of uint8 images, which are converted when they are read; the values of the first are checked."""
    pixels = np.random.default_rng(0).integers(256, size=(30, 1, 4, 4), dtype=np.uint8)
    whole = torch.from_numpy(pixels).float() / 255
    mapped = MappedInputs(pixels, lambda examples: torch.from_numpy(examples).float() / 255)
    nodes = compose_config("preprocess=[center,per_channel]", "augmentation=brightness")
    parts = {
        group: {name: instantiate(node) for name, node in nodes[group].items()}
        for group in ("preprocess", "augmentation")
    }
    problems = Problems()
    statistics, x = {}, whole
    for name, part in parts["preprocess"].items():
        statistics[name] = part.fit(x)
        x = part.apply(x, statistics[name])
    components = Components({}, parts, problems)
    scales = [find_pixel_scale(components, images, statistics, problems) for images in (whole, mapped)]
    assert all(map(torch.equal, *scales))
    torch.testing.assert_close(scales[0].from_pixels(whole), x)
    torch.testing.assert_close(scales[0].to_pixels(x), whole)
    assert not problems.errors
    doubled = MappedInputs(pixels, lambda examples: torch.from_numpy(examples).float() / 128)
    assert find_pixel_scale(components, doubled, statistics, problems) is None
    assert dict(problems.errors).keys() == {"augmentation.brightness"}
