"""The names of dlopt: imported when they are used, documented by examples, and typed."""

import importlib.resources
import inspect
import subprocess
import sys

import pytest

import dlopt

LARGE = "torch.*,polars.*,matplotlib.*,numpy.*,rich.*,omegaconf.*,hydra.*,scipy.*,sklearn.*,optuna.*,IPython.*"
"""Packages that take mypy most of its time."""
CODE = """
from pathlib import Path

import matplotlib.figure
import polars as pl
import torch

import dlopt

run: dlopt.Run = dlopt.train(["data=digits"], directory=Path("run"), progress=False)
sweep: dlopt.Sweep = dlopt.train("seed=0,1", multirun=True)
frame: pl.DataFrame = dlopt.runs(where=["seed=0"], over="seed").join(run.curves(), on="step")
figure: matplotlib.figure.Figure = run.plot("loss")
predictor: dlopt.Predictor = dlopt.load(run.path, 300)
outputs: torch.Tensor = predictor.predict(torch.zeros(1, 8))
loss: float = sweep.best().predictor().evaluate("val")["loss"]
try:
    dlopt.open_run("x"), dlopt.open_sweep("y")
except (dlopt.ConfigError, dlopt.RunError) as error:
    print(error, dlopt.__version__)
"""


def test_importing_dlopt_imports_nothing_else():
    code = "import sys; before = set(sys.modules); import dlopt; print(set(sys.modules) - before, dir(dlopt))"
    out = subprocess.run([sys.executable, "-Ic", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("{'dlopt'} [") and all(f"'{name}'" in out for name in dlopt.__all__)


def test_every_public_name_has_a_docstring_with_an_example():
    assert set(dlopt.__all__) == {*dlopt._MODULES, "__version__"}
    offenders = []
    for name in dlopt._MODULES:
        value = getattr(dlopt, name)
        assert value.__module__ == dlopt._MODULES[name]
        members = inspect.getmembers(value, inspect.isfunction) if name in ("Run", "Sweep") else ()
        public = {name: value, **{f"{name}.{n}": f for n, f in members if not n.startswith("_")}}
        for place, each in public.items():
            examples = [line for line in (each.__doc__ or "").splitlines() if line.startswith("    ") and "(" in line]
            if not examples:
                offenders.append(place)
    assert not offenders
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = dlopt.trian


def test_the_package_is_marked_as_typed():
    assert importlib.resources.files("dlopt").joinpath("py.typed").is_file()


@pytest.mark.long
def test_code_of_users_is_checked_strictly(tmp_path):
    """Types are right, and wrong ones are found."""
    file = tmp_path / "user.py"
    file.write_text(CODE)
    options = tmp_path / "mypy.ini"
    options.write_text(f"[mypy]\nstrict = true\n[mypy-{LARGE}]\nfollow_imports = skip\n")
    check = [sys.executable, "-m", "mypy", "--config-file", str(options), "--cache-dir", str(tmp_path), str(file)]
    assert subprocess.run(check, capture_output=True, text=True, check=False).stdout.startswith("Success")
    file.write_text(CODE + "\nwrong: int = run.summary\nrun.plt()\n")
    assert "Found 2 errors" in subprocess.run(check, capture_output=True, text=True, check=False).stdout
