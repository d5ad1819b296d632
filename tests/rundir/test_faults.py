"""A run resumes to the same bits after any operation on the disk fails, or is the last of its process."""

import builtins
import contextlib
import errno
import io
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from bits import find_differences, read_final_state
from faults import KINDS, FaultyDisk, ProcessDied, inject_fault
from helpers import build_blobs, resume_run

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import list_runs
from dlopt.rundir.writer import RunWriter
from dlopt.storage import checkpoint_file
from dlopt.training.experiment import Experiment
from dlopt.training.loop import train

RUN = (
    "optimizer=momentum", "normalization=batch", "regularization=dropout", "schedule=cosine", "checkpoint.every=4",
    "log_every=2", "diagnostic=histograms", "diagnostic.histograms.every=5", "diagnostic.histograms.bins=3", "threads=1",
)  # fmt: skip
"""Nine steps in three epochs; two checkpoints before the last, and rows, histograms and the best weights between them."""
LAST = ("replace", "checkpoints/last.safetensors")


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return build_blobs(*RUN)


@pytest.fixture(scope="module")
def reference(experiment, tmp_path_factory) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the final state of a run without a fault, and its operations."""
    folder = tmp_path_factory.mktemp("reference")
    with inject_fault(folder, None) as disk:
        state = train_or_resume(experiment, folder / "run")
    assert not disk.fault_occurred
    return state, disk.operations


def train_or_resume(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """Start a run, or resume the one in the folder as a new process does, and return its final state."""
    if (folder / "status.json").exists():
        summary, run = resume_run(folder, experiment)
    else:
        run = RunWriter.create(folder)
        (summary,) = train([experiment], [run])
    assert summary["status"] == "done"
    return read_final_state(run)


def run_with_fault(experiment: Experiment, folder: Path, number: int, kind: Any) -> FaultyDisk:
    """Train with a fault, and check the files after it."""
    run = RunDirectory(folder)
    had = run.checkpoint("last").exists()
    with inject_fault(folder.parent, number, kind) as disk:
        try:
            train_or_resume(experiment, folder)
        except (Exception, ProcessDied):
            if not disk.fault_occurred:
                raise
    if run.status_file.exists():
        assert run.status["status"] in ("running", "failed", "done", "interrupted")
        assert list_runs(folder.parent) == [folder]
    for file in folder.glob("checkpoints/*.safetensors"):
        assert checkpoint_file.load(file)["step"] > 0, "every file with the name of a checkpoint is whole"
    if had or LAST in ((name, path.partition(os.sep)[2]) for name, path in disk.operations):
        assert run.latest_checkpoint() is not None, "the former checkpoint stays until the next one is in place"
    return disk


SHORT_KINDS = [pytest.param(kind, marks=pytest.mark.long) if kind == "broken" else kind for kind in KINDS]
"""An input/output error differs from a full disk only in its number."""


def list_numbers(operations: list[tuple[str, str]], kind: str) -> list[int]:
    """Return the numbers of the operations in which a fault of this kind is injected; only writes can end halfway."""
    return [i for i, (name, _) in enumerate(operations, 1) if name == "write" or "half" not in kind]


@pytest.mark.parametrize("kind", SHORT_KINDS)
def test_a_run_resumes_after_a_fault_in_any_operation(kind, experiment, reference, tmp_path):
    state, operations = reference
    for number in list_numbers(operations, kind):
        folder = tmp_path / str(number) / "run"
        folder.parent.mkdir()
        assert run_with_fault(experiment, folder, number, kind).fault_occurred
        assert find_differences(train_or_resume(experiment, folder), state) == [], (number, operations[number - 1])


@pytest.fixture(scope="module")
def dead_run(experiment, reference, tmp_path_factory) -> tuple[Path, list[tuple[str, str]]]:
    """Return a run that died some rows after its second checkpoint, and the operations that resume it."""
    _, operations = reference
    at = [i for i, (name, path) in enumerate(operations) if (name, path.partition(os.sep)[2]) == LAST]
    folder = tmp_path_factory.mktemp("dead") / "run"
    run_with_fault(experiment, folder, at[2] - 2, "dies")
    run = RunDirectory(folder)
    assert run.load("last")["step"] == 8
    assert run.status["status"] == "running"
    copy = tmp_path_factory.mktemp("resumed") / "run"
    shutil.copytree(folder, copy)
    with inject_fault(copy.parent, None) as disk:
        train_or_resume(experiment, copy)
    return folder, disk.operations


@pytest.mark.parametrize("kind", SHORT_KINDS)
def test_a_resumed_run_resumes_after_a_fault_in_any_operation(kind, experiment, reference, dead_run, tmp_path):
    state, _ = reference
    original, operations = dead_run
    for number in list_numbers(operations, kind):
        folder = tmp_path / str(number) / "run"
        shutil.copytree(original, folder)
        assert run_with_fault(experiment, folder, number, kind).fault_occurred
        assert find_differences(train_or_resume(experiment, folder), state) == [], (number, operations[number - 1])


# ------------------------------------------------------------------------------------------- the harness itself


def write_files(folder: Path) -> None:
    """Write a file in two pieces and another one by its descriptor, and rename and remove them: the operations below."""
    (folder / "inner").mkdir()
    with (folder / "inner/a.tmp").open("w") as text:
        text.write("one ")
        text.flush()
        text.write("two")
        text.flush()
        os.fsync(text.fileno())
    (folder / "inner/a.tmp").replace(folder / "a")
    descriptor = os.open(folder / "b", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"three ")
    os.close(descriptor)
    (folder / "b").unlink()


OPERATIONS = [
    ("mkdir", "inner"), ("open", "inner/a.tmp"), ("write", "inner/a.tmp"), ("write", "inner/a.tmp"),
    ("fsync", "inner/a.tmp"), ("replace", "a"), ("open", "b"), ("write", "b"), ("unlink", "b"),
]  # fmt: skip


def test_operations_are_counted_only_below_the_folder(tmp_path):
    (tmp_path / "seen").mkdir()
    (tmp_path / "elsewhere").mkdir()
    before = io.open, builtins.open, os.open, os.write, os.replace, os.unlink, os.mkdir, os.fsync
    with inject_fault(tmp_path / "seen", None) as disk:
        write_files(tmp_path / "elsewhere")
        write_files(tmp_path / "seen")
        assert (tmp_path / "seen/a").read_text() == "one two"
        file = (tmp_path / "seen/open").open("w")
        file.write("in the buffer")
    operations = [operation for operation in disk.operations if operation != ("fsync", ".")]  # of the other folder
    assert operations == [*OPERATIONS, ("open", "open")]
    assert before == (io.open, builtins.open, os.open, os.write, os.replace, os.unlink, os.mkdir, os.fsync)
    assert file.buffer.raw.closed
    del file
    assert (tmp_path / "seen/open").read_text() == "", "the buffer is lost, as at the end of a process"


@pytest.mark.parametrize("number", range(1, len(OPERATIONS) + 1))
def test_only_operations_before_the_fault_reach_the_disk(number, tmp_path):
    """And half of a write; a handler of the exception writes nothing, since the process is dead."""
    for kind in ("dies", "dies halfway"):
        folder = tmp_path / kind
        folder.mkdir()
        with pytest.raises(ProcessDied), inject_fault(folder, number, kind) as disk:
            try:
                write_files(folder)
            finally:
                with pytest.raises(ProcessDied):
                    (folder / "late").write_text("late")
        assert disk.operations == OPERATIONS[: number - 1]
        half = kind == "dies halfway"
        a = {1: None, 2: None, 3: "on" if half else "", 4: "one t" if half else "one "}.get(number, "one two")
        b = {8: "thr" if half else "", 9: "three "}.get(number)
        files = {p.name.removesuffix(".tmp"): p.read_text() for p in folder.rglob("*") if p.is_file()}
        assert files == {name: content for name, content in (("a", a), ("b", b)) if content is not None}


@pytest.mark.parametrize(
    ("kind", "number", "first", "later"),
    [("full", errno.ENOSPC, b"", b"1234"), ("broken", errno.EIO, b"", b"1234"), ("half", errno.ENOSPC, b"12", None)],
)
def test_a_fault_raises_the_error_of_the_system(kind, number, first, later, tmp_path):
    """Once, or after half of a write until the end; files can be renamed on a full disk."""
    with inject_fault(tmp_path, 2, kind):
        with pytest.raises(OSError, match="one") as error:
            (tmp_path / "one").write_bytes(b"1234")
        assert error.value.errno == number
        with contextlib.nullcontext() if later else pytest.raises(OSError, match="two"):
            (tmp_path / "two").write_bytes(b"1234")
        (tmp_path / "one").replace(tmp_path / "three")
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert files == {"three": first} | ({"two": later} if later else {})
