"""The run directory."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.lock import Lock, LockedError, LockLostError
from dlopt.rundir.metrics_log import LONGEST_ROW
from dlopt.rundir.status import list_processes
from dlopt.rundir.writer import RunWriter
from dlopt.storage import atomic, checkpoint_file


def test_a_run_is_written_and_read_back(tmp_path):
    run = RunWriter.create(tmp_path / "one", {"optimizer": "adam", "lr": 0.1})
    assert (run.status["status"], run.status["pid"]) == ("running", os.getpid())
    run.log({"step": 1, "epoch": 1.0, "seconds": 0.1, "train/loss": 2.0, "val/loss": float("nan")})
    run.finish("done", {"train/loss": 2.0, "val/loss": float("inf")}, message='a "quoted"\nmessage')
    read = RunDirectory(run.path)
    assert read.rows() == [{"step": 1, "epoch": 1.0, "seconds": 0.1, "train/loss": 2.0, "val/loss": None}]
    assert read.summary == {"train/loss": 2.0, "val/loss": None}
    assert (read.status["status"], read.status["message"]) == ("done", 'a "quoted"\nmessage')
    assert read.status["ended"] >= read.status["started"]
    assert {"dlopt", "python"} <= read.status["versions"].keys()


def test_a_directory_with_a_run_or_a_lock_is_refused_and_unchanged(tmp_path):
    held, former = tmp_path / "held", tmp_path / "former"
    held.mkdir()
    lock = Lock(held).acquire()
    RunWriter.create(former).finish("done")
    before = read_files(tmp_path)
    with pytest.raises(LockedError, match=f"being written by process {os.getpid()} "):
        RunWriter.create(held)
    with pytest.raises(FileExistsError, match="already holds a run"):
        RunWriter.create(former)
    assert read_files(tmp_path) == before
    lock.release()


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------------------------------- checkpoints


def read_steps(run: RunDirectory) -> dict[str, int]:
    """Return the files in the folder of checkpoints, and their steps."""
    files = sorted(run.checkpoint("last").parent.iterdir())
    return {file.name: checkpoint_file.load(file)["step"] for file in files}


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_every_save_keeps_the_last_checkpoints_by_their_steps(keep, tmp_path):
    run = RunWriter.create(tmp_path)
    steps = [3, 4, 8, 99_999_999, 100_000_000, 100_000_001]
    for count, step in enumerate(steps, 1):
        run.save("last", {"step": step, "w": torch.ones(2)}, keep)
        *older, last = steps[max(0, count - keep) : count]
        assert read_steps(run) == {"last.safetensors": last} | {f"step-{s:08d}.safetensors": s for s in older}
        assert list(run.older_checkpoints()) == older[::-1]


@pytest.mark.parametrize(
    ("name", "saves", "files"),
    [
        pytest.param("last", [(3, 3), (6, 3), (6, 3)], {"last": 6, "step-00000003": 3}, id="a step twice"),
        pytest.param("last", [*((s, 4) for s in (1, 2, 3, 4)), (5, 2)], {"last": 5, "step-00000004": 4}, id="fewer"),
        pytest.param("best", [(1, 3), (2, 3)], {"best": 2}, id="only one best"),
    ],
)
def test_checkpoints_after_saves(name, saves, files, tmp_path):
    run = RunWriter.create(tmp_path)
    for step, keep in saves:
        run.save(name, {"step": step}, keep=keep)
    assert read_steps(run) == {f"{file}.safetensors": step for file, step in files.items()}


def cut_off(file: Path) -> bytes:
    """Cut off the end of a file; return what is left."""
    content = file.read_bytes()[:-100]
    file.write_bytes(content)
    return content


def test_the_newest_whole_checkpoint_is_found_with_the_damage_of_newer_ones(tmp_path):
    run = RunWriter.create(tmp_path)
    assert run.latest_checkpoint() is None
    for step in (1, 2, 3):
        run.save("last", {"step": step, "w": torch.ones(99)}, keep=3)
    last, second, third = run.checkpoint("last"), run.checkpoint_after(2), run.checkpoint_after(1)
    assert (run.latest_checkpoint().file, run.latest_checkpoint().damage) == (last, {})
    for damaged, newest in ([last], second), ([last, second], third):
        cut_off(damaged[-1])
        checkpoint = run.latest_checkpoint()
        assert checkpoint.file == newest
        assert list(checkpoint.damage) == damaged
        assert all(text.startswith(f"{file.name} is damaged (") for file, text in checkpoint.damage.items())
    cut_off(third)
    with pytest.raises(
        ValueError, match=r"last\.safetensors is damaged .*; step-00000002\.safetensors is damaged .*; step-00000001"
    ):
        run.latest_checkpoint()


def test_the_remains_of_an_interrupted_write_are_not_a_checkpoint(tmp_path):
    run = RunWriter.create(tmp_path)
    run.save("last", {"step": 1}, keep=2)
    os.replace(run.checkpoint("last"), run.checkpoint_after(1))  # between the two steps of a replacement
    atomic.temp_path(run.checkpoint("last")).write_bytes(b"torn")
    assert run.latest_checkpoint().file == run.checkpoint_after(1)


def test_checkpoints_of_an_earlier_version_are_refused(tmp_path):
    run = RunWriter.create(tmp_path)
    run.checkpoint("last").with_suffix(".pt").touch()
    with pytest.raises(ValueError, match=r"earlier version.*does not read"):
        run.latest_checkpoint()
    run.save("last", {"step": 1})
    run.check_version()


# ------------------------------------------------------------------------------------------- rollback


def encode_rows(rows: list[dict[str, float]]) -> torch.Tensor:
    """Return rows as a checkpoint holds them."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return torch.tensor(list(text), dtype=torch.uint8)


def make_row(step: int) -> dict[str, float]:
    """Return the row of a step; every second row has an evaluation."""
    return {"step": step, "epoch": step / 2, "seconds": 0.1 * step, "train/loss": 1 / step} | (
        {"val/loss": 1 / (3 * step)} if step % 2 == 0 else {}
    )


def make_failed_run(folder: Path) -> RunWriter:
    """Return a failed run of seven steps with a row for each, and checkpoints after 2, 4 and 6."""
    run = RunWriter.create(folder)
    for step in range(1, 8):
        run.log(make_row(step))
        if step % 2 == 0:
            history = [make_row(s) for s in range(2, step + 1, 2)]
            run.save("last", {"step": step, "logged": run.flush(), "history": encode_rows(history)}, keep=3)
    run.finish("failed")
    return RunWriter(folder)


@pytest.mark.parametrize("damage", ["a part of a row", "zeros"])
def test_rows_after_the_step_are_dropped_and_the_others_are_unchanged(damage, tmp_path):
    run = make_failed_run(tmp_path)
    rows = run.metrics_file.read_bytes().splitlines(keepends=True)
    end = [*rows[6:], b'{"step": 8, "ep'] if damage == "a part of a row" else [bytes(300)]
    run.metrics_file.write_bytes(b"".join(rows[:6] + end))
    inode = run.metrics_file.stat().st_ino
    for _ in range(2):
        assert run.rollback(run.latest_checkpoint())
        assert run.metrics_file.read_bytes() == b"".join(rows[:6])
    assert run.metrics_file.stat().st_ino == inode, "it is truncated in place"
    assert not list(tmp_path.rglob("*damaged*"))


def continue_run(run: RunWriter, step: int) -> None:
    """Resume after this many steps, do one more, and check the digest of the rows."""
    run.lock.acquire()
    run.resume(step)
    run.log(make_row(step + 1))
    content = run.metrics_file.read_bytes()
    assert run.flush() == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_run_continues_from_an_older_checkpoint(tmp_path):
    run = make_failed_run(tmp_path)
    cut_off(run.checkpoint("last"))
    cut_off(run.checkpoint_after(4))
    assert run.rollback(run.latest_checkpoint())
    assert [row["step"] for row in run.rows()] == [1, 2]
    assert {"last.safetensors", "last.damaged.safetensors", "step-00000004.damaged.safetensors"} == {
        file.name for file in run.checkpoint("last").parent.iterdir()
    }
    continue_run(run, 2)
    run.save("last", {"step": 3}, keep=3)
    run.finish("done")
    assert list(run.older_checkpoints()) == [2]


def test_damaged_checkpoints_are_put_aside_without_overwriting_others(tmp_path):
    run = make_failed_run(tmp_path)
    contents = [cut_off(run.checkpoint("last"))]
    checkpoint = run.latest_checkpoint()
    run.rollback(checkpoint)
    run.lock.acquire()
    for step in (5, 6):
        run.save("last", checkpoint.content | {"step": step}, keep=3)
        contents.append(cut_off(run.checkpoint("last")))
        run.rollback(run.latest_checkpoint())
    names = ("last.damaged.safetensors", "last.damaged1.safetensors", "last.damaged2.safetensors")
    assert [run.checkpoint("last").with_name(name).read_bytes() for name in names] == contents
    assert run.latest_checkpoint().content["step"] == 4


def flip_digit(content: bytes) -> bytes:
    """Change a digit of the third row, which stays readable."""
    return content.replace(b'"step": 3, "epoch": 1.5', b'"step": 3, "epoch": 1.4')


def tear_rows(content: bytes) -> bytes:
    """Make the row of an evaluation and another one unreadable."""
    rows = content.splitlines(keepends=True)
    return b"".join(b"x" + row if i in (2, 3) else row for i, row in enumerate(rows))


DAMAGES = {
    "cut off": (lambda content: content[:200], {1, 2, 4, 6}),
    "a digit": (flip_digit, {1, 2, 3, 4, 5, 6}),
    "torn": (tear_rows, {1, 2, 4, 5, 6}),
    "empty": (lambda content: b"", {2, 4, 6}),
    "overwritten": (lambda content: bytes(len(content)), {2, 4, 6}),
}
"""A change of the file, and the steps whose rows remain: readable ones, and those with evaluations."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_put_aside_and_evaluations_come_from_the_checkpoint(damage, tmp_path):
    run = make_failed_run(tmp_path)
    change, steps = DAMAGES[damage]
    content = change(run.metrics_file.read_bytes())
    run.metrics_file.write_bytes(content)
    checkpoint = run.latest_checkpoint()
    assert not run.rollback(checkpoint)
    rows = run.rows()
    assert [row["step"] for row in rows] == sorted(steps)
    assert all(row == make_row(row["step"]) for row in rows if row["step"] != 3)
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == content

    run.metrics_file.write_bytes(b"once more")
    assert not run.rollback(checkpoint)
    assert [row["step"] for row in run.rows()] == [2, 4, 6]
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == content
    assert (tmp_path / "metrics.damaged1.jsonl").read_bytes() == b"once more"


def test_missing_rows_come_from_the_checkpoint_and_the_run_continues(tmp_path):
    run = make_failed_run(tmp_path)
    run.metrics_file.unlink()
    assert not run.rollback(run.latest_checkpoint())
    assert run.rows() == [make_row(2), make_row(4), make_row(6)]
    assert not list(tmp_path.glob("*damaged*"))
    continue_run(run, 6)
    run.finish("done")
    assert [row["step"] for row in run.rows()] == [2, 4, 6, 7]


def test_a_checkpoint_without_rows_drops_all_rows(tmp_path):
    run = RunWriter.create(tmp_path)
    run.save("last", {"step": 1, "logged": run.flush(), "history": encode_rows([])})
    run.log(make_row(2))
    run.finish("failed")
    run = RunWriter(tmp_path)
    assert run.rollback(run.latest_checkpoint())
    assert run.metrics_file.read_bytes() == b""
    run.metrics_file.unlink()
    assert run.rollback(run.latest_checkpoint())
    assert run.rows() == []


def test_clear_removes_results_and_keeps_configuration_and_log(tmp_path):
    run = make_failed_run(tmp_path)
    run.config_file.parent.mkdir()
    run.config_file.write_text("seed: 0\n")
    run.log_file.write_text("a line\n")
    run.summary_file.write_text("{}")
    run.lock.acquire()
    run.save("best", {"step": 1})
    run.clear()
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file() and p.suffix != ".patch"} == {
        ".hydra/config.yaml", "lock.json", "status.json", "train.log",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------- processes


def resume(folder: Path, *arguments) -> RunWriter:
    run = RunWriter(folder)
    run.lock.acquire()
    return run.resume(*arguments)


def test_a_status_lists_all_processes_of_a_run(tmp_path):
    first = RunWriter.create(tmp_path, {"lr": 0.1})
    first.finish("interrupted", message="one")
    started = first.status["started"]
    resume(tmp_path, 4, {"lr": 0.2}, ["lr 0.1 -> 0.2"]).finish("failed", message="two")
    status = resume(tmp_path, 6).status
    assert status["status"] == "running"
    assert status["started"] == started
    processes = [(p.get("step"), p.get("changes"), p["status"], p["message"]) for p in list_processes(status)]
    assert processes == [
        (6, [], "running", ""), (4, ["lr 0.1 -> 0.2"], "failed", "two"), (None, None, "interrupted", "one"),
    ]  # fmt: skip
    assert status["settings"] == {"lr": 0.2}, "without new settings, the former ones stay"
    assert all("settings" not in p and "before" not in p for p in status["before"])


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"before": 3, "started": "x"}', b'{"before": [1, null]}']
)
def test_a_damaged_status_is_replaced(content, tmp_path):
    RunWriter.create(tmp_path).finish("interrupted")
    (tmp_path / "status.json").unlink() if content is None else (tmp_path / "status.json").write_bytes(content)
    run = resume(tmp_path, 4, {"lr": 0.2})
    assert run.status["settings"] == {"lr": 0.2}
    assert run.status["status"] == "running"
    assert isinstance(run.status["started"], float)
    assert all(isinstance(process, dict) for process in list_processes(run.status))


def test_temporary_files_of_dead_processes_are_removed(tmp_path):
    RunWriter.create(tmp_path).finish("interrupted")
    for place in ("status.json", "checkpoints/last.safetensors"):
        atomic.temp_path(tmp_path / place).write_bytes(b"torn")
    resume(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_status_records_a_configuration_before_the_file_changes(tmp_path, monkeypatch):
    """A process that dies between the two writes leaves a consistent run."""
    run = RunWriter.create(tmp_path)
    run.finish("interrupted")
    run.config_file.parent.mkdir()
    run.config_file.write_bytes(b"old")
    writes = []
    write = atomic.atomic_write_bytes

    def record(file, content, **options):
        write(file, content, **options)
        writes.append((file.name, RunDirectory(tmp_path).status.get("config"), run.config_file.read_bytes()))

    monkeypatch.setattr(atomic, "atomic_write_bytes", record)
    resume(tmp_path, 4, None, ["x"], [], b"new")
    digest = hashlib.sha256(b"new").hexdigest()
    assert writes[-2:] == [("status.json", digest, b"old"), ("config.yaml", digest, b"new")]


def test_a_run_whose_directory_was_taken_over_writes_nothing(tmp_path):
    run = RunWriter.create(tmp_path)
    run.lock.file.write_bytes(run.lock.file.read_bytes().replace(b'"token": "', b'"token": "x'))
    before = read_files(tmp_path)
    for act in (
        lambda: run.log(make_row(2)),
        lambda: run.save("last", {"step": 2}),
        lambda: run.finish("done", {"x": 1.0}),
    ):
        with pytest.raises(LockLostError, match="was taken over by process"):
            act()
    assert read_files(tmp_path) == before


def test_a_running_status_without_a_process_is_stale(tmp_path):
    run = RunWriter.create(tmp_path)
    assert not RunDirectory(tmp_path).is_stale
    run.lock.release()
    assert RunDirectory(tmp_path).is_stale
    resume(tmp_path).finish("interrupted")
    assert not RunDirectory(tmp_path).is_stale


# ------------------------------------------------------------------------------------------- rows


GOOD = b'{"step": 1, "epoch": 0.5, "seconds": 0.1}'
BAD_ROWS = {
    "cut off": b'{"step": 1, "epo',
    "a list": b"[1, 2]",
    "no step": b'{"epoch": 0.5, "seconds": 0.1}',
    "no epoch": b'{"step": 1, "seconds": 0.1}',
    "a step that is text": GOOD.replace(b"1,", b'"1",', 1),
    "a step that is a fraction": GOOD.replace(b"1,", b"1.5,", 1),
    "a step that is NaN": GOOD.replace(b"1,", b"NaN,", 1),
    "a step that is true": GOOD.replace(b"1,", b"true,", 1),
    "seconds that are null": GOOD.replace(b"0.1", b"null"),
    "a value that is text": GOOD.replace(b"}", b', "val/loss": "0.1"}'),
    "a value that is true": GOOD.replace(b"}", b', "val/loss": true}'),
    "a number of too many digits": GOOD.replace(b"}", b', "x": ' + b"9" * 5000 + b"}"),
    "not UTF-8": b"\xff" + GOOD,
    "zeros": bytes(50),
    "deep": b"[" * 5000,
    "too long": GOOD.replace(b"}", b" " * LONGEST_ROW + b"}"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_a_bad_line_is_reported_and_skipped(kind, tmp_path):
    run = RunWriter(tmp_path)
    after = GOOD.replace(b"1,", b"2,", 1)
    run.metrics_file.write_bytes(b"\n".join([GOOD, BAD_ROWS[kind], after, b""]))
    assert [None if line is None else line["step"] for line in run.iter_rows()] == [1, None, 2]
    assert [row["step"] for row in run.rows()] == [1, 2]
    run.metrics_file.write_bytes(b"\n".join([GOOD, BAD_ROWS[kind], b""]))
    assert run.last_row() == (None if len(BAD_ROWS[kind]) > LONGEST_ROW else json.loads(GOOD))


@pytest.mark.parametrize(
    ("content", "steps"),
    [
        pytest.param(None, [], id="no file"),
        pytest.param(b"", [], id="an empty file"),
        pytest.param(GOOD, [], id="a line without an end"),
        pytest.param(GOOD + b"\n" + GOOD.replace(b"1,", b"2,", 1), [1], id="a last line without an end"),
        pytest.param(b"\n" * 500_000 + GOOD + b"\n" * 6, [1], id="many empty lines, which are as slow as rows"),
        pytest.param(GOOD.replace(b"}", b', "val/loss": null}') + b"\n", [1], id="a value that is null"),
        pytest.param((GOOD.replace(b"}", b', "%s": 0}' % (b"x" * 500)) + b"\n") * (2 * LONGEST_ROW // 500) + GOOD + b"\n", None, id="many rows"),
    ],
)  # fmt: skip
def test_rows_and_the_last_row_are_read(content, steps, tmp_path):
    run = RunDirectory(tmp_path)
    if content is not None:
        run.metrics_file.write_bytes(content)
    rows = list(run.iter_rows())
    assert steps is None or [row["step"] for row in rows] == steps
    assert run.last_row() == (rows[-1] if rows else None)
    assert rows == [json.loads(line) for line in (content or b"").split(b"\n")[:-1] if line]
