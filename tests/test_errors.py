"""Errors with keys, and suggestions of names."""

from dlopt.errors import MAX_LISTED, OptionError, did_you_mean


def test_a_close_name_is_proposed_else_all_are_listed():
    assert did_you_mean("adm", ["sgd", "adam"]) == "; did you mean adam?"
    assert did_you_mean("xyz", ["sgd", "adam"]) == "; there is sgd, adam"
    assert did_you_mean("xyz", []) == ""


def test_a_long_list_is_cut():
    message = did_you_mean("xyz", [f"n{i}" for i in range(MAX_LISTED + 2)])
    assert message.endswith(f"n{MAX_LISTED - 1} and 2 more")


def test_an_option_error_is_a_value_error_with_a_key():
    error = OptionError("path", "is wrong")
    assert (error.key, str(error), isinstance(error, ValueError)) == ("path", "is wrong", True)
