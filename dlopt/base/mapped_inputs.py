"""Inputs in a memory-mapped file: what is needed of them is read and converted when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dlopt.storage import memory
from dlopt.storage.mapped_array import MappedArray

CHUNK_BYTES = 1 << 22
"""Bytes of the converted inputs in a chunk: what networks compute of it fits into memory, and reading it is fast."""

CHECKED_BYTES = 1 << 27
"""Bytes that are read at once without a look at the available memory."""


class MappedInputs:
    """Inputs (N, *shape) in a file, which has the few methods of a tensor that batches and checks use.

    source holds the stored examples, (N, ...), of any type; convert makes floating-point inputs of
    any of them, example by example, so that reading a few gives the bits of converting all. rows, if given, are those
    of the source that are the examples. Nothing here is changed in place.
    """

    def __init__(
        self, source: np.ndarray | MappedArray, convert: Callable[[np.ndarray], Tensor], rows: Tensor | None = None
    ) -> None:
        self.source = source
        self.convert = convert
        self.rows = rows

    def __len__(self) -> int:
        return len(self.source if self.rows is None else self.rows)

    @cached_property
    def _example(self) -> Tensor:
        return self.convert(self.source[[0]])[0]  # a copy, which may be written

    @property
    def shape(self) -> torch.Size:
        return torch.Size([len(self), *self._example.shape])

    @property
    def dtype(self) -> torch.dtype:
        return self._example.dtype

    def is_floating_point(self) -> bool:
        return True

    def numel(self) -> int:
        return self.shape.numel()

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Read the inputs at these indices, of any shape, or in this slice. Raises NotEnoughMemoryError."""
        if isinstance(rows, slice):
            rows = torch.arange(len(self))[rows]
        if (size := rows.numel() * self._example.nbytes) > CHECKED_BYTES:
            memory.check(2 * size, f"reading {rows.numel():,} examples at once")
        flat = rows.flatten()
        inputs = self.convert(self.source[(flat if self.rows is None else self.rows[flat]).numpy()])
        return inputs.unflatten(0, rows.shape)

    def index_select(self, dim: int, rows: Tensor) -> Tensor:
        """Read the inputs at these indices; dim must be 0."""
        return self[rows]

    def select(self, rows: Tensor | None) -> MappedInputs:
        """Return the inputs at these indices without reading them; None: all."""
        if rows is None:
            return self
        return MappedInputs(self.source, self.convert, rows if self.rows is None else self.rows[rows])

    def map(self, function: Callable[[Tensor], Tensor]) -> MappedInputs:
        """Return the inputs to which a function of any number of examples is applied when they are read."""
        return MappedInputs(self.source, lambda examples: function(self.convert(examples)), self.rows)

    def to(self, device: torch.device, dtype: torch.dtype) -> MappedInputs:
        """Return the inputs in another type. They stay in their file, so the device is ignored."""
        return self.map(lambda inputs: inputs.to(dtype))

    @property
    def chunk_size(self) -> int:
        """Return the number of examples in a chunk."""
        return max(1, CHUNK_BYTES // max(1, self._example.nbytes))

    def chunks(self) -> Iterator[Tensor]:
        """Yield all inputs in order, a chunk at a time."""
        for rows in torch.arange(len(self)).split(self.chunk_size):
            yield self[rows]


Inputs = Tensor | MappedInputs


def select_inputs(inputs: Inputs, rows: Tensor) -> Inputs:
    """Return the inputs at these indices, of which mapped ones are not read."""
    return inputs.select(rows) if isinstance(inputs, MappedInputs) else inputs[rows]


def map_inputs(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Return function(inputs), which mapped inputs apply when they are read."""
    return inputs.map(function) if isinstance(inputs, MappedInputs) else function(inputs)
