"""mini: the pipeline is whole and small, its making can be resumed, and fine-tuning it works in every regime."""

import json
import pathlib
import sys

import numpy as np
import pytest
import torch
from support import processes

import config
import dataset
from common import randomness
from data.folder import open_data
from demo_data import folder
from diffusion import encoding, objective, pipeline, source
from diffusion.noise import normal, stratified_timesteps
from diffusion.parts import PARTS, eval_mode
from mini_sd import autoencoder, denoiser, learning, pictures, posters, words

ROOT = pathlib.Path(pipeline.__file__).parent.parent


@pytest.fixture(scope="module")
def mini():
    return pipeline.load_parts("mini")


# ---------------------------------------------------------------------------------------------------------------------
# The bundle


def test_mini_is_small_and_safe():
    pieces = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    files = [file for name in pieces for file in (source.MINI / name).iterdir()]
    assert {file.suffix for file in files} == {".json", ".txt", ".safetensors"}
    assert sum(file.stat().st_size for file in files) <= 20e6


def test_mini_is_a_pipeline_for_diffusers(mini):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(source.MINI)
    assert {pipeline.unet.dtype, pipeline.vae.dtype, pipeline.text_encoder.dtype} == {torch.float32}
    for name in ("vae", *PARTS):
        ours, theirs = getattr(mini, name).state_dict(), getattr(pipeline, name).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    image = pipeline("A castle poster", width=128, height=192, num_inference_steps=2).images[0]
    assert image.size == (128, 192)


def test_vocab_and_merges_say_the_same_as_tokenizer_json(mini, tmp_path):
    from transformers import CLIPTokenizer

    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((source.MINI / "tokenizer" / name).read_bytes())
    plain = CLIPTokenizer.from_pretrained(tmp_path)
    for text in ("A fantasy book cover with author Ada O'Hara, title The Glass Crown", "Ünïcode, 12!", ""):
        assert plain(text).input_ids == mini.tokenizer(text).input_ids
    assert mini.tokenizer.model_max_length == words.MAX_LENGTH == mini.text_encoder.config.max_position_embeddings
    assert len(mini.tokenizer("A science fiction poster of a rocket").input_ids) == 9  # whole words


def test_the_autoencoder_gives_back_pictures_and_latents_have_their_deviation(mini):
    pixels = np.stack([np.asarray(posters.poster(row)[0]) for row in range(100_000, 100_024)])  # not trained on
    x = pictures.to_tensor(pixels)
    latents = encoding.encode_images(mini.vae, x, torch.zeros(24, *encoding.latent_shape(mini, posters.SIZE)))
    assert latents.std() == pytest.approx(autoencoder.DEVIATION, rel=0.2)
    error = encoding.decode_latents(mini.vae, latents).float() - torch.from_numpy(pixels).float()
    assert 10 * np.log10(255**2 / error.square().mean()) > 26  # dB


@pytest.mark.slow
def test_the_caption_helps_to_draw_a_poster(mini):
    """Right caption and wrong, on posters not trained on, in the noise in which colours and shapes are decided."""
    drawn = [posters.poster(row) for row in range(100_000, 100_032)]
    x = pictures.to_tensor(np.stack([np.asarray(image) for image, _ in drawn]))
    latents = encoding.encode_images(mini.vae, x, torch.zeros(32, *encoding.latent_shape(mini, posters.SIZE)))
    captions = [caption for _, caption in drawn]
    ids = torch.tensor(mini.tokenizer(captions, padding="max_length")["input_ids"])
    noise = normal(0, randomness.NOISE, range(32), latents.shape[1:])
    with torch.inference_mode():
        text = encoding.encode_text(mini.text_encoder, ids)
        right, wrong = (
            objective.loss(mini.unet, mini.noise_scheduler, latents, words_of, noise, torch.full((32,), 900))
            for words_of in (text, text.roll(1, 0))
        )
    assert right.mean() < 0.95 * wrong.mean(), (right.mean(), wrong.mean())


# ---------------------------------------------------------------------------------------------------------------------
# What it was trained on


def test_a_poster_is_a_function_of_its_row():
    image, caption = posters.poster(7)
    again, same = posters.poster(7)
    assert image.tobytes() == again.tobytes() and caption == same and image.size == posters.SIZE
    assert posters.sheet(7).tobytes() == posters.sheet(7).tobytes() != posters.sheet(8).tobytes()
    captions = [posters.poster(row)[1] for row in range(300)]
    assert all(any(word in caption for word in posters.MOTIFS) for caption in captions)
    placards = sum("placard" in caption for caption in captions) / len(captions)
    assert placards == pytest.approx(posters.PLACARDS, abs=0.08)
    assert not any("book cover" in caption for caption in captions)  # that is what fine-tuning teaches


def test_pictures_are_drawn_once(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "CHUNK", 2)
    pixels, captions = pictures.ensure_images(tmp_path, "posters", pictures.draw_posters, 4)
    assert pixels.shape == (4, 192, 128, 3) and captions == [posters.poster(row)[1] for row in range(4)]
    assert np.array_equal(pixels[3], np.asarray(posters.poster(3)[0]))
    again, _ = pictures.ensure_images(tmp_path, "posters", None, 4)
    assert np.array_equal(pixels, again)


def test_merges_by_hand():
    # "aab" 3 times, "ab" once: a b</w> comes 4 times, then a ab</w> 3 times
    assert words.learn_merges(["aab aab", "aab ab"], 5) == [("a", "b</w>"), ("a", "ab</w>")]


# ---------------------------------------------------------------------------------------------------------------------
# Its making


def weights(*modules):
    return torch.cat([p.detach().reshape(-1) for module in modules for p in module.parameters()])


def test_standardized_latents_have_one_deviation_and_give_the_same_pictures():
    vae = autoencoder.build()
    pixels = np.stack([np.asarray(posters.poster(row)[0]) for row in range(4)])
    x = pictures.to_tensor(pixels)
    with torch.no_grad():
        before = vae.encode(x).latent_dist
        picture, latents = vae.decode(before.mean).sample, before.mean.numpy().copy()
        denoiser.standardize(vae, latents)
        after = vae.encode(x).latent_dist
        assert torch.allclose(after.mean, torch.from_numpy(latents), atol=1e-4)
        assert torch.allclose(vae.decode(after.mean).sample, picture, atol=1e-4)
    assert np.allclose(latents.mean((0, 2, 3)), 0, atol=1e-4) and np.allclose(latents.std((0, 2, 3)), 1, atol=1e-4)
    # a posterior's noise is the same share of its channel's deviation as it was
    deviation = before.mean.std((0, 2, 3), correction=0)[:, None, None]
    assert torch.allclose(after.std * deviation, before.std, rtol=1e-4)
    assert vae.config.scaling_factor == autoencoder.DEVIATION


def test_an_untrained_denoiser_hears_the_text():
    """Two captions change what the UNet makes of the same noise by a twentieth: it can learn from the first step."""
    captions = ["A red poster of a heart", "A teal and white poster of a bear"]
    parts = denoiser.build(words.build_tokenizer(captions), autoencoder.build())
    random = torch.Generator().manual_seed(0)
    ids = torch.tensor(parts.tokenizer(captions, padding="max_length")["input_ids"])
    noise = torch.randn(1, *encoding.latent_shape(parts, posters.SIZE), generator=random).expand(2, -1, -1, -1)
    with torch.no_grad():
        text, timesteps = encoding.encode_text(parts.text_encoder, ids), torch.tensor([900, 900])
        assert not parts.unet(noise, timesteps, text).sample.any()  # the first prediction is 0
        parts.unet.conv_out.weight.normal_(std=0.02, generator=random)
        first, second = parts.unet(noise, timesteps, text).sample
    assert (first - second).square().mean() > 0.003 * first.square().mean()


def test_half_size_is_means_of_four():
    pixels = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    half = denoiser.halve(pixels)
    assert half.shape == (2, 2, 3, 3) and half[1, 1, 2, 0] == round(pixels[1, 2:, 4:, 0].mean())


@pytest.mark.slow
def test_making_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    pixels = np.stack([np.asarray(posters.poster(row)[0]) for row in range(6)])
    captions = [posters.poster(row)[1] for row in range(6)]
    monkeypatch.setattr(autoencoder, "CROP", (32, 32))
    monkeypatch.setattr(denoiser, "BATCH", 2)
    save = learning.save

    class Stop(Exception):
        pass

    def all_of_it(folder):
        folder.mkdir(exist_ok=True)
        vae = autoencoder.train(folder, [pixels], 2, bf16=False, save_every=1)
        latents = denoiser.encode_all(folder / "latents.npy", vae, pixels)
        denoiser.standardize(vae, latents)
        small = denoiser.encode_all(folder / "small.npy", vae, pixels, denoiser.halve)
        autoencoder.train_decoder(folder, vae, [pixels], 2, bf16=False, save_every=1)
        parts = denoiser.build(words.build_tokenizer(captions), vae)
        denoiser.train(folder, parts, [(small, 1, 1e-3), (latents, 3, 1e-3)], captions, save_every=2, bf16=False)
        return weights(parts.vae, parts.text_encoder, parts.unet)

    def save_and_stop(*arguments):
        save(*arguments)
        raise Stop

    whole = all_of_it(tmp_path / "whole")
    monkeypatch.setattr(learning, "save", save_and_stop)
    for _ in range(6):  # after each of the six saves the process ends
        with pytest.raises(Stop):
            all_of_it(tmp_path / "parts")
    assert torch.equal(all_of_it(tmp_path / "parts"), whole)


# ---------------------------------------------------------------------------------------------------------------------
# Fine-tuning it: the real script, a short fixed budget


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    return folder.ensure_demo_data(tmp_path_factory.mktemp("books"), 160, workers=2)


def losses(parts, covers, count):
    """float64 (count,): each held-out cover's loss, always with the same noise."""
    schedule, shape = parts.noise_scheduler, encoding.latent_shape(parts, posters.SIZE)
    found = []
    with eval_mode(parts):
        for i in range(count):
            item = covers[i]
            latents = encoding.encode_images(parts.vae, item["pixel_values"][None], torch.zeros(1, *shape))
            text = encoding.encode_text(parts.text_encoder, item["input_ids"][None])
            noise = normal(99, randomness.NOISE, [i], shape)
            timestep = stratified_timesteps(count, 1000)[i : i + 1]
            found.append(objective.loss(parts.unet, schedule, latents, text, noise, timestep).double())
    return torch.cat(found)


@pytest.fixture(scope="module")
def before(mini, books):
    """(held-out covers, their losses before any training)."""
    options = config.TrainingOptions(data_root=str(books), resolution="128x192", test_fraction=0.4)
    held_out = open_data(options).books("test")
    covers = dataset.BookCoverDataset(held_out, posters.SIZE, mini.tokenizer, options)
    return covers, losses(mini, covers, 48)


@pytest.mark.slow
@pytest.mark.script
def test_validation_loss_falls_by_more_than_its_noise(before, books, tmp_path, run_script):
    """UNet and text encoder together; each by itself is compared in `make demo`."""
    data = ("--data_root", books, "--resolution", "128x192", "--test_fraction", 0.4)
    done = run_script(
        *("training", *data, "--pretrained_model", "mini", "--output_dir", tmp_path, "--run_name", "r"),
        *("--train_unet", True, "--train_text_encoder", True, "--lr", 4e-4, "--lr_text_encoder", 4e-4),
        *("--batch_size", 8, "--max_steps", 24, "--optimizer", "adamw", "--grad_ckpt", False, "--sample_every", 0),
        *("--lr_scheduler", "cosine", "--validation_rows", 16),
    )
    assert done.returncode == 0, done.stderr
    losses_logged = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    losses_logged = [line["validation_loss"] for line in losses_logged if "validation_loss" in line]
    assert losses_logged[-1] < losses_logged[0]

    trained = pipeline.load_parts(str(tmp_path / "r" / "versions" / "v1"))
    covers, first = before
    fall = first - losses(trained, covers, 48)
    standard_error = fall.std() / len(fall) ** 0.5
    assert fall.mean() > 3 * standard_error, (fall.mean(), standard_error)


@pytest.mark.script
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--posters", "150"], "--posters 150: expected a multiple of 100"),
        (["--denoiser_steps", "0"], "--denoiser_steps 0: expected at least 1"),
        (["--denoizer_steps", "9"], "did you mean --denoiser_steps"),
        (["--autoencoder_steps", "500"], "was made with --autoencoder_steps 4000, and now it is 500"),
        (["--out", "."], "exists already"),
    ],
)
def test_mistakes_are_one_line_before_any_work(words, message, tmp_path):
    options = dict(posters=8000, sheets=6000, autoencoder_steps=4000)
    if "was made" in message:
        (tmp_path / "asked.json").write_text(json.dumps(options))
    command = [sys.executable, "-m", "mini_sd.make", "--work", tmp_path, *words]
    done = processes.run(command, cwd=processes.ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.npy"))
