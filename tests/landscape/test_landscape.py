"""Slices of the loss: grids against direct evaluation, directions as in the papers, PCA against scikit-learn."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import BLOBS
from sklearn.decomposition import PCA
from test_spectrum import compute_dense, make_network, make_predictor
from torch import nn
from torch.func import functional_call

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.cli import main
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.landscape.build_slice import slice_along_eigenvectors, slice_at_random
from dlopt.landscape.curvature import SplitCurvature
from dlopt.landscape.directions import draw_direction, find_principal_directions, project, span_plane
from dlopt.landscape.representation import center_products, compute_cka
from dlopt.landscape.slices import Slice, SliceEvaluator, evaluate_slice
from dlopt.report.landscape_figures import plot_contours, plot_profile, plot_surface
from dlopt.rundir.directory import RunDirectory

KEY = prng.key(1)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------------------------------- directions


def test_random_directions_have_the_norms_of_the_filters_and_leave_biases_and_norms():
    model = nn.Sequential(
        nn.Conv1d(2, 3, 4), nn.BatchNorm1d(3), nn.ConvTranspose1d(3, 5, 2), nn.Flatten(), nn.Linear(10, 4)
    ).double()
    layout = Layout.of(model)
    w = layout.flatten(dict(model.named_parameters())).detach()
    d, other = (layout.views(draw_direction(layout, w, prng.fold_in(KEY, i))) for i in range(2))
    for name, weights in layout.views(w).items():
        if name.endswith("bias") or name.startswith("1."):
            assert not d[name].any()
            continue
        dims = {"0.weight": (1, 2), "2.weight": (0, 2), "4.weight": 1}[name]  # of a unit's own weights
        torch.testing.assert_close(d[name].norm(dim=dims), weights.norm(dim=dims))
        cosine = F.cosine_similarity(d[name].flatten(), other[name].flatten(), 0)
        assert cosine.abs() < 0.7


def test_a_network_without_filters_has_no_random_directions():
    predictor = make_predictor(make_network("mlp")[0])
    predictor.w.zero_()
    with pytest.raises(ValueError, match="no matrices or kernels other than zero"):
        slice_at_random(predictor, 1, 3, 1.0, seed=0)


def test_principal_directions_are_those_of_scikit_learn():
    points = draw(7, 40) * torch.linspace(0.1, 3, 40).double() + 5
    directions, shares = find_principal_directions(points, 2)
    theirs = PCA(2).fit(points.numpy())
    signs = torch.sign((directions @ torch.from_numpy(theirs.components_).T).diagonal())
    torch.testing.assert_close(directions * signs.unsqueeze(1), torch.from_numpy(theirs.components_))
    np.testing.assert_allclose(shares, theirs.explained_variance_ratio_)
    assert ((points[-1] - points.mean(0)) @ directions.T > 0).all()
    for few, count in ((points[:1], 1), (points[:2], 2), (points[:1].expand(5, -1), 1)):
        with pytest.raises(ValueError, match=r"points?, which spans? \d dimension"):
            find_principal_directions(few, count)


def test_projections_are_least_squares_also_on_oblique_directions():
    points, center, directions = draw(5, 9), draw(9, seed=1), draw(2, 9, seed=2)
    found = project(points, center, directions)
    expected = torch.linalg.lstsq(directions.T, (points - center).T).solution.T
    torch.testing.assert_close(found.coordinates, expected)
    torch.testing.assert_close(found.outside, (points - center - expected @ directions).norm(dim=1))
    torch.testing.assert_close(found.distance, (points - center).norm(dim=1))


def test_the_plane_through_three_points_is_orthonormal_and_holds_them():
    a, b, c = draw(3, 9)
    directions = span_plane(a, b, c)
    torch.testing.assert_close(directions @ directions.T, torch.eye(2).double())
    found = project(torch.stack([a, b, c]), a, directions)
    assert found.outside.max() < 1e-12
    assert found.coordinates[1, 1].abs() < 1e-12
    with pytest.raises(ValueError, match="lie on a line"):
        span_plane(a, b, a + 0.3 * (b - a))


def test_eigenvectors_are_those_of_the_dense_hessian():
    predictor = make_predictor(make_network("mlp")[0])
    values, vectors = torch.linalg.eigh(compute_dense(predictor, "hessian"))
    curvature = SplitCurvature(predictor, predictor.examples("train"), "hessian")
    found = slice_along_eigenvectors(predictor, curvature, 2, 3, 1.0)
    for i, direction in enumerate(found.directions, 1):
        assert (direction @ vectors[:, -i]).abs() == pytest.approx(1, abs=1e-8)
        assert f"(eigenvalue {values[-i]:.4g})" in found.labels[i - 1]


# ------------------------------------------------------------------------------------------- grids


def evaluate_by_hand(predictor, w, stored=None):
    """Return the loss of a plain forward pass at w, at the model's statistics or at those of whole-split batches."""
    split = predictor.splits["train"][0]
    pieces = {**predictor.problem.layout.views(w), **(stored or {})}
    outputs = functional_call(predictor.model.eval(), pieces, (split.inputs,))
    predictor.model.train()
    return F.cross_entropy(outputs, split.targets).item()


@pytest.mark.parametrize("recomputed", [False, True], ids=["stored", "recomputed"])
@pytest.mark.parametrize("dims", [1, 2])
def test_a_grid_equals_direct_evaluation(dims, recomputed, tmp_path):
    """With recomputed statistics, the first normalization of a network stores the mean of its inputs."""
    model, _ = make_network("batch norm")
    predictor = make_predictor(model, micro_batch_size=None)
    before = predictor.w.clone(), {name: b.clone() for name, b in predictor.problem.running.items()}
    grid = slice_at_random(predictor, dims, 3, 0.5, seed=4)
    examples = predictor.examples("train")
    evaluator = SliceEvaluator(predictor, examples, examples if recomputed else None)
    counts: list[int] = []
    found = evaluate_slice(evaluator, grid, tmp_path / "partial", counts.append)
    assert sum(counts) == 3**dims == len(found["loss"])
    split = predictor.splits["train"][0]
    norm = next(name for name, m in model.named_modules() if hasattr(m, "running_mean"))
    seen: list[torch.Tensor] = []
    for a, loss in zip(grid.coordinates(), found["loss"], strict=True):
        w = before[0] + a @ grid.directions
        stored = None
        if recomputed:
            seen.clear()
            handle = model.get_submodule(norm).register_forward_pre_hook(lambda m, args: seen.append(args[0]))
            evaluate_by_hand(predictor, w)
            handle.remove()
            (h,) = seen
            stored = {f"{norm}.running_mean": h.mean(0), f"{norm}.running_var": h.var(0)}
        assert loss.item() == pytest.approx(evaluate_by_hand(predictor, w, stored), rel=1e-10)
    if dims == 2:
        assert grid.coordinates()[:4].tolist() == [[-0.5, -0.5], [0.0, -0.5], [0.5, -0.5], [-0.5, 0.0]]
    assert torch.equal(predictor.w, before[0])
    assert all(torch.equal(predictor.problem.running[name], b) for name, b in before[1].items())
    assert len(split) == examples.size


def test_a_killed_evaluation_continues_with_the_missing_points(tmp_path, monkeypatch):
    """Only on the same grid: the file names what it is a grid of."""
    monkeypatch.setattr("dlopt.landscape.slices.SAVE_EVERY", 0.0)
    predictor = make_predictor(make_network("mlp")[0])
    evaluator = SliceEvaluator(predictor, predictor.examples("train"))
    grid, other = (slice_at_random(predictor, 2, 3, 1.0, seed) for seed in (1, 2))
    whole = evaluate_slice(evaluator, grid, tmp_path / "whole", lambda count: None)

    def stop(count):
        nonlocal left
        left -= count
        if left <= 0:
            raise KeyboardInterrupt

    left = 5
    with pytest.raises(KeyboardInterrupt):
        evaluate_slice(evaluator, grid, tmp_path / "partial", stop)
    assert torch.equal(predictor.w, grid.center)
    for each, done in ((grid, 4), (other, 0)):
        counts: list[int] = []
        found = evaluate_slice(evaluator, each, tmp_path / "partial", counts.append)
        assert counts == [done] + [1] * (9 - done)
        assert torch.equal(found["loss"], whole["loss"]) == (each is grid)


def test_pictures_of_values_that_are_not_finite():
    center = draw(4)
    for dims in (1, 2):
        axis = torch.linspace(-1, 1, 5).double()
        grid = Slice(center, draw(dims, 4), (axis,) * dims, ("a", "b")[:dims])
        for values in (draw(5**dims).exp() * 100, torch.ones(5**dims).double()):
            values[0], values[-1] = torch.nan, torch.inf
            plots = [plot_contours, plot_surface] if dims == 2 else []
            for plot in plots:
                plot(grid, values, "loss", "title").draw_without_rendering()
            if dims == 1:
                plot_profile(grid, {"loss": values, "error": values}, "loss", "title").draw_without_rendering()


# ------------------------------------------------------------------------------------------- the command


def train(name, *keys):
    assert main(["train", "-q", *BLOBS, f"hydra.run.dir={name}", "epochs=6", *keys]) == 0
    return RunDirectory(name)


def read_csv(file):
    with Path(file).open(newline="") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def test_the_center_is_the_loss_of_the_run(here, capsys):
    run = train("run", "normalization=batch", "regularization=[l2,dropout]")
    assert main(["landscape", "--trust", "-q", "run", "--split", "val", "--points", "3", "--metric", "error"]) == 0
    rows = read_csv("run/landscape/random-2d-val-last.csv")
    center = next(row for row in rows if row["a"] == row["b"] == 0)
    for name in ("loss", "accuracy"):
        assert center[name] == pytest.approx(run.summary[f"last/val/{name}"], rel=1e-6)
    names = {path.name for path in (run.path / "landscape").iterdir()}
    pictures = {f"random-2d-val-last-error-{kind}.png" for kind in ("contours", "surface")}
    assert names == pictures | {"random-2d-val-last.csv"}


def test_between_runs_the_ends_are_their_losses(here, capsys):
    runs = [train(name, f"seed={seed}") for seed, name in enumerate(("one", "two", "three"))]
    losses = [load_predictor(run, "last", trust=True)[0].evaluate("train")["loss"] for run in runs[:1]]
    line = ["landscape", "--trust", "-q", "one", "--to", "two"]
    assert main([*line, "--points", "5", "--out", "mine"]) == 0
    rows = read_csv("mine/between-runs-1d-train-last.csv")
    assert [row["a"] for row in rows] == [-0.5, 0.0, 0.5, 1.0, 1.5]
    predictor, _ = load_predictor(runs[0], "last", trust=True)
    other = predictor.problem.layout.flatten(runs[1].load("last")["model"])
    predictor.w.copy_(other)
    losses.append(predictor.evaluate("train")["loss"])
    assert [rows[1]["loss"], rows[3]["loss"]] == pytest.approx(losses, rel=1e-6)
    assert main([*line, "--to", "three", "--points", "3", "--out", "mine"]) == 0
    assert len(read_csv("mine/between-runs-2d-train-last.csv")) == 9


def test_the_path_of_the_trajectory_is_projected(here, capsys):
    run = train("run", "checkpoint.every=5", "checkpoint.keep=9")
    assert main(["landscape", "--trust", "-q", "run", "--directions", "pca", "--points", "3"]) == 0
    rows = read_csv("run/landscape/pca-2d-train-last-path.csv")
    predictor, _ = load_predictor(run, "last", trust=True)
    files = [*dict(sorted(run.older_checkpoints().items())).values(), run.checkpoint("last")]
    points = torch.stack([predictor.problem.layout.flatten(run.load_file(file)["model"]) for file in files]).double()
    theirs = PCA(2).fit(points.numpy())
    expected = (points - points[-1]).numpy() @ theirs.components_.T
    found = np.array([[row["a"], row["b"]] for row in rows])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-5)
    outside = (points - points[-1]).numpy() - expected @ theirs.components_
    np.testing.assert_allclose([row["outside"] for row in rows], np.linalg.norm(outside, axis=1), atol=2e-5)
    assert [row["step"] for row in rows] == [5, 10, 15, 18]
    assert f"{theirs.explained_variance_ratio_[0]:.1%} of the variance" in capsys.readouterr().out


def test_the_diagnostic_stores_a_bounded_path_from_the_initial_weights(here, capsys):
    """Its points are those of checkpoints at the same steps, and its length is the sum of the distances."""
    stored = ("diagnostic=trajectory", "diagnostic.trajectory.every=1", "diagnostic.trajectory.points=7")
    run = train("run", *stored, "checkpoint.every=1", "checkpoint.keep=99")
    points = {point["step"]: point["w"] for point in run.load("last")["diagnostics"]["trajectory"]["points"].values()}
    assert list(points) == [0, 4, 8, 12, 16]
    predictor, _ = load_predictor(run, "last", trust=True)
    kept = {0: points[0]} | {
        step: predictor.problem.layout.flatten(run.load_file(file)["model"])
        for step, file in sorted(run.older_checkpoints().items())
    }
    assert all(torch.equal(w, kept[step]) for step, w in points.items())
    path = torch.stack([*kept.values(), predictor.w]).double()
    assert len(path) == 19
    lengths = [row["trajectory/length"] for row in run.rows()]
    assert lengths[-1] == pytest.approx(path.diff(dim=0).norm(dim=1).sum().item(), rel=1e-5)

    train("few", *stored, "checkpoint.keep=1")
    assert main(["landscape", "--trust", "-q", "few", "--directions", "pca", "--points", "3"]) == 0
    assert [row["step"] for row in read_csv("few/landscape/pca-2d-train-last-path.csv")] == [*points, 18]


def test_a_path_that_would_take_too_much_memory_is_refused(here, capsys):
    """Before the run starts."""
    keys = ("diagnostic=trajectory", "diagnostic.trajectory.max_mb=0.002")
    assert main(["train", "-q", *BLOBS, "hydra.run.dir=run", *keys]) == 2
    err = capsys.readouterr().err
    assert "diagnostic.trajectory" in err
    assert "30 points and the latest weights, of 67 weights each, take 0.008308 MB" in err
    assert "use points=6, or a larger max_mb" in err
    assert not Path("run").exists()
    fitting = ("diagnostic.trajectory.points=6", "diagnostic.trajectory.every=1")
    assert main(["train", "-q", *BLOBS, "hydra.run.dir=run", *keys, *fitting]) == 0
    stored = RunDirectory("run").load("last")["diagnostics"]["trajectory"]
    assert 4 * 67 * (len(stored["points"]) + 1) <= 2000


def test_cka_is_that_of_the_definition_and_knows_rotations_and_scales():
    """In the form with covariances, of the source."""
    x, y = draw(30, 4), draw(30, 6, seed=1)
    a, b = x - x.mean(0), y - y.mean(0)
    expected = (b.T @ a).square().sum() / ((a.T @ a).norm() * (b.T @ b).norm())
    products = [center_products(z.view(30, 2, -1)) for z in (x, y)]
    assert compute_cka(*products).item() == pytest.approx(expected.item())
    q = torch.linalg.qr(draw(4, 4, seed=2)).Q
    assert compute_cka(products[0], center_products(3 * x @ q + 5)).item() == pytest.approx(1)
    assert compute_cka(products[0], center_products(torch.ones(30, 2))).isnan()


def test_layers_are_compared_with_the_end_of_training(here, capsys):
    """Hidden units are those of a forward pass by hand; batch normalization uses the statistics of the examples."""
    keys = ("normalization=batch", "precision=float64", "diagnostic=trajectory", "validation.fraction=0")
    run = train("run", *keys)
    words = ["--directions", "pca", "--points", "3", "--cka"]
    assert main(["landscape", "--trust", "-q", "run", *words]) == 0
    rows = read_csv("run/landscape/pca-2d-train-last-cka.csv")
    predictor, _ = load_predictor(run, "last", trust=True)
    x = predictor.examples("train").all()[0]
    points = run.load("last")["diagnostics"]["trajectory"]["points"].values()
    assert [row["step"] for row in rows] == [point["step"] for point in points]
    hidden = []
    for point in points:
        p = predictor.problem.layout.views(point["w"])
        h = x @ p["hidden.0.weight"].T + p.get("hidden.0.bias", 0.0)
        h = (h - h.mean(0)) / (h.var(0) + 1e-5).sqrt() * p["hidden.1.weight"] + p["hidden.1.bias"]
        hidden.append(center_products(h.relu()))
    expected = [compute_cka(k, hidden[-1]).item() for k in hidden]
    assert [row["hidden.0"] for row in rows] == pytest.approx(expected, rel=1e-6)
    assert rows[-1]["output"] == pytest.approx(1)
    assert (run.path / "landscape/pca-2d-train-last-cka.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--directions", "pca"],
            "--directions  pca needs a trajectory that spans 2 dimensions, and the run has 1 point, which spans 0 dimensions; train with",
        ),
        (["--to", "other"], "--to  the checkpoint is of another network"),
        (["--to", "run"], "--to  the runs have the same weights"),
        (["--to", "nowhere"], "--to  "),
        (["--to", "run", "--directions", "pca"], "--directions  with --to"),
        (["--to", "run", "--dims", "2"], "--dims  1 --to makes 1 dimensions"),
        (["--cka"], "--cka  compares the points of a trajectory: add --directions pca"),
        (["--dims", "3"], "--dims  must be 1 or 2, got 3"),
        (["--to", "run", "--to", "run", "--to", "run"], "--to  takes one or two runs, got 3"),
        (["--metric", "speed"], "--metric  must be one of loss, accuracy, error, got speed"),
        (["--points", "1"], "--points  must be at least 2"),
        (["--checkpoint", "4"], "has none after step 4"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(words, message, two_runs, capsys):
    here, before = two_runs
    assert main(["landscape", "--trust", "run", *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def two_runs(runs_folder, here, monkeypatch):
    """Return a folder with two runs of different networks, and its paths."""
    monkeypatch.chdir(runs_folder)
    if not (runs_folder / "run").exists():
        train("run", "checkpoint.keep=1")
        train("other", "arch.widths=[5]")
    return runs_folder, sorted(runs_folder.rglob("*"))
