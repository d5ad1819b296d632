"""Check what the pickle in a file of torch.save would create, without creating it.

A pickle is a program for a machine with a stack. The one here knows the instructions that torch.save writes for
dictionaries, lists, tuples, text, numbers and tensors. In place of a tensor it creates the tensor's size. So nothing
that a file names is imported or called. A few bytes that stand for terabytes or for endless nesting are refused before
torch reads them. Unknown instructions and names are refused too: what they would create is not known.

Why torch.load(weights_only=True) is not enough (measured with torch 2.13 on the files of tests/hostile_files.py): a
dictionary key of tuples doubled sixty times did not end within 15 s of CPU time. Three files are loaded without an
error: a tensor of shape (10**6, 10**6) in 16 bytes, a list of 50,000 aliases, and a flipped bit among the weights.
"""

from __future__ import annotations

import math
import pickletools
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

MOST = 1 << 21
"""Instructions of a pickle, and values in its content, each counted as often as it is reached."""
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
TYPES = {f"torch {name}": size for name, size in SIZES.items()}
STORAGES = {
    "torch DoubleStorage": 8, "torch FloatStorage": 4, "torch HalfStorage": 2, "torch BFloat16Storage": 2,
    "torch LongStorage": 8, "torch IntStorage": 4, "torch ShortStorage": 2, "torch CharStorage": 1,
    "torch ByteStorage": 1, "torch BoolStorage": 1, "torch ComplexFloatStorage": 8, "torch ComplexDoubleStorage": 16,
    "torch.storage UntypedStorage": 1,
}  # fmt: skip
"""Bytes of a number in each kind of storage; the type of an untyped one is given with each tensor."""
ORDERED_DICT, SHAPE, DEVICE = "collections OrderedDict", "torch Size", "torch device"
TENSOR, TYPED_TENSOR, PARAMETER = (
    f"torch._utils _rebuild_{name}" for name in ("tensor_v2", "tensor_v3", "parameter")
)  # fmt: skip
KNOWN = {ORDERED_DICT, SHAPE, DEVICE, TENSOR, TYPED_TENSOR, PARAMETER, *TYPES, *STORAGES}
PLAIN = (str, int, float, bool, type(None))
ARGUMENTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE")
"""Instructions that push their argument."""
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
}  # fmt: skip
"""Instructions that push a constant."""


class UnreadableTensorFile(ValueError):
    """A file does not hold tensors in plain containers, whole and no larger than it says; the message has one line."""


class GlobalName(NamedTuple):
    """A name in torch or Python."""

    name: str


class Storage(NamedTuple):
    """Numbers in the file: the bytes of all of them, and of one."""

    size: int
    item_size: int


class TensorSize(NamedTuple):
    """The bytes of a tensor, in place of it."""

    size: int


def check_pickle(pickled: bytes, storages: Mapping[str, int]) -> None:
    """Raise UnreadableTensorFile if a pickle creates anything except plain containers of tensors, text and numbers.

    storages: the bytes of each storage next to the pickle. A tensor must lie within one of them and be no larger than
    it; all tensors together, each counted wherever it occurs, no larger than SHARED times all storages.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # pickletools warns of escapes in names; no known name has one
            content = _run(pickled, storages)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, UnreadableTensorFile):
            raise
        raise UnreadableTensorFile("its pickle is damaged") from error
    total = 0
    for value in _iter_leaves(content):
        if isinstance(value, TensorSize):
            total += value.size
        elif not isinstance(value, PLAIN) and not (isinstance(value, GlobalName) and value.name in TYPES):
            raise UnreadableTensorFile("it holds something that is neither a tensor, nor text, nor a number")
    if total > SHARED * sum(storages.values()):
        message = f"its tensors share their numbers more than {SHARED} times over; save their .clone()"
        raise UnreadableTensorFile(message)


def _iter_leaves(content: list[Any]) -> Iterator[Any]:
    """Yield every value in nested containers that is not a container."""
    waiting = [(value, 0) for value in content]
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
            message = f"it holds more than {MOST:,} values, or more than {DEEPEST} containers in one another"
            raise UnreadableTensorFile(message)
        waiting += [(x, depth + 1) for x in inner]


def _run(pickled: bytes, storages: Mapping[str, int]) -> list[Any]:  # noqa: PLR0912, PLR0915
    """Run a pickle; return its content, and the attributes of state dicts (versions of modules)."""
    stack: list[Any] = []
    below: list[list[Any]] = []
    memo: dict[int, Any] = {}
    attributes: list[Any] = []
    argument: Any

    def pop(name: str) -> list[Any]:
        """Take the values of an instruction: those since the last mark (TUPLE, APPENDS), or as many as it names."""
        nonlocal stack
        if name[-1] in "123":
            return [stack.pop() for _ in range(int(name[-1]))][::-1]
        values, stack = stack, below.pop()
        return values

    for count, (instruction, argument, _) in enumerate(pickletools.genops(pickled)):
        if count > MOST:
            raise UnreadableTensorFile(f"its pickle has more than {MOST:,} instructions")
        match instruction.name:
            case name if name in ARGUMENTS:
                stack.append(argument)
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name]())
            case "PROTO":
                if argument != 2:
                    raise UnreadableTensorFile(f"its pickle has protocol {argument}, torch.save writes protocol 2")
            case "MARK":
                below.append(stack)
                stack = []
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                values = pop(name)  # which replaces the stack
                stack.append(tuple(values))
            case "APPEND" | "APPENDS" as name:
                values = pop("1" if name == "APPEND" else name)
                _expect(stack[-1], list).extend(values)
            case "SETITEM" | "SETITEMS" as name:
                values = pop("2" if name == "SETITEM" else name)
                # To hash a tuple of nested tuples could take forever.
                if any(type(key) not in PLAIN for key in values[::2]):
                    raise UnreadableTensorFile("it has a dictionary whose keys are neither text nor numbers")
                _expect(stack[-1], dict).update(zip(values[::2], values[1::2], strict=True))
            case "GLOBAL":
                if argument not in KNOWN:
                    label = argument.replace(" ", ".")[:80]
                    message = f"it names {label!r}; only tensors, text and numbers in plain containers are read"
                    raise UnreadableTensorFile(message)
                stack.append(GlobalName(argument))
            case "BINPERSID":
                stack.append(_find_storage(stack.pop(), storages))
            case "REDUCE":
                arguments, (name,) = stack.pop(), stack.pop()
                stack.append(_call(name, _expect(arguments, tuple)))
            case "BUILD":
                attributes.append(_expect(stack.pop(), dict))
                _expect(stack[-1], dict)
            case "STOP":
                return [stack.pop(), *attributes]
            case name:
                raise UnreadableTensorFile(f"its pickle has the instruction {name}, which no tensor needs")
    raise ValueError("no end")


def _find_storage(values: Any, storages: Mapping[str, int]) -> Storage:
    word, kind, key, place, count = values
    if word != "storage" or type(key) is not str or type(place) is not str or type(count) is not int:
        raise TypeError(word)
    size, item_size = storages[key], STORAGES[kind.name]
    if size != count * item_size:
        raise UnreadableTensorFile(f"it says that {count} numbers lie in {size} bytes, which are {item_size} for each")
    return Storage(size, item_size)


def _call(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return what a function of torch creates."""
    if name == ORDERED_DICT and not arguments:
        return {}
    if name == TENSOR:
        return _measure_tensor(arguments[0].item_size, *arguments)
    if name == TYPED_TENSOR:
        return _measure_tensor(TYPES[arguments[-1].name], *arguments[:-1])
    if name == PARAMETER and type(arguments[0]) is TensorSize:
        tensor, *flags = arguments
        _check_flags(*flags)
        return tensor
    if name == SHAPE:
        _check_whole_numbers(*arguments)
        return TensorSize(0)
    if name == DEVICE and len(arguments) <= 2 and all(type(x) in PLAIN for x in arguments):
        return TensorSize(0)  # not None, which could be the key of a dictionary
    raise UnreadableTensorFile(f"it calls {name.replace(' ', '.')} with what no tensor needs")


def _measure_tensor(each: int, storage: Storage, begin: int, shape: Any, strides: Any, *flags: Any) -> TensorSize:
    """Return the size of a tensor of this shape in a storage, from number `begin` on, in these strides."""
    for values in ((begin,), shape, strides):
        _check_whole_numbers(values)
    _check_flags(*flags)
    count = math.prod(shape)
    last = begin + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if count else 0
    if count and (last + 1) * each > storage.size:
        message = f"a tensor of shape {str(shape)[:80]} reaches beyond the {storage.size} bytes of its numbers"
        raise UnreadableTensorFile(message)
    if count * each > storage.size:
        message = f"a tensor of shape {str(shape)[:80]} has the same numbers in many places; save its .clone()"
        raise UnreadableTensorFile(message)
    return TensorSize(count * each)


def _check_whole_numbers(values: Any) -> None:
    if type(values) is not tuple or len(values) > DIMENSIONS or any(type(x) is not int or x < 0 for x in values):
        raise TypeError(values)


def _check_flags(requires_grad: Any, hooks: Any) -> None:
    if type(requires_grad) is not bool or type(hooks) is not dict or hooks:
        raise TypeError(hooks)


def _expect(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(value)
    return value
