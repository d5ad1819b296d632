"""A run that is killed at any instant, any number of times, ends in the same bits as an undisturbed one.

Real processes and real signals. A seed fixes the fraction of the run at which a signal is sent, not the step that it
meets, so different sessions of these tests see different interleavings.
"""

import contextlib
import json
import random
import shutil
import signal
import socket
import struct
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from bits import find_differences, read_final_state
from forked import ForkedProcess, Forks, ProcessResult

from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.tensorboard import to_tag

TINY = (
    "train", "-q", "data=digits", "data.train_size=200", "batch_size=30", "steps=300",
    "eval_every=2", "log_every=5", "checkpoint.every=7", "threads=1", "device=cpu", "hydra.run.dir=run",
)  # fmt: skip
"""160 training examples, six steps an epoch, the last one smaller: checkpoints fall on every part of an epoch."""
PERCEPTRON = ("arch=mlp", "arch.widths=[16]")
SERIES = ("data=mnist1d", "augmentation=shift")
CONFIGURATIONS = {
    "sgd": ("optimizer=sgd", "schedule=cosine", "regularization=l2"),
    "momentum": ("optimizer=momentum", "schedule=warmup", "schedule.then=cosine", "regularization=weight_decay"),
    "nesterov": ("optimizer=nesterov", "schedule=step", "schedule.every=20", "augmentation=translate"),
    "adagrad": ("optimizer=adagrad", "normalization=batch", "regularization=[dropout,l1]"),
    "rmsprop": ("optimizer=rmsprop", "optimizer.momentum=0.5", "optimizer.centered=true", "regularization=dropout"),
    "adam": ("optimizer=adam", "normalization=batch", "regularization=[dropout,early_stopping]", "schedule=cosine",
             "augmentation=translate", "diagnostic=[gradients,activations,histograms]"),
    "torch_optim": ("optimizer=torch_optim", "optimizer.name=AdamW", "schedule=warmup", "schedule.then=step",
                    "regularization=dropout"),
    "series": (*SERIES, "optimizer=adam", "regularization=[dropout,l2]", "preprocess=standardize"),
    "convolutions": (*SERIES, "arch=cnn", "arch.channels=[4,4,4]", "normalization=batch", "optimizer=momentum",
                     "steps=200"),
    "stopped early": ("optimizer=adam", "optimizer.lr=0.03", "regularization=early_stopping",
                      "regularization.early_stopping.patience=25", "data.label_noise=0.2"),
    "no validation": ("optimizer=rmsprop", "validation.fraction=0", "normalization=batch", "schedule=exponential"),
    "instruments": ("optimizer=nesterov", "precision=float64", "diagnostic=[gradients,activations,histograms]",
                    "diagnostic.gradients.every=3", "diagnostic.histograms.every=11", "steps=300"),
}  # fmt: skip
TRAINING = ("before the first checkpoint", "between checkpoints", "while a checkpoint is written")
"""Places where a kill can meet a training run."""
PLACES = ("before the run", "at the start of a resumed run", *TRAINING, "after the end")


def argv(name: str) -> list[str]:
    """Return the command that starts a run of this configuration."""
    keys = CONFIGURATIONS[name]
    return [*TINY, *(() if "arch=cnn" in keys else PERCEPTRON), *keys]


@dataclass(frozen=True)
class Reference:
    """An undisturbed run: its final state, and the processor seconds of its process and of its training."""

    state: dict[str, Any]
    process: float
    training: float


def run_reference(name: str, forks: Forks, folder: Path) -> Reference:
    start = time.monotonic()
    result = forks.run(argv(name), folder)
    wall = time.monotonic() - start
    assert result.code == 0, result.err
    run = RunDirectory(folder / "run")
    share = (run.status["ended"] - run.status["started"]) / wall
    return Reference(read_final_state(run), result.seconds, result.seconds * share)


@pytest.fixture(scope="module")
def get_reference(forks, tmp_path_factory) -> Callable[[str], Reference]:
    return cache(lambda name: run_reference(name, forks, tmp_path_factory.mktemp("undisturbed")))


@dataclass
class Chain:
    """A run and the processes that worked on it, one after the other."""

    forks: Forks
    name: str
    folder: Path
    landed: list[str] = field(default_factory=list)
    errors: str = ""

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.folder / "run")

    def start(self, *, trains: bool = False) -> ForkedProcess:
        """Start the next process, which starts the run or resumes it; trains: wait until it has taken over the run."""
        exists = self.run.status_file.exists()
        self._former = self._list_temporary_files()
        job = self.forks.start(["train", "-q", "resume=run"] if exists else argv(self.name), self.folder)
        while trains and not job.has_ended and not self.trains(job):
            time.sleep(0.001)
        return job

    def wait(self, job: ForkedProcess) -> ProcessResult:
        result = job.wait()
        self.errors += result.err
        assert "Traceback" not in result.err, result.err
        return result

    def trains(self, job: ForkedProcess) -> bool:
        """Return whether this process has taken over the run."""
        return self.run.status_file.exists() and self.run.status["pid"] == job.pid

    def writes(self) -> bool:
        """Return whether a checkpoint is begun and not yet in its place."""
        return bool(self._list_temporary_files() - self._former)

    def find_landing(self, job: ForkedProcess, result: ProcessResult) -> str:
        """Return the place at which a process was killed, by the files that it left."""
        if result.code == 0:
            return "after the end"
        if not self.run.status_file.exists():
            return "before the run"
        if not self.trains(job):
            return "at the start of a resumed run"
        if self.run.status["status"] != "running":
            return "after the end"
        if self.writes():
            return "while a checkpoint is written"
        return "between checkpoints" if self.run.checkpoint("last").exists() else "before the first checkpoint"

    def finish(self) -> dict[str, Any]:
        """Run to the end, and read the final state."""
        while not self.run.status_file.exists() or self.run.status["status"] != "done":
            result = self.wait(self.start())
            assert result.code == 0, result.err
        return read_final_state(self.run)

    def _list_temporary_files(self) -> set[tuple[str, int]]:
        """Return the names and times of the files next to the checkpoints."""
        files = set()
        for file in self.run.checkpoint("last").parent.glob("*"):
            if file.suffix != ".safetensors":
                with contextlib.suppress(FileNotFoundError):  # it was just put in its place
                    files.add((file.name, file.stat().st_mtime_ns))
        return files


AIMS = ("first", "training", "writing", "starting", "training", "training", "anywhere", "training", "training")


def kill(chain: Chain, aim: str, rng: random.Random, whole: Reference) -> None:
    """Start the next process and kill it.

    at once    as soon as it exists
    anywhere   between its start and its end
    starting   before it trains
    first      in its first steps
    training   in the next quarter of its steps
    writing    there too, when a checkpoint is begun
    """
    job = chain.start(trains=aim in ("first", "training", "writing"))
    if aim == "anywhere":
        time.sleep(rng.uniform(0, 1.05 * whole.process))
    elif aim == "starting":
        time.sleep(rng.uniform(0, whole.process - whole.training))
    elif aim != "at once":
        time.sleep(rng.uniform(0, whole.training / (4 if aim != "first" else 100)))
        while aim == "writing" and not job.has_ended and not chain.writes():
            pass
    job.kill()
    chain.landed.append(chain.find_landing(job, chain.wait(job)))


def kill_often(chains: list[Chain], aims: Iterable[str], whole: Reference) -> Iterator[str]:
    """Kill runs at these aims, and yield where each kill landed. A run that ended is followed by a new one.

    All runs are finished in the end and compared with the undisturbed one.
    """
    first = chains[0]
    rng = random.Random(first.name)
    for aim in aims:
        kill(chains[-1], aim, rng, whole)
        yield chains[-1].landed[-1]
        if chains[-1].landed[-1] == "after the end":
            chains.append(Chain(first.forks, first.name, first.folder.with_name(str(len(chains)))))
    for chain in chains:
        assert find_differences(chain.finish(), whole.state) == [], (chain.folder, chain.landed, chain.errors)


@pytest.fixture(scope="module")
def killed_chains(forks, get_reference, tmp_path_factory) -> tuple[list[Chain], Counter[str]]:
    """Runs that were killed five times and end in the bits of the undisturbed one, and where the kills landed."""
    chains = [Chain(forks, "adam", tmp_path_factory.mktemp("killed") / "0")]
    return chains, Counter(kill_often(chains, AIMS[:5], get_reference("adam")))


def test_a_run_killed_five_times_ends_in_the_same_bits(killed_chains):
    _, landed = killed_chains
    assert landed.total() == 5
    assert sum(landed[place] for place in TRAINING) > 0, landed


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_kind_of_run_killed_often_ends_in_the_same_bits(name, forks, get_reference, tmp_path):
    """More than a hundred kills in all, most of them while the run trains."""
    landed = Counter(kill_often([Chain(forks, name, tmp_path / "0")], AIMS, get_reference(name)))
    assert landed.total() == len(AIMS)
    assert sum(landed[place] for place in TRAINING) > len(AIMS) / 2, landed


@pytest.mark.long
def test_kills_land_in_every_place(forks, get_reference, tmp_path):
    """The aims are met: no place is missed because a file was renamed."""
    missing = set(PLACES)

    def aims() -> Iterator[str]:
        yield "at once"  # later the run exists
        for aim in cycle((*AIMS, "anywhere", "writing")):
            if not missing:
                return
            yield aim

    for count, place in enumerate(kill_often([Chain(forks, "sgd", tmp_path / "0")], aims(), get_reference("sgd"))):
        missing.discard(place)
        assert count < 100, missing


# ------------------------------------------------------------------------------------------- signals to stop


def test_a_run_asked_to_stop_finishes_its_step_and_resumes_to_the_same_bits(forks, get_reference, tmp_path):
    whole = get_reference("adam")
    chain = Chain(forks, "adam", tmp_path / "chain")
    rng = random.Random(0)
    steps = [0]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        job = chain.start(trains=True)
        time.sleep(rng.uniform(0.1, 0.2) * whole.training)
        job.kill(number)
        result = chain.wait(job)
        if len(steps) > 1 and result.code == 0:
            break  # it trained faster than the reference, and was done before the signal
        assert result.code == 130, result.err
        assert chain.run.status["status"] == "interrupted"
        steps.append(chain.run.summary["step"])
        assert chain.run.load("last")["step"] == steps[-1]
        assert all(row["step"] <= steps[-1] for row in chain.run.rows())
    assert steps == sorted(steps)
    assert steps[-1] > 0
    assert find_differences(chain.finish(), whole.state) == []


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("seed", range(4))
def test_a_signal_at_any_instant_stops_or_kills(seed, number, forks, get_reference, tmp_path):
    """Before the run trains the process dies or exits with 130; after that the run is interrupted or done."""
    whole = get_reference("momentum")
    chain = Chain(forks, "momentum", tmp_path / "chain")
    rng = random.Random(f"{number} {seed}")
    for _ in range(6):
        job = chain.start()
        time.sleep(rng.uniform(0, 1.05 * whole.process))
        job.kill(number)
        result = chain.wait(job)
        status = chain.run.status["status"] if chain.trains(job) else "not begun"
        codes = {
            "not begun": (0, 130, -number),  # 0: the run was done before
            "running": (130, -number),  # taken over, without a step
            "interrupted": (130,),
            "done": (0, 130, -number),
        }
        assert result.code in codes[status], (status, result)
        if status == "running":
            assert not any(str(job.pid) in file.name for file in chain.run.path.glob("events.*")), "no row is written"
    assert find_differences(chain.finish(), whole.state) == []


def test_a_second_interrupt_ends_at_once_and_harms_nothing(forks, get_reference, tmp_path):
    """Even while the process handles the first one: the last checkpoint is whole."""
    whole = get_reference("adam")
    chain = Chain(forks, "adam", tmp_path / "chain")
    for wait, pause in ((0.1, 0.0), (0.2, 0.001), (0.15, 0.004)):
        job = chain.start(trains=True)
        time.sleep(wait * whole.training)
        job.kill(signal.SIGINT)
        time.sleep(pause)
        job.kill(signal.SIGINT)
        result = chain.wait(job)
        if wait != 0.1 and result.code == 0:
            break  # it trained faster than the reference, and was done before the signal
        assert result.code == 130, result.err
        assert chain.run.status["status"] in ("interrupted", "running")
    assert find_differences(chain.finish(), whole.state) == []


# ------------------------------------------------------------------------------------------- curves in TensorBoard


Curves = dict[str, list[tuple[int, float]]]
"""Points (step, value) of each tag."""


def read_logged(run: RunDirectory) -> Curves:
    """Return the curves of metrics.jsonl, and the results of the test split, in TensorBoard's precision."""
    curves: Curves = {}

    def add(tag: str, step: int, value: float) -> None:
        curves.setdefault(tag, []).append((step, struct.unpack("f", struct.pack("f", value))[0]))

    for row in run.rows():
        for key, value in row.items():
            if key not in ("step", "epoch", "seconds") and value is not None:
                add(to_tag(key), row["step"], value)
    for key, value in run.summary.items():
        if key.startswith("test/"):
            add(key, run.summary["best/step"], value)
    return curves


def read_events(run: RunDirectory) -> Curves:
    """Return all points of the curves that TensorBoard's Python reader finds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run.path), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def tear(source: RunDirectory, target: Path, rng: random.Random) -> RunDirectory:
    """Copy a run, and append a part of their last record to all event files but the newest."""
    shutil.copytree(source.path, target)
    *earlier, _ = sorted(target.glob("events.out.tfevents.*"))
    for file in earlier:
        content, end = file.read_bytes(), 0
        if not content:
            continue  # its process was killed before it wrote
        while end < len(content):  # a record: its length in eight bytes, a checksum, its content, a checksum
            last, end = end, end + 8 + 4 + int.from_bytes(content[end : end + 8], "little") + 4
        file.write_bytes(content + content[last : rng.randrange(last + 1, len(content))])
    return RunDirectory(target)


@pytest.fixture(scope="module")
def killed_runs(killed_chains, tmp_path_factory) -> list[RunDirectory]:
    """The run that was killed most often, and two copies with torn event files."""
    folder = tmp_path_factory.mktemp("curves")
    run = max((chain.run for chain in killed_chains[0]), key=lambda r: len(list(r.path.glob("events.out.tfevents.*"))))
    assert len(list(run.path.glob("events.out.tfevents.*"))) > 2
    rng = random.Random("curves")
    whole = RunDirectory(shutil.copytree(run.path, folder / "killed" / "run"))
    return [whole, *(tear(run, folder / f"torn-{i}" / "run", rng) for i in range(2))]


def test_the_curves_of_killed_runs_are_those_of_their_rows(killed_runs):
    for run in killed_runs:
        assert read_events(run) == read_logged(run), run.path


@pytest.mark.parametrize("loader", ["true", pytest.param("false", marks=pytest.mark.long)])
def test_the_tensorboard_server_shows_those_curves(loader, killed_runs, forks):
    """Over the network, with the default loader and with the one in Python."""
    folder = killed_runs[0].path.parents[1]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = forks.start(["tensorboard", str(folder), "--port", str(port), f"--load_fast={loader}"], folder)

    def ask(path: str) -> Any:
        assert not job.has_ended, job.wait()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/plugin/scalars/{path}", timeout=30) as answer:
                return json.load(answer)
        except OSError:
            return None

    def wait_for(read: Callable[[], Any], expected: Any) -> None:
        """Read until the answer is as expected, or five minutes have passed."""
        deadline = time.monotonic() + 300
        while (answer := read()) != expected and time.monotonic() < deadline:
            time.sleep(0.1)
        assert answer == expected

    try:
        logged = {str(run.path.relative_to(folder)): read_logged(run) for run in killed_runs}
        tags = {name: sorted(curves) for name, curves in logged.items()}
        wait_for(lambda: {name: sorted(found) for name, found in (ask("tags") or {}).items()}, tags)
        for name, curves in logged.items():
            for tag, points in curves.items():
                query = f"scalars?run={urllib.request.quote(name)}&tag={urllib.request.quote(tag)}"
                wait_for(lambda query=query: [(step, value) for _, step, value in ask(query) or []], points)
    finally:
        job.kill(signal.SIGTERM)
        job.wait()
