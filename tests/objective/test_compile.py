"""compile=true: the same numbers from compiled programs, and few of them."""

import pytest
import torch
from helpers import build_experiment, load_weights, read_rows, train_runs

from dlopt.config.problems import ConfigError

NET = ("data=digits", "data.train_size=200", "epochs=2", "batch_size=40", "device=cpu")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
@pytest.mark.parametrize(
    "options",
    [
        ("arch=mlp",),
        ("arch=cnn", "normalization=batch", "regularization=[dropout,l2]"),
        ("arch=mlp", "regularization=dropout", "micro_batch_size=15"),
    ],
    ids=["mlp", "cnn", "micro-batches"],
)
def test_compiled_equals_eager(options, tmp_path):
    """Masks differ at every step and must not cause recompilation."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    _, (eager,) = train_runs(tmp_path / "eager", build_experiment(*NET, *options, "precision=float64"))
    experiment = build_experiment(*NET, *options, "precision=float64", "compile=true")
    _, (compiled,) = train_runs(tmp_path / "compiled", experiment)
    torch.testing.assert_close(load_weights(compiled), load_weights(eager), rtol=1e-8, atol=1e-10)
    assert [row["step"] for row in read_rows(compiled)] == [row["step"] for row in read_rows(eager)]
    frames = torch._dynamo.utils.counters["frames"]["ok"]
    assert 0 < frames <= 8, "training and inference, for whole and smaller batches"


def test_lanes_are_not_compiled(tmp_path):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    keys = (*NET, "arch=linear", "epochs=1", "compile=true")
    train_runs(tmp_path, *(build_experiment(*keys, f"seed={seed}") for seed in (0, 1)))
    assert torch._dynamo.utils.counters["frames"]["ok"] == 0


def test_a_missing_compiler_is_reported(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        build_experiment(*NET, "compile=true")
