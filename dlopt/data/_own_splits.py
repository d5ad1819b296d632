"""Validation and test examples of your own data in files of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlopt.base.data import Dataset
from dlopt.data import _files
from dlopt.errors import OptionError, join_truncated

KEYS = {"validation": "validation_path", "test": "test_path"}
"""The keys of the files by the split that they hold."""


def find_files(option: Any, suffixes: Sequence[str] = ()) -> list[Path]:
    """Return the files of the splits that a data option names."""
    return [_files.find_file(getattr(option, key), suffixes, key) for key in KEYS.values() if getattr(option, key)]


def add_splits(option: Any, dataset: Dataset) -> Dataset:
    """Return a data set with the splits that have files of their own, encoded as the training file was."""
    for name, key in KEYS.items():
        path = getattr(option, key)
        if path is None:
            continue
        alone = replace(option, path=path, validation_path=None, test_path=None)
        try:
            own = alone.load_like(dataset.encoding)
        except OptionError as error:
            place = "" if path in str(error) else f"{path}: "
            raise OptionError(key if error.key == "path" else error.key, f"{place}{error}") from error
        if not own.is_labeled:
            raise OptionError(key, f"{path} has no values of the target {option.target}")
        notices = (*dataset.notices, *(f"{path}: {notice}" for notice in own.notices))
        dataset = replace(dataset, **{name: own.train, "notices": notices})
    return dataset if option.group is None else replace(dataset, notices=(*dataset.notices, *_check_groups(option)))


def _check_groups(option: Any) -> Iterator[str]:
    """Yield a notice for each file without groups. Raise OptionError if two files have a group in common."""
    paths = {key: path for key in ("path", *KEYS.values()) if (path := getattr(option, key)) is not None}
    groups: dict[str, Set[Any]] = {}
    for key, path in paths.items() if len(paths) > 1 else ():
        own = option.read_groups(path, key)
        if own is None:
            yield f"{path} has no {option.group}, so it may have groups of the other files"
            continue
        for other, theirs in groups.items():
            if shared := sorted(map(str, own & theirs)):
                wrong = f"{path} and {paths[other]} both have {option.group} {join_truncated(shared)}"
                raise OptionError(key, f"{wrong}; a group belongs to one split: move its rows into one of the files")
        groups[key] = own
