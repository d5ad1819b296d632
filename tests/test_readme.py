"""The examples of the README are executed as they are printed."""

import re
import shlex
from pathlib import Path

from dlopt.cli import main

README = Path(__file__).parents[1] / "README.md"
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
