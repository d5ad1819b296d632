"""The first mini-batch as training sees it: examples, labels, tables and contact sheets."""

import numpy as np
import pytest
import torch
from helpers import build_experiment, train_runs
from matplotlib.image import AxesImage

from dlopt.data._tokenizing import tokenize, train_tokenizer
from dlopt.report.batch_sheet import plot_batch
from dlopt.report.first_batch import (
    Examples,
    FirstBatch,
    describe_target,
    format_features,
    name_columns,
    name_tokens,
    take_first_batch,
)
from dlopt.training.state import TrainState

SMALL = ("batch_size=16", "threads=1", "arch=mlp", "arch.widths=[4]", "epochs=1")
IMAGES = (*SMALL, "data=custom", "data._target_=mine.Pixels", "+data.shape=[3,6,8]")


def record_first_step(monkeypatch, folder, experiment):
    """Return the mini-batch that the training loop hands to the first step."""
    batches = []
    original = TrainState.objective

    def objective(self, inputs, targets):
        batches.append((inputs.clone(), targets.clone()))
        return original(self, inputs, targets)

    monkeypatch.setattr(TrainState, "objective", objective)
    train_runs(folder, experiment)
    monkeypatch.undo()
    return batches[0]


@pytest.mark.parametrize("augmentation", ["none", "[brightness,mixup]", "[cutout]"])
def test_it_is_the_batch_of_the_first_step(augmentation, monkeypatch, tmp_path):
    overrides = (*IMAGES, "preprocess=per_channel", f"augmentation={augmentation}")
    inputs, targets = record_first_step(monkeypatch, tmp_path, build_experiment(*overrides))
    batch = take_first_batch(build_experiment(*overrides), 10)
    shown = batch.plain if augmentation == "none" else batch.seen
    np.testing.assert_array_equal(shown.inputs, inputs[:10].numpy())
    assert shown.labels == [describe_target(target, (), {}) for target in targets[:10]]
    assert len(shown.labels) == 10
    if augmentation != "none":
        plain = take_first_batch(build_experiment(*overrides[:-1]), 10)
        np.testing.assert_array_equal(batch.plain.inputs, plain.plain.inputs)
        assert plain.seen is None


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (torch.tensor(1), "dog"),
        (torch.tensor([0.7, 0.3, 0.0]), "0.7 cat + 0.3 dog"),
        (torch.tensor([0.25, 0.0, 0.75]), "0.75 2 + 0.25 cat"),
        (torch.tensor([0.004, 0.996, 0.0]), "dog"),
        (torch.tensor([0, 1, 2, -1]), "cat dog 2"),
        (torch.arange(12) % 2, "cat dog cat dog cat dog cat dog ..."),
    ],
)
def test_a_label_names_classes_and_shares(target, words):
    assert describe_target(target, ("cat", "dog"), {}) == words


def test_numbers_have_the_units_of_the_file():
    encoding = {"scale": 10.0, "middle": 100.0}
    assert float(describe_target(torch.tensor([0.25]), None, encoding)) == 102.5
    assert float(describe_target(torch.tensor([1.0]), None, encoding)) == 110
    assert describe_target(torch.tensor([0.0, 1.0]), None, {}) == "0.0000 1.0000", "not shares of classes"
    regression = build_experiment(*SMALL, "data=custom", "data._target_=mine.Regression", "loss=mse")
    batch = take_first_batch(regression, 3)
    assert [float(label) for label in batch.plain.labels] == pytest.approx(batch.plain.inputs.sum(1), abs=0.5)


# ------------------------------------------------------------------------------------------- pictures


def read_sheet(figure):
    """Return images, lines and texts of a contact sheet."""
    (axes,) = figure.axes
    images = [child for child in axes.get_children() if isinstance(child, AxesImage)]
    return images, axes.lines, [text.get_text() for text in axes.texts]


def make_batch(shape, *, seen=True, count=5):
    x = np.random.default_rng(0).random((count, *shape))
    examples = Examples(x, [str(i) for i in range(count)])
    return FirstBatch(examples, Examples(1 - x, examples.labels) if seen else None, [])


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 5, 9), (3, 200, 20), (2, 1, 40), (4, 6, 6)])
@pytest.mark.parametrize("seen", [True, False])
def test_images_of_any_size_and_their_augmented_forms_are_drawn_side_by_side(shape, seen):
    batch = make_batch(shape, seen=seen)
    images, _, texts = read_sheet(plot_batch(batch, "mine"))
    both = [batch.plain, batch.seen] if seen else [batch.plain]
    assert texts == batch.plain.labels, "the same labels are written once"
    assert len(images) == 5 * len(both)
    for i, image in enumerate(images):
        examples = both[i % len(both)]
        pixels = examples.inputs[i // len(both)]
        expected = pixels if shape[0] == 3 else pixels.mean(0, keepdims=True).repeat(3, 0)
        np.testing.assert_allclose(image.get_array(), np.moveaxis(expected, 0, -1))
        left, right, bottom, top = image.get_extent()
        assert (right - left) / (bottom - top) == pytest.approx(shape[2] / shape[1])
        if seen and i % 2:
            assert left > images[i - 1].get_extent()[1], "to the right of the plain one"
            assert top == images[i - 1].get_extent()[3]
    boxes = [image.get_extent() for image in images]
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[0] >= b[1] or b[0] >= a[1] or a[3] >= b[2] or b[3] >= a[2], "no two overlap"


def test_preprocessed_images_are_scaled_by_the_values_of_the_plain_ones():
    batch = make_batch((1, 4, 4))
    low, high = batch.plain.inputs.min(), batch.plain.inputs.max()
    batch = batch._replace(seen=Examples(batch.plain.inputs * 3 - 1, batch.plain.labels))
    figure = plot_batch(batch, "mine")
    images, _, _ = read_sheet(figure)
    expected = np.clip((batch.seen.inputs[0] - low) / (high - low), 0, 1).repeat(3, 0)
    np.testing.assert_allclose(images[1].get_array(), np.moveaxis(expected, 0, -1))
    assert f"black is {low:.3g} and white {high:.3g}" in figure.get_suptitle()


def test_series_are_lines_that_end_at_their_padding():
    batch = make_batch((2, 7))
    batch.plain.inputs[0, :, 4:] = np.nan
    batch.plain.inputs[1] -= 0.5
    images, lines, _ = read_sheet(plot_batch(batch, "mine"))
    assert not images
    curves = [line for line in lines if len(line.get_xdata()) == 7]
    assert len(curves) == 5 * 2 * 2
    assert np.isnan(curves[0].get_ydata()).tolist() == [False] * 4 + [True] * 3
    low = min(np.nanmin(examples.inputs) for examples in (batch.plain, batch.seen))
    high = max(np.nanmax(examples.inputs) for examples in (batch.plain, batch.seen))
    np.testing.assert_allclose(curves[4].get_ydata(), (high - batch.plain.inputs[1, 0]) / (high - low))


def test_mixed_labels_are_written_below_both():
    batch = make_batch((1, 4, 4), count=2)
    batch = batch._replace(seen=Examples(batch.seen.inputs, ["0", "0.7 cat + 0.3 a-name-of-many-letters"]))
    _, _, texts = read_sheet(plot_batch(batch, "mine"))
    assert texts == ["0", "0", "1", "0.7 cat\n+ 0.3 a-name-of-many-lett…"]


def test_an_example_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"draws images and series; .* shape \(1, 2, 3, 4\)"):
        plot_batch(make_batch((1, 2, 3, 4)), "mine")


# ------------------------------------------------------------------------------------------- tables


def test_features_are_named_by_the_columns_of_the_file():
    columns = {"age": 3.0, "city": ["Oslo", "Rome", None], "day": {"date_format": "%Y", "means": [0.0, 1.0]}}
    assert name_columns(columns, 6) == ["age", "city=Oslo", "city=Rome", "city=", "day[0]", "day[1]"]
    assert name_columns({}, 2) == ["x0", "x1"]


def test_a_table_has_a_row_for_each_example_and_one_for_its_augmented_form():
    plain = Examples(np.array([[1.0, 2.0], [3.0, 4.0]]), ["a", "b"])
    lines = format_features(FirstBatch(plain, None, ["age", "height"])).lines()
    assert [line.split() for line in lines] == [["target", "age", "height"], ["0", "a", "1", "2"], ["1", "b", "3", "4"]]
    seen = Examples(np.array([[1.25, 2.0], [3.0, 4.0]]), ["a", "0.9 b + 0.1 a"])
    lines = format_features(FirstBatch(plain, seen, ["age", "height"])).lines()
    assert lines[2].split() == ["a", "1.25", "2"]
    assert lines[4].split() == ["0.9", "b", "+", "0.1", "a", "3", "4"]


def test_tokens_are_printed_without_padding():
    tokens = Examples(np.array([[3, 1, 2, 0, 0], [5, 5, 5, 5, 5]]), ["a", "b"])
    lines = format_features(FirstBatch(tokens, None, [])).lines()
    assert lines[1].split() == ["0", "a", "3", "1", "2"]


@pytest.mark.parametrize("kind", ["words", "wordpiece", "bpe", "characters"])
def test_tokens_of_a_tokenizer_are_shown_as_their_texts(kind):
    tokenizer = train_tokenizer(["a good film", "a dull film"], kind, 30, lowercase=True)
    (tokens,) = tokenize(tokenizer, ["a good 漢"])
    lines = format_features(
        FirstBatch(Examples(np.array([[*tokens, 0]]), ["yes"]), None, [], name_tokens({"tokenizer": tokenizer}))
    )
    shown = lines.lines()[1].partition("yes")[2].strip()
    assert shown.replace("##", "").replace(" ", "") == "agood[UNK]"
    assert shown == "a good [UNK]" or kind in ("wordpiece", "bpe")


def test_characters_are_shown_as_text():
    pieces = name_tokens({"characters": "\n abc"})
    lines = format_features(FirstBatch(Examples(np.array([[5, 3, 6, 2, 4, 1, 0]]), ["yes"]), None, [], pieces)).lines()
    assert lines[1].partition("yes")[2].strip() == "b c a[UNK]"
