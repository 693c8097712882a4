import pytest

from common.errors import UserError
from data.layout import CAPTIONS, GOODREADS, METADATA, find_layout


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("a.jpg", "a.txt"), CAPTIONS),
        (("sub/a.JPG", "sub/a.TXT", "b.png"), CAPTIONS),
        (("A\u0308.jpg", "\u00c4.txt"), CAPTIONS),  # NFD and NFC
        (("metadata.csv", "a.jpg", "README.txt"), METADATA),
        (("train/metadata.jsonl", "test/metadata.csv", "train/a.jpg"), METADATA),
        (("train/metadata.jsonl", "train/a.jpg"), METADATA),
        (("book_data.csv", "images/images/0.jpg", "images/images/0.txt"), GOODREADS),
        (("book_data.csv",), GOODREADS),  # what is missing there, its reader says
    ],
)
def test_the_layout_is_that_of_what_is_there(tmp_path, names, kind):
    touch(tmp_path, *names)
    assert find_layout(tmp_path).kind == kind


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "has nothing in it: expected pictures that each have a .txt caption"),
        (("a.jpg", "b.jpg"), r"has 2 pictures such as 'a\.jpg', no captions: expected"),
        (("a.txt", "b.txt"), r"has 2 \.txt files such as 'a\.txt', no pictures"),
        (("a.jpg", "a.jpg.txt"), r"1 pictures such as 'a\.jpg', 1 \.txt files .*, no \.txt of the same name"),
        (("0.parquet", ".DS_Store"), r"has 1 \.parquet, no pictures"),
        (("a.jpg", "a.txt", "metadata.csv"), r"has metadata\.csv and pictures with \.txt captions, and only one"),
        (("a.jpg", "metadata.csv", "metadata.jsonl"), r"has metadata\.csv and metadata\.jsonl, and only one"),
        (("book_data.csv", "metadata.csv"), r"has book_data\.csv and metadata\.csv, and only one"),
        (("book_data.csv", "a.jpg", "a.txt"), r"has book_data\.csv and pictures with"),
        (("train/metadata.csv", "validation/metadata.csv"), "a validation set can be called test"),
        (("metadata.csv", "test/metadata.csv"), "one at the top, or one in each"),
    ],
)
def test_no_layout_or_several_are_an_error(tmp_path, names, message):
    touch(tmp_path, *names)
    with pytest.raises(UserError, match=message) as caught:
        find_layout(tmp_path)
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


def test_links_to_folders_are_named_where_nothing_else_is(tmp_path):
    touch(tmp_path / "else", "a.jpg", "a.txt")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/link").symlink_to(tmp_path / "else")
    with pytest.raises(UserError, match="links to folders, which are not followed, such as 'link'"):
        find_layout(tmp_path / "data")
    with pytest.raises(UserError, match="there is no data folder"):
        find_layout(tmp_path / "nowhere")
