"""Your own tables: encodings of columns, and errors with their lines."""

import calendar
import csv
import io
import math
import random
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import polars
import pytest
import torch
from helpers import assert_refused, make_option
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import OneHotEncoder

from dlopt.data import _files, _large_csv
from dlopt.data._cells import TableCells
from dlopt.data._csv import read_csv
from dlopt.errors import OptionError
from dlopt.parts import Split

PLAIN = make_option("data", "table", target="y")


@pytest.fixture
def load(tmp_path):
    """Return a function that writes a table, loads it, and fits all rows outside of the test."""

    def load(text, **keys):
        file = tmp_path / "my.csv"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        _files.cache.clear()
        return fit(replace(PLAIN, path=str(file), **keys))

    return load


def fit(option):
    """Return an option's data with the statistics of its training rows."""
    data = option.load()
    encoding = option.fit(data.train, data.encoding)
    return replace(data, encoding=encoding, **{
        name: Split(option.transform_inputs(split.inputs, encoding), option.transform_targets(split.targets, encoding))
        for name in ("train", "test", "validation") if (split := getattr(data, name)) is not None
    })  # fmt: skip


def lines(header, rows):
    return "\n".join([header, *rows]) + "\n"


def numbers(count=40):
    """Return a table in which x is an integer and y is not."""
    return lines("x,y", [f"{i},{i * 1.5 + 0.25}" for i in range(count)])


def join_splits(data):
    """Return inputs and targets of all examples, sorted by the first input."""
    x = torch.cat([data.train.inputs, data.test.inputs])
    y = torch.cat([data.train.targets, data.test.targets])
    order = x[:, 0].argsort()
    return x[order], y[order]


# ------------------------------------------------------------------------------------------------ columns


def test_numbers_are_inputs_and_text_is_one_hot_in_sorted_order(load):
    rows = [f"{i},{('red', 'Blue', 'green')[i % 3]},{-i / 4},{('no', 'yes')[i % 2]}" for i in range(30)]
    data = load(lines("i,colour,z,y", rows))
    x, y = join_splits(data)
    one = {"Blue": [1, 0, 0], "green": [0, 1, 0], "red": [0, 0, 1]}
    assert x.tolist() == [[i, *one[("red", "Blue", "green")[i % 3]], -i / 4] for i in range(30)]
    assert y.tolist() == [i % 2 for i in range(30)]
    assert data.names == ("no", "yes")
    assert data.outputs == 2
    assert x.dtype == torch.float32


def test_numbers_can_be_encoded_as_categories(load):
    data = load(lines("i,code,y", [f"{i},{(10, 9, 2)[i % 3]},{'ab'[i % 2]}" for i in range(30)]), categorical=["code"])
    assert data.shape == (4,)
    assert join_splits(data)[0][:3, 1:].tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]  # sorted as text: 10, 2, 9


def test_dropped_columns_are_not_checked_and_constant_ones_stay(load):
    text = lines("id,x,c,t,y", [f"{'' if i else 'a'},{i},7,same,{i + 0.5}" for i in range(20)])
    assert load(text, drop=["id"]).shape == (3,)


# ------------------------------------------------------------------------------------------------ targets


def test_numbers_are_standardized_by_the_training_rows(load):
    data = load(numbers(), test_fraction=0.3)
    raw = load(numbers(), test_fraction=0.3, standardize_target=False)
    y, all_y = raw.train.targets.double(), torch.cat([raw.train.targets, raw.test.targets])
    assert data.kind == "numbers"
    assert data.names == ("y",)
    assert sorted(all_y.flatten().tolist()) == [i * 1.5 + 0.25 for i in range(40)]
    assert abs(data.train.targets.double().mean()) < 1e-6
    torch.testing.assert_close((data.train.targets**2).mean(), torch.ones(()))  # the loss of the mean
    expected = (raw.test.targets.double() - y.mean()) / ((y - y.mean()) ** 2).mean().sqrt()
    torch.testing.assert_close(data.test.targets.double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (["no", "yes"], "auto", ("no", "yes")),
        (["true", "False"], "auto", ("False", "true")),
        (["10", "9"], "auto", ("9", "10")),
        (["1.0", "2.0"], "auto", ("1", "2")),
        (["0", "x1"], "classes", ("0", "x1")),
        (["0.5", "1.5"], "classes", ("0.5", "1.5")),
        (["0.5", "1.5"], "auto", ("y",)),
        (["1", "2"], "numbers", ("y",)),
    ],
)
def test_the_kind_of_a_target(load, values, kind, names):
    assert load(lines("x,y", [f"{i},{values[i % 2]}" for i in range(20)]), kind=kind).names == names


def test_up_to_twenty_different_integers_are_classes(load):
    assert load(lines("x,y", [f"{i},{i % 20}" for i in range(60)])).outputs == 20
    assert load(lines("x,y", [f"{i},{i % 21}" for i in range(60)])).kind == "numbers"


def test_the_test_split_is_stratified_and_the_same_each_time(load):
    text = lines("x,y", [f"{i},{'a' if i % 4 else 'b'}" for i in range(80)])
    one, two = load(text, test_fraction=0.25), load(text, test_fraction=0.25)
    assert one.test.targets.bincount().tolist() == [15, 5]
    assert torch.equal(one.test.inputs, two.test.inputs)


# ------------------------------------------------------------------------------------------------ missing values

HOLES = lines("x,t,y", [f"{'' if i in (4, 9) else i},{'NA' if i == 7 else 'uv'[i % 2]},{i + 0.5}" for i in range(20)])


def test_rows_with_missing_values_can_be_dropped(load):
    data = load(HOLES, missing="drop")
    assert join_splits(data)[0][:, 0].tolist() == [i for i in range(20) if i not in (4, 7, 9)]
    assert join_splits(data)[0].shape[1] == 3


def test_missing_numbers_become_the_training_mean_and_missing_text_a_category(load):
    data = load(HOLES, missing="fill", standardize_target=False)
    x, y = torch.cat([data.train.inputs, data.test.inputs]), torch.cat([data.train.targets, data.test.targets])
    row = {round(value - 0.5): i for i, value in enumerate(y[:, 0].tolist())}
    present = [round(v - 0.5) for v in data.train.targets[:, 0].tolist() if round(v - 0.5) not in (4, 9)]
    for i in range(20):
        expected = np.mean(present) if i in (4, 9) else i
        assert math.isclose(x[row[i], 0], expected, rel_tol=1e-6)
        assert x[row[i], 1:].tolist() == [float(i != 7 and i % 2 == 0), float(i != 7 and i % 2 == 1), float(i == 7)]


@pytest.mark.parametrize("way", ["", "NA", "na", "NaN", "nan", "null", "NULL", "?", "  ", "N/A", "None"])
def test_every_spelling_of_a_missing_value(load, way):
    text = lines("x,z,y", [f"{i},{way if i == 3 else i},{i + 0.5}" for i in range(20)])
    words = ("1 value missing, in z (1), the first in line 5", "data.missing=drop", "data.drop=[z]")
    assert_refused(lambda: load(text), "missing", *words)


# ------------------------------------------------------------------------------------------------ dates

DRAW = np.random.default_rng(0)
MOMENTS = [datetime(1967, 12, 30) + timedelta(minutes=int(m)) for m in DRAW.integers(0, 60 * 24 * 365 * 60, 40)]
MOMENTS += [datetime(y, m, d, h, 59) for y, m, d, h in ((2024, 2, 29, 0), (2024, 12, 31, 23), (2023, 12, 31, 23))]


def write_dates(cells):
    return lines("when;y", [f"{cell};{i + 0.5}" for i, cell in enumerate(cells)])


def load_dates(load, cells, **keys):
    """Return the inputs of all rows, in order."""
    data = load(write_dates(cells), dates=["when"], standardize_target=False, **keys)
    x, y = torch.cat([data.train.inputs, data.test.inputs]), torch.cat([data.train.targets, data.test.targets])
    return x[y[:, 0].argsort()].double().numpy(), data


def encode_by_calendar(moments):
    """Return days since 1970, and sine and cosine of the place in year, week and day, (N, 7), by Python's calendar."""
    rows = []
    for moment in moments:
        day = (moment.hour + moment.minute / 60) / 24
        year = (moment.timetuple().tm_yday - 1 + day) / (366 if calendar.isleap(moment.year) else 365)
        fractions = year, (moment.isoweekday() - 1 + day) / 7, day
        days = moment.toordinal() - datetime(1970, 1, 1).toordinal() + day
        rows.append([days, *(wave(2 * math.pi * f) for f in fractions for wave in (math.sin, math.cos))])
    return np.array(rows)


@pytest.mark.parametrize("has_time", [True, False])
def test_dates_are_days_and_places_in_year_week_and_day(load, has_time):
    moments = MOMENTS if has_time else [datetime(m.year, m.month, m.day) for m in MOMENTS]
    x, data = load_dates(load, [str(m) if has_time else f"{m:%Y-%m-%d}" for m in moments])
    expected = encode_by_calendar(moments)[:, : 7 if has_time else 5]
    train = np.round(data.train.targets[:, 0].numpy() - 0.5).astype(int)
    expected[:, 0] -= expected[train, 0].mean()
    assert data.notices == ()
    np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-6)


FORMS = [
    "%Y%m%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%MZ", "%Y-%m-%d %H:%M:%S.%f", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d",
    "%d-%m-%Y", "%d %b %Y", "%d %B %Y", "%B %d, %Y", "%d-%b-%Y", "%d/%m/%Y %H:%M", "%m/%d/%Y %I:%M %p", "%d.%m.%Y %H:%M:%S",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_formats_of_dates(load, form):
    cells = [m.strftime(form) for m in MOMENTS]
    iso = [str(datetime.strptime(cell, form)) for cell in cells]
    expected = load_dates(load, iso)[0]
    for option in ("auto", form) if "Z" not in form else ("auto",):
        np.testing.assert_array_equal(load_dates(load, cells, date_format=option)[0], expected)


def test_times_with_a_zone_are_converted_to_utc(load):
    moments = [datetime(2024, 1, d, h) for d in range(1, 29) for h in (0, 13)]
    utc = load_dates(load, map(str, moments))[0]
    shifted = [f"{m + timedelta(hours=2)}+02:00" if i % 2 else f"{m}Z" for i, m in enumerate(moments)]
    np.testing.assert_array_equal(load_dates(load, shifted)[0], utc)
    zoned = [f"{m + timedelta(hours=2):%d/%m/%Y %H:%M} +0200" for m in moments]
    np.testing.assert_array_equal(load_dates(load, zoned, date_format="%d/%m/%Y %H:%M %z")[0], utc)


def test_dates_a_second_apart_stay_different(load):
    moments = [datetime(2024, 5, 17, 12, 0, i) for i in range(60)]
    days = load_dates(load, map(str, moments))[0][:, 0]
    np.testing.assert_allclose(np.diff(days) * 86400, 1, rtol=1e-4)


def test_missing_dates_are_filled_by_the_training_means_or_dropped(load):
    cells = ["" if i in (3, 17) else str(m) for i, m in enumerate(MOMENTS)]
    x, data = load_dates(load, cells, missing="fill")
    train = np.round(data.train.targets[:, 0].numpy() - 0.5).astype(int)
    mean = encode_by_calendar(MOMENTS)[[i for i in train if i not in (3, 17)]].mean(0)
    np.testing.assert_allclose(x[[3, 17]], np.tile([0, *mean[1:]], (2, 1)), atol=1e-6)
    assert len(load_dates(load, cells, missing="drop")[0]) == len(MOMENTS) - 2
    assert_refused(lambda: load_dates(load, cells), "missing", "2 values missing, in when (2), the first in line 5")


def test_another_table_has_dates_of_the_same_format(load, tmp_path):
    cells = [f"{m:%m/%d/%Y}" for m in MOMENTS]
    x, data = load_dates(load, cells)
    assert data.encoding["columns"]["when"]["date_format"] == "%m/%d/%Y"
    other = tmp_path / "other.csv"
    option = replace(PLAIN, path=str(other), missing="fill")
    other.write_text(write_dates([f"{m:%m/%d/%Y}" for m in MOMENTS[:5]]))  # of which some fit %d/%m/%Y
    raw = option.load_like(data.encoding)
    np.testing.assert_array_equal(option.transform_inputs(raw.test.inputs, data.encoding), x[:5])
    other.write_text(write_dates(["01/02/2024", "2024-02-01"]))
    words = "when was a date as %m/%d/%Y in training, but has '2024-02-01' in line 3"
    assert_refused(lambda: option.load_like(data.encoding), "path", words)


EARLY = ["01/02/2024", "03/04/2024", "12/12/2024"]
WRONG_DATES = {
    "either order": (EARLY, {}, "date_format", ["'01/02/2024' in line 2", "data.date_format=%d/%m/%Y or data.date_format=%m/%d/%Y"]),
    "either order with times": ([f"{d} 10:30" for d in EARLY], {}, "date_format", ["set data.date_format='%d/%m/%Y %H:%M' or"]),
    "no such day": (["2024-02-28", "2024-02-30"], {}, "dates", ["when has '2024-02-30' in line 3", "not a date as ISO 8601"]),
    "another order": (["31/12/2024", "12/31/2024"], {}, "dates", ["'12/31/2024' in line 3", "not a date as %d/%m/%Y"]),
    "no dates": (["a", "b"], {}, "dates", ["'a' in line 2", "in a known format", "data.date_format"]),
    "another format": (["2024|02|03"], {"date_format": "%Y|%m|%m"}, "date_format", ["strptime", "'%Y|%m|%m'"]),
    "a wrong cell": (["03/02/2024", "03/25/2024", "04/02/2024"], {"date_format": "%d/%m/%Y"}, "dates", ["'03/25/2024' in line 3", "not a date as %d/%m/%Y"]),
    "of another format": (["2024-01-31"], {"date_format": "%d.%m.%Y"}, "date_format", ["no column of data.dates has the format %d.%m.%Y"]),
    "not in the format": (["24|02|03", "2024"], {"date_format": "%y|%m|%d"}, "dates", ["'2024' in line 3", "not a date as %y|%m|%d"]),
    "a format alone": (EARLY, {"date_format": "%d/%m/%Y", "dates": []}, "date_format", ["add data.dates=[...]"]),
    "dates and categories": (EARLY, {"categorical": ["when"]}, "dates", ["when is in data.categorical, too"]),
    "no such column": (EARLY, {"dates": ["then"]}, "dates", ["no column 'then'"]),
    "the target": (EARLY, {"dates": ["y"]}, "dates", ["y is the target"]),
    "no date at all": ([""] * 3, {"missing": "fill"}, "missing", ["when has no value in any row"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_DATES)
def test_refused_dates(load, name):
    cells, keys, key, words = WRONG_DATES[name]
    rows = [*cells, *cells[:1] * 12]
    assert_refused(lambda: load(write_dates(rows), **{"dates": ["when"], **keys}), key, *words)


def test_a_format_applies_to_the_columns_that_have_it(load):
    text = lines("a,b,c,y", [f"{m:%d/%m/%Y},{m:%Y-%m-%d},{m:%y|%m|%d},{i}.5" for i, m in enumerate(MOMENTS[:9])])
    text = text.replace("a,b,c,y\n", "a,b,c,y\n01/02/2024,2024-02-01,24|02|01,0.25\n")
    data = load(text, dates=["a", "b"], drop=["c"], date_format="%d/%m/%Y")
    assert torch.equal(data.train.inputs[:, :5], data.train.inputs[:, 5:])
    data = load(text, dates=["b", "c"], drop=["a"], date_format="%y|%m|%d")
    assert data.train.inputs[:, :5].isfinite().all()


# ------------------------------------------------------------------------------------------------ notices

ID = "whole numbers grow from row to row in id, as identifiers do; set data.drop=[id]"
NOTICES = {
    "dates": ("when", lambda i: f"{1 + i % 28}.03.2024", {"rows": 90}, "each date in when (28 inputs) is an input of its own; set "
              "data.dates=[when] to use them as numbers, data.drop=[when], or data.categorical=[when] to keep them"),
    "dates to keep": ("when", lambda i: f"{1 + i % 28}.03.2024", {"categorical": ["when"]}, None),
    "many texts": ("city", lambda i: f"c{i % 51}", {},
                   "each text in city (51 inputs) is an input of its own; set data.drop=[city], or data.categorical=[city] to keep them"),
    "texts to keep": ("city", lambda i: f"c{i % 51}", {"categorical": ["city"]}, None),
    "50 texts": ("city", lambda i: f"c{i % 50}", {}, None),
    "texts with few rows": ("city", lambda i: f"c{i % 31}", {"rows": 300}, "each text in city (31 inputs) is"),
    "texts with ten rows": ("city", lambda i: f"c{i % 30}", {"rows": 300}, None),
    "20 texts with few rows": ("city", lambda i: f"c{i % 20}", {"rows": 40}, None),
    "an identifier": ("id", lambda i: 1000 + 3 * i, {}, ID),
    "an identifier from 0": ("id", lambda i: i, {}, ID),
    "equal numbers": ("id", lambda i: i // 2, {}, None),
    "numbers in another order": ("id", lambda i: -i, {}, None),
    "fractions": ("id", lambda i: i + 0.5, {}, None),
    "few rows": ("id", lambda i: i, {"rows": 20}, None),
    "missing numbers": ("id", lambda i: "" if i == 7 else i, {"missing": "fill"}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", NOTICES)
def test_columns_that_are_probably_something_else(load, name):
    column, cell, keys, notice = NOTICES[name]
    keys = {"rows": 600, **keys}
    rows = [f"{cell(i)},{math.sin(i)},{i % 7}.5" for i in range(keys.pop("rows"))]
    notices = load(lines(f"{column},x,y", rows), **keys).notices
    assert len(notices) == (notice is not None)
    assert all(n.startswith(notice) for n in notices)


def test_one_notice_names_all_columns_of_its_kind(load):
    """The only input is not reported as an identifier."""
    rows = [f"{i},{2 * i},c{i % 60},d{i % 70},{i % 7}.5" for i in range(600)]
    notices = load(lines("a,b,c,d,y", rows)).notices
    assert [("data.drop=[a,b]" in n, "data.categorical=[c,d]" in n) for n in notices] == [(False, True), (True, False)]
    assert load(lines("x,y", [f"{i},{i % 7}.5" for i in range(600)])).notices == ()


# ------------------------------------------------------------------------------------------------ forms of files


@pytest.mark.parametrize(
    ("delimiter", "option"),
    [(",", "auto"), (";", "auto"), ("\t", "auto"), ("|", "auto"), (":", ":"), ("\t", "tab"), (";", "semicolon")],
)
def test_delimiters(load, delimiter, option):
    text = lines("x,t,y", [f"{i},a b,{i + 0.5}" for i in range(20)]).replace(",", delimiter)
    assert load(text, delimiter=option).shape == (2,)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_line_ends_empty_lines_spaces_and_quotes(load, end):
    rows = ["", ' x , "t, or ""u""",y', *(f'{i} , "a, b", {i + 0.5}' for i in range(20)), "", "   "]
    data = load(b"\xef\xbb\xbf" + end.join(rows).encode())
    assert join_splits(data)[0].tolist() == [[i, 1] for i in range(20)]


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6).map(str.strip).filter(
    lambda s: s and s.lower() not in ("na", "n/a", "nan", "none", "null", "?") and not s.startswith("\ufeff")
)  # fmt: skip


@settings(max_examples=50)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_what_the_csv_module_writes_is_read(tmp_path_factory, rows, delimiter):
    file = tmp_path_factory.mktemp("table") / "t.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("one", "two"), *rows])
    columns = {"one": [a for a, _ in rows], "two": [b for _, b in rows]}
    assert read_csv(file, "auto", "auto").to_cells() == TableCells(columns, list(range(2, len(rows) + 2)))


def test_line_numbers_count_the_lines_inside_cells(load):
    text = 'x,t,y\n1,"a\nb\nc",1.5\n\n2,,2.5\n'
    assert_refused(lambda: load(text), "missing", "the first in line 6")


@pytest.mark.parametrize(("codec", "option"), [
    ("utf-16", "auto"), ("utf-32", "auto"), ("utf-8-sig", "auto"), ("utf-8-sig", "utf-8"), ("latin-1", "latin-1"),
    ("cp1252", "cp1252"), ("utf-16-le", "utf-16-le"), ("utf-16", "utf-16"),
])  # fmt: skip
def test_encodings_of_a_file(load, codec, option):
    text = lines("größe\tt\ty", [f"{i}\t{('Straße', 'Öl')[i % 2]}\t{i + 0.5}" for i in range(20)])
    data = load(text.encode(codec), encoding=option)
    assert list(data.encoding["columns"]) == ["größe", "t"]
    assert data.encoding["columns"]["t"] == ["Straße", "Öl"]


def test_a_name_may_contain_a_line_end(load):
    text = 'x;"length\nin, or, about, cm";y\n' + "".join(f"{i};{2 * i};{i + 0.5}\n" for i in range(20))
    assert list(load(text).encoding["columns"]) == ["x", "length\nin, or, about, cm"]


def test_counted_columns_and_an_index_are_those_of_pandas(load):
    rows = [f"{i},{2 * i},{i + 0.5}" for i in range(20)]
    data = load(lines("0,1,2", rows), target="2")
    assert (list(data.encoding["columns"]), data.notices) == (["0", "1"], ())
    for header, target in ((",a,y", "y"), (",0,1", "1")):
        data = load(lines(header, rows), target=target)
        assert (data.shape, len(data.notices)) == ((1,), 1)
        assert "first column has no name" in data.notices[0]
        assert join_splits(data)[0].flatten().tolist() == [2 * i for i in range(20)]


def test_equal_numbers_are_one_category_and_other_texts_are_not(load):
    """Codes with leading zeros and names of versions are texts."""
    spellings = {"1": 0, "1.0": 0, "+1": 0, "1e0": 0, "2.50": 1, "2.5": 1, "01": 2, "10": 3}
    text = lines("i,code,y", [f"{i},{list(spellings)[i % 8]},{i + 0.5}" for i in range(80)])
    data = load(text, categorical=["code"])
    x = join_splits(data)[0][:, 1:]
    assert x.shape[1] == 4
    groups = {tuple(x[i].tolist()) for i in range(8)}
    assert len(groups) == 4
    for a, one in enumerate(spellings):
        for b, other in enumerate(spellings):
            assert torch.equal(x[a], x[b]) == (spellings[one] == spellings[other])
    assert load(text.replace("+1", "x"), categorical=["code"]).shape == (1 + 8,)


# ------------------------------------------------------------------------------------------------ groups and times


def visits(when=lambda i: i, who=lambda i: f"p{i % 7}", count=70):
    return lines("who,when,x,y", [f"{who(i)},{when(i)},{i},{i + 0.5}" for i in range(count)])


def test_the_test_split_and_the_groups_of_a_table(load):
    data = load(visits(), group="who", drop=["when"], test_fraction=0.3)
    assert (list(data.encoding["columns"]), data.times) == (["x"], None)
    known, tested = (split.inputs.flatten().long() % 7 for split in (data.train, data.test))
    assert (len(known.unique()), len(tested.unique())) == (5, 2)
    assert not set(known.tolist()) & set(tested.tolist())
    assert len(set(zip(known.tolist(), data.groups.tolist(), strict=True))) == len(data.groups.unique()) == 5
    one = load(visits(who=lambda i: (1, "1.0", 2, 3, 4, 5, 6)[i % 7]), group="who", drop=["when"], test_fraction=0.34)
    assert len(one.groups.unique()) == 6 - 2  # 1 and 1.0 are one of six groups, and two are for the test


@pytest.mark.parametrize("when", [
    lambda i: i - 30, lambda i: i / 4 + 1.7e9, lambda i: 10**18 + i, lambda i: f"2023-{i % 12 + 1:02}-{i // 12 + 10}",
    lambda i: f"{1990 + i}-03", lambda i: f"2024-05-01T{i // 60:02}:{i % 60:02}:30+02:00",
], ids=["integers", "floats", "nanoseconds", "dates", "months", "zones"])  # fmt: skip
def test_the_latest_rows_of_a_table_are_its_test(load, when):
    data = load(visits(when), time="when", drop=["who"], test_fraction=0.2)
    place = {t: i for i, t in enumerate(sorted({when(i) for i in range(70)}))}
    late = [i for i in range(70) if place[when(i)] >= len(place) - round(0.2 * len(place))]
    assert sorted(data.test.inputs.flatten().tolist()) == late
    assert data.groups is None
    order = torch.tensor([place[when(int(i))] for i in data.train.inputs.flatten().tolist()])
    assert torch.equal(order.unique(return_inverse=True)[1], data.times.unique(return_inverse=True)[1])


def test_a_column_of_groups_or_times_is_an_input_if_it_is_a_category(load):
    dates = visits(lambda i: f"{i % 28 + 1}.12.2024")
    assert load(dates, time="when", dates=["when"], drop=["who"]).shape == (5 + 1,)
    assert load(dates, time="when", date_format="%d.%m.%Y", drop=["who"], test_fraction=0.1).test.inputs.tolist() == [
        [25], [26], [27], [53], [54], [55]
    ]  # fmt: skip
    data = load(visits(lambda i: i // 10), time="when", categorical=["when"], drop=["who"])
    assert {name: len(codes) for name, codes in data.encoding["columns"].items() if name == "when"} == {"when": 7}
    assert load(visits(), group="who", categorical=["who"], drop=["when", "x"]).shape == (7,)


# ------------------------------------------------------------------------------------------------ files of their own

PEOPLE = [f"{i},{('red', 'blue')[i % 3 // 2]},{i * 2.5}" for i in range(30)]


@pytest.fixture
def three(load, tmp_path):
    """Return a function that loads a table with validation and test rows in files of their own."""

    def load_three(*rows, names=("validation_path", "test_path"), **keys):
        for name, own in zip(names, rows, strict=True):
            (tmp_path / f"{name}.csv").write_text(lines("x,colour,y", own))
        return load(lines("x,colour,y", PEOPLE), **{name: str(tmp_path / f"{name}.csv") for name in names}, **keys)

    return load_three


@pytest.mark.parametrize("numbers", [False, True])
def test_a_group_in_two_files_is_refused(numbers, tmp_path):
    """1 and 1.0 are one group. A file without groups is reported."""
    rows = {"path": "123", "validation_path": "45", "test_path": "67"}
    common = {"target": "y", "group": "who", "kind": "numbers"}

    def load(**changed):
        for key, who in (rows | changed).items():
            names = [f"{n}.0" if numbers and key != "path" else n if numbers else f"p{n}" for n in who]
            lines = [f"{i},{i % 3},{name}" for i, name in enumerate(names * 4)]
            text = "x,y,who\n" + "\n".join(lines) if who else "x,y\n1,2\n3,4"
            (tmp_path / f"{key}.csv").write_text(text + "\n")
        paths = {key: str(tmp_path / f"{key}.csv") for key in rows}
        return replace(make_option("data", "table"), **common, **paths).load()

    assert load().notices == ()
    for key, who, other in (("validation_path", "43", "path"), ("test_path", "57", "validation_path")):
        with pytest.raises(OptionError, match=rf"{key}.csv and .*/{other}.csv both have who .*[35]") as refused:
            load(**{key: who})
        assert refused.value.key == key
    (notice,) = load(validation_path="").notices
    assert "validation_path.csv has no who" in notice


def test_splits_with_files_of_their_own_are_encoded_as_the_training_rows(three):
    """All rows of the training file are for training, and the order of columns does not matter."""
    data = three(["3,blue,7", "4.5,red,1"], ["100,red,0"] * 3, missing="fill")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [30, 2, 3]
    assert data.train.inputs.tolist() == [[i, i % 3 == 2, i % 3 != 2] for i in range(30)]
    assert data.validation.inputs.tolist() == [[3, 1, 0], [4.5, 0, 1]]
    mu, sigma = np.mean([i * 2.5 for i in range(30)]), np.std([i * 2.5 for i in range(30)])
    np.testing.assert_allclose(data.validation.targets[:, 0], (np.array([7, 1]) - mu) / sigma, rtol=1e-6)
    np.testing.assert_allclose(data.test.targets[:, 0], -mu / sigma, rtol=1e-6)


def test_a_file_of_one_split_leaves_the_other_as_it_is(three, load):
    plain = load(lines("x,colour,y", PEOPLE), test_fraction=0.3)
    one = three(["3,blue,7"], names=["validation_path"], test_fraction=0.3)
    for a, b in zip((plain.train, plain.test), (one.train, one.test), strict=True):
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.targets, b.targets)
    other = three(["3,blue,7"], names=["test_path"])
    assert (len(other.train), len(other.test), other.validation) == (30, 1, None)
    digests = [data.encoding["sha256"] for data in (plain, one, other, three(["3,blue,8"], names=["test_path"]))]
    assert len(set(digests)) == 4 - (digests[1] == digests[2])  # the same content in the other role


WRONG_FILES = {
    "text for a number": (["1,red,2", "big,red,2"], {}, "validation_path", ["x was numeric in training", "'big' in line 3"]),
    "a missing value": (["1,red,2", ",red,2"], {}, "missing", ["validation_path.csv: 1 value missing, in x (1), the first in line 3"]),
    "a missing target": (["1,red,2", "1,red,"], {}, "target", ["validation_path.csv: y is missing in 1 row"]),
    "no rows": ([], {}, "validation_path", ["validation_path.csv has a first line but no rows"]),
    "no target": (["1,red,", "2,red,"], {}, "validation_path", ["validation_path.csv has no values of the target y"]),
    "a new class": (["1,red,9"], {"kind": "classes"}, "target", ["validation_path.csv: unknown classes 9"]),
}  # fmt: skip


def test_a_category_that_training_did_not_have_is_none_of_its_categories(three):
    """Zeros, as scikit-learn's OneHotEncoder gives with handle_unknown='ignore'."""
    data = three(["1,green,2", "2,red,3", ",pink,4", "3,green,5"], names=["validation_path"], missing="fill")
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit([["red"], ["blue"]])
    expected = encoder.transform([["green"], ["red"], ["pink"], ["green"]])
    assert data.validation.inputs[:, 1:].tolist() == expected.tolist()
    (notice,) = (notice for notice in data.notices if "colour" in notice)
    assert notice.endswith(
        "validation_path.csv: colour has 'green', 'pink' in 3 rows, the first in line 2; "
        "training had blue, red, so such a row counts as none of them (other)"
    )
    plain = three(["1,red,2"], names=["validation_path"])
    assert not any("colour" in notice for notice in plain.notices)


def test_text_that_is_missing_only_in_another_table_is_none_of_the_categories(three):
    data = three(["1,,2", "2,red,3"], names=["validation_path"], missing="fill")
    assert data.validation.inputs[:, 1:].tolist() == [[0, 0], [0, 1]]
    assert "colour has a missing value in 1 row, the first in line 2" in data.notices[-1]


@pytest.mark.parametrize("name", WRONG_FILES)
def test_wrong_files_of_splits_are_refused(name, three):
    rows, keys, key, words = WRONG_FILES[name]
    assert_refused(lambda: three(rows, names=["validation_path"], **keys), key, *words)


def test_a_missing_file_of_a_split_is_reported_with_similar_names(load, tmp_path):
    (tmp_path / "val.csv").touch()
    assert_refused(
        lambda: load(numbers(), validation_path=str(tmp_path / "vall.csv")), "validation_path", "did you mean val.csv"
    )
    (tmp_path / "test.csv").write_text("x,z\n1,2\n")
    assert_refused(
        lambda: load(numbers(), test_path=str(tmp_path / "test.csv")),
        "test_path",
        "test.csv has no values of the target y",
    )


# ------------------------------------------------------------------------------------------------ Parquet

FRAME = {
    "size": [0.1 + i for i in range(40)],
    "rooms": [None if i == 7 else i % 5 for i in range(40)],
    "colour": [["red", "blue ", None][i % 3] for i in range(40)],
    "new": [i % 4 == 0 for i in range(40)],
    "sold": [datetime(2024, 1, 1, 12) + timedelta(days=3 * i) for i in range(40)],
    "built": [(datetime(2001, 5, 31) + timedelta(days=40 * i)).date() for i in range(40)],
    "who": [i // 4 for i in range(40)],
    "y": [i * 2.5 for i in range(40)],
}
PARQUET_KEYS = {
    "dates": {"dates": ["sold", "built"]},
    "a group": {"dates": ["sold", "built"], "group": "who"},
    "a time": {"time": "sold", "dates": ["built"]},
}


@pytest.mark.parametrize("name", PARQUET_KEYS)
def test_a_parquet_file_gives_the_same_data_as_the_csv_file_that_polars_writes(load, tmp_path, name):
    frame = polars.DataFrame(FRAME)
    keys = {"missing": "fill", **PARQUET_KEYS[name]}
    one, other = load(write_parquet(frame), **keys), load(frame.write_csv(), **keys)
    for split, same in ((one.train, other.train), (one.test, other.test)):
        assert torch.equal(split.inputs, same.inputs)
        assert torch.equal(split.targets, same.targets)
    assert one.notices == other.notices
    for units in ("groups", "times"):
        assert str(getattr(one, units)) == str(getattr(other, units))
    (tmp_path / "val.parquet").write_bytes(write_parquet(frame.with_columns(polars.col("who") + 100)[:6]))
    own = load(write_parquet(frame), validation_path=str(tmp_path / "val.parquet"), **keys)
    assert len(own.validation) == 6


def write_parquet(frame):
    stream = io.BytesIO()
    frame.write_parquet(stream)
    return stream.getvalue()


def test_float32_numbers_of_a_parquet_file_are_unchanged(load):
    x = np.random.default_rng(0).normal(size=40).astype(np.float32)
    data = load(write_parquet(polars.DataFrame({"x": x, "y": np.arange(40) * 0.5})), standardize_target=False)
    rows = torch.cat([data.train.targets, data.test.targets]).flatten().mul(2).long()
    assert torch.equal(torch.cat([data.train.inputs, data.test.inputs])[:, 0], torch.from_numpy(x)[rows])


WHOLE_PARQUET = write_parquet(polars.DataFrame({"x": [1.0, 2.0] * 9, "y": [0, 1] * 9}))
WRONG_PARQUET = {
    "cut": (WHOLE_PARQUET[:-9], "path", ["my.csv is not a valid Parquet file"]),
    "damaged": (b"PAR1" + WHOLE_PARQUET[4:-40] + bytes(40), "path", ["is not a valid Parquet file"]),
    "lists": (write_parquet(polars.DataFrame({"x": [[1], [2]], "y": [0, 1]})), "path", ["x holds List(Int64)", "leave it out"]),
    "no rows": (write_parquet(polars.DataFrame({"x": [1], "y": [0]})[:0]), "path", ["has no rows"]),
    "text among numbers": (write_parquet(polars.DataFrame({"x": ["1"] * 8 + ["big"], "y": [0.5 * i for i in range(9)]})), "categorical", ["x has numbers, but also text: 'big' in line 9"]),
    "infinity": (write_parquet(polars.DataFrame({"x": [1.0] * 8 + [math.inf], "y": [0.5 * i for i in range(9)]})), "categorical", ["'inf' in line 9"]),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_PARQUET)
def test_wrong_parquet_files_are_refused(name, load):
    content, key, words = WRONG_PARQUET[name]
    assert_refused(lambda: load(content), key, *words)


# ------------------------------------------------------------------------------------------------ decimal commas

GERMAN = [
    "0,5;1.234;1,250;rot;-3,1",
    "-1.234,5;12.000;2,125;blau;4",
    ";7;3,000;rot;1e3",
    "+,25;1.000.000;4,5;rot;2,0e-2",
]
ENGLISH = ["0.5,1234,1.250,rot,-3.1", "-1234.5,12000,2.125,blau,4", ",7,3.000,rot,1e3", ".25,1000000,4.5,rot,2e-2"]


@pytest.mark.parametrize("decimal", ["auto", "comma"])
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_decimal_commas_give_the_same_data_as_decimal_points(load, delimiter, decimal):
    """Points separate thousands then, also in columns without commas; text and missing cells stay."""
    german = lines("a;b;c;farbe;y", GERMAN * 5).replace(";", delimiter)
    keys = {"missing": "fill", "standardize_target": False, "kind": "numbers"}
    one, other = load(german, decimal=decimal, **keys), load(lines("a,b,c,farbe,y", ENGLISH * 5), **keys)
    for split, same in ((one.train, other.train), (one.test, other.test)):
        assert torch.equal(split.inputs, same.inputs)
        assert torch.equal(split.targets, same.targets)


def test_commas_in_text_are_no_decimal_commas(load):
    text = lines("x;where;y", [f"{i};{('3,5 km', 'near')[i % 2]};{i}.5" for i in range(20)])
    assert load(text).shape == (3,)
    assert load(text, decimal="point").shape == (3,)


def test_quoted_decimal_commas_are_read_if_they_are_chosen(load):
    data = load(lines("x,y", [f'"{i},500","{i},5"' for i in range(20)]), decimal="comma", standardize_target=False)
    x, y = join_splits(data)
    assert x[:, 0].tolist() == y[:, 0].tolist() == [i + 0.5 for i in range(20)]


# ------------------------------------------------------------------------------------------------ refused

MIXED = lines("x,size,y", [f"{i},{'big' if i in (3, 8) else i},{i + 0.5}" for i in range(20)])
DAYS = lines("when,y", [f"2024-{1 + i // 28:02d}-{1 + i % 28:02d},{i + 0.5}" for i in range(60)])
TEXT = lines("x,name,y", [f"{i},n{i},{i + 0.5}" for i in range(60)])

REFUSED = {
    "different only in float64": (lines("t,y", [f"{10**12 + i},{i}.5" for i in range(40)]), {}, "drop", ["t has 40", "1 in float32"]),
    "thousands": (lines("x,y", [f'"{i + 1},305",{i}.5' for i in range(40)]), {}, "categorical", ["with a comma", "data.decimal=comma for 1,5, or write 1500 for 1,500"]),
    "no target": (numbers(), {"target": None}, "target", ["name the column", "data.target=", "x, y"]),
    "unknown target": (lines("price,x", ["1,2"] * 9), {"target": "prize"}, "target", ["no column 'prize'", "did you mean price?"]),
    "a first line of values": (lines("5.1,3.5,setosa", ["5.0,3.0,b"] * 9), {}, "target", ["no column 'y'", "first line must hold"]),
    "no first line": (lines("1,2", ["3,4"] * 9), {}, "path", ["begins with numbers", "names"]),
    "a column without a name": (lines("x,,y", ["0,1,2"] * 9), {}, "path", ["column 2 has no name"]),
    "two columns of one name": (lines("x,x,y", ["0,1,2"] * 9), {}, "path", ["more than one column", "x"]),
    "fields": (lines("x,y", ["1,2", "1,2,3", "1,2", "4"]), {}, "path", ["line 3 has 3 cells for 2 columns; 1 other line of a wrong length"]),
    "a quoted empty cell as a row": (lines("x,y", ["1,2", '""', "3,4"]), {}, "path", ["line 3 has 1 cell for 2 columns"]),
    "a quoted empty cell alone": ('""\n', {}, "path", ["must hold the names"]),
    "empty": ("", {}, "path", ["is empty"]),
    "blank": ("\n \n", {}, "path", ["is empty"]),
    "no rows": ("x,y\n", {}, "path", ["no rows"]),
    "latin-1": ("x,y\n1,2\n3,Stra\xdfe\n".encode("latin-1"), {}, "path", ["not in utf-8", "line 3", "0xdf", "data.encoding=latin-1"]),
    "utf-16 without a mark, read as such": ("a,y\n1,2\n".encode("utf-16-be"), {}, "path", ["my.csv has a zero byte in line 1", "looks like UTF-16: set data.encoding=utf-16-be"]),
    "not a text": (b"a,y\n1,2\n\x00\x00\x00\x01", {}, "path", ["zero byte in line 3", "does not look like a text"]),
    "utf-16 without a mark": ("größe,y\n1,2\n".encode("utf-16-le"), {"encoding": "utf-8"}, "path", ["not in utf-8", "line 1", "looks like UTF-16: set data.encoding=utf-16-le"]),
    "an unknown encoding": (numbers(), {"encoding": "latin-x"}, "encoding", ["auto or an encoding such as latin-1", "'latin-x'"]),
    "an encoding of bytes": (numbers(), {"encoding": "hex"}, "encoding", ["'hex'"]),
    "two columns without a name": (lines(",,y", ["0,1,2"] * 9), {}, "path", ["column 2 has no name"]),
    "an open quote": ('x,y\n1,2\n"3,4\n', {}, "path", ["my.csv, line"]),
    "unknown drop": (numbers(), {"drop": ["z"]}, "drop", ["no column 'z'", "x, y"]),
    "unknown categorical": (lines("city,y", ["a,b"]), {"categorical": ["cty"]}, "categorical", ["did you mean city?"]),
    "target dropped": (numbers(), {"drop": ["y"]}, "drop", ["y is the target"]),
    "target as category": (numbers(), {"categorical": ["y"]}, "categorical", ["data.kind=classes"]),
    "nothing left": (numbers(), {"drop": ["x"]}, "drop", ["no input column"]),
    "delimiter": (numbers(), {"delimiter": ",,"}, "delimiter", ["one character", "',,'"]),
    "text among numbers": (
        MIXED, {}, "categorical", ["size", "'big' in line 5", "1 more", "[size]", "data.drop=[size]"],
    ),
    "text among numbers of the target": (MIXED, {"target": "size"}, "target", ["'big' in line 5", "data.kind=classes"]),
    "infinity": (lines("x,y", [f"{'inf' if i == 2 else i},{i + 0.5}" for i in range(9)]), {}, "categorical", ["'inf' in line 4"]),
    "decimal commas without the key": (lines("x;y", [f"{i},5;{'ab'[i % 2]}" for i in range(20)]), {"decimal": "point"}, "categorical", ["comma", "'0,5' in line 2"]),
    "commas that may separate thousands": (lines("x;y", [f"{i + 1},500;{'ab'[i % 2]}" for i in range(20)]), {}, "categorical", ["'1,500' in line 2", "data.decimal=comma"]),
    "decimal commas and points": (lines("x;z;y", [f"{i},5;{i}.25;{'ab'[i % 2]}" for i in range(20)]), {}, "decimal", ["z has '0.25' in line 2", "decimal point, but x has '0,5' in line 2"]),
    "decimal points for commas": (lines("x,y", [f"{i}.25,{'ab'[i % 2]}" for i in range(20)]), {"decimal": "comma"}, "decimal", ["x has '0.25' in line 2", "data.decimal=comma is set"]),
    "dates of many kinds": (DAYS, {}, "drop", ["60 different texts", "set data.dates=[when], data.drop=[when] or"]),
    "text of many kinds": (TEXT, {}, "drop", ["60 different texts in 60 rows", "data.drop=[name]", "data.categorical=[name]"]),
    "missing": (HOLES, {}, "missing", ["3 values missing, in x (2), t (1), the first in line 6", "[x,t]"]),
    "missing target": (lines("x,y", ["1,2.5", "2,", "3,?", "4,1"]), {"missing": "fill"}, "target", ["2 rows", "line 3", "data.missing=drop"]),
    "missing everywhere": (lines("x,z,y", [f"{i},,{i}.5" for i in range(9)]), {"missing": "drop"}, "missing", ["no row", "data.drop"]),
    "an empty column": (lines("x,z,y", [f"{i},,{i}.5" for i in range(9)]), {"missing": "fill"}, "missing", ["z has no value", "[z]"]),
    "one class": (lines("x,y", [f"{i},yes" for i in range(9)]), {}, "target", ["one class, yes"]),
    "one number": (lines("x,y", [f"{i},0.1" for i in range(9)]), {}, "target", ["y is 0.1 in every training row"]),
    "too many classes": (lines("x,y", [f"{i},n{i}" for i in range(9)]), {}, "kind", ["9 different values in 9"]),
    "numbers of text": (lines("x,y", [f"{i},{'ab'[i % 2]}" for i in range(9)]), {"kind": "numbers"}, "kind", ["'a'"]),
    "an unknown group": (visits(), {"group": "whom"}, "group", ["no column 'whom'", "did you mean who?"]),
    "an unknown time": (visits(), {"time": "whenn"}, "time", ["no column 'whenn'", "did you mean when?"]),
    "the target as group": (visits(), {"group": "y"}, "group", ["y is the target"]),
    "group and time": (visits(), {"group": "who", "time": "when"}, "time", ["cannot be used with data.group", "leave one"]),
    "missing groups": (visits(who=lambda i: "" if i in (4, 9) else i % 5), {"group": "who", "missing": "fill"}, "group", ["who is missing in 2 rows, the first in line 6", "data.missing=drop"]),
    "missing times": (visits(lambda i: "?" if i == 4 else i), {"time": "when"}, "time", ["when is missing in 1 row, the first in line 6"]),
    "one group": (visits(who=lambda i: "a"), {"group": "who"}, "test_fraction", ["0.2 of 1 groups is 0", "both splits need groups"]),
    "no groups left": (visits(), {"group": "who", "test_fraction": 0.95}, "test_fraction", ["0.95 of 7 groups is 7"]),
    "one time": (visits(lambda i: 3), {"time": "when", "drop": ["who"]}, "test_fraction", ["0.2 of 1 times is 0"]),
    "a time that is a word": (visits(lambda i: "noon" if i == 3 else i), {"time": "when"}, "time", ["when has numbers, but also text: 'noon' in line 5", "name another column"]),
    "a time of either order": (visits(lambda i: f"{i % 12 + 1:02}/{i % 11 + 1:02}/2024"), {"time": "when"}, "date_format", ["when has dates such as '01/01/2024' in line 2", "set data.date_format=%d/%m/%Y or"]),
    "numbers and dates": (visits(lambda i: "2024-01-31" if i == 3 else i), {"time": "when"}, "time", ["'2024-01-31' in line 5"]),
    "a date and words": (visits(lambda i: "2024-01-31" if i == 3 else "noon"), {"time": "when"}, "time", ["when has 'noon' in line 2", "not a date", "data.date_format"]),
    "no inputs but the group": (visits(), {"group": "who", "drop": ["x", "when"]}, "drop", ["no input column"]),
    "no test rows": (numbers(3), {"test_fraction": 0.1}, "test_fraction", ["0.1 of 3 examples is 0"]),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, load):
    text, keys, key, words = REFUSED[name]
    assert_refused(lambda: load(text, **keys), key, *words)


def test_the_suggested_remedies_work(load):
    assert load(MIXED, categorical=["size"]).shape == (1 + 19,)
    assert load(MIXED, drop=["size"]).shape == (1,)
    assert load(TEXT, categorical=["name"]).shape == (61,)
    assert load(TEXT, drop=["name"]).shape == (1,)


def test_a_column_without_training_values_cannot_be_filled(load):
    whole = load(lines("x,y", [f"{i},{i + 0.5}" for i in range(20)]))
    tested = {round(v) for v in whole.test.inputs[:, 0].tolist()}
    text = lines("x,z,y", [f"{i},{i if i in tested else ''},{i + 0.5}" for i in range(20)])
    assert_refused(lambda: load(text, missing="fill"), "missing", "z has no value in the training rows of this run")


def test_a_missing_file_is_reported_with_similar_names(tmp_path):
    (tmp_path / "houses.csv").write_text("x,y\n")
    assert_refused(replace(PLAIN, path=str(tmp_path / "house.csv")).load, "path", "did you mean houses.csv?")
    assert_refused(replace(PLAIN, path=str(tmp_path)).load, "path", "is a folder", "houses.csv")
    assert_refused(PLAIN.load, "path", "data.path=...")


def test_another_table_may_spell_numbers_in_another_way(load, tmp_path):
    rows = [f"{i},{(1, 2)[i % 2]},{i + 0.5}" for i in range(20)]
    data = load(lines("i,code,y", rows), categorical=["code"], standardize_target=False)
    other = tmp_path / "other.csv"
    other.write_text(lines("i,code,y", [row.replace(",1,", ",1.0,") for row in rows]))
    same = replace(PLAIN, path=str(other), categorical=["code"]).load_like(data.encoding)
    assert torch.equal(join_splits(data)[0], same.test.inputs)


# --------------------------------------------------------------------------------------------- large files

WORDS = {
    "integers": ["0", "1", "-2", "+3", "007", "20"],
    "numbers": ["0.1", "-1.5", ".5", "5.", "1e3", "-2.5E-3", "1.7976931348623157e30", "0.30000000000000004", "1e-400"],
    "odd": ["1", "1_000", "inf", "-nan", "1e39", "\u0663", "0x10", "1d5", "Infinity"],
    "commas": ["1,5", "2.000,25", "3", "1.000"],
    "texts": ["red", "Blue", "gr\u00fcn", "\u65e5\u672c", "\U0001f600", "a\u00a0b"],
    "dates": ["2024-01-31", "2024-02-29", "1999-12-31", "2024-07-01T12:30:00+02:00"],
}
GAPS = ["", "NA", "nan", "NULL", "?", " n/a "]


def write_random_table(seed):
    """Return a table, its columns, and whether polars must read it: its quotes and its rows are simple."""
    rng = random.Random(seed)
    kinds = ["numbers", *rng.choices([*WORDS], k=rng.randint(1, 4))]
    if "commas" in kinds:
        kinds[0] = "commas"
    delimiter = ";" if "commas" in kinds else rng.choice(",;\t|")
    holes = rng.choice([0, 0, 0.1])

    def write_cell(kind):
        text = rng.choice(GAPS) if rng.random() < holes else rng.choice(WORDS[kind])
        text = repr(rng.gauss(0, 1)) if kind == "numbers" and rng.random() < 0.5 else text
        return rng.choice([text] * 6 + [f" {text} ", f'"{text}"', f'" {text}"'])

    names = [f"{kind}{i}" for i, kind in enumerate(kinds[1:])]
    rows = [["y", *names], *([write_cell(kind) for kind in kinds] for _ in range(rng.randint(2, 60)))]
    is_simple = rng.random() < 0.7
    if not is_simple:
        row = rng.choice(rows)
        row[rng.randrange(len(row))] = rng.choice(
            ['a"b', ' "a"', '"a" ', '"a""b"', '"a\nb"', f'"a{delimiter}b"', "\x1c1", f"1{delimiter}2", "\n", '"a']
        )
    end = rng.choice(["\n", "\r\n", "\r"])
    text = end.join(delimiter.join(row) for row in rows) + end * rng.randint(0, 2)
    return rng.choice(["", "\ufeff"]) + text, names, is_simple


def describe_loading(option):
    """Return all that loading a table finds, or the error."""
    _files.cache.clear()
    try:
        text = option._read(_files.find_file(option.path))
        data = option.load()
        fitted = fit(option)
        again = option.load_like(fitted.encoding)
    except OptionError as error:
        return error.key, str(error)
    arrays = [x.numpy().tobytes() for d in (data, fitted, again) for x in (d.train.inputs, d.train.targets)]
    cells = {name: [*column] for name, column in text.to_cells().columns.items()}
    source = [*map(list, again.source.cells)], [*again.source.rows]
    groups = None if data.groups is None else data.groups.tolist()
    return arrays, cells, source, repr(fitted.encoding), data.notices, again.notices, groups, [*text.lines]


def assert_read_alike(file, monkeypatch, **keys):
    option = replace(PLAIN, path=str(file), **keys)
    small = describe_loading(option)
    monkeypatch.setattr(_large_csv, "LARGE", 0)
    assert describe_loading(option) == small
    monkeypatch.undo()


@pytest.mark.parametrize("seed", range(60))
def test_polars_reads_what_the_csv_module_reads(tmp_path, monkeypatch, seed):
    text, names, is_simple = write_random_table(seed)
    file = tmp_path / "my.csv"
    file.write_bytes(text.encode())
    with monkeypatch.context() as context:
        context.setattr(_large_csv, "LARGE", 0)
        assert not is_simple or isinstance(read_csv(file, "auto", "auto"), _large_csv.LargeText)
    dates = [name for name in names if "dates" in name]
    for keys in ({"missing": "fill", "dates": dates}, {"missing": "drop", "kind": "classes"}, {"categorical": names}):
        assert_read_alike(file, monkeypatch, **keys)
    for key in ("group", "time", "target"):
        assert_read_alike(file, monkeypatch, missing="drop", **{key: names[0]})


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n1\n2,3,4\n5,6\n",  # as many cells as a table has
        "x,y\n1,2\n\n3,4\n",
        "x,y\n1,2\n  \n3,4\n",
        "\nx,y\n1,2\n3,4\n",
        "x,y\n1,2\n3,4,\n",
        "x,y\n",
        "x,y",
        "y\n1\n2\n",
        "y,y\n1,2\n3,4\n",
        ",y\n1,2\n3,4\n",
        ",x,y\n0,1,2\n1,3,4\n",
        "1,2\n3,4\n5,6\n",
        '"a\nb",y\n1,2\n3,4\n',
        'x,y\n"1\n",2\n3,4\n',
        'x,y\n"a,2\nb",4\n',
        'x,y\n"a"",2\nb",4\n',
        "x,y\n\ufeff1,2\n3,4\n",
        "x,y\nx\x01,2\n3,4\n",
        "x,y\n\x1f1,2\n3,4\n",
        "x,y\n" + "1" * 140_000 + ",2\n3,4\n",
        "x y\n1 2\n3  4\n",
        "x,y\r1,2\r\n3,4\n",
        "x,y\n1,1.5\n1e39,2.5\n3,3\n4,4\n5,5\n6,6\n",
        "x,y\n,1\nNA,2\n,3\n",
    ],
)
def test_polars_leaves_odd_files_to_the_csv_module(tmp_path, monkeypatch, text):
    file = tmp_path / "my.csv"
    file.write_bytes(text.encode())
    for keys in ({}, {"delimiter": " "}, {"missing": "fill"}):
        assert_read_alike(file, monkeypatch, **keys)
