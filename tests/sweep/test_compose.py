"""The runs of a sweep have the configuration that Hydra itself would compose."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from helpers import list_options
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathElement
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import OmegaConf, open_dict, read_write

from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import to_hydra
from dlopt.sweep.compose import Composer, _parse_value

SECRET = "postgresql+psycopg://me:hush@host/db"
SWEEP = (
    "hydra.sweep.dir=here",
    "hydra/sweeper=random",
    "hydra.sweeper.n_trials=7",
    f"hydra.sweeper.storage='{SECRET}'",
)
"""The overrides of the sweep itself."""
MULTIPLE = ("regularization", "augmentation", "preprocess", "diagnostic")


def load(*folders):
    """Return a loader, and what Hydra passes to a sweeper."""
    search = create_config_search_path(str(compose_groups.CONF))
    for folder in folders:
        search.get_path().insert(1, SearchPathElement("command-line", f"file://{folder}"))
    loader = ConfigLoaderImpl(search)
    return loader, loader.load_configuration("config", [*SWEEP], run_mode=RunMode.MULTIRUN)


@pytest.fixture(scope="module")
def common():
    setup_globals()
    return load()


def compose_by_hydra(common, overrides, number, path):
    """Return the resolved configuration of a run of Hydra's own launcher, and Hydra's part."""
    config = common[0].load_sweep_config(common[1], overrides)
    with read_write(config), open_dict(config):
        config.hydra.job.id, config.hydra.job.num = str(number), number
        config.hydra.runtime.output_dir = str(path.resolve())
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        tree = copy.deepcopy(config)
        with read_write(tree), open_dict(tree):
            del tree["hydra"]
        return OmegaConf.to_container(tree, resolve=True), OmegaConf.to_container(config.hydra, resolve=False)
    finally:
        HydraConfig.instance().cfg = before


def assert_as_hydra(common, *runs, first=0):
    """Compare the runs with these overrides, from number `first` on, with Hydra's."""
    composer = Composer(*common)
    jobs = []
    for number, typed in enumerate(runs):
        overrides = [to_hydra(word) for word in typed]
        job = composer.compose_job(Path("here") / str(number), overrides, number)
        if number < first:
            continue
        expected, hydra = compose_by_hydra(common, overrides, number, job.path)
        assert json.dumps(job.config) == json.dumps(expected), "keys in the same order, too"
        written = yaml.safe_load(job.hydra)["hydra"]
        for name in ("runtime", "job", "mode", "launcher", "sweep", "run"):
            assert written[name] == hydra[name]
        assert written["overrides"]["task"] == hydra["overrides"]["task"] == list(job.overrides)
        choices = {k.rpartition("@")[2]: v for k, v in hydra["runtime"]["choices"].items()}
        assert job.choices == {k: v for k, v in choices.items() if not k.startswith("hydra/") and v is not None}
        jobs.append(job)
    return jobs


NESTED = compose_groups.select_groups("nested")
GROUPS = {group: list_options(group) for group in sorted(compose_groups.list_groups()) if group not in NESTED}
ROUNDS = range(max(map(len, GROUPS.values())))


@pytest.mark.parametrize("k", [k if k < 3 else pytest.param(k, marks=pytest.mark.long) for k in ROUNDS])
def test_the_kth_option_of_every_group(k, common):
    """All together, with a value that is set in a copy."""
    chosen = {group: names[k % len(names)] for group, names in GROUPS.items()}
    typed = [f"{g}=[{name}]" if g in MULTIPLE and k % 2 else f"{g}={name}" for g, name in chosen.items()]
    assert_as_hydra(common, [*typed, "epochs=5"], [*typed, "epochs=6"], first=1)


VALUES = (
    *("0.1", "1e-3", "-1", "+2", ".5", "1.", "00", "1_000", "1E5", "-0", "0x1", "1e400", "nan", "-inf", "007", "1.5.2"),
    *("a", "'b c'", "'d,e'", "'${epochs}'", "null", "true", "False", "'1'", "1a", "''", '"x"', "a:b", "a b", "no"),
    *("[1]", "[]", "[[1],[2,null]]", "[a,'b,c',1e-3]", "${seed}", "a/b-c.d", r"'it\'s'"),
)


def test_values_are_read_as_hydra_reads_them():
    for text in VALUES:
        expected, value = OverridesParser.create().parse_override(f"x={text}").value(), _parse_value(text)
        assert (repr(value), type(value)) == (repr(expected), type(expected)), text


CASES = {
    "text": [[f"name={x}"] for x in ("null", "'b c'")],
    "lists": [["arch=mlp", f"arch.widths={x}"] for x in ("[1]", "[[1],[2]]", "null")],
    "dictionaries": [[f"validation={x}", "epochs=2"] for x in ("{fraction:0.2}", "{k:3,scheme:kfold}")],
    "nested": [["schedule=warmup", f"schedule.then={x}", f"schedule.length={n}"] for x, n in (("cosine", 1), ("step", 2), ("step", 3))],
    "schedules of hyperparameters": [[f"schedules.momentum={x}", f"epochs={n}"] for n, x in enumerate(("ramp", "cosine"), 1)],
    "several options": [[f"regularization={x}", "seed=1"] for x in ("none", "[dropout,l2]", "[]")],
    "keys of options": [["regularization=[l2,dropout]", f"regularization.l2.strength={x}"] for x in (0.1, 0.2)],
    "new keys": [[f"+mine.a.b={x}", f"+other={x}"] for x in (1, 2)],
    "new or old keys": [[f"++optimizer.lr={x}", f"++fresh.key={x}"] for x in (1, 2)],
    "a removed key": [["~clip", f"epochs={x}"] for x in (1, 2)],
    "a key twice": [[f"epochs={x}", f"epochs={x + 1}", f"+z={x}", f"z={x + 2}"] for x in (1, 5)],
    "a node and a key below": [[f"validation.k={x}", "validation={k:7}"] for x in (3, 4)],
    "a node removed above a key": [[f"validation.k={x}", "validation=null"] for x in (3, 4)],
    "elements of lists": [["arch=mlp", "arch.widths=[5,6]", f"arch.widths.1={x}"] for x in (3, 4)],
    "interpolations": [[f"name={x}"] for x in ("${seed}", "run${hydra:job.num}", "${hydra:runtime.output_dir}")],
    "interpolations of what varies": [[f"seed={x}", "+twice.a=${seed}", "+b=${twice.a}"] for x in (1, 2)],
    "an experiment": [["experiment=mnist1d_paper", f"seed={x}", "optimizer=sgd"] for x in (1, 2)],
    "a data set that chooses more": [[f"data={x}", f"seed={s}"] for x, s in (("mnist1d", 1), ("digits", 2), ("digits", 3))],
    "nothing": [[], ["seed=1"], []],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_run_has_the_configuration_that_hydra_composes(case, common):
    assert_as_hydra(common, *CASES[case])


def test_user_defined_options(tmp_path):
    folder = tmp_path / "optimizer"
    folder.mkdir()
    (folder / "own.yaml").write_text(
        "_target_: mine.Sign\nlr: 0.5\nsize: ${batch_size}\ntyped: ${hydra:job.override_dirname}\n"
    )
    runs = ([f"optimizer={o}", f"optimizer.lr={x}"] for o in ("own", "sgd") for x in (1, 2))
    jobs = assert_as_hydra(load(tmp_path), *runs)
    assert jobs[1].config["optimizer"] == {
        "_target_": "mine.Sign", "lr": 2, "size": 100, "typed": "optimizer.lr=2,optimizer=own", "groups": {}
    }  # fmt: skip
    assert jobs[1].choices["optimizer"] == "own"


def test_runs_share_nothing_mutable(common):
    composer = Composer(*common)
    overrides = ["arch=mlp", "arch.widths=[1,2]", "regularization=[l2]", "+list={a:[1]}"]
    first = composer.compose_job(Path("0"), overrides, 0)
    expected = copy.deepcopy(first.config)

    def clear(node):
        for value in list(node.values()) if isinstance(node, dict) else node:
            if isinstance(value, (dict, list)):
                clear(value)
        node.clear()

    clear(first.config)
    assert composer.compose_job(Path("1"), overrides, 1).config == expected


@pytest.mark.parametrize("name", ["it's", 'say "so"', "com,ma", "eq=ual", "é \N{GRINNING FACE}", "a: b #1"])
def test_the_file_of_hydra_holds_any_name(name, tmp_path, common):
    quoted = "'" + name.replace("'", r"\'") + "'"
    job = Composer(*common).compose_job(tmp_path / name / "3", [f"name={quoted}"], 3)
    hydra = yaml.safe_load(job.hydra)["hydra"]
    assert hydra["runtime"]["output_dir"] == str(tmp_path / name / "3")
    assert hydra["overrides"]["task"] == [f"name={quoted}"]
    assert (hydra["job"]["num"], hydra["job"]["id"]) == (3, "3")


def test_the_file_of_hydra_does_not_hold_the_address_of_a_storage(common):
    job = Composer(*common).compose_job(Path("0"), ["seed=1"], 0)
    assert "hush" not in job.hydra
    hydra = yaml.safe_load(job.hydra)["hydra"]
    assert hydra["sweeper"]["storage"] is None
    assert hydra["overrides"]["hydra"] == [word for word in SWEEP if "storage" not in word]
    assert hydra["runtime"]["cwd"] == str(Path.cwd())


def test_the_state_of_hydra_is_restored(common):
    HydraConfig.instance().cfg = None
    Composer(*common).compose_job(Path("0"), ["name='${hydra:job.num}'"], 0)
    assert HydraConfig.instance().cfg is None
