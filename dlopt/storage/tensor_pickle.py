"""What the pickle inside a file of tensors would make, found out without making any of it.

A pickle is a program for a machine with a stack. The machine here knows the instructions that torch.save writes for
dictionaries, lists, tuples, text, numbers and tensors; it makes no tensor, but looks at what each would take. So
nothing that a file names is imported or called, and a few bytes that stand for terabytes, or for more places than can
be visited, are refused before torch reads them. So is whatever it does not know.

Why torch.load(weights_only=True) is not enough (measured with torch 2.13 on the files of tests/hostile_files.py): a
dictionary key of tuples doubled sixty times did not end within 15 s of CPU time; a tensor of shape
(10**6, 10**6) in 16 bytes, a list of 50,000 aliases, and a flipped bit among the weights are loaded without an error.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

MOST = 1 << 21
"""Instructions of a pickle, and places in what it makes, each counted as often as it is reached."""
DEEPEST = 100
"""Levels of containers inside containers."""
DIMENSIONS = 64
SHARED = 8
"""How often the same numbers may occur in different tensors, on average: tied weights, a whole and its parts."""

SIZES = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint8": 1, "bool": 1, "uint16": 2, "uint32": 4, "uint64": 8,
    "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1,
}  # fmt: skip
"""Bytes of a number of each type."""
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip
"""torch's names for rows of numbers, and the type of these; that of an UntypedStorage stands with each tensor."""

ORDERED, TENSOR, TYPED_TENSOR = (
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",
)
PARAMETER, SHAPE, DEVICE, UNTYPED = (
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "torch.storage UntypedStorage",
)
TYPES = {f"torch {name}": size for name, size in SIZES.items()}
KINDS = {f"torch {name}": SIZES[kind] for name, kind in STORAGES.items()} | {UNTYPED: 1}
KNOWN = {ORDERED, TENSOR, TYPED_TENSOR, PARAMETER, SHAPE, DEVICE, *TYPES, *KINDS}
PLAIN = (str, int, float, bool, type(None))


class UnreadableTensorFile(ValueError):
    """A file does not hold tensors in plain containers, whole and no larger than it says; the message has one line."""


class GlobalName(NamedTuple):
    """Something of torch's or Python's that a pickle names."""

    name: str


class Storage(NamedTuple):
    """Numbers that lie in the file: their bytes, and the bytes of each."""

    size: int
    item_size: int


class TensorExtent(NamedTuple):
    """A tensor, by the bytes that its numbers take."""

    size: int


class PlainObject(NamedTuple):
    """A value that torch makes of plain ones: a device, a shape."""


def check_pickle(pickled: bytes, storages: Mapping[str, int]) -> None:
    """Raise UnreadableTensorFile where a pickle makes anything but plain containers of tensors, text and numbers.

    storages: for each row of numbers beside the pickle its bytes. A tensor must lie within one of them and be no larger
    than it, and all together, each counted wherever it occurs, no larger than SHARED times all of them.
    """
    try:
        machine = _PickleMachine(storages)
        with warnings.catch_warnings(action="ignore"):  # pickletools warns of escapes in names, which nothing has here
            machine.run(pickled)
    except (IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UnreadableTensorFile):
            raise
        raise UnreadableTensorFile("its pickle is damaged") from error
    total = 0
    for value in _iter_leaves([machine.content, *machine.attributes]):
        if isinstance(value, TensorExtent):
            total += value.size
        elif not isinstance(value, (*PLAIN, PlainObject)) and not (
            isinstance(value, GlobalName) and value.name in TYPES
        ):
            raise UnreadableTensorFile("it holds something that is neither a tensor, nor text, nor a number")
    if total > SHARED * sum(storages.values()):
        raise UnreadableTensorFile(
            f"its tensors share their numbers more than {SHARED} times over; save their .clone()"
        )


def _iter_leaves(contents: list[Any]) -> Iterator[Any]:
    """Whatever lies in containers that is no container itself."""
    waiting = [(value, 0) for value in contents]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        inner = value.values() if type(value) is dict else value if type(value) in (list, tuple) else None
        if inner is None:
            yield value
            continue
        count += len(inner)
        if count > MOST or depth > DEEPEST:
            raise UnreadableTensorFile(
                f"it holds more than {MOST:,} values, or more than {DEEPEST} containers in one another"
            )
        waiting += [(x, depth + 1) for x in inner]


class _PickleMachine:
    """The machine that a pickle is a program for."""

    def __init__(self, storages: Mapping[str, int]) -> None:
        self.storages = storages
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.content: Any = None
        self.attributes: list[Any] = []

    def run(self, pickled: bytes) -> None:
        for count, (instruction, argument, _) in enumerate(pickletools.genops(pickled)):
            if count > MOST:
                raise UnreadableTensorFile(f"its pickle has more than {MOST:,} instructions")
            act = OPERATIONS.get(instruction.name)
            if act is None:
                raise UnreadableTensorFile(f"its pickle has the instruction {instruction.name}, which no tensor needs")
            act(self, argument)

    # ------------------------------------------------------------------------------------------- instructions

    def protocol(self, version: int) -> None:
        if version != 2:
            raise UnreadableTensorFile(f"its pickle is of protocol {version}, not of 2, which is torch.save's")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: None) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        """What was pushed since the last mark."""
        found, self.stack = self.stack, self.below.pop()
        return found

    def pop(self, count: int) -> list[Any]:
        """So many values from the top."""
        return [self.stack.pop() for _ in range(count)][::-1]

    def remember(self, place: int) -> None:
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        self.stack.append(self.memo[place])

    def extend(self, values: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise TypeError(values)
        self.stack[-1].extend(values)

    def assign(self, pairs: list[Any]) -> None:
        """Keys are plain, for a tuple of tuples in one another could take for ever to be hashed."""
        if type(self.stack[-1]) is not dict:
            raise TypeError(pairs)
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) not in PLAIN:
                raise UnreadableTensorFile("it has a dictionary whose keys are neither text nor numbers")
            self.stack[-1][key] = value

    def push_global(self, name: str) -> None:
        if name not in KNOWN:
            said = name.replace(" ", ".")
            raise UnreadableTensorFile(
                f"it names {said[:80]!r}; only tensors, text and numbers in plain containers are read"
            )
        self.stack.append(GlobalName(name))

    def build(self, _: None) -> None:
        """A state dict has an attribute beside its items, the versions of its modules."""
        attributes, built = self.stack.pop(), self.stack[-1]
        if type(attributes) is not dict or type(built) is not dict:
            raise TypeError(attributes)
        self.attributes.append(attributes)

    def stop(self, _: None) -> None:
        self.content = self.stack.pop()

    # ------------------------------------------------------------------------------------------- tensors

    def storage(self, _: None) -> None:
        word, kind, key, place, count = self.stack.pop()
        if word != "storage" or type(key) is not str or type(place) is not str or type(count) is not int:
            raise TypeError(word)
        found = Storage(self.storages[key], KINDS[kind.name])
        if found.size != count * found.item_size:
            raise UnreadableTensorFile(
                f"it says that {count} numbers lie in {found.size} bytes, which are {found.item_size} for each"
            )
        self.stack.append(found)

    def call(self, _: None) -> None:
        given, (name,) = self.stack.pop(), self.stack.pop()
        if type(given) is not tuple:
            raise TypeError(given)
        if name == ORDERED and not given:
            made: Any = {}
        elif name == TENSOR:
            storage, *rest = given
            made = _measure_tensor(storage, storage.item_size, *rest)
        elif name == TYPED_TENSOR:
            *rest, kind = given
            made = _measure_tensor(rest[0], TYPES[kind.name], *rest[1:])
        elif name == PARAMETER and type(given[0]) is TensorExtent:
            made, *rest = given
            _no_hooks(*rest)
        elif name == SHAPE:
            _whole_numbers(*given)
            made = PlainObject()
        elif name == DEVICE and len(given) <= 2 and all(type(x) in PLAIN for x in given):
            made = PlainObject()
        else:
            raise UnreadableTensorFile(f"it calls {name.replace(' ', '.')} with what no tensor needs")
        self.stack.append(made)


def _measure_tensor(storage: Storage, each: int, begin: int, shape: Any, strides: Any, *flags: Any) -> TensorExtent:
    """The tensor that lies in a storage from a number on, with this shape and these steps from number to number."""
    _whole_numbers((begin,))
    _whole_numbers(shape)
    _whole_numbers(strides)
    _no_hooks(*flags)
    count = math.prod(shape)
    last = begin + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if count else 0
    if count and (last + 1) * each > storage.size:
        raise UnreadableTensorFile(
            f"a tensor of shape {str(shape)[:80]} reaches beyond the {storage.size} bytes of its numbers"
        )
    if count * each > storage.size:
        raise UnreadableTensorFile(
            f"a tensor of shape {str(shape)[:80]} has the same numbers in many places; save its .clone()"
        )
    return TensorExtent(count * each)


def _whole_numbers(values: Any) -> None:
    if type(values) is not tuple or len(values) > DIMENSIONS or any(type(x) is not int or x < 0 for x in values):
        raise TypeError(values)


def _no_hooks(requires_grad: Any, hooks: Any) -> None:
    if type(requires_grad) is not bool or type(hooks) is not dict or hooks:
        raise TypeError(hooks)


OPERATIONS: dict[str, Callable[[_PickleMachine, Any], None]] = {
    "PROTO": _PickleMachine.protocol,
    "MARK": _PickleMachine.mark,
    "GLOBAL": _PickleMachine.push_global,
    "BINPERSID": _PickleMachine.storage,
    "REDUCE": _PickleMachine.call,
    "BUILD": _PickleMachine.build,
    "STOP": _PickleMachine.stop,
    **dict.fromkeys(["BINPUT", "LONG_BINPUT"], _PickleMachine.remember),
    **dict.fromkeys(["BINGET", "LONG_BINGET"], _PickleMachine.recall),
    **dict.fromkeys(["BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"], _PickleMachine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.assign(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.assign(machine.pop_mark()),
}
"""What torch.save writes; each takes the argument that stands behind it."""
