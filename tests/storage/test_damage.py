"""Damaged files of a run: every command reports them or does not need them, and the run stays the same.

Files are cut, emptied, removed, overwritten and have a bit flipped, at places drawn from a seed. Commands are separate
processes, so one that hangs or takes all memory is only a failure.
"""

import json
import random
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from bits import find_differences, read_final_state
from forked import Forks, ProcessResult
from processes import wait_until

from dlopt.rundir.directory import RunDirectory

ARGV = (
    "train", "-q", "data=digits", "data.train_size=200", "arch=mlp", "arch.widths=[16]", "batch_size=30", "steps=204",
    "eval_every=2", "log_every=5", "checkpoint.every=7", "threads=1", "device=cpu", "hydra.run.dir=run",
    "optimizer=momentum", "normalization=batch", "regularization=dropout",
)  # fmt: skip
LONGER = 228
"""Steps to which a finished run is continued; both numbers end with an evaluation, every 12 steps."""
FILES = (
    "status.json", "metrics.jsonl", "summary.json", "train.log", "events.out.tfevents.*", ".hydra/config.yaml",
    ".hydra/hydra.yaml", ".hydra/overrides.yaml", "checkpoints/last.safetensors", "checkpoints/best.safetensors",
)  # fmt: skip
STATES = ("done", "interrupted")


def overwrite_sector(content: bytes, draw: random.Random) -> bytes:
    """Overwrite a part, as a lost sector does."""
    begin = draw.randrange(len(content))
    part = content[begin : begin + 512]
    return content[:begin] + draw.randbytes(len(part)) + content[begin + len(part) :]


def flip_bit(content: bytes, draw: random.Random) -> bytes:
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes] | None] = {
    "cut": lambda content, draw: content[: draw.randrange(1, len(content))],
    "emptied": lambda content, draw: b"",
    "removed": None,
    "overwritten": lambda content, draw: draw.randbytes(len(content)),
    "patched": overwrite_sector,
    "flipped": flip_bit,
}
STATE_FILES = ("status.json", "metrics.jsonl", ".hydra/config.yaml", *FILES[-2:])
"""Files from which a run resumes."""
CASES = [
    (file, damage)
    for file in FILES
    for damage in (("cut", "removed", "flipped") if file in STATE_FILES else ("overwritten",))
]


@dataclass(frozen=True)
class Original:
    """An undamaged run: the command that resumes it, the final state after that, and the output of evaluate."""

    folder: Path
    resume: tuple[str, ...]
    state: dict[str, Any]
    evaluation: str

    def copy(self, folder: Path) -> RunDirectory:
        shutil.copytree(self.folder, folder / "run")
        return RunDirectory(folder / "run")

    def find_losses(self, run: RunDirectory) -> list[str]:
        """Return the differences from the run that was never damaged, except rows without an evaluation."""

        def matters(name: str) -> bool:
            row = re.match(r"row \d+: ", name)
            return name != "rows" and (row is None or f"{row[0]}/val/loss" in self.state)

        return [name for name in find_differences(read_final_state(run), self.state) if matters(name)]


@pytest.fixture(scope="module")
def originals(forks, tmp_path_factory) -> dict[str, Original]:
    folder = {state: tmp_path_factory.mktemp(state) for state in (*STATES, "longer")}
    runs = {state: RunDirectory(folder[state] / "run") for state in folder}

    def run(argv: tuple[str, ...], state: str) -> ProcessResult:
        ended = forks.run(argv, folder[state])
        assert ended.code == 0, ended.err
        return ended

    run(ARGV, "done")
    shutil.copytree(runs["done"].path, runs["longer"].path)
    more = ("train", "-q", "resume=run", f"steps={LONGER}")
    run(more, "longer")

    job = forks.start(ARGV, folder["interrupted"])
    wait_until(lambda: job.has_ended or (runs["interrupted"].last_row() or {}).get("step", 0) > 30)
    job.kill(signal.SIGTERM)
    assert job.wait().code == 130
    assert 24 < runs["interrupted"].summary["step"] < 204
    return {
        state: Original(runs[state].path, resume, read_final_state(runs[whole]), run(("evaluate", "run"), state).out)
        for state, resume, whole in (("done", more, "longer"), ("interrupted", more[:-1], "done"))
    }


def run_command(forks: Forks, argv: tuple[str, ...] | list[str], folder: Path) -> ProcessResult:
    """Run a command; it must end with an expected code, a message if it fails, and without a traceback."""
    ended = forks.run(argv, folder)
    assert ended.code in (0, 1, 2), (argv, ended)
    assert "Traceback" not in ended.out + ended.err, (argv, ended)
    assert ended.code != 2 or ended.err, argv
    return ended


def check(forks: Forks, original: Original, folder: Path, file: str, damage: str, seed: str) -> None:
    """Check every command on a copy with one file of this name damaged."""
    draw = random.Random(f"{file} {damage} {seed}")
    run = original.copy(folder)
    place = draw.choice(sorted(run.path.glob(file)))
    change = DAMAGES[damage]
    if change is None:
        place.unlink()
    else:
        place.write_bytes(change(place.read_bytes(), draw))
    for argv in (["runs", "."], ["show", "run"]):
        run_command(forks, argv, folder)
    evaluated = run_command(forks, ["evaluate", "run"], folder)
    if file.startswith("checkpoints/") and damage != "removed" and evaluated.code == 0:
        assert evaluated.out == original.evaluation, "damaged weights are not evaluated"
    resumed = run_command(forks, original.resume, folder)
    if resumed.code == 0:
        assert original.find_losses(run) == [], resumed.err
    else:
        assert resumed.code == 2, resumed
        assert len(resumed.err.splitlines()) <= 3, "one message"


SOME = [pytest.param(*case, marks=[pytest.mark.long] if i % 4 > 1 else []) for i, case in enumerate(CASES)]


@pytest.mark.parametrize(("file", "damage"), SOME)
def test_a_damaged_file_is_reported_or_harmless(file, damage, forks, originals, tmp_path):
    """In a run that is done or in one that was interrupted."""
    state = STATES[CASES.index((file, damage)) % 2]
    check(forks, originals[state], tmp_path, file, damage, "one")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("file", FILES)
def test_damage_at_many_places_is_reported_or_harmless(file, state, seed, forks, originals, tmp_path):
    for damage in DAMAGES:
        folder = tmp_path / damage
        folder.mkdir()
        check(forks, originals[state], folder, file, damage, str(seed))


@pytest.mark.parametrize(("key", "value"), [("lr", 0.02), ("momentum", 0.8), ("p", 0.4), ("seed", 1), ("log_every", 4)])
def test_a_changed_number_in_the_configuration_does_not_change_the_run(key, value, forks, originals, tmp_path):
    """One flipped bit can change a digit: resuming is refused with the file's name, or the run is not affected."""
    original = originals["interrupted"]
    run = original.copy(tmp_path)
    text = run.config_file.read_text()
    changed = re.sub(rf"^( *{key}:) .*$", rf"\1 {value}", text, count=1, flags=re.MULTILINE)
    assert changed != text
    run.config_file.write_text(changed)
    resumed = run_command(forks, original.resume, tmp_path)
    if resumed.code == 0:
        assert find_differences(read_final_state(run), original.state) == []
    else:
        assert "config" in resumed.err


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_flipped_bit_of_a_weight_is_noticed(name, forks, originals, tmp_path):
    """Only a checksum detects it among the numbers."""
    original = originals["interrupted"]
    run = original.copy(tmp_path)
    weights = next(iter(run.load(name)["model"].values()))
    raw = weights.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    file = run.checkpoint(name)
    content = bytearray(file.read_bytes())
    before = run_command(forks, ["evaluate", "run", "--checkpoint", name], tmp_path)
    content[content.index(raw) + 4 * 7 + 3] ^= 1  # of the exponent of one weight
    file.write_bytes(content)
    evaluated = run_command(forks, ["evaluate", "run", "--checkpoint", name], tmp_path)
    assert evaluated.code == 2 or evaluated.out == before.out or f"{name}.safetensors is damaged" in evaluated.err
    resumed = run_command(forks, original.resume, tmp_path)
    assert resumed.code == 2 or original.find_losses(run) == []


def test_unreadable_rows_are_reported_and_put_aside(forks, originals, tmp_path):
    """Rows of evaluations come back from the checkpoint, and the damaged file is kept."""
    original = originals["interrupted"]
    run = original.copy(tmp_path)
    lines = run.metrics_file.read_text().splitlines()
    evaluation = next(i for i, line in enumerate(lines) if "val/loss" in json.loads(line))
    between = next(i for i, line in enumerate(lines) if "val/loss" not in json.loads(line))
    for i in (evaluation, between):
        lines[i] = f"damaged {lines[i][:40]}"
    run.metrics_file.write_text("".join(f"{line}\n" for line in lines))
    resumed = run_command(forks, original.resume, tmp_path)
    assert resumed.code == 0, resumed.err
    assert "metrics.jsonl" in resumed.err
    assert original.find_losses(run) == []
    aside = [file.read_text() for file in run.path.glob("metrics*") if file != run.metrics_file]
    assert all(any(lines[i] in text for text in aside) for i in (evaluation, between))
