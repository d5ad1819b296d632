"""Your own arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlopt.base.data import DataStream, cut_into_parts
from dlopt.base.mapped_inputs import Inputs, select_inputs
from dlopt.base.sequences import is_padded_series
from dlopt.data import _array_files, _files, _grouping, _npy_files, _own_splits, _varying
from dlopt.data import _targets as data_targets
from dlopt.data._array_inputs import (
    Array,
    Channels,
    check_finite,
    check_rounding,
    make_inputs,
    name_dtype,
    note_channels,
)
from dlopt.data._keras_names import rename_keras
from dlopt.data._npy_files import MemoryMap
from dlopt.data._targets import TargetKindOption, TestFraction
from dlopt.errors import OptionError, did_you_mean, join_truncated
from dlopt.parts import Data, Dataset, Split
from dlopt.storage.fingerprint import digest_files, fingerprint_files
from dlopt.storage.mapped_array import MappedArray

SUFFIXES = (".npz", ".pt", ".npy")
VALIDATION_ENDS = ("_val", "_valid", "_validation")
"""Ends of the names of inputs for validation, which are read from a file of their own."""
LABEL = 70
"""Measured bytes per target while classes are encoded; text takes three times its own size more."""


@dataclass(frozen=True)
class ArrayData(Data):
    """Your own arrays in a file of numpy or torch: inputs x and targets y, and optionally x_test and y_test.

    The names of Keras, x_train and y_train, are recognized.

    Inputs are features (N, features), series (N, channels, length) or images (N, channels, height, width). uint8 is
    scaled to 0..1; other types become float32 unscaled. Targets are (N,), or (N, outputs) for numbers. Classes may be
    any integers or text; they are counted from 0 in sorted order. Numbers that differ by little more than float32
    rounds, such as times in seconds since 1970, are refused. Files are read as data: Python objects are refused,
    and so are arrays that exceed the available memory. Tensors of a .pt must be dense and must not share elements: save
    the .clone() of an expanded tensor.

    Series of different lengths end with NaN in all channels, or have an array of `lengths`, or are a list of arrays,
    (length,) or (channels, length), in a .pt. Other data are then padded to the length of the training series, and may
    not be longer. Networks, losses and metrics leave the padding out.

    path              an .npz of named arrays; a .pt with a dictionary or a pair of tensors; an .npy with the inputs; or
                      a folder with x.npy, y.npy and optionally x_test.npy, y_test.npy
    inputs            name of the array of inputs; the test inputs have the suffix _test
    target            name of the array of targets; the test targets have the suffix _test; for an .npy, the file of the
                      targets
    test_fraction     fraction of the examples held out for the test if there are no test arrays: a random subset,
                      stratified by class, and the same for every seed
    validation_path   an .npz or .pt with the validation examples: none are then held out of the training examples
    test_path         an .npz or .pt with the test examples. Both files have arrays of the names of the training file;
                      classes that it lacks are refused
    group             name of an array of groups, (N,), such as patients: no split divides a group, and fractions and
                      folds count groups, regardless of classes, as in scikit-learn's GroupShuffleSplit and GroupKFold
    time              name of an array of times, (N,) numbers or dates: the latest examples are the test, and the latest
                      of the others validate; fractions count different times. The folds of kfold are those of
                      TimeSeriesSplit: each trains on all that is earlier. Cannot be used with group
    lengths           name of an array of the lengths of series, (N,): what follows them is padding; the lengths of the
                      test series have the suffix _test
    memory_map        leave inputs in their .npy file and read each batch from it: true, false, or auto, if they would
                      take more than half of the available memory. The order of the examples stays the same, and so do
                      the bits of inputs and batches; statistics of preprocessing can differ by rounding
    channels          position of the channels in series and images: first, last, or none if the array has no dimension
                      for them: (N, length) are features, (N, height, width) become images of one channel
    kind              classes, numbers, or auto: floats are numbers; integers, booleans and text are classes
    """

    inputs: str
    target: str
    test_fraction: TestFraction
    validation_path: str | None
    test_path: str | None
    group: str | None
    time: str | None
    lengths: str | None
    channels: Channels
    memory_map: MemoryMap
    kind: TargetKindOption

    def load(self) -> Dataset:
        files = self.files()
        return _files.cache.load(
            self, fingerprint_files(files), lambda: _own_splits.add_splits(self, self._dataset(files))
        )

    def load_like(self, encoding: Mapping[str, Any]) -> Dataset:
        alone = replace(self, group=None, time=None, validation_path=None, test_path=None)
        try:
            files = alone.files()
        except OptionError as error:
            if error.key != "target":
                raise
            files = [_files.find_file(self.path, SUFFIXES)]  # an .npy without the file of its targets
        return alone._dataset(files, encoding)

    def stream(self, encoding: Mapping[str, Any]) -> DataStream:
        """Read the array of inputs, and no targets."""
        alone = replace(self, group=None, time=None, validation_path=None, test_path=None)
        folder = self._folder(self.path)
        files = [_files.find_file(self.path, SUFFIXES)] if folder is None else folder.files()
        return cut_into_parts(alone._dataset(files, encoding, reads_target=False))

    def files(self) -> list[Path]:
        if (folder := self._folder(self.path)) is not None:
            return [*folder.files(), *_own_splits.find_files(self, SUFFIXES[:2])]
        files = [_files.find_file(self.path, SUFFIXES)]
        if files[0].suffix == ".npy":
            beside = files[0].parent / self.target
            files.append(_files.find_file(str(beside) if beside.is_file() else self.target, (".npy",), "target"))
        return [*files, *_own_splits.find_files(self, SUFFIXES[:2])]

    def read_groups(self, path: str, key: str) -> set[Any] | None:
        """Return the groups in a file that a key names, or None if it has no such array."""
        assert self.group is not None
        if (folder := self._folder(path)) is not None:
            return set(folder[self.group][:].tolist()) if self.group in folder else None
        file = _files.find_file(path, SUFFIXES[:2], key)
        if file.suffix == ".pt":
            return self._list_groups(_array_files.read_tensors(file, self.inputs, self.target), file)
        with _array_files.open_archive(file, key) as arrays:
            return self._list_groups(arrays, file)

    def _list_groups(self, arrays: Mapping[str, Any], file: Path) -> set[Any] | None:
        name = str(self.group)
        return set(_array_files.to_array(arrays[name], name, file).tolist()) if name in arrays else None

    def _dataset(
        self, files: Sequence[Path], saved: Mapping[str, Any] | None = None, *, reads_target: bool = True
    ) -> Dataset:
        place = Path(self.path or "").expanduser()
        arrays = self._read(files, needs_target=saved is None)
        is_labeled = reads_target and self.target in arrays
        if not is_labeled:
            known = {name: array for name, array in arrays.items() if name in (self.inputs, self.lengths)}
            placeholder = data_targets.make_placeholder((len(arrays[self.inputs]),), saved or {})
            arrays = {**known, self.target: placeholder}
        pairs = [(self.inputs, self.target)]
        test = (f"{self.inputs}_test", f"{self.target}_test")
        if (test[0] in arrays) != (test[1] in arrays):
            has, lacks = test if test[0] in arrays else test[::-1]
            raise OptionError("path", f"{place} has {has} but no {lacks}; give both, or neither")
        if test[0] in arrays:
            pairs.append(test)
            if self.test_path is not None:
                raise OptionError("test_path", f"{place} has {test[0]}; leave one of the two out")
        cut = len(pairs) == 1 and saved is None and self.test_path is None
        arrays, xs = self._make_inputs(arrays, pairs, place, saved, cut=cut)
        ys = [self._target(arrays[y], y, x, len(arrays[x])) for x, y in pairs]
        if len(xs) == 2 and (arrays[test[0]].dtype == np.uint8) != (arrays[self.inputs].dtype == np.uint8):
            types = f"{self.inputs} is {arrays[self.inputs].dtype}, {test[0]} {arrays[test[0]].dtype}"
            raise OptionError("inputs", f"{types}; both or neither must be uint8, which is scaled to 0..1")
        if len(xs) == 2 and xs[0].shape[1:] != xs[1].shape[1:]:
            own, other = (tuple(x.shape[1:]) for x in xs)
            shapes = f"{test[0]} has examples of shape {other}, {self.inputs} of shape {own}"
            raise OptionError("path", f"{shapes}; they must be equal")
        targets, outputs, names = self._targets(ys, saved)
        scaled = arrays[self.inputs].dtype == np.uint8
        if saved is not None and saved.get("uint8", scaled) != scaled:
            was = "uint8, scaled to 0..1" if saved["uint8"] else "not uint8 and not scaled"
            raise OptionError("inputs", f"{self.inputs} is {arrays[self.inputs].dtype}; in training it was {was}")
        names_of_units = _grouping.select_keys(self.group, self.time)
        units = {k: _grouping.number_array(arrays[name], name, k, len(xs[0])) for k, name in names_of_units.items()}
        groups, times = units.get("group"), units.get("time")
        digest = {"sha256": digest_files(files)} if saved is None else {}
        encoding: dict[str, Any] = {"classes": list(names), "uint8": scaled, **digest}
        if outputs > 1 and not names:
            encoding["outputs"] = outputs
        if is_padded_series(xs[0]):
            encoding["length"] = xs[0].shape[-1]
        train = test_split = Split(xs[0], targets)
        if len(xs) == 2:
            y, y_test = targets.split([len(ys[0]), len(ys[1])])
            train, test_split = Split(train.inputs, y), Split(xs[1], y_test)
        elif cut:
            rows = data_targets.split_test(targets, self.test_fraction, groups, times)
            train, test_split = (Split(select_inputs(train.inputs, i), targets[i]) for i in rows)
            groups, times = (None if units is None else units[rows[0]] for units in (groups, times))
        notices = () if saved is not None else self._list_notices(arrays[self.inputs], targets)
        dataset = Dataset(train, test_split, outputs, names, encoding, notices, groups=groups, times=times)
        return replace(dataset, is_labeled=is_labeled)

    def _list_notices(self, x: Any, targets: torch.Tensor) -> tuple[str, ...]:
        """Return notices for inputs and targets that are probably not meant as they are read."""
        notices = note_channels(x, self.inputs, self.channels)
        if self.kind != "auto" or not data_targets.is_one_hot(targets):
            return notices
        looks = f"each row of {self.target} has a single 1, as one-hot classes do, but floats are numbers"
        return (*notices, f"{looks}; store {self.target}.argmax(1) to predict classes")

    def _make_inputs(
        self,
        arrays: Mapping[str, Any],
        pairs: Sequence[tuple[str, str]],
        place: Path,
        saved: Mapping[str, Any] | None,
        *,
        cut: bool,
    ) -> tuple[dict[str, Any], list[Inputs]]:
        """Return the arrays with series of one length, and the inputs of training and test, with NaN as padding."""
        names = [name for name, _ in pairs]
        known = (saved or {}).get("length")
        filled, steps = _varying.fill_padding(arrays, names, self.lengths, self.channels, known)
        _files.check_memory(place, sum(self._memory_needed(filled[x], filled[y], cut=cut) for x, y in pairs))
        # the range of the training data counts, which other data need not have
        check = [saved is None, False]
        xs = [make_inputs(filled[x], x, self.channels, check_range=c) for x, c in zip(names, check, strict=False)]
        return filled, [_varying.mark_padding(x, steps.get(name)) for name, x in zip(names, xs, strict=True)]

    def _read(self, files: Sequence[Path], *, needs_target: bool) -> dict[str, np.ndarray]:
        """Read the needed arrays by name, or map inputs."""
        if (folder := self._folder(self.path)) is not None:
            return self._select(folder, Path(self.path or ""), needs_target=needs_target)
        file = files[0]
        if self.memory_map is True and file.suffix != ".npy":
            remedy = "save each array with numpy.save in a folder, as x.npy and y.npy, and name the folder"
            raise OptionError("memory_map", f"{file} cannot be mapped; {remedy}")
        if file.suffix == ".pt":
            return self._select(
                _array_files.read_tensors(file, self.inputs, self.target), file, needs_target=needs_target
            )
        if file.suffix == ".npz":
            with _array_files.open_archive(file, "path") as archive:
                return self._select(archive, file, needs_target=needs_target)
        for key, name in _grouping.select_keys(self.group, self.time).items():
            raise OptionError(key, f"{file} is one array without a name; {name} must be in an .npz or a .pt")
        arrays: dict[str, Any] = {self.inputs: _npy_files.read_inputs(file, self.memory_map)}
        if len(files) > 1:
            arrays[self.target] = _npy_files.read_array(files[1], "target")
        return arrays

    def _select(self, stored: Mapping[str, Any], file: Path, *, needs_target: bool) -> dict[str, np.ndarray]:
        stored = rename_keras(stored, (self.inputs, self.target))
        needed = {"inputs": self.inputs, "target": self.target, **_grouping.select_keys(self.group, self.time)}
        if self.lengths is not None:
            needed["lengths"] = self.lengths
        for key, name in needed.items():
            if name not in stored and (key != "target" or needs_target):
                raise OptionError(key, f"there is no array '{name}' in {file}{did_you_mean(name, stored)}")
        unused = [name for end in VALIDATION_ENDS if (name := f"{self.inputs}{end}") in stored]
        if unused and needs_target and self.validation_path is None:
            remedy = f"store them as {self.inputs} and {self.target} in a file of their own: data.validation_path=FILE"
            raise OptionError("path", f"{file} holds {unused[0]}, which is not read; {remedy}")
        names = (*needed.values(), *(f"{name}_test" for name in (self.inputs, self.target, self.lengths)))
        return {name: _array_files.to_array(stored[name], name, file) for name in names if name in stored}

    def _folder(self, path: str | None) -> _npy_files.NpyFolder | None:
        """Return the arrays of a folder with .npy files, or None if the path is not one."""
        folder = Path(path or "nowhere").expanduser()
        arrays = _npy_files.NpyFolder(folder, self.inputs, self.memory_map) if folder.is_dir() else None
        return arrays or None

    def _memory_needed(self, inputs: Array, targets: np.ndarray, *, cut: bool) -> int:
        """Return the bytes needed besides the arrays: inputs as float32, and once more if they are split."""
        if isinstance(inputs, MappedArray):
            return (LABEL + 3 * targets.dtype.itemsize) * targets.size
        converted = inputs.dtype != np.float32 or self.channels == "last"
        return 4 * inputs.size * (converted + cut) + (LABEL + 3 * targets.dtype.itemsize) * targets.size

    def _target(self, array: np.ndarray, name: str, inputs: str, count: int) -> np.ndarray:
        if array.dtype.kind not in "biufUS":
            raise OptionError("target", f"{name} must hold numbers or text, got {name_dtype(array.dtype)}")
        if array.ndim == 2 and array.shape[1] == 1:
            array = array[:, 0]
        if array.dtype.kind == "u" and int(array.max(initial=0)) < 2**63:
            array = array.astype(np.int64)  # numpy would join int64 and uint64 as float64
        if array.ndim not in (1, 2):
            raise OptionError("target", f"{name} has shape {array.shape}; it must be (N,), or (N, outputs) for numbers")
        if len(array) != count:
            raise OptionError("target", f"{name} has {len(array)} entries, {inputs} {count}; they must be equal")
        if array.dtype.kind == "S":
            try:
                array = np.char.decode(array, "utf-8")
            except UnicodeDecodeError as error:
                raise OptionError("target", f"{name} holds bytes that are not UTF-8: {error.object!r}") from error
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):
                check_finite(array.astype(np.float32), array, name, "target")
        return array

    def _targets(
        self, ys: Sequence[np.ndarray], saved: Mapping[str, Any] | None
    ) -> tuple[torch.Tensor, int, tuple[str, ...]]:
        """Return the targets of training and test as one tensor, the number of outputs, and the class names."""
        if saved is not None and saved["classes"] and ys[0].ndim == 1:
            names = tuple(saved["classes"])
            return data_targets.encode_known_classes(np.concatenate(ys), names), len(names), names
        kind: TargetKindOption = self.kind if saved is None else "classes" if saved["classes"] else "numbers"
        kinds = {data_targets.infer_kind(y, kind) for y in ys}
        if len(kinds) > 1 or len({y.dtype.kind == "U" for y in ys}) > 1 or len({y.shape[1:] for y in ys}) > 1:
            raise OptionError("target", f"{self.target} and {self.target}_test are of different kinds or shapes")
        every = np.concatenate(ys)
        if kinds == {"numbers"}:
            if saved is None:
                check_rounding(ys[0], self.target, "target")
            y = torch.from_numpy(every.astype(np.float32).reshape(len(every), -1))
            return y, y.shape[1], ()
        if every.ndim == 2:
            remedy = "take the argmax of one-hot rows, or set data.kind=numbers"
            raise OptionError("target", f"{self.target} has shape {every.shape}; classes must be (N,): {remedy}")
        y, names = data_targets.encode_classes(every, self.kind)
        training = set(y[: len(ys[0])].tolist())
        if len(training) < len(names):
            new = join_truncated(name for i, name in enumerate(names) if i not in training)
            raise OptionError("target", f"{self.target}_test has classes that {self.target} lacks: {new}")
        return y, len(names), names
