"""Facts that hold for every option of the group preprocess."""

import numpy as np
import pytest
import torch
from helpers import compose_config, interrupt_run, list_options
from hydra.utils import instantiate
from omegaconf import OmegaConf

from dlopt.config.build import build
from dlopt.config.checks.splits import FittedDataState
from dlopt.config.compose import groups
from dlopt.config.problems import ConfigError

NAMES = [name for name in list_options("preprocess") if name != "none"]
ROTATING = ("whiten", "decorrelate")
"""Options whose features are not those of the inputs: a feature without variance comes last."""
names = pytest.mark.parametrize("name", NAMES)
shapes = pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 4)])


def make(name):
    return instantiate(OmegaConf.load(groups.CONF / "preprocess" / f"{name}.yaml")[name])


def draw(count, shape, dtype=torch.float64):
    torch.manual_seed(0)
    return (torch.randn(count, *shape) * torch.rand(shape) * 9 + torch.randn(shape)).to(dtype)


@names
@shapes
def test_shape_and_type_are_kept_and_an_example_depends_on_the_statistics_only(name, shape):
    for dtype in (torch.float32, torch.float64):
        option, x = make(name), draw(20, shape, dtype)
        before = x.clone()
        statistics = option.fit(x)
        y = option.apply(x, statistics)
        assert (y.shape, y.dtype) == (x.shape, dtype)
        assert torch.equal(x, before)
        assert not torch.equal(y, x)
        assert all(isinstance(v, torch.Tensor) and v.dtype == dtype for v in statistics.values())
    other = draw(30, shape) * 3 + 1
    torch.testing.assert_close(option.apply(other[:1], statistics), option.apply(other, statistics)[:1])


@names
@shapes
@pytest.mark.parametrize("size", [1, 13, 40])
def test_statistics_of_chunks_are_those_of_all_examples(name, shape, size):
    option, x = make(name), draw(100, shape)
    if name in ROTATING:  # the sign of a direction without variance is arbitrary
        x += torch.randn(x.shape, dtype=x.dtype)
    whole, chunked = option.fit(x), option.fit_chunks(x.split(size), x.dtype)
    torch.testing.assert_close(chunked, whole)


@names
@pytest.mark.parametrize(
    ("shape", "dtype", "constant"),
    [((5,), torch.float32, 0.1), ((3, 4, 4), torch.float32, 1e6 / 3), ((2, 7), torch.float64, -3.7e-6)],
)
def test_constants_become_zero_and_other_values_stay_finite(name, shape, dtype, constant):
    option, x = make(name), draw(1000, shape, dtype)
    x[:, 0] = constant  # one feature, or one channel
    statistics = option.fit(x)
    y = option.apply(x, statistics)
    still = y.flatten(1)[:, -x[0, 0].numel() :] if name in ROTATING else y[:, 0]
    torch.testing.assert_close(still, torch.zeros_like(still), rtol=0, atol=abs(constant) * 1e-6 + 1e-12)
    assert option.apply(x + 1.0, statistics).isfinite().all()


@names
@shapes
def test_the_origin_of_each_feature_does_not_matter(name, shape):
    option, x = make(name), draw(50, shape)
    offset = torch.randn(shape[0], *[1] * (len(shape) - 1), dtype=torch.float64)
    one, other = (option.apply(z, option.fit(z)) for z in (x, x + offset))
    torch.testing.assert_close(one, other)


@pytest.fixture
def data(tmp_path):
    """A file of sixty examples of eight numbers in three classes, and its content."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8)) * np.arange(1, 9) + 5, np.arange(60) % 3
    x = x.astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    return tmp_path / "data.npz", x, y


def build_run(path, name, fitted=None):
    overrides = (
        "data=arrays", f"data.path={path}", "arch=mlp", "arch.widths=[4]", "batch_size=8", f"preprocess={name}",
        "data.test_fraction=0.25",
    )  # fmt: skip
    return build(compose_config(*overrides), overrides, fitted)[0]


@names
def test_a_run_fits_its_training_split_stores_the_statistics_and_applies_them_to_other_data(name, data, tmp_path):
    path, x, y = data
    experiment = build_run(path, name)
    statistics = experiment.preprocessing[name]

    def assert_equal(other):
        assert other.keys() == statistics.keys()
        assert all(torch.equal(other[key], value) for key, value in statistics.items())

    training = build_run(path, "none").train.gather()[0].unique(dim=0)
    is_training = [bool((torch.from_numpy(row) == training).all(1).any()) for row in x]
    assert 0 < sum(is_training) < len(x)
    np.savez(path, x=np.where(np.array(is_training)[:, None], x, -7 * x[::-1] + 1000), y=y)
    changed = build_run(path, name)  # with other examples for validation and test
    assert_equal(changed.preprocessing[name])
    for split in ("train", "validation", "test"):
        same = torch.equal(getattr(experiment, split).gather()[0], getattr(changed, split).gather()[0])
        assert same == (split == "train")

    run = interrupt_run(tmp_path / "run", 2, experiment)
    assert_equal(run.latest_checkpoint().content["preprocessing"][name])

    np.savez(path, x=3 * x[:40] - 20, y=y[:40])  # as in `dlopt evaluate --data`
    fitted = FittedDataState(experiment.preprocessing, experiment.encoding, is_other_data=True)
    expected = make(name).apply(torch.from_numpy(3 * x[:40] - 20), statistics)
    assert torch.equal(build_run(path, name, fitted).test.gather()[0], expected)


@pytest.mark.parametrize(
    ("error", "message"), [(ValueError("no room"), "no room"), (RuntimeError("odd"), "fails: RuntimeError: odd")]
)
def test_an_error_of_a_fit_is_a_problem_of_its_key(error, message, data, monkeypatch):
    def fit(self, inputs):
        raise error

    monkeypatch.setattr("dlopt.preprocess.center.Center.fit", fit)
    with pytest.raises(ConfigError) as caught:
        build_run(data[0], "center")
    assert caught.value.problems == [("preprocess.center", message)]


@pytest.mark.parametrize("name", ["center", "mean_image", "minmax", "per_channel", "standardize"])
def test_padding_of_series_stays_and_has_no_influence(name):
    """A feature has the statistics of the examples that reach its step; a channel those of all valid steps."""
    x, lengths = draw(20, (2, 7)), torch.arange(20) % 6 + 1  # no series reaches the last step
    padding = torch.arange(7) >= lengths.unsqueeze(1)
    x = x.masked_fill(padding.unsqueeze(1), torch.nan)
    option = make(name)
    statistics = option.fit(x)
    y = option.apply(x, statistics)
    assert torch.equal(y.isnan(), x.isnan())
    assert all(v.isfinite().all() for v in statistics.values())
    if name == "per_channel":
        steps = x.movedim(1, -1)[~padding]
        torch.testing.assert_close(y.movedim(1, -1)[~padding], option.apply(steps, option.fit(steps)))
        return
    for t in range(6):
        alone = x[lengths > t][..., t : t + 1]
        torch.testing.assert_close(y[lengths > t][..., t : t + 1], option.apply(alone, option.fit(alone)))
