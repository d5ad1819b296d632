"""Your own arrays: the accepted forms, and the refused ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import assert_refused, build_experiment, load_weights, make_option, train_runs

from dlopt.base.mapped_inputs import MappedInputs
from dlopt.cli import main
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.data import _array_inputs, _files, _npy_files
from dlopt.data._targets import split_test
from dlopt.rundir.find import find_run
from dlopt.storage import memory

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(60, 4)).astype(np.float32)
Y = np.arange(60) % 3
PLAIN = make_option("data", "arrays", test_fraction=0.25)
NAN = X.copy()
NAN[3, 1], NAN[5, 0], NAN[59, 3] = np.nan, np.inf, -np.inf
ONE = X.copy()
ONE[2, 3] = np.nan
HUGE = X.astype(np.float64)
HUGE[4, 2] = 1e300


@pytest.fixture(autouse=True)
def fresh():
    _files.cache.clear()


@pytest.fixture
def load(tmp_path):
    """Write arrays, load them."""

    def load(arrays, **keys):
        file = tmp_path / "my.npz"
        np.savez(file, **arrays)
        _files.cache.clear()
        return replace(PLAIN, path=str(file), **keys).load()

    return load


def sort_examples(data):
    """Return all examples, sorted, with their targets."""
    x = torch.cat([data.train.gather()[0], data.test.gather()[0]])
    y = torch.cat([data.train.gather()[1], data.test.gather()[1]])
    order = x.flatten(1)[:, 0].argsort()
    return x[order], y[order]


# ------------------------------------------------------------------------------------------------ forms of files


def test_every_example_is_in_one_split_with_its_own_target(load):
    data = load({"x": X, "y": Y})
    assert (len(data.train), len(data.test)) == (45, 15)
    order = X[:, 0].argsort()
    x, y = sort_examples(data)
    np.testing.assert_array_equal(x.numpy(), X[order])
    assert y.tolist() == Y[order].tolist()
    assert data.names == ("0", "1", "2")
    assert data.kind == "classes"


def test_the_test_split_is_stratified_and_the_same_each_time(load):
    y = np.repeat([0, 1], [40, 20])
    one = load({"x": X, "y": y}, test_fraction=0.2)
    assert one.test.targets.bincount().tolist() == [8, 4]
    assert torch.equal(one.test.inputs, load({"x": X, "y": y}, test_fraction=0.2).test.inputs)


def test_the_rows_of_the_test_split_never_change():
    """Otherwise results would not be comparable."""
    train, test = split_test(torch.arange(10) % 2, 0.4)
    assert test.tolist() == [1, 6, 7, 8]
    assert sorted(train.tolist() + test.tolist()) == list(range(10))


def test_a_given_test_split_is_used_and_arrays_may_have_other_names(load):
    arrays = {"images": X, "labels": Y, "images_test": X[:7] + 1, "labels_test": Y[:7], "more": np.zeros(2)}
    data = load(arrays, inputs="images", target="labels")
    assert torch.equal(data.train.inputs, torch.from_numpy(X))
    assert torch.equal(data.test.inputs, torch.from_numpy(X[:7] + 1))
    assert data.test.targets.tolist() == Y[:7].tolist()


@pytest.mark.parametrize("form", ["dictionary", "pair", "npy"])
def test_other_formats_give_the_same_data(load, tmp_path, form):
    expected = load({"x": X, "y": Y})
    x, y = torch.from_numpy(X), torch.from_numpy(Y)
    if form == "npy":
        np.save(tmp_path / "x.npy", X)
        np.save(tmp_path / "labels.npy", Y)
        option = replace(PLAIN, path=str(tmp_path / "x.npy"), target="labels.npy")
    else:
        torch.save({"x": x, "y": y} if form == "dictionary" else (x, y), tmp_path / "my.pt")
        option = replace(PLAIN, path=str(tmp_path / "my.pt"))
    data = option.load()
    assert torch.equal(data.train.inputs, expected.train.inputs)
    assert torch.equal(data.test.targets, expected.test.targets)


def test_tensors_of_other_types(tmp_path):
    x = torch.arange(120.0).reshape(60, 2).to(torch.bfloat16).requires_grad_()
    torch.save({"x": x, "y": torch.from_numpy(Y) > 0}, tmp_path / "my.pt")
    data = replace(PLAIN, path=str(tmp_path / "my.pt")).load()
    assert data.train.inputs.dtype == torch.float32
    assert data.names == ("False", "True")


def test_a_changed_file_is_read_again(tmp_path):
    np.savez(tmp_path / "my.npz", x=X, y=Y)
    option = replace(PLAIN, path=str(tmp_path / "my.npz"))
    first = option.load()
    assert option.load() is first
    assert replace(option, train_size=5).load() is first
    assert replace(option, kind="numbers").load().kind == "numbers"
    np.savez(tmp_path / "my.npz", x=X[:50], y=Y[:50])
    assert len(option.load().train) + len(option.load().test) == 50


# ------------------------------------------------------------------------------------------------ inputs and targets


def test_uint8_is_scaled_and_other_types_are_not(load):
    x = np.arange(240).reshape(60, 4)
    assert torch.equal(sort_examples(load({"x": x.astype(np.uint8), "y": Y}))[0], torch.from_numpy(x).float() / 255)
    for kind in (np.int16, np.int64, np.float16, np.float64):
        inputs = sort_examples(load({"x": x.astype(kind), "y": Y}))[0]
        assert inputs.dtype == torch.float32
        assert torch.equal(inputs, torch.from_numpy(x).float())


@pytest.mark.parametrize(
    ("shape", "channels", "expected"),
    [
        ((5, 6, 2), "last", (2, 5, 6)),
        ((5, 6, 2), "first", (5, 6, 2)),
        ((5, 6), "none", (1, 5, 6)),
        ((5, 6), "last", (6, 5)),
        ((5,), "none", (5,)),
        ((5,), "last", (5,)),
    ],
)
def test_channels_come_first(load, shape, channels, expected):
    x = np.arange(60 * np.prod(shape), dtype=np.float32).reshape(60, *shape)
    data = load({"x": x, "y": Y}, channels=channels)
    assert data.shape == expected
    last = sort_examples(data)[0][-1]
    if channels == "last" and len(shape) == 3:
        assert last[1, 2, 3] == x[-1, 2, 3, 1]
    if channels == "none" and len(shape) == 2:
        assert last[0, 2, 3] == x[-1, 2, 3]


@pytest.mark.parametrize("values", [[-5, 7, 300], ["dog", "Cat", "ant"], [b"dog", b"Cat", b"ant"]])
def test_classes_may_be_any_integers_or_text_in_sorted_order(load, values):
    data = load({"x": X, "y": np.array(values)[Y]})
    text = [v.decode() if isinstance(v, bytes) else v for v in values]
    assert data.names == tuple(str(v) for v in sorted(text))
    x, y = sort_examples(data)
    assert [data.names[i] for i in y] == [str(text[i]) for i in Y[X[:, 0].argsort()]]
    assert data.outputs == 3
    assert len(x) == 60


def test_int64_and_uint64_targets_are_compared_exactly(load):
    """numpy would convert both to float64, in which these integers are equal."""
    big = np.array([2**60 + 1, 2**60 + 2])[np.arange(60) % 2]
    data = load({"x": X, "y": big, "x_test": X, "y_test": big.astype(np.uint64)})
    assert data.names == (str(2**60 + 1), str(2**60 + 2))
    assert torch.equal(data.train.targets, data.test.targets)


def test_floats_are_numbers_and_integers_if_asked_for(load):
    one = load({"x": X, "y": X[:, 0].astype(np.float64)})
    assert one.kind == "numbers"
    assert torch.equal(one.train.targets[:, 0], one.train.inputs[:, 0])
    assert load({"x": X, "y": Y}, kind="numbers").train.targets.dtype == torch.float32
    several = load({"x": X, "y": X[:, :3]})
    assert several.outputs == 3
    assert load({"x": X, "y": Y.astype(float)}, kind="classes").names == ("0", "1", "2")
    assert load({"x": X, "y": Y[:, None]}).train.targets.ndim == 1


# ------------------------------------------------------------------------------------------------ groups and times


WHO, WHEN = DRAW.permutation(60) % 9, np.datetime64("2024-01-01") + DRAW.permutation(60) // 3


@pytest.mark.parametrize(
    "convert", [np.asarray, lambda who: who / 2, lambda who: who.astype("U"), lambda who: who.astype("S")]
)
def test_groups_are_never_divided(load, convert):
    groups = convert(WHO)
    data = load({"x": X, "y": Y, "who": groups}, group="who", test_fraction=0.33)
    of = {row.tobytes(): int(WHO[i]) for i, row in enumerate(X)}
    known, tested = ([of[row.tobytes()] for row in split.inputs.numpy()] for split in (data.train, data.test))
    assert (len(set(known)), len(set(tested)), set(known) & set(tested)) == (6, 3, set())
    assert len(set(zip(known, data.groups.tolist(), strict=True))) == len(data.groups.unique()) == 6


@pytest.mark.parametrize("times", [
    WHEN, WHEN.astype("datetime64[ns]"), WHEN.astype("U"), WHEN.astype("S"), WHEN.astype(int), WHEN.astype(int) + 0.5
], ids=["days", "nanoseconds", "text", "bytes", "integers", "floats"])  # fmt: skip
def test_the_latest_examples_are_the_test(load, times):
    data = load({"x": X, "y": Y, "when": times}, time="when", test_fraction=0.25)
    late = np.unique(WHEN)[-5] <= WHEN
    assert {row.tobytes() for row in data.test.inputs.numpy()} == {row.tobytes() for row in X[late]}
    own = {row.tobytes(): t for row, t in zip(X, WHEN.astype(int), strict=True)}
    order = torch.tensor([own[row.tobytes()] for row in data.train.inputs.numpy()])
    assert torch.equal(order - order.min(), data.times - data.times.min())
    given = load({"x": X, "y": Y, "when": times, "x_test": X, "y_test": Y}, time="when")
    assert len(given.times) == len(given.train) == 60


# ------------------------------------------------------------------------------------------------ files of their own


def test_splits_with_files_of_their_own_are_encoded_as_the_training_examples(load, tmp_path):
    names, image = np.array(["ant", "bee", "cow"]), (X * 50).astype(np.uint8)
    np.savez(tmp_path / "val.npz", x=image[:7], y=names[[1, 2, 2, 1, 2, 1, 2]], z=X)
    torch.save((torch.from_numpy(image[7:9]), torch.tensor([0, 1])), tmp_path / "test.pt")
    arrays = {"x": image, "y": names[Y], "who": WHO}
    data = load(arrays, validation_path=str(tmp_path / "val.npz"), group="who", test_fraction=0.33)
    assert data.validation.targets.tolist() == [1, 2, 2, 1, 2, 1, 2]
    torch.testing.assert_close(data.validation.inputs, torch.from_numpy(image[:7]) / 255)
    plain = load(arrays, group="who", test_fraction=0.33)
    assert torch.equal(data.test.inputs, plain.test.inputs)
    assert data.encoding["sha256"] != plain.encoding["sha256"], "all files count"
    data = load({"x": image, "y": Y}, test_path=str(tmp_path / "test.pt"))
    assert (len(data.train), len(data.test), data.validation) == (60, 2, None)
    assert data.test.targets.tolist() == [0, 1]


WRONG_FILES = {
    "a new class": ({"x": X, "y": Y + 1}, {}, "target", ["own.npz: unknown classes 3"]),
    "bytes": ({"x": X.astype(np.uint8), "y": Y}, {}, "inputs", ["own.npz: x is uint8; in training it was not uint8"]),
    "other names": ({"a": X, "y": Y}, {}, "inputs", ["no array 'x' in", "own.npz"]),
    "no target": ({"x": X}, {}, None, ["own.npz has no values of the target y"]),
    "nan": ({"x": NAN, "y": Y}, {}, "inputs", ["own.npz: x: nan in row 3, column 1"]),
}


@pytest.mark.parametrize("key", ["validation_path", "test_path"])
@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files_of_splits_are_refused(name, key, load, tmp_path):
    arrays, keys, error_key, words = WRONG_FILES[name]
    np.savez(tmp_path / "own.npz", **arrays)
    assert_refused(lambda: load({"x": X, "y": Y}, **{key: str(tmp_path / "own.npz")}, **keys), error_key or key, *words)


def test_a_test_file_beside_test_arrays_and_an_npy_as_a_split_are_refused(load, tmp_path):
    np.savez(tmp_path / "own.npz", x=X, y=Y)
    twice = {"x": X, "y": Y, "x_test": X, "y_test": Y}
    assert_refused(lambda: load(twice, test_path=str(tmp_path / "own.npz")), "test_path", "has x_test; leave one")
    assert len(load(twice, validation_path=str(tmp_path / "own.npz")).validation) == 60
    np.save(tmp_path / "x.npy", X)
    assert_refused(
        lambda: load({"x": X, "y": Y}, test_path=str(tmp_path / "x.npy")), "test_path", "ending in .npz or .pt"
    )


# ------------------------------------------------------------------------------------------------ refused


TIMES = 1.7e9 + DRAW.uniform(0, 600, 60)
REFUSED = {
    "no inputs": ({"X": X, "y": Y}, {}, "inputs", ["no array 'x' in", "there is X, y"]),
    "a similar name": ({"x": X, "label": Y}, {"target": "labels"}, "target", ["no array 'labels'", "did you mean label?"]),
    "lengths": ({"x": X, "y": Y[:50]}, {}, "target", ["y has 50 entries, x 60"]),
    "test lengths": ({"x": X, "y": Y, "x_test": X[:5], "y_test": Y[:6]}, {}, "target", ["y_test has 6 entries, x_test 5"]),
    "half a test split": ({"x": X, "y": Y, "x_test": X}, {}, "path", ["has x_test but no y_test"]),
    "the other half": ({"x": X, "y": Y, "y_test": Y}, {}, "path", ["has y_test but no x_test"]),
    "test shapes": ({"x": X, "y": Y, "x_test": X[:, :3], "y_test": Y}, {}, "path", ["x_test", "(3,)", "(4,)"]),
    "nan": ({"x": NAN, "y": Y}, {}, "inputs", ["x: nan in row 3, column 1", "2 more"]),
    "times": ({"x": np.stack([Y, TIMES], 1), "y": Y}, {}, "inputs", ["x, column 1 (from 0), holds", "subtract their mean"]),
    "times in series": ({"x": np.stack([TIMES, Y] * 2, 1).reshape(60, 2, 2), "y": Y}, {"channels": "last"}, "inputs", ["x, column 0"]),
    "a target far from zero": ({"x": X, "y": 1e8 + X[:, 0].astype(float)}, {}, "target", ["y holds numbers from 99999", "by up to"]),
    "large integers as numbers": ({"x": X, "y": TIMES.astype(int)}, {"kind": "numbers"}, "target", ["y holds numbers from 17000000"]),
    "one nan": ({"x": ONE, "y": Y}, {}, "inputs", ["x: nan in row 2, column 3"]),
    "nan in an image": ({"x": NAN.reshape(60, 2, 2), "y": Y}, {}, "inputs", ["NaN in row 3, channel 0, step 1 (from 0) lies within"]),
    "too large": ({"x": HUGE, "y": Y}, {}, "inputs", ["1e+300 in row 4, column 2", "float32"]),
    "nan in the target": ({"x": X, "y": NAN[:, 1]}, {}, "target", ["y: nan in row 3 (from 0)"]),
    "text inputs": ({"x": X.astype(str), "y": Y}, {}, "inputs", ["x must hold numbers, got text"]),
    "complex": ({"x": X + 1j, "y": Y}, {}, "inputs", ["complex"]),
    "objects": ({"x": X, "y": np.array([{}] * 60)}, {}, "path", ["y cannot be read as numbers or text"]),
    "one class": ({"x": X, "y": Y * 0}, {}, "target", ["of one class, 0"]),
    "too few dimensions": ({"x": X[:, 0], "y": Y}, {}, "inputs", ["x has shape (60,)", "(N, features)"]),
    "a single number": ({"x": np.float32(3), "y": Y}, {}, "inputs", ["x has shape ()"]),
    "no examples": ({"x": X[:0], "y": Y[:0]}, {}, "inputs", ["x has shape (0, 4)"]),
    "a target of one number": ({"x": X, "y": np.float32(3)}, {}, "target", ["y has shape ()"]),
    "one-hot": ({"x": X, "y": np.eye(3, dtype=int)[Y]}, {}, "target", ["(60, 3)", "argmax"]),
    "numbers of text": ({"x": X, "y": Y.astype(str)}, {"kind": "numbers"}, "kind", ["'0'"]),
    "numbers as classes": ({"x": X, "y": np.arange(60)}, {}, "kind", ["60 different values in 60", "data.kind=numbers"]),
    "new classes": ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, {}, "target", ["y_test has classes that y lacks: 3"]),
    "two kinds": ({"x": X, "y": Y, "x_test": X, "y_test": Y / 2}, {}, "target", ["different kinds"]),
    "text and numbers": ({"x": X, "y": Y, "x_test": X, "y_test": Y.astype(str)}, {}, "target", ["different kinds"]),
    "five dimensions": ({"x": X.reshape(60, 1, 2, 2, 1), "y": Y}, {}, "inputs", ["(60, 1, 2, 2, 1)", "(N, channels, height, width)"]),
    "one half of bytes": ({"x": X.astype(np.uint8), "y": Y, "x_test": X, "y_test": Y}, {}, "inputs", ["x is uint8, x_test float"]),
    "bytes that are not text": ({"x": X, "y": np.array([b"caf\xe9", b"tea"] * 30)}, {}, "target", ["UTF-8"]),
    "integers beyond float32": ({"x": np.arange(240).reshape(60, 4) + 2**40, "y": Y}, {}, "inputs", ["float32", "16,777,216"]),
    "an unknown group": ({"x": X, "y": Y, "who": WHO}, {"group": "whom"}, "group", ["no array 'whom'", "did you mean who?"]),
    "group and time": ({"x": X, "y": Y, "a": WHO, "b": WHEN}, {"group": "a", "time": "b"}, "time", ["cannot be used with data.group"]),
    "few groups": ({"x": X, "y": Y, "who": WHO[:9]}, {"group": "who"}, "group", ["who has shape (9,)", "(60,)"]),
    "groups of objects": ({"x": X, "y": Y, "who": X + 1j}, {"group": "who"}, "group", ["(60, 4)"]),
    "complex groups": ({"x": X, "y": Y, "who": WHO + 1j}, {"group": "who"}, "group", ["numbers or text"]),
    "a missing group": ({"x": X, "y": Y, "who": ONE[:, 3]}, {"group": "who"}, "group", ["who has nan in row 2 (from 0)"]),
    "an empty group": ({"x": X, "y": Y, "who": np.array(["a", ""] * 30)}, {"group": "who"}, "group", ["row 1 (from 0)"]),
    "a missing time": ({"x": X, "y": Y, "t": np.where(WHO < 9, np.datetime64("NaT"), WHEN)}, {"time": "t"}, "time", ["t has NaT in row 0"]),
    "a word as time": ({"x": X, "y": Y, "t": np.array(["1", "noon"] * 30)}, {"time": "t"}, "time", ["t has 'noon' in row 1 (from 0)", "neither a number nor a date"]),
    "numbers and dates": ({"x": X, "y": Y, "t": np.array(["1", "2024-01-31"] * 30)}, {"time": "t"}, "time", ["'2024-01-31' in row 1", "one is a number"]),
    "a zone and none": ({"x": X, "y": Y, "t": np.array(["2024-01-31", "2024-01-31T10:00Z"] * 30)}, {"time": "t"}, "time", ["in row 1", "time zone"]),
    "one group": ({"x": X, "y": Y, "who": Y * 0}, {"group": "who"}, "test_fraction", ["0.25 of 1 groups is 0"]),
    "nothing to test": ({"x": X, "y": Y}, {"test_fraction": 0.001}, "test_fraction", ["0.001 of 60 examples is 0"]),
    "nothing to train": ({"x": X, "y": Y}, {"test_fraction": 0.999}, "test_fraction", ["0.999 of 60 examples is 60"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, load):
    arrays, keys, key, words = REFUSED[name]
    assert_refused(lambda: load(arrays, **keys), key, *words)


@pytest.mark.parametrize("column", [
    1.7e9 + 128.0 * np.arange(60), 1e6 + DRAW.uniform(0, 1e6, 60), np.full(60, 1e9 + 0.1), TIMES - TIMES.mean()
])  # fmt: skip
def test_numbers_that_float32_tells_apart_are_accepted(load, column):
    """These are exact, far apart, constant, or centered."""
    data = load({"x": np.stack([column, column], 1), "y": Y})
    np.testing.assert_allclose(sort_examples(data)[0][:, 0].numpy(), np.sort(column), rtol=1e-7)


def test_paths_that_are_not_files(tmp_path):
    (tmp_path / "data.npz").touch()
    (tmp_path / "my.csv").touch()
    for path, words in {
        None: ["name the file: data.path=...", ".npz or .pt or .npy"],
        str(tmp_path / "dat.npz"): ["no file", "did you mean data.npz?"],
        str(tmp_path / "x" / "dat.npz"): ["no file", "no folder", "either"],
        str(tmp_path): ["is a folder", "data.npz"],
        str(tmp_path / "my.csv"): [".npz or .pt or .npy", "my.csv"],
    }.items():
        assert_refused(replace(PLAIN, path=path).load, "path", *words)


def test_targets_of_an_npy_are_another_file(tmp_path):
    np.save(tmp_path / "x.npy", X)
    assert_refused(replace(PLAIN, path=str(tmp_path / "x.npy")).load, "target", "no file y")
    np.savez(tmp_path / "y.npz", y=Y)
    assert_refused(replace(PLAIN, path=str(tmp_path / "x.npy"), target="y.npz").load, "target", ".npy")


def test_an_npy_has_no_groups(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    data = replace(PLAIN, path=str(tmp_path / "x.npy"), target="y.npy", group="who")
    assert_refused(data.load, "group", "one array without a name", "who must be in an .npz or a .pt")


def test_damaged_files_are_refused(tmp_path):
    np.savez(tmp_path / "my.npz", x=X, y=Y)
    whole = (tmp_path / "my.npz").read_bytes()
    at = whole.index(X.tobytes()) + 5
    for content in (b"", b"text", whole[:-40], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
        (tmp_path / "my.npz").write_bytes(content)
        assert_refused(replace(PLAIN, path=str(tmp_path / "my.npz")).load, "path", "my.npz")
    np.save(tmp_path / "x.npy", X)
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "my.npz").write_bytes(whole)
    assert_refused(replace(PLAIN, path=str(tmp_path / "my.npz")).load, "path", ".npz file")
    (tmp_path / "x.npy").write_bytes(whole[:-1])
    assert_refused(
        replace(PLAIN, path=str(tmp_path / "x.npy"), target="x.npy").load, "path", "the array cannot be read"
    )


def test_files_of_the_wrong_structure_are_refused(tmp_path):
    file = tmp_path / "my.pt"
    data = replace(PLAIN, path=str(file))
    for content in ([torch.zeros(3)], torch.zeros(3)):
        torch.save(content, file)
        assert_refused(data.load, "path", "my.pt", "a dictionary or a pair")
    torch.save({"x": [1, 2], "y": torch.zeros(3)}, file)
    assert_refused(data.load, "inputs", "x: series 0 (from 0) has shape ()")
    torch.save({"x": 3, "y": torch.zeros(3)}, file)
    assert_refused(data.load, "path", "x in", "is a int, not a tensor")
    file.write_bytes(file.read_bytes()[:50])
    assert_refused(data.load, "path", "damaged")


# ------------------------------------------------------------------------------------------------ Keras, and large arrays


def test_the_names_of_keras_are_recognized(load):
    data = load({"x_train": X[:40], "y_train": Y[:40, None], "x_test": X[40:], "y_test": Y[40:, None]})
    assert torch.equal(data.train.inputs, torch.from_numpy(X[:40]))
    assert torch.equal(data.test.inputs, torch.from_numpy(X[40:]))
    assert data.train.targets.tolist() == Y[:40].tolist()
    validated = {"x_train": X[:40], "y_train": Y[:40], "x_val": X[40:], "y_val": Y[40:]}
    assert_refused(lambda: load(validated), "path", "holds x_val, which is not read", "data.validation_path=FILE")
    named = load({"a_train": X, "y": Y}, inputs="a")
    assert len(named.train) + len(named.test) == 60
    assert_refused(lambda: load({"x_train": X, "y": Y}, inputs="z"), "inputs", "no array 'z'")


@pytest.mark.parametrize(
    ("shape", "channels", "remedy"),
    [
        ((28, 28), "first", "data.channels=none"),
        ((32, 32, 3), "first", "data.channels=last"),
        ((28, 28), "none", None),
        ((32, 32, 3), "last", None),
        ((3, 32, 32), "first", None),
        ((1, 40), "first", None),
    ],
)
def test_bytes_that_look_like_images_with_other_channels_are_noticed(load, shape, channels, remedy):
    x = np.zeros((60, *shape), np.uint8)
    notices = load({"x": x, "y": Y}, channels=channels).notices
    assert (remedy is None and notices == ()) or (remedy in notices[0])
    assert load({"x": x.astype(np.float32), "y": Y}, channels=channels).notices == ()


def write_folder(folder, arrays):
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    _files.cache.clear()
    return folder


IMAGES = DRAW.integers(0, 256, (60, 5, 4), dtype=np.uint8)
LARGE = {
    "features": ({"x": X}, {}),
    "bytes without channels": ({"x": IMAGES}, {"channels": "none"}),
    "channels last": ({"x": IMAGES[..., None].repeat(3, -1)}, {"channels": "last"}),
    "float64": ({"x": X.astype(np.float64)}, {}),
    "int16": ({"x": IMAGES.astype(np.int16)}, {"channels": "first"}),
    "a test": ({"x": X, "x_test": X[:9], "y_test": Y[:9]}, {}),
    "names of keras": ({"x_train": X, "y_train": Y, "x_test": X[:9], "y_test": Y[:9]}, {}),
    "groups": ({"x": X, "who": np.arange(60) // 4}, {"group": "who"}),
    "times": ({"x": X, "when": np.arange(60) // 4}, {"time": "when"}),
    "numbers": ({"x": X, "y": X[:, :2]}, {}),
}


@pytest.mark.parametrize("name", LARGE)
def test_mapped_arrays_are_those_in_memory(tmp_path, name, monkeypatch):
    monkeypatch.setattr(_array_inputs, "CHUNK_BYTES", 100)
    arrays, keys = LARGE[name]
    arrays = arrays if "y_train" in arrays else {"y": Y} | arrays
    option = replace(PLAIN, path=str(write_folder(tmp_path / "large", arrays)), **keys)
    here, there = (replace(option, memory_map=m).load() for m in (False, True))
    for split in ("train", "test"):
        one, other = getattr(here, split), getattr(there, split)
        assert isinstance(other.inputs, MappedInputs)
        assert isinstance(one.inputs, torch.Tensor)
        assert one.inputs.shape == other.inputs.shape
        for a, b in zip(one.gather(), other.gather(), strict=True):
            assert torch.equal(a, b)
    for units in ("groups", "times"):
        a, b = getattr(here, units), getattr(there, units)
        assert a is b is None or torch.equal(a, b)
    assert here.encoding == there.encoding
    assert len(option.load_like(here.encoding).test) == len(there.test if len(arrays) == 4 or name == "a test" else Y)


def test_an_npy_alone_is_mapped_too(tmp_path):
    write_folder(tmp_path, {"x": X, "y": Y})
    option = replace(PLAIN, path=str(tmp_path / "x.npy"), target="y.npy", memory_map=True)
    assert torch.equal(option.load().test.gather()[0], replace(option, memory_map=False).load().test.inputs)


def test_arrays_are_mapped_by_themselves_if_they_take_half_of_the_memory(tmp_path, monkeypatch):
    option = replace(PLAIN, path=str(write_folder(tmp_path / "large", {"x": X, "y": Y})))
    assert isinstance(option.load().train.inputs, torch.Tensor)
    monkeypatch.setattr(memory, "SMALL", 100)
    for free, is_mapped in ((2 * X.nbytes + 10, False), (2 * X.nbytes - 10, True)):
        _files.cache.clear()
        with monkeypatch.context() as patch:
            patch.setattr(_npy_files.memory, "get_available", lambda free=free: free)
            patch.setattr(memory, "check", lambda *_: None)
            assert isinstance(option.load().train.inputs, MappedInputs) == is_mapped


def with_value(array, index, value):
    array = array.copy()
    array[index] = value
    return array


LARGE_REFUSED = {
    "not finite": ({"x": with_value(X, (50, 1), np.nan)}, {}, "inputs", ["x: nan in row 50, column 1"]),
    "too large": ({"x": with_value(HUGE, (4, 2), 1e300)}, {}, "inputs", ["row 4, column 2"]),
    "large integers": ({"x": with_value(np.zeros((60, 2), np.int64), (59, 0), 1 << 40)}, {}, "inputs", ["integers up to 1.1e+12"]),
    "times": ({"x": 1.7e9 + np.arange(120.0).reshape(60, 2)}, {}, "inputs", ["x, column 0", "subtract their mean"]),
    "one dimension": ({"x": X[:, 0]}, {}, "inputs", ["(60,)", "(N, features)"]),
    "text": ({"x": X.astype(str)}, {}, "inputs", ["must hold numbers, got text"]),
    "the order of Fortran": ({"x": np.asfortranarray(X)}, {}, "path", ["x.npy cannot be mapped", "order of C"]),
    "no target": ({"x": X, "y": None}, {}, "target", ["no array 'y'"]),
    "few targets": ({"x": X, "y": Y[:9]}, {}, "target", ["y has 9 entries, x 60"]),
    "other shapes": ({"x": X, "x_test": X[:, :2], "y_test": Y}, {}, "path", ["x_test has examples of shape (2,), x of shape (4,)"]),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE_REFUSED)
def test_mapped_arrays_are_checked_as_others_are(tmp_path, name, monkeypatch):
    monkeypatch.setattr(_array_inputs, "CHUNK_BYTES", 100)
    arrays, keys, key, words = LARGE_REFUSED[name]
    stored = {k: v for k, v in ({"y": Y} | arrays).items() if v is not None}
    folder = write_folder(tmp_path / "large", stored)
    assert_refused(replace(PLAIN, path=str(folder), memory_map=True, **keys).load, key, *words)


def test_only_npy_files_can_be_mapped(load, tmp_path):
    assert_refused(lambda: load({"x": X, "y": Y}, memory_map=True), "memory_map", "numpy.save")
    (tmp_path / "none").mkdir()
    assert_refused(replace(PLAIN, path=str(tmp_path / "none")).load, "path", "is a folder; name a file")
    (tmp_path / "none" / "x.npy").write_bytes(b"no array")
    assert_refused(replace(PLAIN, path=str(tmp_path / "none"), target="x").load, "path", "not a valid .npy file")


@pytest.mark.parametrize("preprocess", ["none", "[standardize]", "[whiten]"])
def test_a_run_on_mapped_arrays_is_the_run_on_those_in_memory(tmp_path, preprocess):
    folder = write_folder(tmp_path / "large", {"x": X, "y": Y})
    common = ["data=arrays", f"data.path={folder}", "arch=mlp", "arch.widths=[5]", "batch_size=7", "epochs=3"]
    results = []
    for is_mapped in ("true", "false"):
        _files.cache.clear()
        experiments = [
            build_experiment(*common, f"preprocess={preprocess}", f"data.memory_map={is_mapped}", f"seed={seed}")
            for seed in (0, 1)
        ]
        folders = [tmp_path / is_mapped / str(lanes) for lanes in (1, 2)]
        results.append([train_runs(f, *experiments[:n])[1] for n, f in enumerate(folders, 1)])
    for mapped, here in zip(*results, strict=True):
        for one, other in zip(mapped, here, strict=True):
            if preprocess == "[whiten]":  # a product of matrices rounds by their shapes
                torch.testing.assert_close(load_weights(one), load_weights(other), atol=1e-4, rtol=1e-3)
            else:
                assert torch.equal(load_weights(one), load_weights(other))


# ------------------------------------------------------------------------------------------------ different lengths

LENGTHS = np.array([3, 1, 5, 2, 5, 4] * 5)
SERIES = [np.random.default_rng(i).normal(size=(2, n)).astype(np.float32) for i, n in enumerate(LENGTHS)]
LABELS = np.arange(30) % 2


def pad_slowly(series, value=np.nan):
    """Return series as one array, number by number."""
    x = np.full((len(series), 2, max(s.shape[1] for s in series)), value, np.float32)
    for i, s in enumerate(series):
        for channel in range(2):
            for step in range(s.shape[1]):
                x[i, channel, step] = s[channel, step]
    return x


def write_series(folder, how, series=SERIES, labels=LABELS, name="my"):
    """Write series of different lengths in one of the forms that are read; return the keys of the option."""
    x = pad_slowly(series)
    if how == "list":
        torch.save({"x": [torch.from_numpy(s) for s in series], "y": torch.from_numpy(labels)}, folder / f"{name}.pt")
        return {"path": str(folder / f"{name}.pt")}
    if how == "list, channels last":
        torch.save(
            {"x": [torch.from_numpy(s.T.copy()) for s in series], "y": torch.from_numpy(labels)}, folder / f"{name}.pt"
        )
        return {"path": str(folder / f"{name}.pt"), "channels": "last"}
    if how == "nan, channels last":
        np.savez(folder / f"{name}.npz", x=np.moveaxis(x, 1, -1), y=labels)
        return {"path": str(folder / f"{name}.npz"), "channels": "last"}
    lengths = np.array([s.shape[1] for s in series])
    content = {"nan": {"x": x}, "lengths": {"x": pad_slowly(series, 77.0), "n": lengths}}[how]
    np.savez(folder / f"{name}.npz", y=labels, **content)
    return {"path": str(folder / f"{name}.npz"), "lengths": "n" if how == "lengths" else None}


HOW = ["nan", "nan, channels last", "lengths", "list", "list, channels last"]


@pytest.mark.parametrize("how", HOW)
def test_series_of_different_lengths_end_with_nan(how, tmp_path):
    data = make_option("data", "arrays", **write_series(tmp_path, how)).load()
    expected = {s.tobytes(): i for i, s in enumerate(pad_slowly(SERIES))}
    rows = [expected[x.numpy().tobytes()] for split in (data.train, data.test) for x in split.gather()[0]]
    assert sorted(rows) == list(range(30))
    assert data.is_padded
    assert data.encoding["length"] == 5
    for split, own in ((data.train, rows[:24]), (data.test, rows[24:])):
        assert split.gather()[1].tolist() == [LABELS[i] for i in own]


@pytest.mark.parametrize("how", HOW)
def test_other_series_are_padded_to_the_length_of_the_training_series(how, tmp_path):
    encoding = make_option("data", "arrays", **write_series(tmp_path, how)).load().encoding
    short = [s for s in SERIES if s.shape[1] < 4][:6]
    other = make_option("data", "arrays", **write_series(tmp_path, how, short, LABELS[:6], "other")).load_like(encoding)
    np.testing.assert_array_equal(other.test.inputs, pad_slowly([*short, SERIES[2]])[:6])
    long = make_option(
        "data", "arrays", **write_series(tmp_path, how, [np.ones((2, 9), np.float32)] * 3, LABELS[:3], "long")
    )
    assert_refused(
        lambda: long.load_like(encoding), "inputs", "x has series of up to 9 steps; the run was trained on up to 5"
    )


def test_test_series_may_be_longer_than_training_series(tmp_path):
    np.savez(
        tmp_path / "my.npz", x=pad_slowly(SERIES)[:, :, :4], x_test=pad_slowly(SERIES[2:4]), y=LABELS, y_test=LABELS[:2]
    )
    data = make_option("data", "arrays", path=str(tmp_path / "my.npz")).load()
    assert data.shape == (2, 5)
    np.testing.assert_array_equal(data.test.inputs, pad_slowly(SERIES[2:4]))


def test_steps_that_no_series_has_are_padding(tmp_path):
    np.savez(
        tmp_path / "my.npz", x=np.pad(pad_slowly(SERIES), ((0, 0), (0, 0), (0, 2)), constant_values=np.nan), y=LABELS
    )
    data = make_option("data", "arrays", path=str(tmp_path / "my.npz")).load()
    assert data.shape == (2, 7)
    assert data.train.inputs[..., 5:].isnan().all()


def test_padding_does_not_hide_that_float32_rounds(tmp_path):
    x = np.stack([np.arange(20) * 1e8, 1e9 + np.arange(20)], 1)[:, None]
    x[::2, :, 1] = np.nan
    np.savez(tmp_path / "my.npz", x=x, y=np.arange(20) % 2)
    assert_refused(
        make_option("data", "arrays", path=str(tmp_path / "my.npz")).load, "inputs", "which float32 rounds by up to"
    )


@pytest.mark.parametrize("scale", [1, 255])
def test_bytes_with_lengths_are_scaled(scale, tmp_path):
    x = np.full((20, 1, 3), scale, np.uint8)
    np.savez(tmp_path / "my.npz", x=x, y=np.arange(20) % 2, n=np.arange(20) % 3 + 1)
    data = make_option("data", "arrays", path=str(tmp_path / "my.npz"), lengths="n").load()
    assert set(data.train.inputs.nan_to_num(-1).unique().tolist()) == {-1, np.float32(scale / 255)}


SHORT, BROKEN, PARTLY, LATE = (pad_slowly(SERIES) for _ in range(4))
SHORT[3], BROKEN[2, :, 1], PARTLY[4, 0, 4], LATE[6, :, 0] = np.nan, np.nan, np.nan, np.nan
VARYING = {
    "length zero": ({"x": SHORT}, {}, "inputs", ["x: row 3 (from 0) has only NaN"]),
    "nan at the beginning": ({"x": LATE}, {}, "inputs", ["x: row 6 (from 0) begins with NaN"]),
    "nan within a series": ({"x": BROKEN}, {}, "inputs", ["NaN in row 2, channel 0, step 1 (from 0) lies within a series"]),
    "nan in one channel": ({"x": PARTLY}, {}, "inputs", ["NaN in row 4, channel 0, step 4", "all channels"]),
    "infinity": ({"x": np.where(pad_slowly(SERIES) > 1, np.inf, pad_slowly(SERIES))}, {}, "inputs", ["x: inf in row", "not finite"]),
    "no array of lengths": ({"x": pad_slowly(SERIES)}, {"lengths": "len"}, "lengths", ["no array 'len'"]),
    "lengths of zero": ({"x": pad_slowly(SERIES, 0.0), "n": LENGTHS % 5}, {"lengths": "n"}, "lengths", ["n has 0 in row 2", "1 to 5"]),
    "lengths beyond the end": ({"x": pad_slowly(SERIES, 0.0), "n": LENGTHS + 1}, {"lengths": "n"}, "lengths", ["n has 6 in row 2"]),
    "lengths that are fractions": ({"x": pad_slowly(SERIES, 0.0), "n": LENGTHS / 1}, {"lengths": "n"}, "lengths", ["whole numbers of shape (30,)", "float64"]),
    "lengths of features": ({"x": pad_slowly(SERIES, 0.0)[:, 0], "n": LENGTHS}, {"lengths": "n"}, "lengths", ["is for series", "(30, 5)"]),
}  # fmt: skip


@pytest.mark.parametrize("name", VARYING)
def test_series_that_cannot_be_used_are_refused(name, tmp_path):
    arrays, keys, key, words = VARYING[name]
    np.savez(tmp_path / "my.npz", y=LABELS, **arrays)
    assert_refused(make_option("data", "arrays", path=str(tmp_path / "my.npz"), **keys).load, key, *words)


@pytest.mark.parametrize(("series", "words"), [
    ([torch.zeros(2, 3), torch.zeros(2, 0)], ["series 1 (from 0) has length zero"]),
    ([torch.zeros(2, 3), torch.zeros(3, 3)], ["series 1 (from 0) has 3 channels, the first one 2"]),
    ([torch.zeros(2, 3), torch.zeros(1, 2, 3)], ["series 1 (from 0) has shape (1, 2, 3)"]),
    ([torch.zeros(3), torch.tensor([1.0, np.nan])], ["series 1 (from 0) holds a number that is not finite"]),
    ([torch.zeros(3), "text"], ["series 1 (from 0) has text or objects"]),
    ([], ["x is empty"]),
], ids=["length zero", "channels", "dimensions", "nan", "text", "none"])  # fmt: skip
def test_lists_of_series_that_cannot_be_used_are_refused(series, words, tmp_path):
    torch.save({"x": series, "y": torch.arange(len(series))}, tmp_path / "my.pt")
    assert_refused(make_option("data", "arrays", path=str(tmp_path / "my.pt")).load, "inputs", *words)


def test_objects_in_an_archive_are_refused_with_the_forms_that_are_read(tmp_path):
    objects = np.empty(2, object)
    objects[:] = [np.zeros(2), np.zeros(3)]
    np.savez(tmp_path / "my.npz", x=objects, y=np.arange(2))
    assert_refused(
        make_option("data", "arrays", path=str(tmp_path / "my.npz")).load,
        "path",
        "pad series of different lengths with NaN",
    )


@pytest.mark.parametrize("how", ["nan", "list"])
def test_a_run_on_padded_series_gives_what_single_series_give(how, here):
    """The predictions for a series do not depend on the padding."""
    keys = write_series(here, how)
    network = ["arch=gru", "arch.width=4", "batch_size=6", "epochs=1", "threads=1", "device=cpu"]
    assert main(["train", "-q", "data=arrays", f"data.path={keys['path']}", *network]) == 0
    predictor, _ = load_predictor(find_run(), data=[keys["path"]])
    outputs, _ = predictor.predict_split("all")
    for row, series in zip(outputs, SERIES, strict=True):
        single = predictor.predict(torch.from_numpy(series)[None])
        torch.testing.assert_close(row, single[0], rtol=1e-5, atol=1e-6)


def test_one_hot_rows_of_floats_are_reported(load):
    rows = np.eye(3)[Y]
    (notice,) = load({"x": X, "y": rows}).notices
    assert "y has a single 1" in notice and "store y.argmax(1)" in notice
    assert load({"x": X, "y": rows}, kind="numbers").notices == ()  # chosen
    for y in (0.9 * rows + 0.05, rows + rows[::-1], Y + 0.5):
        assert load({"x": X, "y": y}).notices == ()
