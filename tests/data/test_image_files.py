import os

import pytest

from common.errors import UserError
from data.image_files import describe_missing, find_images

NAMES = [f"{i}.jpg" for i in range(3)]


def folder_of(path, *files):
    for file in files:
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        (path / file).write_bytes(b"x")
    return path


@pytest.mark.parametrize(
    ("files", "chosen", "others"),
    [
        (["0.jpg", "1.jpg", "2.jpg"], ["0.jpg", "1.jpg", "2.jpg"], []),
        (["0.JPG", "1.jpeg", "2.png"], ["0.JPG", "1.jpeg", "2.png"], []),
        (["00000.jpg", "00001.JPEG", "00002.webp"], ["00000.jpg", "00001.JPEG", "00002.webp"], []),
        (["all/0.jpg", "all/01.png"], ["all/0.jpg", "all/01.png", None], []),
        (["0.jpg", "0.png", "00.jpg", "1.png"], ["0.jpg", "1.png", None], ["0.png", "00.jpg"]),  # just the name wins
        (["00001.jpg", "00002.jpg", "00003.jpg"], [None, "00001.jpg", "00002.jpg"], ["00003.jpg"]),
        (["cover.jpg", "a0.jpg", "0.txt", "-1.jpg", "0.jpg.part"], [None] * 3, ["-1.jpg", "a0.jpg", "cover.jpg"]),
        (["0.jpg", "rejected/1.jpg"], ["0.jpg", None, None], []),  # one has put it aside
        (["a/0.jpg", "b/1.jpg"], [None] * 3, []),
        (["__MACOSX/0.jpg", ".x/0.jpg", "all/0.jpg"], ["all/0.jpg", None, None], []),
    ],
)
def test_the_files_of_names(tmp_path, files, chosen, others):
    found = find_images(folder_of(tmp_path, *files), NAMES)
    assert [found.chosen.get(name) for name in NAMES] == chosen and found.ambiguous == {}
    assert sorted(found.stamps.keys() - set(found.chosen.values())) == others
    assert all(stamp.size == 1 and stamp.mtime_ns > 0 for stamp in found.stamps.values())


def test_of_several_that_fit_none_is_taken(tmp_path):
    found = find_images(folder_of(tmp_path, "0.jpeg", "0.png", "01.jpg", "001.jpg", "2.jpg"), NAMES)
    assert found.chosen == {"2.jpg": "2.jpg"}
    assert found.ambiguous == {"0.jpg": ["0.jpeg", "0.png"], "1.jpg": ["001.jpg", "01.jpg"]}


def test_a_folder_that_is_gone(tmp_path):
    with pytest.raises(UserError, match=r"can't read the folder .*gone: No such file"):
        find_images(tmp_path / "gone", NAMES)


@pytest.mark.parametrize(
    ("files", "there"),
    [
        ([], "it is empty"),
        (["cover_0.jpg"], "there is only 'cover_0.jpg'"),
        (["b/0.jpg", "a/1.jpg", "x.txt"], "there are 3 files and folders, like 'a'"),
    ],
)
def test_what_is_there_instead(tmp_path, files, there):
    folder_of(tmp_path, *files)
    assert describe_missing(tmp_path, "8.jpg") == f"looked for 8.jpg in {tmp_path}; {there}"


def test_a_name_that_is_no_text_is_passed_over(tmp_path):
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    (tmp_path / "all").mkdir()
    assert find_images(folder_of(tmp_path, "all/0.jpg"), NAMES).chosen == {"0.jpg": "all/0.jpg"}
