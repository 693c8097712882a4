import csv

import pytest

from common.errors import UserError
from data.csv_file import Row, read_csv

HEADER = "a,b,c\n"


@pytest.fixture
def read(tmp_path):
    """read(text or bytes) -> CsvFile."""

    def call(content):
        path = tmp_path / "file.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_csv(path)

    return call


def cells_of(file):
    return [list(row.cells) for row in file.rows]


def test_cells_are_taken_as_they_stand(read):
    file = read(HEADER + '"A, ""B""\r\nC",NA, nan \nNone,,"-1.5"\r\n"\u2028書\x0b",\x85,x')
    assert cells_of(file) == [['A, "B"\r\nC', "NA", " nan "], ["None", "", "-1.5"], ["\u2028書\x0b", "\x85", "x"]]
    assert [row.line for row in file.rows] == [2, 4, 5] and file.doubt == ""


@pytest.mark.parametrize(
    "content",
    [
        "\ufeff A ,B,c\n1,2,3\n",
        "a;b;c\n1;2;3\n",
        "a\tb\tc\r\n1\t2\t3\r\n",
        "a,b,c\r1,2,3\r",
        '"a","b","c"\n"1","2","3"\n\n  \n',
        "\n\na,b,c\n1,2,3",
    ],
)
def test_other_ways_to_write_the_same(read, content):
    file = read(content)
    assert (file.header, cells_of(file), file.doubt) == (["a", "b", "c"], [["1", "2", "3"]], "")


def test_rows_of_empty_cells_are_rows(read):
    assert len(read("a\tb\n\t\n1\t2\n\t\n").rows) == 3
    assert len(read("a,b\n,\n1,2\n,\n").rows) == 3


def test_a_cell_may_be_long(read):
    limit = csv.field_size_limit()
    assert len(read(HEADER + "1,2," + "x" * 200_000 + "\n").rows[0].cells[2]) == 200_000
    assert csv.field_size_limit() == limit == 131072


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        (HEADER + '1,"x,2\n1,2,"y"\n', "line 3 has text after a closing quote .*in the row that begins in line 2"),
        (HEADER + '1,"x" ,2\n', r"line 2 has text after a closing quote \(',' expected after '\"'\): close"),
        (HEADER + '1,"x\\"y",2\n', "line 2 has text after a closing quote"),
        (HEADER + '1,2,3\n1,2,"x\n1,2,3\n', "line 3 begins a row with a quote that is never closed"),
        (HEADER + "1,2,3\n1,x\ny,3\n", "line 3 has only 2 of the header's 3 fields"),
        (HEADER + '1,"x\n\\"\ny",3\n', "line 2 has only 2 of the header's 3 fields"),
        (HEADER + "1,2,3\n1,2", "line 3 has only 2 .* if the file ends there, it was cut"),
        (HEADER + "# note\n1,2,3\n", "line 2 has only 1 "),
        (HEADER + '1,"x,2\n3,",y",2\n', "line 2 begins a row of several lines with 4 fields where the header has 3"),
        (HEADER + "1,2,3\n1,\0,3\n", "line 3 has NUL bytes"),
        (HEADER.encode("utf-16-le"), "line 1 has NUL bytes"),
        (HEADER.encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        (b"\x1f\x8b\x08\x00", "is compressed with gzip"),
        (b"PK\x03\x04", "is a zip archive or a spreadsheet"),
    ],
)
def test_what_makes_rows_uncertain_is_refused(read, content, message):
    with pytest.raises(UserError, match=message) as caught:
        read(content)
    assert "file.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_rows_that_are_the_same_as_an_earlier_one(read):
    file = read(HEADER + '1,"x\ny",3\n1,2,3\n1,"x\ny",3\n1,2,4\n1,2,3')
    assert file.repeated == [5, 8] and len(file.rows) == 5 and file.doubt == ""


def test_a_file_that_can_not_be_read(tmp_path):
    with pytest.raises(UserError, match=r"can't read .*: Is a directory"):
        read_csv(tmp_path)


@pytest.mark.parametrize(
    ("row", "damage", "doubt"),
    [
        (b"1,2,3,4\n", "4 fields where the header has 3", "line 3 has 4 fields where the header has 3"),
        (b"1,caf\xe9,3\n", "bytes that are not UTF-8", ""),
        (b'1,5" disc,3\n', "", "line 3 has a quote without a partner"),
        (b"\n1,2,3\n", "", "line 3 is empty"),
    ],
)
def test_what_is_damage_of_one_row(read, row, damage, doubt):
    file = read(HEADER.encode() + b"1,2,3\n" + row + b"7,8,9\n1,2,3,4\n")
    line = 3 + row.startswith(b"\n")
    assert [row.damage for row in file.rows[:3]] == ["", damage, ""] and file.rows[1].line == line
    assert file.rows[2] == Row(line + 1, ("7", "8", "9"))
    assert file.doubt == (doubt or f"line {line + 2} has 4 fields where the header has 3")  # the first one
