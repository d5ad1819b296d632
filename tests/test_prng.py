"""Random numbers as a function of their address: the hash against integers, lanes against single keys, statistics."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlopt import prng
from dlopt.prng import Key

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a slow machine is no failure
words = st.integers(0, 2**32 - 1)
seeds = st.integers(0, 2**64 - 1)


def lowbias32(x):
    """C. Wellons 2018, on Python's integers."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def by_hand(key, count):
    """Each element's index, hashed between the key's two halves; as signed 32-bit numbers."""
    found = (lowbias32((lowbias32(i ^ key.a) + key.b) % 2**32) for i in range(count))
    return [h - 2**32 if h >= 2**31 else h for h in found]


def batch_of(keys):
    return Key(torch.tensor([k.a for k in keys]), torch.tensor([k.b for k in keys]))


@relaxed
@given(a=words, b=words)
def test_bits_are_the_hash_of_the_elements_number(a, b):
    assert prng.bits(Key(a, b), (3, 5)).flatten().tolist() == by_hand(Key(a, b), 15)


@pytest.mark.parametrize("half", [0, 1, 2**31 - 1, 2**31, 2**32 - 1])
def test_bits_at_the_ends_of_the_range_of_a_key(half):
    assert prng.bits(Key(half, half), (40,)).tolist() == by_hand(Key(half, half), 40)


def test_asking_again_gives_the_same_bits_and_asking_for_more_begins_with_them():
    key = prng.key(3, "twice")
    first = prng.bits(key, (10, 10))
    prng.uniform(key, (10, 10))
    assert torch.equal(prng.bits(key, (10, 10)), first)
    assert torch.equal(prng.bits(key, (500,))[:100], first.flatten())


@relaxed
@given(halves=st.lists(st.tuples(words, words), min_size=1, max_size=4))
def test_a_batch_of_keys_draws_what_each_key_draws_alone(halves):
    keys = [Key(*h) for h in halves]
    together = prng.bits(batch_of(keys), (2, 7))
    mapped = torch.vmap(lambda key: prng.bits(key, (2, 7)))(batch_of(keys))
    alone = torch.stack([prng.bits(key, (2, 7)) for key in keys])
    assert torch.equal(together, alone)
    assert torch.equal(mapped, alone)


@relaxed
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


@relaxed
@given(seed=seeds, names=st.lists(st.text(max_size=9) | st.integers(0, 2**40), max_size=4))
def test_folding_a_tensor_is_folding_its_numbers(seed, names):
    alone = prng.key(seed)
    folded = Key(*(torch.tensor([half]) for half in alone))
    for name in names:
        alone, folded = prng.fold_in(alone, name), prng.fold_in(folded, name)
    assert (folded.a.item(), folded.b.item()) == tuple(alone)
    assert all(0 <= half < 2**32 for half in alone)
    assert prng.key(seed, *names) == alone


def test_a_draw_first_made_inside_a_transformation_is_the_same_outside():
    key = prng.key(1, "inside")
    shape = (3, 11, 17)  # drawn nowhere else, so that nothing is kept of it from before

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
        for step in range(250)
        for site in range(10)
    }
    assert len(keys) == 100_000
    assert len({k.a for k in keys}) > 99_990  # about 1.2 of 1e5 32-bit numbers fall on another
    assert len({k.b for k in keys}) > 99_990


def test_every_bit_of_a_64_bit_seed_counts():
    keys = {prng.key(1 << i) for i in range(64)} | {prng.key(0)}
    assert len(keys) == 65


def test_the_order_of_a_path_counts():
    assert prng.key(0, "a", "b") != prng.key(0, "b", "a")
    assert prng.key(0, 1, 2) != prng.key(0, 2, 1)


def neighbours():
    """Pairs of addresses that differ in one thing."""
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
    """Pearson's statistic for uniform numbers, as a number of standard deviations from its mean."""
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
@pytest.mark.parametrize("seed", range(20))
def test_uniform_numbers_are_uniform_in_the_large(seed):
    assert_uniform(prng.uniform(prng.key(seed, "large"), (10_000_000,)))


@pytest.mark.long
def test_first_numbers_of_many_keys_are_uniform():
    """Each step and site takes few numbers: the ensemble over keys must be as good as the one over elements."""
    root = prng.key(0, "ensemble")
    steps = Key(*(torch.tensor(half) for half in zip(*(prng.fold_in(root, i) for i in range(100_000)), strict=True)))
    drawn = prng.uniform(prng.fold_in(steps, "site"), (3,))
    for i in range(3):
        assert_uniform(drawn[:, i])
    assert_uniform(drawn.flatten())


@pytest.mark.parametrize("which", [0, 1])
def test_flipping_a_bit_of_a_key_flips_half_of_the_bits(which):
    shape, base = (2000,), Key(0x12345678, 0x9ABCDEF0)
    for bit in range(32):
        changed = base._replace(**{base._fields[which]: base[which] ^ (1 << bit)})
        differ = prng.bits(base, shape) ^ prng.bits(changed, shape)
        ones = sum(((differ >> k) & 1).sum().item() for k in range(32))
        assert abs(ones / (32 * shape[0]) - 0.5) < 0.02


@pytest.mark.parametrize("p", [1e-4, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_the_share_of_a_bernoulli_draw_is_its_probability(p):
    n = 400_000
    for seed in range(3):
        share = prng.bernoulli(prng.key(seed, "coin"), p, (n,)).double().mean()
        assert abs(share - p) < 4 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("seed", range(3))
def test_normal_numbers_are_standard_normal(seed):
    """Mean, variance and fourth moment, and the share within each of some bounds, within 4.5 standard errors."""
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


def test_a_generator_is_a_function_of_its_key():
    keys = [prng.key(0, "init", i) for i in range(2000)]
    draws = [torch.randint(2**62, (2,), generator=prng.generator(key)).tolist() for key in keys]
    again = torch.randint(2**62, (2,), generator=prng.generator(keys[7])).tolist()
    assert again == draws[7]
    assert len({tuple(d) for d in draws}) == len(keys)


def test_a_generator_depends_on_every_bit_of_both_halves_of_its_key():
    """torch's CPU generator looks at the low 32 bits of its seed alone."""
    base = Key(0x12345678, 0x9ABCDEF0)
    keys = [base] + [Key(base.a ^ (1 << bit), base.b) for bit in range(32)]
    keys += [Key(base.a, base.b ^ (1 << bit)) for bit in range(32)]
    draws = {tuple(torch.randint(2**62, (2,), generator=prng.generator(key)).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_runs_of_different_seeds_have_generators_of_their_own():
    draws = {torch.randint(2**62, (), generator=prng.generator(prng.key(seed))).item() for seed in range(500)}
    assert len(draws) == 500


def test_drawing_leaves_torchs_global_generator_alone():
    before = torch.get_rng_state()
    prng.uniform(prng.key(0), (100,))
    torch.randn(3, generator=prng.generator(prng.key(0)))
    assert torch.equal(torch.get_rng_state(), before)
