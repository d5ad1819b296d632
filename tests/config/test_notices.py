"""What is said of choices that can be made and change nothing in a run, or little that is wanted."""

import pytest
from helpers import composed

from dlopt.config.build import build


def notices(*overrides: str) -> list[str]:
    return build(composed(*overrides), overrides)[1]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (["arch=linear", "activation=tanh"], ["activation: Linear has no place for it"]),
        (["arch=linear", "activation=elu", "activation.alpha=2"], ["activation: Linear has no place for it"]),
        (["arch=linear", "normalization=layer"], ["normalization: Linear has no place for it"]),
        (["arch=linear", "regularization=[l2,dropout]"], ["regularization.dropout: Linear has no place for it"]),
        (["arch=maxout", "activation=tanh", "regularization=dropout"], ["activation: Maxout has no place for it"]),
        (["arch=linear", "normalization=none", "regularization=none"], []),
        (["arch=linear"], []),
        (["arch=mlp", "activation=tanh", "normalization=batch", "regularization=dropout"], []),
        (["arch=resnet", "activation=tanh", "normalization=batch", "regularization=dropout"], []),
    ],
)
def test_what_a_network_has_no_place_for_is_said(chosen, said):
    assert notices(*chosen) == said


@pytest.mark.parametrize(
    ("chosen", "warned"),
    [
        (["arch=mlp", "normalization=batch"], True),
        (["arch=mlp", "normalization=batch", "data.drop_last=true"], False),
        (["arch=mlp", "normalization=layer"], False),
        (["arch=cnn", "normalization=batch"], False),
    ],
)
def test_statistics_of_a_last_example_alone_are_said(chosen, warned):
    said = notices("data.train_size=30", "batch_size=23", *chosen)  # 24 to train on, 6 held out
    assert [("one example has no variance" in s) for s in said] == [True] * warned


def test_epochs_beside_steps_are_said():
    assert notices("arch=linear", "epochs=3", "steps=7") == ["epochs: steps=7 stands in its place"]
    assert notices("arch=linear", "epochs=3", "steps=null") == []
