"""Negative log-likelihood: cross entropy of outputs that are log-probabilities, and of no others."""

import math

import pytest
import torch
from helpers import BLOBS, assert_build_refused, build_blobs, build_experiment, load_weights, make_option, train_runs

NLL = make_option("loss", "nll")
LOG_PROBABILITIES = (
    *(o for o in BLOBS if not o.startswith("arch")),
    "arch=custom",
    "arch._target_=mine.LogProbabilities",
)


def drawn():
    torch.manual_seed(0)
    return torch.randn(20, 4, dtype=torch.float64), torch.randint(4, (20,))


def test_it_is_torchs_and_cross_entropy_of_any_outputs_after_a_log_softmax():
    outputs, targets = drawn()
    log_p = outputs.log_softmax(-1)
    torch.testing.assert_close(NLL(log_p, targets), torch.nn.functional.nll_loss(log_p, targets))
    torch.testing.assert_close(NLL(log_p, targets), make_option("loss", "cross_entropy")(outputs, targets))
    soft = torch.randn(20, 4, dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(NLL(log_p, soft), make_option("loss", "cross_entropy")(outputs, soft))
    sure = torch.nn.functional.one_hot(targets, 4).double()
    torch.testing.assert_close(NLL(log_p, sure), NLL(log_p, targets))


def test_training_by_it_is_training_by_cross_entropy(tmp_path):
    """A log-softmax of log-probabilities changes nothing, so the two losses are one function of the weights."""
    both = [
        build_experiment(*LOG_PROBABILITIES, "precision=float64", f"loss={name}") for name in ("nll", "cross_entropy")
    ]
    (one,), (other,) = (train_runs(tmp_path / str(i), experiment)[1] for i, experiment in enumerate(both))
    torch.testing.assert_close(load_weights(one), load_weights(other), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("wrong", [0.01, math.nan, math.inf, -1.0])
def test_outputs_that_are_no_log_probabilities_are_refused(wrong):
    log_p = drawn()[0].log_softmax(-1)
    NLL.check(log_p)
    NLL.check(torch.full((2, 10_000), -math.log(10_000)))
    log_p[7] += wrong
    with pytest.raises(ValueError, match=r"sum to .*, not to 1; use loss=cross_entropy, or end the net in nn\.LogSoft"):
        NLL.check(log_p)


def test_a_run_of_such_a_net_is_not_started():
    assert_build_refused(lambda: build_blobs("loss=nll"), "loss", "needs log-probabilities")
