import pytest

from common.errors import UserError
from config import DataOptions
from data import goodreads
from data.table import DroppedRow, Table


@pytest.fixture
def root(tmp_path):
    """A data folder, of which only split files are read here."""
    return tmp_path


def write(root, text, name):
    (root / name).write_text(text, encoding="utf-8")


def table(*titles, damaged=(), numbered=False):
    """The table of these titles; those of `damaged` rows are not known."""
    cells = {row: (title, "", "", "") for row, title in enumerate(titles) if row not in damaged}
    return Table("book_data.csv", cells, [DroppedRow(row, "damaged row", "") for row in damaged], numbered, [], "")


# ---------------------------------------------------------------------------------------------------------------------
# read_splits


def test_without_files_the_rule_decides(root):
    expected = None, "by title and first author, --test_fraction 0.1"
    assert goodreads.read_splits(root, table("a", "b", "c"), DataOptions()) == expected


def test_split_files_win(root):
    write(root, ",book_title\n0,a\n2.0,c\n", "df_train.csv")
    write(root, "\ufeffUnnamed: 0;Book_Title\n3;NA\n", "df_test.csv")
    splits, rule = goodreads.read_splits(root, table("a", "b", "c", "NA", "e"), DataOptions())
    assert splits == {0: "train", 2: "train", 3: "test"} and rule == "by df_train.csv and df_test.csv"


@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_one_split_file_leaves_the_rest_to_the_other_split(root, split, other):
    write(root, "row\n1\n", f"df_{split}.csv")
    splits, _ = goodreads.read_splits(root, table("a", "b", "c", damaged=[1]), DataOptions())
    assert splits == {1: split, 0: other, 2: other}


@pytest.mark.parametrize("cell", ["5", "-1", "1.5", "x", ""])
def test_split_files_that_do_not_fit_the_data(root, cell):
    write(root, f"row,b\n0,b\n{cell},b\n", "df_test.csv")
    with pytest.raises(UserError, match=r"df_test\.csv, line 3: its first column must hold row numbers .*0 to 4"):
        goodreads.read_splits(root, table(*"abcde"), DataOptions())


def test_split_files_of_a_table_from_which_numbered_rows_were_dropped(root):
    write(root, "row\n1\n7\n", "df_test.csv")
    splits, _ = goodreads.read_splits(root, table("a", "b", numbered=True), DataOptions())
    assert splits == {0: "train", 1: "test"}


@pytest.mark.parametrize("text", ["0\n1\n2\n", "0,a\n1,b\n", "2\n0\n", "2\n2\n"])
def test_a_split_file_without_a_header(root, text):
    write(root, text, "df_test.csv")
    message = f"df_test.csv begins with the number {text[0]} where the header must be: write 'row' above it"
    with pytest.raises(UserError, match=message):
        goodreads.read_splits(root, table(*"abc"), DataOptions())


def test_pandas_names_a_column_0(root):
    """pd.Series([0, 1]).to_csv(path, index=False) writes 0, 0, 1."""
    write(root, "0\n0\n1\n", "df_train.csv")
    assert goodreads.read_splits(root, table(*"abc"), DataOptions())[0] == {0: "train", 1: "train", 2: "test"}
    write(root, "0\n2\n", "df_test.csv")
    assert goodreads.read_splits(root, table(*"abc"), DataOptions())[0] == {0: "train", 1: "train", 2: "test"}


def test_titles_of_a_split_file_are_those_of_the_table(root):
    ours = table("A  Tale", "Émile", "c", "d", "e", damaged=[3])
    write(root, ',book_title\n0,"a tale "\n1,Emile\n3,x\n', "df_test.csv")  # what damaged row 3 was called is not known
    assert goodreads.read_splits(root, ours, DataOptions())[0][1] == "test"
    write(root, ",book_title\n0,A Tale\n1,c\n2,d\n4,f\n", "df_test.csv")
    message = r"df_test\.csv does not fit book_data\.csv: 3 of its 4 titles differ, row 1 is 'c' there and 'Émile' in "
    with pytest.raises(UserError, match=message):
        goodreads.read_splits(root, ours, DataOptions())


def test_a_damaged_line_of_a_split_file(root):
    write(root, "row,b\n0,b\n1,b,c\n", "df_test.csv")
    with pytest.raises(UserError, match=r"df_test\.csv, line 3 has 3 fields where the header has 2"):
        goodreads.read_splits(root, table("a", "b"), DataOptions())


def test_a_row_on_both_sides_of_the_split(root):
    write(root, "row\n0\n1\n", "df_train.csv")
    write(root, "row\n1\n", "df_test.csv")
    with pytest.raises(UserError, match=r"row 1 is in df_train\.csv and in df_test\.csv"):
        goodreads.read_splits(root, table("a", "b"), DataOptions())


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
