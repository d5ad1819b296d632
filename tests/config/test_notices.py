"""What is said of choices that can be made and change nothing in a run, or little that is wanted."""

import pytest
from helpers import compose_config

from dlopt.config.build import build


def notices(*overrides: str) -> list[str]:
    return build(compose_config(*overrides), overrides)[1]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["arch=linear", "activation=tanh"], ["activation: LinearModel has no place for it"]),
        (["arch=linear", "activation=elu", "activation.alpha=2"], ["activation: LinearModel has no place for it"]),
        (["arch=linear", "normalization=layer"], ["normalization: LinearModel has no place for it"]),
        (["arch=linear", "regularization=[l2,dropout]"], ["regularization.dropout: LinearModel has no place for it"]),
        (["arch=maxout", "activation=tanh", "regularization=dropout"], ["activation: Maxout has no place for it"]),
        (["arch=linear", "normalization=none", "regularization=none"], []),
        (["arch=linear"], []),
        (["arch=mlp", "activation=tanh", "normalization=batch", "regularization=dropout"], []),
        (["arch=resnet", "activation=tanh", "normalization=batch", "regularization=dropout"], []),
    ],
)
def test_what_a_network_has_no_place_for_is_said(chosen, said):
    assert notices(*chosen) == said


def test_epochs_beside_steps_are_said():
    assert notices("arch=linear", "epochs=3", "steps=7") == ["epochs: steps=7 takes its place"]
    assert notices("arch=linear", "epochs=3", "steps=null") == []
