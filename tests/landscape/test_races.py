"""Races: paths and their ends against plain loops, tuning against brute force, and the words of the command."""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import build_experiment

from dlopt.config.problems import ConfigError
from dlopt.landscape import arguments, budget, race
from dlopt.landscape.entrants import build_entrants
from dlopt.landscape.grid import make_grid
from dlopt.landscape.race import Landmarks, Track, judge, run_tracks, sample_starts, start_at
from dlopt.landscape.statuses import STATUSES
from dlopt.landscape.tuning import tune

SOLID = ("newton.solver=dense", "newton.damping=0", "newton.adapt=none")


def build(*words):
    entrants, _ = build_entrants(arguments.parse(words), [])
    return next(iter(entrants.values()))


def descend(gradient, start, lr, steps):
    """Return the path of gradient descent, in numpy."""
    path = [np.array(start)]
    for _ in range(steps):
        path.append(path[-1] - lr * gradient(path[-1]))
    return np.array(path)


def slope_ravine(w):
    return np.array([20.0, 1.0]) * w


def test_a_path_is_that_of_a_plain_loop():
    (track,) = run_tracks([build("surface=ravine", "optimizer=sgd", "sgd.lr=0.09", "steps=40", "start=[1,-2]")])
    path = descend(slope_ravine, [1.0, -2.0], 0.09, 40)
    np.testing.assert_allclose(track.w, path, rtol=1e-12)
    np.testing.assert_allclose(track.f, 10 * path[:, 0] ** 2 + path[:, 1] ** 2 / 2, rtol=1e-12)
    assert track.evaluations.tolist() == list(range(41))
    assert track.ending == "steps"


@pytest.mark.parametrize("optimizer", ["momentum", "rmsprop", "newton", "saddle_free_newton", "lion"])
def test_lanes_are_single_paths(optimizer):
    experiment = build("surface=himmelblau", f"optimizer={optimizer}", "steps=12")
    starts = sample_starts(experiment, 4)
    lanes = run_tracks(start_at(experiment, starts))
    for lane, single in zip(lanes, (run_tracks([e])[0] for e in start_at(experiment, starts)), strict=True):
        torch.testing.assert_close(lane.w, single.w, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["newton", "lbfgs"])
def test_evaluations_of_several_starts_are_those_of_each(optimizer):
    """In lanes, one that needs few of them would wait for the others, and count theirs."""
    experiment = build("surface=rosenbrock", f"optimizer={optimizer}", "steps=15")
    starts = torch.tensor([[1.0, 1.0001], [-1.2, 1.0]], dtype=torch.float64)
    together = run_tracks(start_at(experiment, starts))
    for track, single in zip(together, start_at(experiment, starts), strict=True):
        assert track.evaluations.tolist() == run_tracks([single])[0].evaluations.tolist()


def test_an_optimizer_without_lanes_runs_start_by_start():
    experiment = build(
        "surface=booth", "optimizer=torch_optim", "torch_optim.name=SGD", "torch_optim.lr=0.02", "steps=9"
    )
    assert not experiment.optimizer.lanes
    tracks = run_tracks(start_at(experiment, sample_starts(experiment, 2)))
    for track in tracks:
        path = descend(lambda w: np.array([[10, 8], [8, 10]]) @ w - [34, 38], track.w[0].tolist(), 0.02, 9)
        np.testing.assert_allclose(track.w, path, rtol=1e-9)


def test_a_lane_that_diverges_leaves_the_others_alone():
    experiment = build("surface=ravine", "optimizer=sgd", "steps=60")
    lrs = (0.05, 1.0, 0.09)
    entrants = [
        dataclasses.replace(experiment, optimizer=dataclasses.replace(experiment.optimizer, lr=lr)) for lr in lrs
    ]
    calm, wild, last = run_tracks(entrants)
    assert wild.ending == "far"
    assert judge(wild, Landmarks.of(experiment)).status == "diverged"
    assert len(wild.f) < 20
    for track, lr in ((calm, 0.05), (last, 0.09)):
        np.testing.assert_allclose(track.w, descend(slope_ravine, [1.0, 9.0], lr, 60), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("words", "status"), [
    (("surface=booth", "optimizer=newton", *SOLID), "converged"),
    (("surface=saddle", "optimizer=newton", *SOLID), "at a saddle point"),
    (("surface=saddle", "optimizer=saddle_free_newton"), "left the saddle"),
    (("surface=monkey_saddle", "optimizer=sgd", "sgd.lr=0.05"), "left the saddle"),
    (("surface=long_valley", "optimizer=sgd", "start=[0,1]"), "at a saddle point"),
    (("surface=himmelblau", "optimizer=newton", *SOLID), "at rest"),  # at the maximum
    (("surface=rosenbrock", "optimizer=sgd", "sgd.lr=0.1"), "diverged"),
    (("surface=rosenbrock", "optimizer=sgd", "sgd.lr=0.001"), "not converged"),
    (("surface=ravine", "optimizer=sgd", "sgd.lr=0.102"), "growing"),
])  # fmt: skip
def test_the_end_of_a_path_is_named(words, status):
    experiment = build(*words, "steps=120")
    (track,) = run_tracks([experiment])
    found = judge(track, Landmarks.of(experiment)).status
    assert found == status
    assert found in STATUSES


def test_newton_needs_one_step_for_a_quadratic_and_its_hessian_counts_as_two_products():
    experiment = build("surface=booth", "optimizer=newton", *SOLID)
    outcome = judge(run_tracks([experiment])[0], Landmarks.of(experiment))
    assert (outcome.steps, outcome.evaluations) == (1, 3)
    assert outcome.distance < 1e-10


def test_a_path_that_only_passes_the_minimum_has_not_reached_it():
    landmarks = Landmarks(torch.zeros(1, 1), 0.0, torch.zeros(0, 1), None)

    def judge_values(values):
        f = torch.tensor(values, dtype=torch.float64)
        return judge(Track(f.sqrt().unsqueeze(1), f, torch.arange(len(f)) * 3, 1.0, "steps"), landmarks)

    passes, stays = judge_values([4.0, 1e-9, 1.0, 0.5]), judge_values([4.0, 1e-9, 1.0, 1e-6, 1e-8])
    assert (passes.steps, passes.evaluations, passes.status) == (None, None, "not converged")
    assert (stays.steps, stays.evaluations, stays.status) == (3, 9, "converged")
    assert passes.distance == pytest.approx(0.5**0.5)


def test_the_best_learning_rate_is_that_of_brute_force():
    experiment = build("surface=ravine", "optimizer=sgd", "steps=300")
    landmarks, lrs = Landmarks.of(experiment), budget.LearningRateRange(1e-3, 1.0)
    best, (track,) = tune(experiment, experiment.w.unsqueeze(0), landmarks, lrs)

    def count(lr):
        path = descend(slope_ravine, [1.0, 9.0], lr, 300)
        above = np.nonzero(~(10 * path[:, 0] ** 2 + path[:, 1] ** 2 / 2 <= 1e-6))[0]
        return above[-1] + 1 if above[-1] < 300 else np.inf

    with np.errstate(over="ignore", invalid="ignore"):
        counts = [count(lr) for lr in lrs.spread(budget.CANDIDATES)]
    assert best == lrs.spread(budget.CANDIDATES)[int(np.argmin(counts))]
    assert judge(track, landmarks).steps == min(counts)


@pytest.mark.long
def test_candidates_are_compared_by_their_own_evaluations():
    """In lanes, the line search of one candidate would count for all, and steps would decide."""
    words = ("surface=himmelblau", "optimizer=newton", "start=[-1,1]", "steps=60")
    experiment = build(*words)
    landmarks, lrs = Landmarks.of(experiment), budget.LearningRateRange(0.3, 1.2)
    best, (track,) = tune(experiment, experiment.w.unsqueeze(0), landmarks, lrs)
    alone = {}
    for lr in lrs.spread(budget.CANDIDATES):
        (path,) = run_tracks([build(*words, f"newton.lr={lr}")])
        alone[lr] = judge(path, landmarks)
    assert best == min(alone, key=lambda lr: (alone[lr].evaluations or np.inf, alone[lr].f))
    assert judge(track, landmarks) == alone[best]


def test_candidates_are_log_spaced_from_end_to_end():
    np.testing.assert_allclose(budget.LearningRateRange(1e-4, 1.0).spread(16), np.geomspace(1e-4, 1, 16), rtol=5e-3)


def test_an_optimizer_without_a_learning_rate_is_not_tuned():
    experiment = build("surface=booth", "optimizer=custom", "custom._target_=mine.NormalizedDescent", "steps=5")
    lr, tracks = tune(
        experiment, experiment.w.unsqueeze(0), Landmarks.of(experiment), budget.LearningRateRange(0.1, 1.0)
    )
    assert lr is None
    assert len(tracks[0].f) == 6


def test_random_starts_are_in_the_box_and_a_function_of_the_seed():
    one, two = (build("surface=branin", "optimizer=sgd", f"seed={seed}") for seed in (0, 1))
    points = sample_starts(one, 200)
    assert torch.equal(points[0], one.w)
    assert torch.equal(points, sample_starts(one, 200))
    assert not torch.equal(points, sample_starts(two, 200))
    (left, right), (bottom, top) = Landmarks.of(one).box
    assert bool(
        ((points[:, 0] >= left) & (points[:, 0] <= right) & (points[:, 1] >= bottom) & (points[:, 1] <= top)).all()
    )
    assert points[1:].std(0).min() > 3


def test_a_custom_function_races_and_is_drawn_around_its_paths():
    experiment = build("surface=custom", "surface._target_=mine.Bowl", "optimizer=momentum", "steps=80")
    tracks = run_tracks([experiment])
    landmarks = Landmarks.of(experiment)
    assert judge(tracks[0], landmarks).status == "not converged"
    grid = make_grid(experiment, landmarks, tracks)
    x, y = torch.meshgrid(grid.x, grid.y, indexing="xy")
    torch.testing.assert_close(grid.f, (x - 1) ** 2 + 3 * (y + 2) ** 2)
    assert grid.x[0] <= 5 <= grid.x[-1]


def test_the_box_of_a_custom_function_holds_the_end_of_a_short_path():
    keys = ("surface=custom", "surface._target_=mine.Bowl")
    long = run_tracks([build(*keys, "optimizer=sgd", "sgd.lr=0.001", "steps=300")])
    short = run_tracks([build(*keys, "optimizer=newton", *SOLID, "steps=1")])
    experiment = build(*keys, "optimizer=sgd")
    grid = make_grid(experiment, Landmarks.of(experiment), [*long, *short])
    torch.testing.assert_close(short[0].w[-1], torch.tensor([1.0, -2.0], dtype=torch.float64))
    assert grid.x[0] < 1 - 0.02  # with room for the dot
    assert grid.y[0] < -2 - 0.02


def test_variants_of_an_optimizer_race_by_names_of_their_own():
    words = ["optimizer=lbfgs,armijo:lbfgs,c:custom", "armijo.linesearch=armijo", "c._target_=mine.Sign", "+c.lr=0.5"]
    parsed = arguments.parse([*words, "surface=coupled_quadratic", "surface.a=0.3"])
    entrants, _ = build_entrants(parsed, [])
    searches = [type(entrants[name].optimizer.linesearch).__name__ for name in ("lbfgs", "armijo")]
    assert searches == ["StrongWolfe", "Armijo"]
    labels = [parsed.label_optimizer(name) for name in entrants]
    assert labels == ["lbfgs", "armijo (linesearch=armijo)", "c (lr=0.5)"]
    assert parsed.label_optimizer("lbfgs", 0.25) == "lbfgs (lr=0.25)"
    assert parsed.label_surface() == "coupled_quadratic (a=0.3)"


def test_a_custom_component_is_labelled_with_its_class():
    words = "surface=custom surface._target_=mine.Logs +surface.start=2 optimizer=custom custom._target_=mine.Sign"
    parsed = arguments.parse(words.split())
    assert (parsed.label_surface(), parsed.label_optimizer("custom")) == ("Logs (start=2)", "Sign")


def test_a_race_composes_as_training_does():
    words = [
        "optimizer=sam,adam,newton",
        "surface=coupled_quadratic",
        "surface.a=0.01",
        "sam.base_optimizer=adam",
        "sam.rho=0.1",
        "newton.solver=dense",
    ]
    parsed = arguments.parse(words)
    entrants, notices = build_entrants(parsed, [])
    assert notices == []
    assert list(entrants) == ["sam", "adam", "newton"]
    for name, experiment in entrants.items():
        nested = [
            o.replace("optimizer.base_optimizer=", "optimizer@optimizer.base_optimizer=")
            for o in parsed.list_overrides(name)
        ]
        alone = build_experiment(*nested)
        assert experiment.optimizer == alone.optimizer
        assert experiment.settings == alone.settings
        assert torch.equal(experiment.w, alone.w)
    assert entrants["sam"].model.surface.formula(torch.tensor([1.0, 1.0])) == pytest.approx(0.02)


PROBLEMS = {
    "unknown names": (
        ["optimizer=adm", "surface=beal"],
        {"optimizer": "did you mean adam", "surface": "must be one of beale"},
    ),
    "values": (
        ["optimizer=sgd,adam", "sgd.lr=-1", "adam.beta1=2", "steps=0"],
        {"sgd.lr": "must be", "adam.beta1": "must be", "steps": "must be"},
    ),
    "no steps": (["steps=0"], {"steps": "must be a whole number >= 1, got 0"}),
    "steps of epochs": (["steps=null"], {"steps": "must be a whole number >= 1, got null"}),
    "no layers": (["optimizer=kfac"], {"optimizer": "kfac: cannot train this network: it has no linear layer"}),
    "unknown keys": (
        ["optimizer=sgd", "sgd.lrr=1", "surface.b=2"],
        {"sgd.lrr": "did you mean lr", "surface.b": "there is function, start, a"},
    ),
    "starts": (["optimizer=sgd", "start=[1,2,3]"], {"start": "must be 2 finite numbers"}),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_wrong_entrants_are_refused_at_the_keys_of_the_race(name):
    words, expected = PROBLEMS[name]
    with pytest.raises(ConfigError) as refused:
        build_entrants(arguments.parse(words), [])
    found = dict(refused.value.problems)
    assert found.keys() == expected.keys()
    for key, part in expected.items():
        assert part in found[key]


WORDS = {
    "adam.lr=1 optimizer=sgd": ("adam.lr", "adam does not race"),
    "step=3": ("step", "did you mean steps"),
    "beale": ("beale", "KEY=VALUE"),
    "schedule=cosine optimizer=adam": (
        "schedule",
        "dlopt train: a race has surface, optimizer, steps, start, seed, surface.KEY, adam.KEY",
    ),
    "schedule.warmup=3 optimizer=adam": ("schedule.warmup", "is a key of dlopt train"),
    "optimizer=sgd,adam,sgd": ("optimizer", "sgd is named twice"),
    "optimizer=a:sgd,a:adam": ("optimizer", "a is named twice"),
    "optimizer=1:sgd": ("optimizer", "1: a name of a variant must be a letter"),
    "optimizer=:sgd": ("optimizer", "a name of a variant"),
    "optimizer=steps:sgd": ("optimizer", "not a key of the race"),
    "optimizer=": ("optimizer", "needs the names"),
    "surface=custom surface._target_=mine.Bowl start=[1,2]": ("start", "leave it out"),
}


@pytest.mark.parametrize("words", WORDS)
def test_wrong_words_are_refused(words):
    key, part = WORDS[words]
    with pytest.raises(ConfigError) as refused:
        arguments.parse(words.split())
    assert [(found, part in message) for found, message in refused.value.problems] == [(key, True)]


@pytest.mark.parametrize(
    "text", ["", "lr", "lr=1", "momentum=0.1:1", "lr=1:0.1", "lr=0:1", "lr=a:b", "lr=1:inf", "lr=-1:1"]
)
def test_tuning_needs_a_range(text):
    with pytest.raises(ConfigError, match="lr=1e-4:1"):
        budget.parse_range(text)


def test_points_are_evaluated_as_by_the_model():
    experiment = build("surface=custom", "surface._target_=mine.Valley", "optimizer=sgd")
    points = torch.randn(4, 3, 3, dtype=torch.float64)
    expected = (points[..., 0] - 1) ** 2 + 10 * points[..., 1:].square().sum(-1)
    torch.testing.assert_close(race.evaluate_points(experiment, points), expected)
