"""Hashes of files."""

from __future__ import annotations

import hashlib


def file_sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def content_hash(path):
    """blake2b of a file's bytes, 128 bits, hex: Book.content of a picture, and the name of a sound file of latents; ''
    if it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return ""
