"""Run directories that somebody else made: opening one executes nothing, writes nowhere else, and comes to an end."""

import json
import shutil
import signal
import sys

import numpy as np
import pytest
from hostile_runs import (
    CODE_CASES,
    DAMAGE_CASES,
    ESCAPE,
    READ_CASES,
    REPEATED_CASES,
    SECRET,
    TEXT_CASES,
    WRITE_CASES,
    set_checkpoint,
    set_json,
)

from dlopt.cli import main
from dlopt.data import _files
from dlopt.rundir import lock
from dlopt.rundir.directory import RunDirectory

COMMANDS = {
    "show": ["show", "run"],
    "show --all": ["show", "run", "--all"],
    "runs": ["runs", "."],
    "runs --csv": ["runs", ".", "--csv"],
    "evaluate": ["evaluate", "run"],
    "resume": ["train", "-q", "resume=run", "epochs=3"],
}
AGAIN = {"verify": ["verify", "run"], "rerun": ["rerun", "run"],
         "resume aloud": ["train", "resume=run", "epochs=3", "optimizer.lr=0.1"]}  # fmt: skip
"""What takes longer: a part of the run is made again, all of it as a new run in outputs/, and what is said of resume."""
OPENING = ("evaluate", "resume")
REASONS = ("opening a run executes no code of its own; add --trust", "config.yaml", "not found in victims",
           "must be at most 1,000,000")  # fmt: skip
"""Why something is not opened: what it names, what no run writes, files that nobody brings, and endless numbers."""
SECONDS = 60
"""More than any of these takes by far: what is not over by then waits for something."""


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """Two epochs on a few digits, with parts inside parts."""
    folder = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = ["data=digits", "data.train_size=100", "batch_size=40", "arch=mlp", "arch.widths=[4]", "epochs=2"]
        more = ["regularization=l2", "schedule=warmup", "schedule.length=1", "threads=1", "device=cpu"]
        assert main(["train", "-q", *small, *more, "hydra.run.dir=run"]) == 0
    return folder / "run"


@pytest.fixture
def place(honest, tmp_path, monkeypatch):
    """A working directory with a copy of the run, and files that are not the run's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", SECRET)
    shutil.copytree(honest, tmp_path / "run")
    (tmp_path / "victim").write_text("mine\n")
    (tmp_path / "victims").mkdir()
    (tmp_path / "victims" / "victim").write_text("mine\n")
    _files.cache.clear()
    return tmp_path


class Late(BaseException):
    """No Exception: commands say of those that the run is damaged."""


@pytest.fixture(autouse=True)
def _ends():
    """A test that waits fails, and does not wait."""

    def late(*_):
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(5 * SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def outside(place):
    """Everything in the place but the run itself, with contents."""
    found = {}
    for path in sorted(place.rglob("*")):
        if not {place / "run", place / "outputs"} & {path, *path.parents} and "__pycache__" not in path.parts:
            found[path] = path.read_bytes() if path.is_file() else None
    return found


def opened(place, capsys, name):
    """The exit code and the output of a command, which must have left everything else as it was."""
    before, modules, search = outside(place), set(sys.modules), list(sys.path)
    signal.alarm(SECONDS)
    code = main((COMMANDS | AGAIN)[name])
    signal.alarm(5 * SECONDS)
    said = "".join(capsys.readouterr())
    assert code in (0, 2) or (name in AGAIN and code == 1)
    assert not (place / "outputs").exists() or (name == "rerun" and code != 2)
    assert "Traceback" not in said
    assert SECRET not in said
    assert all(c.isprintable() or c == "\n" or (c == "\r" and "--csv" in name) for c in said)
    assert outside(place) == before
    assert not (place / "canary").exists()
    assert "evil" not in set(sys.modules) - modules
    assert sys.path == search
    for file in (place / "run").rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 24 and file.name != "victim":
            assert SECRET.encode() not in file.read_bytes()
    return code, said


@pytest.mark.parametrize("name", COMMANDS | AGAIN)
def test_an_honest_run_is_opened(name, place, capsys):
    code, said = opened(place, capsys, name)
    assert code == 0, said


@pytest.mark.parametrize("name", CODE_CASES)
def test_code_that_a_run_names_is_not_executed(name, place, capsys):
    """What is evaluated without it is said to be what it is."""
    _, evaluation = opened(place, capsys, "evaluate")
    CODE_CASES[name](place / "run", place / "canary")
    for command in COMMANDS:
        code, said = opened(place, capsys, command)
        if command == "evaluate" and code == 0:
            assert said == evaluation
            continue
        assert code == (2 if command in OPENING else 0), f"{command}: {said}"
        if command in OPENING:
            assert any(reason in said for reason in REASONS), said


@pytest.mark.parametrize("name", WRITE_CASES)
def test_a_run_that_goes_on_writes_into_its_own_directory_alone(name, place, capsys):
    WRITE_CASES[name](place / "run", place / "canary")
    for command in COMMANDS:
        code, said = opened(place, capsys, command)
        if command == "resume":
            assert code == 2, said
            assert "link" in said


@pytest.mark.parametrize("name", READ_CASES)
def test_files_of_whoever_opens_a_run_are_not_read(name, place, capsys):
    (place.parent / "credentials").write_text(f"{SECRET},b\n" + f"1,{SECRET}\n" * 200)
    x, y = np.zeros((200, 1, 8, 8), np.float32), np.full(200, SECRET)
    np.savez(place.parent / "credentials.npz", x=x, y=y)
    np.save(place / "run" / "x.npy", x)
    np.save(place.parent / "credentials.npy", y)
    READ_CASES[name](place / "run", place / "canary")
    for command in (*OPENING, *AGAIN):
        code, said = opened(place, capsys, command)
        assert code == 2, said
        assert "data.path  names a file of yours" in said or "mine.csv is a symbolic link" in said


@pytest.mark.parametrize("name", TEXT_CASES)
def test_text_of_a_run_is_never_obeyed(name, place, capsys, monkeypatch):
    """Class names, versions, whatever is told of the run's own."""
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.02)
    TEXT_CASES[name](place / "run", place / "canary")
    shutil.copytree(place / "run", place / "spoilt")
    for command in COMMANDS | AGAIN:
        opened(place, capsys, command)
        for folder in ("outputs", "run"):
            shutil.rmtree(place / folder, ignore_errors=True)
        shutil.copytree(place / "spoilt", place / "run")


@pytest.mark.parametrize("command", ["show", "runs", "evaluate", "tensorboard"])
def test_names_of_runs_and_sweeps_are_never_obeyed(command, place, capsys):
    """Where what is looked for is not there."""
    for folder in (f"outputs/a{ESCAPE}", f"outputs/multirun/1/b{ESCAPE}/0"):
        shutil.copytree(place / "run", place / folder)
    (place / f"outputs/multirun/1/b{ESCAPE}/multirun.yaml").touch()
    for name in ("none", f"none{ESCAPE}", *(["\x1b"] if command in ("show", "evaluate") else [])):
        assert main([command, name]) == 2
        said = capsys.readouterr().err
        assert all(c.isprintable() or c == "\n" for c in said), said


@pytest.mark.parametrize("folder", ["checkpoints", ".hydra"])
def test_linked_folders_are_read_where_the_run_is_trusted(folder, place, capsys):
    """Of a run that lies on several disks; what goes on writes there as well, and is refused."""
    (place / "run" / folder).rename(place / "scratch")
    (place / "run" / folder).symlink_to(place / "scratch")
    for command in ("evaluate", "verify", "rerun"):
        assert main((COMMANDS | AGAIN)[command]) == 2
        assert f"run/{folder} is a symbolic link" in capsys.readouterr().err
        assert main([*(COMMANDS | AGAIN)[command], "--trust"]) == 0
    for command in ("show", "runs"):
        assert main(COMMANDS[command]) == 0
    capsys.readouterr()
    assert main([*COMMANDS["resume"], "--trust"]) == 2
    assert f"run/{folder} is a symbolic link" in capsys.readouterr().err


LINKED = (
    "checkpoints/best.safetensors",
    "checkpoints/last.safetensors",
    ".hydra/config.yaml",
    "metrics.jsonl",
    "status.json",
)


@pytest.mark.parametrize("name", LINKED)
def test_linked_files_are_read_where_the_run_is_trusted(name, place, capsys):
    """As tools that keep large files of a repository elsewhere put links in their places."""
    (place / "run" / name).rename(place / "kept")
    (place / "run" / name).symlink_to(place / "kept")
    for command in ("evaluate", "verify", "rerun"):
        assert main((COMMANDS | AGAIN)[command]) == 2
        assert f"run/{name} is a symbolic link; add --trust" in capsys.readouterr().err
        assert main([*(COMMANDS | AGAIN)[command], "--trust"]) == 0
        assert "link" not in capsys.readouterr().err


@pytest.mark.parametrize("step", [1, 2])
def test_no_linked_older_checkpoint_is_read(step, place, capsys):
    """Not even one of the run itself."""
    (place / f"run/checkpoints/step-{step:08d}.safetensors").symlink_to("best.safetensors")
    assert main(["evaluate", "run", "--checkpoint", f"{step}"]) == 2
    assert "is a symbolic link" in capsys.readouterr().err
    assert main(["evaluate", "run", "--checkpoint", f"{step}", "--trust"]) == 0


@pytest.mark.parametrize("settings", [{"steps": [1]}, {"a": {"b": 1}}, {"a": 2**70}, {1: 2}, [1], ESCAPE], ids=str)
def test_settings_are_names_with_plain_values_when_a_run_goes_on(settings, place, capsys):
    set_checkpoint("last.safetensors", settings=settings)(place / "run", place / "canary")
    assert opened(place, capsys, "resume") == (0, "")
    assert opened(place, capsys, "show")[0] == 0
    assert RunDirectory("run").status["settings"]["arch.widths"] == "[4]"


@pytest.mark.parametrize("settings", [{"steps": [1]}, [1], ESCAPE], ids=str)
def test_settings_are_names_with_plain_values_when_a_run_is_made_again(settings, place, capsys):
    set_json("status.json", settings=settings)(place / "run", place / "canary")
    code, said = opened(place, capsys, "rerun")
    assert code == 0, said
    assert main(["show"]) == 0


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in REPEATED_CASES else n for n in DAMAGE_CASES]
)
def test_whatever_lies_in_a_run_is_shown_or_said_to_be_damaged(name, place, capsys):
    (place / "laughter.yaml").write_text("a: &a [1]\n")
    DAMAGE_CASES[name](place / "run", place / "canary")
    for command in COMMANDS:
        opened(place, capsys, command)


def test_show_tells_how_many_rows_are_damaged(place, capsys):
    assert main(["show", "run"]) == 0
    assert "damaged" not in capsys.readouterr().out
    lines = (place / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    (place / "run/metrics.jsonl").write_text("".join([lines[0][9:], *lines[1:], "torn\n"]))
    assert main(["show", "run"]) == 0
    assert f"metrics.jsonl is damaged: 2 of {len(lines) + 1} lines" in capsys.readouterr().out


def test_what_is_trusted_is_executed(place, capsys, monkeypatch):
    """Else the canary above would prove nothing."""
    arch, rule = "a module beside the run as arch", "a rule's name"
    for name, command in ((arch, "evaluate"), (arch, "resume"), (rule, "resume")):
        folder = place / command
        shutil.copytree(place / "run", folder / "run")
        CODE_CASES[name](folder / "run", folder / "canary")
        run = RunDirectory(folder / "run")  # whoever can write the configuration can write its digest
        run.status_file.write_text(json.dumps(run.status | {"config": run.config_digest()}))
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", list(sys.path))
        assert main([*COMMANDS[command], "--trust"]) == 2
        assert (folder / "canary").exists(), capsys.readouterr()
        assert sys.modules.pop("evil")
        shutil.rmtree(folder)


# ------------------------------------------------------------------------------------------------ memory

BOMBS = ("laughter", "doublings", "a deep configuration", "a large configuration", "merged laughter")
LARGE = ("without end: status.json", "without end: metrics.jsonl", "a line of a gigabyte", "deep: status.json",
         "options without number")  # fmt: skip
MORE = 200_000_000
"""Bytes beyond what the same command takes with an honest run."""


@pytest.mark.parametrize("command", ["show", "runs", "evaluate"])
def test_no_run_takes_all_memory(command, forks, place):
    def measure_peak() -> int:
        process = forks.run(COMMANDS[command], place)
        assert process.code in (0, 2), process
        assert "Traceback" not in process.out + process.err
        return process.memory

    usual = measure_peak()
    for name in BOMBS if command == "evaluate" else LARGE:
        shutil.copytree(place / "run", place / "copy")
        (CODE_CASES | DAMAGE_CASES)[name](place / "run", place / "canary")
        assert measure_peak() < usual + MORE, name
        shutil.rmtree(place / "run")
        (place / "copy").rename(place / "run")


# ------------------------------------------------------------------------------------------------ text


def test_text_of_a_run_is_printed_as_it_is(place, capsys, monkeypatch):
    """Neither markup nor escape sequences are obeyed, and what is printable is all there."""
    monkeypatch.setenv("COLUMNS", "1000")
    said = "[bold]a[/bold] [/] [link=x]b \x1b[31mc"
    for name, keys in (
        (
            "status.json",
            {"message": said, "status": "failed", "host": said, "settings": {"optimizer": said, said: said}},
        ),
        ("summary.json", {f"val/{said}": 1.0, f"train/{said}": 2.0}),
    ):
        set_json(name, **keys)(place / "run", place / "canary")
    (place / "run").rename(place / "[bold]run")
    shown = said.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert main(["show", "[bold]run", "--all"]) == 0
    out = capsys.readouterr().out.replace("\n", " ")
    assert out.startswith("[bold]run ")
    assert out.count(shown) == 6
    assert main(["runs", ".", "--columns", f"optimizer,{shown}"]) == 0
    assert capsys.readouterr().out.count(shown) == 3
