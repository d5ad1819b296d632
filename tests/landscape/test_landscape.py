"""Slices of the loss: grids against direct evaluation, directions as in the papers, PCA against scikit-learn."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from bits import write_checkpoint
from helpers import BLOBS
from matplotlib.text import Text
from sklearn.decomposition import PCA
from test_spectrum import compute_dense, make_network, make_predictor
from torch import nn
from torch.func import functional_call

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.cli import main
from dlopt.cli.landscape.flags import build_parser, check_flags, name_grid
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.landscape.build_slice import LANCZOS_STEPS, slice_along_eigenvectors, slice_at_random, slice_between
from dlopt.landscape.curvature import SplitCurvature
from dlopt.landscape.directions import draw_direction, find_principal_directions, project, span_plane
from dlopt.landscape.other_runs import compare_settings
from dlopt.landscape.representation import center_products, compute_cka
from dlopt.landscape.result_files import label_runs, name_run
from dlopt.landscape.slices import Slice, SliceEvaluator, evaluate_slice
from dlopt.report.landscape_figures import plot_contours, plot_profile, plot_similarity, plot_surface
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
        residual = float(found.labels[i - 1].partition("residual ")[2].rstrip(")"))
        assert f"(eigenvalue {values[-i]:.4g}, " in found.labels[i - 1]
        assert 0 < residual < 1e-8


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


def test_the_digest_of_a_slice_tells_what_its_values_depend_on():
    predictor = make_predictor(make_network("batch norm")[0])
    examples, grid = predictor.examples("train"), slice_at_random(predictor, 1, 3, 1.0, 0)
    evaluators = [
        SliceEvaluator(predictor, examples),
        SliceEvaluator(predictor, predictor.examples("train", 5)),
        SliceEvaluator(predictor, examples, examples),
        SliceEvaluator(predictor, examples, None, "another configuration"),
    ]
    digests = [evaluator.digest(grid) for evaluator in evaluators]
    digests.append(evaluators[0].digest(slice_at_random(predictor, 1, 3, 1.0, 1)))
    predictor.problem.autocast = torch.bfloat16
    digests.append(evaluators[0].digest(grid))
    predictor.loss = replace(predictor.loss, metrics=["error"])
    digests.append(evaluators[0].digest(grid))
    assert len(set(digests)) == len(digests)


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


@pytest.mark.parametrize(
    "changes",
    [
        {"names": ["\x1b[2J"]}, {"names": ["loss", "error"]}, {"names": None}, {"values": 3},
        {"values": torch.zeros(100, 1)}, {"values": torch.zeros(3)}, {"values": torch.zeros(2, 1, dtype=torch.int64)},
    ],
    ids=lambda changes: "-".join(f"{key}" for key in changes),
)  # fmt: skip
def test_partial_results_that_do_not_fit_are_ignored(changes, tmp_path):
    """Someone who gives away a run may know the digest."""
    predictor = make_predictor(make_network("mlp")[0])
    evaluator = SliceEvaluator(predictor, predictor.examples("train"))
    grid = slice_at_random(predictor, 2, 3, 1.0, 1)
    content = {"digest": evaluator.digest(grid), "names": ["loss"], "values": torch.full((4, 1), 7.0)}
    for own, is_used in ((content, True), (content | changes, False)):
        write_checkpoint(tmp_path / "partial", own)
        metrics = evaluate_slice(evaluator, grid, tmp_path / "partial", lambda count: None)
        assert list(metrics) == ["loss"]
        assert (metrics["loss"][0].item() == 7.0) == is_used


def make_grid(dims, points=5):
    axis = torch.linspace(-1, 1, points).double()
    return Slice(draw(4), draw(dims, 4), (axis,) * dims, ("a", "b")[:dims])


def read_texts(figure):
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(Text)]


@pytest.mark.parametrize("plot", [plot_contours, plot_surface, plot_profile])
@pytest.mark.parametrize("is_constant", [False, True])
def test_pictures_say_where_values_are_not_finite(plot, is_constant):
    grid = make_grid(1 if plot is plot_profile else 2)
    values = torch.ones(len(grid.coordinates())).double() if is_constant else draw(len(grid.coordinates())).exp() * 100
    for i, count in (([], 0), ([0, -1], 2)):
        values[i] = torch.tensor([torch.nan, torch.inf])[: len(i)].double()
        shown = {"loss": values, "error": values} if plot is plot_profile else values
        texts = [text for text in read_texts(plot(grid, shown, "loss", "title")) if "NaN or infinite" in text]
        where = "left out" if plot is plot_surface else "grey"
        assert texts == [f"{where}: loss is NaN or infinite at 2 of {len(values)} points"] * bool(count)


def test_a_profile_is_grey_from_finite_to_finite_values():
    values = torch.tensor([1.0, torch.nan, 2.0, 3.0, torch.inf, torch.inf]).double()
    figure = plot_profile(make_grid(1, 6), {"loss": values}, "loss", "title")
    spans = [patch.get_extents().transformed(figure.axes[0].transData.inverted()) for patch in figure.axes[0].patches]
    assert [(span.x0, span.x1) for span in spans] == [pytest.approx((-1, -0.2)), pytest.approx((0.2, 1))]


def test_rounding_is_drawn_as_a_constant():
    """Levels between values that differ by rounding would look like a landscape."""
    grid = make_grid(2)
    values = 2.0 + 1e-9 * draw(25)
    contours = plot_contours(grid, values, "loss", "title")
    assert contours.axes[1].get_ylim() == pytest.approx((2, 2.002))
    assert plot_surface(grid, values, "loss", "title").axes[0].get_zlim()[1] > 2.001


@pytest.mark.parametrize("count", [4, 16, 60])
def test_the_names_of_layers_do_not_cover_the_heading(count):
    layers = {f"hidden.{i}": torch.linspace(0.2, 1, 3) for i in range(count)}
    figure = plot_similarity([0, 5, 9], layers, "outputs/2026-01-01/12-00-00-cnn-adam, last checkpoint (step 9), train")
    figure.canvas.draw()
    heading, names = (artist.get_window_extent() for artist in (figure._suptitle, figure.legends[0]))
    assert not heading.overlaps(names)


@pytest.mark.parametrize("points", [2, 3, 15, 51, 99, 100])
@pytest.mark.parametrize("extent", [1e-9, 0.3, 1e20])
def test_the_middle_of_an_axis_is_the_run_itself(points, extent):
    predictor = make_predictor(make_network("mlp")[0])
    (axis,) = slice_at_random(predictor, 1, points, extent, 0).axes
    np.testing.assert_allclose(axis, np.linspace(-extent, extent, points), rtol=1e-12, atol=1e-12 * extent)
    assert torch.equal(axis, -axis.flip(0))
    assert (0 in axis) == bool(points % 2)


@pytest.mark.parametrize("points", [4, 7, 51, 100, 101])
@pytest.mark.parametrize("extent", [0.6, 1.0, 1.3])
def test_the_line_between_runs_has_a_point_at_each_run(points, extent):
    predictor = make_predictor(make_network("mlp")[0])
    (axis,) = slice_between(predictor, [predictor.w + 1], ["a", "b"], points, extent).axes
    assert 0 in axis and 1 in axis
    assert len(axis) == points and (axis.diff() > 0).all()
    spacing = np.linspace(0.5 - extent, 0.5 + extent, points)
    assert np.abs(axis.numpy() - spacing).max() <= 0.5 * (spacing[1] - spacing[0]) * (1 + 1e-9)


@pytest.mark.parametrize(("points", "extent"), [(2, 1.0), (3, 1.0), (5, 0.25), (7, 20.0)])
def test_few_points_or_a_short_line_may_miss_the_runs(points, extent):
    predictor = make_predictor(make_network("mlp")[0])
    (axis,) = slice_between(predictor, [predictor.w + 1], ["a", "b"], points, extent).axes
    np.testing.assert_allclose(axis, np.linspace(0.5 - extent, 0.5 + extent, points))


def test_labels_of_runs_are_short():
    assert label_runs([("outputs/1/a", 1), ("outputs/1/b", 2)]) == ["a", "b"]
    assert label_runs([("outputs/1/a", 1), ("outputs/2/a", 2), ("x", 3)]) == ["outputs/1/a", "outputs/2/a", "x"]
    assert label_runs([("outputs/a", 1), ("outputs/a", 2_000)]) == ["a, step 1", "a, step 2,000"]
    assert label_runs([("sweep/0", 1), ("sweep/12", 2)]) == ["run 0", "run 12"]
    assert label_runs([("a", 1), ("a/b", 2)]) == ["a", "a/b"]
    assert label_runs([("a/" + "x" * 200, 1), ("b", 2)]) == ["..." + "x" * 25, "b"]


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
    rows = read_csv("run/landscape/random-2d-val-last-3points.csv")
    center = next(row for row in rows if row["a"] == row["b"] == 0)
    for name in ("loss", "accuracy"):
        assert center[name] == pytest.approx(run.summary[f"last/val/{name}"], rel=1e-6)
    names = {path.name for path in (run.path / "landscape").iterdir()}
    pictures = {f"random-2d-val-last-3points-error-{kind}.png" for kind in ("contours", "surface")}
    assert names == pictures | {"random-2d-val-last-3points.csv"}


def test_between_runs_the_ends_are_their_losses(here, capsys):
    runs = [train(name, f"seed={seed}") for seed, name in enumerate(("one", "two", "three"))]
    losses = [load_predictor(run, "last", trust=True)[0].evaluate("train")["loss"] for run in runs[:1]]
    line = ["landscape", "--trust", "-q", "one", "--to", "two"]
    assert main([*line, "--points", "5", "--out", "mine"]) == 0
    rows = read_csv("mine/one-to-two-1d-train-last-5points.csv")
    assert [row["a"] for row in rows] == [-0.5, 0.0, 0.5, 1.0, 1.5]
    predictor, _ = load_predictor(runs[0], "last", trust=True)
    other = predictor.problem.layout.flatten(runs[1].load("last")["model"])
    predictor.w.copy_(other)
    losses.append(predictor.evaluate("train")["loss"])
    assert [rows[1]["loss"], rows[3]["loss"]] == pytest.approx(losses, rel=1e-6)
    assert main([*line, "--to", "three", "--points", "3", "--out", "mine"]) == 0
    assert len(read_csv("mine/one-to-two-three-2d-train-last-3points.csv")) == 9


def test_the_path_of_the_trajectory_is_projected(here, capsys):
    run = train("run", "checkpoint.every=5", "checkpoint.keep=9")
    assert main(["landscape", "--trust", "-q", "run", "--directions", "pca", "--points", "3"]) == 0
    rows = read_csv("run/landscape/pca-2d-train-last-3points-path.csv")
    predictor, _ = load_predictor(run, "last", trust=True)
    files = [*dict(sorted(run.older_checkpoints().items())).values(), run.checkpoint("last")]
    points = torch.stack([predictor.problem.layout.flatten(run.load_file(file)["model"]) for file in files]).double()
    theirs = PCA(2).fit(points.numpy())
    expected = (points - points[-1]).numpy() @ theirs.components_.T
    found = np.array([[row["a"], row["b"]] for row in rows])
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=2e-5)
    outside = (points - points[-1]).numpy() - expected @ theirs.components_
    lengths = np.linalg.norm(outside, axis=1)
    np.testing.assert_allclose([row["outside"] for row in rows], lengths, atol=2e-5)
    sines = lengths[:-1] / np.linalg.norm((points - points[-1])[:-1].numpy(), axis=1)
    np.testing.assert_allclose([row["projection_error"] for row in rows], [*sines, 0], atol=1e-4)
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
    assert [row["step"] for row in read_csv("few/landscape/pca-2d-train-last-3points-path.csv")] == [*points, 18]


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
    assert main(["landscape", "--trust", "-q", "run", "--cka"]) == 0
    rows = read_csv("run/landscape/cka-train.csv")
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
    folder = run.path / "landscape"
    assert {file.name for file in folder.iterdir()} == {"cka-train.csv", "cka-train.png"}
    for words in (["--directions", "random"], ["--directions", "pca", "--examples", "30"]):
        more = ["--dims", "1", "--points", "3", "--cka", "--out", "mine"]
        assert main(["landscape", "--trust", "-q", "run", *words, *more]) == 0
    files = {file.name for file in Path("mine").glob("*.csv")} - {"run-cka-train.csv", "run-cka-train-30examples.csv"}
    pca = "run-pca-1d-train-last-3points-30examples"
    assert files == {"run-random-1d-train-last-3points.csv", f"{pca}.csv", f"{pca}-path.csv"}
    assert read_csv("mine/run-cka-train.csv") == rows != read_csv("mine/run-cka-train-30examples.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--directions", "pca"],
            "--directions  pca needs a trajectory that spans 2 dimensions, and the run has 1 point, which spans 0 dimensions; train with",
        ),
        (["--to", "other"], "--to  arch.widths is [8] in run and [5] in other, so weights mean something else"),
        (["--to", "run"], "--to  the runs have the same weights"),
        (["--to", "nowhere"], "--to  "),
        (["--to", "run", "--directions", "pca"], "--directions  with --to"),
        (["--to", "run", "--dims", "2"], "--dims  1 --to makes 1 dimensions"),
        (["--cka"], "--cka  needs a trajectory of at least 2 points, and the run has 1; train with"),
        (["--cka", "--points", "9"], "--points  is of a grid, and --cka alone has none"),
        (["--to-checkpoint", "best"], "--to-checkpoint  is of the runs of --to"),
        (["--directions", "pca", "--seed", "1"], "--seed  is of random directions"),
        (["--points", "2000"], "--points  must make at most 1,000,000 points, got 2,000 along each of 2 axes"),
        (["--dims", "3"], "--dims  must be 1 or 2, got 3"),
        (["--to", "run", "--to", "run", "--to", "run"], "--to  takes one or two runs, got 3"),
        (["--metric", "speed"], "--metric  must be one of loss, accuracy, error, got speed"),
        (["--points", "1"], "--points  must be at least 2"),
        (["--checkpoint", "4"], "--checkpoint  run has none after step 4"),
        (["--to", "other", "--to-checkpoint", "4"], "--to-checkpoint  other has none after step 4"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(words, message, two_runs, capsys):
    here, before = two_runs
    assert main(["landscape", "--trust", "run", *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_the_metric_is_checked_before_the_eigenvectors_which_show_progress(two_runs, capsys, monkeypatch):
    counts: list[int] = []
    multiply = SplitCurvature.multiply
    monkeypatch.setattr(SplitCurvature, "multiply", lambda self, v: counts.append(1) or multiply(self, v))
    monkeypatch.setattr("dlopt.console.PLAIN_EVERY", 0.0)
    command = ["landscape", "--trust", "run", "--directions", "eigenvectors", "--points", "2", "--out", "eigen"]
    assert main([*command, "--metric", "speed"]) == 2
    assert not counts
    assert main(command) == 0
    assert len(counts) == LANCZOS_STEPS
    assert (
        f"eigenvectors: {48 * LANCZOS_STEPS:,} examples of {48 * LANCZOS_STEPS:,} examples" in capsys.readouterr().out
    )
    shutil.rmtree("eigen")


def test_other_flags_make_other_files():
    words = [
        [], ["--dims", "1"], ["--split", "val"], ["--checkpoint", "best"], ["--seed", "1"], ["--points", "101"],
        ["--extent", "2"], ["--extent", "2.0000001"], ["--examples", "10"], ["--statistics", "recomputed"],
        ["--statistics", "stored"], ["--directions", "pca"], ["--directions", "eigenvectors"], ["--to", "a"],
        ["--to", "b"], ["--to", "a", "--to", "b"], ["--to", "a", "--to-checkpoint", "best"],
        ["--to", "a", "--checkpoint", "best"], ["--to", "a", "--checkpoint", "5", "--to-checkpoint", "best"],
    ]  # fmt: skip
    names = []
    for each in words:
        args = build_parser().parse_args(each)
        assert check_flags(args)
        names.append(name_grid(args, args.to))
    assert len(set(names)) == len(words)
    assert names[0] == "random-2d-train-last"
    assert names[-1] == "to-a-1d-train-5-at-best"


def test_runs_have_other_names_in_those_of_files(here):
    paths = ["outputs/a/b", "a", "outputs/a", str(here / "c"), "../a", "x" * 200, "x" * 199 + "y", "\x1b[2J"]
    names = [name_run(RunDirectory(path)) for path in paths]
    assert names[:4] == ["a_b", "a", "a", "c"]
    assert len(set(names[3:])) == 5
    assert all(len(name) < 60 and name.isprintable() and "/" not in name for name in names)


# ------------------------------------------------------------------------------------------- other runs

SETTINGS = {
    "activation": {"_target_": "dlopt.activation.relu.ReLU"},
    "preprocess": {"standardize": {"_target_": "dlopt.preprocess.standardize.Standardize"}},
    "loss": {"_target_": "dlopt.loss.cross_entropy.CrossEntropy", "metrics": ["error"]},
    "regularization": {},
    "arch": {"_target_": "mine.Net", "stride": 2},
    "data": {"_target_": "dlopt.data.mnist1d.MNIST1D", "path": None, "train_size": None},
}


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({}, []),
        ({"seed": 3, "optimizer": {"lr": 1}, "regularization": {"l2": {"rate": 0.1}}}, []),
        ({"data": SETTINGS["data"] | {"path": "elsewhere", "train_size": 100, "label_noise": 0.1}}, []),
        ({"activation": {"_target_": "dlopt.activation.tanh.Tanh"}}, [("activation", "relu", "tanh")]),
        ({"activation": {"_target_": "their.ReLU"}}, [("activation", "relu", "their.ReLU")]),
        ({"preprocess": {}}, [("preprocess", "[standardize]", "[]")]),
        ({"loss": SETTINGS["loss"] | {"metrics": []}}, [("loss.metrics", "[error]", "[]")]),
        ({"arch": SETTINGS["arch"] | {"stride": 1, "pad": 1}}, [("arch.pad", "null", "1"), ("arch.stride", "2", "1")]),
        ({"data": {"_target_": "dlopt.data.digits.Digits"}}, [("data", "mnist1d", "digits")]),
        ({"data": 3}, [("data", "mnist1d", "None")]),
    ],
)
def test_settings_that_change_the_function_or_the_loss_are_found(changes, differences):
    assert list(compare_settings(SETTINGS, SETTINGS | changes)) == differences


def change_checkpoint(run, change, name="last"):
    content = run.load(name)
    change(content)
    write_checkpoint(run.checkpoint(name), content)


@pytest.mark.parametrize(
    ("factor", "message"), [(1.0, ""), (1.03, "outputs of two differ by"), (2.0, "give other outputs here")]
)
def test_fitted_preprocessing_of_another_run_may_differ_a_little(factor, message, here, capsys):
    """The statistics of another seed's training split do; the sign of a component would make another function."""
    one, two = (train(name, "preprocess=standardize") for name in ("one", "two"))

    def change(content):
        statistics = content["preprocessing"]["standardize"]
        for value in statistics.values():
            value.mul_(factor)
        for value in content["model"].values():
            value.mul_(1.01)

    change_checkpoint(two, change)
    before = one.checkpoint("last").read_bytes()
    capsys.readouterr()
    code = main(["landscape", "--trust", "-q", "one", "--to", "two", "--points", "2"])
    err = capsys.readouterr().err
    assert (code, message in err, bool(err)) == (2 if factor == 2 else 0, True, bool(message))
    assert one.checkpoint("last").read_bytes() == before


def test_the_line_to_another_checkpoint_of_the_same_run(here, capsys):
    run = train("run", "checkpoint.every=5", "checkpoint.keep=9")
    line = ["landscape", "--trust", "-q", "run", "--to", "run", "--points", "3"]
    assert main([*line, "--checkpoint", "5", "--to-checkpoint", "last"]) == 0
    rows = read_csv("run/landscape/to-run-1d-train-5-at-last-3points.csv")
    predictor, _ = load_predictor(run, "5", trust=True)
    start, end = (
        predictor.problem.layout.flatten(run.load_file(file)["model"])
        for file in (run.checkpoint_after(5), run.checkpoint("last"))
    )
    for row in rows:
        predictor.w.copy_(torch.lerp(start, end, row["a"]))
        assert row["loss"] == pytest.approx(predictor.evaluate("train")["loss"], rel=1e-5)
    assert main(line) == 2
    assert "name another run, or another --to-checkpoint" in capsys.readouterr().err


def test_damage_in_checkpoints_of_another_run_is_reported(here, capsys):
    train("one")
    two = train("two", "seed=1", "checkpoint.every=5", "checkpoint.keep=9")
    two.checkpoint("last").write_bytes(b"")
    assert main(["landscape", "--trust", "-q", "one", "--to", "two", "--points", "2"]) == 0
    assert "warning: last.safetensors is damaged" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- trajectories


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda point: point.update(w=point["w"][:-1]), "run  the trajectory in its checkpoint is damaged: each point must be a step and 67 weights"),
        (lambda point: point.update(w=point["w"].unsqueeze(0).expand(1000, -1)), "is damaged"),
        (lambda point: point.update(w=point["w"].long()), "is damaged"),
        (lambda point: point.update(w=3), "is damaged"),
        (lambda point: point.update(step="\x1b[2J"), "is damaged"),
        (lambda point: point.update(step=-1), "is damaged"),
        (lambda point: point.pop("w"), "is damaged"),
        (lambda point: point["w"].fill_(torch.nan), "warning: weights that are not finite are left out: those after step 8"),
        (lambda point: point["w"].fill_(torch.inf), "warning: weights that are not finite are left out: those after step 8"),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "flags", [["--directions", "pca", "--dims", "1", "--points", "3"], ["--cka"]], ids=["pca", "cka"]
)
def test_points_of_a_trajectory_that_are_no_weights(change, message, flags, two_runs, here, monkeypatch, capsys):
    shutil.copytree("stored", here / "copy")
    monkeypatch.chdir(here)
    change_checkpoint(RunDirectory("copy"), lambda content: change(content["diagnostics"]["trajectory"]["points"][2]))
    code = main(["landscape", "--trust", "-q", "copy", *flags])
    captured = capsys.readouterr()
    assert code == (0 if message.startswith("warning") else 2)
    assert message in captured.err
    assert "\x1b" not in captured.err
    if code == 0:
        (table,) = Path("copy/landscape").glob("*path.csv" if "pca" in flags else "cka*.csv")
        assert [row["step"] for row in read_csv(table)] == [0, 4, 12, 16, 18]


def test_a_damaged_older_checkpoint_is_left_out_of_the_path(here, capsys):
    run = train("run", "checkpoint.every=5", "checkpoint.keep=9")
    run.checkpoint_after(10).write_bytes(b"{}")
    assert main(["landscape", "--trust", "-q", "run", "--directions", "pca", "--points", "2"]) == 0
    assert "warning: checkpoint 10 is left out: it is damaged" in capsys.readouterr().err
    assert [row["step"] for row in read_csv("run/landscape/pca-2d-train-last-2points-path.csv")] == [5, 15, 18]


def test_weights_of_a_run_that_diverged_are_refused(here, capsys):
    assert main(["train", "-q", *BLOBS, "hydra.run.dir=none", "optimizer=sgd", "optimizer.lr=1e20"]) == 0
    assert main(["landscape", "--trust", "-q", "none"]) == 2
    assert "none has no checkpoint: it diverged before one was due" in capsys.readouterr().err
    wild = train("wild", "checkpoint.every=5", "checkpoint.keep=9")
    change_checkpoint(wild, lambda content: content["model"]["output.bias"].fill_(torch.inf))
    train("tame")
    for words, message in (
        (["wild"], "--checkpoint  the weights of step 18 are not finite: name an earlier one"),
        (["tame", "--to", "wild"], "--to  the weights of wild after step 18 are not finite"),
    ):
        assert main(["landscape", "--trust", "-q", *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["landscape", "--trust", "-q", "wild", "--checkpoint", "5", "--dims", "1", "--points", "2"]) == 0


@pytest.fixture(scope="module")
def runs_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def two_runs(runs_folder, here, monkeypatch):
    """Return a folder with two runs of different networks and one with a trajectory, and its paths."""
    monkeypatch.chdir(runs_folder)
    if not (runs_folder / "run").exists():
        train("stored", "diagnostic=trajectory", "diagnostic.trajectory.every=4", "checkpoint.keep=1")
        train("run", "checkpoint.keep=1")
        train("other", "arch.widths=[5]")
    return runs_folder, sorted(runs_folder.rglob("*"))
