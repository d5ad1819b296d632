"""Examples on the device, and the mini-batches sampled from them, for one run or E lanes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.base.data import Split
from dlopt.base.mapped_inputs import Inputs, MappedInputs
from dlopt.base.sequences import PADDING_CLASS
from dlopt.training.order import EpochOrder
from dlopt.training.read_ahead import ReadAhead


def to_device_async(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device without waiting for the device; a GPU needs pinned memory for that."""
    if tensor.device.type == device.type:
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


class DataPlacement:
    """The storage of examples: the device, or the host if they would fill more than half of the device's memory.

    Mapped inputs stay in their file. Each tensor is moved once: runs that share one on the host share it on the device.
    device is where batches are used, storage_device where the examples are.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, *, resident: bool = True) -> None:
        self.device = device
        self.dtype = dtype
        self.storage_device = device if resident else torch.device("cpu")
        self._placements: dict[int, tuple[Inputs, Any]] = {}

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype, splits: Iterable[Split]) -> DataPlacement:
        """Choose the storage by the size of these splits."""
        splits = list(splits)
        if any(isinstance(s.inputs, MappedInputs) for s in splits):
            return cls(device, dtype, resident=False)
        if device.type != "cuda":
            return cls(device, dtype)
        width = torch.empty((), dtype=dtype).element_size()
        sizes = {id(s.inputs): s.inputs.numel() * width for s in splits}
        return cls(device, dtype, resident=sum(sizes.values()) <= torch.cuda.mem_get_info(device)[0] / 2)

    def without_tensors(self) -> DataPlacement:
        """Return a placement of the same device and storage that holds no tensors."""
        return DataPlacement(self.device, self.dtype, resident=self.storage_device == self.device)

    def __call__(self, tensor: Inputs) -> Any:
        if id(tensor) not in self._placements:
            dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
            # holding the original keeps its id from being reused
            self._placements[id(tensor)] = (tensor, tensor.to(self.storage_device, dtype))
        return self._placements[id(tensor)][1]


class PlacedTensor(NamedTuple):
    """The inputs or targets of lanes in storage: (N, ...) if all lanes share one tensor, else (E, N, ...).

    values is mapped inputs if lanes share them, else a list with those of each lane.
    """

    values: Any
    is_shared: bool

    @property
    def is_mapped(self) -> bool:
        return not isinstance(self.values, Tensor)

    def select_lanes(self, lanes: Tensor) -> PlacedTensor:
        if self.is_shared:
            return self
        values = [self.values[i] for i in lanes.tolist()] if self.is_mapped else self.values[lanes]
        return self._replace(values=values)


def _place(tensors: Sequence[Inputs], placement: DataPlacement) -> PlacedTensor:
    if all(tensor is tensors[0] for tensor in tensors):
        return PlacedTensor(placement(tensors[0]), is_shared=True)
    placed = [placement(tensor) for tensor in tensors]
    is_mapped = any(isinstance(tensor, MappedInputs) for tensor in tensors)
    return PlacedTensor(placed if is_mapped else torch.stack(placed), is_shared=False)


class Examples:
    """A split of one run, or splits of E lanes with the same size, on the device."""

    def __init__(self, splits: Sequence[Split], placement: DataPlacement, *, lanes: bool) -> None:
        self.size = len(splits[0])
        self.lanes = len(splits) if lanes else None
        self.placement = placement
        self._inputs = _place([s.inputs for s in splits], placement)
        self._targets = _place([s.targets for s in splits], placement)
        rows = [torch.arange(self.size) if s.rows is None else s.rows for s in splits]
        self._whole = all(s.rows is None for s in splits)
        self._rows = (torch.stack(rows) if lanes else rows[0]).to(placement.storage_device)

    @property
    def is_mapped(self) -> bool:
        """Return whether inputs are read from a file."""
        return self._inputs.is_mapped

    def select(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return inputs and targets at these rows of the underlying tensors, on the device."""
        return self._to_device(self._gather(self._inputs, rows)), self._to_device(self._gather(self._targets, rows))

    def rows(self, order: Tensor) -> Tensor:
        """Return the rows of the underlying tensors in the given order of positions."""
        return self._rows.gather(-1, order)

    def all(self) -> tuple[Tensor, Tensor]:
        """Return the whole split in order; without a copy if it is all of its tensors."""
        if self._whole and self.lanes is None and not self.is_mapped:
            return self._to_device(self._inputs.values), self._to_device(self._targets.values)
        return self.select(self._rows)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the split in order, `size` examples at a time, and fewer of large inputs in a file."""
        if self.is_mapped:
            mapped = self._inputs.values if self._inputs.is_shared else self._inputs.values[0]
            size = min(size, mapped.chunk_size)
        for rows in self._rows.split(size, dim=-1):
            yield self.select(rows)

    def select_lanes(self, lanes: Tensor) -> None:
        self.lanes, lanes = len(lanes), lanes.to(self.placement.storage_device)
        self._rows = self._rows[lanes]
        self._inputs, self._targets = (placed.select_lanes(lanes) for placed in (self._inputs, self._targets))

    def _to_device(self, tensor: Tensor) -> Tensor:
        return to_device_async(tensor, self.placement.device)

    def _gather(self, placed: PlacedTensor, rows: Tensor) -> Tensor:
        if self.lanes is None:
            return placed.values.index_select(0, rows)
        if placed.is_shared:
            return placed.values[rows]
        if placed.is_mapped:
            return torch.stack([own[chosen] for own, chosen in zip(placed.values, rows, strict=True)])
        return placed.values[torch.arange(self.lanes, device=rows.device)[:, None], rows]


def to_probabilities(targets: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    """Return targets that can be averaged: classes (...) as probabilities (..., outputs), numbers unchanged.

    A step without a class has NaN.
    """
    if targets.is_floating_point():
        return targets
    # one_hot checks the range of the classes, and waits for the device
    probabilities = (targets.unsqueeze(-1) == torch.arange(outputs, device=targets.device)).to(dtype)
    return probabilities.masked_fill((targets == PADDING_CLASS).unsqueeze(-1), math.nan)


def count_steps_per_epoch(examples: int, size: int, *, drop_last: bool) -> int:
    """Return the number of mini-batches in one pass over the examples."""
    full, rest = divmod(examples, min(size, examples))
    return full + (rest > 0 and not drop_last)


class Batches:
    """Mini-batches of the examples of a split, in the order of each epoch.

    If the size does not divide the number of examples, the last batch of an epoch is smaller, or omitted with
    drop_last. A batch of the whole split is in the order of the data, if each epoch has every example once.

    orders   the order of the examples of each lane
    draws    functions that draw the examples of an epoch, for each lane; None: they are those of the split
    """

    def __init__(
        self,
        examples: Examples,
        size: int,
        orders: Sequence[EpochOrder],
        *,
        drop_last: bool,
        draws: Sequence[Callable[[int], Split]] | None = None,
    ) -> None:
        self.examples = examples
        self.size = min(size, examples.size)
        self.orders = list(orders)
        self.draws = draws
        self.per_epoch = count_steps_per_epoch(examples.size, size, drop_last=drop_last)
        self._epoch = -1
        self._chunks: Sequence[Tensor] = ()
        self._ahead = ReadAhead(self._select) if examples.is_mapped else None
        # A copy: in-place changes to a batch must not reach the data, which other runs may share.
        is_whole = self.size == examples.size and all(order.covers_split for order in orders)
        self._all = tuple(x.clone() for x in examples.all()) if is_whole else None

    @property
    def is_whole(self) -> bool:
        """Return whether every mini-batch is the whole split."""
        return self._all is not None

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of step 0, 1, ...: (B, ...) or (E, B, ...)."""
        if self._all is not None:
            return self._all[0], self._all[1]
        return self._select(step) if self._ahead is None else self._ahead(step)

    def _select(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            if self.draws is not None:
                splits = [draw(epoch) for draw in self.draws]
                placement = self.examples.placement.without_tensors()
                self.examples = Examples(splits, placement, lanes=self.examples.lanes is not None)
            self._chunks = self._order(epoch).split(self.size, dim=-1)
        return self.examples.select(self._chunks[i])

    def select_lanes(self, lanes: Tensor) -> None:
        if self._ahead is not None:
            self._ahead.clear()
        self.examples.select_lanes(lanes)
        self.orders = [self.orders[i] for i in lanes.tolist()]
        self.draws = None if self.draws is None else [self.draws[i] for i in lanes.tolist()]
        self._chunks = [chunk[lanes.to(chunk.device)] for chunk in self._chunks]
        self._all = self.examples.all() if self._all is not None else None

    def _order(self, epoch: int) -> Tensor:
        orders = [order.positions(epoch) for order in self.orders]
        order = orders[0] if self.examples.lanes is None else torch.stack(orders)
        return self.examples.rows(to_device_async(order, self.examples.placement.storage_device))
