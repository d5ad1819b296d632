"""Random numbers as a function of a key: the hash in integer arithmetic, lanes and single keys, statistics."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from dlopt import prng
from dlopt.prng import Key

words = st.integers(0, 2**32 - 1)
seeds = st.integers(0, 2**64 - 1)


def lowbias32(x):
    """Hash an integer (C. Wellons 2018)."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def by_hand(key, count):
    """Hash the index of each element with both halves of the key, to signed 32-bit numbers."""
    hashes = (lowbias32((lowbias32(i ^ key.a) + key.b) % 2**32) for i in range(count))
    return [h - 2**32 if h >= 2**31 else h for h in hashes]


def batch_of(keys):
    return Key(torch.tensor([k.a for k in keys]), torch.tensor([k.b for k in keys]))


@given(a=words, b=words)
@example(a=0, b=2**31)
@example(a=2**31 - 1, b=2**32 - 1)
def test_bits_are_the_hash_of_the_index(a, b):
    assert prng.bits(Key(a, b), (3, 5)).flatten().tolist() == by_hand(Key(a, b), 15)


def test_signs_are_those_of_the_bits():
    key = prng.key(3, "signs")
    signs = prng.rademacher(key, (10_000,))
    assert torch.equal(signs, torch.where(prng.bits(key, (10_000,)) < 0, -1.0, 1.0))
    assert abs(signs.mean()) < 4 / math.sqrt(10_000)


def test_classes_are_drawn_with_their_probabilities():
    key, probabilities = prng.key(3, "classes"), torch.tensor([0.2, 0.0, 0.5, 0.3, 0.0])
    drawn = prng.categorical(key, probabilities.expand(20_000, 5))
    shares = drawn.bincount(minlength=5) / len(drawn)
    assert not shares[[1, 4]].any()
    torch.testing.assert_close(shares, probabilities, rtol=0, atol=4 * math.sqrt(0.25 / 20_000))
    u = prng.uniform(key, (20_000,))
    assert torch.equal(drawn, torch.bucketize(u, torch.tensor([0.2, 0.7]), right=True).apply_(lambda i: [0, 2, 3][i]))


def test_repeated_draws_are_equal_and_longer_ones_start_with_them():
    key = prng.key(3, "twice")
    first = prng.bits(key, (10, 10))
    prng.uniform(key, (10, 10))
    assert torch.equal(prng.bits(key, (10, 10)), first)
    assert torch.equal(prng.bits(key, (500,))[:100], first.flatten())


@given(halves=st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_a_batch_of_keys_draws_the_bits_of_each_key(halves):
    keys = [Key(*h) for h in halves]
    together = prng.bits(batch_of(keys), (2, 7))
    mapped = torch.vmap(lambda key: prng.bits(key, (2, 7)))(batch_of(keys))
    alone = torch.stack([prng.bits(key, (2, 7)) for key in keys])
    assert torch.equal(together, alone)
    assert torch.equal(mapped, alone)


@given(halves=st.lists(st.tuples(words, words), min_size=1, max_size=4), p=st.floats(0, 0.999))
def test_uniform_normal_and_bernoulli_map_over_keys(halves, p):
    keys = [Key(*h) for h in halves]
    ps = torch.full((len(keys),), p, dtype=torch.float64)
    uniform = torch.vmap(lambda key: prng.uniform(key, (9,)))(batch_of(keys))
    normal = torch.vmap(lambda key: prng.normal(key, (9,)))(batch_of(keys))
    chosen = torch.vmap(lambda key, p: prng.bernoulli(key, p, (9,)))(batch_of(keys), ps)
    for i, key in enumerate(keys):
        assert torch.equal(uniform[i], prng.uniform(key, (9,)))
        torch.testing.assert_close(normal[i], prng.normal(key, (9,)))
        assert torch.equal(chosen[i], prng.bernoulli(key, p, (9,)))


@given(seed=seeds, names=st.lists(st.text(max_size=9) | st.integers(0, 2**40), max_size=4))
def test_folding_into_a_batch_of_keys_folds_into_each(seed, names):
    alone = prng.key(seed)
    folded = Key(*(torch.tensor([half]) for half in alone))
    for name in names:
        alone, folded = prng.fold_in(alone, name), prng.fold_in(folded, name)
    assert (folded.a.item(), folded.b.item()) == tuple(alone)
    assert all(0 <= half < 2**32 for half in alone)
    assert prng.key(seed, *names) == alone


def test_a_draw_inside_a_transformation_is_the_same_outside():
    key = prng.key(1, "inside")
    shape = (3, 11, 17)  # used nowhere else, so not in a cache

    def f(w):
        return (w * prng.uniform(key, shape)).square().sum()

    lanes = torch.vmap(torch.func.grad(torch.func.grad(f)))(torch.ones(2))
    seen = prng.uniform(key, shape)
    assert prng.bits(key, shape).flatten().tolist() == by_hand(key, math.prod(shape))
    torch.testing.assert_close(lanes, (2 * seen.square().sum()).expand(2))


def test_different_addresses_have_different_keys():
    keys = {
        prng.fold_in(prng.fold_in(prng.key(seed, purpose), step), site)
        for seed in range(10)
        for purpose in ("dropout", "order", "augmentation", "init")
        for step in range(100)
        for site in range(10)
    }
    assert len(keys) == 40_000
    assert len({k.a for k in keys}) > 39_990  # about 0.2 of 4e4 random 32-bit numbers collide
    assert len({k.b for k in keys}) > 39_990


def test_keys_depend_on_every_bit_of_a_seed_and_the_order_of_a_path():
    keys = {prng.key(1 << i) for i in range(64)} | {prng.key(0)}
    assert len(keys) == 65
    assert prng.key(0, "a", "b") != prng.key(0, "b", "a")
    assert prng.key(0, 1, 2) != prng.key(0, 2, 1)


@pytest.mark.parametrize("parent", [prng.Key(3, 4), prng.Key(0, 0)])
def test_both_halves_of_a_child_depend_on_the_name_and_on_the_parent(parent):
    child = prng.fold_in(parent, 1)
    for other in (prng.fold_in(parent, 2), prng.fold_in(prng.Key(parent.a ^ 1, parent.b), 1)):
        assert child.a != other.a
        assert child.b != other.b
    assert child.b != prng.fold_in(prng.Key(parent.a, parent.b ^ 1), 1).b


def neighbours():
    """Yield pairs of keys whose addresses differ in one element."""
    for i in range(12):
        yield prng.key(i), prng.key(i + 1)
        yield prng.key(i, "init"), prng.key(i, "order")
        yield prng.key(0, "dropout", i), prng.key(0, "dropout", i + 1)
        yield prng.key(0, "dropout", 5, 1000 + i), prng.key(0, "dropout", 5, 1001 + i)
        yield prng.key(i, "dropout", 5), prng.key(i + 1, "dropout", 5)


def test_the_numbers_of_neighbouring_addresses_are_uncorrelated():
    n = 20_000
    for one, other in neighbours():
        x, y = prng.uniform(one, (n,)).double() - 0.5, prng.uniform(other, (n,)).double() - 0.5
        assert abs((x * y).mean() * 12) < 4 / math.sqrt(n)


def chi_square(x, bins):
    """Return Pearson's statistic for uniform numbers, in standard deviations from its mean."""
    expected = len(x) / bins
    counts = torch.histc(x, bins, 0.0, 1.0)
    return ((counts - expected).square().sum() / expected - (bins - 1)).item() / math.sqrt(2 * (bins - 1))


def assert_uniform(x):
    n = len(x)
    assert x.min() >= 0.0
    assert x.max() < 1.0
    x = x.double()
    assert abs(x.mean() - 1 / 2) < 4 * math.sqrt(1 / 12 / n)
    assert abs(x.var() - 1 / 12) < 4 * math.sqrt(1 / 180 / n)
    assert abs(chi_square(x, 256)) < 4
    for lag in (1, 2, 3, 16, 1000):
        assert abs(((x[lag:] - 0.5) * (x[:-lag] - 0.5)).mean() * 12) < 4.5 / math.sqrt(n - lag)


@pytest.mark.parametrize("seed", range(5))
def test_uniform_numbers_are_uniform(seed):
    assert_uniform(prng.uniform(prng.key(seed, "uniform"), (200_000,)))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
def test_many_uniform_numbers_are_uniform(seed):
    assert_uniform(prng.uniform(prng.key(seed, "large"), (10_000_000,)))


@pytest.mark.long
def test_first_numbers_of_many_keys_are_uniform():
    """Each step and site draws few numbers, so numbers must be uniform over keys as well as over elements."""
    root = prng.key(0, "ensemble")
    steps = Key(*(torch.tensor(half) for half in zip(*(prng.fold_in(root, i) for i in range(100_000)), strict=True)))
    numbers = prng.uniform(prng.fold_in(steps, "site"), (3,))
    for i in range(3):
        assert_uniform(numbers[:, i])
    assert_uniform(numbers.flatten())


@pytest.mark.parametrize("which", [0, 1])
def test_flipping_a_bit_of_a_key_flips_half_of_the_bits(which):
    shape, base = (2000,), Key(0x12345678, 0x9ABCDEF0)
    for bit in range(32):
        changed = base._replace(**{base._fields[which]: base[which] ^ (1 << bit)})
        differ = prng.bits(base, shape) ^ prng.bits(changed, shape)
        ones = sum(((differ >> k) & 1).sum().item() for k in range(32))
        assert abs(ones / (32 * shape[0]) - 0.5) < 0.02


@pytest.mark.parametrize("p", [1e-4, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_the_frequency_of_a_bernoulli_draw_is_its_probability(p):
    n = 400_000
    for seed in range(3):
        share = prng.bernoulli(prng.key(seed, "coin"), p, (n,)).double().mean()
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("seed", range(3))
def test_normal_numbers_are_standard_normal(seed):
    """Mean, variance, fourth moment and distribution function are exact within 4.5 standard errors."""
    n = 400_000
    x = prng.normal(prng.key(seed, "normal"), (n,)).double()
    assert abs(x.mean()) < 4.5 / math.sqrt(n)
    assert abs(x.square().mean() - 1) < 4.5 * math.sqrt(2 / n)
    assert abs(x.pow(4).mean() - 3) < 4.5 * math.sqrt(96 / n)
    for bound in (-3.0, -1.0, 0.0, 0.3, 2.0):
        p = 0.5 * math.erfc(-bound / math.sqrt(2))
        assert abs((x < bound).double().mean() - p) < 4.5 * math.sqrt(p * (1 - p) / n)


def test_normal_numbers_are_finite_at_the_ends_and_symmetric(monkeypatch):
    ends = torch.tensor([-(2**31), -(2**31) + 255, 0, 255, -1, 2**31 - 1], dtype=torch.int32)
    monkeypatch.setattr(prng, "bits", lambda *args: ends.clone())
    low, same, least, most, negative, high = prng.normal(prng.key(0), (6,)).tolist()
    assert low == same == -high == pytest.approx(-5.4, abs=0.1)
    assert least == most == -negative == pytest.approx(2**-24 * math.sqrt(math.pi / 2))


def test_probability_zero_never_happens():
    assert not any(prng.bernoulli(prng.key(seed), 0.0, (100_000,)).any() for seed in range(20))
    assert not torch.vmap(lambda p: prng.bernoulli(prng.key(0), p, (100_000,)))(torch.zeros(2)).any()


def draw(key):
    return tuple(torch.randint(2**62, (2,), generator=prng.generator(key)).tolist())


def test_a_generator_is_a_function_of_every_bit_of_its_key():
    """torch's CPU generator uses only the low 32 bits of its seed."""
    base = Key(0x12345678, 0x9ABCDEF0)
    keys = [base] + [Key(base.a ^ (1 << bit), base.b) for bit in range(32)]
    keys += [Key(base.a, base.b ^ (1 << bit)) for bit in range(32)]
    keys += [prng.key(0, "init", i) for i in range(500)] + [prng.key(seed) for seed in range(500)]
    draws = list(map(draw, keys))
    assert len(set(draws)) == len(keys)
    assert draw(keys[7]) == draws[7]


def test_draws_do_not_change_the_global_generator_of_torch():
    before = torch.get_rng_state()
    prng.uniform(prng.key(0), (100,))
    torch.randn(3, generator=prng.generator(prng.key(0)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_draw_inside_two_transformations_can_follow_in_one():
    """The counter of a shape is cached, and must not belong to a transformation that has ended."""
    key, shape = prng.key(3), (5, 7, 3)  # used nowhere else, so not in a cache

    def f(x):
        return x * x * prng.uniform(key, shape).sum()

    second, first = torch.func.grad(torch.func.grad(f))(torch.tensor(1.0)), torch.func.grad(f)(torch.tensor(1.0))
    assert first == second == 2 * prng.uniform(key, shape).sum()


def test_folding_in_a_tensor_of_numbers_gives_the_key_of_each():
    parent, numbers = prng.key(7, "parent"), [0, 5, 2**31]
    children = prng.fold_in(parent, torch.tensor(numbers))
    assert [half.tolist() for half in children] == [
        list(c) for c in zip(*(prng.fold_in(parent, n) for n in numbers), strict=True)
    ]
