"""Arithmetic in place, and slices that fit into a cache."""

import pytest
import torch

from dlopt.linalg import inplace
from dlopt.linalg.inplace import axpy_, cache_chunks


@pytest.mark.parametrize(
    ("a", "shape"), [(-0.3, (5,)), (0.7, (3, 5)), (torch.tensor([[0.5], [-2.0], [0.0]]), (3, 5)), (2, (5,))]
)
def test_axpy_adds_in_place(a, shape):
    w, x = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    a = a.double() if isinstance(a, torch.Tensor) else a
    expected, before = w + a * x, x.clone()
    out = axpy_(w, a, x)
    assert out is w
    torch.testing.assert_close(w, expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(x, before)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_chunks_are_small_views_of_every_number_once(lead, size, monkeypatch):
    monkeypatch.setattr(inplace, "CHUNK_SIZE", 8)
    w, indices = torch.zeros(*lead, size), torch.arange(size)
    chunks = list(cache_chunks(w, indices, torch.zeros(*lead, 0)))
    for chunk, part, empty in chunks:
        chunk.add_(part + 1)
        assert chunk.numel() < 8 + (lead or (1,))[0]
        assert empty.shape == (*lead, 0)
    assert torch.equal(w, (indices + 1.0).expand(*lead, size))
    assert torch.equal(torch.cat([part for _, part, _ in chunks]), indices)


def test_a_short_tensor_is_one_chunk():
    w = torch.zeros(inplace.CHUNK_SIZE)
    ((one, other),) = cache_chunks(w, w)
    assert one is other is w
