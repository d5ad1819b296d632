"""The examples of the README, of docs/data.md and of docs/export.md are executed as they are printed."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dlopt.cli import main

README = Path(__file__).parents[1] / "README.md"
DATA = README.parent / "docs" / "data.md"
EXPORT = DATA.with_name("export.md")
SMALL = ("-q", "epochs=1", "data.train_size=200", "threads=1", "device=cpu")


def test_components_of_the_readme_train(here):
    text = README.read_text().partition("## Your own component")[2]
    blocks = re.findall(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in blocks] == ["my_optimizer.py", "my_data.py", "mine/optimizer/signum.yaml"]
    for name, content in blocks:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)
    lines = re.findall(r"^dlopt (train .*(?:Signum|Circles|signum).*)$", text, re.MULTILINE)
    assert len(lines) == 3
    for line in lines:
        assert main([*shlex.split(line), *SMALL]) == 0, line
    assert len(list(here.glob("outputs/**/summary.json"))) == 6


@pytest.mark.long
def test_the_python_of_the_readme_runs(here):
    code = re.search(r"## From Python\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    names: dict = {}
    exec(code, names)
    assert (here / "curves.png").exists() and names["run"].status == names["own"].status == "done"
    assert names["sweep"].best().settings["arch"] == "mlp"


@pytest.mark.long
def test_the_page_about_data_leads_to_predictions(here, capsys):
    text = DATA.read_text()
    files = re.findall(r"`(\w+\.\w+)` (?:writes|holds texts).*?\n```(?:python)?\n(.*?)```", text, re.DOTALL)
    assert [name for name, _ in files] == ["make_table.py", "make_texts.py", "new.csv"]
    for name, content in files:
        (here / name).write_text(content)
    commands = re.findall(r"^\$ (.*?)(?:  +#.*)?$", text.partition("## A text, character")[0], re.MULTILINE)
    assert len(commands) == 7
    for command in commands:
        program, *words = shlex.split(command)
        if program == "python":
            subprocess.run([sys.executable, *words], check=True, cwd=here)
        else:
            assert main([*words, *(["-q", "threads=1", "device=cpu"] if words[0] == "train" else [])]) == 0, command
    rows = (here / "out.csv").read_text().splitlines()
    assert [row.rsplit(",", 4)[1] for row in rows[1:]] == ["matplotlib.pyplot", "torch", "numpy"]


@pytest.mark.long
def test_the_page_about_exported_files_uses_them(here, capsys):
    make_table = re.search(r"`make_table.py` writes .*?```python\n(.*?)```", DATA.read_text(), re.DOTALL)
    exec(make_table[1], {})
    text = EXPORT.read_text()
    commands = re.findall(r"^\$ dlopt (.*)$", text, re.MULTILINE)
    assert [shlex.split(command)[0] for command in commands] == ["train", "export", "export", "export"]
    for command in commands:
        words = shlex.split(command)
        assert main([*words, *(["-q", "threads=1", "device=cpu"] if words[0] == "train" else [])]) == 0, command
    examples = re.findall(r"```python\n(.*?)```(?:\n\n```\n(.*?)```)?", text, re.DOTALL)
    assert len(examples) == 3
    scores = []
    for code, printed in examples:
        capsys.readouterr()
        names = {}
        exec(code, names)
        assert capsys.readouterr().out == printed
        scores.append(torch.as_tensor(names["scores"]))
    assert torch.allclose(scores[1], scores[2], atol=1e-5)  # of zeros, by both files
