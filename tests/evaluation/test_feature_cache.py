"""Features are computed once, block by block, and anew just where something changed."""

import hashlib
import os
import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

import config
from common.errors import UserError
from common.files import machine_id
from data.book import Book
from evaluation import feature_cache, features


@pytest.fixture
def extractor():
    """Three numbers an image, by hand; remembers how many images it saw. Batches of 2."""

    def network(batch):
        seen.append(len(batch))
        return batch.mean(dim=(2, 3))

    seen = []
    extractor = features.Extractor(
        *("by hand", "FD (by hand)", 3, "hash", "clean", 2, torch.device("cpu")), prepare=lambda x: x, network=network
    )
    object.__setattr__(extractor, "seen", seen)
    return extractor


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """A folder with 7 covers of one colour each, their rows, and their colours (7, 3)."""
    monkeypatch.setattr(feature_cache, "BLOCK", 3)
    colours = np.random.default_rng(0).integers(0, 256, (7, 3)).astype(np.uint8)
    for row, colour in enumerate(colours):
        Image.fromarray(np.broadcast_to(colour, (12, 8, 3)).copy()).save(tmp_path / f"{row}.png")
    return tmp_path, range(7), colours


def all_of(folder, rows, extractor):
    blocks = list(feature_cache.drawn_features(folder, rows, extractor))
    assert all(block.dtype == np.float32 and len(block) <= feature_cache.BLOCK for block in blocks)
    return np.concatenate(blocks)


def test_features_are_those_of_the_network_in_the_order_of_the_rows(drawn, extractor):
    folder, rows, colours = drawn
    assert np.allclose(all_of(folder, rows, extractor), colours, atol=1e-4)
    assert extractor.seen == [2, 1, 2, 1, 1]  # batches of 2 within blocks of 3
    backwards = all_of(folder, [*reversed(rows)], extractor)
    assert np.allclose(backwards, colours[::-1], atol=1e-4)


def test_nothing_is_computed_twice_and_a_change_costs_one_block(drawn, extractor):
    folder, rows, _ = drawn
    first = all_of(folder, rows, extractor)
    extractor.seen.clear()
    assert np.array_equal(all_of(folder, rows, extractor), first) and not extractor.seen

    Image.new("RGB", (8, 12), (1, 2, 3)).save(folder / "4.png")  # in the second block
    changed = all_of(folder, rows, extractor)
    assert np.allclose(changed[4], (1, 2, 3), atol=1e-4) and np.array_equal(
        np.delete(changed, 4, 0), first[[0, 1, 2, 3, 5, 6]]
    )
    assert sum(extractor.seen) == 3
    extractor.seen.clear()
    object.__setattr__(extractor, "weights_hash", "other")
    all_of(folder, rows, extractor)
    assert sum(extractor.seen) == 7


def test_a_stop_keeps_whole_blocks_and_damage_is_mended(drawn, extractor):
    folder, rows, _ = drawn
    blocks = feature_cache.drawn_features(folder, rows, extractor)
    next(blocks), blocks.close()
    extractor.seen.clear()
    first = all_of(folder, rows, extractor)
    assert sum(extractor.seen) == 4  # the first 3 were there

    for path, text in zip(sorted((folder / "features").iterdir()), (b"", b"nonsense", b"\x93NUMPY"), strict=True):
        path.write_bytes(text)
    assert np.array_equal(all_of(folder, rows, extractor), first)
    assert not [path for path in (folder / "features").iterdir() if path.name.startswith(".")]


def test_a_damaged_file_is_said_and_computed_again(drawn, extractor, capsys):
    """One flipped bit in a file gave another distance, with exit 0; a NaN was a traceback after all drawing."""
    folder, rows, _ = drawn
    first = all_of(folder, rows, extractor)
    path = sorted((folder / "features").iterdir())[0]
    good, block = path.read_bytes(), np.load(path)
    damaged = [flipped(good, bit) for bit in range(0, 8 * len(good), 7)]
    damaged += [good[:-1], good[:10], b"", good[: -feature_cache.DIGEST_BYTES]]  # the last as files were before
    damaged.append(resealed(good.replace(b"3), }        ", b"3999999999), }")))  # was a MemoryError
    for array in (block * [1, np.nan, 1], block[:-1], block[:, :2], block.astype(np.float64)):
        feature_cache.write_block(path, np.asarray(array, np.float64 if array.dtype == "f8" else np.float32))
        damaged.append(path.read_bytes())
    for content in damaged:
        path.write_bytes(content)
        assert feature_cache.read_block(path, *block.shape) is None

    capsys.readouterr()
    extractor.seen.clear()
    assert np.array_equal(all_of(folder, rows, extractor), first) and sum(extractor.seen) == len(block)
    assert path.read_bytes() == good
    said = f"features of {folder.name}: 1 file was damaged or without a checksum, and computed again\n"
    assert said in capsys.readouterr().err
    assert np.array_equal(all_of(folder, rows, extractor), first) and said not in capsys.readouterr().err


def test_temporary_files_of_killed_processes_are_removed(drawn, extractor):
    folder, rows, _ = drawn
    (folder / "features").mkdir()
    left = folder / "features" / f".x.npy.{machine_id()}.{2**22 + 1}.tmp"  # no process has such a number
    left.touch()
    all_of(folder, rows, extractor)
    assert not left.exists()


def flipped(content, bit):
    """The content with one bit flipped."""
    return content[: bit // 8] + bytes([content[bit // 8] ^ 1 << bit % 8]) + content[bit // 8 + 1 :]


def resealed(content):
    """A file with the right hash of what it holds."""
    array = content[: -feature_cache.DIGEST_BYTES]
    return array + hashlib.blake2b(array, digest_size=16).digest()


def test_what_is_not_finite_is_refused_by_name_and_never_kept(drawn, extractor):
    folder, rows, colours = drawn
    sound = extractor.network
    for wrong in (np.nan, np.inf, -np.inf):

        def network(batch, wrong=wrong):
            features = sound(batch)
            features[(batch[:, :, 0, 0].round() == torch.tensor(colours[4]).float()).all(1), 1] = wrong
            return features

        object.__setattr__(extractor, "network", network)
        with pytest.raises(
            UserError, match=rf"^{folder}/4\.png: its features by FD \(by hand\) are not finite"
        ) as raised:
            all_of(folder, rows, extractor)
        assert "\n" not in str(raised.value) and "--fid_weights" in str(raised.value)
        assert len(list((folder / "features").iterdir())) == 1  # the first block, which is sound
    object.__setattr__(extractor, "network", sound)
    assert np.allclose(all_of(folder, rows, extractor), colours, atol=1e-4)


def test_a_real_cover_whose_features_are_not_finite_is_named_by_its_row(extractor):
    book = Book(row=41, title="T")
    object.__setattr__(extractor, "network", lambda batch: batch.mean(dim=(2, 3)) * torch.nan)
    blocks = feature_cache.cached_blocks(
        extractor, ["x"], [book], lambda book: np.zeros((4, 4, 3), np.uint8), pathlib.Path("nowhere"), "real"
    )
    with pytest.raises(UserError, match=r"^row 41: its features"):
        next(blocks)
    assert not os.path.exists("nowhere")


def test_a_missing_or_damaged_cover_is_named(drawn, extractor):
    folder, rows, _ = drawn
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes()[:40])
    with pytest.raises(UserError, match=r"can't read .*/5\.png"):
        all_of(folder, rows, extractor)
    (folder / "5.png").unlink()
    with pytest.raises(UserError, match=r"can't read .*/5\.png as a PNG image: it does not exist"):
        all_of(folder, rows, extractor)


def test_real_covers_are_known_by_content_and_size(small_data, extractor, tmp_path):
    from cli import parser
    from data.folder import open_data
    from data.images import read_cover

    words = ["--data_root", str(small_data), "--resolution", "32x48", "--cache_dir", str(tmp_path)]
    options = parser.parse(config.StatsOptions, words)[0]
    books = open_data(options).books("all")
    got = np.concatenate(list(feature_cache.real_features(books, options, extractor, "real")))
    means = [read_cover(book.image, (32, 48)).mean(axis=(0, 1)) for book in books]
    assert np.allclose(got, means, atol=1e-3)
    extractor.seen.clear()
    list(feature_cache.real_features(books, options, extractor, "real"))
    assert not extractor.seen
    larger = parser.parse(config.StatsOptions, [*words, "--resolution", "40x48"])[0]
    list(feature_cache.real_features(books, larger, extractor, "real"))
    assert sum(extractor.seen) == len(books) == 26
