"""diagnostic=histograms, read with TensorBoard's readers, against numpy."""

import json

import mine
import numpy as np
import pytest
import torch
from helpers import DEVICE, build_blobs, build_experiment, read_histograms, read_rows, train_runs

from dlopt.base.diagnostic import Histogram
from dlopt.base.layout import Layout
from dlopt.diagnostic.histograms import Histograms
from dlopt.parts import Step, StepRecord

LAYOUT = Layout.of(torch.nn.Sequential(torch.nn.Linear(40, 30), torch.nn.Tanh(), torch.nn.Linear(30, 2)))


def make_record(after, gradient):
    return StepRecord(0, after - gradient, after, torch.zeros(()), gradient, 0.1, LAYOUT, None)


def count_by_numpy(x, bins):
    """Return left edges, right edges and counts, as TensorBoard stores them."""
    counts, edges = np.histogram(x.detach().double().cpu().numpy(), bins)
    return np.stack([edges[:-1], edges[1:], counts], 1)


def test_each_parameter_has_a_histogram_of_its_weights_and_of_its_gradient():
    after, g = torch.randn(2, LAYOUT.size, dtype=torch.float64)
    histograms, memory = Histograms(None, 8, ["weight", "gradient"]).measure(make_record(after, g), None)
    assert memory is None
    for kind, w in (("weight", after), ("gradient", g)):
        for name, x in LAYOUT.views(w).items():
            histogram = histograms.pop(f"histogram/{kind}/{LAYOUT.label(name)}")
            np.testing.assert_allclose(Histogram.unpack(histogram.pack().tolist()).buckets(), count_by_numpy(x, 8))
    assert not histograms


@pytest.mark.parametrize("of", [[], ["gradient"], ["activation", "weight"]])
def test_only_requested_histograms_are_shown(of, tmp_path):
    experiment = build_blobs("diagnostic=histograms", f"diagnostic.histograms.of=[{','.join(of)}]", "epochs=1")
    _, (run,) = train_runs(tmp_path, experiment)
    assert {tag.split("/")[1] for tag, _ in read_histograms(run)} == set(of)


def test_a_run_stores_what_numpy_counts(tmp_path):
    """Weights are those of the checkpoint of the same step; the last gradient of a full batch is computed again."""
    bins = 30
    experiment = build_blobs(
        "precision=float64", "batch_size=full", "diagnostic=histograms", f"diagnostic.histograms.bins={bins}",
        "optimizer=sgd", "diagnostic.histograms.of=[weight,gradient,activation]", "epochs=4", "diagnostic.histograms.every=2",
    )  # fmt: skip
    _, (run,) = train_runs(tmp_path, experiment)
    histograms = read_histograms(run)
    assert {step for _, step in histograms} == {2, 4}
    model = experiment.model.double()
    last = run.load("last")["model"]
    for name, x in last.items():
        np.testing.assert_allclose(histograms[f"histogram/weight/{name}", 4], count_by_numpy(x, bins))

    _, (shorter,) = train_runs(
        tmp_path / "shorter", build_blobs("precision=float64", "batch_size=full", "optimizer=sgd", "epochs=3")
    )
    model.load_state_dict(shorter.load("last")["model"])
    x, y = experiment.train.gather()
    outputs = model.hidden(x.double())
    np.testing.assert_allclose(histograms["histogram/activation/hidden.0", 4], count_by_numpy(outputs, bins))
    loss = torch.nn.functional.cross_entropy(model.output(outputs), y)
    for (name, p), g in zip(model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
        assert p.shape == g.shape
        np.testing.assert_allclose(histograms[f"histogram/gradient/{name}", 4], count_by_numpy(g, bins), atol=1e-15)


def test_rows_and_summary_contain_no_histograms(tmp_path):
    plain = build_blobs("log_every=2")
    more = build_blobs("log_every=2", "diagnostic=histograms", "diagnostic.histograms.every=1")
    (run,), (measured,) = train_runs(tmp_path / "a", plain)[1], train_runs(tmp_path / "b", more)[1]
    assert read_rows(measured) == read_rows(run)
    assert measured.summary.keys() == run.summary.keys()
    assert "histogram" not in json.dumps(measured.rows()) + json.dumps(measured.summary)
    assert {step for _, step in read_histograms(measured)} == set(range(1, 10))


@pytest.mark.filterwarnings("ignore:html5lib")
def test_tensorboards_dashboard_finds_them(tmp_path):
    """The plugin's own backend, with the reader of the server."""
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.distribution.distributions_plugin import DistributionsPlugin
    from tensorboard.plugins.histogram.histograms_plugin import HistogramsPlugin

    _, (run,) = train_runs(tmp_path, build_blobs("diagnostic=histograms"))
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    context = TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(tmp_path)))
    plugin, request = HistogramsPlugin(context), RequestContext()
    tags = plugin.index_impl(request, "")["0"]
    assert set(tags) == {tag for tag, _ in read_histograms(run)}
    body, _ = plugin.histograms_impl(request, "histogram/weight/output.weight", "0", "")
    assert {step: buckets for _, step, buckets in body} == {
        step: buckets
        for (tag, step), buckets in read_histograms(run).items()
        if tag == "histogram/weight/output.weight"
    }
    shown, _ = DistributionsPlugin(context).distributions_impl(request, "histogram/weight/output.weight", "0", "")
    assert [step for _, step, _ in shown] == [3, 6, 9]


def test_a_network_with_several_kinds_of_parameters_has_them_all(tmp_path):
    _, (run,) = train_runs(tmp_path, build_experiment("arch=cnn", "normalization=batch", "steps=1", "data=custom", "data._target_=mine.Blobs", "+data.shape=[1,8]", "arch.channels=[3,3]", "arch.kernels=[3,2]", f"device={DEVICE}", "batch_size=16",
                                        "diagnostic=histograms"))  # fmt: skip
    parameters = {tag.removeprefix("histogram/weight/") for tag, _ in read_histograms(run) if "/weight/" in tag}
    buffers = {name for name in run.load("last")["model"] if "running" in name}
    assert len(parameters) == len(run.load("last")["model"].keys() - buffers)
    assert {
        f"hidden.{k}{part}" for k in (0, 1) for part in (".weight", ".bias", ".norm.weight", ".norm.bias")
    } < parameters


def test_a_run_with_weights_that_are_not_finite_ends_as_without(tmp_path, monkeypatch):
    """Some weights are infinite and some NaN at a step with a measurement."""

    def step(rule, w, state, objective):
        loss, g = objective.gradient(w)
        broken = w.clone()
        broken[:20], broken[20:30] = torch.inf, torch.nan
        return Step(broken, state, loss, g)

    monkeypatch.setattr(mine.Sign, "step", step)
    own = ("optimizer=custom", "optimizer._target_=mine.Sign", "+optimizer.lr=0.1", "diagnostic=[histograms,activations]",
           "diagnostic.histograms.every=1")  # fmt: skip
    (summary,), (run,) = train_runs(tmp_path, build_blobs(*own))
    assert summary["status"] == "diverged"
    histograms = read_histograms(run)
    finite = {"hidden.0.weight": 2, "hidden.0.bias": 8, "output.weight": 24, "output.bias": 3}
    for name, count in finite.items():
        assert sum(n for _, _, n in histograms[f"histogram/weight/{name}", 1]) == count
