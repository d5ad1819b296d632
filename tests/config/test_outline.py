"""The configuration as its files lie."""

from dlopt.config.outline import Outline


def test_an_option_is_a_file_of_its_groups_folder_alone():
    outline = Outline({})
    assert outline.content("loss", "mse")
    for option in ("../loss/mse", "../../conf/loss/mse", "./mse"):
        assert outline.content("loss", option) == {}
