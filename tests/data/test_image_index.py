import io
import os
import pathlib
import subprocess

import numpy as np
import pytest
from PIL import Image

from common import files
from common.errors import UserError
from data import image_index
from data.image_index import MAX_BYTES, check_folder, read_index, write_csv


def jpeg(seed=0, kind="JPEG", size=(40, 60), **options):
    """A picture of four flat quarters."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    (folder / "3.jpg").write_bytes(b"")
    (folder / "99.jpg").write_bytes(jpeg(99))
    (folder / "4.jpg").unlink()
    (folder / "4.jpg").mkdir()
    (folder / "notes.txt").write_text("x")
    return folder


NAMES = [f"{i}.jpg" for i in range(8)]


def test_check_folder(folder, tmp_path):
    entries, strays = check_folder(folder, NAMES, tmp_path / "cache" / "images.csv", 2)
    assert list(entries) == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "5.jpg"] and strays == {"99.jpg"}
    assert entries["0.jpg"][4:7] == (40, 60, "") and entries["3.jpg"].problem == "empty file"
    assert len({entry.content for entry in entries.values()}) == 5
    assert all(entry.picture == (entry.content if name != "3.jpg" else "") for name, entry in entries.items())
    assert read_index(tmp_path / "cache" / "images.csv") == {entry.file: entry for entry in entries.values()}
    assert os.listdir(tmp_path / "cache") == ["images.csv"]  # no temporary file is left


def decoded_names(monkeypatch, *args):
    """check_folder(*args) -> (entries, names of the files that were decoded)."""
    names, check_file = [], image_index.check_file

    def spy(path, *stamp):
        names.append(os.path.basename(path))
        return check_file(path, *stamp)

    with monkeypatch.context() as patch:
        patch.setattr(image_index, "check_file", spy)
        entries, _ = check_folder(*args)
    return entries, sorted(names)


def test_only_files_that_changed_are_decoded_again(folder, tmp_path, monkeypatch):
    index = tmp_path / "images.csv"
    first, names = decoded_names(monkeypatch, folder, NAMES, index, 1)
    assert names == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "5.jpg"]
    second, names = decoded_names(monkeypatch, folder, NAMES, index, 1)
    assert names == [] and second == first

    (folder / "3.jpg").write_bytes(jpeg(99))  # other size
    os.utime(folder / "1.jpg", ns=(1, 1))  # other time
    (folder / "2.jpg").unlink()
    third, names = decoded_names(monkeypatch, folder, NAMES, index, 1)
    assert names == ["1.jpg", "3.jpg"] and "2.jpg" not in third and third["3.jpg"].problem == ""
    assert third["1.jpg"].content == first["1.jpg"].content

    index.write_text("file v0,size\n0.jpg,1\n")  # another version of the index, then a damaged one
    assert decoded_names(monkeypatch, folder, NAMES, index, 1) == (third, ["0.jpg", "1.jpg", "3.jpg", "5.jpg"])
    index.write_bytes(index.read_bytes()[:-40])
    assert decoded_names(monkeypatch, folder, NAMES, index, 1)[0] == third


def test_a_file_that_could_not_be_read_is_tried_again(folder, tmp_path, monkeypatch):
    index = tmp_path / "images.csv"
    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", lambda self: (_ for _ in ()).throw(OSError(5, "I/O error")))
        entries, _ = check_folder(folder, ["0.jpg"], index, 1)
    assert entries["0.jpg"].problem == "can't be read: I/O error"
    assert check_folder(folder, ["0.jpg"], index, 1)[0]["0.jpg"].problem == ""


def test_a_check_that_was_stopped_goes_on_where_it_was(folder, tmp_path, monkeypatch):
    index, check_file = tmp_path / "images.csv", image_index.check_file

    def stops(path, *stamp):
        if path.endswith("3.jpg"):
            raise KeyboardInterrupt
        return check_file(path, *stamp)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(image_index, "check_file", stops)
        check_folder(folder, NAMES, index, 1)
    assert list(read_index(index)) == ["0.jpg", "1.jpg", "2.jpg"]
    assert decoded_names(monkeypatch, folder, NAMES, index, 1)[1] == ["3.jpg", "5.jpg"]


def test_the_index_is_written_on_the_way(folder, tmp_path, monkeypatch):
    sizes, write_index = [], image_index.write_index
    monkeypatch.setattr(image_index, "SAVE_SECONDS", -1)
    monkeypatch.setattr(
        image_index, "write_index", lambda path, index: (sizes.append(len(index)), write_index(path, index))
    )
    check_folder(folder, NAMES, tmp_path / "images.csv", 1)
    assert sizes == [1, 2, 3, 4, 5, 5, 5]  # after each, at the end, and with the pictures compared


def test_a_disk_without_room_is_said_in_one_line(tmp_path, monkeypatch):
    path = tmp_path / "images.csv"
    path.write_text("old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(UserError, match=r"can't write .*images\.csv: No space left on device.*--cache_dir"):
        write_csv(path, ["a"], [["new"]])
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["images.csv"]


def test_a_file_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "0.jpg"
    path.write_bytes(jpeg())
    os.truncate(path, MAX_BYTES + 1)  # sparse: takes no space
    entries, _ = check_folder(tmp_path, ["0.jpg"], tmp_path / "cache" / "images.csv", 1)
    assert entries["0.jpg"].problem == "too large: 268 MB" and entries["0.jpg"].content == ""


# ---------------------------------------------------------------------------------------------------------------------
# Damage, leftovers, odd files


def test_a_damaged_line_is_made_again(folder, tmp_path, monkeypatch):
    index = tmp_path / "images.csv"
    sound, _ = check_folder(folder, NAMES, index, 1)
    text = index.read_bytes()
    entry, line = sound["1.jpg"], text.splitlines()[2]
    assert line.startswith(b"1.jpg,")
    for old, new in [
        (b",40,60,", b",0,60,"),
        (entry.content[:1].encode(), b"\xe9"),
        (b"1.jpg", b'"1.jpg'),
        (b",", b"\n"),
    ]:
        index.write_bytes(text.replace(line, line.replace(old, new, 1)))
        entries, names = decoded_names(monkeypatch, folder, NAMES, index, 1)
        assert (entries, names) == (sound, ["1.jpg"])
    for position in range(0, len(line), 7):
        damaged = bytearray(line)
        damaged[position] ^= 1
        index.write_bytes(text.replace(line, bytes(damaged)))
        assert check_folder(folder, NAMES, index, 1)[0] == sound, bytes(damaged)
        assert index.read_bytes() == text


def test_what_killed_checks_left_is_removed(folder, tmp_path):
    process = subprocess.Popen(["true"])
    process.wait()
    cache = tmp_path / "cache"
    cache.mkdir()
    for name in ("images.csv", "quarantine.csv"):
        (cache / f".{name}.{files.machine_id()}.{process.pid}.tmp").write_text("half")
    check_folder(folder, NAMES, cache / "images.csv", 1)
    assert os.listdir(cache) == ["images.csv"]


def test_odd_files_cost_one_row_each(tmp_path, monkeypatch):
    """Folder, links to nowhere, itself and a file, a pipe, a web page, nothing, no permission: each with its reason."""
    folder = tmp_path / "images"
    (folder / "0.jpg").mkdir(parents=True)
    (folder / "1.jpg").symlink_to("nowhere")
    (folder / "2.jpg").symlink_to("2.jpg")
    (folder / "real").write_bytes(jpeg(3))
    (folder / "3.jpg").symlink_to("real")
    os.mkfifo(folder / "4.jpg")
    (folder / "5.jpg").write_bytes(b"<!DOCTYPE html><html><body>404</body></html>")
    (folder / "6.jpg").write_bytes(b"")
    (folder / "7.jpg").write_bytes(jpeg(7))
    read_bytes = pathlib.Path.read_bytes

    def read(path):
        if path.name == "7.jpg":  # the tests may run as root, who may read everything
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", read)
    entries, others = check_folder(folder, NAMES, tmp_path / "images.csv", 2)
    assert others == set() and {name: entry.problem for name, entry in entries.items()} == {
        "1.jpg": "can't be read: No such file or directory",
        "2.jpg": "can't be read: Too many levels of symbolic links",
        "3.jpg": "",
        "5.jpg": "not an image",
        "6.jpg": "empty file",
        "7.jpg": "can't be read: Permission denied",
    }


def test_a_file_that_changes_during_the_check_is_used_or_says_why(folder, tmp_path, monkeypatch):
    index, list_images = tmp_path / "images.csv", image_index.find_images

    def changed(*args):
        found = list_images(*args)
        (folder / "0.jpg").unlink()
        (folder / "1.jpg").write_bytes(b"half")
        (folder / "2.jpg").write_bytes(jpeg(20, size=(80, 120)))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(image_index, "find_images", changed)
        entries, _ = check_folder(folder, NAMES, index, 1)
    assert [entries[f"{i}.jpg"].problem for i in range(3)] == [
        "can't be read: No such file or directory",
        "not an image",
        "",
    ]
    assert (entries["2.jpg"].width, entries["2.jpg"].height) == (80, 120)
    (folder / "1.jpg").write_bytes(jpeg(1))
    assert "0.jpg" not in (after := check_folder(folder, NAMES, index, 1)[0]) and after["1.jpg"].problem == ""


# ---------------------------------------------------------------------------------------------------------------------
# Names, pictures


def test_files_of_other_names_are_indexed_by_their_own(tmp_path, monkeypatch):
    folder, index = tmp_path / "images", tmp_path / "images.csv"
    folder.mkdir()
    for name, kind in {"0.JPG": "JPEG", "001.png": "PNG", "2.jpeg": "JPEG", "2.webp": "WEBP"}.items():
        (folder / name).write_bytes(jpeg(int(name[0]), kind))
    entries, others = check_folder(folder, NAMES, index, 1)
    assert {name: entry.file for name, entry in entries.items()} == {
        "0.jpg": "0.JPG",
        "1.jpg": "001.png",
        "2.jpg": "2.jpeg",
    }
    assert entries["1.jpg"].width == 40 and others == set()
    assert entries["2.jpg"].problem == "several files: 2.jpeg, 2.webp; keep one, or name it 2.jpg"
    assert decoded_names(monkeypatch, folder, NAMES, index, 1) == (entries, [])


def test_pictures_are_compared_anew_when_a_file_comes_or_goes(tmp_path, monkeypatch):
    folder, index = tmp_path / "images", tmp_path / "images.csv"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.jpg").write_bytes(jpeg(7, size=(160, 240), quality=(90, 60, 40)[i]))
    (folder / "3.jpg").write_bytes(jpeg(8, size=(160, 240)))
    entries, _ = check_folder(folder, NAMES, index, 1)
    pictures = [entries[f"{i}.jpg"].picture for i in range(4)]
    contents = [entry.content for entry in entries.values()]
    assert (
        len(set(contents)) == 4 and len(set(pictures)) == 2 and len(set(pictures[:3])) == 1 and pictures[0] in contents
    )

    with monkeypatch.context() as patch:
        patch.setattr(image_index, "same_pictures", None)  # not called
        assert check_folder(folder, NAMES, index, 1)[0] == entries
    (folder / f"{contents.index(pictures[0])}.jpg").unlink()
    rest, _ = check_folder(folder, NAMES, index, 1)
    assert len(rest) == 3 and {entry.picture for entry in rest.values()} <= {entry.content for entry in rest.values()}

    def stopped(*args):
        raise KeyboardInterrupt

    (folder / "4.jpg").write_bytes(jpeg(7, size=(160, 240), quality=95))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(image_index, "same_pictures", stopped)
        check_folder(folder, NAMES, index, 1)
    again, names = decoded_names(monkeypatch, folder, NAMES, index, 1)
    assert names == [] and again["4.jpg"].picture in {again[name].picture for name in rest}
