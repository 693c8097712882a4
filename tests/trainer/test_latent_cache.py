"""Cached latents: what is kept, when it is computed anew, and that training on it is training on pictures."""

import hashlib
import io
import os
import pathlib
import pickle
import shlex
import shutil
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from support import processes
from support.training_runs import final_state, read_log

import config
import dataset
import training
from common import files
from common.errors import UserError
from data.folder import open_data
from diffusion import encoding, pipeline
from diffusion.placement import DTYPES
from trainer import latent_cache, record_cache

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def parts():
    """tiny with an autoencoder of random weights: its posterior has a deviation worth the name."""
    from diffusers import AutoencoderKL

    parts = pipeline.build_tiny()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        parts.vae = AutoencoderKL.from_config(parts.vae.config).eval()
    return parts.freeze()


@pytest.fixture
def options(small_data, tmp_path):
    return config.TrainingOptions(
        data_root=str(small_data), cache_dir=str(tmp_path / "cache"), resolution="32x48", num_workers=2
    )


@pytest.fixture
def encoded(monkeypatch):
    """Number of images that went through the autoencoder, in a list of one."""
    count, posterior = [0], encoding.posterior

    def counting(vae, pixel_values):
        count[0] += len(pixel_values)
        return posterior(vae, pixel_values)

    monkeypatch.setattr(encoding, "posterior", counting)
    return count


def cached(options, parts, books=None, precision="no", sizes=None):
    books = open_data(options).kept if books is None else books
    accelerator = types.SimpleNamespace(  # accelerate has one precision for the whole life of a process
        mixed_precision=precision,
        device=torch.device("cpu"),
        is_main_process=True,
        process_index=0,
        num_processes=1,
        print=print,
        wait_for_everyone=lambda: None,
        autocast=lambda: torch.autocast("cpu", DTYPES[precision], enabled=precision != "no"),
    )
    return latent_cache.cache_latents(books, sizes or [config.size(options)] * len(books), parts, options, accelerator)


def block_paths(options):
    return sorted((config.cache_dir(options) / "latents").glob("*/*.npy"))


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


def test_kept_is_the_posterior_rounded_to_half(options, parts):
    books = open_data(options).kept
    kept = cached(options, parts, books)
    images = torch.stack([dataset.load_image(book.image, (32, 48)) for book in books])
    with torch.no_grad():
        posterior = parts.vae.encode(images).latent_dist
    moments = torch.stack([kept[book.content, (32, 48)] for book in books])
    assert moments.dtype == torch.float16 and moments.shape == (26, 2, 4, 6, 4)
    for ours, theirs in ((moments[:, 0], posterior.mean), (moments[:, 1], posterior.std)):
        assert theirs.abs().mean() > 0.1
        torch.testing.assert_close(ours.float(), theirs, rtol=2**-11 + 1e-5, atol=1e-6)  # half of the last place


def test_a_draw_differs_from_one_of_pictures_by_rounding_alone(options, parts):
    books = open_data(options).kept[:4]
    images = torch.stack([dataset.load_image(book.image, (32, 48)) for book in books])
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 4, 6, 4), np.float32))
    kept = cached(options, parts, books)
    mean, std = torch.stack([kept[book.content, (32, 48)] for book in books]).float().unbind(1)
    ours, theirs = encoding.draw_latents(parts.vae, mean, std, noise), encoding.encode_images(parts.vae, images, noise)
    error = (ours - theirs).norm() / theirs.norm()
    assert 0 < error < 2**-11


def test_what_is_kept_does_not_depend_on_what_else_was_missing(options, parts, tmp_path):
    books = open_data(options).kept
    whole = cached(options, parts, books)
    options = config.TrainingOptions(**{**config.to_json(options), "cache_dir": str(tmp_path / "other")})
    for some in (books[20:], books[:3], books):
        pieces = cached(options, parts, some)
    assert all(torch.equal(whole[key], pieces[key]) for key in whole.locations) and len(whole.locations) == len(books)


def test_each_size_has_its_own(options, parts, encoded, tmp_path):
    """One size, then buckets, then the one size again, in one cache: what each finds is what a cache of its own has."""
    books = open_data(options).kept
    one, mixed = [(32, 48)] * 26, [(32, 48), (48, 32)] * 13
    alone = config.TrainingOptions(**{**config.to_json(options), "cache_dir": str(tmp_path / "other")})
    fresh = cached(alone, parts, books, sizes=mixed)
    encoded[0] = 0
    counts = []
    for sizes in (one, mixed, one, mixed):
        kept = cached(options, parts, books, sizes=sizes)
        counts.append(encoded[0])
        assert [kept[book.content, size].shape[2:] for book, size in zip(books, sizes, strict=True)] == [
            (height // 8, width // 8) for width, height in sizes
        ]
    assert counts == [26, 39, 39, 39]
    for book, size in zip(books, mixed, strict=True):
        assert torch.equal(kept[book.content, size], fresh[book.content, size])


def test_it_can_be_pickled_small(options, parts):
    kept = cached(options, parts)
    text = pickle.dumps(kept)
    again = pickle.loads(text)
    assert set(again.locations) == set(kept.locations) and len(text) < 10_000
    assert all(torch.equal(again[key], kept[key]) for key in kept.locations)


# ---------------------------------------------------------------------------------------------------------------------
# When it is computed anew


def test_just_what_changed_is_computed(options, parts, encoded, small_data, tmp_path):
    def computed(**changes):
        before = encoded[0]
        cached(config.TrainingOptions(**{**config.to_json(options), **changes}), parts)
        return encoded[0] - before

    assert computed() == 26
    assert computed() == 0

    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    assert computed(data_root=str(data)) == 0  # the same pictures elsewhere
    assert computed(data_root=str(data), test_fraction=0.5) == 0
    first, second = (data / "images" / "images" / f"{row}.jpg" for row in (3, 4))
    Image.effect_noise((64, 96), 50).convert("RGB").save(first)
    assert computed(data_root=str(data)) == 1  # a picture changed
    shutil.move(first, second)
    assert computed(data_root=str(data)) == 0  # and moved to another row
    assert computed() == 0  # the old one is still known

    assert computed(resolution="32x32") == 26
    assert computed() == 0
    before = encoded[0]
    cached(options, parts, precision="bf16")
    assert encoded[0] - before == 26
    parts.vae.float().encoder.conv_in.bias += 1e-3
    assert computed() == 26  # another autoencoder
    parts.vae.register_to_config(norm_num_groups=2)
    assert computed() == 26  # the same weights, put together otherwise


def test_other_libraries_compute_anew(options, parts, encoded, monkeypatch):
    version = latent_cache.importlib.metadata.version
    cached(options, parts)
    for library in latent_cache.LIBRARIES:
        monkeypatch.setattr(
            latent_cache.importlib.metadata, "version", lambda name, new=library: "9" if name == new else version(name)
        )
        encoded[0] = 0
        cached(options, parts)
        assert encoded == [26]


def test_many_files_take_no_handles(options, parts, monkeypatch):
    """A slow machine publishes every half minute, a cover or a few a file: more files than a process may have open."""
    monkeypatch.setattr(latent_cache, "COVERS_PER_FILE", 1)
    kept = cached(options, parts)
    assert len(block_paths(options)) == 26
    before = len(os.listdir("/proc/self/fd"))
    held = [kept[key] for key in kept.locations]
    assert len(held) == 26 and len(os.listdir("/proc/self/fd")) <= before


def test_a_file_that_can_not_be_read_is_not_deleted(options, parts, monkeypatch):
    cached(options, parts)
    (path,) = block_paths(options)
    monkeypatch.setattr(record_cache, "content_hash", lambda path: "")
    with pytest.raises(UserError, match=f"can't read {path}"):
        cached(options, parts)
    assert path.exists()


def test_the_same_picture_twice_is_computed_once(options, parts, encoded):
    book = open_data(options).kept[0]
    cached(options, parts, [book, book, book])
    assert encoded == [1]


def test_fewer_covers_need_nothing_and_more_just_the_new(options, parts, encoded):
    books = open_data(options).kept
    for count, computed in ((10, 10), (4, 10), (26, 26)):
        cached(options, parts, books[:count])
        assert encoded == [computed]


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "swapped"])
def test_a_damaged_file_is_noticed_and_computed_again(options, parts, encoded, monkeypatch, capsys, damage):
    monkeypatch.setattr(latent_cache, "COVERS_PER_FILE", 10)
    good = cached(options, parts)
    good = {content: good[content].clone() for content in good.locations}
    paths = block_paths(options)
    assert sorted(len(np.load(path)) for path in paths) == [6, 10, 10]
    path = next(path for path in paths if len(np.load(path)) == 6)
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[-7] ^= 1
    contents = {"cut": data[:-1], "flipped": data, "empty": b"", "swapped": paths[paths[0] == path].read_bytes()}
    path.write_bytes(contents[damage])
    encoded[0] = 0
    again = cached(options, parts)
    assert encoded == [6]
    assert "20 of 26 covers are in the cache, 1 damaged file deleted; 6 to encode" in capsys.readouterr().out
    assert all(torch.equal(again[content], good[content]) for content in good)


def test_a_file_of_something_else_is_damaged_even_if_its_name_is_its_hash(options, parts, encoded, capsys):
    """One that claims to hold Python objects was a ValueError in a traceback."""
    good = cached(options, parts)
    (path,) = block_paths(options)
    records = np.load(path)
    others = {
        "objects": np.array([{"content": 1}], object),
        "numbers": np.zeros(3),
        "another size": np.zeros(2, np.dtype([("content", "S32"), ("moments", "<f2", (2, 4, 4, 4))])),
        "rows and columns": records.reshape(13, 2),
        "letters": records.copy(),
    }
    others["letters"]["content"][3] = b"\xff\xfe"
    for name, array in {**others, "nothing": None}.items():
        content = io.BytesIO()
        if array is not None:
            np.save(content, array)
        other = path.with_name(hashlib.blake2b(content.getvalue(), digest_size=16).hexdigest() + ".npy")
        other.write_bytes(content.getvalue())
        again = cached(options, parts)
        assert "26 of 26 covers are in the cache, 1 damaged file deleted\n" in capsys.readouterr().out, name
        assert not other.exists() and again.locations == good.locations
    assert encoded == [26]


def test_what_can_not_be_used_any_more_is_one_line(options, parts):
    """Somebody empties the cache while a run reads it, or a file holds what no autoencoder of ours has written."""
    kept = cached(options, parts)
    (path,) = block_paths(options)
    key = next(iter(kept.locations))
    records = np.load(path)
    records["moments"][kept.locations[key][1]][0, 0, 0, 0] = np.nan
    for content in (None, b"", path.read_bytes()[:3000], np.zeros(3), records, records[:0]):
        path.unlink(missing_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            np.save(path, content)
        match = rf"^the cached latents in {path} can't be used any more: .*--run_id"
        with pytest.raises(UserError, match=match) as raised:
            kept[key]
        assert "\n" not in str(raised.value)


def test_temporary_files_of_killed_processes_are_removed(options, parts):
    """Twenty kills at the rename left twenty files, also after a good run. A running process's file stays."""
    cached(options, parts)
    (path,) = block_paths(options)
    elsewhere = path.parent.with_name("64x64-another")
    elsewhere.mkdir()
    for folder in (path.parent, elsewhere):
        for pid in (2**22 + 1, os.getpid()):  # the first can't be a process's number
            (folder / f".{path.name}.{files.machine_id()}.{pid}.tmp").write_bytes(b"half")
    cached(options, parts)
    left = [p.name for folder in (path.parent, elsewhere) for p in folder.glob(".*")]
    assert left == [f".{path.name}.{files.machine_id()}.{os.getpid()}.tmp"] * 2


@pytest.fixture
def arguments(small_data, tmp_path):
    """Words for a short run with cached latents and a cache of its own."""

    def words(*more, name="run"):
        fixed = f"""--data_root {small_data} --output_dir {tmp_path}/runs --pretrained_model tiny --resolution 32x48
        --cache_dir {tmp_path}/cache --batch_size 5 --lr 1e-3 --lr_text_encoder 2e-3 --num_workers 0 --sample_every 0
        --validation_rows 4 --train_unet --cache_latents"""
        return [*fixed.split(), "--run_name", name, *map(str, more)]

    return words


@pytest.mark.script
def test_killed_in_the_middle_goes_on_where_it_was(arguments, tmp_path, capsys):
    words = [sys.executable, "-m", "support.dying_training", ".npy", 3, *arguments("--max_steps", 1)]
    process = processes.run(words, cwd=processes.ROOT, capture_output=True, text=True, timeout=200)
    assert process.returncode == 9, process.stderr
    assert training.main(["--run_id", "run", "--output_dir", str(tmp_path / "runs")]) == 0
    assert "latents: 8 of 26 covers are in the cache; 18 to encode" in capsys.readouterr().out


def test_interrupted_keeps_what_was_encoded_and_says_how_to_go_on(arguments, tmp_path, monkeypatch, capsys):
    moments, left = latent_cache.half_moments, [9]

    def until(*args):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return moments(*args)

    monkeypatch.setattr(latent_cache, "half_moments", until)
    with pytest.raises(KeyboardInterrupt):
        training.main(arguments("--max_steps", 1))
    monkeypatch.undo()
    output = capsys.readouterr()
    assert "memory: about" in output.out  # before the long work
    command = shlex.split(output.err.split("what was encoded or read is kept; go on with: ")[1].splitlines()[0])
    assert command[:3] == ["python", "-m", "training"]
    assert training.main(command[3:]) == 0
    assert "latents: 9 of 26 covers are in the cache; 17 to encode" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------------------
# Training on it


def losses_of(run):
    return [line[name] for line in read_log(run) for name in ("loss", "validation_loss") if name in line]


@pytest.mark.slow
def test_losses_are_those_of_training_on_pictures(arguments, tmp_path):
    words = ("--max_steps", 7, "--validate_every", 3, "--optimizer", "adamw")
    assert training.main(arguments(*words)) == 0
    assert training.main(arguments(*words, "--cache_latents", "False", name="pictures")) == 0
    ours, theirs = (losses_of(tmp_path / "runs" / name) for name in ("run", "pictures"))
    assert len(ours) == 7 + 4 and ours != theirs
    assert ours == pytest.approx(theirs, rel=1e-4)  # some 1e-6 at first; then the weights differ, too


@pytest.mark.slow
def test_no_picture_is_read_once_the_cache_is_full(arguments, tmp_path, monkeypatch):
    words = ("--max_steps", 2, "--sample_every", 1, "--num_samples", 2, "--steps", 2)
    assert training.main(arguments(*words)) == 0
    monkeypatch.setattr(dataset, "load_image", lambda *_: pytest.fail("a picture was read"))
    monkeypatch.setattr(encoding, "posterior", lambda *_: pytest.fail("a picture was encoded"))
    assert training.main(arguments(*words, name="again")) == 0
    assert final_state(tmp_path / "runs" / "run") == final_state(tmp_path / "runs" / "again")
    assert (tmp_path / "runs" / "again" / "samples" / "000002.png").exists()


# ---------------------------------------------------------------------------------------------------------------------
# What can go wrong


def test_a_full_disk_is_said_before_anything_is_written(options, parts, monkeypatch):
    usage = files.shutil.disk_usage("/")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"a cache of 26 latents needs .* leave --cache_latents out"):
        cached(options, parts)
    assert block_paths(options) == []


def test_latents_beyond_half_precision_are_refused(options, parts):
    parts.vae.quant_conv.bias[0] = 70_000
    with pytest.raises(UserError, match="are not finite in half precision; leave --cache_latents out"):
        cached(options, parts)
    assert block_paths(options) == []


def test_an_autoencoder_of_another_model_is_refused(options, parts):
    parts.unet.register_to_config(in_channels=9)
    with pytest.raises(UserError, match="latents are 4x6x4 and the UNet takes 9x6x4"):
        cached(options, parts)


def test_a_cover_that_vanished_is_named(options, parts, small_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    options = config.TrainingOptions(**{**config.to_json(options), "data_root": str(data)})
    books = open_data(options).kept
    pathlib.Path(books[5].image).unlink()
    with pytest.raises(UserError, match=f"row {books[5].row}: "):
        cached(options, parts, books)


def test_a_cover_that_changes_meanwhile_is_not_kept_under_its_old_hash(options, parts, small_data, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(small_data, data)
    options = config.TrainingOptions(**{**config.to_json(options), "data_root": str(data)})
    books = open_data(options).kept
    shutil.copy(books[6].image, books[5].image)
    with pytest.raises(UserError, match=rf"row {books[5].row}: .* was changed just now"):
        cached(options, parts, books)
    (kept,) = block_paths(options)  # what was encoded before
    assert {content.decode() for content in np.load(kept)["content"]} == {book.content for book in books[:5]}


def test_it_stays_as_it_began(arguments, tmp_path):
    assert training.main(arguments("--max_steps", 1)) == 0
    with pytest.raises(UserError, match="--cache_latents False would change the past"):
        training.main(["--run_id", "run", "--output_dir", str(tmp_path / "runs"), "--cache_latents", "False"])
