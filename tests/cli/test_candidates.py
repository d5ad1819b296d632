"""Candidates for half-typed lines, compared with what Hydra composes and what imported classes declare."""

import functools
import os
import types
import typing
from importlib import import_module
from pathlib import Path

import pytest
from helpers import compose_config, compose_every_option
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from dlopt.cli import COMMANDS
from dlopt.cli.candidates import KINDS, USAGES, find_candidates
from dlopt.cli.completion import split
from dlopt.config.compose import groups, static_config
from dlopt.config.compose.nested_options import load_nested_defaults
from dlopt.config.compose.static_config import flatten
from dlopt.config.schema import static_hints
from dlopt.config.schema.signature import read_signature
from dlopt.config.schema.targets import iter_nodes as targets
from dlopt.rundir.writer import RunWriter

GROUPS = [g for g in groups.list_groups() if g not in ("experiment", *groups.select_groups("nested"))]


def complete(line: str, after: str = "") -> list[str]:
    return find_candidates(split(line)[0], after.split())


@pytest.fixture(autouse=True)
def _clear_module_cache():
    static_hints._parse_module.cache_clear()


@pytest.fixture
def files(here):
    """Create runs, custom options, a custom class, a file and a folder."""
    for age, name in enumerate(("2026-01-02/10-00-00-mlp-sgd-bbbb", "multirun/2026-01-01/09-00-00-aaaa/0", "old-cnn")):
        os.utime(RunWriter.create(here / "outputs" / name).status_file, (1000 - age, 1000 - age))
    for file, text in {
        "own/optimizer/sign.yaml": "# signs\n# me\n_target_: my_rule.Sign\nlr: 0.02\nmode: hard\n",
        "own/data/line.yaml": "# a line\n# me\ndefaults:\n  - override /loss@_global_.loss: mse\n  - _self_\n_target_: mine.Regression\n",
        "own/optimizer/broken.yaml": "lr: [1\n  - {",
        "own/arch/wide.yaml": "# wide\n# me\ndefaults:\n  - mlp\n  - _self_\nfactor: 2\n",
        "own/arch/mlp.yaml": "# not used: dlopt has an option of this name\n# me\nwidths: [9]\n",
        "own/mood/good.yaml": "# a user-defined group\n# me\nvalue: 1\n",
        "own/hydra/sweeper/mine.yaml": "# mine\n# me\ndefaults:\n  - grid\n  - _self_\nn_trials: 7\n",
        "my_rule.py": "from dataclasses import dataclass\nfrom typing import Literal\nfrom dlopt.parts import Optimizer\n\n\n@dataclass\nclass Base(Optimizer):\n    lr: float\n\n\n"
        "@dataclass\nclass Sign(Base):\n    mode: Literal['hard', 'soft']\n    nesterov: bool\n\n\n"
        "def net(inputs, depth: Literal[2, 3], *, bias: bool = True): ...\n",
        "data file.pt": "",
        "data/x": "",
        ".hidden": "",
    }.items():  # fmt: skip
        (here / file).parent.mkdir(parents=True, exist_ok=True)
        (here / file).write_text(text)
    os.mkfifo(here / "own/optimizer/pipe.yaml")
    older = here / "outputs/multirun/2025-01-01/09-00-00-bbbb"  # of an earlier version: cannot be resumed
    older.mkdir(parents=True)
    for age, file in enumerate((here / SWEEP / "sweep.json", older / "multirun.yaml")):
        file.touch()
        os.utime(file, (500 - age, 500 - age))
    return here


RUNS = ["outputs/2026-01-02/10-00-00-mlp-sgd-bbbb", "outputs/multirun/2026-01-01/09-00-00-aaaa/0", "outputs/old-cnn"]
SWEEP = "outputs/multirun/2026-01-01/09-00-00-aaaa"
OWN = "train --config-dir own"
SCHEDULED = "optimizer=momentum schedules.momentum=warmup"

CASES = {
    # commands and flags
    "tr": ["train"],
    "": list(COMMANDS),
    "-": ["--help", "--version"],
    "train --mu": ["--multirun"],
    "train --cfg ": ["job", "hydra", "all"],
    "train --cfg=j": ["--cfg=job"],
    "train --cfg job prec": ["precision="],
    "completion z": ["zsh"],
    # groups and options
    "train optim": ["optimizer="],
    "train optimizer=momentum optim": [],
    "train optimizer=nesterov": ["optimizer=nesterov"],
    "train -m optimizer=": [f"optimizer={o}" for o in groups.list_option_names("optimizer")],
    "train optimizer=sgd,nesterov": ["optimizer=sgd,nesterov"],
    "train optimizer=[s": [],
    "train regularization=dropo": ["regularization=dropout"],
    "train regularization=[dropo": ["regularization=[dropout]", "regularization=[dropout,"],
    "train regularization=[l2,dropout]": ["regularization=[l2,dropout]"],
    "train regularization=[n": [],
    "train regularization=none,l2,[l2,dropo": ["regularization=none,l2,[l2,dropout]", "regularization=none,l2,[l2,dropout,"],
    "train regularization=[l2,dropout],no": ["regularization=[l2,dropout],none"],
    # keys
    "train epo": ["epochs="],
    "train validation.": [f"validation.{key}=" for key in ("scheme", "fraction", "k", "fold")],
    "train optimizer=nesterov optimizer.lr=1 optimizer.": ["optimizer.momentum="],
    "train -m optimizer=sgd,momentum optimizer.": ["optimizer.lr=", "optimizer.momentum=", "optimizer.dampening="],
    "train regularization.": [],
    "train regularization=[l2,dropout] regularization.": [
        "regularization.l2.strength=", *(f"regularization.dropout.{key}=" for key in ("p", "input", "scale")),
    ],
    "train -m regularization=l2,[l2,dropout] regularization.dropout.p": ["regularization.dropout.p="],
    "train optimizer._": ["optimizer._target_="],
    "train optimizer=custom optimizer.": ["optimizer._target_="],
    # searches
    "train -m hyd": ["hydra/sweeper=", "hydra/launcher="],
    "train +hyd": [],
    "train hydra/sweeper=": [f"hydra/sweeper={o}" for o in ("greedy", "grid", "qmc", "random", "tpe")],
    "train hydra/sweeper=[t": [],
    "train hydra/sweeper=tpe hydra/sw": [],
    "train hydra.sweeper.n_trials=": ["hydra.sweeper.n_trials=null"],
    "train hydra/sweeper=tpe hydra.sweeper.n_trials=": ["hydra.sweeper.n_trials=20", "hydra.sweeper.n_trials=null"],
    "train hydra.sweeper.pruner=": [f"hydra.sweeper.pruner={w}" for w in ("none", "median", "hyperband")],
    "train hydra.sweeper.tpe.multivariate=": ["hydra.sweeper.tpe.multivariate=true", "hydra.sweeper.tpe.multivariate=false"],
    "train +hydra.sweeper.": [],
    "train hydra/launcher=pool hydra.launcher.": ["hydra.launcher.workers="],
    "train hydra/launcher=pool hydra.launcher.workers=": ["hydra.launcher.workers=auto"],
    "train hydra/sweeper=grid,tpe hydra.sweeper.": [],
    f"{OWN} hydra/sweeper=mi": ["hydra/sweeper=mine"],
    f"{OWN} hydra/sweeper=mine hydra.sweeper.n_trials=": ["hydra.sweeper.n_trials=7", "hydra.sweeper.n_trials=null"],
    # values
    "train precision=": ["precision=float32", "precision=bfloat16", "precision=float64"],
    "train -m precision=float32,f": ["precision=float32,float64"],
    "train data.drop_last=": ["data.drop_last=false", "data.drop_last=true"],
    "train batch_size=": ["batch_size=100", "batch_size=full"],
    "train steps=": ["steps=null"],
    "train optimizer.eps=": ["optimizer.eps=1e-8"],
    "train experiment=mnist1d_paper optimizer.lr=": ["optimizer.lr=0.01"],
    "train experiment=mnist1d_paper steps=": ["steps=6000", "steps=null"],
    "train augmentation=shift augmentation.shift.fill=": [f"augmentation.shift.fill={w}" for w in ("wrap", "zero", "edge", "reflect")],
    "train hydra.sweep.subdir=": [],
    "race surface=b": ["surface=beale", "surface=branin", "surface=booth"],
    "race surface=c": ["surface=coupled_quadratic", "surface=custom"],
    "race optimizer=sgd,mu": ["optimizer=sgd,muon"],
    "race optimizer=sgd,adam ad": [f"adam.{key}=" for key in ("lr", "beta1", "beta2", "eps")],
    "race optimizer=sgd,newton newton.solver=": ["newton.solver=cg", "newton.solver=dense"],
    "race optimizer=sgd,exact:newton exact.solver=": ["exact.solver=cg", "exact.solver=dense"],
    "race surface=ill_conditioned surface.c": ["surface.condition="],
    "race st": ["steps=", "start="],
    "race optimizer=adam adam.lr=0.1 adam.l": [],
    "train nothing=": [],
    # signs
    "train ++optimizer.l": ["++optimizer.lr="],
    "train ++precision=bf": ["++precision=bfloat16"],
    "train +": [],
    "train ~reg": ["~regularization"],
    "train ~opt": [],
    "train ~optimizer.e": ["~optimizer.eps"],
    "train optimizer=custom optimizer._target_=my_rule.Sign +optimizer.": [f"+optimizer.{k}=" for k in ("lr", "mode", "nesterov")],
    "train optimizer=custom optimizer._target_=my_rule.Sign +optimizer.mode=": ["+optimizer.mode=hard", "+optimizer.mode=soft"],
    "train optimizer=custom optimizer._target_=my_rule.Nothing +optimizer.": [],
    "train arch=custom arch._target_=my_rule.net +arch.": ["+arch.depth=", "+arch.bias="],
    "train arch=custom arch._target_=my_rule.net +arch.depth=": ["+arch.depth=2", "+arch.depth=3"],
    # nested options
    "train schedule=warmup schedule.then=c": [f"schedule.then={o}" for o in ("constant", "cosine", "custom")],
    "train schedule=warmup schedule.then=cosine schedule.then.": ["schedule.then.final="],
    "train schedule=warmup schedule.then.": [],
    "train schedule=cosine schedule.th": [],
    "train optimizer=sam optimizer.base_optimizer=adag": ["optimizer.base_optimizer=adagrad"],
    "train optimizer=sam optimizer.base_optimizer=adam optimizer.base_optimizer.b": [f"optimizer.base_optimizer.beta{i}=" for i in (1, 2)],
    # schedules of other hyperparameters
    "train schedules.": [f"schedules.{n}=" for n in ("beta1", "beta2", "eps")],
    "train optimizer=sam schedules.": [f"schedules.{n}=" for n in ("rho", "momentum", "dampening")],
    "train optimizer=momentum regularization=[l2,dropout] schedules.": [
        f"schedules.{n}=" for n in ("momentum", "dampening", "l2", "dropout.p", "dropout.input")
    ],
    "train regularization=early_stopping schedules.ea": [],
    "train optimizer=momentum schedules.momentum=": [f"schedules.momentum={o}" for o in groups.list_option_names("schedule")],
    "train regularization=dropout schedules.dropout.p=cos": ["schedules.dropout.p=cosine"],
    f"train {SCHEDULED} schedules.momentum.": [f"schedules.momentum.{key}=" for key in ("length", "unit", "start", "then")],
    f"train {SCHEDULED} schedules.momentum.unit=": ["schedules.momentum.unit=epochs", "schedules.momentum.unit=steps"],
    f"train {SCHEDULED} schedules.momentum.then=cos": ["schedules.momentum.then=cosine"],
    # custom options
    f"{OWN} optimizer=si": ["optimizer=sign"],
    "train --config-dir=own optimizer=si": ["optimizer=sign"],
    f"{OWN} optimizer=sign optimizer.": ["optimizer.lr=", "optimizer.mode="],
    f"{OWN} optimizer=sign optimizer.mode=": ["optimizer.mode=hard", "optimizer.mode=soft"],
    f"{OWN} optimizer=sign +optimizer.": ["+optimizer.nesterov="],
    f"{OWN} optimizer=broken optimizer.": [],
    f"{OWN} optimizer=pipe optimizer.": [],
    f"{OWN} arch=wide arch.": ["arch.widths=", "arch.depth=", "arch.width=", "arch.factor="],  # of dlopt's mlp
    f"{OWN} +": ["+mood="],
    f"{OWN} +mood=": ["+mood=good"],
    "train --config-dir nowhere optimizer=nesterov": ["optimizer=nesterov"],
    # runs and files
    "show ": ["last", *RUNS, SWEEP, "outputs/multirun/2025-01-01/09-00-00-bbbb"],
    "show outputs/old": [RUNS[2]],
    "show mlp": [RUNS[0]],
    "show -cnn": [],
    "show 2026-01": [],
    "show last ": ["--all", "--plot", "--png", "--title", "--heat", "--batch", "--examples", "--trust", "--help"],
    "train resume=aaaa": [f"resume={RUNS[1]}"],
    "train resume=": ["resume=last", *(f"resume={path}" for path in (*RUNS, SWEEP))],
    "train data.path=da": ["data.path=data/", "data.path=data file.pt"],
    "train data.path=data/": ["data.path=data/x"],
    "train data.path=.h": ["data.path=.hidden"],
    "train --config-dir o": ["outputs/", "own/"],
    "train --config-dir=ow": ["--config-dir=own/"],
    "show --png da": ["data/", "data file.pt"],
    # list
    "list opt": ["optimizer"],
    "list optimizer mo": ["momentum"],
    "list optimizer=nesterov": ["optimizer=nesterov"],
    "list optimizer adam ": ["--config-dir", "--pages", "--help"],
    "list --config-dir own optimizer si": ["sign"],
    "list optimizer --config-dir own si": ["sign"],
    "list --config-dir own optimizer=si": ["optimizer=sign"],
    "list --config-dir o": ["outputs/", "own/"],
    "nothing ": [],
}  # fmt: skip


def test_candidates_of_each_line(files):
    wrong = {line: candidates for line, expected in CASES.items() if (candidates := complete(line)) != expected}
    assert wrong == {}


def test_words_after_the_cursor_and_the_home_directory_count_too(files, monkeypatch):
    assert complete("train optimizer.", "optimizer=nesterov") == ["optimizer.lr=", "optimizer.momentum="]
    assert complete("train optimizer=si", "--config-dir own") == ["optimizer=sign"]
    monkeypatch.setenv("HOME", str(files))
    assert complete("train --config-dir ~/ow") == [f"{files}/own/"]


def test_without_runs_there_are_no_candidates(here):
    assert complete("show ") == complete("train resume=") == []


def test_only_the_newest_of_many_runs_are_offered(here):
    for i in range(205):
        run = here / "outputs" / f"{i:03}"
        run.mkdir(parents=True)
        (run / "status.json").touch()
        os.utime(run / "status.json", (i, i))
    assert complete("show ") == ["last", *(f"outputs/{i:03}" for i in range(204, 4, -1))]
    assert complete("show outputs/00") == [f"outputs/00{i}" for i in range(9, -1, -1)]


def test_every_command_has_a_usage_of_known_kinds():
    assert COMMANDS.keys() <= USAGES.keys()
    for usage in USAGES.values():
        kinds = usage.replace("...", "").replace("|", " ").split()
        assert {kind for kind in kinds if kind.isupper()} <= KINDS.keys()


@pytest.mark.parametrize(
    "command", ["race", "list", "runs", "show", "evaluate", "export", "landscape", "spectrum", "verify", "rerun"]
)
def test_flags_and_choices_equal_those_of_the_parser(command):
    parser = import_module(COMMANDS[command].partition(":")[0]).build_parser()
    flags = {flag: action for action in parser._actions for flag in action.option_strings if flag != "-h"}
    assert set(complete(f"{command} -")) == {flag for flag in flags if flag.startswith("--")} | {"-q"} & set(flags)
    for flag, action in flags.items():
        if action.choices:
            assert complete(f"{command} {flag} ") == list(action.choices)


def test_train_offers_the_flags_of_hydra_and_dlopt():
    hydra_flags = {flag for action in get_args_parser()._actions for flag in action.option_strings}
    assert set(complete("train -")) - {"-q", "--quiet", "--trust", "--dry-run", "--yes"} <= hydra_flags
    for flag in ("--cfg", "--info"):
        action = next(a for a in get_args_parser()._actions if flag in a.option_strings)
        assert complete(f"train {flag} ") == list(action.choices)


# ------------------------------------------------------------------------------- against Hydra


def test_every_group_and_option_is_offered():
    for group in GROUPS:
        assert f"{group}=" in complete("train ")
        assert complete(f"train {group}=") == [f"{group}={option}" for option in groups.list_option_names(group)]
        assert complete(f"list {group} ") == groups.list_option_names(group)


@pytest.mark.parametrize(
    ("group", "option"), [(g, o) for g in groups.SWEEP_GROUPS for o in groups.list_option_names(g)]
)
def test_keys_of_a_search_and_their_values_are_offered(group, option):
    """Compare with the keys that Hydra composes and the values that the class allows."""
    tree = OmegaConf.to_container(compose_config(f"{group}={option}", hydra=True))["hydra"][group.rpartition("/")[2]]
    prefix = group.replace("/", ".")
    composed = list_keys({prefix: tree})
    assert complete(f"train {group}={option} {prefix}.") == [f"{key}=" for key in composed]
    target = get_object(groups.SWEEP_GROUPS[group])
    for key in composed:
        node, names = target, key.removeprefix(f"{prefix}.").split(".")
        for name in names[:-1]:
            node = read_signature(node).parameters[name].hint
        takes = read_signature(node).parameters
        words = list_literals(takes[names[-1]].hint) if names[-1] in takes else []
        assert {f"{key}={word}" for word in words} <= set(complete(f"train {group}={option} {key}="))


def list_keys(tree: dict) -> list[str]:
    return [key for key, _ in flatten(tree) if not key.endswith("_target_")]


def test_every_setting_is_offered():
    tree = OmegaConf.to_container(compose_config())
    expected = list_keys({k: v for k, v in tree.items() if k not in GROUPS})
    assert [c for c in complete("train ") if c.rstrip("=") not in groups.list_all_groups()] == [
        f"{key}=" for key in expected
    ]


def find_wrong_defaults(tree: dict, line: str) -> list[str]:
    """Return the keys of a tree for which the first candidate is not the value that Hydra composes."""
    parser = OverridesParser.create()
    return [
        key
        for key, value in flatten(tree)
        if not key.endswith(("_target_", ".path")) and "~" not in str(value)  # for a path, files are offered
        if parser.parse_override(complete(f"train {line} {key}=")[0]).value() != value
    ]


@pytest.mark.long
def test_keys_of_every_option_and_their_defaults_are_offered(monkeypatch):
    monkeypatch.setattr(static_config, "read_yaml_or_empty", functools.cache(static_config.read_yaml_or_empty))
    wrong = []
    for (group, option), tree in compose_every_option().items():
        line = f"{group}={option}"
        nested = [f"{group}.{key}" for key in load_nested_defaults(groups.CONF / group / f"{option}.yaml")]
        if sorted(complete(f"train {line} {group}.")) != sorted(
            f"{key}=" for key in (*list_keys({group: tree}), *nested)
        ):
            wrong.append(line)
        wrong += find_wrong_defaults({group: tree}, line)
    assert wrong == []


def test_options_of_a_nested_group_are_offered_where_they_are_chosen():
    """Not at the top, where no run takes them."""
    options = groups.list_option_names("linesearch")
    assert complete("train optimizer=lbfgs optimizer.linesearch=") == [f"optimizer.linesearch={o}" for o in options]
    assert "optimizer.linesearch.c1=" in complete("train optimizer=lbfgs optimizer.linesearch=armijo optimizer.")
    assert complete("train linesearch") == complete("train optimizer=adam optimizer.linesearch=") == []


def test_values_that_an_experiment_sets_are_offered():
    line = "experiment=mnist1d_paper optimizer=sgd"
    tree = OmegaConf.to_container(compose_config(*line.split()))
    assert find_wrong_defaults({group: tree[group] for group in ("optimizer", "data")}, line) == []


def test_an_option_may_choose_options_of_other_groups(files):
    (files / "own/loss").mkdir()
    (files / "own/loss/mine.yaml").write_text("# mine\n# me\n_target_: mine.Loss\nmargin: 1.5\n")
    (files / "own/data/line.yaml").write_text(
        "defaults:\n  - override /loss@_global_.loss: mine\n_target_: mine.Regression\n"
    )
    assert complete(f"{OWN} data=line loss.") == ["loss.margin="]
    assert complete(f"{OWN} data=line loss=mse loss.") == ["loss.metrics="]
    assert complete(f"{OWN} loss.") == ["loss.class_weights=", "loss.metrics="]
    (files / "own/experiment").mkdir()
    (files / "own/experiment/paper.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /data: line\nseed: 7\n"
    )
    assert complete(f"{OWN} experiment=paper loss.") == ["loss.margin="]
    assert complete(f"{OWN} experiment=paper seed=") == ["seed=7"]


# ------------------------------------------------------------------------------- against imported classes


def list_literals(hint: object) -> list[str]:
    """Return the values that a type hint allows, read with the typing module."""
    if hint is bool:
        return ["true", "false"]
    if hint is type(None):
        return ["null"]
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return [str(word) for word in inner]
    if typing.get_origin(hint) is typing.Annotated:
        return list_literals(inner[0])
    several = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return [word for h in inner for word in list_literals(h)] if several else []


def test_static_hints_equal_those_of_imported_classes():
    wrong = []
    for (group, option), tree in compose_every_option().items():
        for path, node in targets({group: tree}):
            target, parameters = node["_target_"], read_signature(get_object(node["_target_"])).parameters
            if list(static_hints.read_fields(target)) != list(parameters):
                wrong.append(f"{group}={option}: {path}")
            wrong += [
                f"{group}={option}: {path}.{name}"
                for name in parameters.keys() - set(groups.supplied_arguments(group))
                if static_hints.list_allowed_values(target, [name]) != list_literals(parameters[name].hint)
            ]
    assert wrong == []


@pytest.mark.parametrize(
    ("hint", "words"),
    [("int | Literal['full']", ["full"]), ("Known", ["p", "q"]), ("Optional_", ["true", "false", "null"]),
     ("Annotated[bool, 1]", ["true", "false"]), ("'bool'", []), ("list[bool]", []), ("a.b", [])],
)  # fmt: skip
def test_static_hints_of_custom_classes(hint, words, here):
    (here / "mine_too.py").write_text(
        "from typing import *\nfrom other import Known\nOptional_ = bool | None\nclass A:\n"
        f"    def __init__(self, x: {hint}, y=1): ...\n"
    )
    (here / "other").mkdir()
    (here / "other/__init__.py").write_text("from typing import Literal\nKnown = Literal['p', 'q']\n")
    assert list(static_hints.read_fields("mine_too.A")) == ["x", "y"]
    assert static_hints.list_allowed_values("mine_too.A", ["y"]) == []
    assert static_hints.list_allowed_values("mine_too.A", ["x"]) == words


# ------------------------------------------------------------------------------- odd input

PIECES = ["optimizer", "regularization", "=", ".", ",", "[", "]", "+", "~", "-", "--", "'", '"', "\\", " ", "sgd", "l2",
          "adam", "_target_", "lr", "--config-dir", "own", "resume", "data.path", "/", "..", "experiment", "mnist1d_paper",
          "list", "show", "é", "\x00", "hydra", "???", "$(", ":", "data"]  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=9))
def test_any_line_is_answered_by_words_that_complete_it(files, pieces):
    line = "train " + "".join(pieces)
    word = split(line)[0][-1]
    for candidate in complete(line):
        assert candidate.startswith(word) or "outputs/" in candidate
        assert "\n" not in candidate


def test_a_broken_configuration_offers_what_it_can(files, monkeypatch):
    conf = files / "conf"
    (conf / "optimizer").mkdir(parents=True)
    (conf / "config.yaml").write_text("defaults: [\n")
    (conf / "optimizer" / "adam.yaml").write_bytes(b"\xff\xfe\x00")
    monkeypatch.setattr(groups, "CONF", Path(conf))
    assert complete("train optimizer=adam optimizer.") == []
    assert complete("train epo") == []
    assert complete("train hydra.sweeper.") == []
    (conf / "config.yaml").write_text("- a\n- b\n")
    assert complete("train epo") == []
