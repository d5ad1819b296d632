"""A new config group is its base class, its two folders, and the place where training uses it."""

import json
import shutil
import subprocess
import sys

import torch

from dlopt.config.compose import groups

BASE = """
from dlopt.base.group import Group

@Group("scaling", optional=True, must_subclass=True)
class Scaling:
    def __call__(self, w):
        raise NotImplementedError
"""
OPTION = """
from dataclasses import dataclass
from dlopt.base.scaling import Scaling
from dlopt.ranges import Positive

@dataclass(frozen=True)
class Multiply(Scaling):
    '''Multiplies the initial weights by a constant.

    factor   the constant
    '''

    factor: Positive

    def __call__(self, w):
        return self.factor * w
"""
USE = """

_train = train


def train(experiments, *arguments, **keywords):
    import dataclasses

    changed = []
    for experiment in experiments:
        scaling = experiment.get_component("scaling")
        w = experiment.w if scaling is None else scaling(experiment.w)
        changed.append(dataclasses.replace(experiment, w=w))
    return _train(changed, *arguments, **keywords)
"""
CONFIGURATION = """# Multiplies the initial weights by a constant
# -
_target_: dlopt.scaling.multiply.Multiply
factor: 2.0              # the constant
"""
RUN = """
import json, sys
sys.path.insert(0, sys.argv[1])
from dlopt.cli import main

def train(name, *overrides):
    common = ["data=digits", "arch=linear", "optimizer=sgd", "optimizer.lr=1e-30", "steps=1", "-q"]
    code = main(["train", *common, *overrides, f"hydra.run.dir={name}"])
    if code:
        return code
    from dlopt.rundir.directory import RunDirectory
    return RunDirectory(name).load("last")["model"]["output.weight"].tolist()

import pathlib
codes = [main(["list", "scaling"]), main(["list", "scaling", "multiply"])]
plain, scaled = train("a"), train("b", "scaling=multiply", "scaling.factor=3")
wrong = train("d", "scaling=multiply", "scaling.factor=-1")
json.dump([codes, plain, scaled, wrong], open("results.json", "w"))
"""


def test_a_new_group_needs_no_change_outside_its_own_files(tmp_path):
    package = groups.CONF.parent / "dlopt"
    shutil.copytree(groups.CONF, tmp_path / "conf")
    shutil.copytree(package, tmp_path / "dlopt")
    files = {
        "dlopt/base/scaling.py": BASE,
        "dlopt/scaling/__init__.py": "",
        "dlopt/scaling/multiply.py": OPTION,
        "conf/scaling/none.yaml": "# The initial weights as they are\n# -\n",
        "conf/scaling/multiply.yaml": CONFIGURATION,
        "conf/scaling/custom.yaml": "# Your own: scaling=custom scaling._target_=my.Scaling\n# yours\n_target_: ???\n",
        "run.py": RUN,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    with (tmp_path / "dlopt/training/loop.py").open("a") as loop:
        loop.write(USE)
    result = subprocess.run(
        [sys.executable, "run.py", str(tmp_path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "multiply" in result.stdout
    codes, plain, scaled, wrong = json.loads((tmp_path / "results.json").read_text())
    assert codes == [0, 0]
    torch.testing.assert_close(torch.tensor(scaled), 3 * torch.tensor(plain))
    assert wrong == 2
    assert "scaling.factor" in result.stderr
