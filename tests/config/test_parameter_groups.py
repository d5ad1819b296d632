"""Parameter groups: learning rates and decays of their own against torch's param_groups, and frozen parameters."""

import dataclasses

import pytest
import torch
from helpers import (
    DEVICE,
    build_experiment,
    compose_config,
    interrupt_run,
    list_options,
    load_weights,
    resume_run,
    train_runs,
)

from dlopt.base.dotted_fields import find_field, get_field
from dlopt.base.layout import Layout
from dlopt.config.build import build as build_config
from dlopt.config.compose.nested_options import PARAMETER_GROUPS, PARAMETER_KINDS, to_hydra
from dlopt.config.compose.static_config import StaticConfig
from dlopt.config.parameter_groups import MODULE_KINDS, ParameterGroup
from dlopt.config.problems import ConfigError
from dlopt.report.summary import format_parameter_groups
from dlopt.rundir.writer import RunWriter
from dlopt.training.checkpointing import model_state_dict
from dlopt.training.state import TrainState

DATA = ("data=custom", "data._target_=mine.Blobs", "epochs=4", "batch_size=16", "precision=float64", f"device={DEVICE}")
NET = (*DATA, "arch=mlp", "arch.widths=[7,6]", "normalization=layer")
"""Layers hidden.0, hidden.3 and output, with normalizations hidden.1 and hidden.4."""
STEPS = 50


def build(*overrides, **keys):
    """Build an experiment from overrides as they are typed."""
    return build_experiment(*map(to_hydra, (*NET, *overrides)), **keys)


def take_step(training):
    objective, optimizer = training.objective(*training.next_batch()), training.optimizer()
    before = training.w.clone()
    training.apply_step(optimizer.step(training.w, training.state, objective), before, optimizer, objective)


def run_steps(experiment, steps):
    """Return the weights after some steps."""
    training = TrainState([experiment])
    for training.step in range(steps):
        take_step(training)
    return training.w


def train_beside_torch(make, *overrides):
    """Return weights after steps of a run, and of torch's optimizer that `make` returns for its parameters by name."""
    ours, twin = TrainState([build(*overrides)]), TrainState([build()])  # without a penalty
    pieces = {name: p.clone().requires_grad_() for name, p in twin.layout.views(twin.w.clone()).items()}
    theirs = make(pieces)
    for step in range(STEPS):
        ours.step = twin.step = step % ours.steps
        take_step(ours)
        twin.w.copy_(twin.layout.flatten({name: p.detach() for name, p in pieces.items()}))
        _, g = twin.objective(*twin.next_batch()).gradient(twin.w)
        for name, gradient in twin.layout.views(g).items():
            pieces[name].grad = gradient.clone()
        theirs.step()
    return ours.w, ours.layout.flatten({name: p.detach() for name, p in pieces.items()})


def split(pieces, *groups):
    """Return torch's param_groups: keys with a predicate of names; the last group that takes a parameter has it."""
    members = [[] for _ in groups]
    for name, piece in pieces.items():
        members[max(i for i, (takes, _) in enumerate(groups) if takes(name))].append(piece)
    return [{"params": found, **keys} for found, (_, keys) in zip(members, groups, strict=True) if found]


def is_weight(name):
    return name in ("hidden.0.weight", "hidden.3.weight", "output.weight")


def is_norm(name):
    return name.startswith(("hidden.1", "hidden.4"))


CASES = {
    "rates of layers with momentum": (
        ["optimizer=momentum", "optimizer.lr=0.02", "optimizer.groups.output.lr=10", "optimizer.groups.norm.lr=0.5"],
        lambda p: torch.optim.SGD(
            split(p, (bool, {"lr": 0.02}), (lambda n: "output" in n, {"lr": 0.2}), (is_norm, {"lr": 0.01})),
            momentum=0.9,
        ),
    ),
    "decay of all parameters, as torch does": (
        ["optimizer=adamw", "optimizer.weight_decay=0.1", "optimizer.groups.all.decay=1"],
        lambda p: torch.optim.AdamW(p.values(), lr=0.001, weight_decay=0.1),
    ),
    "rates and decays together": (
        [
            "optimizer=adamw", "optimizer.lr=0.01", "optimizer.weight_decay=0.1", "optimizer.groups.bias.decay=2",
            "optimizer.groups.first.match=[hidden.0.weight,hidden.1]", "optimizer.groups.first.lr=0.1",
            "optimizer.groups.first.decay=0.5",
        ],
        lambda p: torch.optim.AdamW(
            split(
                p,
                (is_norm, {"weight_decay": 0.0}),
                (is_weight, {"weight_decay": 0.1}),
                (lambda n: n in ("hidden.0.bias", "hidden.3.bias", "output.bias"), {"weight_decay": 0.2}),
                (lambda n: n == "hidden.0.weight" or n.startswith("hidden.1"), {"weight_decay": 0.05, "lr": 0.001}),
            ),
            lr=0.01,
        ),
    ),
    "decay of a regularization": (
        ["optimizer=adam", "regularization=weight_decay", "regularization.weight_decay.strength=0.1",
         "optimizer.groups.output.decay=3", "optimizer.groups.output.lr=0.5"],
        lambda p: torch.optim.AdamW(
            split(
                p,
                (bool, {"weight_decay": 0.0}),
                (is_weight, {"weight_decay": 0.1}),
                (lambda n: "output" in n, {"weight_decay": 0.3, "lr": 0.0005}),
            ),
            lr=0.001,
        ),
    ),
    "penalty": (
        ["optimizer=sgd", "optimizer.lr=0.1", "regularization=l2", "regularization.l2.strength=0.1",
         "optimizer.groups.all.decay=0.5"],
        lambda p: torch.optim.SGD(p.values(), lr=0.1, weight_decay=0.05),
    ),
    "elastic net, of which the first part is nothing": (
        ["optimizer=sgd", "optimizer.lr=0.1", "regularization=elastic_net", "regularization.elastic_net.l1=0",
         "regularization.elastic_net.l2=0.1", "optimizer.groups.bias.decay=0.5"],
        lambda p: torch.optim.SGD(
            split(
                p,
                (bool, {}),
                (is_weight, {"weight_decay": 0.1}),
                (lambda n: n.endswith("bias") and not is_norm(n), {"weight_decay": 0.05}),
            ),
            lr=0.1,
        ),
    ),
    "layer decay": (
        ["optimizer=rmsprop", "optimizer.groups.all.layer_decay=0.5", "optimizer.groups.bias.lr=3"],
        lambda p: torch.optim.RMSprop(
            [
                {"params": [x], "lr": 0.001 * factor * (3 if n.endswith("bias") and not is_norm(n) else 1)}
                for n, x in p.items()
                for start, factor in (("hidden.0", 0.25), ("hidden.1", 0.25), ("hidden.3", 0.5), ("hidden.4", 0.5), ("output", 1.0))
                if n.startswith(start)
            ],
            alpha=0.9,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_of_torchs_param_groups(name):
    overrides, make = CASES[name]
    ours, theirs = train_beside_torch(make, *overrides)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", list_options("optimizer"))
def test_half_the_decay_of_each_parameter_is_half_the_weight_decay(name):
    keys = ("normalization=none", f"optimizer={name}")
    path = find_field(build(*keys).optimizer, "weight_decay")
    if path is None:
        return
    half = run_steps(build(*keys, f"++optimizer.{path}=0.2", "optimizer.groups.weight.decay=0.5"), 3)
    whole, other = (run_steps(build(*keys, f"++optimizer.{path}={x}"), 3) for x in (0.2, 0.1))
    torch.testing.assert_close(half, other, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(half, whole, rtol=1e-7, atol=0.0)


def get_values(training):
    """Return all parameters and buffers, frozen ones included."""
    return model_state_dict(training, training.w, training.problem.running, 0)


def test_a_frozen_layer_has_the_drawn_values_and_does_not_move(tmp_path):
    """Also its running statistics, after an interruption, and with averaged weights."""
    keys = ("normalization=batch", "init=lsuv", "averaging=swa", "optimizer.groups.hidden.frozen=true", "optimizer.groups.back.match='hidden.3.*'", "optimizer.groups.back.frozen=false")  # fmt: skip
    frozen = [f"hidden.{layer}" for layer in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "4.weight", "4.bias", "4.running_mean", "4.running_var")]  # fmt: skip
    start, plain = get_values(TrainState([build(*keys)])), get_values(TrainState([build(*keys[:3])]))
    assert all(torch.equal(start[name], plain[name]) for name in plain)
    _, (whole,) = train_runs(tmp_path / "whole", build(*keys))
    half = interrupt_run(tmp_path / "half", 3, build(*keys))
    _, half = resume_run(half.path, build(*keys, saved=half.latest_checkpoint().content["model"]))
    assert torch.equal(load_weights(half), load_weights(whole))
    for kind in ("last", "best", "average"):
        after = whole.load(kind)["model"]
        assert {name for name in after if torch.equal(after[name], start[name].cpu())} == set(frozen)


def test_frozen_parameters_leave_the_others_their_steps():
    """A group that does not learn, in place of a frozen one, makes the same steps."""
    (a, _), (b, _) = (
        train_beside_torch(lambda p: torch.optim.SGD(p.values()), "optimizer=adam", f"optimizer.groups.hidden.{key}")
        for key in ("frozen=true", "lr=0")
    )
    torch.testing.assert_close(a, b[-len(a) :], rtol=1e-12, atol=1e-12)


NEUTRAL = (
    "optimizer.groups.all.lr=0.5", "optimizer.groups.weight.lr=1", "optimizer.groups.bias.lr=1",
    "optimizer.groups.weight.decay=1", "optimizer.groups.bias.layer_decay=1",
)  # fmt: skip


@pytest.mark.parametrize("name", list_options("optimizer"))
def test_equal_factors_are_another_rate_and_factors_of_one_change_no_bit(name):
    """An optimizer for which this does not hold refuses rates of groups: it has no rate, or declares scales_with_lr."""
    keys = ("normalization=none", f"optimizer={name}")
    plain = build(*keys)
    try:
        halved = build(*keys, "optimizer.groups.all.lr=0.5")
    except ConfigError as error:
        assert [key for key, _ in error.problems] == ["optimizer.groups.all.lr"]
        return
    w = run_steps(plain, 3)
    assert torch.equal(run_steps(build(*keys, *NEUTRAL), 3), w)
    path = find_field(plain.optimizer, "lr")
    slower = build(*keys, f"++optimizer.{path}={get_field(plain.optimizer, path) / 2}")
    torch.testing.assert_close(run_steps(halved, 3), run_steps(slower, 3), rtol=1e-9, atol=1e-12)


def test_the_step_of_a_parameter_of_factor_one_has_the_same_bits_beside_others():
    plain, grouped = build("optimizer=adam"), build("optimizer=adam", "optimizer.groups.bias.lr=0.3")
    a, b = run_steps(plain, 1), run_steps(grouped, 1)
    same = {p.name: torch.equal(a[p.slice], b[p.slice]) for p in TrainState([plain]).layout}
    assert same == {p.name: p.kind != "bias" for p in TrainState([plain]).layout}


def test_rates_scale_the_inner_optimizer_under_schedules_of_its_keys():
    """Against SAM by hand, whose inner step is that of torch's param_groups; rate and momentum follow schedules."""
    keys = ("optimizer=sam", "optimizer.base_optimizer.lr=0.05", "schedule=linear", "schedules.momentum=linear", "schedules.rho=linear")  # fmt: skip
    ours, twin = TrainState([build(*keys, "optimizer.groups.output.lr=3")]), TrainState([build("optimizer=sgd")])
    w, v = twin.w.clone(), 0.0
    factors = torch.cat([torch.full((p.size,), 3.0 if "output" in p.name else 1.0) for p in twin.layout]).to(w)
    for step in range(6):
        ours.step = twin.step = step
        left = ours.optimizer()
        momentum, rho, lr = (get_field(left, find_field(left, name)) for name in ("momentum", "rho", "lr"))
        assert momentum / 0.9 == pytest.approx(rho / 0.05) == pytest.approx(lr / 0.05)
        assert (lr < 0.05) is (step > 0)
        take_step(ours)
        objective = twin.objective(*twin.next_batch())
        twin.w.copy_(w)
        _, g = objective.gradient(twin.w)
        twin.w.copy_(w + rho * g / g.norm())
        _, g = objective.gradient(twin.w)
        v = momentum * v + g
        w = w - lr * factors * v
    torch.testing.assert_close(ours.w, w, rtol=1e-11, atol=1e-12)


def test_lanes_with_the_same_groups_equal_runs_alone(tmp_path):
    keys = ("optimizer=adamw", "optimizer.groups.output.lr=10", "optimizer.groups.all.decay=1", "regularization=l1")
    runs = [build(*keys, *own) for own in ((), ("optimizer.lr=0.01", "seed=1"))]
    solo = [train_runs(tmp_path / str(i), run)[1][0] for i, run in enumerate(runs)]
    _, lanes = train_runs(tmp_path / "lanes", *runs)
    for one, other in zip(solo, lanes, strict=True):
        torch.testing.assert_close(load_weights(one), load_weights(other), rtol=1e-9, atol=1e-10)
    with pytest.raises(ValueError, match="must agree in network"):
        train_runs(tmp_path / "x", runs[0], build(*keys, "optimizer.groups.output.lr=9"))


@pytest.mark.parametrize("name", ["l1", "elastic_net"])
def test_the_shrinkage_of_a_proximal_penalty_is_scaled_by_its_decay_and_its_rate(name):
    """Beside a run that shrinks nothing, from the same weights: against the formula of the option."""
    strengths = {"l1": ["l1.strength=0.3"], "elastic_net": ["elastic_net.l1=0.3", "elastic_net.l2=2.0"]}[name]
    keys = ("optimizer=sgd", "optimizer.lr=0.1", "optimizer.groups.output.lr=2", "optimizer.groups.bias.decay=0.5")
    rules = [f"regularization.{key}" for key in (*strengths, f"{name}.proximal=true")]
    plain, shrunk = build(*keys), build(*keys, f"regularization={name}", *rules)
    w, result = run_steps(plain, 1), run_steps(shrunk, 1)
    for p in TrainState([plain]).layout:
        rate = 0.1 * {"weight": 1.0, "bias": 0.5, "norm": 0.0}[p.kind] * (2 if "output" in p.name else 1)
        x = w[p.slice].sign() * (w[p.slice].abs() - rate * 0.3).clamp(min=0) / (1 + rate * 2.0 * (name != "l1"))
        torch.testing.assert_close(result[p.slice], x, rtol=1e-12, atol=1e-15)


MATCHES = {
    "all": ("all", lambda name: True),
    "a module": ("hidden", lambda name: name.startswith("hidden")),
    "a pattern": ("'*.3.*'", lambda name: ".3." in name),
    "a pattern of one module": ("'hidden.[13]'", lambda name: name.startswith(("hidden.1", "hidden.3"))),
    "a kind of layer": ("linear", lambda name: not is_norm(name)),
    "several": ("[bias,output]", lambda name: "output" in name or (name.endswith("bias") and not is_norm(name))),
}


@pytest.mark.parametrize("name", MATCHES)
def test_a_group_holds_what_its_patterns_match(name):
    patterns, takes = MATCHES[name]
    experiment = build(f"optimizer.groups.x.match={patterns}", "optimizer.groups.x.lr=0.5")
    assert {p.name for p in Layout.of(experiment.model) if p.factors.lr == 0.5} == {
        p.name for p in Layout.of(experiment.model) if takes(p.name)
    }


def test_the_summary_counts_weights_and_shows_the_least_and_the_largest_factor(tmp_path):
    keys = ("optimizer=adamw", "optimizer.groups.hidden.layer_decay=0.5", "optimizer.groups.norm.frozen=true", "optimizer.groups.output.lr=10", "optimizer.groups.bias.decay=1")  # fmt: skip
    experiment = build(*keys)
    run = RunWriter.create(tmp_path / "run", **experiment.describe_run())
    assert run.status["parameter_groups"] == experiment.parameter_groups
    assert format_parameter_groups(experiment.parameter_groups) == [
        "hidden  109 weights  26 frozen  lr x 0.25 to 0.5  decay x 1",
        "norm     26 weights  frozen",
        "output   21 weights  lr x 10  decay x 1",
        "bias     16 weights  lr x 0.25 to 10  decay x 1",
    ]
    assert build().parameter_groups == []


WRONG = {
    "no match": (["a.match='*.7.*'", "a.lr=1"], "a.match", "hidden.0.weight"),
    "a name that matches nothing": (["outptu.lr=1"], "outptu", "did you mean output?"),
    "one of several patterns": (["a.match=[bias,nothing]", "a.lr=1"], "a.match", "nothing matches no parameter"),
    "no pattern": (["a.match=[]", "a.lr=1"], "a.match", "names no pattern"),
    "a negative factor": (["bias.lr=-1"], "bias.lr", "must be a number >= 0"),
    "a layer decay of zero": (["bias.layer_decay=0"], "bias.layer_decay", "must be a number > 0"),
    "an unknown key": (["bias.lrr=1"], "bias.lrr", "did you mean lr?"),
    "nothing stated": (["a.match=bias"], "a", "lr, decay, frozen or layer_decay"),
    "everything frozen": (["all.frozen=true"], "", "nothing to train"),
    "a value in place of keys": (["bias=2"], "bias", "optimizer.groups.bias.lr=2"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_group_is_refused(name):
    overrides, key, words = WRONG[name]
    with pytest.raises(ConfigError) as error:
        build(*(f"optimizer.groups.{override}" for override in overrides))
    ((place, message),) = error.value.problems
    assert place == f"optimizer.groups.{key}".rstrip(".")
    assert words in message


def test_a_kind_without_parameters_and_a_decay_without_effect_are_noted():
    config = compose_config(*NET, "normalization=none", *map(to_hydra, ("optimizer.groups.norm.decay=1",)))
    notices = build_config(config)[1]
    assert any("no parameter of kind norm" in notice for notice in notices)
    assert any("no weight decays here" in notice for notice in notices)


def test_the_words_for_kinds_are_those_that_completion_offers():
    assert set(MODULE_KINDS) < set(PARAMETER_KINDS)
    keys = StaticConfig({"optimizer.groups.head.lr": "2"}).keys(PARAMETER_GROUPS)
    names = [f.name for f in dataclasses.fields(ParameterGroup)]
    assert [key for key in keys if ".head." in key] == [f"optimizer.groups.head.{name}" for name in names]
    assert {key.split(".")[2] for key in keys} == {"head", *PARAMETER_KINDS}
