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
    assert run.status["status"] == "running"
    assert run.status["pid"] == os.getpid()
    run.log({"step": 1, "epoch": 1.0, "seconds": 0.1, "train/loss": 2.0, "val/loss": float("nan")})
    run.finish("done", {"train/loss": 2.0, "val/loss": float("inf")})
    again = RunDirectory(run.path)
    assert again.rows() == [{"step": 1, "epoch": 1.0, "seconds": 0.1, "train/loss": 2.0, "val/loss": None}]
    assert again.summary == {"train/loss": 2.0, "val/loss": None}
    assert again.status["status"] == "done"
    assert again.status["ended"] >= again.status["started"]
    assert {"dlopt", "python"} <= again.status["versions"].keys()


def test_a_directory_that_holds_a_run_is_refused(tmp_path):
    RunWriter.create(tmp_path)
    before = (tmp_path / "status.json").read_text()
    with pytest.raises(FileExistsError, match="already holds a run"):
        RunWriter.create(tmp_path)
    assert (tmp_path / "status.json").read_text() == before


def test_a_directory_that_another_holds_is_refused_and_left_as_it_is(tmp_path):
    other = Lock(tmp_path).acquire()
    before = other.file.read_bytes()
    with pytest.raises(LockedError, match=f"being written by process {os.getpid()} "):
        RunWriter.create(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"lock.json": before}


def test_status_is_json_at_every_moment(tmp_path):
    run = RunWriter.create(tmp_path)
    json.loads(run.status_file.read_text())
    run.finish("failed", message='a "quoted"\nmessage')
    assert run.status["message"] == 'a "quoted"\nmessage'


# ------------------------------------------------------------------------------------------- checkpoints


def kept(run: RunDirectory) -> dict[str, int]:
    """The files among the checkpoints, and the steps that plain torch reads in them."""
    files = sorted(run.checkpoint("last").parent.iterdir())
    return {file.name: checkpoint_file.load(file)["step"] for file in files}


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_after_every_save_exactly_the_last_checkpoints_lie_there_by_their_steps(keep, tmp_path):
    run = RunWriter.create(tmp_path)
    steps = [3, 4, 8, 99_999_999, 100_000_000, 100_000_001]
    for count, step in enumerate(steps, 1):
        run.save("last", {"step": step, "w": torch.ones(2)}, keep)
        *older, last = steps[max(0, count - keep) : count]
        assert kept(run) == {"last.safetensors": last} | {f"step-{s:08d}.safetensors": s for s in older}
        assert list(run.older_checkpoints()) == older[::-1]


def test_a_step_that_is_saved_twice_is_kept_once(tmp_path):
    run = RunWriter.create(tmp_path)
    for step in (3, 6, 6):
        run.save("last", {"step": step}, keep=3)
    assert kept(run) == {"last.safetensors": 6, "step-00000003.safetensors": 3}


def test_fewer_are_kept_from_the_next_save_on(tmp_path):
    run = RunWriter.create(tmp_path)
    for step in (1, 2, 3, 4):
        run.save("last", {"step": step}, keep=4)
    run.save("last", {"step": 5}, keep=2)
    assert kept(run) == {"last.safetensors": 5, "step-00000004.safetensors": 4}
    run.save("last", {"step": 6}, keep=1)
    assert kept(run) == {"last.safetensors": 6}


def test_the_best_is_one_whatever_is_kept_of_the_last(tmp_path):
    run = RunWriter.create(tmp_path)
    for step in (1, 2):
        run.save("best", {"step": step}, keep=3)
    assert kept(run) == {"best.safetensors": 2}


def ruined(file: Path) -> bytes:
    """Cut off the end of a file; what it holds then."""
    content = file.read_bytes()[:-100]
    file.write_bytes(content)
    return content


def test_the_newest_whole_checkpoint_is_found_and_what_is_wrong_with_newer_ones(tmp_path):
    run = RunWriter.create(tmp_path)
    assert run.latest_checkpoint() is None
    for step in (1, 2, 3):
        run.save("last", {"step": step, "w": torch.ones(99)}, keep=3)
    last, second, third = run.checkpoint("last"), run.checkpoint_after(2), run.checkpoint_after(1)
    assert (run.latest_checkpoint().file, run.latest_checkpoint().damage) == (last, {})
    for damaged, then in ([last], second), ([last, second], third):
        ruined(damaged[-1])
        found = run.latest_checkpoint()
        assert found.file == then
        assert list(found.damage) == damaged
        assert all(said.startswith(f"{file.name} is damaged (") for file, said in found.damage.items())
    ruined(third)
    with pytest.raises(
        ValueError, match=r"last\.safetensors is damaged .*; step-00000002\.safetensors is damaged .*; step-00000001"
    ):
        run.latest_checkpoint()


def test_what_an_interrupted_write_left_is_no_checkpoint(tmp_path):
    run = RunWriter.create(tmp_path)
    run.save("last", {"step": 1}, keep=2)
    os.replace(run.checkpoint("last"), run.checkpoint_after(1))  # between the two steps of a replacement
    atomic.temp_path(run.checkpoint("last")).write_bytes(b"torn")
    assert run.latest_checkpoint().file == run.checkpoint_after(1)


def test_checkpoints_of_an_earlier_version_are_refused_in_one_sentence(tmp_path):
    run = RunWriter.create(tmp_path)
    run.checkpoint("last").with_suffix(".pt").touch()
    with pytest.raises(ValueError, match=r"earlier version.*does not read"):
        run.latest_checkpoint()
    run.save("last", {"step": 1})
    run.check_version()


# ------------------------------------------------------------------------------------------- the way back


def lines(rows: list[dict[str, float]]) -> torch.Tensor:
    """Rows as a checkpoint holds them."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return torch.tensor(list(text), dtype=torch.uint8)


def row(step: int) -> dict[str, float]:
    """Every second row is one of an evaluation."""
    return {"step": step, "epoch": step / 2, "seconds": 0.1 * step, "train/loss": 1 / step} | (
        {"val/loss": 1 / (3 * step)} if step % 2 == 0 else {}
    )


def broken_off(folder: Path) -> RunWriter:
    """A run of rows after each of seven steps, with checkpoints after 2, 4 and 6, that failed."""
    run = RunWriter.create(folder)
    for step in range(1, 8):
        run.log(row(step))
        if step % 2 == 0:
            history = [row(s) for s in range(2, step + 1, 2)]
            run.save("last", {"step": step, "logged": run.flush(), "history": lines(history)}, keep=3)
    run.finish("failed")
    return RunWriter(folder)


def test_rows_after_the_step_are_dropped_and_those_before_stay_byte_for_byte(tmp_path):
    run = broken_off(tmp_path)
    run.metrics_file.write_bytes(run.metrics_file.read_bytes() + b'{"step": 8, "ep')
    before = run.metrics_file.read_bytes().splitlines(keepends=True)
    inode = run.metrics_file.stat().st_ino
    for _ in range(2):
        assert run.rollback(run.latest_checkpoint())
        assert run.metrics_file.read_bytes() == b"".join(before[:6])
    assert run.metrics_file.stat().st_ino == inode, "it is cut, not written anew"
    assert not list(tmp_path.rglob("*damaged*"))


def test_the_way_back_leads_to_any_checkpoint_and_what_is_logged_then_counts_from_there(tmp_path):
    run = broken_off(tmp_path)
    ruined(run.checkpoint("last"))
    ruined(run.checkpoint_after(4))
    assert run.rollback(run.latest_checkpoint())
    assert [row["step"] for row in run.rows()] == [1, 2]
    assert {"last.safetensors", "last.damaged.safetensors", "step-00000004.damaged.safetensors"} == {
        file.name for file in run.checkpoint("last").parent.iterdir()
    }
    run.lock.acquire()
    run.resume(2)
    run.log(row(3))
    content = run.metrics_file.read_bytes()
    assert run.flush() == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    run.save("last", {"step": 3}, keep=3)
    run.finish("done")
    assert list(run.older_checkpoints()) == [2]


def test_damaged_checkpoints_are_put_aside_each_under_a_name_of_its_own(tmp_path):
    """However often that happens: nothing is written over."""
    run = broken_off(tmp_path)
    contents = [ruined(run.checkpoint("last"))]
    checkpoint = run.latest_checkpoint()
    run.rollback(checkpoint)
    run.lock.acquire()
    for step in (5, 6):
        run.save("last", checkpoint.content | {"step": step}, keep=3)
        contents.append(ruined(run.checkpoint("last")))
        run.rollback(run.latest_checkpoint())
    aside = ("last.damaged.safetensors", "last.damaged1.safetensors", "last.damaged2.safetensors")
    assert [run.checkpoint("last").with_name(name).read_bytes() for name in aside] == contents
    assert run.latest_checkpoint().content["step"] == 4


def flipped(content: bytes) -> bytes:
    """A digit of the third row is another one: it can be read, and is not what was written."""
    return content.replace(b'"step": 3, "epoch": 1.5', b'"step": 3, "epoch": 1.4')


def torn(content: bytes) -> bytes:
    """The rows of an evaluation and of another step cannot be read."""
    lines = content.splitlines(keepends=True)
    return b"".join(b"x" + line if i in (2, 3) else line for i, line in enumerate(lines))


DAMAGES = {
    "cut": (lambda content: content[:200], {1, 2, 4, 6}),
    "flipped": (flipped, {1, 2, 3, 4, 5, 6}),
    "torn": (torn, {1, 2, 4, 5, 6}),
    "emptied": (lambda content: b"", {2, 4, 6}),
    "overwritten": (lambda content: bytes(len(content)), {2, 4, 6}),
}
"""What becomes of the file, and of which steps rows are left: those that can be read, and those of evaluations."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_rows_are_put_aside_and_those_of_evaluations_come_from_the_checkpoint(damage, tmp_path):
    run = broken_off(tmp_path)
    change, left = DAMAGES[damage]
    seen = change(run.metrics_file.read_bytes())
    run.metrics_file.write_bytes(seen)
    checkpoint = run.latest_checkpoint()
    assert not run.rollback(checkpoint)
    rows = run.rows()
    assert [row["step"] for row in rows] == sorted(left)
    assert all(found == row(found["step"]) for found in rows if found["step"] != 3)
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == seen

    run.metrics_file.write_bytes(b"once more")
    assert not run.rollback(checkpoint)
    assert [row["step"] for row in run.rows()] == [2, 4, 6]
    assert (tmp_path / "metrics.damaged.jsonl").read_bytes() == seen
    assert (tmp_path / "metrics.damaged1.jsonl").read_bytes() == b"once more"


def test_what_is_logged_after_damage_counts_from_the_rows_that_are_left(tmp_path):
    run = broken_off(tmp_path)
    run.metrics_file.write_bytes(b"")
    run.rollback(run.latest_checkpoint())
    run.lock.acquire()
    run.resume(6)
    run.log(row(7))
    content = run.metrics_file.read_bytes()
    assert run.flush() == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    run.finish("done")
    assert [found["step"] for found in run.rows()] == [2, 4, 6, 7]


def test_rows_that_are_gone_come_from_the_checkpoint_too(tmp_path):
    run = broken_off(tmp_path)
    run.metrics_file.unlink()
    assert not run.rollback(run.latest_checkpoint())
    assert run.rows() == [row(2), row(4), row(6)]
    assert not list(tmp_path.glob("*damaged*"))


def test_damage_after_the_step_is_dropped_with_the_rows_there(tmp_path):
    run = broken_off(tmp_path)
    lines = run.metrics_file.read_bytes().splitlines(keepends=True)
    run.metrics_file.write_bytes(b"".join(lines[:6]) + b"\0" * 300)
    assert run.rollback(run.latest_checkpoint())
    assert run.metrics_file.read_bytes() == b"".join(lines[:6])


def test_a_run_that_had_logged_nothing_goes_back_to_nothing(tmp_path):
    run = RunWriter.create(tmp_path)
    run.save("last", {"step": 1, "logged": run.flush(), "history": lines([])})
    run.log(row(2))
    run.finish("failed")
    run = RunWriter(tmp_path)
    assert run.rollback(run.latest_checkpoint())
    assert run.metrics_file.read_bytes() == b""
    run.metrics_file.unlink()
    assert run.rollback(run.latest_checkpoint())
    assert run.rows() == []


def test_beginning_anew_drops_what_was_made_and_keeps_what_was_given(tmp_path):
    run = broken_off(tmp_path)
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


def gone_on(folder: Path, *arguments, **more) -> RunWriter:
    run = RunWriter(folder)
    run.lock.acquire()
    return run.resume(*arguments, **more)


def test_a_status_keeps_what_each_process_was(tmp_path):
    first = RunWriter.create(tmp_path, {"lr": 0.1})
    first.finish("interrupted", message="one")
    began = first.status["started"]
    gone_on(tmp_path, 4, {"lr": 0.2}, ["lr 0.1 -> 0.2"]).finish("failed", message="two")
    status = gone_on(tmp_path, 6).status
    assert status["status"] == "running"
    assert status["started"] == began
    told = [(p.get("step"), p.get("changes"), p["status"], p["message"]) for p in list_processes(status)]
    assert told == [
        (6, [], "running", ""), (4, ["lr 0.1 -> 0.2"], "failed", "two"), (None, None, "interrupted", "one"),
    ]  # fmt: skip
    assert status["settings"] == {"lr": 0.2}, "those that it had, where nothing is set anew"
    assert all("settings" not in p and "before" not in p for p in status["before"])


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b'{"before": 3, "started": "x"}', b'{"before": [1, null]}']
)
def test_a_status_that_is_damaged_is_written_anew(content, tmp_path):
    RunWriter.create(tmp_path).finish("interrupted")
    (tmp_path / "status.json").unlink() if content is None else (tmp_path / "status.json").write_bytes(content)
    run = gone_on(tmp_path, 4, {"lr": 0.2})
    assert run.status["settings"] == {"lr": 0.2}
    assert run.status["status"] == "running"
    assert isinstance(run.status["started"], float)
    assert all(isinstance(process, dict) for process in list_processes(run.status))


def test_what_dead_processes_left_half_written_is_removed(tmp_path):
    RunWriter.create(tmp_path).finish("interrupted")
    for place in ("status.json", "checkpoints/last.safetensors"):
        atomic.temp_path(tmp_path / place).write_bytes(b"torn")
    gone_on(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))


def test_status_tells_of_a_configuration_before_that_is_changed(tmp_path, monkeypatch):
    """A process that dies between the two leaves a checkpoint, a status and a configuration that know of each other."""
    run = RunWriter.create(tmp_path)
    run.finish("interrupted")
    run.config_file.parent.mkdir()
    run.config_file.write_bytes(b"old")
    told = []
    replace = atomic.atomic_write_bytes

    def seen(file, content, **how):
        replace(file, content, **how)
        told.append((file.name, RunDirectory(tmp_path).status.get("config"), run.config_file.read_bytes()))

    monkeypatch.setattr(atomic, "atomic_write_bytes", seen)
    gone_on(tmp_path, 4, None, ["x"], [], b"new")
    digest = hashlib.sha256(b"new").hexdigest()
    assert told[-2:] == [("status.json", digest, b"old"), ("config.yaml", digest, b"new")]


def test_a_run_whose_directory_was_taken_over_writes_no_more(tmp_path):
    run = RunWriter.create(tmp_path)
    run.lock.file.write_bytes(run.lock.file.read_bytes().replace(b'"token": "', b'"token": "x'))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    for act in (lambda: run.log(row(2)), lambda: run.save("last", {"step": 2}), lambda: run.finish("done", {"x": 1.0})):
        with pytest.raises(LockLostError, match="was taken over by process"):
            act()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_run_is_dead_when_it_says_that_it_runs_and_nobody_is_at_it(tmp_path):
    run = RunWriter.create(tmp_path)
    assert not RunDirectory(tmp_path).is_stale
    run.lock.release()
    assert RunDirectory(tmp_path).is_stale
    gone_on(tmp_path).finish("interrupted")
    assert not RunDirectory(tmp_path).is_stale


# ------------------------------------------------------------------------------------------- rows


GOOD = b'{"step": 1, "epoch": 0.5, "seconds": 0.1}'
NO_ROWS = {
    "a part": b'{"step": 1, "epo',
    "a list": b"[1, 2]",
    "a number": b"3",
    "no step": b'{"epoch": 0.5, "seconds": 0.1}',
    "no epoch": b'{"step": 1, "seconds": 0.1}',
    "a step that is text": GOOD.replace(b"1,", b'"1",', 1),
    "a step that is a fraction": GOOD.replace(b"1,", b"1.5,", 1),
    "a step that is NaN": GOOD.replace(b"1,", b"NaN,", 1),
    "a step that is true": GOOD.replace(b"1,", b"true,", 1),
    "a step that is null": GOOD.replace(b"1,", b"null,", 1),
    "seconds that are null": GOOD.replace(b"0.1", b"null"),
    "a value that is text": GOOD.replace(b"}", b', "val/loss": "0.1"}'),
    "a value that is true": GOOD.replace(b"}", b', "val/loss": true}'),
    "a value that is a list": GOOD.replace(b"}", b', "val/loss": [1]}'),
    "a number of too many digits": GOOD.replace(b"}", b', "x": ' + b"9" * 5000 + b"}"),
    "no UTF-8": b"\xff" + GOOD,
    "nothing but zeros": bytes(50),
    "depths": b"[" * 5000,
    "more than a row may have": GOOD.replace(b"}", b" " * LONGEST_ROW + b"}"),
}


@pytest.mark.parametrize("kind", NO_ROWS)
def test_a_line_that_is_no_row_is_told_and_left_out(kind, tmp_path):
    run = RunWriter(tmp_path)
    after = GOOD.replace(b"1,", b"2,", 1)
    run.metrics_file.write_bytes(b"\n".join([GOOD, NO_ROWS[kind], after, b""]))
    assert [None if line is None else line["step"] for line in run.iter_rows()] == [1, None, 2]
    assert [row["step"] for row in run.rows()] == [1, 2]
    run.metrics_file.write_bytes(b"\n".join([GOOD, NO_ROWS[kind], b""]))
    assert run.last_row() == (None if len(NO_ROWS[kind]) > LONGEST_ROW else json.loads(GOOD))


def test_empty_lines_say_nothing(tmp_path):
    """However many there are: each would take as long to be refused as a row to be read."""
    run = RunWriter(tmp_path)
    run.metrics_file.write_bytes(b"\n" * 500_000 + GOOD + b"\n" + b"\n" * 5)
    assert [line["step"] for line in run.iter_rows()] == [1]
    assert run.last_row() == json.loads(GOOD)


def test_a_last_line_without_an_end_is_not_there_yet(tmp_path):
    run = RunWriter(tmp_path)
    run.metrics_file.write_bytes(GOOD + b"\n" + GOOD.replace(b"1,", b"2,", 1))
    assert [row["step"] for row in run.iter_rows()] == [1]
    assert run.last_row() == json.loads(GOOD)
    run.metrics_file.write_bytes(GOOD)
    assert run.rows() == []
    assert run.last_row() is None


def test_no_rows_are_an_empty_list(tmp_path):
    assert RunDirectory(tmp_path).rows() == []
    assert RunDirectory(tmp_path).last_row() is None
    RunDirectory(tmp_path).metrics_file.touch()
    assert RunDirectory(tmp_path).rows() == []
    assert RunDirectory(tmp_path).last_row() is None


def test_values_that_are_null_belong_to_a_row(tmp_path):
    run = RunWriter(tmp_path)
    run.metrics_file.write_bytes(GOOD.replace(b"}", b', "val/loss": null}') + b"\n")
    assert run.rows() == [run.last_row()] == [json.loads(GOOD) | {"val/loss": None}]


def test_the_last_row_is_found_behind_many(tmp_path):
    run = RunWriter(tmp_path)
    line = json.dumps({"step": 7, "epoch": 0.5, "seconds": 0.1, "x" * 500: 0.0}).encode() + b"\n"
    run.metrics_file.write_bytes(line * (2 * LONGEST_ROW // len(line)) + GOOD + b"\n")
    assert run.last_row() == run.rows()[-1] == json.loads(GOOD)
