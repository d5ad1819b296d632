"""compile=true: the same numbers from compiled programs, and few of them."""

import pytest
import torch
from helpers import build_experiment, load_weights, read_rows, train_runs

NET = ("data=digits", "data.train_size=200", "epochs=2", "batch_size=40", "device=cpu")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
@pytest.mark.parametrize(
    "options",
    [("arch=mlp",), ("arch=cnn", "normalization=batch", "regularization=[dropout,l2]")],
    ids=["mlp", "cnn"],
)
def test_compiled_equals_eager(options, tmp_path):
    """With masks that differ at every step, which must not make it compile at every step."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    _, (eager,) = train_runs(tmp_path / "eager", build_experiment(*NET, *options, "precision=float64"))
    _, (made,) = train_runs(
        tmp_path / "compiled", build_experiment(*NET, *options, "precision=float64", "compile=true")
    )
    torch.testing.assert_close(load_weights(made), load_weights(eager), rtol=1e-8, atol=1e-10)
    assert [row["step"] for row in read_rows(made)] == [row["step"] for row in read_rows(eager)]
    frames = torch._dynamo.utils.counters["frames"]["ok"]
    assert 0 < frames <= 8, "training and inference, for whole and smaller batches"


def test_lanes_are_not_compiled(tmp_path):
    """They are mapped by torch.func, and say nothing of compile."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    train_runs(
        tmp_path, *(build_experiment(*NET, "arch=linear", "epochs=1", "compile=true", f"seed={s}") for s in (0, 1))
    )
    assert torch._dynamo.utils.counters["frames"]["ok"] == 0


def test_without_a_compiler_it_is_said(monkeypatch):
    from dlopt.config.problems import ConfigError

    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        build_experiment(*NET, "compile=true")
