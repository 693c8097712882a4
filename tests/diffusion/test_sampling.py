import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

import config
from common import randomness
from common.png import save_png
from diffusion import encoding, pipeline, sampling
from diffusion.noise import normal
from generation import grid


@pytest.fixture(scope="module")
def tiny():
    return pipeline.load_parts("tiny")


def draw(parts, rows, scheduler="dpm++", guidance_scale=7.5, steps=3, **given):
    given = {"resolution": "32x48", "seed": 0, **given}
    options = config.InferenceOptions(steps=steps, guidance_scale=guidance_scale, scheduler=scheduler, **given)
    return sampling.draw_images(parts, [f"book {row}" for row in rows], rows, options)


@pytest.mark.parametrize("scheduler", ["dpm++", "ddim", "pndm", "euler"])
def test_a_cover_is_a_function_of_its_row(tiny, scheduler):
    together, alone = draw(tiny, [3, 1, 4], scheduler), draw(tiny, [1], scheduler)
    assert together.shape == (3, 48, 32, 3) and together.dtype == torch.uint8
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_ddim_equals_the_update_written_out(tiny):
    """Guidance (Ho and Salimans, arXiv:2207.12598) and DDIM (arXiv:2010.02502, eq. 12 with sigma 0) in plain lines."""
    ids = tiny.tokenizer(["book 7", ""], padding="max_length", return_tensors="pt").input_ids
    alpha_bar = tiny.noise_scheduler.alphas_cumprod.double()
    with torch.no_grad():
        text, empty = encoding.encode_text(tiny.text_encoder, ids)
        x = normal(0, randomness.DRAWING, [7], (4, 6, 4))
        steps = 4
        for t in [751, 501, 251, 1]:  # leading spacing with an offset of 1
            conditional = tiny.unet(x, torch.tensor(t), text[None]).sample
            unconditional = tiny.unet(x, torch.tensor(t), empty[None]).sample
            eps = unconditional + 3.0 * (conditional - unconditional)
            before = alpha_bar[max(t - 1000 // steps, 0)]
            x_0 = (x - (1 - alpha_bar[t]).sqrt() * eps) / alpha_bar[t].sqrt()
            x = (before.sqrt() * x_0 + (1 - before).sqrt() * eps).float()
        wanted = encoding.decode_latents(tiny.vae, x)
    found = draw(tiny, [7], "ddim", guidance_scale=3.0, steps=steps)
    assert (found.int() - wanted.int()).abs().max() <= 1


def broken(network, name, value):
    """tiny with one value of one weight replaced."""
    parts = pipeline.build_tiny().freeze()
    getattr(parts, network).state_dict()[name].view(-1)[0] = value
    return parts


@pytest.mark.parametrize(
    ("network", "name", "value", "what"),
    [
        ("unet", "conv_in.weight", float("nan"), "the latents"),
        ("unet", "conv_out.bias", float("inf"), "the latents"),
        ("text_encoder", "final_layer_norm.weight", float("nan"), "the latents"),
        ("vae", "decoder.conv_out.bias", float("nan"), "the decoded picture"),
        ("vae", "decoder.conv_out.bias", float("-inf"), "the decoded picture"),
    ],
)
def test_a_picture_that_is_not_finite_is_none(network, name, value, what):
    """Cast to bytes it would be black, or white where nothing but an infinity shows it."""
    parts = broken(network, name, value)
    message = f"^v7, row 8, prompt 'book 8': not finite .* in {what}, so .*these weights are damaged"
    with pytest.raises(encoding.NotFinite, match=message) as caught:
        sampling.draw_images(
            parts, ["book 8", "book 3"], [8, 3], config.InferenceOptions(resolution="32", steps=2), "v7"
        )
    assert "--mixed_precision" not in str(caught.value) and "\n" not in str(caught.value)


def test_of_a_batch_the_picture_that_is_not_finite_is_named(tiny):
    latents = normal(0, randomness.DRAWING, [1, 2, 3], (4, 4, 4))
    latents[1, 3, 2, 1] = float("nan")
    with pytest.raises(encoding.NotFinite, match="in the latents") as caught:
        encoding.decode_latents(tiny.vae, latents)
    assert caught.value.index == 1
    with pytest.raises(encoding.NotFinite, match="in the decoded picture") as caught:
        encoding.to_pixels(torch.zeros(3, 3, 8, 8).index_fill(0, torch.tensor([2]), float("inf")))
    assert caught.value.index == 2
    assert encoding.to_pixels(torch.tensor([-9.0, -1, 0, 1, 9]).reshape(1, 5, 1, 1)).flatten().tolist() == [
        *(0, 0, 128, 255, 255)
    ]


def test_an_autoencoder_that_overflows_in_half_precision_is_told_from_a_damaged_one():
    parts = broken("vae", "decoder.conv_out.bias", 7e4)  # fp16 ends at 65504
    assert draw(parts, [1]).float().mean() > 80  # red is white
    parts.vae.half()
    with pytest.raises(encoding.NotFinite, match=r"decoded picture.*fp16 overflows easily, try --mixed_precision no; "):
        draw(parts, [1])


def test_tiling_draws_the_same_cover_in_tiles(tiny):
    """tiny's autoencoder was made for 64 pixels: 96 take two overlapping tiles, whose pixels differ a little where they
    meet, and a training that encodes with it afterwards is not touched."""
    plain, tiled = (draw(tiny, [7], resolution="64x96", vae_tiling=tiling) for tiling in (False, True))
    gap = (plain.int() - tiled.int()).abs().float()
    assert gap.max() > 0 and gap.mean() < 3
    assert not tiny.vae.use_tiling and not tiny.vae.use_slicing
    assert torch.equal(draw(tiny, [7]), draw(tiny, [7], vae_tiling=True))  # no larger than a tile


def test_tiles_are_decoded_one_at_a_time(tiny):
    """What memory tiling saves: no call sees more than one cover, nor more of it than a tile."""
    seen = []
    hook = tiny.vae.decoder.register_forward_hook(lambda _, given, __: seen.append(tuple(given[0].shape)))
    latents = normal(0, randomness.DRAWING, [1, 2], (4, 16, 8))
    images = encoding.decode_latents(tiny.vae, latents, tiling=True)
    hook.remove()
    assert images.shape == (2, 128, 64, 3)
    assert len(seen) > 2 and all(batch == 1 and max(sides) <= 8 for batch, _, *sides in seen)


def test_a_sampler_takes_only_the_noise_schedule_from_the_model(tiny):
    """v0 from the hub leaves timestep_spacing open, a saved v1 does not: both must be drawn in the same way."""
    open_config = dict(DDIMScheduler.from_config(tiny.scheduler.config, timestep_spacing="trailing").config)
    for name in ("dpm++", "ddim", "pndm", "euler"):
        first, second = (sampling.make_sampler(c, name) for c in (tiny.scheduler.config, open_config))
        first.set_timesteps(10), second.set_timesteps(10)
        assert first.config == second.config and torch.equal(first.timesteps, second.timesteps)
        assert torch.equal(first.alphas_cumprod, tiny.noise_scheduler.alphas_cumprod)


def test_png_comes_back_as_it_was(tmp_path):
    image = torch.randint(0, 256, (9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    save_png(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as found:
        assert np.array_equal(np.asarray(found), image.numpy())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_grid_puts_pictures_in_reading_order_below_their_labels():
    colours = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 90, 9], [200, 200, 0]], dtype=torch.uint8)
    images = colours[:, None, None].expand(5, 48, 32, 3)
    page = np.asarray(grid.image_grid(images, columns=3, labels=["a label that is far too long", "b"]))
    for colour, (line, column) in zip(colours.numpy(), [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)], strict=True):
        where = np.argwhere((page == colour).all(-1))
        assert len(where) == 4 * 48 * 4 * 32  # enlarged
        assert where.min(0)[0] // (page.shape[0] // 2) == line and where.min(0)[1] // (page.shape[1] // 3) == column
    assert (page[:16] < 128).any()  # letters
    assert page.shape[:2] == (2 * (192 + 16 + 6) + 6, 3 * (128 + 6) + 6)
