"""Mini-batches that are read in a background thread while the ones before them are used."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]

BLOCK_BYTES, BLOCK_BATCHES = 4 << 20, 32
"""Limits of a block of batches that is read at once: handing it over takes a part of the time of a small step."""


class ReadAhead:
    """Batches of steps 0, 1, ..., which `read` returns, in blocks; the block after the current one is being read.

    Only the background thread calls `read`. A step that does not follow the one before is read when it is asked for.
    """

    def __init__(self, read: Callable[[int], Batch]) -> None:
        self._read = read
        # one thread for each operation: the others are at work on the step
        self._executor = ThreadPoolExecutor(1, "read-ahead", torch.set_num_threads, (1,))
        self._block_size = 0
        self._blocks: dict[int, Future[list[Batch]]] = {}

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, and keep reading the block after it."""
        if not self._block_size:
            size = self._executor.submit(self._read, step).result()[0].nbytes
            self._block_size = min(max(1, BLOCK_BYTES // max(1, size)), BLOCK_BATCHES)
        block, i = divmod(step, self._block_size)
        wanted = block, block + 1
        self._blocks = {b: self._blocks.get(b) or self._executor.submit(self._read_block, b) for b in wanted}
        return self._blocks[block].result()[i]

    def clear(self) -> None:
        """Forget what was read, and wait until nothing is being read."""
        for future in self._blocks.values():
            future.cancel()
        self._executor.submit(lambda: None).result()
        self._blocks = {}

    def _read_block(self, block: int) -> list[Batch]:
        first = block * self._block_size
        return [self._read(step) for step in range(first, first + self._block_size)]
