"""Lanes, regularizations and inference: against runs of one lane, and against formulas written out, in float64."""

import pytest
import torch
import torch.nn.functional as F
from objectives import (
    CLASSES,
    EVERYTHING,
    KEYS,
    LANE_KEY,
    STRENGTH,
    InputNoise,
    KeepWeights,
    ScaledInference,
    ShiftedTargets,
    StretchedGradient,
    WeightNoise,
    build_net,
    draw_data,
    evaluate_by_hand,
    make_objective,
    make_problem,
)
from torch import nn

from dlopt import prng
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.batch import BatchNorm
from dlopt.objective.bound import GRADIENT_KEYS, INPUT_KEYS, WEIGHT_KEYS
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.parts import StochasticSite
from dlopt.regularization.dropout import Dropout
from dlopt.regularization.l2 import L2


def ask(problem, x, y, key, *at, step=0):
    return MiniBatchObjective(problem, x, y, key, step).gradient(*at)


# ------------------------------------------------------------------------------------------- lanes


DROPOUT = (lambda p: Dropout(p, 0.0, "train"), "p", [0.0, 0.3, 0.7])
PENALTY = (L2, "strength", [0.0, 0.1, 2.0])
LANES = {
    "mlp": ("mlp", False, (DROPOUT, PENALTY)),
    "batch norm": ("mlp", True, (DROPOUT, PENALTY)),
    "cnn": ("cnn", True, (DROPOUT, PENALTY)),
    "noise": ("mlp", False, ((InputNoise, "size", [0.0, 0.3, 0.5]), (WeightNoise, "size", [0.5, 0.0, 0.3]))),
    "gradients": ("mlp", False, (PENALTY, (StretchedGradient, "stretch", [0.0, 1.0, 5.0]))),
    "targets": ("mlp", False, ((ShiftedTargets, "fraction", [0.0, 0.25, 0.5]),)),
    "inference": ("mlp", False, ((ScaledInference, "factor", [0.5, 1.0, 3.0]),)),
}
"""Networks and regularizations: their classes, and a field with its value in each of three lanes."""


def make_lanes(arch, batch_norm, parts):
    """Return a problem of three lanes that differ in weights, data, keys and hyperparameters; and three single runs."""
    rules = [tuple(make(values[i]) for make, _, values in parts) for i in range(3)]
    varying = {(i, field): torch.tensor(values, dtype=torch.float64) for i, (_, field, values) in enumerate(parts, 1)}
    lanes, w = make_problem(arch, batch_norm, rules[1], lanes=3, varying=varying)
    x, y = draw_data(arch, lanes=3)
    if parts[0][0] is ShiftedTargets:
        y = F.one_hot(y, CLASSES).double()
    singles = []
    for i in range(3):
        problem, _ = make_problem(arch, batch_norm, rules[i], w=w[i])
        singles.append(MiniBatchObjective(problem, x[i], y[i], KEYS[i], 2))
    return MiniBatchObjective(lanes, x, y, LANE_KEY, 2), w, singles


@pytest.mark.parametrize("name", LANES)
def test_lanes_equal_single_runs(name):
    objective, w, singles = make_lanes(*LANES[name])
    lanes, rules = objective.problem, objective.problem.regularization
    v = torch.randn_like(w)
    value, (loss, g) = objective.value(w), objective.gradient(w)
    hv, h, raw = objective.hvp(w, v), objective.hessian(w), objective.raw_gradient(g)
    lanes.update_running_stats(objective.first.statistics)
    outputs = lanes.predict(w, objective.inputs)
    losses = lanes.losses(outputs, objective.targets)
    gnv = objective.gauss_newton_product(w, v)
    assert value.shape == loss.shape == losses.shape == (3,)
    assert g.shape == hv.shape == w.shape
    assert bool(lanes.running) is LANES[name][1]
    close = torch.testing.assert_close
    for i, single in enumerate(singles):
        problem, at = single.problem, single.problem.bound_w
        close(value[i], single.value(at))
        alone = single.gradient(at)
        close((loss[i], g[i], raw[i]), (*alone, single.raw_gradient(alone[1])))
        close(hv[i], single.hvp(at, v[i]))
        close(h[i], single.hessian(at))
        close(gnv[i], single.gauss_newton_product(at, v[i]))
        close(objective.first.loss[i], single.first.loss)
        close(objective.first.outputs[i], single.first.outputs)
        for key, statistic in single.first.statistics.items():
            close(objective.first.statistics[key][i], statistic)
        problem.update_running_stats(single.first.statistics)
        for key, buffer in problem.running.items():
            close(lanes.running[key][i], buffer)
        close(outputs[i], problem.predict(at, single.inputs))
        close(losses[i], problem.losses(outputs[i], single.targets))
    assert lanes.regularization is rules
    assert all(m.regularization is rules[0] for m in lanes.model.modules() if isinstance(m, StochasticSite))


def test_selected_lanes_do_not_change():
    objective, w, _ = make_lanes(*LANES["batch norm"])
    lanes, x, y = objective.problem, objective.inputs, objective.targets
    g = objective.gradient(w)[1]
    lanes.update_running_stats(objective.first.statistics)
    outputs = lanes.predict(w, x)
    stay = torch.tensor([0, 2])
    lanes.select_lanes(stay)
    key = prng.Key(*(half[stay] for half in LANE_KEY))
    torch.testing.assert_close(ask(lanes, x[stay], y[stay], key, w[stay])[1], g[stay])
    torch.testing.assert_close(lanes.predict(w[stay], x[stay]), outputs[stay])


# ------------------------------------------------------------------------------------------- regularizations


def test_noise_on_weights_changes_where_the_gradient_is_taken():
    """With w' = w (1 + n) the gradient is (1 + n) times the gradient at w'; the penalty depends on w itself."""
    rules = (L2(STRENGTH), WeightNoise(0.5))
    problem, w = make_problem(rules=rules)
    objective = make_objective(problem)
    ratio = rules[1].weights(torch.ones_like(w), prng.fold_in(KEYS[0], WEIGHT_KEYS + 1), problem.layout)
    loss, g = make_objective(make_problem()[0]).gradient(w * ratio)
    mask = problem.layout.mask("weight").double()
    torch.testing.assert_close(objective.value(w), loss + 0.5 * STRENGTH * (mask * w * w).sum())
    torch.testing.assert_close(objective.gradient(w)[1], g * ratio + STRENGTH * mask * w)
    torch.testing.assert_close(objective.first.loss, loss)


def test_regularizations_of_inputs_act_in_turn_with_random_numbers_of_their_own():
    rules = (InputNoise(0.5), InputNoise(0.25))
    problem, w = make_problem(rules=rules)
    plain, at = make_problem()
    x, y = draw_data()
    noisy = x
    for i, rule in enumerate(rules):
        noisy = rule.inputs(noisy, prng.fold_in(KEYS[0], INPUT_KEYS + i))
    torch.testing.assert_close(ask(problem, x, y, KEYS[0], w), ask(plain, noisy, y, KEYS[0], at))


def test_noise_on_inputs_is_training_on_the_changed_inputs():
    rule = InputNoise(0.5)
    problem, w = make_problem(rules=(rule,))
    plain, at = make_problem()
    x, y = draw_data()
    changed = rule.inputs(x, prng.fold_in(KEYS[0], 0))
    assert not torch.equal(changed, x)
    objective, expected = make_objective(problem), MiniBatchObjective(plain, changed, y, KEYS[0])
    torch.testing.assert_close(objective.gradient(w), expected.gradient(at))
    torch.testing.assert_close(objective.hvp(w, w), expected.hvp(at, at))
    torch.testing.assert_close(problem.predict(w, x), plain.predict(at, x))


STRETCHED = (L2(STRENGTH), StretchedGradient(3.0))


@pytest.mark.parametrize("more", [(), (KeepWeights(),)])
def test_a_changed_gradient_changes_nothing_else(more):
    """It includes penalties. All evaluations of a step have the same change; the first raw gradient is remembered."""
    problem, w = make_problem(rules=(*STRETCHED, *more))
    plain, at = make_problem(rules=STRETCHED[:1])
    for step, key in enumerate(KEYS):
        objective, expected = make_objective(problem, step), make_objective(plain, step)
        added = step * prng.uniform(prng.fold_in(key, GRADIENT_KEYS + 1), (len(w),)).double()
        gradients = []
        for trial, here in ((w, at), (w + 1, at + 1), (w, at)):
            loss, g = expected.gradient(here)
            gradients.append(objective.gradient(trial))
            torch.testing.assert_close(gradients[-1], (loss, 3 * g + added))
        torch.testing.assert_close(objective.raw_gradient(gradients[0][1]), g)
        assert objective.raw_gradient(gradients[1][1]) is gradients[1][1]
        torch.testing.assert_close(objective.value(w), expected.value(at))
        torch.testing.assert_close(objective.hvp(w, w), expected.hvp(at, at))
        torch.testing.assert_close(objective.hessian(w), expected.hessian(at))
    assert expected.raw_gradient(g) is g


def test_changed_targets_are_the_targets_of_training():
    problem, w = make_problem(rules=(ShiftedTargets(0.25),))
    plain, at = make_problem()
    x, y = draw_data()
    soft = F.one_hot(y, CLASSES).double()
    objective = MiniBatchObjective(problem, x, soft, KEYS[0])
    expected = MiniBatchObjective(plain, x, 0.75 * soft + 0.25 * soft.roll(1, 1), KEYS[0])
    torch.testing.assert_close(objective.gradient(w), expected.gradient(at))
    torch.testing.assert_close(objective.hvp(w, w), expected.hvp(at, at))
    losses = problem.losses(problem.predict(w, x), soft)
    torch.testing.assert_close(losses, evaluate_by_hand(plain.model, at, x, y))


# ------------------------------------------------------------------------------------------- inference


def test_a_regularization_may_change_inference_only():
    plain, at = make_problem()
    first, second, output = (m for m in plain.model.modules() if isinstance(m, nn.Linear))
    x, _ = draw_data()
    with torch.no_grad():
        expected = output(3.0 * second(3.0 * first(3.0 * x).tanh()).tanh())
    problem, w = make_problem(rules=(ScaledInference(3.0),))
    torch.testing.assert_close(problem.predict(w, x), expected)
    torch.testing.assert_close(problem.predict(w.clone(), x), expected)
    torch.testing.assert_close(make_objective(problem).gradient(w), make_objective(plain).gradient(at))


def test_inference_drops_nothing_and_uses_the_running_statistics():
    problem, w = make_problem(batch_norm=True, rules=EVERYTHING)
    x, _ = draw_data()
    for step in range(3):
        objective = make_objective(problem, step)
        objective.gradient(w)
        problem.update_running_stats(objective.first.statistics)
    out = x
    for i, (start, width, before) in enumerate([(0, 6, 5), (48, 4, 6)]):
        weight, bias, gamma, beta = w[start : start + width * (before + 3)].split([width * before, *[width] * 3])
        mean, var = (problem.running[f"hidden.{4 * i + 1}.running_{s}"] for s in ("mean", "var"))
        out = out @ weight.view(width, before).T + bias
        out = ((out - mean) / (var + 1e-5).sqrt() * gamma + beta).tanh()
    out = out @ w[-15:-3].view(3, 4).T + w[-3:]
    for at in (w, w.clone()):
        torch.testing.assert_close(problem.predict(at, x), out)
    torch.testing.assert_close(torch.cat([problem.predict(w, x[:3]), problem.predict(w, x[3:])]), out)


def test_running_statistics_are_moving_averages_with_the_momentum_of_each_normalization():
    momenta = (0.1, 0.5, 0.1)
    model = nn.Sequential(*(m for p in momenta for m in (nn.Linear(5, 5), BatchNorm(5, momentum=p)))).double()
    problem = Problem(model, CrossEntropy([], None))
    w = problem.bind(problem.layout.flatten(dict(model.named_parameters())).detach())
    for step in range(2):
        expected = {name: b.clone() for name, b in problem.running.items()}
        objective = make_objective(problem, step)
        objective.gradient(w)
        objective.gradient(w + 1)
        problem.update_running_stats(objective.first.statistics)
        for name, statistic in objective.first.statistics.items():
            p = momenta[int(name[0]) // 2]
            torch.testing.assert_close(problem.running[name], (1 - p) * expected[name] + p * statistic)
        w += 0.1


def test_losses_of_predictions_have_no_penalty():
    problem, w = make_problem(rules=(L2(STRENGTH),))
    x, y = draw_data()
    torch.testing.assert_close(problem.losses(problem.predict(w, x), y), evaluate_by_hand(problem.model, w, x, y))


def test_bfloat16_is_near_and_leaves_weights_and_gradient_in_float32():
    x, y = draw_data()
    w = make_problem()[1].float()
    exact, rough = (Problem(build_net().float(), CrossEntropy([], None), precision=p) for p in (None, torch.bfloat16))
    loss, g = ask(exact, x.float(), y, KEYS[0], exact.bind(w))
    near, direction = ask(rough, x.float(), y, KEYS[0], rough.bind(w.clone()))
    assert near.dtype == direction.dtype == torch.float32
    assert not torch.equal(near, loss)
    torch.testing.assert_close(near, loss, rtol=2e-2, atol=0)
    assert F.cosine_similarity(g, direction, dim=0) > 0.99
