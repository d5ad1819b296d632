"""diagnostic=dead against outputs of the whole training split, counted one by one."""

import pytest
import torch
from helpers import DEVICE, build_blobs, build_experiment, read_rows, train_runs

from dlopt.training import evaluation

RELU = ("diagnostic=dead", "diagnostic.dead.every=1", "precision=float64", "activation=relu", "epochs=1")


def count_dead(outputs):
    """Return the fraction of units of (examples, units, positions) that are zero everywhere."""
    return (
        sum(not any(v != 0 for v in outputs[:, u].flatten().tolist()) for u in range(outputs.shape[1]))
        / (outputs.shape[1])
    )


@pytest.mark.parametrize("chunk", [7, 1024])
def test_units_are_counted_over_the_whole_split(chunk, tmp_path, monkeypatch):
    """Every chunk counts: a unit that only the last example activates is not dead."""
    monkeypatch.setattr(evaluation, "CHUNK", chunk)
    experiment = build_blobs(*RELU, "arch.widths=[8,6]", "optimizer.lr=1e-12", "init=random_walk", "batch_size=full")
    x, _ = experiment.train.gather()
    model = experiment.model.double()
    torch.nn.utils.vector_to_parameters(experiment.w.double(), model.parameters())
    with torch.no_grad():
        z = x.double() @ model.hidden[0].weight.T
        model.hidden[0].bias.copy_(torch.zeros(8))
        model.hidden[0].bias[0] = -1e3  # never active
        model.hidden[0].bias[1] = -z[:, 1].sort().values[-2:].mean()  # active for one example
        experiment.w.copy_(torch.nn.utils.parameters_to_vector(model.parameters()))
        first = torch.relu(model.hidden[:1](x.double()))
        second = torch.relu(first @ model.hidden[2].weight.T + model.hidden[2].bias)
    assert (first[:, 1] > 0).sum() == 1
    _, (run,) = train_runs(tmp_path, experiment)
    (row,) = [row for row in read_rows(run) if "dead/all" in row]
    expected = [count_dead(outputs.unsqueeze(-1)) for outputs in (first, second)]
    assert [row["dead/hidden.0"], row["dead/hidden.1"]] == pytest.approx(expected)
    assert expected[0] >= 1 / 8
    assert row["dead/all"] == pytest.approx((8 * expected[0] + 6 * expected[1]) / 14)


def test_the_network_is_in_inference(tmp_path):
    """Dropout, augmentation and batches do not matter, running statistics do: as `Problem.predict` sees it."""
    overrides = (*RELU, "normalization=batch", "regularization=dropout", "augmentation=custom",
                 "augmentation.custom._target_=mine.Jitter", "+augmentation.custom.size=5.0")  # fmt: skip
    _, (run,) = train_runs(tmp_path, build_blobs(*overrides))
    experiment = build_blobs(*overrides)
    model = experiment.model.double().eval()
    model.load_state_dict(run.load("last")["model"])
    outputs = []
    model.hidden[2].register_forward_hook(lambda m, i, o: outputs.append(o))
    with torch.no_grad():
        model(experiment.train.gather()[0].double())
    assert read_rows(run)[-1]["dead/hidden.0"] == pytest.approx(count_dead(outputs[0].unsqueeze(-1)))


def test_the_pass_ends_when_each_unit_has_been_active(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK", 10)
    seen = []
    summarize = evaluation.Problem.summarize_activations

    def count(self, w, x, function):
        seen.append(len(x))
        found = summarize(self, w, x, function)
        assert [tuple(flags.shape) for flags in found.values()] == [(8,)], "outputs are kept"
        return found

    monkeypatch.setattr(evaluation.Problem, "summarize_activations", count)
    train_runs(tmp_path / "tanh", build_blobs(*RELU[:3], "activation=tanh", "epochs=1"))
    assert seen == [10]
    train_runs(tmp_path / "zero", build_blobs(*RELU[:3], "activation=custom", "activation._target_=mine.ZeroActivation",
                                              "epochs=1"))  # fmt: skip
    assert seen[1:] == [10, 10, 10, 10, 8]


def test_convolutions_are_dead_at_all_positions_and_an_epoch_is_the_unit_of_time(tmp_path):
    overrides = ("arch=cnn", "data=custom", "data._target_=mine.Blobs", "+data.shape=[1,8]", "arch.channels=[9,3]",
                 "arch.kernels=[3,2]", f"device={DEVICE}", "batch_size=16", "diagnostic=dead", "optimizer.lr=1e-9",
                 "diagnostic.dead.every=2", "precision=float64", "epochs=4")  # fmt: skip
    experiment = build_experiment(*overrides)
    experiment.w[27:29] = torch.tensor([-1e3, 1e3])  # biases: never, and always active
    _, (run,) = train_runs(tmp_path, experiment)
    rows = {row["step"]: row for row in read_rows(run) if "dead/all" in row}
    per_epoch = -(-len(experiment.train) // 16)
    assert list(rows) == [2 * per_epoch, 4 * per_epoch]
    model = experiment.model.double().eval()
    model.load_state_dict(run.load("last")["model"])
    with torch.no_grad():
        outputs = model.hidden[:2](experiment.train.gather()[0].double())
    assert rows[4 * per_epoch]["dead/hidden.0"] == pytest.approx(count_dead(outputs))
    assert count_dead(outputs) == pytest.approx(1 / 9)


def test_a_network_without_activations_has_no_tags(tmp_path):
    linear = build_experiment("data=custom", "data._target_=mine.Blobs", "arch=linear", "epochs=1", "batch_size=16",
                              f"device={DEVICE}", "diagnostic=dead", "diagnostic.dead.every=1")  # fmt: skip
    _, (run,) = train_runs(tmp_path, linear)
    assert not any(name.startswith("dead/") for row in run.rows() for name in row)
