import pytest

from common.errors import UserError
from data import table
from data.table import read_table, require_pairing, whole_number

HEADER = "book_title,book_authors,genres,book_desc\n"


@pytest.fixture
def root(tmp_path):
    """A data folder without a CSV file."""
    (tmp_path / table.IMAGES).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def read(root):
    """read(text or bytes of book_data.csv) -> Table."""

    def call(content):
        (root / "book_data.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_table(root)

    return call


def rows(*titles):
    return "".join(f"{title},a,g,d\n" for title in titles)


def numbered(*numbers, name=""):
    return f"{name},{HEADER}" + "".join(f"{number},T{i},a,g,d\n" for i, number in enumerate(numbers))


def titles_of(found):
    return {row: cells[0] for row, cells in found.cells.items()}


# ---------------------------------------------------------------------------------------------------------------------
# read_table


def test_rows_are_counted_from_0_and_cells_are_taken_as_they_stand(read):
    found = read(HEADER + '"A, ""B""\nC",NA,nan,\nNone,null,-1.5,書\n007,,,"x"\n')
    assert found.cells == {
        0: ('A, "B"\nC', "NA", "nan", ""),
        1: ("None", "null", "-1.5", "書"),
        2: ("007", "", "", "x"),
    }
    assert not found.numbered and found.damaged == []


def test_order_case_other_columns_and_byte_order_mark_do_not_matter(read):
    assert read("\ufeffimage_url,Genres,book_desc, BOOK_AUTHORS ,book_title\nu,g,d,a,t\n").cells == {
        0: ("t", "a", "g", "d")
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("book_title,genres\na,b\n", "has no column book_authors, book_desc: .* but begins 'book_title, genres'"),
        (rows("T0", "T1"), "has no column .* its first line must name them, but begins 't0, a, g, d'"),
        ("", "is empty"),
        ("sep=,\n" + HEADER + '"T\n0",a,g,d\n', "has no column .*begins 'sep="),
        ("my books\n" + HEADER + '"T\n0",a,g,d\n', "has no column .*begins 'my books'"),
        (b"\x89PNG\r\n\x1a\n", r"has no column .*begins '\\udc89png'"),
        ("book_title," + HEADER, "has the column book_title twice"),
        (HEADER + rows("T0") + HEADER + rows("T1"), "line 3 is the header again"),
        (HEADER + rows("T0") + "\ufeff" + HEADER + rows("T1"), "line 3 is the header again"),
        (numbered(0, 1) + numbered(0, 1), "line 4 is the header again"),
        (HEADER + rows("T0") + "Book_desc,genres,book_title,a\n", "line 3 is the header again"),
        (HEADER + "a,b,c,d\n" * 5 + "a,b,c,d,e\n" * 4, "damaged in 4 of 9 rows: line 7 of book_data.csv has 5 fields"),
        (HEADER.encode() + b"caf\xe9,b,c,d\n" * 4, "damaged in 4 of 4 rows: line 2 .*not UTF-8; save it as UTF-8"),
    ],
)
def test_a_table_that_is_none_is_said_in_one_line(read, text, message):
    with pytest.raises(UserError, match=message) as caught:
        read(text)
    assert "book_data.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_missing_comes_with_where_to_get_it(tmp_path):
    where = "kaggle.com/datasets/meetnaren/goodreads-best-books.*--data_root demo"
    with pytest.raises(UserError, match=f"no data folder .*nowhere.*{where}"):
        read_table(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"no book_data.csv in .*{where}"):
        read_table(tmp_path)
    (tmp_path / "book_data.csv").write_text(HEADER)
    with pytest.raises(UserError, match=f"no folder images/images in .*{where}"):
        read_table(tmp_path)


def test_a_few_damaged_rows_are_set_aside(read):
    found = read(HEADER.encode() + b"T0,a,g,d\nT1,a,g,d,more\ncaf\xe9,a,g,d\nT3,a,g,d\n")
    assert titles_of(found) == {0: "T0", 3: "T3"} and found.numbers == [0, 1, 2, 3]
    assert [(row.row, row.kind, row.reason) for row in found.damaged] == [
        (1, "damaged row", "line 3 of book_data.csv has 5 fields where the header has 4"),
        (2, "damaged row", "line 4 of book_data.csv has bytes that are not UTF-8"),
    ]
    many = read(HEADER + rows(*range(500)) + "x,a,g,d,e\n" * 5)  # 1 % of many
    assert len(many.cells) == 500 and len(many.damaged) == 5


# ---------------------------------------------------------------------------------------------------------------------
# Row numbers


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "unnamed: 0.1", "index"])
def test_a_column_of_pandas_index_has_the_row_numbers(read, name):
    found = read(numbered(0, 5, 2, name=name))
    assert titles_of(found) == {0: "T0", 2: "T2", 5: "T1"} and list(found.cells) == [0, 2, 5] and found.numbered


@pytest.mark.parametrize(
    "text",
    [
        numbered(2, 5, 7, name="book_pages"),
        numbered("", "", ""),
        numbered("x", "y", "z"),
        HEADER.replace("genres", "genres,index") + "T0,a,g,7,d\nT1,a,g,9,d\nT2,a,g,8,d\n",
    ],
)
def test_other_columns_have_not(read, text):
    found = read(text)
    assert titles_of(found) == {0: "T0", 1: "T1", 2: "T2"} and not found.numbered


def test_numbers_of_a_column_that_is_not_the_first(read):
    found = read("book_title,Unnamed: 0,book_authors,genres,book_desc\nT0,4,a,g,d\nT1,2,a,g,d\n")
    assert titles_of(found) == {2: "T1", 4: "T0"}
    both = ",Unnamed: 0,book_title,book_authors,genres,book_desc\n{},4,T0,a,g,d\n2,2,T1,a,g,d\n"
    assert titles_of(read(both.format(4))) == {2: "T1", 4: "T0"}
    with pytest.raises(UserError, match="has two columns of row numbers, and they differ"):
        read(both.format(0))
    with pytest.raises(UserError, match="has two columns of row numbers, and they differ"):
        read(both.format(0).replace("Unnamed: 0", "index"))  # df.reset_index().to_csv()


@pytest.mark.parametrize("names", [",", "level_0,level_1", "Unnamed: 0,Unnamed: 1"])
def test_numbers_in_the_second_level_of_a_pandas_index(read, names):
    """pd.concat([train, test], keys=["train", "test"]).to_csv()"""
    found = read(f"{names},{HEADER}train,2,T2,a,g,d\ntrain,0,T0,a,g,d\ntest,1,T1,a,g,d\n")
    assert titles_of(found) == {0: "T0", 1: "T1", 2: "T2"} and found.numbered


def test_numbers_out_of_order_in_a_column_of_another_name_are_refused(read):
    for numbers in ((2, 0, 1), (3, 1, 2)):
        with pytest.raises(UserError, match=r"column 'row' has the numbers . to ., but not in order: .*index"):
            read(numbered(*numbers, name="row"))
    for numbers in ((0, 1, 2), (1, 2, 3), (7, 5, 6), (4, 0, 2), (2, 0, 0), (2, 0, "x"), (1, 0)):
        assert not read(numbered(*numbers, name="row")).numbered
    last = HEADER.replace("\n", ",index\n") + "T0,a,g,d,{}\nT1,a,g,d,{}\nT2,a,g,d,{}\n"
    with pytest.raises(UserError, match="column 'index' has the numbers 0 to 2, but not in order"):
        read(last.format(2, 0, 1))
    assert not read(last.format(3, 1, 2)).numbered  # a rank


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 2, 2), "line 4: in the column of row numbers is 2, as in line 3"),
        ((0, "x", 2), "line 3: in the column of row numbers is 'x'"),
        ((0, "", 2), "line 3: in the column of row numbers is ''"),
        ((0, -1, 2), "line 3: in the column of row numbers is '-1'"),
        ((0, 1.5, 2), r"line 3: in the column of row numbers is '1\.5'"),
    ],
)
def test_numbers_that_are_not_distinct_whole_numbers(read, numbers, message):
    with pytest.raises(UserError, match=message):
        read(numbered(*numbers))


def test_whole_number():
    assert [whole_number(cell) for cell in ("0", " 12 ", "3.0", "4.", "007")] == [0, 12, 3, 4, 7]
    for cell in ("", "-1", "1.5", "1e3", "x", "٣", "9" * 30, "1 2"):
        assert whole_number(cell) is None, cell


# ---------------------------------------------------------------------------------------------------------------------
# require_pairing


def test_rows_without_images_are_nothing_unusual(read):
    for images in (set(), {0}, {1}, {0, 1, 2}):
        require_pairing(read(HEADER + rows("T0", "T1", "T2")), images, False)
    require_pairing(read(HEADER), set(), False)


def test_images_without_rows_are_refused_unless_allowed(read):
    found = read(HEADER + rows("T0", "T1", "T2"))
    with pytest.raises(UserError, match=r": 2, first 3\.jpg \(its rows are 0 to 2\).*--allow_extra_images True"):
        require_pairing(found, {0, 9, 3}, False)
    require_pairing(found, {0, 9, 3}, True)
    with pytest.raises(UserError, match=r": 1, first 0\.jpg \(it has no rows\)"):
        require_pairing(read(HEADER), {0}, False)


def test_rows_with_numbers_need_no_more(read):
    require_pairing(read(numbered(0, 2, 5) + "7,T3,a,g,d,more\n\n8,T,a,g,d\n"), set(range(100)), False)
    require_pairing(read(numbered(1, 2, 3)), {0, 1, 2, 3}, False)  # row 0 was dropped
    with pytest.raises(UserError, match="numbers its rows 1 to 3, and the images begin at 0"):
        require_pairing(read(numbered(1, 2, 3)), {0, 1, 2}, False)
    with pytest.raises(UserError, match=r"numbers its rows 1 to 3, and the last image is 2: .* remove row 3"):
        require_pairing(read(numbered(1, 2, 3)), {1, 2}, True)  # as R numbers them, and image 0 is missing
    for images in ({1, 2, 3}, {2, 3}, {1}, set()):
        require_pairing(read(numbered(1, 2, 3)), images, False)


def test_numbers_without_a_gap_say_no_more_than_counting(read):
    """As after df.dropna().reset_index(drop=True): the numbers are new, and the images have the old ones."""
    for numbers in ((0, 1, 2), (2, 0, 1), (1, 2, 3)):
        found = read(numbered(*numbers))
        images = {*numbers, 5, 6}
        with pytest.raises(UserError, match=r": 2, first 5\.jpg \(its rows are [01] to [23]\).*--allow_extra_images"):
            require_pairing(found, images, False)
        require_pairing(found, images, True)
    require_pairing(read(numbered(5, 6, 7)), set(range(9)), False)  # pandas kept the old ones


def test_rows_twice_are_refused_if_as_many_images_are_missing_at_the_end(read):
    found = read(HEADER + rows("T0", "T1", "T1", "T2", "T2", "T3"))
    for images in ({5}, {4}, {0, 1, 2}, set()):  # several editions of a book may be the same
        require_pairing(found, images, False)
    with pytest.raises(UserError, match=r"line 4 repeats an earlier row.*the last row is 5 where the last image is 3"):
        require_pairing(found, {0, 1, 3}, False)


@pytest.mark.parametrize(
    "row", ["T1,a,g,d,more\n", '5" disc,a,g,d\n', "\nT1,a,g,d\n", ",,,\n", "first,first,first,first\n", "---,--,,-\n"]
)
def test_a_doubt_is_settled_by_the_number_of_the_last_image(read, row):
    found = read(HEADER + rows("T0") + row + rows("T2"))
    require_pairing(found, {0, 2}, False)
    for images in ({0, 1}, {0, 2, 3}):
        with pytest.raises(
            UserError, match=r"book_data\.csv: line 3 (has|is) .*the last row is 2 where the last image is [13]"
        ):
            require_pairing(found, images, True)


def test_empty_rows_at_the_end_leave_no_doubt(read):
    require_pairing(read(HEADER + rows("T0", "T1") + ",,,\n\n,,,\n"), {0, 1}, False)
