"""Run directories of unknown origin: opening one executes nothing, writes nowhere else, and terminates."""

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
REPEATING = {"verify": ["verify", "run"], "rerun": ["rerun", "run"],
         "resume with output": ["train", "resume=run", "epochs=3", "optimizer.lr=0.1"]}  # fmt: skip
"""Slower commands: `verify` repeats a part of the run, `rerun` all of it in outputs/, and the last resumes with output."""
OPENING = ("evaluate", "resume")
REASONS = ("opening a run executes no code of its own; add --trust", "config.yaml", "not found in victims",
           "must be at most 1,000,000")  # fmt: skip
"""Reasons for a refusal: code, content that no run writes, missing files, and very large numbers."""
TIME_LIMIT = 60
"""Seconds, far more than any command takes: a command that has not ended by then is blocked."""


@pytest.fixture(scope="module")
def honest_run(tmp_path_factory):
    """Train two epochs on a few digits, with options inside options."""
    folder = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = ["data=digits", "data.train_size=100", "batch_size=40", "arch=mlp", "arch.widths=[4]", "epochs=2"]
        more = ["regularization=l2", "schedule=warmup", "schedule.length=1", "threads=1", "device=cpu"]
        assert main(["train", "-q", *small, *more, "hydra.run.dir=run"]) == 0
    return folder / "run"


@pytest.fixture
def place(honest_run, tmp_path, monkeypatch):
    """Return a working directory with a copy of the run, and files outside the run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", SECRET)
    shutil.copytree(honest_run, tmp_path / "run")
    (tmp_path / "victim").write_text("mine\n")
    (tmp_path / "victims").mkdir()
    (tmp_path / "victims" / "victim").write_text("mine\n")
    _files.cache.clear()
    return tmp_path


class TimedOut(BaseException):
    """Not an Exception: commands report every Exception as damage of the run."""


@pytest.fixture(autouse=True)
def _time_limit():
    """Fail a test that blocks."""

    def raise_timeout(*_):
        raise TimedOut

    before = signal.signal(signal.SIGALRM, raise_timeout)
    signal.alarm(5 * TIME_LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def read_other_files(place):
    """Return the files of the working directory outside the run, with their contents."""
    files = {}
    for path in sorted(place.rglob("*")):
        if not {place / "run", place / "outputs"} & {path, *path.parents} and "__pycache__" not in path.parts:
            files[path] = path.read_bytes() if path.is_file() else None
    return files


def run_command(place, capsys, name):
    """Run a command and return its exit code and output; it must change nothing outside the run."""
    before, modules, search = read_other_files(place), set(sys.modules), list(sys.path)
    signal.alarm(TIME_LIMIT)
    code = main((COMMANDS | REPEATING)[name])
    signal.alarm(5 * TIME_LIMIT)
    output = "".join(capsys.readouterr())
    assert code in (0, 2) or (name in REPEATING and code == 1)
    assert not (place / "outputs").exists() or (name == "rerun" and code != 2)
    assert "Traceback" not in output
    assert SECRET not in output
    assert all(c.isprintable() or c == "\n" or (c == "\r" and "--csv" in name) for c in output)
    assert read_other_files(place) == before
    assert not (place / "canary").exists()
    assert "evil" not in set(sys.modules) - modules
    assert sys.path == search
    for file in (place / "run").rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 24 and file.name != "victim":
            assert SECRET.encode() not in file.read_bytes()
    return code, output


@pytest.mark.parametrize("name", COMMANDS | REPEATING)
def test_an_honest_run_is_opened(name, place, capsys):
    code, output = run_command(place, capsys, name)
    assert code == 0, output


@pytest.mark.parametrize("name", CODE_CASES)
def test_code_that_a_run_names_is_not_executed(name, place, capsys):
    """`evaluate` either prints the result of the unchanged run or refuses."""
    _, evaluation = run_command(place, capsys, "evaluate")
    CODE_CASES[name](place / "run", place / "canary")
    for command in COMMANDS:
        code, output = run_command(place, capsys, command)
        if command == "evaluate" and code == 0:
            assert output == evaluation
            continue
        assert code == (2 if command in OPENING else 0), f"{command}: {output}"
        if command in OPENING:
            assert any(reason in output for reason in REASONS), output


@pytest.mark.parametrize("name", WRITE_CASES)
def test_a_resumed_run_writes_only_into_its_own_directory(name, place, capsys):
    WRITE_CASES[name](place / "run", place / "canary")
    for command in COMMANDS:
        code, output = run_command(place, capsys, command)
        if command == "resume":
            assert code == 2, output
            assert "link" in output


@pytest.mark.parametrize("name", READ_CASES)
def test_files_of_the_user_are_not_read(name, place, capsys):
    (place.parent / "credentials").write_text(f"{SECRET},b\n" + f"1,{SECRET}\n" * 200)
    x, y = np.zeros((200, 1, 8, 8), np.float32), np.full(200, SECRET)
    np.savez(place.parent / "credentials.npz", x=x, y=y)
    np.save(place / "run" / "x.npy", x)
    np.save(place.parent / "credentials.npy", y)
    READ_CASES[name](place / "run", place / "canary")
    for command in (*OPENING, *REPEATING):
        code, output = run_command(place, capsys, command)
        assert code == 2, output
        assert "data.path  names a file of yours" in output or "mine.csv is a symbolic link" in output


@pytest.mark.parametrize("name", TEXT_CASES)
def test_text_of_a_run_cannot_control_the_terminal(name, place, capsys, monkeypatch):
    """Class names, versions and every other text that the run holds."""
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.02)
    TEXT_CASES[name](place / "run", place / "canary")
    shutil.copytree(place / "run", place / "spoilt")
    for command in COMMANDS | REPEATING:
        run_command(place, capsys, command)
        for folder in ("outputs", "run"):
            shutil.rmtree(place / folder, ignore_errors=True)
        shutil.copytree(place / "spoilt", place / "run")


@pytest.mark.parametrize("command", ["show", "runs", "evaluate", "tensorboard"])
def test_names_of_runs_and_sweeps_cannot_control_the_terminal(command, place, capsys):
    """Messages about a missing run list the names of others."""
    for folder in (f"outputs/a{ESCAPE}", f"outputs/multirun/1/b{ESCAPE}/0"):
        shutil.copytree(place / "run", place / folder)
    (place / f"outputs/multirun/1/b{ESCAPE}/multirun.yaml").touch()
    for name in ("none", f"none{ESCAPE}", *(["\x1b"] if command in ("show", "evaluate") else [])):
        assert main([command, name]) == 2
        output = capsys.readouterr().err
        assert all(c.isprintable() or c == "\n" for c in output), output


@pytest.mark.parametrize("folder", ["checkpoints", ".hydra"])
def test_linked_folders_are_read_if_the_run_is_trusted(folder, place, capsys):
    """A run may lie on several disks. Resuming it would write to the linked folder, and is refused."""
    (place / "run" / folder).rename(place / "scratch")
    (place / "run" / folder).symlink_to(place / "scratch")
    for command in ("evaluate", "verify", "rerun"):
        assert main((COMMANDS | REPEATING)[command]) == 2
        assert f"run/{folder} is a symbolic link" in capsys.readouterr().err
        assert main([*(COMMANDS | REPEATING)[command], "--trust"]) == 0
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
def test_linked_files_are_read_if_the_run_is_trusted(name, place, capsys):
    """Tools that keep large files outside a repository replace them by links."""
    (place / "run" / name).rename(place / "kept")
    (place / "run" / name).symlink_to(place / "kept")
    for command in ("evaluate", "verify", "rerun"):
        assert main((COMMANDS | REPEATING)[command]) == 2
        assert f"run/{name} is a symbolic link; add --trust" in capsys.readouterr().err
        assert main([*(COMMANDS | REPEATING)[command], "--trust"]) == 0
        assert "link" not in capsys.readouterr().err


@pytest.mark.parametrize("step", [1, 2])
def test_a_linked_older_checkpoint_needs_trust(step, place, capsys):
    """Even if it links to a file of the run itself."""
    (place / f"run/checkpoints/step-{step:08d}.safetensors").symlink_to("best.safetensors")
    assert main(["evaluate", "run", "--checkpoint", f"{step}"]) == 2
    assert "is a symbolic link" in capsys.readouterr().err
    assert main(["evaluate", "run", "--checkpoint", f"{step}", "--trust"]) == 0


@pytest.mark.parametrize("settings", [{"steps": [1]}, {"a": {"b": 1}}, {"a": 2**70}, {1: 2}, [1], ESCAPE], ids=str)
def test_a_resumed_run_drops_settings_that_are_not_plain(settings, place, capsys):
    set_checkpoint("last.safetensors", settings=settings)(place / "run", place / "canary")
    assert run_command(place, capsys, "resume") == (0, "")
    assert run_command(place, capsys, "show")[0] == 0
    assert RunDirectory("run").status["settings"]["arch.widths"] == "[4]"


@pytest.mark.parametrize("settings", [{"steps": [1]}, [1], ESCAPE], ids=str)
def test_a_rerun_drops_settings_that_are_not_plain(settings, place, capsys):
    set_json("status.json", settings=settings)(place / "run", place / "canary")
    code, output = run_command(place, capsys, "rerun")
    assert code == 0, output
    assert main(["show"]) == 0


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in REPEATED_CASES else n for n in DAMAGE_CASES]
)
def test_a_damaged_run_is_shown_or_reported(name, place, capsys):
    (place / "laughter.yaml").write_text("a: &a [1]\n")
    DAMAGE_CASES[name](place / "run", place / "canary")
    for command in COMMANDS:
        run_command(place, capsys, command)


def test_show_reports_how_many_rows_are_damaged(place, capsys):
    assert main(["show", "run"]) == 0
    assert "damaged" not in capsys.readouterr().out
    lines = (place / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    (place / "run/metrics.jsonl").write_text("".join([lines[0][9:], *lines[1:], "torn\n"]))
    assert main(["show", "run"]) == 0
    assert f"metrics.jsonl is damaged: 2 of {len(lines) + 1} lines" in capsys.readouterr().out


def test_the_code_of_a_trusted_run_is_executed(place, capsys, monkeypatch):
    """Otherwise the absence of the canary above would prove nothing."""
    arch, optimizer = "a module next to the run as arch", "an optimizer's name"
    for name, command in ((arch, "evaluate"), (arch, "resume"), (optimizer, "resume")):
        folder = place / command
        shutil.copytree(place / "run", folder / "run")
        CODE_CASES[name](folder / "run", folder / "canary")
        run = RunDirectory(folder / "run")  # an attacker who writes the configuration can write its digest
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
def test_memory_is_bounded(command, forks, place):
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


def test_text_of_a_run_is_printed_literally(place, capsys, monkeypatch):
    """Markup and escape sequences have no effect, and all printable characters are shown."""
    monkeypatch.setenv("COLUMNS", "1000")
    text = "[bold]a[/bold] [/] [link=x]b \x1b[31mc"
    for name, keys in (
        (
            "status.json",
            {"message": text, "status": "failed", "host": text, "settings": {"optimizer": text, text: text}},
        ),
        ("summary.json", {f"val/{text}": 1.0, f"train/{text}": 2.0}),
    ):
        set_json(name, **keys)(place / "run", place / "canary")
    (place / "run").rename(place / "[bold]run")
    printable = text.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert main(["show", "[bold]run", "--all"]) == 0
    out = capsys.readouterr().out.replace("\n", " ")
    assert out.startswith("[bold]run ")
    assert out.count(printable) == 6
    assert main(["runs", ".", "--columns", f"optimizer,{printable}"]) == 0
    assert capsys.readouterr().out.count(printable) == 3
