"""A run that is killed, at whatever instant and however often, ends in the bits of one that never was.

Real processes and real signals. The instants are drawn anew from a seed; what a seed fixes is the share of the run at
which a signal is sent, not the step that it meets, so that many runs of these tests see many interleavings.
"""

import json
import random
import shutil
import signal
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from bits import find_differences, read_final_state
from forked import ForkedProcess, Forks, ProcessResult

from dlopt.rundir.directory import RunDirectory

TINY = (
    "train", "-q", "data=digits", "data.train_size=200", "batch_size=30", "steps=600",
    "eval_every=2", "log_every=5", "checkpoint.every=7", "threads=1", "device=cpu", "hydra.run.dir=run",
)  # fmt: skip
"""160 examples for training, six steps an epoch, the last of them smaller: checkpoints fall on every part of an epoch."""
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
"""Where a kill can meet a run that trains."""
PLACES = ("before the run", "at the start of a resumed run", *TRAINING, "after the end")


def argv(name: str) -> list[str]:
    """The command that begins a run of this configuration."""
    keys = CONFIGURATIONS[name]
    return [*TINY, *(() if "arch=cnn" in keys else PERCEPTRON), *keys]


@dataclass(frozen=True)
class Reference:
    """A run that nothing disturbs: its final state, and the seconds that its process and its training take.

    They are those of the processor, which are as many on a machine that has other work, too.
    """

    state: dict[str, Any]
    process: float
    training: float


def reference(name: str, forks: Forks, folder: Path) -> Reference:
    begun = time.monotonic()
    ended = forks.run(argv(name), folder)
    wall = time.monotonic() - begun
    assert ended.code == 0, ended.err
    run = RunDirectory(folder / "run")
    status = run.status
    share = (status["ended"] - status["started"]) / wall
    return Reference(read_final_state(run), ended.seconds, ended.seconds * share)


@pytest.fixture(scope="module")
def undisturbed(forks, tmp_path_factory) -> Callable[[str], Reference]:
    return cache(lambda name: reference(name, forks, tmp_path_factory.mktemp("undisturbed")))


@dataclass
class Chain:
    """A run and the processes that have worked on it, one after the other."""

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

    def start(self) -> ForkedProcess:
        """The next process: the run is begun, or gone on with where there is one."""
        exists = self.run.status_file.exists()
        self._former = self._beside()
        return self.forks.start(["train", "-q", "resume=run"] if exists else argv(self.name), self.folder)

    def ends(self, job: ForkedProcess) -> ProcessResult:
        ended = job.wait()
        self.errors += ended.err
        assert "Traceback" not in ended.err, ended.err
        return ended

    def trains(self, job: ForkedProcess) -> bool:
        """Whether this very process has taken over the run."""
        return self.run.status_file.exists() and self.run.status["pid"] == job.pid

    def writes(self) -> bool:
        """Whether a checkpoint is begun and not in its place."""
        return bool(self._beside() - self._former)

    def landing(self, job: ForkedProcess, ended: ProcessResult) -> str:
        """Where a process was when it was killed, by what it left."""
        if ended.code == 0:
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
        """Let it end, and read the final state."""
        while not self.run.status_file.exists() or self.run.status["status"] != "done":
            ended = self.ends(self.start())
            assert ended.code == 0, ended.err
        return read_final_state(self.run)

    def _beside(self) -> set[tuple[str, int]]:
        """What lies among the checkpoints and is none, and since when."""
        found = set()
        for file in self.run.checkpoint("last").parent.glob("*"):
            if file.suffix != ".safetensors":
                try:
                    found.add((file.name, file.stat().st_mtime_ns))
                except FileNotFoundError:
                    continue  # it has just been put in its place
        return found


AIMS = ("first", "training", "writing", "starting", "training", "training", "anywhere", "training", "training")


def kill(chain: Chain, aim: str, draw: random.Random, whole: Reference) -> None:
    """Start the next process and kill it.

    at once    as soon as it is there
    anywhere   from its start to its end
    starting   before it trains
    first      in its first steps
    training   in the next quarter of its steps
    writing    there too, and when a checkpoint is begun
    """
    job = chain.start()
    if aim == "anywhere":
        time.sleep(draw.uniform(0, 1.05 * whole.process))
    elif aim == "starting":
        time.sleep(draw.uniform(0, whole.process - whole.training))
    elif aim != "at once":
        while not job.has_ended and not chain.trains(job):
            time.sleep(0.001)
        time.sleep(draw.uniform(0, whole.training / (4 if aim != "first" else 100)))
        while aim == "writing" and not job.has_ended and not chain.writes():
            pass
    job.kill()
    chain.landed.append(chain.landing(job, chain.ends(job)))


def killed(forks: Forks, name: str, aims: Iterable[str], whole: Reference, folder: Path) -> Iterator[str]:
    """Kill runs at these aims; says where each kill landed.

    A run that ended meanwhile, and the last, are compared with the one that was not disturbed.
    """
    draw = random.Random(name)
    chains = [Chain(forks, name, folder / "0")]
    for aim in aims:
        kill(chains[-1], aim, draw, whole)
        yield chains[-1].landed[-1]
        if chains[-1].landed[-1] == "after the end":
            chains.append(Chain(forks, name, folder / str(len(chains))))
    for chain in chains:
        assert find_differences(chain.finish(), whole.state) == [], (chain.folder, chain.landed, chain.errors)


def test_a_run_killed_five_times_ends_in_the_same_bits(forks, undisturbed, tmp_path):
    landed = Counter(killed(forks, "adam", AIMS[:5], undisturbed("adam"), tmp_path))
    assert landed.total() == 5
    assert sum(landed[where] for where in TRAINING) > 0, landed


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_kind_of_run_killed_often_ends_in_the_same_bits(name, forks, undisturbed, tmp_path):
    """A hundred kills and more in all, most of them while the run trains."""
    landed = Counter(killed(forks, name, AIMS, undisturbed(name), tmp_path))
    assert landed.total() == len(AIMS)
    assert sum(landed[where] for where in TRAINING) > len(AIMS) / 2, landed


@pytest.mark.long
def test_kills_land_in_every_place(forks, undisturbed, tmp_path):
    """What these tests aim at is met: no place is left out because a file has got another name."""
    missing = set(PLACES)

    def aims() -> Iterator[str]:
        yield "at once"  # later the run is there
        for aim in cycle((*AIMS, "anywhere", "writing")):
            if not missing:
                return
            yield aim

    for count, where in enumerate(killed(forks, "sgd", aims(), undisturbed("sgd"), tmp_path)):
        missing.discard(where)
        assert count < 100, missing


# ------------------------------------------------------------------------------------------- signals that ask


def asked_to_stop(chain: Chain, wait: float, *numbers: int) -> ProcessResult:
    """Start the next process and send it signals, so many seconds after it has begun to train."""
    job = chain.start()
    while not job.has_ended and not chain.trains(job):
        time.sleep(0.001)
    for number in numbers:
        time.sleep(wait)
        job.kill(number)
    return chain.ends(job)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_asked_to_stop_finishes_its_step_and_goes_on_to_the_same_bits(number, forks, undisturbed, tmp_path):
    whole = undisturbed("adam")
    chain = Chain(forks, "adam", tmp_path / "chain")
    draw = random.Random(number)
    steps = [0]
    for _ in range(4):
        ended = asked_to_stop(chain, draw.uniform(0.1, 0.2) * whole.training, number)
        if len(steps) > 1 and ended.code == 0:
            break  # it trains faster than the reference did, and was done before the signal
        assert ended.code == 130, ended.err
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
def test_a_signal_at_any_instant_stops_or_kills(seed, number, forks, undisturbed, tmp_path):
    """Before the run trains the process dies of it, or ends with 130; after that it says interrupted, or is done."""
    whole = undisturbed("momentum")
    chain = Chain(forks, "momentum", tmp_path / "chain")
    draw = random.Random(f"{number} {seed}")
    for _ in range(6):
        job = chain.start()
        time.sleep(draw.uniform(0, 1.05 * whole.process))
        job.kill(number)
        ended = chain.ends(job)
        status = chain.run.status["status"] if chain.trains(job) else "not begun"
        codes = {
            "not begun": (0, 130, -number),  # 0: the run was done before
            "running": (130, -number),  # taken over, and not one step made
            "interrupted": (130,),
            "done": (0, 130, -number),
        }
        assert ended.code in codes[status], (status, ended)
        if status == "running":
            assert not any(str(job.pid) in file.name for file in chain.run.path.glob("events.*")), "no row is written"
    assert find_differences(chain.finish(), whole.state) == []


@pytest.mark.parametrize("pause", [0.0, 0.001, 0.004])
def test_a_second_interrupt_ends_at_once_and_harms_nothing(pause, forks, undisturbed, tmp_path):
    """Even in the middle of what the first one began: the last checkpoint is whole."""
    whole = undisturbed("adam")
    chain = Chain(forks, "adam", tmp_path / "chain")
    for wait in (0.1, 0.2, 0.15):
        job = chain.start()
        while not job.has_ended and not chain.trains(job):
            time.sleep(0.001)
        time.sleep(wait * whole.training)
        job.kill(signal.SIGINT)
        time.sleep(pause)
        job.kill(signal.SIGINT)
        ended = chain.ends(job)
        if wait != 0.1 and ended.code == 0:
            break  # it trains faster than the reference did, and was done before the signal
        assert ended.code == 130, ended.err
        assert chain.run.status["status"] in ("interrupted", "running")
    assert find_differences(chain.finish(), whole.state) == []


# ------------------------------------------------------------------------------------------- curves in TensorBoard


Curves = dict[str, list[tuple[int, float]]]
"""A tag -> its points, as step and value."""


def as_logged(run: RunDirectory) -> Curves:
    """The curves of metrics.jsonl in TensorBoard's precision."""
    import struct

    found: Curves = {}
    for row in run.rows():
        for tag, value in row.items():
            if tag not in ("step", "epoch", "seconds") and value is not None:
                found.setdefault(tag, []).append((row["step"], struct.unpack("f", struct.pack("f", value))[0]))
    return found


def as_accumulated(run: RunDirectory) -> Curves:
    """The curves as TensorBoard's own reader in Python has them, every point of them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run.path), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def torn(source: RunDirectory, target: Path, draw: random.Random) -> RunDirectory:
    """A copy of a run whose event files, but for the last, end in a part of one more record, like their last one."""
    shutil.copytree(source.path, target)
    *earlier, _ = sorted(target.glob("events.out.tfevents.*"))
    for file in earlier:
        content, at = file.read_bytes(), 0
        while at < len(content):  # a record: its length in eight bytes, a checksum, its content, a checksum
            last, at = at, at + 8 + 4 + int.from_bytes(content[at : at + 8], "little") + 4
        file.write_bytes(content + content[last : draw.randrange(last + 1, len(content))])
    return RunDirectory(target)


@pytest.fixture(scope="module")
def killed_runs(forks, undisturbed, tmp_path_factory) -> list[RunDirectory]:
    """A run that was killed five times while it trained, and two copies with torn event files."""
    folder = tmp_path_factory.mktemp("curves")
    whole = undisturbed("adam")
    draw = random.Random("curves")
    chain = Chain(forks, "adam", folder / "runs" / "killed")
    for _ in range(5):
        kill(chain, "training", draw, whole)
    assert find_differences(chain.finish(), whole.state) == []
    assert len(list(chain.run.path.glob("events.out.tfevents.*"))) > 2
    return [chain.run, *(torn(chain.run, folder / "runs" / f"torn-{i}" / "run", draw) for i in range(2))]


def test_the_curves_of_killed_runs_are_those_of_their_rows(killed_runs):
    for run in killed_runs:
        logged, shown = as_logged(run), as_accumulated(run)
        assert shown.keys() == logged.keys()
        for tag, points in logged.items():
            assert shown[tag] == points, (run.path, tag)


@contextmanager
def tensorboard(forks: Forks, folder: Path, *arguments: str) -> Iterator[Callable[[str], Any]]:
    """TensorBoard on a folder, started as people start it; ask(path) is its answer, None while it does not answer."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = forks.start(["tensorboard", str(folder), "--port", str(port), *arguments], folder)

    def ask(path: str) -> Any:
        assert not job.has_ended, job.wait()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/plugin/scalars/{path}", timeout=30) as answer:
                return json.load(answer)
        except OSError:
            return None

    try:
        yield ask
    finally:
        job.kill(signal.SIGTERM)
        job.wait()


def eventually(found: Callable[[], Any], wanted: Any) -> Any:
    """What a server has found at last: when it is what is wanted, or after five minutes."""
    deadline = time.monotonic() + 300
    while (latest := found()) != wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return latest


@pytest.mark.parametrize("loader", ["true", "false"])
def test_tensorboard_itself_shows_those_curves(loader, killed_runs, forks):
    """Both of its loaders, over the network."""
    folder = killed_runs[0].path.parents[1]
    with tensorboard(forks, folder, f"--load_fast={loader}") as ask:
        names = {str(run.path.relative_to(folder)): as_logged(run) for run in killed_runs}
        tags = eventually(
            lambda: {name: sorted(found) for name, found in (ask("tags") or {}).items()},
            {name: sorted(logged) for name, logged in names.items()},
        )
        assert tags == {name: sorted(logged) for name, logged in names.items()}
        for name, logged in names.items():
            for tag, points in logged.items():
                asked = f"scalars?run={urllib.request.quote(name)}&tag={urllib.request.quote(tag)}"

                def shown(asked: str = asked) -> list[tuple[int, float]]:
                    return [(step, value) for _, step, value in ask(asked) or []]

                assert eventually(shown, points) == points, (name, tag)
