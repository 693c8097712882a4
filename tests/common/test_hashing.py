"""Hashes of files: those of the standard library over all of a file's bytes."""

import hashlib

import pytest

from common.hashing import content_hash, file_sha256


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1])  # file_sha256 reads blocks of 1 MiB
def test_all_bytes_count(tmp_path, size):
    data = bytes(i % 251 for i in range(size))
    path = tmp_path / "file"
    path.write_bytes(data)
    assert file_sha256(path) == hashlib.sha256(data).hexdigest()
    assert content_hash(path) == hashlib.blake2b(data, digest_size=16).hexdigest()


def test_a_file_that_is_missing(tmp_path):
    assert content_hash(tmp_path / "none") == ""
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "none")
