"""The layout's one rule: an option is its own two files, and nothing else has to know of it."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from helpers import find_key

from dlopt.config.compose import groups

TWINS = {
    "activation": "tanh",
    "arch": "mlp",
    "augmentation": "translate",
    "averaging": "ema",
    "bias_init": "constant",
    "data": "digits",
    "diagnostic": "gradients",
    "distillation": "soft_targets",
    "init": "he",
    "linesearch": "fixed",
    "loss": "cross_entropy",
    "normalization": "batch",
    "optimizer": "lbfgs",
    "preprocess": "standardize",
    "regularization": "l2",
    "schedule": "cosine",
}
"""An option of each group, of which a twin is made under another name."""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A copy of the house with a new option in every group: a YAML file and a module, and not a line elsewhere."""
    root = tmp_path_factory.mktemp("house")
    package = groups.CONF.parent / "dlopt"
    shutil.copytree(groups.CONF, root / "conf")
    shutil.copytree(package, root / "dlopt", ignore=shutil.ignore_patterns("__pycache__"))
    for group, option in TWINS.items():
        text = (root / "conf" / group / f"{option}.yaml").read_text()
        text = text.replace(f"dlopt.{group}.{option}.", f"dlopt.{group}.newcomer.")
        text = re.sub(rf"^{option}:", "newcomer:", text, flags=re.MULTILINE)  # the key of an option of a list
        (root / "conf" / group / "newcomer.yaml").write_text(text)
        shutil.copy(root / "dlopt" / group / f"{option}.py", root / "dlopt" / group / "newcomer.py")
    return root


def run_in_copy(house, *commands, code=""):
    """Run commands, then code, in one process that uses the copy, and return what it prints."""
    program = (
        f"import sys; sys.path.insert(0, {str(house)!r})\nfrom dlopt.cli import main\n"
        f"from dlopt.cli.candidates import find_candidates\n"
        f"for argv in {list(map(list, commands))!r}:\n    assert main(argv) == 0, argv\n{code}"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=house, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_there_is_a_twin_for_every_group():
    assert set(TWINS) == set(groups.list_groups()) - {"experiment"}


def test_it_is_listed_documented_and_offered(house):
    words = [f"{find_key(group)}=newc" for group in TWINS]
    line = ["train", "optimizer=lbfgs"]
    code = "".join(f"assert find_candidates({[*line, w]}) == ['{w}omer'], '{w}'\n" for w in words)
    assert run_in_copy(house, ["list"], ["list", "--pages", "pages"], code=code).count("newcomer") >= len(TWINS)
    for group, option in TWINS.items():
        page = (house / "pages" / f"{group}.md").read_text()
        (new,) = re.findall(r"^## newcomer\n(.*?)(?=^## |^\[All)", page, re.MULTILINE | re.DOTALL)
        (old,) = re.findall(rf"^## {option}\n(.*?)(?=^## |^\[All)", page, re.MULTILINE | re.DOTALL)
        assert new == old.replace(f"{group}.{option}.", f"{group}.newcomer.")


def test_a_run_of_newcomers_equals_that_of_their_twins(house):
    """Every part of both does the same, so their rows are the same."""
    common = [
        "threads=1",
        "steps=6",
        "log_every=1",
        "data.train_size=200",
        "eval_every=1",
        "optimizer.linesearch.lr=0.01",
    ]
    common.append("distillation.teacher=teacher")
    runs = {"new": dict.fromkeys(TWINS, "newcomer"), "old": TWINS}
    run_in_copy(
        house,
        ["train", "threads=1", "steps=2", "data=digits", "arch=mlp", "hydra.run.dir=teacher"],
        *(
            ["train", *(f"{find_key(g)}={o}" for g, o in run.items()), *common, f"hydra.run.dir={n}"]
            for n, run in runs.items()
        ),
    )

    def read_rows(name):
        lines = map(json.loads, (house / name / "metrics.jsonl").read_text().splitlines())
        return [{k: v for k, v in row.items() if "second" not in k} for row in lines]

    assert len(read_rows("new")) == 6
    assert read_rows("new") == read_rows("old")
    assert (house / "new" / "summary.json").exists()
