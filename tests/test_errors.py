"""Names of what there is."""

from dlopt.errors import SHOWN, Mistake, nearest


def test_a_close_name_is_proposed_else_all_are_listed():
    assert nearest("adm", ["sgd", "adam"]) == "; did you mean adam?"
    assert nearest("xyz", ["sgd", "adam"]) == "; there is sgd, adam"
    assert nearest("xyz", []) == ""


def test_a_long_list_is_cut():
    said = nearest("xyz", [f"n{i}" for i in range(SHOWN + 2)])
    assert said.endswith(f"n{SHOWN - 1} and 2 more")


def test_a_mistake_is_an_error_of_a_value_with_a_key():
    error = Mistake("path", "is wrong")
    assert (error.key, str(error), isinstance(error, ValueError)) == ("path", "is wrong", True)
