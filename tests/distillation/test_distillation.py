"""Distillation: what a student is trained on, whom it learns from, and what its run keeps of that."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    DEVICE,
    assert_build_refused,
    build_experiment,
    compose_config,
    interrupt_run,
    load_weights,
    make_option,
    read_rows,
    resume_run,
    train_configured,
    train_runs,
)
from omegaconf import OmegaConf
from torch.func import functional_call, grad, jacrev

from dlopt.base.layout import Layout
from dlopt.cli import main
from dlopt.config.problems import ConfigError
from dlopt.config.reopen import load_run, resume_checks
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.objective.guidance import REGRESSOR, DistillationTerm
from dlopt.objective.micro_batches import GuidedTargets
from dlopt.rundir.directory import RunDirectory
from dlopt.storage import checkpoint_file
from dlopt.training.state import TrainState

BLOBS = ("data=custom", "data._target_=mine.Blobs")
NET = ("batch_size=16", "epochs=2", "precision=float64", f"device={DEVICE}", "activation=tanh")
FEATURES = (*BLOBS, *NET, "arch=mlp")
IMAGES = (*BLOBS, "+data.shape=[2,5,5]", *NET, "arch=cnn", "arch.kernels=[3,3]", "arch.stride=1")
NUMBERS = ("data=custom", "data._target_=mine.Regression", "loss=mse", *NET, "arch=mlp")
SMALL = (*FEATURES, "arch.widths=[4]")
WIDTHS = {"features": ("arch.widths=[7,6]", "normalization=batch"), "images": ("arch.channels=[3,4]",), "numbers": ("arch.widths=[5]",)}  # fmt: skip


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    """Trained runs: of features, of images, of numbers to predict."""
    folder, tasks = tmp_path_factory.mktemp("teachers"), {"features": FEATURES, "images": IMAGES, "numbers": NUMBERS}
    return {name: train_configured(folder / name, *keys, *WIDTHS[name]) for name, keys in tasks.items()}


def learn_from(run, option="soft_targets", *keys):
    place = getattr(run, "path", run)
    return f"distillation={option}", f"distillation.teacher={place}", "distillation.trust=true", *keys


def run_to(model, layer, inputs, views=None):
    """Return the outputs of a network and of one of its layers, both in inference or at the given weights."""
    kept = []
    handle = model.get_submodule(layer).register_forward_hook(lambda *call: kept.append(call[-1]))
    outputs = model(inputs) if views is None else functional_call(model, views, (inputs,))
    handle.remove()
    return outputs, kept[0]


OBJECTIVES = {
    "classes": ("features", SMALL, None),
    "micro-batches": ("features", (*SMALL, "micro_batch_size=5"), None),
    "mixed inputs and targets": ("features", (*SMALL, "augmentation=mixup"), None),
    "numbers": ("numbers", (*NUMBERS, "arch.widths=[4]"), None),
    "a linear regressor": ("features", SMALL, ("hidden.1", "hidden.2")),
    "its micro-batches": ("features", (*SMALL, "micro_batch_size=5"), ("hidden.1", "hidden.2")),
    "feature maps": ("images", (*IMAGES, "arch.channels=[2,2]"), ("hidden.1", "hidden.1")),
    "3x3": ("images", (*IMAGES, "arch.channels=[2,2]"), ("hidden.1", "hidden.1"), "distillation.regressor=3x3"),
}
LINEAR = {"classes", "numbers", "a linear regressor"}


@pytest.mark.parametrize("case", OBJECTIVES)
def test_the_objective_and_its_derivatives_are_those_of_the_formula(teachers, case):
    """The formula is written with torch alone."""
    name, keys, layers, *more = OBJECTIVES[case]
    keys += learn_from(teachers[name], "hint" if layers else "soft_targets", "distillation.weight=0.3", *more)
    training = TrainState([build_experiment(*keys)])
    inputs, targets = training.next_batch()
    objective, model, w = training.objective(inputs, targets), training.problem.model, training.w
    teacher = load_predictor(teachers[name], device=DEVICE, trust=True)[0].model.eval()
    own, other = layers or ("output", "output")
    with torch.no_grad():
        u = run_to(teacher, other, inputs)[1]

    def outputs(w):
        """Return the outputs, and what is compared with u."""
        views = training.layout.views(w)
        z, v = run_to(model, own, inputs, views)
        if layers is None:
            return z, z
        weight, bias = (views[f"{REGRESSOR}.map.{name}"] for name in ("weight", "bias"))
        return z, F.linear(v.flatten(1), weight, bias) if v.ndim == 2 else F.conv2d(v, weight, bias, padding="same")

    def f(pair):
        z, r = pair
        loss = F.mse_loss(z, targets) if name == "numbers" else F.cross_entropy(z, targets)
        if layers or name == "numbers":
            return 0.7 * loss + 0.3 * F.mse_loss(r, u)
        return 0.7 * loss + 0.3 * 16 * F.kl_div(F.log_softmax(r / 4, 1), F.softmax(u / 4, 1), reduction="batchmean")

    value, g = objective.gradient(w)
    torch.testing.assert_close(value, f(outputs(w)))
    torch.testing.assert_close(g, grad(lambda w: f(outputs(w)))(w))
    torch.testing.assert_close(objective.value(w.clone()), value)
    if case not in LINEAR:
        return
    v = torch.cos(torch.arange(w.numel(), dtype=w.dtype, device=w.device))
    torch.testing.assert_close(objective.hvp(w, v), jacrev(grad(lambda w: f(outputs(w))))(w) @ v)
    size = outputs(w)[0].numel()
    jacobian = jacrev(lambda w: torch.cat([x.reshape(-1) for x in outputs(w)]))(w)
    shapes = [x.shape for x in outputs(w)]
    flat = torch.cat([x.reshape(-1) for x in outputs(w)])
    inner = jacrev(grad(lambda x: f([p.view(s) for p, s in zip(x.tensor_split([size]), shapes, strict=True)])))(flat)
    torch.testing.assert_close(objective.gauss_newton_product(w, v), jacobian.T @ (inner @ (jacobian @ v)))
    gradients = torch.cat([*objective.example_gradients(w, len(inputs))])
    torch.testing.assert_close(gradients.mean(0), g)


def test_steps_without_a_target_do_not_count():
    """Each sequence counts the same, whatever its length."""
    student, teacher = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([[1, 2, 0, 4], [1, -1, -1, -1], [3, 3, -1, -1]])
    option = make_option("distillation", "soft_targets")
    value = DistillationTerm(option, "classes").measure(student, GuidedTargets(own, teacher))
    p, q = ((x / 4).softmax(-1) for x in (teacher, student))
    losses = 16 * (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(value, sum(losses[i, :n].mean() for i, n in enumerate((4, 1, 2))) / 3)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
def test_a_compiled_student_equals_an_eager_one(teachers, tmp_path):
    torch._dynamo.reset()
    keys = (*SMALL, *learn_from(teachers["features"], "hint", "distillation.weight=0.5"))
    _, (eager,) = train_runs(tmp_path / "eager", build_experiment(*keys))
    _, (compiled,) = train_runs(tmp_path / "compiled", build_experiment(*keys, "compile=true"))
    torch.testing.assert_close(load_weights(compiled), load_weights(eager), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("option", ["soft_targets", "hint"])
def test_weight_0_is_training_without_a_teacher_bit_for_bit(teachers, option, tmp_path):
    keys = (*FEATURES, "arch.widths=[4,5]", "optimizer=adam", "averaging=ema", "regularization=dropout")
    _, (plain,) = train_runs(tmp_path / "plain", build_experiment(*keys))
    guided = build_experiment(*keys, *learn_from(teachers["features"], option, "distillation.weight=0"))
    _, (student,) = train_runs(tmp_path / "student", guided)
    rows = [{k: v for k, v in row.items() if k != "train/distillation"} for row in read_rows(student)]
    assert rows == read_rows(plain)
    for which in ("last", "best", "average"):
        assert torch.equal(load_weights(student, which), load_weights(plain, which))
    measured = [row["train/distillation"] for row in read_rows(student)] if option == "soft_targets" else []
    assert all(value > 0 for value in measured)


def test_a_hint_alone_trains_the_layers_up_to_the_guided_one(teachers, tmp_path):
    """The regressor is trained with them, and only the last checkpoint, from which the run resumes, has it."""
    keys = (*FEATURES, "arch.widths=[4,5,6]", *learn_from(teachers["features"], "hint", "objective=train/distillation"))
    experiment = build_experiment(*keys)
    _, (run,) = train_runs(tmp_path / "whole", experiment)
    last, before = run.load("last")["model"], Layout.of(experiment.model).views(experiment.w)
    moved = {name for name, value in before.items() if not torch.equal(last[name].cpu(), value)}
    up_to = {f"hidden.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")}
    regressor = {f"{REGRESSOR}.map.{part}" for part in ("weight", "bias")}
    assert moved - regressor == up_to
    assert last.keys() - run.load("best")["model"].keys() == regressor
    distances = [row["train/distillation"] for row in read_rows(run)]
    assert distances[-1] < distances[0]
    half = interrupt_run(tmp_path / "half", 4, build_experiment(*keys))
    _, half = resume_run(half.path, build_experiment(*keys, saved=half.latest_checkpoint().content["model"]))
    assert torch.equal(load_weights(half), load_weights(run))
    second = (*keys[:-4], "init=pretrained", f"init.run={run.path}", *learn_from(teachers["features"]))
    initial = build_experiment(*second).model.state_dict()
    assert all(torch.equal(value.cpu(), run.load("best")["model"][name]) for name, value in initial.items())


@pytest.mark.parametrize("option", ["soft_targets", "hint"])
def test_lanes_equal_single_runs(teachers, option, tmp_path):
    """Each has the statistics of its own training split, by which the inputs of the teacher are found."""
    keys = (*SMALL, "preprocess=standardize", "epochs=1", *learn_from(teachers["features"], option, "distillation.weight=0.5"))  # fmt: skip
    experiments = [build_experiment(*keys, f"seed={seed}") for seed in (0, 1)]
    _, lanes = train_runs(tmp_path / "lanes", *experiments)
    for i, experiment in enumerate(experiments):
        _, (alone,) = train_runs(tmp_path / str(i), experiment)
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(alone), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [((), ("preprocess=standardize",)), (("preprocess=[center,minmax]",), ()), (("preprocess=zca", "seed=1"), ("preprocess=minmax",)), (("preprocess=zca",), ("preprocess=zca",))],
)  # fmt: skip
def test_a_teacher_gets_inputs_with_its_own_preprocessing(theirs, ours, tmp_path):
    """Of a raw example, teacher and run have the same outputs, whatever the preprocessing of the student is."""
    teacher = train_configured(tmp_path / "teacher", *SMALL, *theirs)
    training = TrainState([build_experiment(*SMALL, *ours, *learn_from(teacher))])
    predictor, _ = load_predictor(teacher, device=DEVICE, trust=True)
    raw = predictor.splits["all"][0].inputs[:7]
    plain = build_experiment(*SMALL, *ours)
    x = raw if not ours else torch.cat([plain.train.inputs[:7]])
    (ask,) = training.teachers
    torch.testing.assert_close(ask(x.to(training.w)), predictor.predict(raw), rtol=1e-5, atol=1e-5)


def test_a_teacher_whose_data_are_encoded_by_other_statistics_is_refused(tmp_path):
    """Those of a table are of the training rows: with the same rows a teacher is accepted."""
    x = np.random.default_rng(0).normal(size=(80, 3))
    np.savetxt(tmp_path / "d.csv", np.c_[x, x[:, 0]], delimiter=",", header="a,b,c,y", comments="")
    keys = ("data=table", f"data.path={tmp_path / 'd.csv'}", "data.target=y", "loss=mse", *NET, "arch=mlp", "epochs=1")
    teacher = train_configured(tmp_path / "teacher", *keys)
    assert build_experiment(*keys, *learn_from(teacher)).teacher is not None
    with pytest.raises(ConfigError, match=r"its data are encoded in another way \(.*columns.*\)"):
        build_experiment(*keys, *learn_from(teacher), "seed=1")


WRONG = {
    "no run": (["distillation.teacher=null"], "distillation.teacher", "name a run"),
    "last": (["distillation.teacher=last"], "distillation.teacher", "another run tomorrow"),
    "a run that is not there": (["distillation.teacher=nowhere"], "distillation.teacher", "no run"),
    "custom classes": (["distillation.trust=false"], "distillation.teacher", "add distillation.trust=true"),
    "another number of classes": (["data._target_=mine.Unbalanced"], "distillation.teacher", "it has 3 classes, and this data 2"),
    "another shape": (["+data.shape=[5]"], "distillation.teacher", "its inputs are numbers of shape (4,), and here numbers of shape (5,)"),
    "numbers": (["data._target_=mine.Regression", "loss=mse"], "distillation.teacher", "it predicts classes, and this data has numbers"),
    "probabilities of another kind": (["loss=bce"], "distillation.teacher", "not a softmax"),
    "a weight above 1": (["distillation.weight=1.5"], "distillation.weight", "<= 1"),
    "an unknown layer": (["distillation=hint", "distillation.layer=hiden.0"], "distillation.layer", "did you mean hidden.0"),
    "an unknown hint layer": (["distillation=hint", "distillation.hint_layer=x"], "distillation.hint_layer", "there is no layer x"),
    "a convolution of features": (["distillation=hint", "distillation.regressor=3x3"], "distillation.regressor", "use linear"),
    "an optimizer that draws targets": (["distillation=hint", "optimizer=kfac"], "distillation.layer", "optimizer.fisher=empirical"),
    "an unmeasured objective": (["objective=val/distillation"], "objective", "train/distillation"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_teacher_that_does_not_fit_is_refused(teachers, name):
    keys, key, words = WRONG[name]
    assert_build_refused(lambda: build_experiment(*SMALL, *learn_from(teachers["features"]), *keys), key, words)


def test_a_student_records_its_teacher_and_needs_it_for_training_only(teachers, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher = shutil.copytree(teachers["features"].path, tmp_path / "teacher")
    keys = (*SMALL, *learn_from("teacher", "hint"), "hydra.run.dir=student", "checkpoint.every=2", "checkpoint.keep=9")
    assert main(["train", "-q", *keys]) == 0
    run = RunDirectory("student")
    record = run.status["teacher"]
    assert record["path"] == str(teacher)
    assert record == run.load("last")["teacher"]
    for command in ("verify", "rerun"):
        assert main([command, "-q", "--trust", "student"]) == 0
    assert main(["verify", "-q", "student"]) == 2

    trained = RunDirectory("teacher")
    content = trained.load("best")
    content["model"]["output.bias"] += 1
    with trained.checkpoint("best").open("wb") as stream:
        checkpoint_file.write(stream, content)
    with pytest.raises(ConfigError, match="has other weights than those that have guided this run"):
        resume_checks.check(run.load("last"), build_experiment(*keys[:-3]))
    shutil.rmtree(teacher)
    for command in (["verify"], ["rerun"], ["train", "resume=student", "epochs=3"]):
        assert main([*command, "--trust", *(["student"] if len(command) == 1 else [])]) == 2
    for checkpoint in ("best", "last", "2"):
        assert main(["evaluate", "-q", "--trust", "student", "--checkpoint", checkpoint]) == 0


def test_an_untrusted_student_names_no_code_and_no_place_elsewhere(teachers, tmp_path, monkeypatch):
    folder = tmp_path / "student"
    keys = (*SMALL[3:], "data=digits", "distillation=soft_targets", f"distillation.teacher={teachers['features'].path}")
    folder.joinpath(".hydra").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for more, key in (
        ((), "distillation.teacher"),
        (("distillation.trust=true", "distillation.teacher=x"), "distillation.trust"),
    ):
        OmegaConf.save(compose_config(*keys, *more), folder / ".hydra" / "config.yaml")
        with pytest.raises(ConfigError) as refusal:
            load_run.load_config(RunDirectory(folder))
        assert refusal.value.problems[0][0] == key
