"""The commands, as users type them."""

import fcntl
import inspect
import io
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from helpers import BLOBS, read_tree
from hydra.utils import get_object
from processes import ENDLESS, TESTS, wait_until_training

from dlopt import __version__
from dlopt.cli import COMMANDS, main
from dlopt.cli.list_options import wrap_docstring
from dlopt.config.compose import groups
from dlopt.config.compose.static_config import StaticConfig
from dlopt.config.schema import option_docs
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import find_last, find_run

PLACES = f"{groups.CONF.parent}:{TESTS}"
"""PYTHONPATH of a process: the package of this checkout, and the module `mine`."""


def start_python(here, *argv):
    """Start a fresh Python process in a clean environment."""
    environment = {"PYTHONPATH": PLACES, "PATH": "/usr/bin:/bin", "HOME": str(here)}
    return subprocess.Popen(
        [sys.executable, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def call(argv):
    """Return the exit code of a command, also if its parser raises SystemExit."""
    try:
        return main(argv)
    except SystemExit as end:
        return end.code


def test_help_names_every_command(capsys):
    assert main(["--help"]) == main([]) == 0
    out = capsys.readouterr().out
    assert all(f"dlopt {command}" in out for command in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dlopt {__version__}\n"
    assert main(["tarin"]) == 2
    assert "did you mean train" in capsys.readouterr().err


def test_help_and_list_do_not_import_torch(here):
    """Importing torch would take longer than the commands may take."""
    commands = [["--help"], ["list"], ["list", "optimizer"], ["--version"], ["show"]]
    code = f"import sys; from dlopt.cli import main; [main(argv) for argv in {commands}]; print('torch' in sys.modules)"
    out, _ = start_python(here, "-c", code).communicate()
    assert out.splitlines()[-1] == "False"


def test_list_names_every_group_and_option(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for group in groups.list_all_groups():
        options = groups.list_option_names(group)
        assert all(name in out for name in [group, *options])
        assert main(["list", group]) == 0
        described = capsys.readouterr().out
        assert all(option in described for option in options)
        assert (f"'{group}=[a,b]'" in described) is groups.takes_several(group)


def test_list_shows_the_keys_defaults_ranges_and_formula_of_an_option(capsys):
    assert main(["list", "optimizer", "adam"]) == 0
    out = capsys.readouterr().out
    for part in ("Kingma", "m^ / (sqrt(v^) + eps)", "optimizer.lr", "0.001", "a number > 0", ">= 0 and < 1"):
        assert part in out
    assert main(["list", "regularization=l2"]) == 0
    assert "regularization.l2.strength" in capsys.readouterr().out
    assert main(["list", "loss", "cross_entropy"]) == 0
    assert "[accuracy,error]" in capsys.readouterr().out
    assert main(["list", "schedule", "warmup"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"schedule.then +constant +an option of schedule", out)
    assert "defaults" not in out


def test_list_shows_each_key_of_a_search_with_its_default_range_and_meaning(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for group in groups.SWEEP_GROUPS:
        for option in groups.list_option_names(group):
            assert main(["list", group, option]) == 0
            out = capsys.readouterr().out
            for key in option_docs.load_option(group, option, StaticConfig({})).keys:
                assert f"{key.name} = {key.default}  {key.range}\n" in out
                assert " ".join(key.meaning.split()) in " ".join(out.split())


def test_list_shows_a_part_of_the_settings(capsys):
    assert call(["list", "settings", "tolerance"]) == 0
    out = capsys.readouterr().out
    assert "tolerance.gradient = null" in out and "batch_size = " not in out
    assert call(["list", "settings", "schedules"]) == 0
    assert "schedules.NAME=OPTION" in capsys.readouterr().out


def test_list_refuses_unknown_names(capsys):
    for argv, message in (
        (["optimzer"], "did you mean optimizer"),
        (["optimizer", "adm"], "did you mean adam"),
        (["hydra/sweeper", "tp"], "did you mean tpe"),
        (["hydra/sweper"], "did you mean hydra/sweeper"),
        (["--all"], "usage"),
        (list("abc"), "unrecognized arguments: c"),
        (["optimizer=adam", "sgd", "lr"], "usage"),
        (["settings", "tolerence"], "did you mean tolerance"),
        (["--config-dir", "absent"], "--config-dir: there is no directory absent"),
    ):
        assert call(["list", *argv]) == 2
        assert message in capsys.readouterr().err


def test_list_shows_options_of_the_users_folder(here, capsys):
    """An option of a class in the working directory, one that extends an option of dlopt, a preset, and a group."""
    (here / "my_rule.py").write_text(
        "from dataclasses import dataclass\nfrom dlopt.optimizer.sgd import SGD\nfrom dlopt.ranges import Fraction\n"
        "@dataclass(frozen=True)\nclass Sign(SGD):\n    beta: Fraction\n"
    )
    files = {
        "optimizer/sign": "# Steps by signs [of g]\n_target_: my_rule.Sign\nlr: 0.003\nbeta: 0.5\n",
        "optimizer/adam_fast": "defaults:\n  - adam\nlr: 0.01\n",
        "optimizer/lost": "_target_: no_module.Rule\n",
        "experiment/short": "# @package _global_\nepochs: 3\n",
        "lab/one": "# An option of a group of one's own\n# Me\n",
    }
    for name, text in files.items():
        (here / f"mine/{name}.yaml").parent.mkdir(parents=True, exist_ok=True)
        (here / f"mine/{name}.yaml").write_text(text)

    def show(*argv):
        assert call(["list", "--config-dir", "mine", *argv]) == 0
        return capsys.readouterr().out

    assert all(word in show() for word in ("lab", "short", "adam_fast", "sign", "rmsprop"))
    assert "Steps by signs [of g]" in show("optimizer")
    assert re.search(r"optimizer.beta +0.5 +a number >= 0 and < 1", show("optimizer", "sign"))
    assert "Sign(lr" not in show("optimizer=sign")  # which Python gives to a dataclass without a docstring
    assert re.search(r"optimizer.lr +0.01 +a number > 0", shown := show("optimizer", "adam_fast"))
    assert "Kingma" in shown and "optimizer.beta1" in shown
    assert "epochs: 3" in show("experiment", "short")
    assert "one" in show("lab")
    assert call(["list", "optimizer", "sign", "--config-dir", "mine"]) == 0
    for argv, message in (
        (["optimizer", "lost"], "optimizer._target_: cannot import no_module.Rule"),
        (["optimizer", "sgn"], "did you mean sign"),
    ):
        assert call(["list", "--config-dir", "mine", *argv]) == 2
        assert message in capsys.readouterr().err


def test_a_docstring_fits_a_narrow_screen_and_loses_no_word():
    offenders = []
    for group in groups.list_groups():
        for option in groups.list_option_names(group):
            content = yaml.safe_load((groups.CONF / group / f"{option}.yaml").read_text()) or {}
            nodes = [content, *(node for node in content.values() if isinstance(node, dict))]
            targets = [node["_target_"] for node in nodes if str(node.get("_target_", "???")).startswith("dlopt.")]
            for doc in (inspect.getdoc(get_object(target)) for target in targets):
                narrow = {columns: wrap_docstring(doc, columns) for columns in (60, 80)}
                blocks = {columns: text.split("\n\n") for columns, text in narrow.items()}
                widths = [
                    max(map(len, block.splitlines())) - columns
                    for columns in blocks
                    for block in blocks[columns]
                    if "  " not in block and "\n " not in block  # prose
                ]
                is_whole = all(text.split() == doc.split() for text in narrow.values())
                if not is_whole or wrap_docstring(doc, 120) != doc or max(widths) > 0:
                    offenders.append((group, option))
    assert not offenders


def test_a_long_formula_is_broken_between_its_clauses():
    assert wrap_docstring("    y <- a y + b x,  z <- z - y,   with  x = 1", 30).splitlines() == [
        "    y <- a y + b x,",
        "        z <- z - y,  with",
        "        x = 1",
    ]


# ------------------------------------------------------------------------------------------- train


def test_a_run_from_the_command_line(here, capsys):
    assert main(["train", *BLOBS, "name=first"]) == 0
    out = capsys.readouterr().out
    run = find_run()
    assert run.path.name.split("-")[3] == "first"
    for part in ("validation", "accuracy", str(run.path), "dlopt show", "dlopt tensorboard"):
        assert part in out
    files = set(read_tree(run.path))
    assert {"status.json", "metrics.jsonl", "summary.json", "train.log", "checkpoints/last.safetensors", "checkpoints/best.safetensors",
            ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml"} <= files  # fmt: skip
    assert not [name for name in files if name.endswith(".tmp")]
    assert run.status["status"] == "done"

    assert main(["show"]) == 0
    out = capsys.readouterr().out
    settings = "data._target_=mine.Blobs", "arch.widths=[8]"
    for part in (str(run.path), "done", *settings, "validation", f"{run.summary['test/accuracy']:.4f}"):
        assert part in out
    assert main(["show", "first"]) == 0
    assert main(["show", "nothing"]) == 2
    assert "no run" in capsys.readouterr().err


def test_the_saved_configuration_is_complete(here, capsys):
    """It can be built without any default."""
    from omegaconf import OmegaConf

    from dlopt.config.build import build

    assert main(["train", *BLOBS, "regularization=[l2,dropout]", "normalization=batch", "schedule=cosine"]) == 0
    experiment, _ = build(OmegaConf.load(find_run().config_file))
    assert [type(r).__name__ for r in experiment.regularization.values()] == ["L2", "Dropout"]
    assert experiment.schedule.final == 0.0
    assert experiment.settings.batch_size == 16


def read_sweep(here):
    """Return the runs of the only sweep, in the order of their numbers."""
    return [RunDirectory(p.parent) for p in sorted(here.glob("outputs/multirun/*/*/*/status.json"))]


def test_a_grid_of_runs(here, capsys):
    assert main(["train", "-m", *BLOBS, "optimizer=sgd,adam", "seed=0,1"]) == 0
    runs = read_sweep(here)
    assert [run.path.name for run in runs] == ["0", "1", "2", "3"]
    assert [run.status["settings"]["optimizer"] for run in runs] == ["sgd", "sgd", "adam", "adam"]
    assert [run.config()["seed"] for run in runs] == [0, 1, 0, 1]
    assert all(run.status["status"] == "done" and (run.path / "train.log").exists() for run in runs)
    out = capsys.readouterr().out
    lines = [line.split()[:4] for line in out.splitlines()[:2]]
    assert lines == [[f"{n}/4", "optimizer=sgd", f"seed={n - 1}", "done"] for n in (1, 2)]
    assert "4 of 4 runs" in out


def test_a_sweep_over_lists(here, capsys):
    assert main(["train", "-m", *BLOBS, "regularization=none,l2,[l2,dropout],[]"]) == 0
    options = [list(run.config().get("regularization") or {}) for run in read_sweep(here)]
    assert options == [[], ["l2"], ["l2", "dropout"], []]


def test_an_option_inside_an_option_is_chosen_by_its_key(here, capsys):
    """It works in one run and in a sweep, and with its own keys. Files and screen use the same names."""
    warm = (*BLOBS, "schedule=warmup", "schedule.length=1")
    assert main(["train", *warm, "schedule.then=cosine", "schedule.then.final=0.1"]) == 0
    run = find_run()
    assert run.config()["schedule"]["then"] == {"_target_": "dlopt.schedule.cosine.Cosine", "final": 0.1}
    assert run.status["settings"]["schedule.then"] == "cosine"
    assert main(["show"]) == 0
    assert "schedule.then=cosine" in capsys.readouterr().out
    assert main(["train", *warm, "schedule.then=cosine", "--cfg", "job"]) == 0
    assert "dlopt.schedule.cosine.Cosine" in capsys.readouterr().out

    assert main(["train", "-m", *warm, "schedule.then=cosine,step"]) == 0
    assert [run.status["settings"]["schedule.then"] for run in read_sweep(here)] == ["cosine", "step"]
    out = capsys.readouterr().out
    assert "schedule.then=step" in out
    assert "@" not in out


def test_an_option_inside_an_option_may_be_custom(here, capsys):
    warm = ("schedule=warmup", "schedule.length=1")
    saw = ("schedule.then=custom", "schedule.then._target_=mine.Sawtooth")
    assert main(["train", *BLOBS, *warm, *saw]) == 0
    folder = here / "options" / "schedule"
    folder.mkdir(parents=True)
    (folder / "saw.yaml").write_text("# teeth\n# me\n_target_: mine.Sawtooth\n")
    (folder / "slow.yaml").write_text(
        "# climbs\n# me\ndefaults:\n  - /schedule@rest: saw\n_target_: mine.ScaledSchedule\nshare: 0.5\n"
    )
    user_option = ("--config-dir", "options", "schedule=slow")
    for more, option in ((), "saw"), (("schedule.rest=cosine",), "cosine"):
        assert main(["train", *BLOBS, *user_option, *more, f"hydra.run.dir={option}"]) == 0
        assert RunDirectory(option).status["settings"]["schedule.rest"] == option
    assert main(["train", *BLOBS, *user_option, "schedule.rest=sav"]) == 2
    assert "did you mean saw" in capsys.readouterr().err


def test_custom_components(here, capsys):
    """Inherited keys that a class lacks are left out with a notice. A folder can hold options."""
    assert main(["train", *BLOBS, "optimizer._target_=mine.Sign", "optimizer.lr=0.01"]) == 0
    err = capsys.readouterr().err
    assert all(f"optimizer.{key} is left out" in err for key in ("beta1", "beta2", "eps"))
    assert "optimizer.lr" not in err
    folder = here / "options" / "optimizer"
    folder.mkdir(parents=True)
    (folder / "sign.yaml").write_text("# signs\n# me\n_target_: mine.Sign\nlr: 0.02\n")
    assert main(["train", *BLOBS, "--config-dir", "options", "optimizer=sign"]) == 0
    assert find_run().config()["optimizer"] == {"_target_": "mine.Sign", "lr": 0.02, "groups": {}}
    assert main(["train", *BLOBS, "--config-dir", "options", "optimizer=sgn"]) == 2
    assert "did you mean sign" in capsys.readouterr().err


def test_an_experiment_may_choose_the_sweeper_and_ask_for_a_sweep(here, capsys):
    (here / "options/experiment").mkdir(parents=True)
    for name, launcher in (("search", "pool"), ("grid", "local")):
        sweeper = "  - override /hydra/sweeper: random\n" if name == "search" else ""
        (here / f"options/experiment/{name}.yaml").write_text(
            f"# @package _global_\ndefaults:\n  - override /hydra/launcher: {launcher}\n{sweeper}hydra:\n  mode: MULTIRUN\n"
        )
    dry_run = ["train", "--dry-run", "--config-dir", "options", *BLOBS]
    lr = "optimizer.lr=interval(0.01,0.1)"
    assert main([*dry_run, "experiment=search", lr, "hydra.sweeper.n_trials=4", "hydra.launcher.workers=3"]) == 0
    out = capsys.readouterr().out
    assert re.search("runs +4 runs", out)
    assert "3 runs at once" in out
    assert main([*dry_run, "experiment=search", "hydra/sweeper=grid", lr]) == 2
    assert "has no grid" in capsys.readouterr().err
    assert main([*dry_run, "experiment=grid", "seed=1,2,3"]) == 0
    assert re.search("runs +3 runs", capsys.readouterr().out)


def test_keys_of_hydra_work_or_are_refused(here, capsys, monkeypatch):
    assert main(["train", "-q", *BLOBS, "hydra/job_logging=disabled"]) == 0
    assert find_run().status["status"] == "done"
    for words in (["hydra.job.chdir=true"], ["-m", "seed=1,2", "hydra.job.chdir=true"]):
        assert main(["train", *BLOBS, *words]) == 2
        assert "hydra.job.chdir  must stay false" in capsys.readouterr().err
    for words in (["seed=${oc.env:NOPE}"], ["-m", "seed=${oc.env:NOPE}", "epochs=1,2"]):
        assert main(["train", *BLOBS, *words]) == 2
        assert re.search(r"^  seed  .*'NOPE' not found\"$", capsys.readouterr().err, re.MULTILINE)


def test_the_command_line_overrides_an_experiment(here, capsys):
    assert main(["train", "experiment=mnist1d_paper", "steps=2", "--cfg", "job"]) == 0
    out = capsys.readouterr().out
    assert all(part in out for part in ("lr: 0.01", "steps: 2", "fraction: 0.0"))
    assert main(["train", "experiment=mnist1d_paper", "epochs=1"]) == 2
    assert "steps=6000 takes its place" in capsys.readouterr().err


def test_a_failing_run_reports_its_error(here, capsys):
    (here / "fails.py").write_text(
        "from dataclasses import dataclass\nfrom mine import Sign\n\n"
        "@dataclass(frozen=True)\nclass Rule(Sign):\n    def step(self, w, state, objective):\n"
        "        raise RuntimeError('out of luck')\n"
    )
    sys.modules.pop("fails", None)
    assert main(["train", *BLOBS, "optimizer._target_=fails.Rule"]) == 1
    out, err = capsys.readouterr()
    assert "RuntimeError: out of luck" in err
    assert "Traceback" not in out + err
    run = find_run()
    assert run.status["status"] == "failed"
    assert "out of luck" in run.status["message"]
    assert "Traceback" in run.log_file.read_text()
    assert main(["train", "-m", *BLOBS, "optimizer._target_=fails.Rule,mine.Sign"]) == 1
    assert [run.status["status"] for run in read_sweep(here)] == ["failed", "done"]


def test_a_diverged_run_exits_with_zero_and_prints_its_step_without_rows_of_nan(here, capsys):
    assert main(["train", *BLOBS, "optimizer=sgd", "optimizer.lr=1e30"]) == 0
    assert capsys.readouterr().out.startswith("diverged: the loss is not finite after step ")
    assert find_run().status["status"] == "diverged"
    assert main(["show"]) == 0
    out = capsys.readouterr().out
    assert "diverged: the loss is not finite, seen after step" in out
    assert "nan" not in out
    assert "best (step" not in out


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_an_interrupted_run_saves_and_can_be_resumed(number, forks, tmp_path):
    environment = {"PYTHONPATH": TESTS}
    job = forks.start([word for word in ENDLESS if word != "-q"], tmp_path, environment)
    wait_until_training(job, tmp_path)
    job.kill(number)
    result = job.wait()
    assert (result.code, "dlopt train resume=run" in result.out) == (130, True), result
    assert "Traceback" not in result.out + result.err
    run = RunDirectory(tmp_path / "run")
    assert run.status["status"] == "interrupted"
    step = run.summary["step"]
    argv = ["train", "resume=run", "--trust", f"steps={step + 100}"]
    result = forks.run(argv, tmp_path, environment)
    assert result.code == 0, result
    assert (run.status["status"], run.summary["step"]) == ("done", step + 100)


# ------------------------------------------------------------------------------------------- the screen


def run_in_terminal(forks, here, columns, *argv):
    """Return what a command writes to a real pseudo-terminal, without escape sequences; it must succeed."""
    screen, terminal = os.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    job = forks.start(argv, here, {"TERM": "xterm", "PYTHONPATH": TESTS}, os.ttyname(terminal))
    output = b""
    has_ended = False
    while not has_ended:
        has_ended = job.has_ended
        while select.select([screen], [], [], 0 if has_ended else 0.05)[0]:
            output += os.read(screen, 65536)
    os.close(screen)
    os.close(terminal)
    text = output.decode()
    assert job.wait().code == 0, text
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.parametrize("columns", [60, pytest.param(160, marks=pytest.mark.long)])
def test_a_terminal_shows_a_bar(columns, forks, here):
    """It is removed at the end, and no line is wider than the screen."""
    text = run_in_terminal(forks, here, columns, "train", *BLOBS, "epochs=2000", "eval_every=100")
    bars = [line for line in re.split(r"[\r\n]+", text) if "━" in line]
    assert bars
    assert columns < 80 or "/6000" in text
    assert re.match(r"loading [^\r\n]*\r(?!\n)", text), "the next line overwrites it"
    assert "val/accuracy" in text
    assert max(map(len, bars)) <= columns
    assert "done: 6000 steps" in text
    assert find_run().status["status"] == "done"


def test_a_sweep_in_a_terminal_has_one_bar_for_all_and_ends_in_a_table(forks, here):
    argv = ("train", "-m", *BLOBS, "epochs=60", "eval_every=10", "optimizer=sgd,adam", "seed=0,1")
    text = run_in_terminal(forks, here, 140, *argv)
    bars = [line for line in re.split(r"[\r\n]+", text) if line.startswith("runs ")]
    assert any("1/4" in line for line in bars)
    assert any("3/4" in line for line in bars)
    assert "optimizer=adam seed=0" in text
    assert "data._target_" not in text  # all runs share it
    end = text[text.rindex("4 of 4 runs") - 800 :]
    assert [line.split()[:4] for line in end.splitlines() if re.match(r"[0-3] +done", line)] == [
        ["0", "done", "sgd", "0"], ["1", "done", "sgd", "1"], ["2", "done", "adam", "0"], ["3", "done", "adam", "1"],
    ]  # fmt: skip
    assert re.search(r"dlopt runs outputs/multirun/\S+ --over seed", end)


def test_curves_fit_the_terminal(here, capsys, monkeypatch):
    assert main(["train", "-q", *BLOBS, "epochs=30"]) == 0
    for columns in (50, 80, 150):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["show"]) == 0
        text = capsys.readouterr().out
        curves = [line for line in text.splitlines() if "│" in line or "┤" in line]
        assert len(curves) >= 10
        assert max(map(len, curves)) <= columns
        assert "training" in text
        assert "validation" in text


def test_quiet_prints_errors_only(here, capsys):
    for argv in (["train", "-q", *BLOBS], ["train", "-m", "--quiet", *BLOBS, "seed=0,1"]):
        assert main(argv) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["train", "-q", "epochs=0"]) == 2
    assert "epochs" in capsys.readouterr().err
    assert main(["train", *BLOBS]) == 0
    assert "done" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------- tensorboard


def list_listeners(port):
    """Return the addresses of this machine on which a process listens at a port, according to the kernel."""
    addresses = set()
    for family, file in ((socket.AF_INET, "/proc/net/tcp"), (socket.AF_INET6, "/proc/net/tcp6")):
        for line in Path(file).read_text().splitlines()[1:] if Path(file).exists() else ():
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                addresses.add(socket.inet_ntop(family, b"".join(words)))
    return addresses


def test_tensorboard_cannot_be_opened_to_the_network(here, capsys):
    flags = ["--bind_all", "--bind_all=true", "--bind", "--b", "--host", "--host=0.0.0.0", "--ho", "--h"]
    for argv in [*([*place, flag] for place in ([], ["last"], ["--port", "6007"]) for flag in flags)]:
        assert main(["tensorboard", *argv]) == 2
        assert "ssh -L 6006:localhost:6006 HOST" in capsys.readouterr().err


@pytest.mark.parametrize("loader", ["true", "false"])
def test_tensorboard_serves_a_named_sweep_on_this_machine_only(loader, here, capsys):
    """Start a real server, query it and stop it. It must not import modules from the working directory."""
    (here / "markdown.py").write_text("raise SystemExit(9)\n")
    assert main(["train", "-m", "-q", *BLOBS, "optimizer=sgd,adam"]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "dlopt", "tensorboard", "last", "--port", str(port), f"--load_fast={loader}"]
    views = here / "views"
    views.mkdir()
    environment = os.environ | {"TMPDIR": str(views)}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        assert str(find_last()) in process.stdout.readline()
        tags: dict = {}
        while len(tags) < 2:
            assert process.poll() is None
            try:
                address = f"http://127.0.0.1:{port}/data/plugin/scalars/tags"
                with urllib.request.urlopen(address, timeout=5) as answer:
                    tags = json.load(answer)
            except OSError:
                time.sleep(0.1)
        assert set(tags) == {"optimizer=sgd", "optimizer=adam"}
        assert all("Loss/train" in names for names in tags.values())
        query = urllib.request.Request(
            f"http://127.0.0.1:{port}/data/plugin/hparams/experiment",
            b'{"experimentName": "", "includeMetrics": true}',
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(query, timeout=60) as answer:
            metrics = [info["name"]["tag"] for info in json.load(answer)["metricInfos"]]
        assert metrics[:3] == ["Loss/val", "test/accuracy", "test/error"], "the objective, then the test split"
        assert list_listeners(port) == {"127.0.0.1"}
        process.terminate()
        assert process.wait() == 0
        assert list(views.glob("dlopt-*")) == []
    finally:
        process.kill()
        process.communicate()
    for argv in (["tensorboard", "nowhere"], ["tensorboard", "no such"]):
        assert main(argv) == 2
    assert "nowhere" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- processes and files


@pytest.mark.long
def test_only_optimizers_of_torch_import_torch_dynamo(here):
    """It takes 0.7 s."""
    commands = [["train", *BLOBS, f"optimizer={name}"] for name in ("adam", "torch_optim")]
    code = "import sys; from dlopt.cli import main; "
    code += f"[print(main(argv), 'torch._dynamo' in sys.modules, sep='\\n') for argv in {commands}]"
    out, _ = start_python(here, "-c", code).communicate()
    assert [line for line in out.splitlines() if line in ("True", "False")] == ["False", "True"]


def test_ctrl_c_during_start_up_ends_at_once(here):
    """As soon as Hydra is imported, which -X importtime prints; torch is imported later."""
    process = start_python(here, "-X", "importtime", "-m", "dlopt", "train", *BLOBS, "epochs=100000")
    assert any(line.endswith(" hydra\n") for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in out + err


def test_a_reader_that_closes_the_pipe_is_not_a_failure(here):
    command = f"{sys.executable} -m dlopt train {' '.join(BLOBS)} | head -1 > /dev/null; exit ${{PIPESTATUS[0]}}"
    environment = {"PYTHONPATH": PLACES, "PATH": "/usr/bin:/bin", "HOME": str(here)}
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert find_run().status["status"] == "done"


@pytest.mark.parametrize(
    "command", [["list", "optimizer"], ["list", "optimizer", "adam"], ["runs"], ["show"], ["--help"]]
)
def test_commands_that_print_end_when_their_output_is_lost(command, here, monkeypatch, capfd):
    """Quietly if the reader has ended, as of `| head -1`; a full disk is named, and blamed on nothing else."""
    assert main(["train", "-q", *BLOBS]) == 0
    for output, code in (("a pipe without a reader", 0), ("a full disk", 1)):
        stream = OUTPUTS[output]()
        monkeypatch.setattr(sys, "stdout", stream)
        capfd.readouterr()
        assert main(command) == code
        err = f"dlopt {command[0]}: the output cannot be written: No space left on device\n"
        assert capfd.readouterr().err == (err if code else "")
        stream.close()


@pytest.mark.parametrize("command", ["show", "runs", "evaluate"])
def test_a_picture_that_cannot_be_written_is_named_with_the_cause(command, here, capsys):
    assert main(["train", "-q", *BLOBS]) == 0
    (here / "file").touch()
    (here / "full.png").symlink_to("/dev/full")
    trust = ["--trust"] * (command == "evaluate")
    for file, cause in (
        ("file/x.png", "File exists"),
        ("full.png", "No space left on device"),
        ("x.pgf", "'xelatex' not found"),
        ("x.nothing", "not supported"),
    ):
        if file != "x.pgf" or shutil.which("xelatex") is None:
            assert main([command, "--png", file, *trust]) == 2
            err = capsys.readouterr().err
            assert f"dlopt {command}: --png {file}: " in err
            assert cause in err
    assert main([command, "--png", "plain", *trust]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "plain.png"
    assert (here / "plain.png").is_file()


def write_modules_that_fail(folder):
    """Write modules with the names of libraries' modules."""
    for name in ("numpy", "random", "selectors", "signal", "statistics", "tensorboard", "threading"):
        (folder / f"{name}.py").write_text("raise ImportError('from the working directory')")


def test_the_working_directory_comes_last_on_the_path(here, monkeypatch):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(here))])
    assert main(["train", "-q", *BLOBS]) == 0
    assert sys.path[-1] == str(here)
    monkeypatch.setattr(sys, "path", sys.path[:-1])
    assert main(["evaluate", "-q", "--trust"]) == 0
    assert sys.path[-1] == str(here)
    write_modules_that_fail(here)
    assert start_python(here, "-m", "dlopt", "--version").communicate() == (f"dlopt {__version__}\n", "")


@pytest.mark.long
def test_modules_of_the_working_directory_do_not_replace_those_of_libraries(here):
    """In a new process and in its worker; a custom class is still found there."""
    write_modules_that_fail(here)
    (here / "my_loss.py").write_text("from dlopt.loss.cross_entropy import CrossEntropy as Mine\n")
    argv = ["train", "-q", "-m", "data=digits", "data.train_size=60", "arch=mlp", "arch.widths=[4]", "epochs=1",
            "batch_size=30", "loss._target_=my_loss.Mine", "seed=0", "hydra/launcher=pool", "hydra.sweep.dir=sweep"]  # fmt: skip
    process = start_python(here, "-m", "dlopt", *argv)
    assert (*process.communicate(), process.returncode) == ("", "", 0)
    assert RunDirectory(here / "sweep/0").status["status"] == "done"


def open_closed_pipe():
    """Return a stream whose reader has ended."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


OUTPUTS = {
    "closed": lambda: None,
    "a pipe without a reader": open_closed_pipe,
    "a full disk": lambda: os.fdopen(os.open("/dev/full", os.O_WRONLY), "w"),
    "ASCII": lambda: io.TextIOWrapper(io.BytesIO(), "ascii"),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_run_does_not_depend_on_its_output(output, here, monkeypatch):
    for command in (["train", *BLOBS, "hydra.run.dir=run"], ["verify", "run", "--trust"]):
        stream = OUTPUTS[output]()
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, stream)
        assert main(command) == 0
        assert sys.stdout is stream
        if stream is not None:
            stream.close()
    assert RunDirectory("run").status["status"] == "done"


@pytest.mark.parametrize("output", ["closed", "ASCII"])
def test_commands_that_print_accept_any_encoding(output, here, monkeypatch):
    assert main(["train", "-q", *BLOBS]) == 0
    written = ""
    for command in (["show"], ["runs"], ["list"], ["list", "optimizer", "adam"]):
        stream = OUTPUTS[output]()
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(command) == 0
        written += "" if stream is None else stream.buffer.getvalue().decode("ascii")
    assert ("?" in written) == (output == "ASCII"), "otherwise the test shows nothing"


def test_a_picture_of_a_run_shows_its_diagnostics(here, capsys):
    """Pairs of curves have panels, and pictures of TensorBoard are files next to it."""
    from helpers import read_pictures
    from matplotlib.image import imread

    watched = ("diagnostic=[sharpness,gradient_flow,curvature]", "diagnostic.sharpness.every=2", "optimizer=sgd",
               "diagnostic.curvature.every=9")  # fmt: skip
    assert main(["train", "-q", *BLOBS]) == 0
    assert main(["show", "--png", "plain.png"]) == 0
    assert capsys.readouterr().out.split()[-1] == "plain.png"
    assert main(["train", "-q", *BLOBS, *watched]) == 0
    assert main(["show", "--png", "mine.png"]) == 0
    names = ("", "-curvature-density", "-curvature-spectrum", "-gradient_flow-layers")
    assert capsys.readouterr().out.split()[-4:] == [f"mine{name}.png" for name in names]
    last = {tag: png for (tag, _), png in read_pictures(find_run()).items()}
    assert Path("mine-gradient_flow-layers.png").read_bytes() == last["gradient_flow/layers"]
    assert imread("mine-curvature-density.png").shape[1] > 1000
    assert imread("mine.png").shape[0] > 1.3 * imread("plain.png").shape[0]
    before = sorted(Path().iterdir())
    assert main(["show", "--png", "mine.unknown"]) == 2
    assert sorted(Path().iterdir()) == before
    assert main(["show", "--png", "one.png", "--plot", "sharpness/"]) == 0
    assert not Path("one-gradient_flow-layers.png").exists()
