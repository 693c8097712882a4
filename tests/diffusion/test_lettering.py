"""The network beside the UNet that draws letters: what it computes, where it begins, where it is loaded from."""

import json
import pathlib
import re
import shutil

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save_file

import config
from common.errors import UserError
from diffusion import encoding, lora, pipeline, sampling
from diffusion.architecture import architecture_of, read_architecture
from diffusion.lettering import LetteringModel, build_lettering, lettering_pages
from diffusion.parts import enable_checkpointing
from diffusion.placement import to_device
from diffusion.trainable import set_trainable
from diffusion.weights import save_pipeline, weights_hash

OPTIONS = config.TrainingOptions(resolution="64", steps=2, scheduler="ddim")
DOCS = pathlib.Path(__file__).parents[2] / "docs/lettering.md"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def a_page(height=64, width=64):
    page = np.zeros((height, width), np.uint8)
    page[10:20, 8:50], page[40:47, 20:40] = 255, 90
    return page


def pages_tensor(*pages):
    return torch.from_numpy(np.stack(pages))[:, None]


def learned():
    """tiny, with lettering whose weights are all other than 0."""
    parts = pipeline.build_tiny().freeze()
    parts.lettering = build_lettering(parts, seed=3).requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    for p in parts.lettering.parameters():
        p.add_(torch.randn(p.shape, generator=generator) / 20)
    return parts


@pytest.fixture(scope="module")
def parts():
    return learned()


@pytest.fixture(scope="module")
def folder(parts, tmp_path_factory):
    """A pipeline folder of it."""
    path = tmp_path_factory.mktemp("model") / "v3"
    save_pipeline(parts, path, list(parts.networks), torch.float32)
    return path


def conv_in_output(parts, count, pages):
    """What the UNet's conv_in returns for `count` latents."""
    latents = torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    with lettering_pages(parts, pages), torch.no_grad():
        return parts.unet.conv_in(latents.to(parts.unet.dtype))


# ---------------------------------------------------------------------------------------------------------------------
# What it computes


def test_one_layer_is_a_strided_convolution_of_the_page():
    network = LetteringModel(factor=4, channels=5, hidden_channels=1, layers=0)
    (layer,) = network.convolutions
    kernel = torch.zeros(5, 1, 12, 12)  # the pixels below 3 x 3 latent places
    for y, x, a, b in np.ndindex(3, 3, 4, 4):
        kernel[:, 0, 4 * y + a, 4 * x + b] = layer.weight[:, 4 * a + b, y, x]
    page = torch.rand(2, 1, 24, 16, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.functional.conv2d(page, kernel, stride=4, padding=4)
    assert torch.allclose(network(page), expected, atol=1e-6) and expected.shape == (2, 5, 6, 4)


def test_a_new_one_fits_the_model_and_is_a_function_of_the_seed():
    parts = pipeline.build_tiny()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again, other = (build_lettering(parts, seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    first, last = "convolutions.0.weight", "convolutions.1.weight"
    assert one.keys() == {first, last} and one[first].shape == (16, 64, 3, 3) and one[last].shape == (16, 16, 3, 3)
    assert torch.equal(one[first], again[first]) and not torch.equal(one[first], other[first])
    assert one[first].std() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.05)  # He et al., arXiv:1502.01852
    assert not one[last].any()
    with torch.device("meta"):
        parts.unet.to("meta")
    assert all(p.is_meta for p in build_lettering(parts).parameters())


def test_added_to_conv_in_for_the_half_of_guidance_with_the_prompt(parts):
    pages = pages_tensor(a_page(), a_page().T)
    plain = conv_in_output(parts, 4, None)
    added = parts.lettering(pages.float() / 255)
    assert added.abs().amax(dim=(1, 2, 3)).min() > 0.01
    assert torch.equal(conv_in_output(parts, 4, pages), plain + torch.cat([torch.zeros_like(added), added]))
    assert torch.equal(conv_in_output(parts, 2, pages), conv_in_output(parts, 2, None) + added)
    assert torch.equal(conv_in_output(parts, 4, 0 * pages), plain)
    assert torch.equal(conv_in_output(parts, 4, None), plain)  # nothing stays
    with pytest.raises(ValueError, match="pages"):
        conv_in_output(parts, 3, pages)


@pytest.mark.parametrize("guidance_scale", [1, 7.5])
def test_pictures_with_pages(parts, guidance_scale):
    options = config.TrainingOptions(resolution="64", steps=2, scheduler="ddim", guidance_scale=guidance_scale)

    def draw(model, pages):
        return sampling.draw_images(model, ["A book cover", "Another"], [0, 1], options, pages=pages)

    plain, lettered = draw(parts, None), draw(parts, [a_page(), 0 * a_page()])
    assert not torch.equal(lettered[0], plain[0]) and torch.equal(lettered[1], plain[1])

    new = pipeline.build_tiny().freeze()
    without = draw(new, [a_page(), a_page()])
    new.lettering = build_lettering(new)
    assert torch.equal(draw(new, [a_page(), a_page()]), without) and torch.equal(without, plain)


def test_gradients_come_through_a_frozen_checkpointed_unet_in_half_precision():
    def gradient(checkpointed, precision):
        parts = learned()
        trainable = set_trainable(parts, ["lettering"])
        if checkpointed:
            enable_checkpointing(parts, trainable.names)
        to_device(parts, "cpu", precision, trainable.whole)
        assert parts.unet.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        assert parts.lettering.dtype == torch.float32
        generator = torch.Generator().manual_seed(0)
        latents, text = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 77, 32, generator=generator)
        half = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
        with half, lettering_pages(parts, pages_tensor(a_page(), a_page().T)):
            dtype = parts.unet.dtype
            output = parts.unet(latents.to(dtype), torch.tensor([10, 900]), text.to(dtype), return_dict=False)[0]
        output.float().square().mean().backward()
        assert all(p.grad is None for p in parts.unet.parameters())
        return torch.cat([p.grad.flatten() for p in trainable.parameters()])

    plain = gradient(False, "no")
    assert plain.abs().min() >= 0 and plain.abs().mean() > 0
    assert torch.equal(gradient(True, "no"), plain)
    half = gradient(True, "bf16")
    assert torch.nn.functional.cosine_similarity(half, plain, dim=0) > 0.98


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_saved_and_loaded(parts, folder):
    loaded = pipeline.load_parts(str(folder))
    assert weights_hash(loaded) == weights_hash(parts) != weights_hash(pipeline.build_tiny())
    assert not loaded.lettering.training and not any(p.requires_grad for p in loaded.lettering.parameters())
    assert read_architecture(str(folder)) == architecture_of(parts)
    assert "lettering" not in json.loads((folder / "model_index.json").read_text())


def test_what_does_not_fit_is_one_line(folder, tmp_path):
    """Each part of the folder that is broken, and what the line says."""
    settings = json.loads((folder / "lettering/config.json").read_text())
    tensors = load_file(folder / "lettering" / WEIGHTS)

    def broken(change, *said):
        path = tmp_path / "model"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(folder, path)
        change(path / "lettering")
        with pytest.raises(UserError) as problem:
            pipeline.load_parts(str(path))
        assert "\n" not in str(problem.value) and all(word in str(problem.value) for word in ("lettering", *said))

    def write(**changes):
        return lambda home: (home / "config.json").write_text(json.dumps(settings | changes))

    broken(write(factor=4), "factor is 4", "8x8 pixels", "not of one model")
    broken(write(channels=320), "channels is 320", "16 channels")
    broken(write(layers=-1), "layers", "-1")
    broken(write(hidden_channels=8), "shape")
    broken(write(layers=2), "missing")
    broken(write(_class_name="ControlNetModel"), "ControlNetModel")
    broken(lambda home: (home / "config.json").unlink(), "config.json")
    broken(lambda home: (home / "config.json").write_text("[]"), "object")
    broken(lambda home: (home / WEIGHTS).unlink(), WEIGHTS)
    broken(lambda home: (home / WEIGHTS).write_bytes(b"1234567890"), "damaged")
    nan = {name: tensor * float("nan") for name, tensor in tensors.items()}
    broken(lambda home: save_file(nan, home / WEIGHTS), "not finite")


def test_diffusers_draws_a_version_without_letters_and_with_them(parts, folder, tmp_path, monkeypatch):
    """from_pretrained, and the lines of Python in docs/lettering.md, which have nothing of this project."""
    seeds = sampling.starting_latents(parts, OPTIONS.seed, [7], (64, 64))

    def draw(pipe, guidance_scale):
        pipe.scheduler = sampling.make_sampler(parts.scheduler.config, "ddim")
        words = dict(width=64, height=64, num_inference_steps=2, guidance_scale=guidance_scale, latents=seeds)
        latents = pipe("A book cover", **words, output_type="latent", return_dict=False)[0]
        return encoding.decode_latents(parts.vae, latents)

    def ours(pages, guidance_scale):
        options = config.TrainingOptions(resolution="64", steps=2, scheduler="ddim", guidance_scale=guidance_scale)
        return sampling.draw_images(parts, ["A book cover"], [7], options, pages=pages)

    plain = ours(None, 7.5)
    assert torch.equal(draw(StableDiffusionPipeline.from_pretrained(folder, safety_checker=None), 7.5), plain)

    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    shutil.copytree(folder, tmp_path / "path/to/v3")
    Image.fromarray(a_page()).save(tmp_path / "page.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    for guidance_scale in (1, 7.5):
        assert torch.equal(draw(names["pipe"], guidance_scale), ours([a_page()], guidance_scale))
    assert not torch.equal(ours([a_page()], 7.5), plain)


def test_with_lora_it_is_trained_as_a_whole(tmp_path):
    parts = pipeline.build_tiny()
    options = config.TrainingOptions(train_unet=True, train_text_encoder=False, train_lettering=True, lora_rank=2)
    trainable = lora.make_trainable(parts, options)
    assert trainable.names == ["unet", "lettering"] and trainable.whole == ["lettering"]
    to_device(parts, "cpu", "bf16", trainable.whole)
    assert {p.dtype for p in trainable.parameters()} == {torch.float32} and parts.unet.dtype == torch.bfloat16
    state = trainable.state_dict("lettering")
    assert state.keys() == parts.lettering.state_dict().keys()
    trainable.load_state_dict("lettering", {name: tensor + 1 for name, tensor in state.items()})
    trainable.save(tmp_path, "fp32")
    assert {path.name for path in tmp_path.iterdir()} == {"pytorch_lora_weights.safetensors", "lettering"}
    saved = load_file(tmp_path / "lettering" / WEIGHTS)
    assert all(torch.equal(saved[name], tensor) for name, tensor in parts.lettering.state_dict().items())
    assert saved["convolutions.1.weight"].eq(1).all()
