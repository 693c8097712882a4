import pytest

from common.errors import UserError
from config import DataOptions
from data import goodreads

HEADER = "book_title,book_authors,genres,book_desc\n"


@pytest.fixture
def root(tmp_path):
    """A data folder without a CSV."""
    (tmp_path / goodreads.IMAGES).mkdir(parents=True)
    return tmp_path


def write(root, text, name="book_data.csv"):
    (root / name).write_bytes(text.encode() if isinstance(text, str) else text)


# ---------------------------------------------------------------------------------------------------------------------
# read_table


def test_cells_are_taken_as_they_stand(root):
    rows = '"A, ""B""\nC",NA,nan,\nNone,null,-1.5,書\n007,,,"x"\n'
    write(root, HEADER + rows)
    table = goodreads.read_table(root)
    assert table["book_title"].tolist() == ['A, "B"\nC', "None", "007"]
    assert table["book_authors"].tolist() == ["NA", "null", ""]
    assert table["genres"].tolist() == ["nan", "-1.5", ""] and table["book_desc"].tolist() == ["", "書", "x"]


def test_order_and_other_columns_and_byte_order_mark_do_not_matter(root):
    write(root, "\ufeffimage_url,genres,book_desc,book_authors,book_title\nu,g,d,a,t\n")
    assert goodreads.read_table(root).to_dict("list") == dict(
        book_title=["t"], book_authors=["a"], genres=["g"], book_desc=["d"]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("book_title,genres\na,b\n", "has no column book_authors, book_desc"),
        (HEADER + 'a,b,c,"never closed\n', "can't read .* as CSV"),
        (HEADER + "a,b,c,d\na,b,c,d,e\n", "can't read .* as CSV.*line 3"),
        (HEADER + "a,b,c,d,e\n", "more fields in its rows"),
        (HEADER.encode() + b"caf\xe9,b,c,d\n", "is not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8|can't read|has no column"),
    ],
)
def test_a_broken_csv_is_said_in_one_line(root, text, message):
    write(root, text)
    with pytest.raises(UserError, match=message) as caught:
        goodreads.read_table(root)
    assert "book_data.csv" in str(caught.value)


def test_what_is_missing_comes_with_where_to_get_it(tmp_path):
    where = "kaggle.com/datasets/meetnaren/goodreads-best-books.*--data_root demo"
    with pytest.raises(UserError, match=f"no data folder .*nowhere.*{where}"):
        goodreads.read_table(tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"no book_data.csv in .*{where}"):
        goodreads.read_table(tmp_path)
    write(tmp_path, HEADER)
    with pytest.raises(UserError, match=f"no folder images/images in .*{where}"):
        goodreads.read_table(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# read_splits


def test_without_files_the_rule_decides(root):
    assert goodreads.read_splits(root, 3, DataOptions()) == (None, "by title and first author, --test_fraction 0.1")


def test_split_files_win(root):
    write(root, ",book_title\n0,a\n2,b\n", "df_train.csv")
    write(root, ",book_title\n3,NA\n", "df_test.csv")
    splits, rule = goodreads.read_splits(root, 5, DataOptions())
    assert splits == {0: "train", 2: "train", 3: "test"} and rule == "by df_train.csv and df_test.csv"


@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_one_split_file_leaves_the_rest_to_the_other_split(root, split, other):
    write(root, "row\n1\n", f"df_{split}.csv")
    assert goodreads.read_splits(root, 3, DataOptions())[0] == {1: split, 0: other, 2: other}


@pytest.mark.parametrize("cell", ["5", "-1", "1.0", "x", ""])
def test_split_files_that_do_not_fit_the_data(root, cell):
    write(root, f"row,b\n0,b\n{cell},b\n", "df_test.csv")
    with pytest.raises(UserError, match=r"df_test\.csv: its first column must hold row indices .*0 to 4"):
        goodreads.read_splits(root, 5, DataOptions())


def test_a_row_on_both_sides_of_the_split(root):
    write(root, "row\n0\n1\n", "df_train.csv")
    write(root, "row\n1\n", "df_test.csv")
    with pytest.raises(UserError, match=r"row 1 is in df_train\.csv and in df_test\.csv"):
        goodreads.read_splits(root, 5, DataOptions())


# ---------------------------------------------------------------------------------------------------------------------
# The rules for a row


def test_ascii_share_forgives_typography_but_not_other_alphabets():
    assert goodreads.ascii_share("“It’s” – a—b…\u00a0", "‘x’") == 1
    assert goodreads.ascii_share("abc", "") == 1
    assert goodreads.ascii_share("é" * 3, "a" * 97) == pytest.approx(0.97)
    assert goodreads.ascii_share("Преступление", "и наказание") < 0.1
    assert goodreads.ascii_share("戦争と平和", "") == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("Emma", ("Jane Austen", "A. Painter")), ("EMMA ", ("jane austen",))),
        (("Wuthering Heights", ("Emily Brontë",)), ("Wuthering Heights", ("Emily Bronte",))),
        (("Emma: A Novel", ("J.K. Rowling",)), ("Emma — a novel!", ("J. K. Rowling",))),
        (("Emma (Penguin Classics)", ("Jane Austen",)), ("Emma [1815]", ("Jane Austen",))),
    ],
)
def test_editions_have_one_key(one, other):
    assert goodreads.book_key(*one) == goodreads.book_key(*other)


def test_different_books_have_different_keys():
    books = [("Emma", ("Jane Austen",)), ("Emma", ("Kate Chopin",)), ("Emma", ()), ("Emma 2", ("Jane Austen",))]
    books += [("(untitled)", ()), ("?", ()), ("!", ()), ("戦争と平和", ()), ("Война и мир", ())]
    assert len({goodreads.book_key(*book) for book in books}) == len(books)


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9])
def test_the_split_has_the_share_asked_for_and_only_grows_with_it(fraction):
    keys = [f"title{i}/author{i % 50}" for i in range(20_000)]
    test = {key for key in keys if goodreads.split_of(key, fraction) == "test"}
    assert len(test) / len(keys) == pytest.approx(fraction, abs=0.01)  # 3 standard deviations
    assert {key for key in keys if goodreads.split_of(key, fraction / 2) == "test"} < test


def test_split_list():
    assert goodreads.split_list(" Ann Lee|Bo\n Ray||Ann Lee| ") == ("Ann Lee", "Bo Ray")
    assert goodreads.split_list("") == ()


def test_the_hash_is_the_same_on_every_machine():
    assert goodreads.uniform_hash("order", "emma/janeausten", "0") == 0x83D1D7423196C89B  # printf | b2sum -l 64
    assert (
        goodreads.split_of("emma/janeausten", 0.1) == "train" and goodreads.split_of("emma/janeausten", 0.5) == "test"
    )
