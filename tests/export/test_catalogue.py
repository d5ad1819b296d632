"""Every network of the catalogue gives the same outputs in onnxruntime, with every part that networks are built from."""

import pytest
import torch
from helpers import build_experiment, list_options, write_data_files
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dlopt.config.compose import groups
from dlopt.config.problems import ConfigError
from dlopt.export.build import convert
from dlopt.export.comparison import TOLERANCE, measure_difference
from dlopt.export.onnx_file import DEFAULT_OPSET
from dlopt.training.inference import Predictor

pytestmark = pytest.mark.long

SHAPES = ("[2,12,12]", "[2,12]", "[4]")
"""Shapes of images, series and features; a network is tested on the first that it takes."""
SMALL = {
    "cnn": ["arch.channels=[3,3]", "arch.kernels=[3,2]"],
    "resnet": ["arch.channels=[3,4]", "arch.blocks=1"],
    **{name: ["arch.width=0.05"] for name in ("vgg", "googlenet")},
    **{name: ["arch.width=8"] for name in ("rnn", "gru", "lstm", "transformer")},
}
"""Keys that make a network small."""
BATCH = ("batch_size=16", "device=cpu")
BLOBS = ("data=custom", "data._target_=mine.Blobs")


def load_preprocessing(name):
    return instantiate(OmegaConf.load(groups.CONF / "preprocess" / f"{name}.yaml")[name])


def make_predictor(*overrides):
    """Return the predictor of a network at random weights and running statistics, with each preprocessing fitted."""
    experiment = build_experiment(*BATCH, *overrides)
    generator = torch.Generator().manual_seed(0)
    for name, buffer in experiment.model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2.0, generator=generator)
    steps = [(load_preprocessing(name), values) for name, values in experiment.preprocessing.items()]
    predictor = Predictor(
        experiment.model,
        experiment.loss,
        regularization=tuple(experiment.regularization.values()),
        preprocessing=steps,
        splits={"all": (experiment.test,)},
        encoding=experiment.encoding,
    )
    predictor.w.copy_(experiment.w)
    return predictor


def assert_same_outputs(predictor):
    """Assert that the outputs of an ONNX file are those of the predictor; return the converted network."""
    steps = [str(i) for i in range(len(predictor.preprocessing))]
    network = convert(predictor, "onnx", "scores", steps, DEFAULT_OPSET, TOLERANCE)
    content = network.file.save({}, any_length=network.any_length)
    assert measure_difference(network.file.load(content), network.reference) <= TOLERANCE
    return network


@pytest.mark.parametrize("arch", [name for name in list_options("arch") if name not in ("surface", "quadratic")])
def test_every_network(arch):
    for shape in SHAPES:
        try:
            predictor = make_predictor(*BLOBS, f"+data.shape={shape}", f"arch={arch}", *SMALL.get(arch, ()))
        except ConfigError:  # this network does not take such examples
            continue
        assert_same_outputs(predictor)
        return
    pytest.fail(f"{arch} takes none of the shapes {SHAPES}")


def list_parts():
    """Return networks that together have every activation, normalization of vectors and of series, and preprocessing."""
    parts = [list_options(group) for group in ("activation", "normalization", "preprocess")]
    passes = len(parts[1])
    count = max(2 * passes, *map(len, parts))
    return [("cnn" if i // passes % 2 else "mlp", *(names[i % len(names)] for names in parts)) for i in range(count)]


@pytest.mark.parametrize(("arch", "activation", "normalization", "preprocess"), list_parts())
def test_every_activation_normalization_and_preprocessing(arch, activation, normalization, preprocess):
    sizes = ["arch.widths=[6,6]"] if arch == "mlp" else ["arch.channels=[4,4]", "arch.kernels=[3,2]"]
    sizes += ["normalization.groups=2"] if normalization == "group" else []
    parts = (f"activation={activation}", f"normalization={normalization}", f"preprocess={preprocess}")
    shape = "[6]" if arch == "mlp" else "[2,12]"
    assert_same_outputs(make_predictor(*BLOBS, f"+data.shape={shape}", f"arch={arch}", *sizes, *parts))


TOKENS = ("data=text", "data.length=8")
PER_TOKEN = ("data=characters", "data.length=8", "data.train_size=40")
SERIES = (*BLOBS, "+data.shape=[2,9]")


@pytest.mark.parametrize(
    ("overrides", "any_length"),
    [
        ((*SERIES, "arch=rnn", "arch.bidirectional=true", "arch.layers=2"), True),
        ((*SERIES, "arch=rnn", "activation=relu", "arch.pooling=max"), True),
        ((*SERIES, "arch=rnn", "activation=gelu", "arch.bidirectional=true"), False),
        ((*SERIES, "arch=gru", "arch.bidirectional=true", "arch.pooling=mean"), True),
        ((*SERIES, "arch=lstm", "arch.bidirectional=true", "arch.layers=2", "preprocess=per_channel"), True),
        ((*TOKENS, "arch=lstm", "arch.bidirectional=true"), False),
        ((*TOKENS, "arch=gru", "arch.pooling=max"), True),
        ((*TOKENS, "arch=rnn", "arch.pooling=mean"), True),
        ((*PER_TOKEN, "arch=lstm"), True),
        ((*PER_TOKEN, "arch=transformer", "arch.positions=rotary", "arch.feed_forward=swiglu"), True),
        ((*TOKENS, "arch=transformer", "arch.positions=sinusoidal", "arch.pooling=max"), True),
        ((*TOKENS, "arch=transformer", "arch.causal=true", "normalization=batch", "arch.pooling=last"), True),
        ((*SERIES, "arch=transformer", "arch.positions=none", "activation=gelu"), True),
        (
            (
                *SERIES,
                "arch=vgg",
                "arch.width=0.05",
                "arch.dense=[4]",
                "normalization=layer",
                "regularization=spatial_dropout",
            ),
            True,
        ),
        (
            (
                *SERIES,
                "arch=resnet",
                "arch.channels=[3,4]",
                "arch.blocks=1",
                "arch.shortcut=projection",
                "regularization=stochastic_depth",
            ),
            True,
        ),
        ((*SERIES, "arch=cnn", "preprocess=standardize"), False),
        (
            (
                *BLOBS,
                "arch=mlp",
                "regularization=dropout",
                "regularization.dropout.scale=test",
                "regularization.dropout.input=0.2",
            ),
            None,
        ),
    ],
    ids=lambda value: "-".join(value[-3:]) if isinstance(value, tuple) else str(value),
)
def test_variants_of_networks(overrides, any_length, tmp_path):
    files = write_data_files("text", tmp_path) if "data=text" in overrides else []
    sizes = (
        ["arch.width=8"] if any(f"arch={name}" in overrides for name in ("rnn", "gru", "lstm", "transformer")) else []
    )
    network = assert_same_outputs(make_predictor(*overrides, *files, *sizes))
    assert network.any_length is bool(any_length)
    has_table = "arch=transformer" in overrides and "arch.positions=none" not in overrides  # of positions
    assert network.longest == (network.reference.inputs.shape[-1] if has_table else None)
