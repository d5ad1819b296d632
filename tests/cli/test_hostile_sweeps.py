"""Sweeps from someone else: opening one executes nothing, and reads and writes nothing outside of it."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest
from helpers import read_tree

from dlopt.cli import main
from dlopt.config.compose import groups
from dlopt.config.schema.targets import distrust_working_directory
from dlopt.sweep.reopen import is_plain

SECRET = os.urandom(16).hex()
SEARCH = (
    "train", "-q", "-m", "data=digits", "data.train_size=100", "batch_size=50", "arch=mlp", "arch.widths=[4]", "epochs=1",
    "optimizer=sgd,momentum", "optimizer.lr=tag(log,interval(1e-3,1e-1))", "hydra/sweeper=random",
    "hydra.sweeper.n_trials=2", "hydra.sweep.dir=sweep", "threads=1", "device=cpu",
)  # fmt: skip
RESUME = ("train", "-q", "resume=sweep", "hydra.sweeper.n_trials=3")
EVIL = "open({canary!r}, 'w').close()\n"


class Canary:
    """An object whose pickle writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def honest_sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("honest")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(SEARCH) == 0
    return folder / "sweep"


@pytest.fixture
def place(honest_sweep, tmp_path, monkeypatch):
    """Return a working directory with a copy of the sweep, modules and options that leave a canary, and a secret."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("SECRET", SECRET)
    shutil.copytree(honest_sweep, folder / "sweep")
    canary = tmp_path / "canary"
    evil = EVIL.format(canary=str(canary))
    for file in ("evil.py", "rich.py", "hydra_plugins/evil_plugin.py"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(evil)
    (folder / "evil.pickle").write_bytes(pickle.dumps(Canary(canary)))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "evil.yaml").write_text(f"_target_: builtins.open\nfile: {canary}\nmode: w\n")
    (tmp_path / "elsewhere" / "private.csv").write_text("a,b,y\n" + "1,2,3.5\n2,3,4.5\n3,1,5.5\n4,4,7.5\n" * 20)
    return folder


def set_command(place, *words, drop=()):
    """Add words to the command of the sweep, in place of those that begin like `drop`."""
    file = place / "sweep" / "sweep.json"
    content = json.loads(file.read_text())
    content["command"] = [word for word in content["command"] if not word.startswith(drop or ("\0",))] + list(words)
    file.write_text(json.dumps(content))


def open_all(place, capsys, *, resumes=False):
    """Open the sweep by each command; nothing may happen outside of it. Return the output of the refusal."""
    canary, before, modules = place.parent / "canary", read_tree(place.parent), set(sys.modules)
    commands = [["show", "sweep"], ["runs", "sweep"], ["completion", "bash", "--", "dlopt train resume=sw", ""]]
    codes = []
    for argv in (*commands, [*RESUME, "--dry-run"], RESUME):
        codes.append(main(argv))
        assert not canary.exists(), argv
        assert not {"evil", "hydra_plugins.evil_plugin"} & (set(sys.modules) - modules), argv
        assert str(place) not in sys.path
    out, err = capsys.readouterr()
    assert codes[-2:] == ([0, 0] if resumes else [2, 2]), err
    assert SECRET not in out + err
    after = read_tree(place.parent)
    assert SECRET.encode() not in b"".join(filter(None, after.values()))
    if resumes:
        before, after = ({k: v for k, v in tree.items() if not k.startswith("place/sweep")} for tree in (before, after))
    assert after == before
    return err


def test_an_honest_sweep_resumes_without_trust(place, capsys):
    open_all(place, capsys, resumes=True)
    assert json.loads((place / "sweep/2/status.json").read_text())["status"] == "done"


WORDS = {
    "a flag of Hydra that unpickles": "--experimental-rerun=evil.pickle",
    "a folder of options": "--config-dir=../elsewhere",
    "a forced key": "++optimizer.name=evil.Rule",
    "a new key": "+x._target_=evil.X",
    "a removed key": "~clip",
    "a class of an option": "optimizer._target_=evil.X",
    "a class in a dictionary": "clip={_target_:evil.X}",
    "a class deep in a dictionary": "clip={norm:{_target_:evil.X}}",
    "a class on an axis": "clip={_target_:evil.X},null",
    "a name of a class": "optimizer.name=evil.Rule",
    "a name of a class inside an option": "optimizer.base.name=evil.Rule",
    "a name of a class on an axis": "optimizer.name=evil.Rule,SGD",
    "axes as a dictionary": "hydra.sweeper.params={optimizer.name:evil.Rule}",
    "an option outside of its folder": "activation=../../elsewhere/evil",
    "an option outside of its folder on an axis": "activation=relu,../../elsewhere/evil",
    "an option outside of its folder in a list": "regularization=[l2,../../../elsewhere/evil]",
    "an option elsewhere, of another group": "activation=/../../elsewhere/evil",
    "an inner option outside of its folder": "schedule.then=../../elsewhere/evil",
    "callbacks of Hydra": "+optimizer@hydra.callbacks.x=../../elsewhere/evil",
    "a callback of Hydra": "hydra.callbacks={x:{_target_:evil.X}}",
    "a decoded class": "clip=${oc.decode:'{_target_: evil.X}'}",
    "a variable": "name=${oc.env:SECRET}",
    "a variable on an axis": "name=a,${oc.env:SECRET}",
    "a variable in a list": "arch.widths=[${oc.env:SECRET}]",
    "a variable that Hydra exports": "hydra.job.env_set={SECRET:x}",
    "another working directory": "hydra.job.chdir=true",
    "a log elsewhere": "hydra/job_logging=../../../elsewhere/evil",
    "a directory of a run": "hydra.run.dir=/tmp/x",
    "a launcher of others": "hydra/launcher=../../../elsewhere/evil",
    "a class of the launcher": "hydra.launcher._target_=evil.X",
    "a class of the sweeper": "hydra.sweeper._target_=evil.X",
    "a search path": "hydra.searchpath=[file://../elsewhere]",
    "a database": "hydra.sweeper.storage='sqlite:///../elsewhere/s.db'",
    "a server": "hydra.sweeper.storage='postgresql://127.0.0.1:1/x'",
    "a journal elsewhere": "hydra.sweeper.storage=../elsewhere/s.log",
    "a journal elsewhere after a blank": "hydra.sweeper.storage= /tmp/elsewhere/s.log",
    "a journal of the user": "hydra.sweeper.storage=notes.log",
    "a range without an end": "seed=range(1000000000)",
    "a range without steps": "seed=range(1,2,0)",
    "a number of many digits": f"seed={'9' * 5000}",
}  # fmt: skip


@pytest.mark.parametrize("name", WORDS)
def test_a_word_that_is_not_plain_is_refused(name, place, capsys):
    word = WORDS[name]
    set_command(place, word, drop=f"{re.split('[=@]', word)[0]}=")
    assert word[:30] in open_all(place, capsys)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("data=table", "data.path=../elsewhere/private.csv", "loss=mse"), "data.path"),
        (("data=table", "data.path=mine.csv", "data.test_path=../elsewhere/private.csv", "loss=mse"), "data.path"),
        (("init=pretrained", "init.run=../elsewhere"), "init.run"),
        (("data=mnist1d", "data.path=../elsewhere"), "data.path"),
        (("data=mnist", "data.path=../elsewhere", "data.verify=false"), "data.path"),
        (("data=table", "data.path=../elsewhere", "loss=mse"), "data.path"),
        (("data=fashion_mnist", "data.url=http://127.0.0.1:1/"), "data.url"),
        (("optimizer=torch_optim", "optimizer.name=Evil"), "optimizer.name"),
    ],
)
def test_plain_words_that_reach_outside_are_refused(words, key, place, capsys):
    set_command(place, "seed=0,1", *words, drop=("data", "optimizer"))
    err = open_all(place, capsys)
    assert key in err
    assert not re.search(r"private.*3\.5", err)


def test_the_study_cannot_name_values_of_its_own(place, capsys):
    """The values of axes that do not change a run, such as its name, are read from the study without a comparison."""
    shutil.rmtree(place / "sweep")
    assert main([*SEARCH, "name=a,b"]) == 0
    for number in "01":
        shutil.rmtree(place / "sweep" / number)
    log = place / "sweep/study.log"
    created = "".join(log.read_text().splitlines(keepends=True)[:2])  # before the first trial
    assert '"a"' in created
    log.write_text(created.replace('"a"', '"${oc.env:SECRET}"'))
    main([*RESUME[:-1], "hydra.sweeper.n_trials=10"])
    assert SECRET not in "".join(capsys.readouterr())
    assert SECRET.encode() not in b"".join(filter(None, read_tree(place).values()))


@pytest.mark.parametrize("what", ["a folder of a run", "a file of a run", "the journal", "a pipe"])
def test_a_sweep_with_links_is_refused(what, place, capsys):
    other, sweep = place.parent / "elsewhere", place / "sweep"
    if what == "a folder of a run":
        (sweep / "2").symlink_to(other)
    elif what == "a file of a run":
        (sweep / "2").mkdir()
        (sweep / "2/metrics.jsonl").symlink_to(other / "private.csv")
    elif what == "the journal":
        (sweep / "study.log").unlink()
        (sweep / "study.log").symlink_to(other / "study.log")
    else:
        os.mkfifo(sweep / "status.json")
    assert "remove it" in open_all(place, capsys)


def test_only_folders_of_processes_are_removed(place, capsys):
    """The study names the folder of each process that was lost."""
    victim = place.parent / "elsewhere" / ".workers"
    victim.mkdir()
    (victim / "lock.json").write_text("{}")
    log = place / "sweep/study.log"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert any("worker" in json.dumps(line) for line in lines)
    text = re.sub(r'"folder": "[^"]*"', f'"folder": "{victim}"', "".join(json.dumps(x) + "\n" for x in lines))
    log.write_text(text.replace('"state": 1', '"state": 0'))
    main(RESUME)
    assert (victim / "lock.json").read_text() == "{}"


def test_a_directory_named_like_an_interpolation_is_refused(place, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", str(place.parent / "elsewhere/new"))
    (place / "sweep").rename(place / "${oc.env:SECRET}")
    for flags in ([], ["--trust"]):
        assert main(["train", "resume=${oc.env:SECRET}", "hydra.sweeper.n_trials=3", *flags]) == 2
        assert "rename the directory" in capsys.readouterr().err
    assert not (place.parent / "elsewhere/new").exists()


def test_words_do_not_control_the_terminal(place, capsys):
    set_command(place, "name=a,'\033]0;taken\007'")
    for name in ("0", "1", ".workers"):
        shutil.rmtree(place / "sweep" / name)
    (place / "sweep/study.log").unlink()
    assert main([word for word in RESUME if word != "-q"]) == 0
    out, err = capsys.readouterr()
    assert "taken" in out
    assert "\033" not in out + err


def test_processes_that_a_sweep_starts_import_nothing_from_the_working_directory(place, monkeypatch):
    with distrust_working_directory():
        (place / "ctypes.py").write_text((place / "evil.py").read_text())
        subprocess.run([sys.executable, "-c", "import ctypes"], check=True)
    assert not (place.parent / "canary").exists()


def test_the_words_of_every_option_are_plain():
    """Each option and each of its keys, as a search would name them."""
    folders = (groups.CONF,)
    for group in groups.list_groups():
        for option in groups.list_option_names(group):
            assert is_plain(f"{group}={option}", folders)
    for word in (
        "optimizer=sgd,adam", "optimizer=glob(ada*)", "regularization=none,l2,[l2,dropout]", "batch_size=32,64",
        "batch_size=choice(32,64)", "epochs=range(10,40,10)", "optimizer.beta1=interval(0.5,0.99)", "seed=shuffle(range(4))",
        "epochs=tag(log,int(interval(1,100)))", "schedule.then=cosine", "schedules.momentum=ramp", "name='a b'", "clip.norm=null",
        "arch.widths=[4],[4,5]", "validation={scheme:kfold,k:3}", "hydra.sweeper.seeds=[0,1]", "hydra.sweeper.tpe.multivariate=true",
        "hydra/launcher=pool", "hydra.launcher.workers=2", "hydra/sweeper=tpe", "precision=float32,bfloat16",
    ):  # fmt: skip
        assert is_plain(word, folders), word
