"""The Predictor gives the numbers that training wrote, and those of a plain forward pass."""

import pytest
import torch
from helpers import BLOBS, DEVICE
from torch import nn

from dlopt.base.data import Split
from dlopt.cli import main
from dlopt.config.problems import ConfigError
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.loss.mse import MeanSquaredError
from dlopt.preprocess.standardize import Standardize
from dlopt.rundir.find import find_run
from dlopt.training.evaluation import CHUNK
from dlopt.training.inference import Predictor

RUNS = {
    "standardized": ["normalization=batch", "preprocess=standardize", "regularization=dropout", "averaging=ema"],
    "float64": ["precision=float64", "preprocess=whiten"],
    "bfloat16": ["precision=bfloat16"],
    "micro-batches": ["micro_batch_size=3", "normalization=batch"],
    "fold": ["validation.scheme=kfold", "validation.k=5", "validation.fold=2", "data.label_noise=0.2"],
    "minmax": ["preprocess=[center,minmax]", "regularization=[input_noise,l2]"],
}


@pytest.mark.parametrize("keys", RUNS.values(), ids=RUNS)
def test_metrics_equal_those_that_training_wrote(keys, here):
    """To the last bit, for each checkpoint and split."""
    assert main(["train", "-q", *BLOBS, *keys]) == 0
    run = find_run()
    summary = run.summary
    for checkpoint, prefix in (("best", ""), ("last", "last/"), ("average", "average/")):
        if not run.checkpoint(checkpoint).exists():
            continue
        predictor, warnings = load_predictor(run, checkpoint, device=DEVICE, trust=True)
        assert predictor.checkpoint == checkpoint
        assert not warnings
        for split in ("val", "test"):
            written = {f"{prefix}{split}/{name}": value for name, value in predictor.evaluate(split).items()}
            assert written == {name: summary[name] for name in written}
        assert predictor.step == summary["best/step" if checkpoint == "best" else "step"]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)).eval()


def test_outputs_equal_those_of_a_plain_forward_pass(network):
    """For preprocessed inputs and any batch size; the softmax of the outputs gives probabilities."""
    x = 3.0 + 2.0 * torch.randn(2 * CHUNK + 5, 4)
    standardize = Standardize()
    statistics = standardize.fit(x)
    with torch.no_grad():
        expected = network((x - statistics["mu"]) / statistics["sigma"])
    predictor = Predictor(network, CrossEntropy(["accuracy"], None), preprocessing=[(standardize, statistics)])
    for batch_size in (CHUNK, 7):
        torch.testing.assert_close(predictor.predict(x, batch_size), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(predictor.probabilities(x), expected.softmax(-1), rtol=1e-5, atol=1e-5)
    assert predictor.preprocess(x).mean(0).abs().max() < 1e-5


def test_dropout_is_off_and_the_model_does_not_change(here):
    assert main(["train", "-q", *BLOBS, "regularization=dropout", "normalization=batch"]) == 0
    predictor, _ = load_predictor(find_run(), device=DEVICE, trust=True)
    before = {name: x.clone() for name, x in predictor.model.state_dict().items()}
    x = torch.randn(6, 4)
    first = predictor.predict(x)
    assert torch.equal(first, predictor.predict(x))
    assert not first.requires_grad
    assert all(torch.equal(x, before[name]) for name, x in predictor.model.state_dict().items())


def test_a_split_of_several_parts_is_evaluated_as_one(network):
    x, y = torch.randn(20, 4), torch.arange(20) % 3
    rows = torch.tensor([4, 2, 9])
    whole = (Split(x[:8], y[:8]), Split(x[8:], y[8:]))
    predictor = Predictor(network, CrossEntropy([], None), splits={"val": (Split(x, y, rows),), "all": whole})
    outputs, targets = predictor.predict_split("val")
    assert torch.equal(targets, y[rows])
    assert torch.equal(outputs, predictor.predict(x[rows]))
    with torch.no_grad():
        loss = nn.functional.cross_entropy(network.eval()(x), y).item()
    assert predictor.evaluate("all")["loss"] == pytest.approx(loss, rel=1e-6)


def test_classes_and_numbers_are_named_and_in_the_units_of_the_data(network):
    x = torch.randn(2 * CHUNK + 5, 4)
    with torch.no_grad():
        outputs = network(x)
    classes = Predictor(network, CrossEntropy([], None), names=("ant", "bee", "cow"))
    assert classes.predict_classes(x) == [("ant", "bee", "cow")[i] for i in outputs.argmax(1).tolist()]
    name = type(network).__name__
    assert repr(classes) == f"Predictor({name}, classes ant, bee, cow, on cpu)"
    assert repr(Predictor(network, CrossEntropy([], None), checkpoint="best", step=7)) == (
        f"Predictor({name}, best checkpoint (step 7), on cpu)"
    )
    assert Predictor(network, CrossEntropy([], None)).predict_classes(x[:1]) == [str(outputs[0].argmax().item())]
    numbers = Predictor(network, MeanSquaredError([]), encoding={"scale": 3.0, "middle": -2.0})
    torch.testing.assert_close(numbers.predict_numbers(x), 3.0 * outputs.double() - 2.0, rtol=1e-5, atol=1e-5)
    whole = Predictor(network, CrossEntropy([], None), splits={"all": (Split(x, torch.zeros(len(x))),)})
    assert torch.equal(whole.predict_split("all")[0], whole.predict_examples(Split(x, torch.zeros(len(x)))))
    for predict, words in (
        (numbers.predict_classes, "predicts numbers"),
        (classes.predict_numbers, "predicts classes"),
    ):
        with pytest.raises(ValueError, match=words):
            predict(x)


def test_the_problem_evaluates_other_weight_vectors(network):
    """The model's own weights do not change."""
    predictor = Predictor(network, CrossEntropy([], None))
    x = torch.randn(5, 4)
    before = predictor.predict(x)
    assert predictor.w.shape == (sum(p.numel() for p in network.parameters()),)
    assert not predictor.problem.predict(torch.zeros_like(predictor.w), x).any()
    assert torch.equal(predictor.predict(x), before)


def test_wrong_requests_are_refused(network):
    predictor = Predictor(network, MeanSquaredError([]))
    with pytest.raises(ValueError, match=r"inputs.*\(0, 4\)"):
        predictor.predict(torch.zeros(0, 4))
    with pytest.raises(ValueError, match="probabilities"):
        predictor.probabilities(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="no val split"):
        predictor.evaluate("val")


def test_a_run_that_cannot_be_loaded_is_refused(here):
    assert main(["train", "-q", *BLOBS]) == 0
    for keys, word in (({"checkpoint": "7"}, "--checkpoint"), ({"data": ["digits"]}, "--data"), ({}, "data._target_")):
        with pytest.raises(ConfigError, match=word):
            load_predictor(find_run(), device=DEVICE, trust=bool(keys), **keys)
