"""A run directory whose files are damaged: every command says so or can do without, and no other run is made of it.

Files are cut, emptied, removed, overwritten and have a bit flipped, at places drawn from a seed. Commands are processes
of their own, so that what hangs, or takes all memory, is no more than a failure.
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


def cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(1, len(content))]


def overwritten(content: bytes, draw: random.Random) -> bytes:
    return draw.randbytes(len(content))


def patched(content: bytes, draw: random.Random) -> bytes:
    """A part of it overwritten, as by a lost sector."""
    begin = draw.randrange(len(content))
    part = content[begin : begin + 512]
    return content[:begin] + draw.randbytes(len(part)) + content[begin + len(part) :]


def flipped(content: bytes, draw: random.Random) -> bytes:
    """One bit of it."""
    at = draw.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes] | None] = {
    "cut": cut,
    "emptied": lambda content, draw: b"",
    "removed": None,
    "overwritten": overwritten,
    "patched": patched,
    "flipped": flipped,
}
STATE_FILES = ("status.json", "metrics.jsonl", ".hydra/config.yaml", *FILES[-2:])
"""Files from which a run resumes."""
CASES = [
    (file, damage) for file in FILES for damage in (DAMAGES if file in STATE_FILES else ("removed", "overwritten"))
]


@dataclass(frozen=True)
class Original:
    """A run that is whole: what resumes it, the final state that this leads to, and what evaluate says of it."""

    folder: Path
    resume: tuple[str, ...]
    state: dict[str, Any]
    record_evaluation: str

    def lost(self, run: RunDirectory) -> list[str]:
        """In what a run differs from the one that was never damaged, but for rows without an evaluation."""

        def matters(name: str) -> bool:
            row = re.match(r"row \d+: ", name)
            return name != "rows" and (row is None or f"{row[0]}/val/loss" in self.state)

        return [name for name in find_differences(read_final_state(run), self.state) if matters(name)]


@pytest.fixture(scope="module")
def originals(forks, tmp_path_factory) -> dict[str, Original]:
    folder = {state: tmp_path_factory.mktemp(state) for state in (*STATES, "longer")}

    def ran(argv: list[str] | tuple[str, ...], state: str) -> ProcessResult:
        ended = forks.run(argv, folder[state])
        assert ended.code == 0, ended.err
        return ended

    ran(ARGV, "done")
    shutil.copytree(folder["done"] / "run", folder["longer"] / "run")
    more = ("train", "-q", "resume=run", f"steps={LONGER}")
    ran(more, "longer")

    job = forks.start(ARGV, folder["interrupted"])
    under_way = RunDirectory(folder["interrupted"] / "run")
    while ((under_way.last_row() or {}).get("step", 0)) <= 30:
        assert not job.has_ended, job.wait()
    job.kill(signal.SIGTERM)
    assert job.wait().code == 130
    stopped = RunDirectory(folder["interrupted"] / "run")
    assert 24 < stopped.summary["step"] < 204
    evaluated = {state: ran(["evaluate", "run"], state).out for state in STATES}
    return {
        "done": Original(
            folder["done"] / "run", more, read_final_state(RunDirectory(folder["longer"] / "run")), evaluated["done"]
        ),
        "interrupted": Original(
            stopped.path, more[:-1], read_final_state(RunDirectory(folder["done"] / "run")), evaluated["interrupted"]
        ),
    }


def harmless(forks: Forks, argv: tuple[str, ...] | list[str], folder: Path) -> ProcessResult:
    """A command that ends by itself, with a code that it should have, and without a traceback."""
    ended = forks.run(argv, folder)
    assert ended.code in (0, 1, 2), (argv, ended)
    assert "Traceback" not in ended.out + ended.err, (argv, ended)
    assert ended.code != 2 or ended.err, (argv, "it says why")
    return ended


def damaged(original: Original, folder: Path, file: str, damage: str, draw: random.Random) -> RunDirectory:
    """A copy with one file of this name damaged."""
    shutil.copytree(original.folder, folder / "run")
    place = draw.choice(sorted((folder / "run").glob(file)))
    change = DAMAGES[damage]
    if change is None:
        place.unlink()
    else:
        place.write_bytes(change(place.read_bytes(), draw))
    return RunDirectory(folder / "run")


def check(forks: Forks, original: Original, folder: Path, file: str, damage: str, seed: str) -> None:
    """What holds of every command on such a copy."""
    run = damaged(original, folder, file, damage, random.Random(f"{file} {damage} {seed}"))
    for argv in (["runs", "."], ["show", "run"]):
        harmless(forks, argv, folder)
    evaluated = harmless(forks, ["evaluate", "run"], folder)
    if file.startswith("checkpoints/") and damage != "removed" and evaluated.code == 0:
        assert evaluated.out == original.record_evaluation, "no figures of damaged weights"
    resumed = harmless(forks, original.resume, folder)
    if resumed.code == 0:
        assert original.lost(run) == [], resumed.err
    else:
        assert resumed.code == 2, resumed
        assert len(resumed.err.splitlines()) <= 3, "one message"


@pytest.mark.parametrize(("file", "damage"), CASES)
def test_a_damaged_file_is_told_or_does_no_harm(file, damage, forks, originals, tmp_path):
    """Each file in each way, in a run that is done or in one that was interrupted."""
    state = STATES[CASES.index((file, damage)) % 7 % 2]
    check(forks, originals[state], tmp_path, file, damage, "one")


@pytest.mark.long
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("file", FILES)
def test_damage_at_many_places_is_told_or_does_no_harm(file, state, seed, forks, originals, tmp_path):
    for damage in DAMAGES:
        folder = tmp_path / damage
        folder.mkdir()
        check(forks, originals[state], folder, file, damage, str(seed))


@pytest.mark.parametrize(("key", "value"), [("lr", 0.02), ("momentum", 0.8), ("p", 0.4), ("seed", 1), ("log_every", 4)])
def test_a_number_of_the_configuration_that_has_changed_makes_no_other_run(key, value, forks, originals, tmp_path):
    """A digit, as one flipped bit changes it: the run is refused, with the file's name, or not affected."""
    original = originals["interrupted"]
    shutil.copytree(original.folder, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    text = run.config_file.read_text()
    changed = re.sub(rf"^( *{key}:) .*$", rf"\1 {value}", text, count=1, flags=re.MULTILINE)
    assert changed != text
    run.config_file.write_text(changed)
    resumed = harmless(forks, original.resume, tmp_path)
    if resumed.code == 0:
        assert find_differences(read_final_state(run), original.state) == []
    else:
        assert "config" in resumed.err


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_flipped_bit_among_the_weights_of_a_checkpoint_is_noticed(name, forks, originals, tmp_path):
    """In the numbers themselves, where nothing but a checksum can see it."""
    original = originals["interrupted"]
    shutil.copytree(original.folder, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    weights = next(iter(run.load(name)["model"].values()))
    raw = weights.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    file = run.checkpoint(name)
    content = bytearray(file.read_bytes())
    before = harmless(forks, ["evaluate", "run", "--checkpoint", name], tmp_path)
    content[content.index(raw) + 4 * 7 + 3] ^= 1  # of the exponent of one weight
    file.write_bytes(content)
    evaluated = harmless(forks, ["evaluate", "run", "--checkpoint", name], tmp_path)
    assert evaluated.code == 2 or evaluated.out == before.out or f"{name}.safetensors is damaged" in evaluated.err
    resumed = harmless(forks, original.resume, tmp_path)
    assert resumed.code == 2 or original.lost(run) == []


def test_lines_that_cannot_be_read_are_left_out_told_and_kept_beside(forks, originals, tmp_path):
    """Rows of evaluations come back from the checkpoint; nothing that lay in the file is thrown away."""
    original = originals["interrupted"]
    shutil.copytree(original.folder, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    lines = run.metrics_file.read_text().splitlines()
    evaluation = next(i for i, line in enumerate(lines) if "val/loss" in json.loads(line))
    between = next(i for i, line in enumerate(lines) if "val/loss" not in json.loads(line))
    for i in (evaluation, between):
        lines[i] = f"damaged {lines[i][:40]}"
    run.metrics_file.write_text("".join(f"{line}\n" for line in lines))
    resumed = harmless(forks, original.resume, tmp_path)
    assert resumed.code == 0, resumed.err
    assert "metrics.jsonl" in resumed.err
    assert original.lost(run) == []
    beside = [file.read_text() for file in run.path.glob("metrics*") if file != run.metrics_file]
    assert all(any(lines[i] in text for text in beside) for i in (evaluation, between))
