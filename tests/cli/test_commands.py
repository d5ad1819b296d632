"""The commands, as people type them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import BLOBS
from hydra.utils import get_object

from dlopt.cli import COMMANDS, main
from dlopt.config.compose import groups
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.find import find_run

PLACES = f"{groups.CONF.parent}:{groups.CONF.parent / 'tests'}"
"""Where a process finds the package of this checkout, and the module `mine`."""


def test_help_is_ours_and_names_every_command(capsys):
    assert main(["--help"]) == main([]) == 0
    out = capsys.readouterr().out
    assert all(f"dlopt {command}" in out for command in COMMANDS)


def test_version(capsys):
    from dlopt import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dlopt {__version__}\n"


def test_an_unknown_command_is_answered_with_the_nearest(capsys):
    assert main(["tarin"]) == 2
    assert "did you mean train" in capsys.readouterr().err


def test_help_and_list_import_no_torch():
    """They answer at once: torch alone takes longer than they may."""
    for argv in (["--help"], ["list"], ["list", "optimizer"], ["--version"], ["show"]):
        code = f"import sys; from dlopt.cli import main; main({argv}); print('torch' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


def test_list_names_every_group_and_option(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for group in groups.list_all_groups():
        assert group in out
        assert all(option in out for option in groups.list_option_names(group))


@pytest.mark.parametrize("group", groups.list_all_groups())
def test_list_describes_every_option_of_a_group(group, capsys):
    assert main(["list", group]) == 0
    out = capsys.readouterr().out
    assert all(option in out for option in groups.list_option_names(group))
    assert (f"'{group}=[a,b]'" in out) is (groups.takes_several(group))


def test_list_shows_the_keys_defaults_ranges_and_formula_of_an_option(capsys):
    assert main(["list", "optimizer", "adam"]) == 0
    out = capsys.readouterr().out
    for part in ("Kingma", "m^ / (sqrt(v^) + eps)", "optimizer.lr", "0.001", "a number > 0", ">= 0 and < 1"):
        assert part in out
    assert main(["list", "regularization=l2"]) == 0
    assert "regularization.l2.strength" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g in groups.SWEEP_GROUPS for o in groups.list_option_names(g)]
)
def test_list_shows_each_key_of_a_search_with_its_default_range_and_meaning(group, option, capsys, monkeypatch):
    from dlopt.config.schema import option_docs

    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list", group, option]) == 0
    out = capsys.readouterr().out
    for key in option_docs.load_option(group, option).keys:
        assert f"{key.name} = {key.default}  {key.range}\n" in out
        assert " ".join(key.meaning.split()) in " ".join(out.split())


def test_list_says_how_a_search_is_typed(capsys):
    assert main(["list", "hydra/sweeper"]) == 0
    out = capsys.readouterr().out
    for part in ("tag(log,interval(1e-4,1))", "int(interval(5,50))", "[l2,dropout]", "pruner=hyperband", "diverges"):
        assert part in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["optimzer"], "did you mean optimizer"),
        (["optimizer", "adm"], "did you mean adam"),
        (["hydra/sweeper", "tp"], "did you mean tpe"),
        (["hydra/sweper"], "did you mean hydra/sweeper"),
        (["--all"], "usage"),
        (list("abc"), "usage"),
    ],
)
def test_list_refuses(argv, said, capsys):
    assert main(["list", *argv]) == 2
    assert said in capsys.readouterr().err


def test_a_run_from_the_command_line(here, capsys):
    assert main(["train", *BLOBS, "name=first"]) == 0
    out = capsys.readouterr().out
    run = find_run()
    assert run.path.name.split("-")[3] == "first"
    for part in ("validation", "accuracy", str(run.path), "dlopt show", "dlopt tensorboard"):
        assert part in out
    kept = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()}
    assert {"status.json", "metrics.jsonl", "summary.json", "train.log", "checkpoints/last.safetensors", "checkpoints/best.safetensors",
            ".hydra/config.yaml", ".hydra/overrides.yaml", ".hydra/hydra.yaml"} <= kept  # fmt: skip
    assert not [name for name in kept if name.endswith(".tmp")]
    assert run.status["status"] == "done"

    assert main(["show"]) == 0
    out = capsys.readouterr().out
    for part in (
        str(run.path),
        "done",
        "data._target_=mine.Blobs",
        "arch.widths=[8]",
        "validation",
        f"{run.summary['test/accuracy']:.4f}",
    ):
        assert part in out
    assert main(["show", "first"]) == 0
    assert main(["show", "nothing"]) == 2
    assert "no run" in capsys.readouterr().err


def test_the_configuration_that_is_saved_is_complete(here, capsys):
    """What it says, given back as overrides of nothing, is the same run."""
    from omegaconf import OmegaConf

    from dlopt.config.build import build

    assert main(["train", *BLOBS, "regularization=[l2,dropout]", "normalization=batch", "schedule=cosine"]) == 0
    experiment, _ = build(OmegaConf.load(find_run().config_file))
    assert [type(r).__name__ for r in experiment.regularization.values()] == ["L2", "Dropout"]
    assert experiment.schedule.final == 0.0
    assert experiment.settings.batch_size == 16


def test_a_grid_of_runs(here, capsys):
    assert main(["train", "-m", *BLOBS, "optimizer=sgd,adam", "seed=0,1"]) == 0
    runs = [RunDirectory(p.parent) for p in sorted(here.glob("outputs/multirun/*/*/*/status.json"))]
    assert [run.path.name for run in runs] == ["0", "1", "2", "3"]
    assert [run.status["settings"]["optimizer"] for run in runs] == ["sgd", "sgd", "adam", "adam"]
    assert [run.config()["seed"] for run in runs] == [0, 1, 0, 1]
    assert all(run.status["status"] == "done" and (run.path / "train.log").exists() for run in runs)


@pytest.mark.parametrize("several", ["none", "l2", "[l2,dropout]", "[]"])
def test_groups_that_take_several(several, here, capsys):
    assert main(["train", *BLOBS, f"regularization={several}"]) == 0
    wanted = {"none": [], "l2": ["l2"], "[l2,dropout]": ["l2", "dropout"], "[]": []}[several]
    assert list(find_run().config().get("regularization") or {}) == wanted


def test_a_sweep_over_lists(here, capsys):
    assert main(["train", "-m", *BLOBS, "regularization=none,l2,[l2,dropout]"]) == 0
    runs = [RunDirectory(p.parent) for p in sorted(here.glob("outputs/multirun/*/*/*/status.json"))]
    assert [list(run.config().get("regularization") or {}) for run in runs] == [[], ["l2"], ["l2", "dropout"]]


def test_an_option_inside_an_option_is_chosen_by_its_key(here, capsys):
    """In one run and in a sweep, with keys of its own, and what is kept and shown speaks the same words."""
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
    runs = [RunDirectory(p.parent) for p in sorted(here.glob("outputs/multirun/*/*/*/status.json"))]
    assert [run.status["settings"]["schedule.then"] for run in runs] == ["cosine", "step"]
    out = capsys.readouterr().out
    assert "schedule.then=step" in out
    assert "@" not in out


def test_an_option_inside_an_option_may_be_ones_own(here, capsys):
    warm = ("schedule=warmup", "schedule.length=1")
    saw = ("schedule.then=custom", "schedule.then._target_=mine.Sawtooth")
    assert main(["train", *BLOBS, *warm, *saw]) == 0
    folder = here / "options" / "schedule"
    folder.mkdir(parents=True)
    (folder / "saw.yaml").write_text("# teeth\n# me\n_target_: mine.Sawtooth\n")
    (folder / "slow.yaml").write_text(
        "# climbs\n# me\ndefaults:\n  - /schedule@rest: saw\n_target_: mine.ScaledSchedule\nshare: 0.5\n"
    )
    own = ("--config-dir", "options", "schedule=slow")
    for more, chosen in ((), "saw"), (("schedule.rest=cosine",), "cosine"):
        assert main(["train", *BLOBS, *own, *more, f"hydra.run.dir={chosen}"]) == 0
        assert RunDirectory(chosen).status["settings"]["schedule.rest"] == chosen
    assert main(["train", *BLOBS, *own, "schedule.rest=sav"]) == 2
    assert "did you mean saw" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g in groups.list_groups() for o in groups.list_option_names(g)]
)
@pytest.mark.parametrize("columns", [60, 80])
def test_a_docstring_fits_a_narrow_screen_and_loses_no_word(group, option, columns):
    import inspect

    from dlopt.cli.list_options import wrap_docstring

    content = yaml.safe_load((groups.CONF / group / f"{option}.yaml").read_text()) or {}
    for node in [content, *(n for n in content.values() if isinstance(n, dict))]:
        if str(node.get("_target_", "???")).startswith("dlopt."):
            doc = inspect.getdoc(get_object(node["_target_"]))
            narrow = wrap_docstring(doc, columns)
            assert narrow.split() == doc.split()
            assert wrap_docstring(doc, 120) == doc
            for block in narrow.split("\n\n"):
                if "  " not in block and "\n " not in block:  # prose
                    assert max(map(len, block.splitlines())) <= columns


def test_a_long_formula_is_broken_between_its_clauses():
    from dlopt.cli.list_options import wrap_docstring

    assert wrap_docstring("    y <- a y + b x,  z <- z - y,   with  x = 1", 30).splitlines() == [
        "    y <- a y + b x,",
        "        z <- z - y,  with",
        "        x = 1",
    ]


def test_list_shows_a_list_of_words_as_it_is_typed(capsys):
    assert main(["list", "loss", "cross_entropy"]) == 0
    assert "[accuracy,error]" in capsys.readouterr().out


def test_list_shows_what_an_option_holds(capsys):
    assert main(["list", "schedule", "warmup"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"schedule.then +constant +an option of schedule", out)
    assert "defaults" not in out


def test_peoples_own_parts(here, capsys):
    """A rule by its class, with inherited keys that it lacks left out and said; options in a folder of one's own."""
    assert main(["train", *BLOBS, "optimizer._target_=mine.Sign", "optimizer.lr=0.01"]) == 0
    err = capsys.readouterr().err
    assert all(f"optimizer.{key} is left out" in err for key in ("beta1", "beta2", "eps"))
    assert "optimizer.lr" not in err
    folder = here / "options" / "optimizer"
    folder.mkdir(parents=True)
    (folder / "sign.yaml").write_text("# signs\n# me\n_target_: mine.Sign\nlr: 0.02\n")
    assert main(["train", *BLOBS, "--config-dir", "options", "optimizer=sign"]) == 0
    assert find_run().config()["optimizer"] == {"_target_": "mine.Sign", "lr": 0.02}
    assert main(["train", *BLOBS, "--config-dir", "options", "optimizer=sgn"]) == 2
    assert "did you mean sign" in capsys.readouterr().err


def test_an_experiment_sets_and_the_command_line_sets_again(here, capsys):
    assert main(["train", "experiment=mnist1d_paper", "steps=2", "--cfg", "job"]) == 0
    out = capsys.readouterr().out
    assert "lr: 0.01" in out
    assert "steps: 2" in out
    assert "fraction: 0.0" in out


def test_a_run_that_fails_says_so_and_where(here, capsys):
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
    found = sorted(
        p.parent.name + json.loads(p.read_text())["status"] for p in here.glob("outputs/multirun/**/status.json")
    )
    assert found == ["0failed", "1done"]


def test_a_diverged_run_exits_with_zero(here, capsys):
    assert main(["train", *BLOBS, "optimizer=sgd", "optimizer.lr=1e30"]) == 0
    assert "diverged" in capsys.readouterr().out
    assert find_run().status["status"] == "diverged"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_process_saves_and_goes_on(sent, here):
    """A real process and a real signal: exit code 130, and the resumed run ends as an uninterrupted one."""
    command = [sys.executable, "-m", "dlopt", "train", *BLOBS, "epochs=20000", "eval_every=1000", "hydra.run.dir=run"]
    environment = {"PYTHONPATH": PLACES, "PATH": "/usr/bin:/bin", "HOME": str(here)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 300
    while not (here / "run" / "metrics.jsonl").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(sent)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert "dlopt train resume=run" in out
    run = RunDirectory(here / "run")
    assert run.status["status"] == "interrupted"
    step = run.summary["step"]
    done = subprocess.run(
        [*command[:4], "resume=run", "--trust", f"steps={step + 100}"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert RunDirectory(here / "run").status["status"] == "done"
    assert RunDirectory(here / "run").summary["step"] == step + 100


def in_a_terminal(here, columns, *argv):
    """What a command writes to a real pseudo-terminal, without its escape sequences; it must end with 0."""
    import fcntl
    import pty
    import struct
    import termios

    pid, screen = pty.fork()
    if pid == 0:  # the child, whose standard streams are the terminal
        environment = {
            "TERM": "xterm",
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": PLACES,
            "HOME": str(here),
        }
        os.execve(sys.executable, [sys.executable, "-m", "dlopt", *argv], environment)
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    seen = b""
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, seen.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())


@pytest.mark.parametrize("columns", [60, 160])
def test_a_terminal_shows_a_bar(columns, here):
    """The bar is drawn, taken away at the end, and no line is wider than the screen."""
    text = in_a_terminal(here, columns, "train", *BLOBS, "epochs=2000", "eval_every=100")
    bars = [line for line in re.split(r"[\r\n]+", text) if "━" in line]
    assert bars
    assert columns < 80 or "/6000" in text
    assert "val/accuracy" in text
    assert max(map(len, bars)) <= columns
    assert "done: 6000 steps" in text
    assert find_run().status["status"] == "done"


def test_a_sweep_in_a_terminal_has_one_bar_for_all_and_ends_in_a_table(here):
    argv = ("train", "-m", *BLOBS, "epochs=600", "eval_every=100", "optimizer=sgd,adam", "seed=0,1")
    text = in_a_terminal(here, 140, *argv)
    bars = [line for line in re.split(r"[\r\n]+", text) if line.startswith("runs ")]
    assert any("1/4" in line for line in bars)
    assert any("3/4" in line for line in bars)
    assert "optimizer=adam seed=0" in text
    assert "data._target_" not in text  # what all of them share says nothing
    end = text[text.rindex("4 of 4 runs") - 800 :]
    assert [line.split()[:4] for line in end.splitlines() if re.match(r"[0-3] +done", line)] == [
        ["0", "done", "sgd", "0"], ["1", "done", "sgd", "1"], ["2", "done", "adam", "0"], ["3", "done", "adam", "1"],
    ]  # fmt: skip
    assert re.search(r"dlopt runs outputs/multirun/\S+ --over seed", end)


def test_curves_in_a_terminal_fit_it(here, capsys):
    assert main(["train", "-q", *BLOBS, "epochs=30"]) == 0
    for columns in (50, 80, 150):
        text = in_a_terminal(here, columns, "show")
        drawn = [line for line in text.splitlines() if "│" in line or "┤" in line]
        assert len(drawn) >= 10
        assert max(map(len, drawn)) <= columns
        assert "training" in text
        assert "validation" in text


def test_quiet_says_nothing_but_errors(here, capsys):
    for argv in (["train", "-q", *BLOBS], ["train", "-m", "--quiet", *BLOBS, "seed=0,1"]):
        assert main(argv) == 0
    assert capsys.readouterr() == ("", "")
    assert main(["train", "-q", "epochs=0"]) == 2
    assert "epochs" in capsys.readouterr().err
    assert main(["train", *BLOBS]) == 0
    assert "done" in capsys.readouterr().out


def test_elsewhere_a_sweep_says_a_line_for_each_run(here, capsys):
    assert main(["train", "-m", *BLOBS, "seed=0,1"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[:3] for line in out.splitlines()[:2]] == [["1/2", "seed=0", "done"], ["2/2", "seed=1", "done"]]
    assert "2 of 2 runs" in out


def listening(port):
    """The addresses of this machine at which somebody answers a port, as the kernel says."""
    import socket

    found = set()
    for family, file in ((socket.AF_INET, "/proc/net/tcp"), (socket.AF_INET6, "/proc/net/tcp6")):
        for line in Path(file).read_text().splitlines()[1:] if Path(file).exists() else ():
            _, local, _, state, *_ = line.split()
            address, _, number = local.partition(":")
            if state == "0A" and int(number, 16) == port:
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.add(socket.inet_ntop(family, b"".join(words)))
    return found


@pytest.mark.parametrize(
    "flag", ["--bind_all", "--bind_all=true", "--bind", "--b", "--host", "--host=0.0.0.0", "--ho", "--h"]
)
@pytest.mark.parametrize("place", [[], ["last"], ["--port", "6007"]])
def test_tensorboard_is_not_opened_to_the_network(flag, place, here, capsys):
    assert main(["tensorboard", *place, flag]) == 2
    assert "ssh -L 6006:localhost:6006 HOST" in capsys.readouterr().err


def test_tensorboard_is_started_on_what_was_named(here, capsys):
    """The real one, asked over the network what it has found. What lies in the working directory is not imported."""
    (here / "markdown.py").write_text("raise SystemExit(9)\n")
    import socket
    import urllib.request

    assert main(["train", "-q", *BLOBS]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "dlopt", "tensorboard", "last", "--port", str(port), "--load_fast=false"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert str(find_run().path) in process.stdout.readline()
        tags: dict = {}
        while not tags:
            assert process.poll() is None
            try:
                address = f"http://127.0.0.1:{port}/data/plugin/scalars/tags"
                with urllib.request.urlopen(address, timeout=5) as answer:
                    tags = json.load(answer)
            except OSError:
                time.sleep(0.1)
        assert "train/loss" in next(iter(tags.values()))
        assert listening(port) == {"127.0.0.1"}
    finally:
        process.kill()
        process.communicate()
    for argv in (["tensorboard", "nowhere"], ["tensorboard", "no such"]):
        assert main(argv) == 2
    assert "nowhere" in capsys.readouterr().err


def test_only_torchs_own_rules_import_what_they_need(here):
    """Making one imports torch._dynamo, 0.7 s; the rules of ours do without."""
    for rule, wanted in ("adam", "False"), ("torch_optim", "True"):
        argv = ["train", *BLOBS, f"optimizer={rule}", "hydra.run.dir=" + rule]
        code = f"import sys; from dlopt.cli import main; main({argv}); print('torch._dynamo' in sys.modules)"
        environment = {"PYTHONPATH": PLACES, "PATH": "/usr/bin:/bin", "HOME": str(here)}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout.splitlines()[-1] == wanted


def test_epochs_typed_where_steps_count_are_not_passed_over(here, capsys):
    assert main(["train", "experiment=mnist1d_paper", "epochs=1"]) == 2
    assert "steps=6000 takes its place" in capsys.readouterr().err


def test_a_damaged_run_is_said_to_be_so(here, capsys):
    assert main(["train", *BLOBS]) == 0
    run = find_run()
    with run.metrics_file.open("a") as file:
        file.write('{"step": 12, "epo')  # a line that was cut off is left out
    assert [row["step"] for row in run.rows()] == [3, 6, 9]
    run.checkpoint("last").write_bytes(run.checkpoint("last").read_bytes()[:100])
    assert main(["train", "resume=last", "--trust", "epochs=5"]) == 2
    assert "last.safetensors" in capsys.readouterr().err
    run.status_file.write_text("{")
    assert main(["show"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_ctrl_c_during_start_up_ends_at_once(here):
    """As soon as Hydra is imported, which -X importtime tells; torch comes later."""
    command = [sys.executable, "-X", "importtime", "-m", "dlopt", "train", *BLOBS, "epochs=100000"]
    environment = {"PYTHONPATH": PLACES, "PATH": "/usr/bin:/bin", "HOME": str(here)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert any(line.endswith(" hydra\n") for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "Traceback" not in out + err


def test_a_reader_that_has_seen_enough_is_no_failure(here):
    command = f"{sys.executable} -m dlopt train {' '.join(BLOBS)} | head -1 > /dev/null; exit ${{PIPESTATUS[0]}}"
    environment = {"PYTHONPATH": PLACES, "PATH": "/usr/bin:/bin", "HOME": str(here)}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert find_run().status["status"] == "done"
