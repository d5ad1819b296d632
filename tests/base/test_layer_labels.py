"""Labels of layers: the same with and without normalization and dropout, unique, and names of weights stay."""

import pytest
from helpers import build_blobs, build_experiment, train_runs
from torch import nn

from dlopt.base.layer_labels import label_modules
from dlopt.base.layout import Layout
from dlopt.objective.activation_hooks import find_activations

BETWEEN = ["normalization=batch", "regularization=dropout"]
BARE = ["normalization=none"]


def build(arch, *typed):
    return build_experiment(f"arch={arch}", *typed).model


@pytest.mark.parametrize("arch", ["mlp", "cnn", "maxout", "resnet", "linear"])
def test_layers_and_activations_are_called_the_same_with_and_without_what_is_between_them(arch):
    bare, full = build(arch, *BARE), build(arch, *BETWEEN)
    one, two = Layout.of(bare), Layout.of(full)
    weights = [[x.label(p.name) for p in x if p.kind == "weight"] for x in (one, two)]
    assert weights[0] == weights[1]
    activations = [[x.label(name) for name in find_activations(m)] for x, m in ((one, bare), (two, full))]
    assert activations[0] == activations[1]
    norms = {two.label(p.name).rpartition(".")[0] for p in two if p.kind == "norm"}
    assert norms <= {f"{w.rpartition('.')[0]}.norm" for w in weights[0]}, "as the layer before each"
    shapes = [[p.shape for p in x if p.kind == "weight"] for x in (one, two)]
    assert shapes[0] == shapes[1], "of the same layers"


@pytest.mark.parametrize("typed", [BARE, BETWEEN, [*BETWEEN, "activation=prelu"]], ids=" ".join)
@pytest.mark.parametrize("arch", ["mlp", "cnn", "resnet"])
def test_every_module_has_a_label_of_its_own(arch, typed):
    model = build(arch, *typed)
    labels = label_modules(model)
    assert labels.keys() == dict(model.named_modules()).keys()
    assert len(set(labels.values())) == len(labels)
    layout = Layout.of(model)
    assert len({layout.label(p.name) for p in layout}) == len(layout.parameters)


def test_a_network_by_hand():
    block = nn.Sequential(nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 4))
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4), nn.PReLU(), nn.Flatten(), block)
    assert label_modules(model) == {
        "": "", "0": "0.flatten", "1": "0", "2": "0.norm", "3": "0.activation", "4": "1.flatten", "5": "1",
        "5.0": "1.0.norm", "5.1": "1.0.activation", "5.2": "1.0",
    }  # fmt: skip
    layout = Layout.of(model)
    assert [layout.label(p.name) for p in layout] == [
        "0.weight", "0.norm.weight", "0.norm.bias", "0.activation.weight", "1.0.norm.weight", "1.0.norm.bias",
        "1.0.weight", "1.0.bias",
    ]  # fmt: skip
    assert Layout.of(nn.Linear(2, 2)).label("weight") == "weight"


def test_labels_that_would_not_be_unique_are_the_names():
    odd = nn.Linear(2, 2)
    odd.norm = nn.Linear(2, 2)
    model = nn.Sequential(nn.ReLU(), odd, nn.LayerNorm(2))
    assert label_modules(model) == {}
    layout = Layout.of(model)
    assert [layout.label(p.name) for p in layout] == [p.name for p in layout]


def test_curves_of_runs_with_and_without_normalization_have_the_same_tags(tmp_path):
    shared = []
    for typed in (BARE, BETWEEN):
        experiment = build_blobs("diagnostic=[gradients,activations]", "epochs=1", *typed)
        _, (run,) = train_runs(tmp_path / typed[0], experiment)
        names = {name for name in run.rows()[0] if name.startswith(("gradient/", "update/", "activation/"))}
        shared.append({name for name in names if not name.endswith(".norm")})
    assert shared[0] == shared[1]
    assert {"gradient/norm/hidden.0", "update/ratio/output", "activation/mean/hidden.0"} < shared[0]
