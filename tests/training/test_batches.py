"""Mini-batches contain every example once per epoch, in an order that is a function of key and epoch."""

from typing import get_args

import mine
import pytest
import scipy.stats
import torch
from helpers import assert_build_refused, build_blobs, interrupt_run, load_weights, resume_run, train_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from dlopt import prng
from dlopt.base import mapped_inputs
from dlopt.base.data import Order
from dlopt.base.mapped_inputs import MappedInputs
from dlopt.parts import Split
from dlopt.preprocess.standardize import Standardize
from dlopt.training import read_ahead
from dlopt.training.batches import Batches, DataPlacement, Examples
from dlopt.training.order import EpochOrder
from dlopt.training.state import TrainState

relaxed = settings(max_examples=40)
KEYS = [prng.key(seed, "order") for seed in range(3)]
PLACE = (torch.device("cpu"), torch.float32)


def split(n, rows=None):
    """Return a split whose inputs are row numbers and whose targets are three times the inputs."""
    return Split(torch.arange(n).float().unsqueeze(-1), 3 * torch.arange(n), rows)


def make_orders(data, keys, kind="reshuffle"):
    """Return the order of each lane."""
    return [EpochOrder.of(kind, key, one) for key, one in zip(keys, data, strict=True)]


def batches(data, size, keys=KEYS[:1], drop_last=False, order="reshuffle"):
    several = isinstance(data, list)
    examples = Examples(data if several else [data], DataPlacement(*PLACE), lanes=several)
    return Batches(examples, size, make_orders(data if several else [data], keys, order), drop_last=drop_last)


def epoch(draw, number):
    """Return the rows of each batch of an epoch."""
    batches = []
    for step in range(number * draw.per_epoch, (number + 1) * draw.per_epoch):
        x, y = draw(step)
        assert torch.equal(3 * x.squeeze(-1).long(), y)
        batches.append(y.div(3, rounding_mode="floor"))
    return batches


@relaxed
@given(n=st.integers(1, 50), size=st.integers(1, 60), number=st.integers(0, 5))
def test_every_epoch_shows_every_example_once(n, size, number):
    draw = batches(split(n), size)
    rows = epoch(draw, number)
    assert sorted(torch.cat(rows).tolist()) == list(range(n))
    assert [len(r) for r in rows[:-1]] == [min(size, n)] * (len(rows) - 1)
    assert len(rows[-1]) == n - min(size, n) * (len(rows) - 1)


@relaxed
@given(n=st.integers(1, 50), size=st.integers(1, 60))
def test_drop_last_omits_only_the_smaller_batch(n, size):
    draw = batches(split(n), size, drop_last=True)
    rows = epoch(draw, 1)
    assert draw.per_epoch == n // min(size, n)
    assert {len(r) for r in rows} == {min(size, n)}
    assert len(torch.cat(rows).unique()) == sum(map(len, rows))


def test_drop_last_omits_other_examples_in_each_epoch():
    draw = batches(split(23), 5, drop_last=True)
    omitted = {frozenset(range(23)) - frozenset(torch.cat(epoch(draw, e)).tolist()) for e in range(10)}
    assert len(omitted) > 7  # ten random sets of three among 1771 rarely repeat


def test_epochs_and_seeds_have_different_orders():
    orders = [torch.cat(epoch(batches(split(50), 7, [key]), e)).tolist() for key in KEYS for e in range(4)]
    assert len({tuple(o) for o in orders}) == 12
    assert list(range(50)) not in orders


def test_a_full_batch_is_in_the_order_of_the_data():
    for size in (30, 31, 1000):
        draw = batches(split(30), size)
        assert draw.per_epoch == 1
        for step in range(3):
            assert draw(step)[1].tolist() == [3 * i for i in range(30)]


def test_a_full_batch_of_a_split_has_only_its_rows():
    rows = torch.tensor([7, 3, 11, 2])
    x, y = batches(split(20, rows), 4)(0)
    assert torch.equal(x.squeeze(-1).long(), rows)
    assert torch.equal(y, 3 * rows)


@pytest.mark.parametrize("size", [3, 4, 100])
def test_only_the_rows_of_the_split_are_sampled(size):
    rows = torch.tensor([19, 7, 3, 11, 2, 0, 5, 13])
    draw = batches(split(20, rows), size)
    for e in range(3):
        assert sorted(torch.cat(epoch(draw, e)).tolist()) == sorted(rows.tolist())


def test_steps_can_be_requested_in_any_order():
    in_order = batches(split(23), 5)
    expected = [in_order(step)[1] for step in range(80)]
    assert torch.equal(batches(split(23), 5)(57)[1], expected[57])
    shuffled = batches(split(23), 5)
    for step in (57, 3, 58, 0, 79, 4, 57):
        assert torch.equal(shuffled(step)[1], expected[step])


each_sharing = pytest.mark.parametrize("shared", ["inputs and targets", "inputs", "nothing"])


def make_lane_splits(shared):
    """Return three splits of six rows, of the same tensors or each of its own."""
    rows = [torch.tensor(r) for r in ([0, 1, 2, 3, 4, 5], [9, 8, 7, 6, 5, 4], [1, 3, 5, 7, 9, 11])]
    whole = split(12)
    return [
        Split(
            whole.inputs if "inputs" in shared else whole.inputs + 100 * i,
            whole.targets if "targets" in shared else whole.targets + 300 * i,
            r,
        )
        for i, r in enumerate(rows)
    ]


@each_sharing
@pytest.mark.parametrize("size", [2, 4, 6, 50])
def test_lanes_sample_the_batches_of_solo_runs(shared, size):
    data = make_lane_splits(shared)
    together, alone = batches(data, size, KEYS), [batches(d, size, [k]) for d, k in zip(data, KEYS, strict=True)]
    assert all(one.per_epoch == together.per_epoch for one in alone)
    for step in range(9):
        x, y = together(step)
        for i, one in enumerate(alone):
            assert torch.equal(x[i], one(step)[0])
            assert torch.equal(y[i], one(step)[1])


@each_sharing
@pytest.mark.parametrize("size", [2, 4, 6])
@pytest.mark.parametrize("done", [0, 1, 4])
def test_remaining_lanes_sample_the_same_batches(shared, size, done):
    data = make_lane_splits(shared)
    everyone, remaining = batches(data, size, KEYS), batches(data, size, KEYS)
    for step in range(done):
        remaining(step)
    stay = torch.tensor([0, 2])
    remaining.select_lanes(stay)
    for step in range(done, done + 8):
        for batch, expected in zip(remaining(step), everyone(step), strict=True):
            assert torch.equal(batch, expected[stay])


@pytest.mark.parametrize("rows", [None, [4, 9, 1, 7, 0]])
def test_all_and_chunks_are_in_the_order_of_the_split(rows):
    data = split(10, None if rows is None else torch.tensor(rows))
    examples = Examples([data], DataPlacement(*PLACE), lanes=False)
    x, y = data.gather()
    assert torch.equal(examples.all()[0], x)
    assert torch.equal(examples.all()[1], y)
    for size in (1, 3, 100):
        chunks = list(examples.chunks(size))
        assert torch.equal(torch.cat([c[0] for c in chunks]), x)
        assert torch.equal(torch.cat([c[1] for c in chunks]), y)
        assert max(len(c[1]) for c in chunks) <= size


@each_sharing
def test_all_and_chunks_of_lanes_equal_those_of_each_lane(shared):
    data = make_lane_splits(shared)
    examples = Examples(data, DataPlacement(*PLACE), lanes=True)
    chunks = [torch.cat(column, dim=1) for column in zip(*examples.chunks(4), strict=True)]
    for i, one in enumerate(data):
        for batch, expected in zip(examples.all(), one.gather(), strict=True):
            assert torch.equal(batch[i], expected)
        for batch, expected in zip(chunks, one.gather(), strict=True):
            assert torch.equal(batch[i], expected)


def test_inputs_that_lanes_share_are_stored_once():
    """Their targets may differ."""
    examples = Examples(make_lane_splits("inputs"), DataPlacement(*PLACE), lanes=True)
    assert (examples._inputs.values.shape, examples._targets.values.shape) == ((12, 1), (3, 12))


def test_a_tensor_is_placed_once_and_only_floats_change_their_type():
    place = DataPlacement(torch.device("cpu"), torch.float64)
    x, y = torch.ones(3), torch.ones(3, dtype=torch.int64)
    assert place(x) is place(x)
    assert place(x).dtype == torch.float64
    assert place(y).dtype == torch.int64


@pytest.mark.parametrize("lanes", [False, True])
def test_data_on_the_host_give_the_same_batches(lanes):
    """The storage does not change the batches; `meta` stands for a device with its own memory."""
    rows = [torch.arange(0, 20, 2), torch.arange(1, 21, 2)]
    data = [split(20, r) for r in rows] if lanes else [split(20, rows[0])]
    here, there = (Examples(data, DataPlacement(*PLACE, resident=r), lanes=lanes) for r in (True, False))
    keys = KEYS[: len(data)]
    one, two = (Batches(examples, 4, make_orders(data, keys), drop_last=False) for examples in (here, there))
    for step in range(7):
        assert all(torch.equal(a, b) for a, b in zip(one(step), two(step), strict=True))
    far = Examples(data, DataPlacement(torch.device("meta"), torch.float32, resident=False), lanes=lanes)
    x, y = Batches(far, 4, make_orders(data, keys), drop_last=False)(0)
    assert (x.device.type, y.device.type) == ("meta", "meta")
    assert far._inputs.values.device.type == "cpu"


# ------------------------------------------------------------------------------------------------ data in a file


def map_split(data, convert=torch.from_numpy):
    return Split(MappedInputs(data.inputs.numpy(), convert), data.targets, data.rows)


@pytest.fixture(params=[0, 100, 1 << 20])
def block(request, monkeypatch):
    """Read one batch ahead, a few, or many."""
    monkeypatch.setattr(read_ahead, "BLOCK_BYTES", request.param)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("drop_last", [True, False])
def test_inputs_in_a_file_make_the_batches_of_those_in_memory(block, lanes, shared, drop_last):
    base = split(23)
    data = [Split(base.inputs + (0 if shared else i), base.targets, torch.arange(i, 20 + i)) for i in range(lanes)]
    if shared:
        data = [Split(base.inputs, base.targets, d.rows) for d in data]
    mapped = [map_split(d) for d in data]
    if shared:
        mapped = [Split(mapped[0].inputs, d.targets, d.rows) for d in data]
    if lanes == 1:
        data, mapped = data[0], mapped[0]
    here, there = (batches(d, 6, KEYS[:lanes], drop_last=drop_last) for d in (data, mapped))
    for step in [*range(9), 4, 4, 30, 31, 2]:  # in order, as a resumed run, and back
        for actual, expected in zip(there(step), here(step), strict=True):
            assert torch.equal(actual, expected)
    for actual, expected in zip(there.examples.all(), here.examples.all(), strict=True):
        assert torch.equal(actual, expected)
    if lanes == 3:
        for draw in (here, there):
            draw.select_lanes(torch.tensor([2, 0]))
        for step in (2, 3, 4, 9):
            for actual, expected in zip(there(step), here(step), strict=True):
                assert torch.equal(actual, expected)


def test_a_batch_of_a_whole_file_is_in_the_order_of_the_data():
    draw = batches(map_split(split(23)), 23)
    assert draw.is_whole
    assert torch.equal(draw(5)[0], split(23).inputs)


def test_examples_in_a_file_stay_there_whatever_the_device():
    place = DataPlacement.of(torch.device("meta"), torch.float64, [map_split(split(5))])
    assert place.storage_device == torch.device("cpu")
    assert place(map_split(split(5)).inputs).dtype == torch.float64
    x, y = Examples([map_split(split(5))], place, lanes=False).select(torch.tensor([1, 2]))
    assert (x.device.type, y.device.type, x.shape, x.dtype) == ("meta", "meta", (2, 1), torch.float64)


def test_an_error_of_reading_ahead_is_raised_at_its_own_step(monkeypatch):
    monkeypatch.setattr(read_ahead, "BLOCK_BYTES", 0)

    def fail(examples):
        if 22 in examples:
            raise OSError("the disk is gone")
        return torch.from_numpy(examples)

    draw = batches(map_split(split(23), fail), 4)
    bad = next(step for step in range(6) if 22 in batches(split(23), 4)(step)[0])
    for step in range(bad):
        draw(step)
    with pytest.raises(OSError, match="the disk is gone"):
        draw(bad)


def test_reading_ahead_takes_one_thread_and_leaves_the_others():
    threads = []
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        batches(map_split(split(23), lambda x: threads.append(torch.get_num_threads()) or torch.from_numpy(x)), 4)(0)
        assert torch.get_num_threads() == 2
        assert set(threads[1:]) == {1}  # the first one is of the shape
    finally:
        torch.set_num_threads(before)


def test_chunks_of_inputs_in_a_file_are_small(monkeypatch):
    monkeypatch.setattr(mapped_inputs, "CHUNK_BYTES", 5 * 4)
    for data in (map_split(split(23)), map_split(split(23, torch.arange(22, -1, -1)))):
        examples = batches(data, 6).examples
        assert [len(x) for x, _ in examples.chunks(10)] == [5, 5, 5, 5, 3]
        assert [len(x) for x, _ in examples.chunks(3)] == [3] * 7 + [2]
        assert torch.equal(torch.cat([x for x, _ in examples.chunks(10)]), data.gather()[0])


# ------------------------------------------------------------------------------------------------ orders

FIXED = [order for order in get_args(Order) if order != "online"]
LABELLED = Split(torch.arange(40).float().unsqueeze(-1), torch.tensor([0] * 30 + [2] * 8 + [5] * 2))


def draw_epochs(order, count, size=7, data=LABELLED, key=KEYS[0]):
    """Return the rows of each epoch."""
    draw = batches(data, size, [key], order=order)
    steps = range(draw.per_epoch)
    return [torch.cat([draw(e * draw.per_epoch + i)[0][:, 0].long() for i in steps]) for e in range(count)]


@pytest.mark.parametrize("order", FIXED)
def test_an_epoch_of_every_order_has_as_many_examples_as_the_split_has(order):
    rows = torch.tensor([3, 35, 11, 39, 0, 8, 31])
    data = Split(LABELLED.inputs, LABELLED.targets, rows)
    for epoch in draw_epochs(order, 3, size=3, data=data):
        assert len(epoch) == len(rows)
        assert set(epoch.tolist()) <= set(rows.tolist())


def test_a_sequential_order_is_that_of_the_data_and_once_is_one_shuffle():
    assert all(epoch.tolist() == list(range(40)) for epoch in draw_epochs("sequential", 3))
    once, shuffled = draw_epochs("once", 3), draw_epochs("reshuffle", 3)
    assert all(torch.equal(epoch, shuffled[0]) for epoch in once)
    assert not torch.equal(shuffled[1], shuffled[0])


def test_draws_with_replacement_are_independent_and_equally_likely():
    epochs = draw_epochs("replacement", 500)
    counts = torch.cat(epochs).bincount(minlength=40)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    different = sum(len(epoch.unique()) for epoch in epochs) / 500
    assert different == pytest.approx(40 * (1 - (1 - 1 / 40) ** 40), rel=0.02)


def test_balanced_draws_have_equally_likely_classes_and_examples_of_a_class():
    rows = torch.cat(draw_epochs("balanced", 500))
    classes = LABELLED.targets[rows].bincount()[[0, 2, 5]]
    assert scipy.stats.chisquare(classes).pvalue > 1e-3
    for label in (0, 2, 5):
        inside = rows[LABELLED.targets[rows] == label].bincount(minlength=40)[LABELLED.targets == label]
        assert scipy.stats.chisquare(inside).pvalue > 1e-3


@pytest.mark.parametrize("order", FIXED)
@pytest.mark.parametrize("size", [7, 40])
def test_lanes_and_steps_in_any_order_have_the_batches_of_every_order(order, size):
    data = [Split(LABELLED.inputs, LABELLED.targets, torch.arange(40)[i::2]) for i in (0, 1)]
    together, alone = batches(data, size, KEYS[:2], order=order), [
        batches(d, size, [k], order=order) for d, k in zip(data, KEYS, strict=False)
    ]  # fmt: skip
    expected = [together(step)[0] for step in range(12)]
    for step in (11, 0, 5, 6):
        for i, one in enumerate(alone):
            assert torch.equal(one(step)[0], expected[step][i])
    together.select_lanes(torch.tensor([1]))
    assert torch.equal(together(12)[0][0], alone[1](12)[0])


@pytest.mark.parametrize("order", FIXED)
def test_a_batch_of_all_examples_is_the_split_unless_they_are_drawn(order):
    draw = batches(LABELLED, 40, order=order)
    assert draw.is_whole == (order in ("reshuffle", "once", "sequential"))
    assert torch.equal(draw(0)[0], LABELLED.inputs) == draw.is_whole


STREAM = mine.Stream(None, None, 0.0, False, "online")
ONLINE = ("data._target_=mine.Stream", "data.order=online", "precision=float64")


def test_online_no_example_is_used_twice(tmp_path):
    experiment = build_blobs(*ONLINE, "preprocess=standardize", "data.label_noise=0.5")
    state = TrainState([experiment])
    epochs = [torch.cat([state.batches(3 * e + i)[0] for i in range(3)]) for e in range(4)]
    assert [len(epoch) for epoch in epochs] == [48] * 4
    assert len(torch.cat([*epochs, experiment.train.gather()[0]]).unique(dim=0)) == 5 * 48
    x, y = STREAM.draw(prng.fold_in(prng.key(0, "online"), 2), 48).gather()
    expected = Standardize().apply(x, experiment.preprocessing["standardize"])
    used = epochs[2][epochs[2][:, 0].argsort()]
    torch.testing.assert_close(used, expected[expected[:, 0].argsort()].double())
    noisy = torch.cat([state.batches(6 + i)[1] for i in range(3)])[epochs[2][:, 0].argsort()]
    assert (noisy != y[expected[:, 0].argsort()]).sum() == 24


def test_online_lanes_are_the_runs_alone():
    runs = [build_blobs(*ONLINE, f"seed={seed}") for seed in (0, 1)]
    together, alone = TrainState(runs), [TrainState([run]) for run in runs]
    for step in (0, 4, 2):
        for i, one in enumerate(alone):
            assert torch.equal(together.batches(step)[0][i], one.batches(step)[0])
    together.batches.select_lanes(torch.tensor([1]))
    assert torch.equal(together.batches(7)[0][0], alone[1].batches(7)[0])


@pytest.mark.parametrize("order", [*FIXED[1:], "online"])
def test_a_run_of_every_order_resumes_with_the_same_bits_and_equals_its_lane(order, tmp_path):
    keys = ("data._target_=mine.Stream", f"data.order={order}", "precision=float64", "epochs=2")
    _, (run,) = train_runs(tmp_path / "whole", build_blobs(*keys))
    half = interrupt_run(tmp_path / "half", 4, build_blobs(*keys))
    _, half = resume_run(half.path, build_blobs(*keys))
    assert torch.equal(load_weights(half), load_weights(run))
    _, lanes = train_runs(tmp_path / "lanes", build_blobs(*keys), build_blobs(*keys, "seed=1"))
    torch.testing.assert_close(load_weights(lanes[0]), load_weights(run), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("overrides", "words"), [
    (["data.order=balanced", "data._target_=mine.Regression", "loss=mse"], "targets of this data are numbers"),
    (["data.order=online"], "online needs data that are generated, and Blobs has a fixed number"),
    (["data.order=shuffle"], "one of reshuffle, replacement, balanced, once, sequential, online"),
])  # fmt: skip
def test_an_order_that_the_data_do_not_have_is_refused(overrides, words):
    assert_build_refused(lambda: build_blobs(*overrides), "data.order", words)


def test_lanes_agree_in_the_order(tmp_path):
    with pytest.raises(ValueError, match="lanes must agree in data"):
        train_runs(tmp_path, build_blobs(), build_blobs("data.order=once"))
