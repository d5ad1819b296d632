"""A run resumes to the same bits after any operation on the disk fails, or is the last of its process."""

import builtins
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
    """The final state of a run without a fault, and its operations."""
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
        assert checkpoint_file.load(file)["step"] > 0, "what has a checkpoint's name is a whole one"
    if had or LAST in ((name, path.partition(os.sep)[2]) for name, path in disk.operations):
        assert run.latest_checkpoint() is not None, (
            "a checkpoint that was there stays, under its step, until the next has its place"
        )
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
    """A run that died after its second checkpoint, with rows after it, and the operations that resume it."""
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
    """A file in two pieces, another by its descriptor, and names for them: ten operations."""
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


def test_every_operation_below_the_folder_is_counted_and_none_elsewhere(tmp_path):
    (tmp_path / "seen").mkdir()
    (tmp_path / "elsewhere").mkdir()
    before = io.open, builtins.open, os.open, os.write, os.replace, os.unlink, os.mkdir, os.fsync
    with inject_fault(tmp_path / "seen", None) as disk:
        write_files(tmp_path / "elsewhere")
        write_files(tmp_path / "seen")
        assert (tmp_path / "seen/a").read_text() == "one two"
    assert [operation for operation in disk.operations if operation != ("fsync", ".")] == OPERATIONS
    assert before == (io.open, builtins.open, os.open, os.write, os.replace, os.unlink, os.mkdir, os.fsync)


@pytest.mark.parametrize("number", range(1, len(OPERATIONS) + 1))
def test_what_lies_on_the_disk_is_what_was_done_before_the_fault(number, tmp_path):
    """Half of the piece under way, and nothing of what a handler of the error does in a process that is dead."""
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
        found = {p.name.removesuffix(".tmp"): p.read_text() for p in folder.rglob("*") if p.is_file()}
        assert found == {name: content for name, content in (("a", a), ("b", b)) if content is not None}


@pytest.mark.parametrize(("kind", "said"), [("full", errno.ENOSPC), ("broken", errno.EIO)])
def test_an_error_is_that_of_the_system_and_comes_once(kind, said, tmp_path):
    with inject_fault(tmp_path, 2, kind):
        with pytest.raises(OSError, match="one") as found:
            (tmp_path / "one").write_bytes(b"1234")
        assert found.value.errno == said
        (tmp_path / "two").write_bytes(b"1234")
    assert (tmp_path / "one").read_bytes() == b""
    assert (tmp_path / "two").read_bytes() == b"1234"


def test_a_disk_that_is_full_takes_a_part_and_then_nothing(tmp_path):
    """As the system does it: the part is no error, the rest is; names can still be changed."""
    with inject_fault(tmp_path, 2, "half"):
        with pytest.raises(OSError, match="one") as found:
            (tmp_path / "one").write_bytes(b"1234")
        assert found.value.errno == errno.ENOSPC
        with pytest.raises(OSError, match="two"):
            (tmp_path / "two").write_bytes(b"1234")
        (tmp_path / "one").replace(tmp_path / "three")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("three", b"12")]


def test_what_was_left_open_is_closed_and_its_buffer_lost(tmp_path):
    with inject_fault(tmp_path, None):
        file = (tmp_path / "open").open("w")
        file.write("in the buffer")
        descriptor = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)
    assert file.buffer.raw.closed
    del file
    assert (tmp_path / "open").read_text() == ""
