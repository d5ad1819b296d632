"""The keys that some options of an axis lack are found in the files of the options, and as Hydra composes them."""

from pathlib import Path

import pytest
import test_space
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathElement
from hydra.core.utils import setup_globals
from hydra.types import RunMode

from dlopt.config.compose import groups
from dlopt.sweep.compose import Composer
from dlopt.sweep.conditions import add_conditions


def find(*typed, folder=None):
    """Return the keys that do not apply to all runs, each with the options to which it applies."""
    setup_globals()
    search = create_config_search_path(str(groups.CONF))
    if folder is not None:
        search.get_path().insert(1, SearchPathElement("command-line", f"file://{folder}"))
    loader = ConfigLoaderImpl(search)
    composer = Composer(loader, loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN))
    folders = [groups.CONF, *([folder] if folder else [])]
    space = add_conditions(test_space.make_space(*typed), folders, composer)
    return {condition.key: condition.options for condition in space.conditions}


BASE = "optimizer.base_optimizer"


@pytest.mark.parametrize(
    ("typed", "conditions"),
    [
        ("optimizer=sgd,momentum optimizer.momentum=0.5,0.9 optimizer.lr=0.1,1",
         {"optimizer.momentum": "optimizer=momentum"}),
        ("optimizer=adam,sgd,nesterov,momentum optimizer.momentum=0.9", {"optimizer.momentum": "optimizer=momentum,nesterov"}),
        ("optimizer=momentum,nesterov optimizer.momentum=0.9,0.5", {}),
        ("optimizer=sgd,adam optimizer.momentum=0.9,0.5 optimizer.momentm=1", {}),
        ("optimizer=momentum,nesterov optimizer=sgd optimizer.momentum=0.9", {}),
        ("optimizer=sgd,adam +optimizer.momentum=0.9 ~optimizer.lr epochs=1,2 clip.norm=1,2", {}),
        ("optimizer.momentum=0.5,0.9 epochs=1,2", {}),
        ("optimizer.momentum=0.5,0.9 activation=relu,tanh", {}),
        (f"optimizer=sgd,sam {BASE}=sgd,adam {BASE}.beta1=0.8,0.9", {BASE: "optimizer=sam", f"{BASE}.beta1": f"{BASE}=adam"}),
        (f"optimizer=sgd,sam {BASE}.momentum=0.9 {BASE}.beta1=0.1", {f"{BASE}.momentum": "optimizer=sam"}),
        (f"{BASE}.beta1=0.8 {BASE}=nadam,sgd,adam optimizer=sam", {f"{BASE}.beta1": f"{BASE}=adam,nadam"}),
        ("regularization=none,l2,[l2,dropout],[] regularization.l2.strength=1e-3,1e-2",
         {"regularization.l2.strength": "regularization=[l2,dropout],l2"}),
        ("schedule=warmup,constant schedule.then=cosine,step schedule.then.final=0.1",
         {"schedule.then": "schedule=warmup", "schedule.then.final": "schedule.then=cosine"}),
        ("schedules.momentum=ramp,cosine schedules.momentum.final=0.5", {"schedules.momentum.final": "schedules.momentum=cosine"}),
    ],
)  # fmt: skip
def test_a_key_applies_to_the_options_that_have_it(typed, conditions):
    assert find(*typed.split()) == conditions


@pytest.fixture
def options(tmp_path):
    """A folder with options of the user: one extends another in two steps, and experiments choose and set more."""
    files = {
        "optimizer/heavy.yaml": "defaults:\n  - heavier\n  - _self_\nlr: 0.5\n",
        "optimizer/heavier.yaml": "defaults:\n  - momentum\n  - _self_\nlr: 0.2\n",
        "experiment/slow.yaml": "# @package _global_\ndefaults:\n  - override /optimizer: sgd\n",
        "experiment/fast.yaml": "# @package _global_\ndefaults:\n  - override /optimizer: momentum\n",
        "experiment/odd.yaml": "# @package _global_\ndefaults:\n  - override /optimizer: custom\n"
        "optimizer:\n  _target_: mine.Rule\n  momentum: 0.3\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "conditions"),
    [
        ("optimizer=heavy,sgd optimizer.momentum=0.1,0.2", {"optimizer.momentum": "optimizer=heavy"}),
        ("optimizer=heavy,momentum optimizer.momentum=0.1,0.2", {}),
        ("experiment=slow,fast optimizer.momentum=0.1", {"optimizer.momentum": "experiment=fast"}),
        ("experiment=odd,fast optimizer.momentum=0.1", {}),
        ("experiment=odd,fast,slow optimizer.momentum=0.1", {"optimizer.momentum": "experiment=fast,odd"}),
        ("experiment=slow,fast optimizer=adam optimizer.momentum=0.1", {}),
        ("optimizer=sdg,momentum optimizer.momentum=0.1", {}),
    ],
)  # fmt: skip
def test_options_of_the_user_and_experiments_have_the_keys_that_hydra_composes(typed, conditions, options):
    assert find(*typed.split(), folder=Path(options)) == conditions


def test_ordinary_searches_compose_nothing_for_it():
    """Composing takes 75 ms; the files of the options say that all of them have the key."""
    space = test_space.make_space("optimizer=sgd,adam,momentum", "optimizer.lr=0.1,1", "epochs=1,2", "clip.norm=1,2")
    assert add_conditions(space, [groups.CONF], None) is space
