"""Sequences of different lengths: what data and components are refused before a run."""

from dataclasses import replace

import pytest
import torch
from helpers import build_experiment
from mine import Sequences

from dlopt.base import sequences
from dlopt.base.splits import hold_out, split_k_fold
from dlopt.config.checks.splits import check_dataset
from dlopt.config.problems import ConfigError, Problems
from dlopt.parts import Dataset, Split
from dlopt.prng import Key

SEQUENCES = ("data=custom", "data._target_=mine.Sequences", "loss=cross_entropy", "batch_size=16", "epochs=1")


def load(**keys: object) -> Dataset:
    return Sequences(None, None, 0.0, False, "reshuffle", **keys).load()


def change(dataset: Dataset, inputs: object = None, targets: object = None) -> Dataset:
    """Return the data set with the training tensors changed by functions."""
    x, y = dataset.train.inputs.clone(), dataset.train.targets.clone()
    return replace(dataset, train=Split(inputs(x) if inputs else x, targets(y) if targets else y))


def put(index: tuple[object, ...], value: float) -> object:
    return lambda x: x.index_put(tuple(torch.as_tensor(i) for i in index), torch.as_tensor(value, dtype=x.dtype))


@pytest.mark.parametrize("kind", ["tokens", "series"])
@pytest.mark.parametrize("numbers", [False, True])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_a_data_set_tells_what_its_sequences_need(kind, numbers, per_step, padded):
    dataset = load(kind=kind, numbers=numbers, per_step=per_step, padded=padded)
    assert check_dataset(dataset, Problems())
    assert (dataset.is_sequence, dataset.per_step, dataset.is_padded) == (True, per_step, padded)
    lengths = sequences.mask_steps(dataset.train.inputs).sum(-1)
    assert lengths.tolist() == ([1 + i % 6 for i in range(60)] if padded else [6] * 60)
    count = int(lengths.sum()) if per_step else 60
    assert len(sequences.list_targets(dataset.train.targets)) == count


SERIES = {"kind": "series"}
STEPS = {"per_step": True}
FAULTS = {
    "a token outside of the vocabulary": ({}, put((0, 0), 7), None, "tokens must be 0 to 6"),
    "padding within a sequence": ({}, put((5, 2), 0), None, "padding must be at the end"),
    "a sequence of length zero": ({}, put((0, 0), 0), None, "example 0 has length zero"),
    "tokens that are not integers": ({}, lambda x: x.float(), None, "tokens must be int64"),
    "NaN in one channel": (SERIES, put((5, 1, 2), torch.nan), None, "NaN in some channels"),
    "NaN within a series": (SERIES, put((5, [0, 1], 2), torch.nan), None, "padding must be at the end"),
    "a series of length zero": (SERIES, put((0, [0, 1], 0), torch.nan), None, "example 0 has length zero"),
    "an infinite number": (SERIES, put((0, 0, 0), torch.inf), None, "not finite"),
    "a target at the padding": (STEPS, None, put((0, 1), 1), "a step of the padding has a target"),
    "no target at all": (STEPS, None, put((0, 0), -1), "1 sequences have no step with a target"),
    "targets of another length": (STEPS, None, lambda y: y[:, :5], "must have shape (N, 6)"),
    "an unknown class of a step": (STEPS, None, put((0, 0), 3), "labels must be 0 to 2"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_sequences_are_refused(name):
    keys, inputs, targets, words = FAULTS[name]
    problems = Problems()
    assert not check_dataset(change(load(**keys), inputs, targets), problems)
    assert words in str(problems.errors)


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["arch=mlp"], "arch", "takes numbers, and this data has tokens: use "),
        (["arch=mlp", "+data.kind=series"], "arch", "takes examples of one size"),
        (["arch=mlp", "+data.kind=series", "+data.padded=false", "+data.per_step=true"], "arch", "once for each"),
        (["augmentation=shift"], "augmentation.shift", "this data has tokens"),
        (["augmentation=shift", "+data.kind=series"], "augmentation.shift", "would move or fill the padding"),
        (["preprocess=center"], "preprocess.center", "this data has tokens"),
        (["preprocess=zca", "+data.kind=series", "arch=gru"], "preprocess.zca", "cannot leave out the padding"),
        (
            ["preprocess=custom", "preprocess.custom._target_=mine.Filling", "+data.kind=series", "arch=gru"],
            "preprocess.custom",
            "must leave the padding",
        ),
        (["data.label_noise=0.1", "+data.per_step=true"], "data.label_noise", "for each step"),
    ],
)
def test_components_that_do_not_fit_sequences_are_refused(overrides, key, words):
    with pytest.raises(ConfigError) as refusal:
        build_experiment(*SEQUENCES, *overrides)
    assert words in dict(refusal.value.problems)[key]


def test_examples_with_a_target_for_each_step_are_split_at_random():
    """They have no single class by which to stratify."""
    train = load(per_step=True).train
    kept, held = hold_out(train, 0.25, Key(0, 0))
    assert (len(kept), len(held)) == (45, 15)
    folds = [split_k_fold(train, 5, i, Key(0, 0))[1].rows for i in range(5)]
    assert torch.cat(folds).sort().values.tolist() == list(range(60))
