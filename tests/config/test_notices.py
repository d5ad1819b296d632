"""Notices about choices that have no effect in a run."""

import numpy as np
import pytest
from helpers import compose_config

from dlopt.config.build import build


def list_notices(*overrides: str) -> list[str]:
    return build(compose_config(*overrides), overrides)[1]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["arch=linear", "activation=elu", "activation.alpha=2"], ["activation: LinearModel has no place for it"]),
        (
            ["arch=linear", "normalization=layer", "regularization=[l2,dropout]"],
            [f"{key}: LinearModel has no place for it" for key in ("normalization", "regularization.dropout")],
        ),
        (["arch=maxout", "activation=tanh", "regularization=dropout"], ["activation: Maxout has no place for it"]),
        (["arch=linear", "normalization=none", "regularization=none"], []),
        (["arch=resnet", "activation=tanh", "normalization=batch", "regularization=dropout"], []),
    ],
)
def test_components_that_a_network_does_not_use(overrides, expected):
    assert list_notices(*overrides) == expected


KINKS = "{} has no second derivative at its kinks"
RANDOM = "{} keeps its random numbers"


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optimizer=newton"], [KINKS.format("ReLU")]),
        (["optimizer=newton", "activation=tanh"], []),
        (["optimizer=steepest_descent", "linesearch@optimizer.linesearch=exact"], [KINKS.format("ReLU")]),
        (["optimizer=lbfgs"], []),
        (["optimizer=saddle_free_newton", "optimizer.solver=lanczos", "arch=cnn"], [KINKS.format("ReLU")]),
        (["optimizer=newton", "arch=maxout"], [KINKS.format("MaxoutUnits")]),
        (["optimizer=newton", "arch=linear"], []),
        (["optimizer=sam", "optimizer@optimizer.base_optimizer=newton"], [KINKS.format("ReLU")]),
        (["optimizer=newton", "activation=gelu", "regularization=dropout"], [RANDOM.format("dropout")]),
        (
            ["optimizer=newton", "activation=gelu", "regularization=[l2,dropconnect,input_noise,weight_decay]"],
            [RANDOM.format("dropconnect, input_noise")],
        ),
        (["optimizer=torch_optim", "optimizer.name=LBFGS", "regularization=dropout"], ["so LBFGS sees one masked"]),
        (["optimizer=torch_optim", "optimizer.name=Adam", "regularization=dropout"], []),
        (["optimizer=adam", "regularization=[dropout,weight_noise]"], []),
    ],
)
def test_what_optimizers_beyond_first_order_do_not_see(overrides, expected):
    arch = [] if any(o.startswith("arch") for o in overrides) else ["arch=mlp"]
    notices = list_notices(*arch, *overrides)
    assert len(notices) == len(expected)
    for notice, words in zip(notices, expected, strict=True):
        assert notice.startswith("optimizer: ")
        assert words in notice


def test_epochs_next_to_steps():
    assert list_notices("arch=linear", "epochs=3", "steps=7") == ["epochs: steps=7 takes its place"]
    assert list_notices("arch=linear", "epochs=3", "steps=null") == []


@pytest.mark.parametrize(("rare", "overrides", "expected"), [
    (1, [()], []),  # it stays in the training split
    (0, [()], []),
    (1, [("validation.scheme=kfold", "validation.k=2", f"validation.fold={i}") for i in (0, 1)], ["; 1 in the validation split"]),
    (1, [("data.train_size=2", "validation.fraction=0")], [""]),
])  # fmt: skip
def test_classes_that_the_training_split_lacks(rare, overrides, expected, tmp_path):
    labels = ["a"] * 30 + ["b"] * 30 + ["c"] * rare
    np.savez(tmp_path / "my.npz", x=np.random.default_rng(0).normal(size=(len(labels), 2)), y=labels)
    keys = ["data=arrays", f"data.path={tmp_path / 'my.npz'}", "arch=linear", "batch_size=full"]
    notices = [notice for more in overrides for notice in list_notices(*keys, *more)]
    assert notices == [f"data: the training split has no example of c{end}" for end in expected]
