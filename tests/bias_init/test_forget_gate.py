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
    def __init__(self, make):
        super().__init__()
        self.memory = make
        self.head = nn.LazyLinear(2)

    def forward(self, x):
        found = self.memory(x if isinstance(self.memory, nn.LSTMCell) else x.unsqueeze(0))[0]
        return self.head(found.reshape(len(x), -1))


KINDS = {
    "one": lambda: nn.LSTM(3, 5),
    "several, both ways": lambda: nn.LSTM(3, 5, 2, bidirectional=True),
    "projected": lambda: nn.LSTM(3, 5, proj_size=2),
    "a cell": lambda: nn.LSTMCell(3, 5),
}


def drawn(model, value):
    """The biases by name."""
    model = model.double()
    x = torch.randn(6, 3, dtype=torch.float64)
    model(x)
    start = MiniBatchInitProbe(
        model, nn.functional.cross_entropy, Split(x, torch.arange(6) % 2), torch.float64, prng.key(0)
    )
    rule, layout = ForgetGate(value), Layout.of(model)
    w = sample_initial_weights(model, layout, ZerosInit(), rule, 1.0, prng.key(0), torch.float64)
    return layout.views(adjust_weights(w, ZerosInit(), rule, lambda: start))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1.0, -0.5])
def test_the_two_biases_of_the_forget_gates_have_this_sum_and_all_others_are_zero(kind, value):
    w = drawn(Reader(KINDS[kind]()), value)
    firsts = [name for name in w if ".bias_ih" in name]
    assert firsts
    for name in firsts:
        total = (w[name] + w[name.replace("bias_ih", "bias_hh")]).unflatten(0, (4, 5))
        assert (total[1] == value).all()
        assert not total[[0, 2, 3]].any()
    assert sum(int(v.count_nonzero()) for v in w.values()) == 5 * len(firsts)


def test_with_weights_zero_the_memory_shrinks_by_the_sigmoid_of_the_bias():
    """c_t = sigmoid(b_f) c_{t-1} + sigmoid(0) tanh(0): what torch's own LSTM makes of it."""
    model = Reader(nn.LSTM(3, 5))
    w = drawn(model, 1.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(w[name])
    c = torch.ones(1, 5, dtype=torch.float64)
    _, (_, after) = model.memory(torch.zeros(7, 3, dtype=torch.float64), (torch.zeros_like(c), c))
    torch.testing.assert_close(after, torch.sigmoid(torch.ones(1, 5, dtype=torch.float64)) ** 7)


def test_a_net_without_an_lstm_is_refused():
    with pytest.raises(ConfigError) as found:
        build_blobs("bias_init=forget_gate")
    ((key, said),) = found.value.problems
    assert key == "bias_init"
    assert "LSTM" in said
