"""The runs of a sweep are composed as Hydra itself would compose them."""

import copy
import json
from pathlib import Path
from typing import Any

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
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import to_hydra
from dlopt.runner.job import Job
from dlopt.sweep.compose import Composer, _parse_value

SECRET = "postgresql+psycopg://me:hush@host/db"
OWN = ("hydra.sweep.dir=here", "hydra/sweeper=random", "hydra.sweeper.n_trials=7", f"hydra.sweeper.storage='{SECRET}'")
"""What the command line says of the sweep itself."""
MANY = ("regularization", "augmentation", "preprocess", "diagnostic")


def loader(*folders: Path) -> ConfigLoaderImpl:
    search = create_config_search_path(str(compose_groups.CONF))
    for folder in folders:
        search.get_path().insert(1, SearchPathElement("command-line", f"file://{folder}"))
    return ConfigLoaderImpl(search)


def of_sweep(loader: ConfigLoaderImpl, *overrides: str) -> DictConfig:
    """What Hydra hands a sweeper."""
    return loader.load_configuration("config", [*OWN, *overrides], run_mode=RunMode.MULTIRUN)


@pytest.fixture(scope="module")
def common() -> tuple[ConfigLoaderImpl, DictConfig]:
    setup_globals()
    found = loader()
    return found, of_sweep(found)


def by_hydra(common: tuple[ConfigLoaderImpl, DictConfig], overrides: list[str], number: int, place: Path) -> Any:
    """A run as Hydra's own launcher has it: its resolved configuration, and that of Hydra."""
    config = common[0].load_sweep_config(common[1], overrides)
    with read_write(config), open_dict(config):
        config.hydra.job.id, config.hydra.job.num = str(number), number
        config.hydra.runtime.output_dir = str(place.resolve())
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(config)
    try:
        own = copy.deepcopy(config)
        with read_write(own), open_dict(own):
            del own["hydra"]
        return OmegaConf.to_container(own, resolve=True), OmegaConf.to_container(config.hydra, resolve=False)
    finally:
        HydraConfig.instance().cfg = before


def check(common: tuple[ConfigLoaderImpl, DictConfig], *several: list[str], only: int = 0) -> list[Job]:
    """That the runs with these overrides, from the one of number `only` on, are Hydra's, each made by itself."""
    composer = Composer(*common)
    jobs = []
    for number, typed in enumerate(several):
        overrides = [to_hydra(word) for word in typed]
        job = composer.compose_job(Path("here") / str(number), overrides, number)
        if number < only:
            continue
        wanted, hydra = by_hydra(common, overrides, number, job.path)
        assert json.dumps(job.config) == json.dumps(wanted), "keys in the same order, too"
        found = yaml.safe_load(job.hydra)["hydra"]
        for name in ("runtime", "job", "mode", "launcher", "sweep", "run"):
            assert found[name] == hydra[name]
        assert found["overrides"]["task"] == hydra["overrides"]["task"] == list(job.overrides)
        chosen = {k.rpartition("@")[2]: v for k, v in hydra["runtime"]["choices"].items()}
        assert job.choices == {k: v for k, v in chosen.items() if not k.startswith("hydra/") and v is not None}
        jobs.append(job)
    return jobs


# ------------------------------------------------------------------------------------------------ Hydra's own


def test_every_option_of_every_group(common):
    """The first of each group together, the second of each, ..., with a value that varies, which is set in a copy."""
    groups = {group: list_options(group) for group in sorted(compose_groups.list_groups())}
    for k in range(max(map(len, groups.values()))):
        chosen = {group: names[k % len(names)] for group, names in groups.items()}
        typed = [f"{g}=[{name}]" if g in MANY and k % 2 else f"{g}={name}" for g, name in chosen.items()]
        check(common, [*typed, "epochs=5"], [*typed, "epochs=6"], only=1)


VALUES = (
    *("0.1", "1e-3", "-1", "+2", ".5", "1.", "00", "1_000", "1E5", "-0", "0x1", "1e400", "nan", "-inf", "007", "1.5.2"),
    *("a", "'b c'", "'d,e'", "'${epochs}'", "null", "true", "False", "'1'", "1a", "''", '"x"', "a:b", "a b", "no"),
    *("[1]", "[]", "[[1],[2,null]]", "[a,'b,c',1e-3]", "${seed}", "a/b-c.d", r"'it\'s'"),
)


@pytest.mark.parametrize("value", VALUES)
def test_a_value_is_read_as_hydra_reads_it(value):
    wanted = OverridesParser.create().parse_override(f"x={value}").value()
    found = _parse_value(value)
    assert (repr(found), type(found)) == (repr(wanted), type(wanted))


CASES: dict[str, list[list[str]]] = {
    "text": [[f"name={x}"] for x in ("a", "null", "'b c'")],
    "lists": [["arch=mlp", f"arch.widths={x}"] for x in ("[1]", "[2,3]", "[]", "[[1],[2]]", "null")],
    "dictionaries": [[f"validation={x}", "epochs=2"] for x in ("{fraction:0.2}", "{k:3,scheme:kfold}", "{fraction:0.3}")],
    "nested": [["schedule=warmup", f"schedule.then={x}", f"schedule.length={n}"] for x in ("cosine", "step") for n in (1, 2)],
    "schedules of other numbers": [[f"schedules.momentum={x}", f"epochs={n}"] for x in ("ramp", "cosine") for n in (1, 2)],
    "several options": [[f"regularization={x}", "seed=1"] for x in ("none", "l2", "[l2,dropout]", "[dropout,l2]", "[]")],
    "keys of options": [["regularization=[l2,dropout]", f"regularization.l2.strength={x}"] for x in (0.1, 0.2)],
    "new keys": [[f"+mine.a.b={x}", f"+other={x}"] for x in (1, 2)],
    "either way": [[f"++optimizer.lr={x}", f"++fresh.key={x}"] for x in (1, 2)],
    "taken out": [["~clip", f"epochs={x}"] for x in (1, 2)],
    "twice": [[f"epochs={x}", f"epochs={x + 1}", f"+z={x}", f"z={x + 2}"] for x in (1, 5)],
    "a node and what is below": [[f"validation.k={x}", "validation={k:7}"] for x in (3, 4)],
    "a node taken away above": [[f"validation.k={x}", "validation=null"] for x in (3, 4)],
    "elements of lists": [["arch=mlp", "arch.widths=[5,6]", f"arch.widths.1={x}"] for x in (3, 4)],
    "interpolations": [[f"name={x}"] for x in ("plain", "${seed}", "run${hydra:job.num}", "${hydra:runtime.output_dir}")],
    "interpolations of what varies": [[f"seed={x}", "+twice.a=${seed}", "+b=${twice.a}"] for x in (1, 2)],
    "an experiment": [["experiment=mnist1d_paper", f"seed={x}", "optimizer=sgd"] for x in (1, 2)],
    "a data set that chooses more": [[f"data={x}", f"seed={s}"] for x in ("mnist1d", "digits") for s in (1, 2)],
    "nothing": [[], ["seed=1"], []],
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_run_has_the_configuration_that_hydra_composes(case, common):
    check(common, *CASES[case])


def test_options_of_ones_own(tmp_path):
    folder = tmp_path / "optimizer"
    folder.mkdir()
    (folder / "own.yaml").write_text(
        "_target_: mine.Sign\nlr: 0.5\nsize: ${batch_size}\ntyped: ${hydra:job.override_dirname}\n"
    )
    found = loader(tmp_path)
    both = (found, of_sweep(found))
    jobs = check(both, *([f"optimizer={o}", f"optimizer.lr={x}"] for o in ("own", "sgd") for x in (1, 2)))
    assert jobs[1].config["optimizer"] == {
        "_target_": "mine.Sign", "lr": 2, "size": 100, "typed": "optimizer.lr=2,optimizer=own"
    }  # fmt: skip
    assert jobs[1].choices["optimizer"] == "own"


# ------------------------------------------------------------------------------------------------ by itself


def test_runs_share_nothing_that_can_change(common):
    composer = Composer(*common)
    overrides = ["arch=mlp", "arch.widths=[1,2]", "regularization=[l2]", "+list={a:[1]}"]
    first = composer.compose_job(Path("0"), overrides, 0)
    kept = copy.deepcopy(first.config)

    def spoil(node: Any) -> None:
        for value in list(node.values()) if isinstance(node, dict) else node:
            if isinstance(value, (dict, list)):
                spoil(value)
        node.clear()

    spoil(first.config)
    assert composer.compose_job(Path("1"), overrides, 1).config == kept


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'say "so"', "com,ma", "eq=ual", "é ü", "\N{GRINNING FACE}", "a: b", "#1"]
)
def test_hydras_file_names_directories_and_values_whatever_they_are_called(name, tmp_path, common):
    quoted = "'" + name.replace("'", r"\'") + "'"
    job = Composer(*common).compose_job(tmp_path / name / "3", [f"name={quoted}"], 3)
    hydra = yaml.safe_load(job.hydra)["hydra"]
    assert hydra["runtime"]["output_dir"] == str(tmp_path / name / "3")
    assert hydra["overrides"]["task"] == [f"name={quoted}"]
    assert (hydra["job"]["num"], hydra["job"]["id"]) == (3, "3")


def test_hydras_file_holds_no_address_of_a_storage(common):
    job = Composer(*common).compose_job(Path("0"), ["seed=1"], 0)
    assert "hush" not in job.hydra
    hydra = yaml.safe_load(job.hydra)["hydra"]
    assert hydra["sweeper"]["storage"] is None
    assert hydra["overrides"]["hydra"] == [word for word in OWN if "storage" not in word]
    assert hydra["runtime"]["cwd"] == str(Path.cwd())


def test_hydra_is_left_as_it_was(common):
    HydraConfig.instance().cfg = None
    Composer(*common).compose_job(Path("0"), ["name='${hydra:job.num}'"], 0)
    assert HydraConfig.instance().cfg is None
