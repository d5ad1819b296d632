"""Precedence of option choices: command line, experiment, data set, arch, default."""

import pytest
from hydra import compose, initialize_config_dir

from dlopt.config.compose import groups
from dlopt.config.compose.static_config import StaticConfig

OPTIONS = {
    "arch/deep": "defaults:\n  - override /normalization@_global_.normalization: batch\n_target_: mine.NormDropoutNet\n",
    "data/long": "defaults:\n  - override /arch@_global_.arch: deep\n_target_: mine.Blobs\n",
    "data/odd": "defaults:\n  - override /normalization@_global_.normalization: layer\n_target_: mine.Blobs\n",
    "data/both": "defaults:\n  - override /normalization@_global_.normalization: layer\n"
    "  - override /arch@_global_.arch: deep\n_target_: mine.Blobs\n",
    "experiment/net": "# @package _global_\ndefaults:\n  - override /arch: deep\n",
    "experiment/bare": "# @package _global_\ndefaults:\n  - override /normalization: none\n",
    "experiment/set": "# @package _global_\ndefaults:\n  - override /data: long\n",
    "experiment/all": "# @package _global_\ndefaults:\n  - override /normalization: layer\n  - override /arch: deep\n",
}
CHOICES = {
    "arch=deep": ("deep", "batch"),
    "data=long": ("deep", "batch"),
    "data=odd": ("cnn", "layer"),
    "data=both": ("deep", "layer"),
    "data=odd arch=deep": ("deep", "layer"),
    "data=long arch=linear": ("linear", "none"),
    "experiment=net": ("deep", "batch"),
    "experiment=set": ("deep", "batch"),
    "experiment=all": ("deep", "layer"),
    "experiment=bare arch=deep": ("deep", "none"),
    "experiment=bare data=both": ("deep", "none"),
    "experiment=net arch=mlp": ("mlp", "none"),
    "experiment=net data=odd": ("deep", "layer"),
    "normalization=layer arch=deep": ("deep", "layer"),
    "normalization=layer data=both experiment=bare": ("deep", "layer"),
}


@pytest.fixture(scope="module")
def user_options(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for name, text in OPTIONS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("line", CHOICES)
def test_the_command_line_wins_over_experiment_data_and_arch_in_this_order(line, user_options):
    """Tab completion agrees with Hydra."""
    with initialize_config_dir(version_base="1.3", config_dir=str(groups.CONF)):
        config = compose(
            "config", [*line.split(), f"hydra.searchpath=[file://{user_options}]"], return_hydra_config=True
        )
    static = StaticConfig(dict(word.split("=") for word in line.split()), [user_options])
    for choices in (config.hydra.runtime.choices, static.choices):
        assert (choices["arch"], choices["normalization"]) == CHOICES[line]
