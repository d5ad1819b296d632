"""The final state of a run, all of it but the clock, in a form in which two runs can be compared bit for bit."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.metrics_log import decode_evaluations
from dlopt.storage import checkpoint_file


def write_checkpoint(file: Path, content: Mapping[str, Any]) -> None:
    """Write a checkpoint with another content in place of a file."""
    with file.open("wb") as stream:
        checkpoint_file.write(stream, content)


CLOCK = ("seconds", "steps_per_second", "peak_memory", "logged")
"""What differs between two runs that are the same, as does every key below time/; logged is a digest of such rows."""


def read_final_state(run: RunDirectory) -> dict[str, Any]:
    """Checkpoints, rows, summary and status, flat: a name -> a number, a text, or a tensor's type, shape and bytes."""
    lines = run.metrics_file.read_text().split("\n")
    assert lines.pop() == "", "the last line is whole"
    rows = [json.loads(line) for line in lines]
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)), "no row is there twice"
    found = {"status": run.status["status"], "rows": len(rows)}
    for name, content in {
        "last.safetensors": run.load("last"),
        "best.safetensors": run.load("best"),
        "summary": json.loads(run.summary_file.read_text()),
        **{f"row {row['step']}": row for row in rows},
    }.items():
        found |= {f"{name}: {place}": leaf for place, leaf in iter_leaves(content)}
    return found


def iter_leaves(content: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """What lies in nested dictionaries and lists, and where, but for the clock's numbers."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if key not in CLOCK and not str(key).startswith("time/"):
                yield from iter_leaves(parse_rows(key, value), f"{place}/{key}")
    elif isinstance(content, (list, tuple)):
        for i, value in enumerate(content):
            yield from iter_leaves(value, f"{place}/{i}")
    elif isinstance(content, torch.Tensor):
        raw = content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        yield place, (content.dtype, tuple(content.shape), raw)
    else:
        yield place, content


def parse_rows(key: str, value: Any) -> Any:
    """The rows that a checkpoint holds as JSON, whose seconds are the clock's; anything else as it is."""
    if key == "row" and isinstance(value, str):
        return json.loads(value)
    return decode_evaluations({key: value}) if key == "history" else value


def find_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Names under which two runs differ, or that only one has; NaN equals itself."""
    return [name for name in {**one, **other} if repr(one.get(name)) != repr(other.get(name))]
