"""Properties of every diagnostic: training does not change, and lanes and resumed runs measure the same."""

import pytest
import torch
from helpers import (
    DEVICE,
    build_blobs,
    build_experiment,
    interrupt_run,
    list_options,
    load_weights,
    read_histograms,
    read_rows,
    resume_run,
    train_runs,
)

DIAGNOSTICS = [name for name in list_options("diagnostic") if name != "none"]
FULL = (
    "normalization=batch",
    "regularization=[l2,dropout]",
    "augmentation=custom",
    "augmentation.custom._target_=mine.Jitter",
    "+augmentation.custom.size=0.2",
    "activation=tanh",
    "batch_size=13",
)


def list_overrides(*options, every=2):
    return (
        *FULL,
        f"diagnostic=[{','.join(options)}]",
        *(f"diagnostic.{o}.every={every}" for o in options),
        *(["diagnostic.histograms.of=[weight,gradient,activation]"] if "histograms" in options else []),
    )


def test_training_does_not_change(tmp_path):
    """Weights and statistics have the same bits, and rows the same values beside the new tags."""
    (plain,), (run,) = train_runs(tmp_path / "plain", build_blobs(*FULL))
    (summary,), (measured,) = train_runs(tmp_path / "measured", build_blobs(*list_overrides(*DIAGNOSTICS, every=1)))
    assert torch.equal(load_weights(run), load_weights(measured))
    assert torch.equal(load_weights(run, "best"), load_weights(measured, "best"))
    rows = {row["step"]: row for row in read_rows(measured)}
    assert all(rows[row["step"]].items() >= row.items() for row in read_rows(run))
    assert len(read_histograms(measured)) + len(rows) > len(read_rows(run)), "nothing was measured"
    assert summary["evaluations"] == plain["evaluations"]


def test_lanes_measure_what_runs_alone_do(tmp_path):
    """One lane diverges at once and leaves the others."""
    one = (*list_overrides(*DIAGNOSTICS, every=1), "precision=float64", "optimizer=sgd", "epochs=2")
    variants = [
        ("optimizer.lr=1e300",),
        ("seed=1", "optimizer.lr=0.02"),
        ("seed=2", "optimizer.lr=0.01", "regularization.dropout.p=0.2"),
    ]
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*one, *v) for v in variants))
    for lane, v in zip(lanes[1:], variants[1:], strict=True):
        _, (run,) = train_runs(tmp_path / v[0], build_blobs(*one, *v))
        for mine, other in zip(read_rows(lane), read_rows(run), strict=True):
            assert mine == pytest.approx(other, rel=1e-9, abs=1e-9)
        check_histograms(lane, run)


def check_histograms(run, other):
    """Compare edges and counts. Only rounding moves a bias before batch normalization, so its counts are skipped."""
    actual, expected = read_histograms(run), read_histograms(other)
    assert actual.keys() == expected.keys()
    for tag, buckets in expected.items():
        edges, counts = torch.tensor(buckets).double().split([2, 1], dim=1)
        at, n = torch.tensor(actual[tag]).double().split([2, 1], dim=1)
        torch.testing.assert_close(at, edges, rtol=1e-9, atol=1e-12)
        if edges.abs().max() > 1e-12:
            torch.testing.assert_close(n, counts, rtol=0, atol=1e-6 if tag[0].endswith("density") else 0)


@pytest.mark.parametrize("stop", [2, 3])
def test_a_resumed_run_measures_the_same_bits(stop, tmp_path):
    """Interrupted after a step with a measurement, and after one without."""
    overrides = list_overrides(*DIAGNOSTICS)
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs(*overrides))

    run = interrupt_run(tmp_path / "run", stop, build_blobs(*overrides))
    _, again = resume_run(run.path, build_blobs(*overrides))
    assert torch.equal(load_weights(again), load_weights(straight))
    assert read_rows(again) == read_rows(straight)
    assert read_histograms(again) == read_histograms(straight)


@pytest.mark.parametrize("option", DIAGNOSTICS)
def test_it_measures_at_rows_or_at_every_n_steps(option, tmp_path):
    """The unit of dead is an epoch, of two steps here; distance measures at evaluations, too."""
    length = ("log_every=4", "eval_every=1", "batch_size=24", "epochs=6")
    _, (plain,) = train_runs(tmp_path / "plain", build_blobs(*FULL, *length))
    known = {name for row in read_rows(plain) for name in row}
    rows = {2, 4, 6, 8, 10, 12}
    for every, expected in (("null", rows), ("5", {"distance": rows | {5}, "dead": {10}}.get(option, {5, 10}))):
        _, (run,) = train_runs(tmp_path / every, build_blobs(*list_overrides(option, every=every), *length))
        steps = {row["step"] for row in read_rows(run) if row.keys() - known}
        assert steps | {step for _, step in read_histograms(run)} == expected


SERIES = ("data=custom", "data._target_=mine.Blobs", "+data.shape=[1,8]")
IMAGES = ("data=custom", "data._target_=mine.Blobs", "+data.shape=[1,9,9]")
CUSTOM = ("data=custom", "data._target_=mine.Blobs", "arch=custom")
NETWORKS = {
    **{name: (*SERIES, f"arch={name}") for name in list_options("arch") if name not in ("custom", "quadratic", "surface")},
    **{name: (*SERIES, f"arch={name}", "arch.width=0.05") for name in ("vgg", "googlenet")},
    **{name: (*IMAGES, f"arch={name}") for name in ("deepobs_2c2d", "deepobs_3c3d")},
    "quadratic": ("data=quadratic", "arch=quadratic"),
    "surface": ("data=none", "arch=surface", "batch_size=full"),
    "lstm of torch": (*CUSTOM, "arch._target_=mine.Recurrent"),
    "attention of torch": (*CUSTOM, "arch._target_=mine.Attention"),
    "a target for each step": ("data=custom", "data._target_=mine.StepLabels", "arch=custom", "arch._target_=mine.StepNet"),
    "full batch": (*SERIES, "arch=cnn", "normalization=batch", "batch_size=full"),
    "one example": (*SERIES, "arch=mlp", "batch_size=1"),
    "one weight": (*CUSTOM, "arch._target_=mine.OneWeight"),
    "one training example": (*SERIES, "arch=mlp", "batch_size=full", "data.train_size=1", "validation.fraction=0"),
    "weights of zero": (*SERIES, "arch=mlp", "init=zeros"),
    "micro-batches": (*SERIES, "arch=cnn", "normalization=batch", "micro_batch_size=5"),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("name", NETWORKS)
def test_all_together_measure_any_network_and_do_not_change_its_training(name, tmp_path):
    settings = (*NETWORKS[name], "steps=4", "eval_every=1", f"device={DEVICE}", "threads=1")
    settings = (*(() if any(s.startswith("batch_size") for s in settings) else ("batch_size=16",)), *settings)
    watched = [o for o in list_overrides(*DIAGNOSTICS, every=1) if o.startswith("diagnostic")]
    _, (plain,) = train_runs(tmp_path / "plain", build_experiment(*settings))
    _, (measured,) = train_runs(tmp_path / "measured", build_experiment(*settings, *watched))
    assert torch.equal(load_weights(plain), load_weights(measured))
    rows = read_rows(measured)
    assert {"sharpness/lambda_max", "curvature/trace", "alignment/alpha", "distance/init"} <= rows[-1].keys()


def test_they_end_with_a_run_that_diverges(tmp_path):
    """Their values are not finite then, which rows and pictures can hold."""
    watched = (*list_overrides(*DIAGNOSTICS, every=1), "optimizer=sgd", "optimizer.lr=1e30", "log_every=1")
    (summary,), (run,) = train_runs(tmp_path, build_blobs(*watched))
    assert summary["status"] == "diverged"
    assert read_rows(run)


@pytest.mark.parametrize("precision", ["bfloat16"])
def test_without_second_derivatives_they_measure_a_run_in(precision, tmp_path):
    """The others are refused, with the setting that helps."""
    from dlopt.config.problems import ConfigError

    curved = ("sharpness", "curvature", "alignment")
    others = [name for name in DIAGNOSTICS if name not in curved]
    _, (plain,) = train_runs(tmp_path / "plain", build_blobs(f"precision={precision}"))
    watched = list_overrides(*others, every=1)[len(FULL) :]
    _, (measured,) = train_runs(tmp_path / "measured", build_blobs(f"precision={precision}", *watched))
    assert torch.equal(load_weights(plain), load_weights(measured))
    for name in curved:
        with pytest.raises(ConfigError, match=f"diagnostic.{name}.*use precision=float32"):
            build_blobs(f"precision={precision}", f"diagnostic={name}")
