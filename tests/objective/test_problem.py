"""The objective against a loss written out by hand, finite differences, and its own other paths, in float64."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import hessian as torch_hessian
from torch.autograd.functional import hvp as torch_hvp

from dlopt import prng
from dlopt.activation.tanh import Tanh
from dlopt.arch.cnn import CNN
from dlopt.arch.mlp import MLP
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.batch import BatchNorm, BatchNormalization
from dlopt.normalization.none import NoNormalization
from dlopt.objective.bound import GRADIENT_KEYS, WEIGHT_KEYS
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.parts import Regularization, StochasticSite
from dlopt.regularization.dropout import Dropout
from dlopt.regularization.l2 import L2

B, CLASSES = 8, 3
P_DROP, STRENGTH = 0.4, 0.3
KEYS = [prng.key(5, "objective", step) for step in range(3)]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@dataclass(frozen=True)
class WeightNoise(Regularization):
    """Multiplies each weight by a random factor."""

    size: float

    def weights(self, w, key, layout):
        return w * (1 + self.size * prng.uniform(key, tuple(w.shape)).to(w.dtype))


@dataclass(frozen=True)
class InputNoise(Regularization):
    """Adds a random number to each input."""

    size: float

    def inputs(self, inputs, key):
        return inputs + self.size * prng.uniform(key, tuple(inputs.shape)).to(inputs.dtype)


@dataclass(frozen=True)
class Faded(Regularization):
    """Multiplies inputs, and what each hidden layer puts out, in inference alone."""

    factor: float

    def inference(self, inputs):
        return inputs * self.factor

    def module(self, site):
        return Fading(self, site)


class Fading(StochasticSite):
    def forward(self, x):
        return x if self.training else x * self.regularization.factor


@dataclass(frozen=True)
class Doubt(Regularization):
    """Moves a share of each target to the next one."""

    share: float

    def targets(self, targets):
        return torch.lerp(targets, targets.roll(1, -1), self.share)


@dataclass(frozen=True)
class Steered(Regularization):
    """Stretches each gradient, and pushes it by as many random numbers as steps are done."""

    stretch: float

    def gradient(self, g, key, step, layout):
        return self.stretch * g + step * prng.uniform(key, tuple(g.shape)).to(g.dtype)


class Same(Regularization):
    """Changes nothing, and thereby sends an evaluation down the functional path."""

    def weights(self, w, key, layout):
        return w


def build(arch="mlp", batch_norm=False, rules=()):
    """A network in float64 with dropout where a rule asks for it, and the weights it was made with."""
    dropout = next((r for r in rules if isinstance(r, (Dropout, Faded))), None)
    parts = (CLASSES, Tanh(), BatchNormalization(1e-5, 0.1) if batch_norm else NoNormalization())
    place = dropout.module if dropout else lambda site: None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if arch == "mlp":
            return MLP((5,), *parts, place, [6, 4], None, None).double()
        return CNN((2, 9), *parts, place, [3, 2], [3, 2], 2, 1).double()


def data(arch="mlp", lanes=None):
    g = torch.Generator().manual_seed(1)
    shape = {"mlp": (5,), "cnn": (2, 9)}[arch]
    lead = () if lanes is None else (lanes,)
    x = torch.randn(*lead, B, *shape, generator=g, dtype=torch.float64)
    return x, torch.randint(CLASSES, (*lead, B), generator=g)


def start(problem, lanes=None):
    g = torch.Generator().manual_seed(2)
    lead = () if lanes is None else (lanes,)
    return torch.randn(*lead, problem.layout.size, generator=g, dtype=torch.float64) * 0.5


def bound(arch="mlp", batch_norm=False, rules=()):
    problem = Problem(build(arch, batch_norm, rules), CrossEntropy([]), rules)
    return problem, problem.bind(start(problem))


def watch_masks(model):
    """What the dropout modules multiply by, as seen in the latest evaluation of the network or of its copies."""
    seen = {}
    for site in (m for m in model.modules() if isinstance(m, StochasticSite)):
        site.register_forward_hook(lambda m, args, out: seen.update({m.index: (out / args[0]).detach()}))
    return seen


def by_hand(model, w, x, y, masks=None, strength=0.0):
    """The loss written out, weights cut from w in order, with (strength / 2) |W|^2 over matrices."""
    at, penalty, site = 0, 0.0, 0

    def take(like):
        nonlocal at
        at += like.numel()
        return w[at - like.numel() : at].view(like.shape)

    for layer in [*model.hidden, None, model.output]:
        if layer is None:
            x = x.flatten(1)
        elif isinstance(layer, nn.Linear):
            weight, bias = take(layer.weight), take(layer.bias)
            x = x @ weight.T + bias
            penalty = penalty + weight.square().sum()
        elif isinstance(layer, nn.Conv1d):
            weight, bias = take(layer.weight), take(layer.bias)
            x = F.conv1d(x, weight, bias, layer.stride, layer.padding)
            penalty = penalty + weight.square().sum()
        elif isinstance(layer, BatchNorm):
            gamma, beta = take(layer.weight), take(layer.bias)
            dims = [0, *range(2, x.ndim)]
            wide = (-1, *(1,) * (x.ndim - 2))
            mean, var = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
            x = (x - mean) / (var + layer.eps).sqrt() * gamma.view(wide) + beta.view(wide)
        elif isinstance(layer, nn.Tanh):
            x = x.tanh()
        elif isinstance(layer, StochasticSite):
            x = x * masks[site]
            site += 1
    assert at == len(w)
    right = x.gather(1, y[:, None]).squeeze(1)
    return (x.logsumexp(1) - right).mean() + 0.5 * strength * penalty


SETTINGS = {
    "plain": (False, ()),
    "l2": (False, (L2(STRENGTH),)),
    "batch norm": (True, ()),
    "dropout": (False, (Dropout(P_DROP, 0.0, "train"),)),
    "all": (True, (L2(STRENGTH), Dropout(P_DROP, 0.0, "train"))),
}
settings = pytest.mark.parametrize("name", SETTINGS)
archs = pytest.mark.parametrize("arch", ["mlp", "cnn"])


def against_hand(arch, name):
    """The objective at w, and the same function of w written out, with the masks that the network drew."""
    batch_norm, rules = SETTINGS[name]
    problem, w = bound(arch, batch_norm, rules)
    x, y = data(arch)
    masks = watch_masks(problem.model)
    objective = MiniBatchObjective(problem, x, y, KEYS[0])
    objective.value(w)
    if any(isinstance(r, Dropout) for r in rules):
        assert len(masks) == 2
        for mask in masks.values():
            torch.testing.assert_close(mask[mask != 0], torch.full_like(mask[mask != 0], 1 / (1 - P_DROP)))
            assert 0 < (mask == 0).sum() < mask.numel()
    fixed = dict(masks)
    strength = STRENGTH if any(isinstance(r, L2) for r in rules) else 0.0
    return objective, w, lambda w: by_hand(problem.model, w, x, y, fixed, strength)


@archs
@settings
def test_value_and_gradient_are_those_of_the_loss_written_out(arch, name):
    objective, w, f = against_hand(arch, name)
    leaf = w.clone().requires_grad_()
    expected = f(leaf)
    loss, g = objective.gradient(w)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(objective.value(w), expected.detach())
    torch.testing.assert_close(g, torch.autograd.grad(expected, leaf)[0])
    assert not loss.requires_grad
    assert not g.requires_grad


@archs
@settings
def test_hessian_and_its_products_are_those_of_the_loss_written_out(arch, name):
    objective, w, f = against_hand(arch, name)
    at = w.clone()
    v = torch.randn_like(w)
    torch.testing.assert_close(objective.hvp(w, v), torch_hvp(f, at, v)[1])
    torch.testing.assert_close(objective.hessian(w), torch_hessian(f, at))


@archs
@settings
def test_gradient_and_curvature_agree_with_central_differences(arch, name):
    objective, w, _ = against_hand(arch, name)
    v = F.normalize(torch.randn_like(w), dim=0)
    h = 1e-5
    slope = (objective.value(w + h * v) - objective.value(w - h * v)) / (2 * h)
    torch.testing.assert_close(objective.gradient(w)[1] @ v, slope, rtol=1e-6, atol=1e-8)
    bend = (objective.gradient(w + h * v)[1] - objective.gradient(w - h * v)[1]) / (2 * h)
    torch.testing.assert_close(objective.hvp(w, v), bend, rtol=1e-5, atol=1e-7)


@settings
def test_the_hessian_is_symmetric_and_its_columns_are_its_products(name):
    objective, w, _ = against_hand("mlp", name)
    h = objective.hessian(w)
    torch.testing.assert_close(h, h.T)
    v = torch.randn_like(w)
    torch.testing.assert_close(h @ v, objective.hvp(w, v))


# ------------------------------------------------------------------------------------------- lanes


def three_runs(arch, batch_norm):
    """One problem of three lanes that differ in weights, data, keys, dropout and penalty; and the three alone."""
    ps, strengths = [0.0, 0.3, 0.7], [0.0, 0.1, 2.0]
    rules = (Dropout(0.5, 0.0, "train"), L2(1.0))
    varying = {(1, "p"): torch.tensor(ps).double(), (2, "strength"): torch.tensor(strengths).double()}
    lanes = Problem(build(arch, batch_norm, rules), CrossEntropy([]), rules, lanes=3, varying=varying)
    alone = []
    for p, strength in zip(ps, strengths, strict=True):
        own = (Dropout(float(torch.tensor(p).double()), 0.0, "train"), L2(strength))
        alone.append(Problem(build(arch, batch_norm, own), CrossEntropy([]), own))
    x, y = data(arch, lanes=3)
    w = start(lanes, lanes=3)
    key = prng.Key(*(torch.tensor(half) for half in zip(*KEYS, strict=True)))
    pairs = []
    for i, problem in enumerate(alone):
        problem.bind(w[i].clone())
        pairs.append((problem, MiniBatchObjective(problem, x[i], y[i], KEYS[i])))
    return lanes, MiniBatchObjective(lanes, x, y, key), w, pairs


lane_cases = pytest.mark.parametrize(("arch", "batch_norm"), [("mlp", False), ("mlp", True), ("cnn", True)])


@lane_cases
def test_lanes_equal_runs_alone(arch, batch_norm):
    _, objective, w, pairs = three_runs(arch, batch_norm)
    v = torch.randn_like(w)
    value, (loss, g) = objective.value(w), objective.gradient(w)
    hv, h = objective.hvp(w, v), objective.hessian(w)
    assert value.shape == loss.shape == (3,)
    assert g.shape == hv.shape == w.shape
    for i, (problem, solo) in enumerate(pairs):
        torch.testing.assert_close(value[i], solo.value(problem.bound_w))
        torch.testing.assert_close(loss[i], solo.gradient(problem.bound_w)[0])
        torch.testing.assert_close(g[i], solo.gradient(problem.bound_w)[1])
        torch.testing.assert_close(hv[i], solo.hvp(problem.bound_w, v[i]))
        torch.testing.assert_close(h[i], solo.hessian(problem.bound_w))
        torch.testing.assert_close(objective.first.loss[i], solo.first.loss)
        torch.testing.assert_close(objective.first.outputs[i], solo.first.outputs)
        for name, seen in solo.first.statistics.items():
            torch.testing.assert_close(objective.first.statistics[name][i], seen)


@lane_cases
def test_lanes_keep_the_running_statistics_and_predictions_of_runs_alone(arch, batch_norm):
    lanes, objective, w, pairs = three_runs(arch, batch_norm)
    objective.gradient(w)
    lanes.update_running_stats(objective.first.statistics)
    x, _ = data(arch, lanes=3)
    outputs = lanes.predict(w, x)
    assert bool(lanes.running) is batch_norm
    for i, (problem, solo) in enumerate(pairs):
        solo.gradient(problem.bound_w)
        problem.update_running_stats(solo.first.statistics)
        for name, kept in problem.running.items():
            torch.testing.assert_close(lanes.running[name][i], kept)
        torch.testing.assert_close(outputs[i], problem.predict(problem.bound_w, x[i]))


def test_masks_in_lanes_are_those_of_runs_alone():
    lanes, objective, w, pairs = three_runs("mlp", False)
    outputs = (objective.value(w), objective.first.outputs)[1]
    for i, (problem, solo) in enumerate(pairs):
        masks = watch_masks(problem.model)
        solo.value(problem.bound_w)
        torch.testing.assert_close(outputs[i], solo.first.outputs)
        dropped = torch.cat([(m == 0).flatten() for m in masks.values()])
        assert dropped.any() == (i > 0)
    assert lanes.regularization == (Dropout(0.5, 0.0, "train"), L2(1.0))
    assert all(
        m.regularization == Dropout(0.5, 0.0, "train") for m in lanes.model.modules() if isinstance(m, StochasticSite)
    )


def test_lanes_that_are_left_are_as_they_were():
    lanes, objective, w, _ = three_runs("mlp", True)
    g = objective.gradient(w)[1]
    lanes.update_running_stats(objective.first.statistics)
    x, y = data(lanes=3)
    outputs = lanes.predict(w, x)
    stay = torch.tensor([0, 2])
    lanes.select_lanes(stay)
    key = prng.Key(*(torch.tensor([KEYS[i][half] for i in stay.tolist()]) for half in range(2)))
    again = MiniBatchObjective(lanes, x[stay], y[stay], key).gradient(w[stay])[1]
    torch.testing.assert_close(again, g[stay])
    torch.testing.assert_close(lanes.predict(w[stay], x[stay]), outputs[stay])


# ------------------------------------------------------------------------------------------- purity


EVERYTHING = (L2(STRENGTH), Dropout(P_DROP, 0.0, "train"))


def test_a_gradient_is_not_overwritten_in_its_step():
    problem, w = bound(batch_norm=True, rules=EVERYTHING)
    x, y = data()
    gradients = []  # of each step the first, with a copy taken at once
    for step in range(6):
        objective = MiniBatchObjective(problem, x, y, prng.key(0, step))
        g = objective.gradient(w)[1]
        gradients.append((g, g.clone()))
        later = [objective.gradient(w + 0.1 * k)[1] for k in range(3)]
        assert len({one.data_ptr() for one in [g, *later]}) == 4
        objective.value(w)
        objective.hvp(w, w)
        objective.gradient(w)
        assert torch.equal(*gradients[-1]), "a later evaluation of the step overwrote its first gradient"
        w -= 0.1 * g


@settings
def test_asking_changes_neither_the_network_nor_the_function(name):
    objective, w, _ = against_hand("mlp", name)
    before = {n: t.clone() for n, t in objective.problem.model.state_dict().items()}
    held, value, (loss, g) = w.clone(), objective.value(w), objective.gradient(w)
    for _ in range(5):
        objective.gradient(w)
        objective.gradient(w + 1.0)
        objective.value(w - 1.0)
        objective.hvp(w, g)
        objective.problem.predict(w, data()[0])
    assert torch.equal(w, held)
    assert torch.equal(objective.value(w), value)
    assert torch.equal(objective.gradient(w)[0], loss)
    assert torch.equal(objective.gradient(w)[1], g)
    after = objective.problem.model.state_dict()
    assert all(torch.equal(after[n], before[n]) for n in before)
    assert all(torch.equal(after[n], b) for n, b in objective.problem.running.items())
    assert all(m.training for m in objective.problem.model.modules())


def test_masks_are_one_for_a_step_and_others_at_the_next():
    problem, w = bound(rules=(Dropout(0.5, 0.0, "train"),))
    masks = watch_masks(problem.model)

    def drawn(objective, ask):
        masks.clear()
        ask(objective)
        return torch.cat([masks[site].flatten() for site in sorted(masks)]) == 0

    first = MiniBatchObjective(problem, *data(), KEYS[0])
    shown = drawn(first, lambda o: o.value(w))
    for ask in (lambda o: o.value(w), lambda o: o.gradient(w), lambda o: o.gradient(w + 1), lambda o: o.value(w - 1)):
        assert torch.equal(drawn(first, ask), shown)
    other = drawn(MiniBatchObjective(problem, *data(), KEYS[1]), lambda o: o.value(w))
    assert not torch.equal(other, shown)
    again = drawn(MiniBatchObjective(problem, *data(), KEYS[0]), lambda o: o.gradient(w))
    assert torch.equal(again, shown)


def test_different_places_have_different_masks():
    rule = Dropout(0.5, 0.0, "train")
    model = MLP((5,), CLASSES, Tanh(), NoNormalization(), rule.module, [50, 50], None, None).double()
    problem = Problem(model, CrossEntropy([]), (rule,))
    masks = watch_masks(model)
    MiniBatchObjective(problem, *data(), KEYS[0]).value(problem.bind(start(problem)))
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("method", ["value", "gradient", "hvp", "hessian"])
def test_first_is_the_first_evaluation(method):
    problem, w = bound(batch_norm=True, rules=(L2(STRENGTH),))
    x, y = data()
    objective = MiniBatchObjective(problem, x, y, KEYS[0])
    assert objective.first is None
    at = w + 0.1
    getattr(objective, method)(*((at, w) if method == "hvp" else (at,)))
    first = objective.first
    for later in (w, w - 0.1):
        objective.value(later)
        objective.gradient(later)
        objective.hvp(later, w)
    assert objective.first is first
    torch.testing.assert_close(first.loss, by_hand(problem.model, at, x, y, strength=0.0))
    torch.testing.assert_close(F.cross_entropy(first.outputs, y), first.loss)
    pre = x @ at[:30].view(6, 5).T + at[30:36]  # what the first hidden layer hands to its normalization
    torch.testing.assert_close(first.statistics["hidden.1.running_mean"], pre.mean(0))
    torch.testing.assert_close(first.statistics["hidden.1.running_var"], pre.var(0))
    assert not any(t.requires_grad for t in (first.loss, first.outputs, *first.statistics.values()))


def test_evaluations_are_counted():
    problem, w = bound(batch_norm=True, rules=EVERYTHING)
    for step in range(2):
        objective = MiniBatchObjective(problem, *data(), KEYS[step])
        objective.value(w)
        objective.value(w + 1)
        objective.gradient(w)
        objective.gradient(w + 1)
        objective.hvp(w, w)
        assert problem.evaluations == 5 * (step + 1)


def test_the_stream_of_a_rule_is_a_function_of_step_and_name():
    problem, _ = bound()
    keys = [MiniBatchObjective(problem, *data(), key).random_key(name) for key in KEYS for name in ("noise", "probe")]
    assert len(set(keys)) == 6
    assert MiniBatchObjective(problem, *data(), KEYS[0]).random_key("noise") == keys[0]


# ------------------------------------------------------------------------------------------- paths


PATHS = {
    **SETTINGS,
    "input noise": (True, (InputNoise(0.5), L2(STRENGTH))),
    "two input noises": (False, (InputNoise(0.5), Dropout(P_DROP, 0.0, "train"), InputNoise(1.0))),
}


@archs
@pytest.mark.parametrize("name", PATHS)
def test_the_bound_path_equals_the_functional_path(arch, name):
    batch_norm, rules = PATHS[name]
    problem, w = bound(arch, batch_norm, rules)
    functional, same = bound(arch, batch_norm, (*rules, Same()))
    one, other = MiniBatchObjective(problem, *data(arch), KEYS[0]), MiniBatchObjective(functional, *data(arch), KEYS[0])
    torch.testing.assert_close(one.gradient(w), other.gradient(same))
    torch.testing.assert_close(one.value(w), other.value(same))
    torch.testing.assert_close(one.first, other.first)
    torch.testing.assert_close(one.hvp(w, w), other.hvp(same, same))


def test_a_rule_that_changes_weights_changes_where_the_gradient_is_taken():
    """With w' = w (1 + n) the chain rule makes the gradient (1 + n) times the one at w'; the penalty sees w itself."""
    rules = (L2(STRENGTH), WeightNoise(0.5))
    problem, w = bound(rules=rules)
    plain, _ = bound()
    objective = MiniBatchObjective(problem, *data(), KEYS[0])
    ratio = rules[1].weights(torch.ones_like(w), prng.fold_in(KEYS[0], WEIGHT_KEYS + 1), problem.layout)
    loss, g = MiniBatchObjective(plain, *data(), KEYS[0]).gradient(w * ratio)
    mask = problem.layout.mask("weight").double()
    torch.testing.assert_close(objective.value(w), loss + 0.5 * STRENGTH * (mask * w * w).sum())
    torch.testing.assert_close(objective.gradient(w)[1], g * ratio + STRENGTH * mask * w)
    torch.testing.assert_close(objective.first.loss, loss)


def test_a_rule_that_changes_inputs_is_training_on_the_changed_inputs():
    rule = InputNoise(0.5)
    problem, w = bound(rules=(rule,))
    plain, at = bound()
    x, y = data()
    objective = MiniBatchObjective(problem, x, y, KEYS[0])
    changed = rule.inputs(x, prng.fold_in(KEYS[0], 0))
    assert not torch.equal(changed, x)
    torch.testing.assert_close(objective.gradient(w), MiniBatchObjective(plain, changed, y, KEYS[0]).gradient(at))
    torch.testing.assert_close(objective.hvp(w, w), MiniBatchObjective(plain, changed, y, KEYS[0]).hvp(at, at))
    torch.testing.assert_close(problem.predict(w, x), plain.predict(at, x))


@pytest.mark.parametrize("rules", [(WeightNoise(0.5),), (InputNoise(0.5),), (InputNoise(0.3), WeightNoise(0.5))])
def test_rules_with_noise_go_through_lanes(rules):
    lanes = Problem(build(rules=rules), CrossEntropy([]), rules, lanes=3)
    x, y = data(lanes=3)
    w = start(lanes, lanes=3)
    key = prng.Key(*(torch.tensor(half) for half in zip(*KEYS, strict=True)))
    loss, g = MiniBatchObjective(lanes, x, y, key).gradient(w)
    for i in range(3):
        solo = Problem(build(rules=rules), CrossEntropy([]), rules)
        at = solo.bind(w[i].clone())
        torch.testing.assert_close((loss[i], g[i]), MiniBatchObjective(solo, x[i], y[i], KEYS[i]).gradient(at))


PUSHED = (L2(STRENGTH), Steered(3.0))


def push(key, size):
    """What Steered adds, behind one other rule, to a gradient of the first step."""
    return prng.uniform(prng.fold_in(key, GRADIENT_KEYS + 1), (size,)).double()


@pytest.mark.parametrize("same", [(), (Same(),)])
def test_a_rule_that_changes_gradients_changes_nothing_else(same):
    """Penalties are in what it is given; all evaluations of a step see one change, and later steps others."""
    problem, w = bound(rules=(*PUSHED, *same))
    plain, at = bound(rules=PUSHED[:1])
    x, y = data()
    for step, key in enumerate(KEYS):
        objective, expected = MiniBatchObjective(problem, x, y, key, step), MiniBatchObjective(plain, x, y, key)
        for trial, here in ((w, at), (w + 1, at + 1), (w, at)):
            loss, g = expected.gradient(here)
            found = objective.gradient(trial)
            torch.testing.assert_close(found, (loss, 3 * g + step * push(key, len(w))))
        torch.testing.assert_close(objective.value(w), expected.value(at))
        torch.testing.assert_close(objective.hvp(w, w), expected.hvp(at, at))
        torch.testing.assert_close(objective.hessian(w), expected.hessian(at))


def test_changed_gradients_in_lanes_are_those_of_runs_alone():
    stretches = [0.0, 1.0, 5.0]
    varying = {(2, "stretch"): torch.tensor(stretches).double()}
    lanes = Problem(build(), CrossEntropy([]), PUSHED, lanes=3, varying=varying)
    x, y = data(lanes=3)
    w = start(lanes, lanes=3)
    key = prng.Key(*(torch.tensor(half) for half in zip(*KEYS, strict=True)))
    objective = MiniBatchObjective(lanes, x, y, key, 2)
    _, g = objective.gradient(w)
    for i, stretch in enumerate(stretches):
        solo, at = bound(rules=(PUSHED[0], Steered(stretch)))
        at.copy_(w[i])
        one = MiniBatchObjective(solo, x[i], y[i], KEYS[i], 2)
        alone = one.gradient(at)[1]
        torch.testing.assert_close(g[i], alone)
        torch.testing.assert_close(objective.raw_gradient(g)[i], one.raw_gradient(alone))


@pytest.mark.parametrize("same", [(), (Same(),)])
def test_the_gradient_before_it_was_changed_is_known_of_the_first_of_a_step(same):
    problem, w = bound(rules=(*PUSHED, *same))
    plain, at = bound(rules=PUSHED[:1])
    for step, key in enumerate(KEYS):
        objective = MiniBatchObjective(problem, *data(), key, step)
        first, later = objective.gradient(w)[1], objective.gradient(w + 1)[1]
        torch.testing.assert_close(
            objective.raw_gradient(first), MiniBatchObjective(plain, *data(), key).gradient(at)[1]
        )
        assert objective.raw_gradient(later) is later
    own = MiniBatchObjective(plain, *data(), KEYS[0])
    g = own.gradient(at)[1]
    assert own.raw_gradient(g) is g


@settings
def test_a_trial_point_is_evaluated_as_if_it_were_home(name):
    batch_norm, rules = SETTINGS[name]
    problem, w = bound("cnn", batch_norm, rules)
    objective = MiniBatchObjective(problem, *data("cnn"), KEYS[0])
    at_home = objective.gradient(w)
    for scale in (0.5, -1.0):
        trial = w * scale
        elsewhere, settled = bound("cnn", batch_norm, rules)
        settled.copy_(trial)
        expected = MiniBatchObjective(elsewhere, *data("cnn"), KEYS[0])
        torch.testing.assert_close(objective.gradient(trial), expected.gradient(settled))
        torch.testing.assert_close(objective.value(trial), expected.value(settled))
    own = torch.cat([p.detach().flatten() for p in problem.model.parameters()])
    assert torch.equal(own, w)
    assert all(torch.equal(a, b) for a, b in zip(objective.gradient(w), at_home, strict=True))


def test_a_step_in_place_is_seen_by_the_network():
    problem, w = bound(batch_norm=True, rules=EVERYTHING)
    objective = MiniBatchObjective(problem, *data(), KEYS[0])
    objective.gradient(w)
    w.add_(0.1 * torch.randn_like(w))
    copy = w.clone()
    torch.testing.assert_close(objective.gradient(w), objective.gradient(copy))
    torch.testing.assert_close(problem.predict(w, data()[0]), problem.predict(copy, data()[0]))


def test_binding_another_vector_makes_it_home():
    problem, w = bound()
    objective = MiniBatchObjective(problem, *data(), KEYS[0])
    expected = objective.gradient(w + 1.0)
    torch.testing.assert_close(objective.gradient(problem.bind(w + 1.0)), expected)


def test_a_problem_can_be_asked_before_it_has_a_home():
    problem, w = bound()
    unbound = MiniBatchObjective(Problem(build(), CrossEntropy([])), *data(), KEYS[0])
    torch.testing.assert_close(unbound.gradient(w.clone()), MiniBatchObjective(problem, *data(), KEYS[0]).gradient(w))


def test_a_weight_that_the_loss_does_not_depend_on_has_gradient_zero():
    class Idle(MLP):
        def __init__(self):
            super().__init__((5,), CLASSES, Tanh(), NoNormalization(), lambda site: None, [4], None, None)
            self.idle = nn.Linear(2, 2)

    problem = Problem(Idle().double(), CrossEntropy([]))
    w = problem.bind(start(problem))
    g = MiniBatchObjective(problem, *data(), KEYS[0]).gradient(w)[1]
    unused = torch.cat([torch.full((p.size,), p.name.startswith("idle")) for p in problem.layout])
    assert (g[unused] == 0).all()
    assert (g[~unused] != 0).any()


# ------------------------------------------------------------------------------------------- inference


def test_inference_drops_nothing_and_uses_the_stored_statistics():
    problem, w = bound(batch_norm=True, rules=EVERYTHING)
    x, y = data()
    for key in KEYS:
        objective = MiniBatchObjective(problem, x, y, key)
        objective.gradient(w)
        problem.update_running_stats(objective.first.statistics)
    out = x
    for i, (start_, width, before) in enumerate([(0, 6, 5), (48, 4, 6)]):
        weight, bias, gamma, beta = w[start_ : start_ + width * (before + 3)].split([width * before, *[width] * 3])
        mean, var = (problem.running[f"hidden.{4 * i + 1}.running_{s}"] for s in ("mean", "var"))
        out = out @ weight.view(width, before).T + bias
        out = ((out - mean) / (var + 1e-5).sqrt() * gamma + beta).tanh()
    out = out @ w[-15:-3].view(3, 4).T + w[-3:]
    for at in (w, w.clone()):
        torch.testing.assert_close(problem.predict(at, x), out)
    halves = torch.cat([problem.predict(w, x[:3]), problem.predict(w, x[3:])])
    torch.testing.assert_close(halves, out)


def test_a_rule_that_changes_targets_is_training_on_the_changed_targets():
    shares = [0.0, 0.25, 0.5]
    varying = {(1, "share"): torch.tensor(shares).double()}
    lanes = Problem(build(), CrossEntropy([]), (Doubt(1.0),), lanes=3, varying=varying)
    x, y = data(lanes=3)
    y = F.one_hot(y, CLASSES).double()
    w = start(lanes, lanes=3)
    key = prng.Key(*(torch.tensor(half) for half in zip(*KEYS, strict=True)))
    together = MiniBatchObjective(lanes, x, y, key).gradient(w)
    for i, share in enumerate(shares):
        problem, at = bound(rules=(Doubt(share),))
        plain, home = bound()
        at.copy_(w[i])
        home.copy_(w[i])
        objective = MiniBatchObjective(problem, x[i], y[i], KEYS[i])
        expected = MiniBatchObjective(plain, x[i], (1 - share) * y[i] + share * y[i].roll(1, 1), KEYS[i])
        torch.testing.assert_close(objective.gradient(at), expected.gradient(home))
        torch.testing.assert_close(objective.value(at), expected.value(home))
        torch.testing.assert_close(objective.hvp(at, at), expected.hvp(home, home))
        torch.testing.assert_close((together[0][i], together[1][i]), expected.gradient(home))
        torch.testing.assert_close(
            problem.losses(problem.predict(at, x[i]), y[i]), by_hand(plain.model, home, x[i], y[i].argmax(1))
        )


def test_a_rule_may_change_what_inference_does_and_leaves_training_as_it_is():
    factors = [0.5, 1.0, 3.0]
    rule = Faded(2.0)
    lanes = Problem(
        build(rules=(rule,)),
        CrossEntropy([]),
        (rule,),
        lanes=3,
        varying={(1, "factor"): torch.tensor(factors).double()},
    )
    x, y = data(lanes=3)
    w = start(lanes, lanes=3)
    together = lanes.predict(w, x)
    assert all(site.regularization is rule for site in lanes.model.modules() if isinstance(site, StochasticSite))
    for i, factor in enumerate(factors):
        plain, at = bound()
        first, second, output = (m for m in plain.model.modules() if isinstance(m, nn.Linear))
        at.copy_(w[i])
        with torch.no_grad():
            out = factor * first(factor * x[i]).tanh()
            expected = output(factor * second(out).tanh())
        solo, home = bound(rules=(Faded(factor),))
        home.copy_(w[i])
        torch.testing.assert_close(solo.predict(home, x[i]), expected)
        torch.testing.assert_close(solo.predict(home.clone(), x[i]), expected)
        torch.testing.assert_close(together[i], expected)
        trained = MiniBatchObjective(solo, x[i], y[i], KEYS[0]).gradient(home)
        torch.testing.assert_close(trained, MiniBatchObjective(plain, x[i], y[i], KEYS[0]).gradient(at))


def test_absorbing_is_one_moving_average():
    problem, w = bound(batch_norm=True)
    name = "hidden.1.running_mean"
    expected = problem.running[name].clone()
    for key in KEYS:
        objective = MiniBatchObjective(problem, *data(), key)
        objective.gradient(w)
        objective.gradient(w + 1)
        seen = objective.first.statistics[name]
        expected = 0.9 * expected + 0.1 * seen
        problem.update_running_stats(objective.first.statistics)
        torch.testing.assert_close(problem.running[name], expected)
        w += 0.1


def test_each_normalization_has_its_own_momentum():
    momenta = (0.1, 0.5, 0.1)
    model = nn.Sequential(*(m for p in momenta for m in (nn.Linear(5, 5), BatchNorm(5, momentum=p)))).double()
    problem = Problem(model, CrossEntropy([]))
    objective = MiniBatchObjective(problem, *data(), KEYS[0])
    objective.gradient(problem.bind(problem.layout.flatten(dict(model.named_parameters())).detach()))
    before = {name: b.clone() for name, b in problem.running.items()}
    problem.update_running_stats(objective.first.statistics)
    for name, seen in objective.first.statistics.items():
        p = momenta[int(name[0]) // 2]
        torch.testing.assert_close(problem.running[name], (1 - p) * before[name] + p * seen)


def test_losses_of_predictions_have_no_penalty():
    problem, w = bound(rules=(L2(STRENGTH),))
    x, y = data()
    torch.testing.assert_close(problem.losses(problem.predict(w, x), y), by_hand(problem.model, w, x, y))
    lanes = Problem(build(rules=(L2(1.0),)), CrossEntropy([]), (L2(1.0),), lanes=3)
    x, y = data(lanes=3)
    outputs = lanes.predict(start(lanes, 3), x)
    expected = torch.stack([F.cross_entropy(outputs[i], y[i]) for i in range(3)])
    torch.testing.assert_close(lanes.losses(outputs, y), expected)


def test_bfloat16_is_near_and_leaves_weights_and_gradient_in_float32():
    model = build().float()
    x, y = data()
    exact, rough = (
        Problem(model, CrossEntropy([])),
        Problem(build().float(), CrossEntropy([]), precision=torch.bfloat16),
    )
    w, at = exact.bind(start(exact).float()), rough.bind(start(exact).float())
    loss, g = MiniBatchObjective(exact, x.float(), y, KEYS[0]).gradient(w)
    near, direction = MiniBatchObjective(rough, x.float(), y, KEYS[0]).gradient(at)
    assert near.dtype == direction.dtype == torch.float32
    assert not torch.equal(near, loss)
    torch.testing.assert_close(near, loss, rtol=2e-2, atol=0)
    assert F.cosine_similarity(g, direction, dim=0) > 0.99
