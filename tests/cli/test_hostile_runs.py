"""Run directories from someone else: opening one executes nothing, writes nowhere else, and ends."""

import json
import shutil
import signal
import sys
from collections import Counter

import hostile_runs
import numpy as np
import pytest
import torch
import yaml
from bits import write_checkpoint
from hostile_runs import set_checkpoint, set_json
from torch import nn

from dlopt.cli import main
from dlopt.data import _files
from dlopt.rundir import drawings, lock
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.heat_map import draw_heat_map
from dlopt.rundir.tensorboard import EventFileWriter

COMMANDS = {
    "show": ["show", "run"],
    "show --all": ["show", "run", "--all"],
    "runs": ["runs", "."],
    "runs --csv": ["runs", ".", "--csv"],
    "evaluate": ["evaluate", "run"],
    "show --batch": ["show", "run", "--batch", "--examples", "1", "--png", "run/batch.png"],
    "resume": ["train", "-q", "resume=run", "epochs=3"],
}
DRAWING_COMMANDS = {
    "show --png": ["show", "run", "--png", "run/drawn/curves.png"],
    "spectrum": ["spectrum", "-q", "run", "--lanczos-steps", "2", "--vectors", "1", "--checkpoint", "all"],
}
SLOW_COMMANDS = {
    "verify": ["verify", "run"],
    "rerun": ["rerun", "run"],
    "resume aloud": ["train", "resume=run", "epochs=3", "optimizer.lr=0.1"],
}
GRID = ["--dims", "1", "--points", "2", "-q"]
LANDSCAPES = {
    "landscape": ["landscape", "run", *GRID],
    "landscape --to": ["landscape", "twin", "--to", "run", *GRID, "--out", "run/line"],
    "landscape --cka": ["landscape", "run", "--directions", "pca", *GRID, "--cka"],
}
"""Of a run, from another one to it, and along its path."""
ALL_COMMANDS = COMMANDS | SLOW_COMMANDS | DRAWING_COMMANDS
OPENING = ("evaluate", "show --batch", "resume")
REASONS = ("opening a run executes no code of its own; add --trust", "config.yaml", "not found in victims",
           "must be at most 1,000,000")  # fmt: skip
"""Why a run is not opened: a name in it, a configuration that no run writes, missing data files, an endless number."""
SECONDS = 60
"""Time limit of a command, which takes far less unless it waits for something."""


@pytest.fixture(scope="module")
def honest_run(tmp_path_factory):
    """Return a run of two epochs on a few digits, with components inside components."""
    folder = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        small = ["data=digits", "data.train_size=100", "batch_size=40", "arch=mlp", "arch.widths=[4]", "epochs=2"]
        more = ["regularization=l2", "schedule=warmup", "schedule.length=1", "threads=1", "device=cpu"]
        more += ["diagnostic=trajectory", "diagnostic.trajectory.every=1"]
        assert main(["train", "-q", *small, *more, "hydra.run.dir=run"]) == 0
    return folder / "run"


@pytest.fixture
def place(honest_run, tmp_path, monkeypatch):
    """Return a working directory with a copy of the run, and files that are not the run's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", hostile_runs.SECRET)
    shutil.copytree(honest_run, tmp_path / "run")
    (tmp_path / "victims").mkdir()
    for file in ("victim", "victims/victim"):
        (tmp_path / file).write_text("mine\n")
    _files.cache.clear()
    return tmp_path


class TimeLimitError(BaseException):
    """Not an Exception: commands report every Exception as a damaged run."""


@pytest.fixture(autouse=True)
def _time_limit():
    """Let a test that waits fail."""

    def fail(*_):
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(5 * SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def read_outside(place):
    """Return the contents of everything in the place except the run."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
        if not {place / "run", place / "outputs"} & {path, *path.parents} and "__pycache__" not in path.parts
    }


def run_command(place, capsys, name):
    """Return the exit code and the output of a command; check that everything outside of the run is unchanged."""
    before, modules, search = read_outside(place), set(sys.modules), list(sys.path)
    signal.alarm(SECONDS)
    code = main((ALL_COMMANDS | LANDSCAPES)[name])
    signal.alarm(5 * SECONDS)
    output = "".join(capsys.readouterr())
    assert code in (0, 2) or (name in SLOW_COMMANDS and code == 1)
    assert not (place / "outputs").exists() or (name == "rerun" and code != 2)
    assert "Traceback" not in output
    assert hostile_runs.SECRET not in output
    assert all(c.isprintable() or c == "\n" or (c == "\r" and "--csv" in name) for c in output)
    assert read_outside(place) == before
    assert not (place / "canary").exists()
    assert "evil" not in set(sys.modules) - modules
    assert sys.path == search
    for file in (place / "run").rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_size < 1 << 24 and file.name != "victim":
            assert hostile_runs.SECRET.encode() not in file.read_bytes()
    return code, output


def is_printable(output):
    return all(c.isprintable() or c == "\n" for c in output)


@pytest.mark.parametrize("name", ALL_COMMANDS)
def test_an_honest_run_is_opened(name, place, capsys):
    code, output = run_command(place, capsys, name)
    assert code == 0, output


@pytest.mark.parametrize("name", hostile_runs.CODE_CASES)
def test_code_that_a_run_names_is_not_executed(name, place, capsys):
    """An evaluation that does not need the code has the usual result."""
    _, evaluation = run_command(place, capsys, "evaluate")
    hostile_runs.CODE_CASES[name](place / "run", place / "canary")
    for command in COMMANDS:
        code, output = run_command(place, capsys, command)
        if command == "evaluate" and code == 0:
            assert output == evaluation
            continue
        assert code == (2 if command in OPENING else 0), f"{command}: {output}"
        if command in OPENING:
            assert any(reason in output for reason in REASONS), output


@pytest.mark.parametrize("name", ["a piped configuration", "a large configuration"])
def test_a_replay_does_not_wait_for_a_configuration_or_read_a_large_one(name, place, capsys):
    hostile_runs.CODE_CASES[name](place / "run", place / "canary")
    for command in ("verify", "rerun"):
        code, output = run_command(place, capsys, command)
        assert code == 2, output
        assert "config.yaml" in output


@pytest.mark.parametrize("name", hostile_runs.WRITE_CASES)
def test_a_run_that_resumes_writes_only_into_its_own_directory(name, place, capsys):
    hostile_runs.WRITE_CASES[name](place / "run", place / "canary")
    for command in COMMANDS:
        code, output = run_command(place, capsys, command)
        if command == "resume":
            assert code == 2, output
            assert "link" in output


@pytest.mark.parametrize("name", hostile_runs.READ_CASES)
def test_files_of_the_user_who_opens_a_run_are_not_read(name, place, capsys):
    (place.parent / "credentials").write_text(f"{hostile_runs.SECRET},b\n" + f"1,{hostile_runs.SECRET}\n" * 200)
    x, y = np.zeros((200, 1, 8, 8), np.float32), np.full(200, hostile_runs.SECRET)
    np.savez(place.parent / "credentials.npz", x=x, y=y)
    np.save(place / "run" / "x.npy", x)
    np.save(place.parent / "credentials.npy", y)
    hostile_runs.READ_CASES[name](place / "run", place / "canary")
    hostile_runs.claim_config(place / "run", place / "canary")
    for command in (*OPENING, *SLOW_COMMANDS):
        code, output = run_command(place, capsys, command)
        assert code == 2, output
        assert "data.path  names a file of yours" in output or "mine.csv is a symbolic link" in output


@pytest.mark.parametrize("name", hostile_runs.TEXT_CASES)
def test_text_of_a_run_does_not_control_the_terminal(name, place, capsys, monkeypatch):
    monkeypatch.setattr(lock, "STALE_SECONDS", 0.02)
    hostile_runs.TEXT_CASES[name](place / "run", place / "canary")
    shutil.copytree(place / "run", place / "spoilt")
    for command in ALL_COMMANDS:
        run_command(place, capsys, command)
        for folder in ("outputs", "run"):
            shutil.rmtree(place / folder, ignore_errors=True)
        shutil.copytree(place / "spoilt", place / "run")


def test_names_of_runs_and_sweeps_do_not_control_the_terminal(place, capsys):
    """The messages for a missing run list them."""
    for folder in (f"outputs/a{hostile_runs.ESCAPE}", f"outputs/multirun/1/b{hostile_runs.ESCAPE}/0"):
        shutil.copytree(place / "run", place / folder)
    (place / f"outputs/multirun/1/b{hostile_runs.ESCAPE}/multirun.yaml").touch()
    for command in ("show", "runs", "evaluate", "tensorboard"):
        for name in ("none", f"none{hostile_runs.ESCAPE}", *(["\x1b"] if command in ("show", "evaluate") else [])):
            assert main([command, name]) == 2
            assert is_printable(capsys.readouterr().err)


@pytest.mark.parametrize(
    "name",
    ["checkpoints", ".hydra", "checkpoints/best.safetensors", "checkpoints/last.safetensors", ".hydra/config.yaml",
     "metrics.jsonl", "status.json"],
)  # fmt: skip
def test_linked_files_and_folders_are_read_only_if_the_run_is_trusted(name, place, capsys):
    """Tools for large files, and runs on several disks, use links. Resuming would write through a linked folder."""
    (place / "run" / name).rename(place / "elsewhere")
    (place / "run" / name).symlink_to(place / "elsewhere")
    for command in ("evaluate", "verify", "rerun"):
        assert main(ALL_COMMANDS[command]) == 2
        assert f"run/{name} is a symbolic link" in capsys.readouterr().err
        assert main([*ALL_COMMANDS[command], "--trust"]) == 0
        assert "link" not in capsys.readouterr().err
    if (place / "elsewhere").is_dir():
        assert [main(COMMANDS[command]) for command in ("show", "runs")] == [0, 0]
        assert main([*COMMANDS["resume"], "--trust"]) == 2
        assert f"run/{name} is a symbolic link" in capsys.readouterr().err


@pytest.mark.parametrize("step", [1, 2])
def test_a_linked_older_checkpoint_is_not_read(step, place, capsys):
    """Not even a link to a checkpoint of the same run."""
    (place / f"run/checkpoints/step-{step:08d}.safetensors").symlink_to("best.safetensors")
    assert main(["evaluate", "run", "--checkpoint", f"{step}"]) == 2
    assert "is a symbolic link" in capsys.readouterr().err
    assert main(["evaluate", "run", "--checkpoint", f"{step}", "--trust"]) == 0


@pytest.mark.parametrize(
    "settings", [{"steps": [1]}, {"a": {"b": 1}}, {"a": 2**70}, {1: 2}, [1], hostile_runs.ESCAPE], ids=str
)
def test_a_run_resumes_with_its_own_settings(settings, place, capsys):
    set_checkpoint("last.safetensors", settings=settings)(place / "run", place / "canary")
    assert run_command(place, capsys, "resume") == (0, "")
    assert run_command(place, capsys, "show")[0] == 0
    assert RunDirectory("run").status["settings"]["arch.widths"] == "[4]"


@pytest.mark.parametrize("settings", [{"steps": [1]}, [1]], ids=str)
def test_a_rerun_has_its_own_settings(settings, place, capsys):
    set_json("status.json", settings=settings)(place / "run", place / "canary")
    code, output = run_command(place, capsys, "rerun")
    assert code == 0, output
    assert main(["show"]) == 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.long) if n in hostile_runs.REPEATED_CASES else n
        for n in hostile_runs.DAMAGE_CASES
    ],
)
def test_damage_in_a_run_is_shown_or_reported(name, place, capsys):
    (place / "laughter.yaml").write_text("a: &a [1]\n")
    hostile_runs.DAMAGE_CASES[name](place / "run", place / "canary")
    for command in COMMANDS:
        run_command(place, capsys, command)


def test_show_counts_damaged_rows(place, capsys):
    assert main(["show", "run"]) == 0
    assert "damaged" not in capsys.readouterr().out
    lines = (place / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    (place / "run/metrics.jsonl").write_text("".join([lines[0][9:], *lines[1:], "torn\n"]))
    assert main(["show", "run"]) == 0
    assert f"metrics.jsonl is damaged: 2 of {len(lines) + 1} lines" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "command"),
    [("a module next to the run as arch", "evaluate"), ("a module next to the run as arch", "resume"),
     ("an optimizer's name", "resume")],
)  # fmt: skip
def test_trusted_code_is_executed(name, command, place, capsys, monkeypatch):
    """Otherwise the canary in the tests above would prove nothing."""
    hostile_runs.CODE_CASES[name](place / "run", place / "canary")
    run = RunDirectory(place / "run")  # an attacker who writes the configuration can write its digest
    run.status_file.write_text(json.dumps(run.status | {"config": run.config_digest()}))
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main([*COMMANDS[command], "--trust"]) == 2
    assert (place / "canary").exists(), capsys.readouterr()
    assert sys.modules.pop("evil")


# ------------------------------------------------------------------------------------------------ landscapes


@pytest.fixture
def twins(place):
    """Return the place, with a second honest run whose weights differ."""
    shutil.copytree(place / "run", place / "twin")
    run = RunDirectory(place / "twin")
    content = run.load("last")
    for value in content["model"].values():
        value.mul_(1.1)
    write_checkpoint(run.checkpoint("last"), content)
    return place


@pytest.mark.parametrize("name", LANDSCAPES)
def test_landscapes_of_an_honest_run_are_drawn(name, twins, capsys):
    code, output = run_command(twins, capsys, name)
    assert code == 0, output


FAST = tuple(hostile_runs.CODE_CASES)[::9]


@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.long) for n in hostile_runs.CODE_CASES],
)
def test_landscapes_execute_no_code_that_a_run_names(name, twins, capsys):
    hostile_runs.CODE_CASES[name](twins / "run", twins / "canary")
    for command in LANDSCAPES:
        code, output = run_command(twins, capsys, command)
        assert code == 0 or any(reason in output for reason in REASONS), f"{command}: {output}"


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/last.safetensors", ".hydra/config.yaml"])
def test_landscapes_follow_links_only_in_trusted_runs(name, twins, capsys):
    (twins / "run" / name).rename(twins / "elsewhere")
    (twins / "run" / name).symlink_to(twins / "elsewhere")
    for command in LANDSCAPES.values():
        assert main(command) == 2
        assert f"run/{name} is a symbolic link" in capsys.readouterr().err
        assert main([*command, "--trust"]) == 0, capsys.readouterr()
        capsys.readouterr()


@pytest.mark.parametrize("target", ["victim", "created"])
def test_landscapes_do_not_write_through_links(target, twins, capsys):
    stem = "random-1d-train-last-2points"
    (twins / "run/landscape").mkdir()
    for name in (f"{stem}.csv", f"{stem}.csv.tmp", f"{stem}.partial", f"{stem}-loss.png"):
        (twins / "run/landscape" / name).symlink_to(twins / target)
    code, output = run_command(twins, capsys, "landscape")
    assert code == 0, output
    shutil.rmtree(twins / "run/landscape")
    (twins / "run/landscape").symlink_to(twins / "victims")
    code, output = run_command(twins, capsys, "landscape")
    assert (code, "is a symbolic link: name a folder with --out" in output) == (2, True)


STATISTICS = torch.zeros(3)
CONTENTS = {
    "another network": lambda content: content["model"].update({"hidden.0.weight": torch.zeros(3, 64)}),
    "no model": lambda content: content.pop("model"),
    "a model of text": lambda content: content.update(model=hostile_runs.ESCAPE),
    "a large layer": lambda content: content["model"].update({"hidden.0.weight": torch.zeros(4, 10**5)}),
    "diagnostics of text": lambda content: content.update(diagnostics=hostile_runs.ESCAPE),
    "no diagnostics": lambda content: content.pop("diagnostics"),
    "points of text": lambda content: content["diagnostics"]["trajectory"].update(points=hostile_runs.ESCAPE),
    "no points": lambda content: content["diagnostics"]["trajectory"].update(points={}),
    "a large number of steps": lambda content: content["diagnostics"]["trajectory"]["points"][1].update(step=2**62),
    "a point of complex numbers": lambda content: content["diagnostics"]["trajectory"]["points"][1].update(w=1j * STATISTICS),
    "preprocessing that is not there": lambda content: content.update(preprocessing={"zca": {"mean": STATISTICS}}),
    "classes": lambda content: content.update(encoding={"classes": [hostile_runs.ESCAPE] * 10**4}),
    "the step": lambda content: content.update(step=hostile_runs.ESCAPE),
    "weights that are large": lambda content: content["model"]["output.bias"].fill_(1e38),
    "weights that are not numbers": lambda content: content["model"]["output.bias"].fill_(float("nan")),
    "points that are large": lambda content: content["diagnostics"]["trajectory"]["points"][1]["w"].fill_(1e38),
}  # fmt: skip


SLOW_CONTENTS = ("no points", "a large number of steps", "a point of complex numbers", "classes",
                 "preprocessing that is not there", "no diagnostics")  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n in SLOW_CONTENTS else n for n in CONTENTS]
)
def test_landscapes_of_checkpoints_of_someone_else_end_with_a_message(name, twins, capsys):
    run = RunDirectory(twins / "run")
    content = run.load("last")
    CONTENTS[name](content)
    write_checkpoint(run.checkpoint("last"), content)
    for command in LANDSCAPES:
        _, output = run_command(twins, capsys, command)
        assert output.count("\n") < 40


def test_names_of_runs_in_landscapes_do_not_control_the_terminal(twins, capsys):
    """Nor do they leave the folder: they are parts of the names of files."""
    name = f"..{hostile_runs.ESCAPE}" + "x" * 150
    (twins / "run").rename(twins / name)
    for command in (
        ["landscape", name, *GRID, "--out", "mine"],
        ["landscape", "twin", "--to", name, *GRID, "--out", "mine"],
    ):
        assert main(command) == 0
        captured = capsys.readouterr()
        assert is_printable(captured.out + captured.err)
    names = [file.name for file in (twins / "mine").iterdir()]
    assert len(names) == 4
    assert all(name.isprintable() and len(name) < 150 for name in names)


# ------------------------------------------------------------------------------------------------ pictures

HOSTILE_TAGS = ("a/b", "a-b", "A-b", "../../victim", "..", "", f"x{hostile_runs.ESCAPE}", "y" * 5000, "y" * 4000)


def write_pictures(place, tags):
    writer = EventFileWriter(place / "run")
    png = draw_heat_map([[0.0, 1.0]], ["a"], (1, 2), "t")
    for i, tag in enumerate(tags):
        writer.add_pictures(i, {tag: png})
    writer.close()


def test_pictures_have_names_of_their_own_next_to_the_curves(place, capsys):
    write_pictures(place, HOSTILE_TAGS)
    code, output = run_command(place, capsys, "show --png")
    assert code == 0, output
    names = [file.name for file in (place / "run/drawn").iterdir()]
    assert len({name.lower() for name in names}) == len(names) == len(HOSTILE_TAGS) + 1
    assert {"curves.png", "curves-a-b.png", "curves-a-b-2.png", "curves-.png"} <= {name.lower() for name in names}
    assert all(len(name) < 120 for name in names)
    assert sorted(output.splitlines()) == sorted(f"run/drawn/{name}" for name in names)


def test_a_run_cannot_fill_the_disk_with_pictures(place, capsys, monkeypatch):
    monkeypatch.setattr(drawings, "MAX_PICTURES", 7)
    write_pictures(place, map(str, range(20)))
    assert run_command(place, capsys, "show --png")[0] == 0
    assert len(list((place / "run/drawn").iterdir())) == drawings.MAX_PICTURES + 1


DRAWN_CASES = (
    "a module next to the run as arch", "laughter", "a deep configuration", "options without number",
    *(f"{kind}: {file}" for kind in ("a pipe", "another file", "nothing")
      for file in ("metrics.jsonl", "checkpoints/last.safetensors", ".hydra/config.yaml")),
)  # fmt: skip
"""A few kinds of hostile runs: what opens them is tested above."""


@pytest.mark.parametrize("name", DRAWN_CASES)
def test_commands_that_draw_a_hostile_run_execute_nothing_and_end(name, place, capsys):
    (place / "laughter.yaml").write_text("a: &a [1]\n")
    cases = hostile_runs.CODE_CASES | hostile_runs.DAMAGE_CASES
    cases[name](place / "run", place / "canary")
    for command in DRAWING_COMMANDS:
        run_command(place, capsys, command)


# ------------------------------------------------------------------------------------------------ memory

BOMBS = ("laughter", "doublings", "a deep configuration", "a large configuration", "merged laughter")
LARGE = ("without end: status.json", "without end: metrics.jsonl", "a line of a gigabyte", "deep: status.json",
         "options without number")  # fmt: skip
EXTRA_BYTES = 200_000_000
"""Allowed above the peak memory of the same command with an honest run."""


@pytest.mark.parametrize("command", ["show", "runs", "evaluate"])
def test_a_run_does_not_take_all_memory(command, forks, place):
    def measure_peak() -> int:
        process = forks.run(COMMANDS[command], place)
        assert process.code in (0, 2), process
        assert "Traceback" not in process.out + process.err
        return process.memory

    usual = measure_peak()
    for name in BOMBS if command == "evaluate" else LARGE:
        shutil.copytree(place / "run", place / "copy")
        (hostile_runs.CODE_CASES | hostile_runs.DAMAGE_CASES)[name](place / "run", place / "canary")
        assert measure_peak() < usual + EXTRA_BYTES, name
        shutil.rmtree(place / "run")
        (place / "copy").rename(place / "run")


# ------------------------------------------------------------------------------------------------ text


@pytest.mark.parametrize("keys", [{"widths": [1] * 3_000}, {"depth": 3_000, "width": 1}])
@pytest.mark.parametrize("command", OPENING)
def test_a_network_of_far_more_layers_than_the_checkpoint_is_not_built(command, keys, place, capsys, monkeypatch):
    run, counts = RunDirectory(place / "run"), Counter()
    content = yaml.safe_load(run.config_file.read_text())
    content["arch"] |= keys
    run.config_file.write_text(yaml.safe_dump(content))
    reset = nn.Linear.reset_parameters
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda layer: counts.update(["layer"]) or reset(layer))
    hostile_runs.claim_config(run.path, place / "canary")
    assert main(COMMANDS[command]) == 2
    assert "the checkpoint is of another network: it has 4 tensors" in capsys.readouterr().err
    assert 400 < counts["layer"] < 600
    assert nn.Linear(1, 1).bias is not None, "later networks are not limited"


def test_printable_text_of_a_run_is_printed_in_full(place, capsys, monkeypatch):
    """Neither markup nor escape sequences are obeyed."""
    monkeypatch.setenv("COLUMNS", "1000")
    text = "[bold]a[/bold] [/] [link=x]b \x1b[31mc"
    status = {"message": text, "status": "failed", "host": text, "settings": {"optimizer": text, text: text}}
    set_json("status.json", **status)(place / "run", place / "canary")
    set_json("summary.json", **{f"val/{text}": 1.0, f"train/{text}": 2.0})(place / "run", place / "canary")
    (place / "run").rename(place / "[bold]run")
    shown = text.replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert main(["show", "[bold]run", "--all"]) == 0
    out = capsys.readouterr().out.replace("\n", " ")
    assert out.startswith("[bold]run ")
    assert out.count(shown) == 6
    assert main(["runs", ".", "--columns", f"optimizer,{shown}"]) == 0
    assert capsys.readouterr().out.count(shown) == 3
