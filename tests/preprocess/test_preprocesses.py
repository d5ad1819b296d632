"""Preprocessing: what holds for every option of the group."""

import numpy as np
import pytest
import torch
from helpers import compose_config, interrupt_run, list_options
from hydra.utils import instantiate

from dlopt.config.build import build
from dlopt.config.checks.splits import FittedDataState
from dlopt.config.problems import ConfigError

NAMES = [name for name in list_options("preprocess") if name != "none"]
ROTATED = ("whiten", "decorrelate")
"""Those whose features are no longer the inputs' own: what does not vary comes last."""
names = pytest.mark.parametrize("name", NAMES)
shapes = pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 4)])


def made_of(name):
    return instantiate(compose_config(f"preprocess={name}").preprocess[name])


def drawn(count, shape, dtype=torch.float64):
    torch.manual_seed(0)
    return (torch.randn(count, *shape) * torch.rand(shape) * 9 + torch.randn(shape)).to(dtype)


@names
@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_and_type_are_kept_and_the_inputs_left_as_they_were(name, shape, dtype):
    part, x = made_of(name), drawn(20, shape, dtype)
    before = x.clone()
    y = part.apply(x, part.fit(x))
    assert y.shape == x.shape
    assert y.dtype == dtype
    assert torch.equal(x, before)
    assert not torch.equal(y, x)


@names
@shapes
def test_an_example_is_transformed_by_the_statistics_alone(name, shape):
    part, x, other = made_of(name), drawn(20, shape), drawn(30, shape) * 3 + 1
    statistics = part.fit(x)
    assert all(isinstance(v, torch.Tensor) and v.dtype == x.dtype for v in statistics.values())
    torch.testing.assert_close(part.apply(other[:1], statistics), part.apply(other, statistics)[:1])


@names
@shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("constant", [0.0, 0.1, -3.7, 1e6 / 3, 1e-6 / 3])
def test_what_does_not_vary_becomes_zero_and_other_values_stay_finite(name, shape, dtype, constant):
    part, x = made_of(name), drawn(1000, shape, dtype)
    x[:, 0] = constant  # one feature, or one channel
    statistics = part.fit(x)
    y = part.apply(x, statistics)
    still = y.flatten(1)[:, -x[0, 0].numel() :] if name in ROTATED else y[:, 0]
    torch.testing.assert_close(still, torch.zeros_like(still), rtol=0, atol=abs(constant) * 1e-6 + 1e-12)
    assert part.apply(x + 1.0, statistics).isfinite().all()


@names
@shapes
def test_the_origin_of_each_feature_does_not_matter(name, shape):
    part, x = made_of(name), drawn(50, shape)
    offset = torch.randn(shape[0], *[1] * (len(shape) - 1), dtype=torch.float64)
    one, other = (part.apply(z, part.fit(z)) for z in (x, x + offset))
    torch.testing.assert_close(one, other)


@pytest.fixture
def file(tmp_path):
    """Sixty examples of eight numbers, three classes, and a place to write them to."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(60, 8)) * np.arange(1, 9) + 5, np.arange(60) % 3
    return tmp_path / "data.npz", x.astype(np.float32), y


def experiment(path, name, fitted=None):
    typed = (
        "data=arrays", f"data.path={path}", "arch=mlp", "arch.widths=[4]", "batch_size=8", f"preprocess={name}",
        "data.test_fraction=0.25",
    )  # fmt: skip
    return build(compose_config(*typed), typed, fitted)[0]


@names
def test_a_run_fits_on_its_training_rows_alone(name, file):
    """Other validation and test examples change nothing of the statistics, nor of the training examples themselves."""
    path, x, y = file
    np.savez(path, x=x, y=y)
    one = experiment(path, name)
    raw = experiment(path, "none")
    training = raw.train.gather()[0].unique(dim=0)
    seen = [bool((torch.from_numpy(row) == training).all(1).any()) for row in x]
    assert 0 < sum(seen) < len(x)
    other = np.where(np.array(seen)[:, None], x, -7 * x[::-1] + 1000)
    np.savez(path, x=other, y=y)
    two = experiment(path, name)
    assert one.preprocessing[name].keys() == two.preprocessing[name].keys()
    for key, value in one.preprocessing[name].items():
        assert torch.equal(two.preprocessing[name][key], value), key
    assert torch.equal(one.train.gather()[0], two.train.gather()[0])
    assert not torch.equal(one.validation.gather()[0], two.validation.gather()[0])
    assert not torch.equal(one.test.gather()[0], two.test.gather()[0])


@names
def test_the_statistics_are_stored_with_the_run_bit_for_bit(name, file, tmp_path):
    path, x, y = file
    np.savez(path, x=x, y=y)
    made = experiment(path, name)
    run = interrupt_run(tmp_path / "run", 2, made)
    kept = run.latest_checkpoint().content["preprocessing"][name]
    assert kept.keys() == made.preprocessing[name].keys()
    assert all(torch.equal(kept[key], value) for key, value in made.preprocessing[name].items())


@names
def test_other_data_are_transformed_by_what_the_run_knows_and_not_fitted_to(name, file, tmp_path):
    """What `dlopt evaluate --data` builds."""
    path, x, y = file
    np.savez(path, x=x, y=y)
    made = experiment(path, name)
    elsewhere = FittedDataState(made.preprocessing, made.encoding, is_other_data=True)
    np.savez(path, x=3 * x[:40] - 20, y=y[:40])
    part, other = made_of(name), experiment(path, name, elsewhere).test
    expected = part.apply(torch.from_numpy(3 * x[:40] - 20), made.preprocessing[name])
    assert torch.equal(other.gather()[0], expected)


@pytest.mark.parametrize(
    ("error", "said"), [(ValueError("no room"), "no room"), (RuntimeError("odd"), "fails: RuntimeError: odd")]
)
def test_one_that_cannot_be_fitted_is_told_at_its_key(error, said, file, monkeypatch):
    path, x, y = file
    np.savez(path, x=x, y=y)

    def fit(self, inputs):
        raise error

    monkeypatch.setattr("dlopt.preprocess.center.Center.fit", fit)
    with pytest.raises(ConfigError) as found:
        experiment(path, "center")
    assert found.value.problems == [("preprocess.center", said)]
