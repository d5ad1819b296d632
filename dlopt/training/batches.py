"""Examples on the device, and the mini-batches drawn from them: for one run, or for E lanes in step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base.data import Split
from dlopt.prng import Key


def to_device_async(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host, on its way to a device: the host does not wait for what the device still has to do.

    From pinned memory, without which a GPU's copy waits.
    """
    if tensor.device.type == device.type:
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


class DataPlacement:
    """Where examples lie: on the device, or on the host where they would fill more than half of the device's memory.

    Each tensor is moved once: runs that share one on the host share it on the device. device is where batches are
    handed over, home where the examples lie.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, *, resident: bool = True) -> None:
        self.device = device
        self.dtype = dtype
        self.storage_device = device if resident else torch.device("cpu")
        self._placements: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, device: torch.device, dtype: torch.dtype, splits: Iterable[Split]) -> DataPlacement:
        """The place that suits the size of these splits."""
        if device.type != "cuda":
            return cls(device, dtype)
        width = torch.empty((), dtype=dtype).element_size()
        sizes = {id(s.inputs): s.inputs.numel() * width for s in splits}
        return cls(device, dtype, resident=sum(sizes.values()) <= torch.cuda.mem_get_info(device)[0] / 2)

    def __call__(self, tensor: Tensor) -> Tensor:
        if id(tensor) not in self._placements:
            there = (
                tensor.to(self.storage_device, self.dtype)
                if tensor.is_floating_point()
                else tensor.to(self.storage_device)
            )
            self._placements[id(tensor)] = (tensor, there)  # the original is kept, so that its id stays its own
        return self._placements[id(tensor)][1]


class Examples:
    """A split of one run, or the splits of E lanes (all of one size), on the device."""

    def __init__(self, splits: Sequence[Split], place: DataPlacement, *, lanes: bool) -> None:
        self.size = len(splits[0])
        self.lanes = len(splits) if lanes else None
        self.placement = place
        inputs, targets = [s.inputs for s in splits], [s.targets for s in splits]
        self._shared = all(x is inputs[0] and y is targets[0] for x, y in zip(inputs, targets, strict=True))
        self._inputs = place(inputs[0]) if self._shared else torch.stack([place(x) for x in inputs])
        self._targets = place(targets[0]) if self._shared else torch.stack([place(y) for y in targets])
        rows = [torch.arange(self.size) if s.rows is None else s.rows for s in splits]
        self._whole = all(s.rows is None for s in splits)
        self._rows = torch.stack(rows).to(place.storage_device) if lanes else rows[0].to(place.storage_device)

    def select(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets at these rows of the underlying tensors, on the device."""
        return self._to_device(self._gather(self._inputs, rows)), self._to_device(self._gather(self._targets, rows))

    def rows(self, order: Tensor) -> Tensor:
        """The rows of the underlying tensors in the given order of positions."""
        return self._rows.gather(-1, order)

    def all(self) -> tuple[Tensor, Tensor]:
        """All of the split, in order; without a copy where it is the whole of its tensors."""
        if self._whole and self.lanes is None:
            return self._to_device(self._inputs), self._to_device(self._targets)
        return self.select(self._rows)

    def chunks(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The split in order, some examples at a time."""
        for rows in self._rows.split(size, dim=-1):
            yield self.select(rows)

    def select_lanes(self, lanes: Tensor) -> None:
        self.lanes, lanes = len(lanes), lanes.to(self.placement.storage_device)
        self._rows = self._rows[lanes]
        if not self._shared:
            self._inputs, self._targets = self._inputs[lanes], self._targets[lanes]

    def _to_device(self, tensor: Tensor) -> Tensor:
        return to_device_async(tensor, self.placement.device)

    def _gather(self, tensor: Tensor, rows: Tensor) -> Tensor:
        if self.lanes is None:
            return tensor.index_select(0, rows)
        return tensor[rows] if self._shared else tensor[torch.arange(self.lanes, device=rows.device)[:, None], rows]


def to_probabilities(targets: Tensor, outputs: int, dtype: torch.dtype) -> Tensor:
    """Targets of which means can be taken: classes (...) as probabilities (..., outputs), numbers as they are."""
    if targets.is_floating_point():
        return targets
    # one_hot would look whether the classes are in range, and wait for the answer
    return (targets.unsqueeze(-1) == torch.arange(outputs, device=targets.device)).to(dtype)


def count_steps_per_epoch(examples: int, size: int, *, drop_last: bool) -> int:
    """How many mini-batches make a pass over so many examples."""
    whole, rest = divmod(examples, min(size, examples))
    return whole + (rest > 0 and not drop_last)


class Batches:
    """Mini-batches without replacement: each epoch is a new order of the examples, drawn from (key, epoch).

    The last batch of an epoch is smaller when the size does not divide the examples, or left out with drop_last.
    A batch of the whole split is handed over in the order of the data.
    """

    def __init__(self, examples: Examples, size: int, keys: Sequence[Key], *, drop_last: bool) -> None:
        self.examples = examples
        self.size = min(size, examples.size)
        self.keys = list(keys)
        self.per_epoch = count_steps_per_epoch(examples.size, size, drop_last=drop_last)
        self._epoch = -1
        self._chunks: Sequence[Tensor] = ()
        # A copy: what a part does to a batch in place must not reach the data, which other runs may share.
        self._all = tuple(x.clone() for x in examples.all()) if self.size == examples.size else None

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the step numbered 0, 1, ...: (B, ...) or (E, B, ...)."""
        if self._all is not None:
            return self._all[0], self._all[1]
        epoch, i = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch = epoch
            self._chunks = self._order(epoch).split(self.size, dim=-1)
        return self.examples.select(self._chunks[i])

    def select_lanes(self, lanes: Tensor) -> None:
        self.examples.select_lanes(lanes)
        self.keys = [self.keys[i] for i in lanes.tolist()]
        self._chunks = [chunk[lanes.to(chunk.device)] for chunk in self._chunks]
        self._all = self.examples.all() if self._all is not None else None

    def _order(self, epoch: int) -> Tensor:
        n = self.examples.size
        orders = [torch.randperm(n, generator=prng.generator(prng.fold_in(key, epoch))) for key in self.keys]
        order = orders[0] if self.examples.lanes is None else torch.stack(orders)
        return self.examples.rows(to_device_async(order, self.examples.placement.storage_device))
