"""Every class of torch.optim through optimizer=torch_optim, against a loop of plain PyTorch, and custom classes."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    BLOBS,
    DEVICE,
    build_blobs,
    build_experiment,
    compose_config,
    interrupt_run,
    load_weights,
    read_rows,
    resume_run,
    train_runs,
)
from torch import nn

from dlopt.base.layout import Layout
from dlopt.config.build import build
from dlopt.config.problems import ConfigError
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.optimizer.torch_optim import TorchOptim
from dlopt.prng import Key
from dlopt.training.checkpointing import from_plain, to_plain

STEPS = 6
NETS = {
    "mlp": lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double(),
    "matrices": lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.Tanh(), nn.Linear(5, 3, bias=False)).double(),
    "cnn": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6)), nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    ).double(),
}
OPTIONS = {
    "SGD": [{"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}],
    "Adam": [{"amsgrad": True}, {"betas": [0.5, 0.9], "eps": 1e-3}, {"fused": True}, {"foreach": True}],
    "RMSprop": [{"centered": True, "momentum": 0.5}],
    "LBFGS": [{"max_iter": 3}, {"line_search_fn": "strong_wolfe", "history_size": 2}],
}


CASES = [
    (name, "matrices" if name == "Muon" else "cnn", options)
    for name in TorchOptim.names()
    for options in ({}, *OPTIONS.get(name, ()))
    if name != "SparseAdam"
] + [("Adafactor", "matrices", {}), ("LBFGS", "mlp", {})]
CLASSES = [name for name in TorchOptim.names() if name != "SparseAdam"]


def find_refusal(name: str, net: nn.Module, options: dict) -> str:
    """Return the error of the check of a class on a network, or an empty string."""
    layout = Layout.of(net)
    try:
        TorchOptim(name, 0.01, options).check(layout.flatten(dict(net.named_parameters())).detach(), layout)
    except Exception as error:
        return str(error)
    return ""


def test_every_class_of_torch_trains_some_net_but_those_for_sparse_gradients():
    refused = {name: [find_refusal(name, net(), {}) for net in NETS.values()] for name in TorchOptim.names()}
    assert [name for name, said in refused.items() if all(said)] == ["SparseAdam"]
    assert [name for name, said in refused.items() if any(said)] == ["Muon", "SparseAdam"]


@pytest.mark.parametrize(("name", "net", "options"), CASES, ids=str)
def test_the_steps_are_those_of_a_loop_written_by_hand(name, net, options):
    """The same bits, with a rate that changes, and as many evaluations."""
    torch.manual_seed(0)
    model, twin = NETS[net](), NETS[net]()
    twin.load_state_dict(model.state_dict())
    x, y = torch.randn(STEPS, 10, 6, dtype=torch.float64), torch.randint(3, (STEPS, 10))

    problem = Problem(model, CrossEntropy([], None))
    w = problem.bind(problem.layout.flatten(dict(model.named_parameters())).detach().clone())
    rule = TorchOptim(name, 0.01, options)
    state = rule.init(w, problem.layout)
    theirs = getattr(torch.optim, name)(twin.parameters(), lr=0.01, **options)
    evaluations = 0
    for step in range(STEPS):
        lr = 0.01 / (1 + step)
        theirs.param_groups[0]["lr"] = lr

        def closure(step=step):
            nonlocal evaluations
            evaluations += 1
            theirs.zero_grad()
            loss = F.cross_entropy(twin(x[step]), y[step])
            loss.backward()
            return loss

        before = nn.utils.parameters_to_vector(twin.parameters()).detach().clone()
        loss = theirs.step(closure)
        objective = MiniBatchObjective(problem, x[step], y[step], Key(0, step))
        moment = TorchOptim(name, lr, options).step(w, state, objective)
        assert moment.w is w
        assert moment.state is state
        assert torch.equal(w, nn.utils.parameters_to_vector(twin.parameters()))
        assert torch.equal(moment.loss, loss.detach())
        assert torch.equal(
            moment.gradient, MiniBatchObjective(problem, x[step], y[step], Key(0, step)).gradient(before)[1]
        )
        problem.evaluations -= 1  # the test's own
        assert problem.evaluations == evaluations


# ------------------------------------------------------------------------------------------- in a run


def build_matrices(name: str, *overrides: str):
    return build_experiment(
        "data=custom", "data._target_=mine.Blobs", "arch=custom", "arch._target_=mine.BiasFreeNet", "batch_size=16", "epochs=3",
        f"device={DEVICE}", "optimizer=torch_optim", f"optimizer.name={name}", "log_every=1", *overrides,
    )  # fmt: skip


@pytest.mark.parametrize("name", [*CLASSES, "mine.Lion"])
def test_a_restored_state_resumes_with_the_same_bits(name):
    """In float64: scalars that some classes keep in float32 must stay so."""
    bowl, rule, ends = Bowl(nn.Linear(3, 2, bias=False)), TorchOptim(name, 0.05, {}), []
    for restored in (False, True):
        w = torch.linspace(-1, 1, 6, dtype=torch.float64)
        state = rule.init(w, bowl.layout)
        for _ in range(6):
            rule.step(w, state, bowl)
            if restored:
                state = from_plain(rule.init(w, bowl.layout), to_plain(state, 0, solo=True), w.device)
        ends.append(w)
    assert torch.equal(*ends)


@pytest.mark.parametrize("name", ["LBFGS", "NAdam"])
def test_a_resumed_run_has_the_bits_of_an_uninterrupted_one(name, tmp_path):
    overrides = ("optimizer.lr=0.05", "schedule=cosine", "precision=float64", "epochs=2")
    (whole,), (straight,) = train_runs(tmp_path / "straight", build_matrices(name, *overrides))
    run = interrupt_run(tmp_path / "run", 3, build_matrices(name, *overrides))
    summary, run = resume_run(run.path, build_matrices(name, *overrides))
    assert torch.equal(load_weights(run), load_weights(straight))
    assert read_rows(run) == read_rows(straight)
    assert summary["evaluations"] == whole["evaluations"]


@pytest.mark.parametrize("name", CLASSES)
def test_a_rate_of_zero_moves_nothing(name):
    """A step uses its own rate, except in Rprop; ASGD follows it one step later."""
    rule, w = TorchOptim(name, 0.1, {}), torch.linspace(-1, 1, 6, dtype=torch.float64)
    bowl = Bowl(nn.Linear(3, 2, bias=False))
    state = rule.init(w, bowl.layout)
    still = dataclasses.replace(rule, lr=0.0)
    rule.step(w, state, bowl)
    still.step(w, state, bowl)
    before = w.clone()
    still.step(w, state, bowl)
    assert torch.equal(w, before) == (name != "Rprop")


def test_torchs_sgd_on_a_schedule_is_ours(tmp_path):
    schedule = (
        "schedule=warmup",
        "schedule.length=1",
        "schedule@schedule.then=cosine",
        "precision=float64",
        "normalization=batch",
    )
    _, (ours,) = train_runs(tmp_path / "ours", build_blobs(*schedule, "optimizer=momentum", "optimizer.lr=0.1"))
    theirs = ("optimizer=torch_optim", "optimizer.name=SGD", "+optimizer.options.momentum=0.9", "optimizer.lr=0.1")
    _, (run,) = train_runs(tmp_path / "theirs", build_blobs(*schedule, *theirs))
    torch.testing.assert_close(load_weights(run), load_weights(ours), rtol=1e-12, atol=1e-14)
    for mine, other in zip(read_rows(run), read_rows(ours), strict=True):
        assert mine == pytest.approx(other, rel=1e-10)


def test_the_evaluations_of_a_line_search_are_counted(tmp_path):
    experiment = build_matrices("LBFGS", "+optimizer.options.line_search_fn=strong_wolfe", "optimizer.lr=1.0")
    (summary,), (run,) = train_runs(tmp_path, experiment)
    count = run.load("last")["state"]["state"][0]["func_evals"]
    assert summary["evaluations"] == count > 2 * summary["step"]


def test_changed_arguments_count_on_resume_and_progress_is_kept(tmp_path):
    """mine.Lion divides its rate by a count in its parameter group."""
    run = interrupt_run(tmp_path / "run", 4, build_matrices("mine.Lion"))
    assert run.load("last")["state"]["param_groups"][0]["k"] == 4
    resume_run(run.path, build_matrices("mine.Lion", "+optimizer.options.betas=[0.5,0.6]"))
    (group,) = run.load("last")["state"]["param_groups"]
    assert group["k"] == 9
    assert group["betas"] == [0.5, 0.6]


# ------------------------------------------------------------------------------------------- custom classes


class Bowl:
    """f(w) = |w|^2 / 2, for the weights of a net."""

    def __init__(self, net):
        self.layout = Layout.of(net)

    def gradient(self, w):
        return w.square().sum() / 2, w.clone()


def test_a_custom_class_takes_its_own_steps():
    """Chen et al. 2023, algorithm 2, without decay; the rate falls as 1 / k."""
    bowl, w = Bowl(nn.Linear(3, 2)), torch.linspace(-1, 1, 8, dtype=torch.float64)
    rule = TorchOptim("mine.Lion", 0.1, {"betas": (0.5, 0.75)})
    expected, m, own = w.clone(), torch.zeros_like(w), w.clone()
    state = rule.init(own, bowl.layout)
    for k in range(1, 6):
        g = expected.clone()
        expected -= 0.1 / k * (0.5 * m + 0.5 * g).sign()
        m = 0.75 * m + 0.25 * g
        own, state, *_ = rule.step(own, state, bowl)
        torch.testing.assert_close(own, expected)


def test_a_class_without_a_closure_that_changes_its_gradients():
    """w <- w - lr (g + w) = (1 - 2 lr) w; the gradient of the step is the objective's."""
    bowl, w = Bowl(nn.Linear(3, 2)), torch.linspace(-1, 1, 8)
    before = w.clone()
    rule = TorchOptim("mine.WeightDecaySGD", 0.1, {})
    moment = rule.step(w, rule.init(w, bowl.layout), bowl)
    torch.testing.assert_close(moment.w, 0.8 * before)
    assert torch.equal(moment.gradient, before)


def test_an_iterate_at_another_address_is_the_one_that_moves():
    bowl, w = Bowl(nn.Linear(3, 2)), torch.linspace(-1, 1, 8)
    rule = TorchOptim("Adam", 0.1, {})
    state, other = rule.init(w, bowl.layout), rule.init(w.clone(), bowl.layout)
    straight = w.clone()
    for _ in range(4):
        left, w = w, w.clone()
        before = left.clone()
        rule.step(w, state, bowl)
        rule.step(straight, other, bowl)
        assert torch.equal(left, before)
    assert torch.equal(w, straight)


def test_a_check_moves_nothing():
    w = torch.linspace(-1, 1, 8)
    before = w.clone()
    for name in ("AdamW", "LBFGS", "mine.Lion"):
        TorchOptim(name, 0.1, {}).check(w, Layout.of(nn.Linear(3, 2)))
    assert torch.equal(w, before)


def test_the_pieces_are_the_networks_own_in_their_shapes():
    net = NETS["cnn"]()
    layout = Layout.of(net)
    w = layout.flatten(dict(net.named_parameters())).detach()
    state = TorchOptim("SGD", 0.1, {}).init(w, layout)
    assert [p.shape for p in state.pieces] == [p.shape for p in net.parameters()]
    assert all(p.is_leaf and p.requires_grad for p in state.pieces)
    with torch.no_grad():
        for p in state.pieces:
            p.fill_(7.0)
    assert (w == 7.0).all()


def test_a_network_that_the_class_refuses_is_reported():
    with pytest.raises(ConfigError, match="Muon"):
        build(compose_config(*BLOBS, "optimizer=torch_optim", "optimizer.name=Muon"))
