import pytest

from data.captions import MAX_BYTES, read_captions
from data.file_tree import list_tree


def read(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_captions(root, list_tree(root))


def test_each_picture_has_the_text_beside_it(tmp_path):
    found = read(
        tmp_path,
        {
            **{"a.jpg": "", "a.txt": "\ufeffsks  book cover,\ta tree \r\n"},
            **{"sub/a.PNG": "", "sub/a.TXT": "in the subfolder"},
            **{"u\u0308 b.c.webp": "", "\u00fc b.c.txt": "“Überall”"},  # NFD and NFC
            **{"10_style/x.jpg": "", "10_style/x.txt": "one\n\ntwo\n"},
            "README.txt": "about",
        },
    )
    assert {picture.file: picture.caption for picture in found.pictures} == {
        "a.jpg": "sks book cover, a tree",
        "sub/a.PNG": "in the subfolder",
        "u\u0308 b.c.webp": "“Überall”",
        "10_style/x.jpg": "one two",
    }
    assert not any(picture.problem or picture.title for picture in found.pictures)
    assert found.orphans == [("README.txt", "caption without a picture")]
    assert found.notes == [
        "folders such as '10_style' are read as plain folders: each picture counts once in an epoch, without repeats",
        "captions of several lines are read as one line: '10_style/x.txt'",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "no caption: there is no .txt file of this name"),
        (b" \n\xef\xbb\xbf\t", "empty caption"),
        ("caf\xe9".encode("latin-1"), "caption is not UTF-8: save it as UTF-8"),
        ("café".encode("utf-16"), "caption is not UTF-8: it is UTF-16 text: save it as UTF-8"),
        (b"a\0b", "caption is not UTF-8: it has NUL bytes"),
        (b"word " * 200_000, "caption too long: more than 64 KiB"),
    ],
)
def test_a_picture_without_a_usable_caption_says_why(tmp_path, text, problem):
    files = {"a.jpg": b"", "b.jpg": b"", "b.txt": b"x" * MAX_BYTES} | ({} if text is None else {"a.txt": text})
    first, second = read(tmp_path, files).pictures
    assert (first.file, first.caption, first.problem) == ("a.jpg", "", problem)
    assert len(second.caption) == MAX_BYTES and not second.problem


def test_two_of_one_name_are_not_guessed_about(tmp_path):
    files = {"a.jpg": b"", "a.png": b"", "a.txt": b"one", "b.jpg": b"", "b.txt": b"one", "b.TXT": b"two"}
    problems = {picture.file: picture.problem for picture in read(tmp_path, files).pictures}
    assert problems["a.jpg"] == problems["a.png"]
    assert problems["a.jpg"] == "several pictures for one caption: a.jpg, a.png; keep one, or rename it"
    assert problems["b.jpg"] == "several captions for one picture: b.TXT, b.txt; keep one, or rename it"


def test_a_caption_that_cannot_be_read(tmp_path):
    (tmp_path / "a.txt").symlink_to("nowhere.txt")
    (picture,) = read(tmp_path, {"a.jpg": b""}).pictures
    assert picture.problem == "caption can't be read: No such file or directory"
