"""Notices about choices that have no effect in a run."""

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


def test_epochs_next_to_steps():
    assert list_notices("arch=linear", "epochs=3", "steps=7") == ["epochs: steps=7 takes its place"]
    assert list_notices("arch=linear", "epochs=3", "steps=null") == []
