import pytest

from common.errors import UserError
from data.file_tree import list_tree


def test_what_counts_and_what_does_not(tmp_path):
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    for folder in ("sub/deep", ".git", "__MACOSX"):
        (root / folder).mkdir(parents=True)
    elsewhere.mkdir()
    for name in (
        *("b.JPG", "a b.txt", "ä.png", "._b.JPG", ".DS_Store", "Thumbs.db", "metadata.csv", "notes.md"),
        *("sub/deep/c.WebP", "sub/metadata.jsonl", "sub/deep/C.TXT", ".git/x.jpg", "__MACOSX/x.jpg"),
    ):
        (root / name).write_bytes(b"12")
    (elsewhere / "d.jpg").write_bytes(b"1")
    (root / "d.jpg").symlink_to(elsewhere / "d.jpg")
    (root / "nowhere.jpg").symlink_to("nothing.jpg")
    (root / "linked").symlink_to(elsewhere)
    (root / "sub/loop").symlink_to(root)

    tree = list_tree(root)
    assert list(tree.pictures) == ["b.JPG", "d.jpg", "nowhere.jpg", "sub/deep/c.WebP", "ä.png"]
    assert tree.pictures["b.JPG"].size == 2 and tree.pictures["nowhere.jpg"].size == -1
    assert tree.texts == ["a b.txt", "sub/deep/C.TXT"] and tree.tables == ["metadata.csv", "sub/metadata.jsonl"]
    assert tree.links == {"d.jpg", "nowhere.jpg"} and tree.folder_links == ["linked", "sub/loop"]
    assert tree.others == {".db": 1, ".md": 1}
    assert list(list_tree(root, recursive=False).pictures) == ["b.JPG", "d.jpg", "nowhere.jpg", "ä.png"]


def test_a_folder_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"can't read the folder .*nowhere: No such file"):
        list_tree(tmp_path / "nowhere")
