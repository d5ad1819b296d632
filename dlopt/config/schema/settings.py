"""Check the settings that belong to no group against their dataclass, and choose the device."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch

from dlopt.config.problems import Problems
from dlopt.config.schema.renamed_keys import describe_renamed_key
from dlopt.config.schema.signature import describe_mismatch
from dlopt.errors import did_you_mean
from dlopt.training.experiment import Settings


def build_settings(tree: dict[str, Any], problems: Problems) -> Settings | None:
    """Return the settings of a configuration without its groups; None with a problem added."""
    before = len(problems.errors)
    _check_fields(Settings, tree, "", problems)
    if not any(key == "device" for key, _ in problems.errors[before:]) and "device" in tree:
        tree["device"] = _resolve_device(str(tree["device"]), tree.get("precision"), problems)
    compilers = filter(None, (os.environ.get("CXX"), "g++", "clang++"))  # that torch.compile would call
    if tree.get("compile") is True and tree.get("device") == "cpu" and not any(map(shutil.which, compilers)):
        problems.add("compile", "needs a C++ compiler on a CPU, and there is none; install g++, or leave it false")
    threads, cores = tree.get("threads"), os.cpu_count() or 1
    if isinstance(threads, int) and not isinstance(threads, bool) and threads > 4 * cores:
        problems.add("threads", f"{threads} is far more than the {cores} cores of this machine")
    name = tree.get("name")
    if isinstance(name, str) and (not name or "/" in name or name.startswith(".")):
        problems.add("name", f"must be valid in a directory's name: no slash, no leading dot; got '{name}'")
    return None if len(problems.errors) > before else _fill_dataclass(Settings, tree)


def build_dataclass(cls: type, tree: Mapping[str, Any], prefix: str, problems: Problems) -> Any:
    """Return the dataclass with these keys; None with a problem added at prefix + key."""
    before = len(problems.errors)
    _check_fields(cls, tree, prefix, problems)
    return None if len(problems.errors) > before else _fill_dataclass(cls, tree)


def _check_fields(cls: type, tree: Mapping[str, Any], prefix: str, problems: Problems) -> None:
    hints = _hints(cls)
    for key, value in tree.items():
        at = prefix + key
        if key not in hints:
            problems.add(at, describe_renamed_key(at, hints) or f"there is no such key{did_you_mean(key, hints)}")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                _check_fields(typing.cast(type, hints[key]), value, at + ".", problems)
            else:
                problems.add(at, f"holds keys: {', '.join(at + '.' + f.name for f in dataclasses.fields(hints[key]))}")
        elif wrong := describe_mismatch(value, hints[key]):
            problems.add(at, wrong)
    for key in hints.keys() - tree.keys():
        problems.add(prefix + key, "is missing")


def _fill_dataclass(cls: type, tree: Mapping[str, Any]) -> Any:
    hints = _hints(cls)
    nested = {k: _fill_dataclass(hints[k], v) for k, v in tree.items() if dataclasses.is_dataclass(hints[k])}
    return cls(**{**tree, **nested})


@cache
def _hints(cls: type) -> Mapping[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def _resolve_device(name: str, precision: Any, problems: Problems) -> str:
    if name == "auto":
        mps = torch.backends.mps.is_available() and precision != "float64"  # mps has no float64
        return "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    counts = {"cpu": sys.maxsize, "cuda": cuda, "mps": int(torch.backends.mps.is_available())}
    try:
        device = torch.device(name)
        count = counts[device.type]
    except (RuntimeError, KeyError):
        problems.add("device", f"must be auto, cpu, cuda, cuda:<number> or mps, got '{name}'")
        return "cpu"
    if (device.index or 0) >= count:
        problems.add("device", f"{name} is not there ({count} {device.type} devices); use device=auto or device=cpu")
    elif device.type == "mps" and precision == "float64":
        problems.add("precision", "mps has no float64; use device=cpu")
    return name
