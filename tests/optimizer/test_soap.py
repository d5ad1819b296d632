"""SOAP, against the paper's algorithm written out matrix by matrix."""

import pytest
import torch
import torch.nn.functional as F
from helpers import make_option
from layered import check_lanes_and_resume, draw_batches, make_cnn
from test_optimizers import STEPS, Quadratic, draw_start, trace
from torch import nn

from dlopt.optimizer.adam import Adam
from dlopt.optimizer.soap import TILT, update_basis
from dlopt.training.checkpointing import from_plain, to_plain


def make_soap(**keys):
    return make_option("optimizer", "soap", **keys)


def tilt(a):
    return a + TILT * a.trace() / len(a) * torch.diag(torch.linspace(1.0, 2.0, len(a)).double())


def trace_paper(rule):
    """Vyas et al. 2025, algorithms 3 and 4, for each parameter by itself; a vector is a matrix with both bases I."""
    model, (x, y) = make_cnn(), draw_batches(STEPS)
    own = list(model.parameters())
    sizes = [(len(p), p.numel() // len(p)) for p in own]
    bases = [[torch.eye(n).double() for n in size] for size in sizes]
    products = [[torch.zeros(n, n).double() for n in size] for size in sizes]
    m, v = ([torch.zeros(size).double() for size in sizes] for _ in range(2))
    iterates = []
    for t in range(1, STEPS + 1):
        model.zero_grad()
        F.cross_entropy(model(x[t - 1]), y[t - 1]).backward()
        for i, p in enumerate(own):
            g, (ql, qr) = p.grad.reshape(sizes[i]), bases[i]
            m[i] = rule.beta1 * m[i] + (1 - rule.beta1) * g
            v[i] = rule.beta2 * v[i] + (1 - rule.beta2) * (ql.T @ g @ qr) ** 2
            corrected = (v[i] / (1 - rule.beta2**t)).sqrt() + rule.eps
            n = ql @ ((ql.T @ m[i] @ qr) / (1 - rule.beta1**t) / corrected) @ qr.T
            with torch.no_grad():
                p.sub_(rule.lr * n.reshape(p.shape))
            for k, product in enumerate((g @ g.T, g.T @ g)):
                products[i][k] = rule.beta2 * products[i][k] + (1 - rule.beta2) * product
                if p.ndim == 1 or sizes[i][k] > rule.max_size:
                    continue
                if t == 1:
                    bases[i][k] = torch.linalg.eigh(tilt(products[i][k]))[1].flip(1)
                elif t % rule.precondition_frequency == 0:
                    bases[i][k] = torch.linalg.qr(tilt(products[i][k]) @ bases[i][k])[0]
        iterates.append(nn.utils.parameters_to_vector(own).detach())
    return torch.stack(iterates)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"precondition_frequency": 1, "beta1": 0.8},
        {"precondition_frequency": 7, "max_size": 5, "beta2": 0.9},
        {"eps": 0.1},
    ],
)
def test_steps_are_those_of_the_paper(keys):
    rule = make_soap(lr=0.02, **keys)
    torch.testing.assert_close(
        trace(rule, make_cnn(), *draw_batches(STEPS))[0], trace_paper(rule), rtol=1e-6, atol=1e-7
    )


def test_without_bases_it_is_adam():
    ours, state, _ = trace(make_soap(max_size=1, lr=0.02), make_cnn(), *draw_batches(STEPS))
    torch.testing.assert_close(ours, trace(Adam(0.02, 0.95, 0.95, 1e-8), make_cnn(), *draw_batches(STEPS))[0])
    assert state.bases.numel() == 0


def test_bases_stay_orthogonal_and_come_to_diagonalize_the_products():
    _, state, _ = trace(make_soap(precondition_frequency=1, beta2=0.99), make_cnn(), *draw_batches(STEPS))
    for n, start in ((4, 0), (6, 16)):
        q, product = (x[start : start + n * n].view(n, n) for x in (state.bases, state.products))
        torch.testing.assert_close(q.T @ q, torch.eye(n).double())
        inside = q.T @ product @ q
        assert (inside - inside.diag().diag()).norm() < 0.05 * inside.norm()
        assert (product - product.diag().diag()).norm() > 0.1 * product.norm()


def test_eigenvectors_come_with_the_largest_first():
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))[0]
    product = q @ torch.diag(torch.tensor([9.0, 5.0, 3.0, 1.0, 0.1]).double()) @ q.T
    torch.testing.assert_close((update_basis(product, None).T @ q).abs(), torch.eye(5).double(), rtol=0, atol=1e-5)
    torch.testing.assert_close((update_basis(product, q).T @ q).abs(), torch.eye(5).double(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("basis", [None, torch.eye(4).double().expand(3, 4, 4)])
def test_rounding_does_not_decide_axes_that_no_gradient_has_reached(basis):
    torch.manual_seed(0)
    g = torch.randn(3, 4, 2, dtype=torch.float64)
    noise = 1e-15 * torch.randn(3, 4, 4, dtype=torch.float64)
    product = g @ g.mT
    expected = update_basis(product, basis)
    torch.testing.assert_close(update_basis(product + noise + noise.mT, basis), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e308])
@pytest.mark.parametrize("basis", [None, torch.eye(4).double().expand(3, 4, 4)])
def test_a_diverged_lane_does_not_disturb_the_others(basis, bad):
    torch.manual_seed(0)
    g = torch.randn(3, 4, 4, dtype=torch.float64)
    products = g @ g.mT
    expected = update_basis(products, basis)
    products[1] = bad
    bases = update_basis(products, basis)
    torch.testing.assert_close(bases[::2], expected[::2])
    assert bases.isfinite().all()


def test_a_gradient_of_zero_moves_nothing_and_bases_are_finite():
    rule, w = make_soap(precondition_frequency=1), torch.zeros_like(draw_start())
    state = rule.init(w, Quadratic.layout)
    for _ in range(3):
        w, state, *_ = rule.step(w, state, Quadratic())
    assert not w.any()
    assert all(leaf.isfinite().all() for leaf in state[:-1])


def test_the_number_of_steps_is_kept_on_the_host():
    """It is restored as it was, and nothing else is accepted for it."""
    rule, w = make_soap(), draw_start()
    state = rule.init(w, Quadratic.layout)
    _, state, *_ = rule.step(w, state, Quadratic())
    saved = to_plain(state, 0, solo=True)
    assert from_plain(rule.init(w, Quadratic.layout), saved, w.device).t == 1
    for other in (torch.ones(()), "1", 1.0, True, None):
        with pytest.raises(ValueError, match="for a whole number"):
            from_plain(state, saved | {"t": other}, w.device)


def test_a_run_resumes_and_lanes_equal_runs_alone(tmp_path):
    """One lane diverges at once and leaves the others."""
    common = ("optimizer=soap", "optimizer.precondition_frequency=4", "precision=float64", "epochs=2")
    variants = [
        ("optimizer.beta2=0.8", "schedule=cosine"),
        ("optimizer.lr=1e300",),
        ("optimizer.lr=0.03", "optimizer.beta1=0.5", "seed=1"),
    ]
    check_lanes_and_resume(tmp_path, common, variants)
