"""Leave the process as it was: a notebook or a script is not dlopt's own process, as the command line is."""

from __future__ import annotations

import contextlib
import os
import random
import sys
import threading
from collections.abc import Iterator

from dlopt import console

_LOCK = threading.RLock()
"""Held by the thread that works: Hydra and torch have one state for all threads."""


@contextlib.contextmanager
def keep_process_state(*, quiet: bool) -> Iterator[None]:
    """Work in this block as the command line does, and restore the global state of the process afterwards.

    A second thread waits. Gradients are on, and the default type and device are torch's own. These, random generators,
    the import path, the environment and dlopt's own output are restored. Training itself restores threads,
    deterministic mode, signal handlers, logging and Hydra.
    """
    with _LOCK, keep_output(quiet=quiet), _keep_python_state(), _keep_torch_state(), _keep_generators():
        yield


@contextlib.contextmanager
def keep_output(*, quiet: bool) -> Iterator[None]:
    """Restore dlopt's own output."""
    before, console.quiet = console.quiet, quiet
    try:
        yield
    finally:
        console.quiet = before


@contextlib.contextmanager
def _keep_python_state() -> Iterator[None]:
    """Restore the import path and the environment."""
    path, environment = list(sys.path), dict(os.environ)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)


@contextlib.contextmanager
def _keep_torch_state() -> Iterator[None]:
    import torch

    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    torch.set_default_dtype(torch.float32)
    if device.type != "cpu":  # setting one, also the CPU, slows down every call of torch
        torch.set_default_device(None)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        if device.type != "cpu":
            torch.set_default_device(device)


@contextlib.contextmanager
def _keep_generators() -> Iterator[None]:
    """Restore the global generators of Python, numpy and torch."""
    import numpy as np
    import torch

    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  (the user's, not ours)
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
