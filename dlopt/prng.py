"""Random numbers as a function of (seed, purpose, step), without the state of a generator.

A Key is a pair of 32-bit numbers. `fold_in` derives a child key from a key and a name or a number, so every random
draw of a run has an address, such as key(seed, "dropout", step, site). There are two ways to draw:

- `generator(key)`: a torch.Generator on the CPU, for numbers that are drawn once (inits, the order of an epoch);
- `uniform(key, shape)`, `normal`, `bernoulli`: a counter-based hash of the element's index, for numbers that are drawn
  at every step on any device (dropout masks, noise, augmentation). It is a pure tensor function: a CPU, a GPU, vmap
  over a batch of keys and repeated evaluations give the same numbers.

The hash is two rounds of lowbias32 (C. Wellons, "Prospecting for hash functions", 2018) with half of the key added
before each round. It is not cryptographic. For 10,000 elements it takes two thirds of the time of torch's dropout on
one CPU core.
"""

from __future__ import annotations

import math
import zlib
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9
_C1, _C2 = 0x7FEB352D, 0x846CA68B


class Key(NamedTuple):
    """The address of a random draw: two numbers in [0, 2^32), ints or int64 tensors of shape (E,) for E lanes."""

    a: Any
    b: Any


def key(seed: int, *path: str | int) -> Key:
    """Return the key of a run's seed (an integer in [0, 2^64)), with each element of the path folded in."""
    root = Key(_mix((seed & _MASK) ^ _GOLDEN), _mix((seed >> 32) + _GOLDEN))
    return reduce(fold_in, path, root)


def fold_in(parent: Key, name: str | int | Tensor) -> Key:
    """Return a child key. Keys that differ in the parent or the name are statistically independent.

    An int64 tensor of numbers gives a batch of keys.
    """
    n: Any = zlib.crc32(name.encode()) if isinstance(name, str) else name & _MASK
    a = _mix(parent.a ^ _mix((n + _GOLDEN) & _MASK))
    b = _mix((parent.b + a + _GOLDEN) & _MASK)
    return Key(a, b)


def generator(parent: Key) -> torch.Generator:
    """Return a CPU generator seeded by an integer key, mixed into the 32 bits of a seed that torch uses."""
    return torch.Generator().manual_seed(_mix(_mix(parent.a) ^ parent.b))


def bits(parent: Key, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Return uniform random int32 of the given shape, or of shape (E, *shape) for a batch of keys."""
    a, b = (_to_signed(half, len(shape)) for half in parent)
    counter = _count if torch.compiler.is_compiling() else _counter  # the compiler caches it
    h = _mix_(counter(shape, str(device)) ^ a)
    return _mix_(h.add_(b))


def uniform(parent: Key, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Return uniform float32 in [0, 1), multiples of 2^-24."""
    return bits(parent, shape, device).bitwise_right_shift_(8).bitwise_and_(0xFFFFFF).float().mul_(2.0**-24)


def normal(parent: Key, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Return standard normal float32 up to 5.4: the inverse distribution function at 2^24 equally likely points."""
    odd = bits(parent, shape, device).bitwise_right_shift_(8).mul_(2).add_(1)  # uniform in +-(2^24 - 1), symmetric
    return odd.float().mul_(2.0**-24).erfinv_().mul_(2.0**0.5)


def rademacher(parent: Key, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Return float32 that are 1 or -1 with equal probability."""
    return (bits(parent, shape, device) >= 0).float().mul_(2).sub_(1)


def bernoulli(parent: Key, p: float | Tensor, shape: tuple[int, ...], device: torch.device | str = "cpu") -> Tensor:
    """Return booleans that are True with probability p in [0, 1), exact to 2^-32; under vmap p may be a tensor."""
    threshold = p * 2.0**32 - 2.0**31
    return bits(parent, shape, device) < (
        threshold.to(torch.int64) if isinstance(threshold, Tensor) else int(threshold)
    )


def categorical(parent: Key, probabilities: Tensor) -> Tensor:
    """Return the index of a class for each row of probabilities (..., classes): int64 of shape (...)."""
    u = uniform(parent, tuple(probabilities.shape[:-1]), probabilities.device).to(probabilities.dtype)
    below = probabilities.cumsum(-1) <= u.unsqueeze(-1)
    return below.sum(-1).clamp(max=probabilities.shape[-1] - 1)


def _mix(x: Any) -> Any:
    """Apply lowbias32 to ints or int64 tensors in [0, 2^32); products wrap modulo 2^64, so the low half is right."""
    x = ((x ^ (x >> 16)) * _C1) & _MASK
    x = ((x ^ (x >> 15)) * _C2) & _MASK
    return x ^ (x >> 16)


def _mix_(h: Tensor) -> Tensor:
    """Apply lowbias32 to int32 in place; the masks make the arithmetic right shift a logical one."""
    h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF)).mul_(_C1)
    h.bitwise_xor_((h >> 15).bitwise_and_(0x1FFFF)).mul_(_C2 - 2**32)
    return h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF))


def _to_signed(half: Any, dims: int) -> Any:
    if isinstance(half, Tensor):
        return half.to(torch.int32).reshape(half.shape + (1,) * dims)
    return half - 2**32 if half >= 2**31 else half


@lru_cache(maxsize=64)
def _counter(shape: tuple[int, ...], device: str) -> Tensor:
    with torch._C._DisableFuncTorch():  # else the tensor could not outlive a transformation
        return _count(shape, device)


def _count(shape: tuple[int, ...], device: str) -> Tensor:
    return torch.arange(math.prod(shape), dtype=torch.int32, device=device).view(shape)
