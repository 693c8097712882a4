"""A folder's manifest: what it says of sound files, and which damage it notices."""

import hashlib
import json
import os

import pytest

from common import manifest
from common.errors import UserError
from common.manifest import MANIFEST, FileHash, find_damage, read_manifest, require_intact, write_manifest


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "v1"
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "weights").write_bytes(bytes(range(256)) * 10)
    (folder / "index.json").write_text("{}")
    write_manifest(folder)
    return folder


def test_it_has_the_size_and_hash_of_every_file(folder):
    assert json.loads((folder / MANIFEST).read_text()) == {
        "index.json": {"sha256": hashlib.sha256(b"{}").hexdigest(), "bytes": 2},
        "unet/weights": {"sha256": hashlib.sha256(bytes(range(256)) * 10).hexdigest(), "bytes": 2560},
    }
    assert find_damage([folder]) == {}
    (folder / "mine.txt").write_text("a file that nobody knows")
    assert find_damage([folder]) == {}


def test_what_is_known_is_not_read_again(folder, monkeypatch):
    known = {"unet/weights": FileHash("a" * 64, 2560)}
    read = []
    monkeypatch.setattr(manifest, "file_sha256", lambda path: read.append(path.name) or "b" * 64)
    write_manifest(folder, known)
    assert read == ["index.json"]
    assert read_manifest(folder) == {**known, "index.json": FileHash("b" * 64, 2)}


@pytest.mark.parametrize("position", [0, 1000, 2559])
@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_is_noticed(folder, position, bit):
    path = folder / "unet" / "weights"
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)
    assert find_damage([folder]) == {path: "is not what was saved (its SHA-256 differs)"}
    assert find_damage([folder], contents=False) == {}
    with pytest.raises(UserError, match=r"unet/weights is not what was saved.*: bring it back"):
        require_intact(folder, "bring it back")


def test_missing_and_cut_files_are_noticed_by_name_and_size_alone(folder):
    (folder / "unet" / "weights").write_bytes(b"short")
    (folder / "index.json").unlink()
    wanted = {folder / "unet" / "weights": "has 5 bytes instead of 2560", folder / "index.json": "is missing"}
    assert find_damage([folder]) == find_damage([folder], contents=False) == wanted


def test_hard_links_are_read_once(folder, tmp_path, monkeypatch):
    other = tmp_path / "v2"
    (other / "unet").mkdir(parents=True)
    for name in ("unet/weights", "index.json"):
        os.link(folder / name, other / name)
    write_manifest(other)
    read, hash_file = [], manifest.file_sha256
    monkeypatch.setattr(manifest, "file_sha256", lambda path: read.append(path) or hash_file(path))
    assert find_damage([folder, other]) == {} and len(read) == 2
    (folder / "unet" / "weights").write_bytes(bytes(2560))  # in place: both names show it
    assert find_damage([folder, other]).keys() == {folder / "unet/weights", other / "unet/weights"}


def test_a_file_that_can_not_be_read_is_damaged(folder, monkeypatch):
    def read(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(manifest, "file_sha256", read)
    assert set(find_damage([folder]).values()) == {"can't be read"}


def test_a_folder_without_a_manifest_is_not_checked(tmp_path):
    (tmp_path / "weights").write_text("anything")
    assert read_manifest(tmp_path) is None and find_damage([tmp_path, tmp_path / "none"]) == {}


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", '{"a": 3}', '{"a": {}}', '{"a": {"sha256": "ab", "bytes": 1}}'),
        *(
            json.dumps({name: {"sha256": "a" * 64, "bytes": 1}})
            for name in ("../a", "/etc/passwd", "a/../../b", "", ".")
        ),
        json.dumps({"a": {"sha256": "a" * 64, "bytes": "1"}}),
    ],
)
def test_a_damaged_manifest_is_damage(folder, text):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=r"sha256\.json") as problem:
        read_manifest(folder)
    assert "\n" not in str(problem.value)
    assert find_damage([folder]) == {folder / MANIFEST: "is damaged"}
