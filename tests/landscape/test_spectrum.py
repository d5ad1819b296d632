"""Eigenvalues of a network's loss over a split: dense Hessians, the definition of the density, and PyHessian."""

import copy
import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import BLOBS, make_arch, make_option
from pyhessian import hessian as PyHessian
from torch import nn
from torch.autograd.functional import hessian as torch_hessian
from torch.autograd.functional import jacobian as torch_jacobian
from torch.func import functional_call

from dlopt import prng
from dlopt.activation.tanh import Tanh
from dlopt.base.data import Split
from dlopt.cli import main
from dlopt.landscape.curvature import PRODUCTS, SplitCurvature
from dlopt.landscape.spectrum import Spectrum, estimate_spectrum
from dlopt.linalg.diagonal import Estimate
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.second_derivatives import LayerError, second_derivatives
from dlopt.regularization.dropout import Dropout
from dlopt.report.spectrum_figures import plot_density, plot_over_training
from dlopt.rundir.directory import RunDirectory
from dlopt.storage import checkpoint_file, memory
from dlopt.training.inference import Predictor

CLASSES = 3
DROPOUT = Dropout(0.3, 0.2, "test")


class Attention(nn.Module):
    """Attention over the positions of a series, then a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.recurrent = nn.GRU(4, 3, batch_first=True)
        self.output = nn.Linear(3, CLASSES)

    def forward(self, x):
        h = self.embed(x.transpose(1, 2))
        h, _ = self.attention(h, h, h, need_weights=False)
        return self.output(self.recurrent(h)[0][:, -1])


class Distances(nn.Module):
    """Distances to the rows of a matrix, by a kernel whose backward pass torch cannot differentiate."""

    def forward(self, x):
        return torch.cdist(x, torch.eye(x.shape[1], dtype=x.dtype), p=1.5)


class Scale(nn.Module):
    """Outputs a x, x, 0 for inputs x, (N, 1): a is the only weight."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return torch.cat([self.a.sin() * x, x, 0 * x], 1)


def make_network(name):
    """Return a small network for series of length 6, and its regularizations."""
    batch, tanh = make_option("normalization", "batch"), Tanh()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return {
            "mlp": lambda: (make_arch("mlp", (1, 6), CLASSES, tanh, widths=[4]), ()),
            "cnn": lambda: (make_arch("cnn", (1, 6), CLASSES, tanh, channels=[3], kernels=[3]), ()),
            "batch norm": lambda: (make_arch("mlp", (1, 6), CLASSES, tanh, batch, widths=[4]), ()),
            "dropout": lambda: (make_arch("mlp", (1, 6), CLASSES, tanh, None, DROPOUT, widths=[4]), (DROPOUT,)),
            "resnet": lambda: (make_arch("resnet", (1, 6), CLASSES, tanh, batch, channels=[2, 3], blocks=1), ()),
            "attention": lambda: (Attention(), ()),
        }[name]()  # fmt: skip


def draw_split(count=11):
    g = torch.Generator().manual_seed(2)
    return Split(torch.randn(count, 1, 6, generator=g).double(), torch.randint(CLASSES, (count,), generator=g))


def make_predictor(model, rules=(), split=None, **keys):
    """Return a predictor in float64, whose stored statistics are not those of a batch."""
    for name, b in model.named_buffers():
        b.copy_(torch.linspace(0.5, 1.5, b.numel()) if "var" in name else torch.linspace(-0.3, 0.4, b.numel()))
    keys = {"micro_batch_size": 4, "dtype": torch.float64} | keys
    return Predictor(
        model, CrossEntropy([], None), regularization=rules, splits={"train": (split or draw_split(),)}, **keys
    )


def compute_dense(predictor, matrix, factor=1.0):
    """Return the Hessian or the Gauss-Newton matrix of the mean loss of a plain forward pass over the whole split."""
    split = predictor.splits["train"][0]
    model = copy.deepcopy(predictor.model).eval()
    views = predictor.problem.layout.views

    def outputs(w):
        return functional_call(model, views(w), (factor * split.inputs,))

    def loss(w):
        return F.cross_entropy(outputs(w), split.targets)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        if matrix == "hessian":
            return torch_hessian(loss, predictor.w.clone())
        j = torch_jacobian(outputs, predictor.w.clone()).flatten(0, 1)
        h = torch_hessian(lambda z: F.cross_entropy(z, split.targets), outputs(predictor.w).detach())
        return j.T @ h.view(len(j), len(j)) @ j


@pytest.mark.parametrize("name", ["mlp", "cnn", "batch norm", "dropout", "resnet", "attention"])
@pytest.mark.parametrize("matrix", PRODUCTS)
def test_products_are_those_of_the_dense_matrix_of_inference(name, matrix):
    """Over chunks of a split, at stored statistics and without dropout, whose other form scales inputs and units."""
    model, rules = make_network(name)
    predictor = make_predictor(model, rules)
    dense = compute_dense(predictor, matrix, 0.8 if rules else 1.0)
    v = prng.normal(prng.key(3), (len(dense),)).double()
    for chunks, size in (([4, 4, 3], 4), ([11, 11], None)):
        predictor.problem.micro_batch_size = size
        counts: list[int] = []
        curvature = SplitCurvature(predictor, predictor.examples("train"), matrix, counts.append)
        torch.testing.assert_close(curvature.multiply(v), dense @ v, rtol=1e-9, atol=1e-11)
        if size is None:
            torch.testing.assert_close(curvature.multiply(2 * v), 2 * dense @ v, rtol=1e-9, atol=1e-11)
        assert counts == chunks
    assert model.training  # the predictor's own network is left as it was


@pytest.mark.parametrize("precision", [None, torch.bfloat16])
def test_products_are_taken_in_the_precision_of_the_run(precision):
    model, _ = make_network("mlp")
    split = draw_split()
    split = Split(split.inputs.float(), split.targets)
    dtypes = set()
    next(m for m in model.modules() if isinstance(m, nn.Linear)).register_forward_hook(
        lambda module, inputs, outputs: dtypes.add(outputs.dtype)
    )
    predictor = make_predictor(model, split=split, dtype=torch.float32, autocast=precision)
    v = prng.normal(prng.key(3), (len(predictor.w),))
    product = SplitCurvature(predictor, predictor.examples("train"), "hessian").multiply(v)
    assert dtypes == {precision or torch.float32}
    dense = compute_dense(predictor, "hessian")
    assert (product - dense @ v).norm() < (0.02 if precision else 1e-5) * product.norm()


@pytest.mark.parametrize("matrix", PRODUCTS)
def test_all_steps_give_every_eigenvalue_its_weight_and_the_trace(matrix):
    """The weights are the squared parts of the start along the eigenvectors: the density's definition."""
    model, _ = make_network("mlp")
    predictor = make_predictor(model)
    curvature = SplitCurvature(predictor, predictor.examples("train"), matrix)
    size, key = len(predictor.w), prng.key(4)
    dense = torch.stack([curvature.multiply(row) for row in torch.eye(size).double()])
    values, vectors = torch.linalg.eigh(dense)
    found = estimate_spectrum(curvature.multiply, predictor.w, 10 * size, 3, key)
    assert found.size == size
    moments = (found.values ** torch.arange(1, 5).view(4, 1, 1) * found.weights).sum(-1)
    for i in range(3):
        start = prng.rademacher(prng.fold_in(key, i), (size,)).double()
        weights = (start @ vectors).square() / size
        torch.testing.assert_close(moments[:, i], (values ** torch.arange(1, 5).view(4, 1)) @ weights)
        for value in values[values.abs() > 1e-3]:
            assert (found.values[i] - value).abs().min() < 1e-9
    assert (found.trace.value - dense.trace()).abs() < 4 * found.trace.error
    one = estimate_spectrum(curvature.multiply, predictor.w, 5, 1, key)
    assert one.trace.error.isnan()


def test_the_density_is_the_mixture_of_gaussians():
    """It integrates to 1, and a single eigenvalue has the peak that the picture marks."""
    values = torch.tensor([[-1.0, 0.0, 9.0], [0.0, 0.5, 4.0]]).double()
    weights = torch.tensor([[0.2, 0.7, 0.1], [0.6, 0.3, 0.1]]).double()
    found = Spectrum(values, weights, torch.zeros_like(values), Estimate(torch.tensor(0.0), torch.tensor(0.0)), 20)
    grid, density = found.density()
    normal = torch.distributions.Normal(values.flatten(), torch.tensor(found.width).double())
    expected = normal.log_prob(grid.unsqueeze(-1)).exp() @ weights.flatten() / 2
    torch.testing.assert_close(density, expected)
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)
    assert (
        found.peak_of_one()
        == pytest.approx(density[(grid - 9).abs().argmin()].item(), rel=1e-2)
        == pytest.approx(1 / (20 * 0.04 * (2 * torch.pi) ** 0.5), rel=1e-2)
    )
    assert found.shares() == pytest.approx((0.1, 0.65, 0.25))


def test_outliers_are_the_converged_eigenvalues_that_stand_apart():
    """A close pair, and what lies behind it, does not."""
    q = torch.linalg.qr(prng.normal(prng.key(5), (200, 200)).double()).Q
    for apart, expected in (([-3.0, 2.0, 5.0, 9.0], [9.0, 5.0, -3.0, 2.0]), ([-3.0, 5.0, 5.02, 9.0], [9.0, -3.0])):
        matrix = (q * torch.cat([torch.linspace(-0.5, 0.5, 196), torch.tensor(apart)]).double()) @ q.T
        found = estimate_spectrum(lambda v, matrix=matrix: v @ matrix, matrix[0], 40, 2, prng.key(6))
        assert [value for value, _ in found.outliers()] == pytest.approx(expected, abs=1e-6)
        few = estimate_spectrum(lambda v, matrix=matrix: v @ matrix, matrix[0], 2, 1, prng.key(6))
        assert not few.outliers()


@pytest.mark.filterwarnings("ignore:Using backward")
def test_eigenvalues_and_trace_are_those_of_pyhessian():
    """Of a network of 4,900 weights with batch normalization, in float32."""
    g = torch.Generator().manual_seed(3)
    split = Split(torch.randn(128, 1, 32, generator=g), torch.randint(10, (128,), generator=g))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = make_arch("mlp", (1, 32), 10, Tanh(), make_option("normalization", "batch"), widths=[64, 32])
        predictor = make_predictor(model, split=split, dtype=torch.float32)
        curvature = SplitCurvature(predictor, predictor.examples("train"), "hessian")
        found = estimate_spectrum(curvature.multiply, predictor.w, 40, 3, prng.key(7))
        theirs = PyHessian(model.eval(), F.cross_entropy, data=(split.inputs, split.targets), cuda=False)
        top, _ = theirs.eigenvalues(top_n=2, maxIter=300, tol=1e-6)
        assert found.values[0].flip(0)[:2].tolist() == pytest.approx(top, rel=2e-2)
        traces = torch.tensor(theirs.trace(maxIter=60, tol=0))
        error = (traces.var() / len(traces) + found.trace.error**2).sqrt()
        assert (found.trace.value - traces.mean()).abs() < 4 * error


def test_a_layer_without_a_second_derivative_is_named():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), Distances(), nn.Linear(4, CLASSES))
    predictor = make_predictor(model)
    curvature = SplitCurvature(predictor, predictor.examples("train"), "hessian")
    with pytest.raises(LayerError, match=r"^2 \(Distances\) has no second derivative"):
        curvature.multiply(predictor.w)


# ------------------------------------------------------------------------------------------- the command


@pytest.fixture
def run(here):
    """Return a small run with three checkpoints."""
    keys = ("precision=float64", "checkpoint.every=3", "checkpoint.keep=5", "hydra.run.dir=run", "arch.widths=[3]")
    assert main(["train", "-q", *BLOBS, *keys]) == 0
    return RunDirectory("run")


def read_csv(file):
    with Path(file).open(newline="") as stream:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(stream)]


def test_the_command_writes_the_eigenvalues_of_each_kept_checkpoint(run, capsys):
    assert main(["spectrum", "--trust", "-q", "run", "--checkpoint", "all", "--vectors", "2", "--out", "mine"]) == 0
    out = capsys.readouterr().out
    rows = read_csv("mine/run-hessian-train-all-2vectors.csv")
    assert {row["step"] for row in rows} == {3, 6, 9}
    assert (run.path.parent / "mine/run-hessian-train-all-2vectors.png").read_bytes().startswith(b"\x89PNG")
    assert "27 weights" in out and "48 examples" in out
    assert main(["show", "run", "--png", "curves"]) == 0
    assert capsys.readouterr().out.splitlines() == ["curves.png"]
    for step, name in ((3, "3"), (9, "last")):
        assert main(["spectrum", "--trust", "-q", "run", "--checkpoint", name, "--vectors", "2"]) == 0
        one = read_csv(f"run/spectrum/hessian-train-{name}-2vectors.csv")
        assert one == [row for row in rows if row["step"] == step]
        assert {row["vector"] for row in one} == {0, 1}
    capsys.readouterr()
    assert main(["show", "run", "--png", "curves"]) == 0
    pictures = [f"run/spectrum/hessian-train-{name}-2vectors.png" for name in ("3", "last")]
    assert capsys.readouterr().out.splitlines() == ["curves.png", *pictures]


def test_spectra_of_other_flags_and_other_runs_have_files_of_their_own(run, capsys):
    flags = ([], ["--examples", "7"], ["--vectors", "2"], ["--lanczos-steps", "3"], ["--matrix", "gauss_newton"])
    for words in flags:
        assert main(["spectrum", "--trust", "-q", "run", *words]) == 0
    assert len(list(run.results("spectrum").glob("*.csv"))) == len(flags)
    shutil.copytree(run.path, "other")
    for name in ("run", "other"):
        assert main(["spectrum", "--trust", "-q", name, "--out", "mine"]) == 0
    assert {path.name for path in Path("mine").glob("*.csv")} == {
        "run-hessian-train-last.csv", "other-hessian-train-last.csv"
    }  # fmt: skip


def spoil(run, name):
    """Damage the last checkpoint of a run, or the one after some steps, or give it other weights."""
    where, what = name.split()
    file = run.checkpoint("last") if where == "last" else run.checkpoint_after(int(where))
    if what == "damaged":
        file.write_bytes(file.read_bytes()[:-9])
        return
    content = checkpoint_file.load(file)
    weight = content["model"]["output.weight"]
    others = {"diverged": torch.nan * weight, "huge": 1e308 * weight.sign(), "other": weight[:, :2].clone()}
    content["model"]["output.weight"] = others[what]
    with file.open("wb") as stream:
        checkpoint_file.write(stream, content)


@pytest.mark.parametrize(
    ("names", "left", "message"),
    [
        (["3 damaged"], {6, 9}, "checkpoint 3 is left out: it is damaged"),
        (["6 damaged"], {3, 9}, "checkpoint 6 is left out: it is damaged"),
        (["last damaged"], {3, 6}, "last.safetensors is damaged"),
        (["6 diverged"], {3, 9}, "checkpoint 6 is left out: its weights are not finite"),
        (["6 other"], {3, 9}, "checkpoint 6 is left out: the checkpoint is of another network"),
        (["3 huge"], {6, 9}, "the Hessian at step 3 is not finite"),
        (["3 damaged", "last diverged"], {6}, "only one checkpoint is kept"),
    ],
)
def test_checkpoints_that_cannot_be_used_are_named_and_left_out(names, left, message, run, capsys):
    for name in names:
        spoil(run, name)
    assert main(["spectrum", "--trust", "-q", "run", "--checkpoint", "all", "--vectors", "1"]) == 0
    assert message in capsys.readouterr().err
    assert {row["step"] for row in read_csv("run/spectrum/hessian-train-all-1vectors.csv")} == left


def test_without_a_usable_checkpoint_nothing_is_computed(run, capsys):
    for name in ("3 damaged", "6 diverged", "last damaged"):
        spoil(run, name)
    assert main(["spectrum", "--trust", "-q", "run", "--checkpoint", "all"]) == 2
    err = capsys.readouterr().err
    assert "checkpoint 3 is left out: it is damaged" in err
    assert "checkpoint 6 is left out: its weights are not finite" in err
    assert not (run.path / "spectrum").exists()


OUT_OF_MEMORY = (
    MemoryError(),
    memory.NotEnoughMemoryError("it needs 7,001 MB of memory, and 5 MB are free"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_a_lack_of_memory_is_reported_with_the_flags_that_help(error, run, capsys, monkeypatch):
    def fail(*args):
        raise error

    monkeypatch.setattr(SplitCurvature, "multiply", fail)
    assert main(["spectrum", "--trust", "-q", "run"]) == 2
    err = capsys.readouterr().err
    assert "--lanczos-steps  more memory is needed than available; use fewer steps, each of which takes" in err
    assert "less than 48 --examples" in err


def test_a_lack_of_memory_is_not_blamed_on_layers():
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), Distances(), nn.Linear(4, CLASSES))
    for error in OUT_OF_MEMORY:
        with pytest.raises(type(error)) as caught, second_derivatives(model, torch.zeros(2, 6), is_recurrent=False):
            raise error
        assert caught.value is error
    with pytest.raises(LayerError, match="Distances"), second_derivatives(model, torch.zeros(2, 6), is_recurrent=False):
        raise RuntimeError("not implemented")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "4"], "has none after step 4"),
        (["--split", "val"], "no validation split"),
        (["--out", "file"], "file is not a directory"),
        (["--examples", "0"], "at least 1, got 0"),
        (["--vectors", "1"], "is a symbolic link"),
        (["--checkpoint", "last"], "the weights of step 2 are not finite"),
        (["--checkpoint", "last"], "the Hessian at step 2 is not finite"),
        (["--checkpoint", "last"], "run has no checkpoint yet"),
        (["--checkpoint", "all"], "run has no checkpoint yet"),
    ],
)
def test_bad_input_is_refused_and_leaves_nothing(words, message, here, capsys):
    keys = ("hydra.run.dir=run", "validation.fraction=0", "steps=2", "precision=float64")
    assert main(["train", "-q", *BLOBS, *keys]) == 0
    (here / "file").write_text("")
    if message == "is a symbolic link":
        (here / "run/spectrum").symlink_to(here / "elsewhere")
    if message.endswith("finite"):
        spoil(RunDirectory("run"), "last diverged" if "weights" in message else "last huge")
    if message.endswith("checkpoint yet"):
        shutil.rmtree("run/checkpoints")
    before = sorted(here.rglob("*"))
    capsys.readouterr()
    try:
        code = main(["spectrum", "--trust", "run", *words])
    except SystemExit as error:
        code = error.code
    assert code == 2
    assert message in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize("matrix", PRODUCTS)
def test_one_example_and_one_parameter_have_a_spectrum(matrix, run, capsys):
    """The mean of a single loss; then a matrix of a single number, which is its only eigenvalue and its trace."""
    assert main(["spectrum", "--trust", "-q", "run", "--matrix", matrix, "--examples", "1"]) == 0
    assert "1 example, 27 weights" in capsys.readouterr().out
    predictor = make_predictor(nn.Sequential(nn.Flatten(), nn.Linear(6, 1, bias=False), Scale()))
    predictor.model[1].weight.requires_grad_(False)
    predictor = make_predictor(predictor.model)
    assert len(predictor.w) == 1
    curvature = SplitCurvature(predictor, predictor.examples("train"), matrix)
    found = estimate_spectrum(curvature.multiply, predictor.w, 80, 3, prng.key(8))
    dense = compute_dense(predictor, matrix).item()
    assert found.values.flatten().tolist() == pytest.approx([dense] * 3)
    assert (found.trace.value.item(), found.trace.error.item()) == pytest.approx((dense, 0.0))
    assert plot_density(found, "one").axes
    assert plot_over_training([found, replace(found, step=1)], "one").axes


def test_narrow_and_wide_spectra_are_drawn_at_their_own_scales():
    """Each eigenvalue of either is visible, also a single one, and nothing else is."""
    values, weights = torch.tensor([[-1.0, 0.0, 3.0, 9.0]]).double(), torch.tensor([[0.05, 0.85, 0.05, 0.05]]).double()
    estimate = Estimate(torch.tensor(1.0), torch.tensor(0.1))
    spectra = [Spectrum(scale * values, weights, 1e-9 * values.abs(), estimate, 20, step=i)
               for i, scale in enumerate((1.0, 1e-3, 1e3))]  # fmt: skip
    axes = plot_over_training(spectra, "scales").axes[0]
    for found, mesh in zip(spectra, axes.collections, strict=True):
        edges = mesh.get_coordinates()[:, 0, 1]
        shown = ~np.ma.getmaskarray(mesh.get_array()).ravel()
        distance = np.abs((edges[1:] + edges[:-1])[:, None] / 2 - found.values[0].numpy()).min(1)
        assert shown[distance < 0.5 * found.width].all()
        assert not shown[distance > 4 * found.width].any()
        assert mesh.norm.vmin <= found.peak_of_one()


def test_the_command_names_a_layer_without_a_second_derivative(here, capsys):
    assert (
        main(
            [
                "train",
                "-q",
                *BLOBS[:2],
                "arch=custom",
                "arch._target_=mine.DistanceNet",
                "batch_size=16",
                "epochs=1",
                "hydra.run.dir=run",
            ]
        )
        == 0
    )
    capsys.readouterr()
    few = ["--examples", "5"]  # with more, torch takes another formula
    assert main(["spectrum", "--trust", "-q", "run", *few]) == 2
    assert "arch  distances (Distances) has no second derivative" in capsys.readouterr().err
    assert not Path("run/spectrum").exists()
