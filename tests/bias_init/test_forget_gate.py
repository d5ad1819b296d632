"""Biases that hold the forget gates of an LSTM open."""

import pytest
import torch
from helpers import build_blobs
from torch import nn

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.bias_init.forget_gate import ForgetGate
from dlopt.config.problems import ConfigError
from dlopt.init.zeros import ZerosInit
from dlopt.objective.init_probe import MiniBatchInitProbe
from dlopt.parts import Split
from dlopt.training.experiment import adjust_weights, sample_initial_weights


class Reader(nn.Module):
    def __init__(self, memory):
        super().__init__()
        self.memory = memory
        self.head = nn.LazyLinear(2)

    def forward(self, x):
        outputs = self.memory(x if isinstance(self.memory, nn.LSTMCell) else x.unsqueeze(0))[0]
        return self.head(outputs.reshape(len(x), -1))


KINDS = {
    "one": lambda: nn.LSTM(3, 5),
    "several, bidirectional": lambda: nn.LSTM(3, 5, 2, bidirectional=True),
    "projected": lambda: nn.LSTM(3, 5, proj_size=2),
    "a cell": lambda: nn.LSTMCell(3, 5),
}


def initialize(model, value):
    """Return the initial values by name."""
    x = torch.randn(6, 3, dtype=torch.float64)
    model.double()(x)
    split = Split(x, torch.arange(6) % 2)
    start = MiniBatchInitProbe(model, nn.functional.cross_entropy, split, torch.float64, prng.key(0))
    rule, layout = ForgetGate(value), Layout.of(model)
    w = sample_initial_weights(model, layout, ZerosInit(), rule, 1.0, prng.key(0), torch.float64)
    return layout.views(adjust_weights(w, ZerosInit(), rule, lambda: start))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1.0, -0.5])
def test_the_two_biases_of_the_forget_gates_have_this_sum_and_all_others_are_zero(kind, value):
    w = initialize(Reader(KINDS[kind]()), value)
    firsts = [name for name in w if ".bias_ih" in name]
    assert firsts
    for name in firsts:
        total = (w[name] + w[name.replace("bias_ih", "bias_hh")]).unflatten(0, (4, 5))
        assert (total[1] == value).all()
        assert not total[[0, 2, 3]].any()
    assert sum(int(v.count_nonzero()) for v in w.values()) == 5 * len(firsts)


def test_with_zero_weights_the_memory_shrinks_by_the_sigmoid_of_the_bias():
    """c_t = sigmoid(b_f) c_{t-1} + sigmoid(0) tanh(0), as torch's LSTM computes it."""
    model = Reader(nn.LSTM(3, 5))
    model.load_state_dict(initialize(model, 1.0))
    c = torch.ones(1, 5, dtype=torch.float64)
    _, (_, after) = model.memory(torch.zeros(7, 3, dtype=torch.float64), (torch.zeros_like(c), c))
    torch.testing.assert_close(after, torch.sigmoid(torch.ones(1, 5, dtype=torch.float64)) ** 7)


def test_a_network_without_an_lstm_is_refused():
    with pytest.raises(ConfigError) as error:
        build_blobs("bias_init=forget_gate")
    ((key, message),) = error.value.problems
    assert key == "bias_init"
    assert "LSTM" in message
