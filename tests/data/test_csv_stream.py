"""Tables that are read in parts have the cells, the lines and the errors of whole ones."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlopt.data import _csv_stream, _decoding, _large_csv
from dlopt.data._csv import read_csv
from dlopt.data._csv_stream import iter_csv
from dlopt.errors import OptionError

CELLS = st.sampled_from(["1", "", " 2.5 ", "é", "a b", '"x,y"', '"two\nlines"', '"say ""hi"""', '5"', "x"])
LINES = st.lists(st.tuples(CELLS, CELLS).map(",".join) | st.sampled_from(["", " "]), min_size=1, max_size=9)


def describe(read):
    """Return header, cells and lines of a table, or the beginning of its error."""
    try:
        return read()
    except OptionError as error:
        return str(error).partition("; ")[0]


def join_parts(file, encoding="auto"):
    parts = [part for part, _ in iter_csv(file, "auto", encoding)]
    rows = [list(row) for part in parts for row in part.rows]
    cells = [part.to_cells().columns for part in parts]
    columns = {name: [cell for part in cells for cell in part[name]] for name in cells[0]}
    return parts[0].header, rows, [line for part in parts for line in part.lines], columns


def join_whole(file, encoding="auto"):
    table = read_csv(file, "auto", encoding)
    columns = {name: list(cells) for name, cells in table.to_cells().columns.items()}
    return table.header, [list(row) for row in table.rows], list(table.lines), columns


@settings(max_examples=60)
@given(lines=LINES, end=st.sampled_from(["\n", "\r\n"]), block=st.integers(13, 40), large=st.booleans())
def test_parts_hold_the_cells_and_the_lines_of_the_whole(tmp_path_factory, lines, end, block, large):
    file = tmp_path_factory.getbasetemp() / "table.csv"
    file.write_bytes(end.join(["first,second", *lines]).encode())
    expected = describe(lambda: join_whole(file))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_decoding, "BLOCK", block)
        patch.setattr(_csv_stream, "STEP", 2)
        patch.setattr(_csv_stream, "MAX_CELLS", 1)
        patch.setattr(_large_csv, "LARGE", 0 if large else 1 << 30)
        assert describe(lambda: join_parts(file)) == expected


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_blocks_may_cut_a_character_and_bad_bytes_are_found_in_their_line(encoding, tmp_path, monkeypatch):
    monkeypatch.setattr(_decoding, "BLOCK", 7)
    file = tmp_path / "table.csv"
    text = "größe,preis\n" + "".join(f"{i},ü{i}\n" for i in range(20))
    file.write_bytes(text.encode(encoding))
    name = "latin-1" if encoding == "latin-1" else "auto"
    assert join_parts(file, name) == join_whole(file, name)
    file.write_bytes(text.encode() + b"\xff,1\n")
    for read in (join_parts, join_whole):
        with pytest.raises(OptionError, match="is not in utf-8: line 22 has the byte 0xff"):
            read(file)
    file.write_bytes(text.encode() + b"\0,1\n")
    for read in (join_parts, join_whole):
        with pytest.raises(OptionError, match="zero byte in line 22"):
            read(file)


def test_the_parts_of_a_file_are_read_one_by_one(tmp_path, monkeypatch):
    """Of a file that is read halfway, the rest is not in memory."""
    monkeypatch.setattr(_decoding, "BLOCK", 1 << 12)
    monkeypatch.setattr(_csv_stream, "MAX_CELLS", 1)
    file = tmp_path / "table.csv"
    np.savetxt(file, np.arange(20_000).reshape(-1, 2), "%d", ",", header="a,b", comments="")
    for large in (0, 1 << 30):
        monkeypatch.setattr(_large_csv, "LARGE", large)
        done = [amount for _, amount in iter_csv(file, "auto", "auto")]
        assert done == sorted(done)
        assert done[0] < file.stat().st_size / 5
        assert done[-1] == file.stat().st_size
