import re
import time

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler
from PIL import Image, ImageFont

import config
from common import randomness
from common.errors import UserError
from common.png import save_png
from diffusion import encoding, pipeline, sampling
from diffusion import tiny as tiny_model
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


@pytest.mark.parametrize("negative_prompt", [None, "blurry, blue"])
def test_a_negative_prompt_is_that_of_diffusers(tiny, negative_prompt):
    options = config.InferenceOptions(resolution="32x48", steps=4, scheduler="ddim")
    ours = sampling.draw_images(tiny, ["a red book", "a tree"], [7, 2], options, negative_prompt=negative_prompt)
    plain = tiny.pipeline()
    plain.scheduler = sampling.make_sampler(tiny.scheduler.config, "ddim")
    plain.set_progress_bar_config(disable=True)
    settings = dict(width=32, height=48, num_inference_steps=4, guidance_scale=7.5, negative_prompt=negative_prompt)
    latents = sampling.starting_latents(tiny, 0, [7], (32, 48))
    theirs = plain("a red book", latents=latents, output_type="np", **settings).images[0]
    assert (torch.from_numpy(theirs * 255).round().int() - ours[0].int()).abs().max() <= 1
    without = sampling.draw_images(tiny, ["a red book"], [7], options)[0]
    assert torch.equal(without, ours[0]) == (negative_prompt is None)


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


# ---------------------------------------------------------------------------------------------------------------------
# Numbers of steps


def schedule(**changes):
    as_built = tiny_model.build_scheduler().config
    return {key: value for key, value in as_built.items() if key != "_use_default_values"} | changes


def is_sound(sampler, steps, name):
    """Whether the timesteps of diffusers' scheduler fall strictly, inside the schedule, from its noisy end, and its
    noise levels, where it has them, too."""
    sampler.set_timesteps(steps)
    timesteps = sampler.timesteps.double()
    if name == "pndm" and steps > 1:
        assert len(timesteps) == steps + 1 and timesteps[1] == timesteps[2]
        timesteps = torch.cat([timesteps[:1], timesteps[2:]])  # its second step is made twice
    number = sampler.config.num_train_timesteps
    stride = timesteps[0] - timesteps[1] if steps > 1 else 0
    sound = (timesteps.diff() < 0).all() and timesteps[-1] >= 0 and timesteps[0] < number
    if hasattr(sampler, "sigmas"):
        sound &= sampler.sigmas.isfinite().all() and (sampler.sigmas.diff() < 0).all()
    return bool(sound and timesteps[0] + stride > 0.9 * number)


@pytest.mark.parametrize("name", sampling.SAMPLERS)
def test_every_number_of_steps_is_sound_or_refused(name):
    """All of 1 to 1000, by the timesteps that diffusers makes."""
    sampler = sampling.make_sampler(schedule(), name)
    can_take = sampling.SAMPLERS[name].can_take
    assert [n for n in range(1, 1001) if is_sound(sampler, n, name) != can_take(n, 1000)] == []
    assert not any(can_take(n, 1000) for n in (-1, 0, *range(1001, 1100)))
    assert all(can_take(n, 1000) for n in (2, 3, 4, 5, 7, 10, 15, 20, 25, 30, 40, 50, 75, 100, 200, 250, 500, 999))


@pytest.mark.parametrize(
    ("name", "steps", "nearest"),
    [
        *(("dpm++", 1000, 999), ("dpm++", 5000, 999), ("euler", 1, 2), ("euler", 1001, 1000)),
        *(("ddim", 1, 2), ("ddim", 501, 500), ("ddim", 750, 900), ("ddim", 899, 900), ("ddim", 1000, 999)),
        *(("pndm", 1, 2), ("pndm", 600, 500), ("pndm", 1000, 999)),
    ],
)
def test_a_number_of_steps_that_is_refused_names_one_that_works(name, steps, nearest):
    with pytest.raises(UserError, match=f"can't draw in {steps} steps; .* N = 1000 .*: give --steps {nearest}, or"):
        sampling.require_drawable(schedule(), name, steps)
    sampling.require_drawable(schedule(), name, nearest)


def test_the_number_of_training_timesteps_is_the_models(tiny):
    sampling.require_drawable(schedule(num_train_timesteps=2000), "dpm++", 1000)
    with pytest.raises(UserError, match=r"N = 50 .*: give --steps 49"):
        sampling.require_drawable(schedule(num_train_timesteps=50), "ddim", 100)
    with pytest.raises(UserError, match="can't draw in 1000 steps"):  # whoever asks
        draw(tiny, [1], steps=1000)


# ---------------------------------------------------------------------------------------------------------------------
# Zero terminal SNR

ZERO_SNR = dict(rescale_betas_zero_snr=True, prediction_type="v_prediction")


@pytest.mark.parametrize("name", ["dpm++", "euler", "ddim"])
def test_a_model_of_zero_terminal_snr_is_drawn_on_the_schedule_that_it_was_trained_on(name):
    """With the exact v of a known picture, in training's terms, every sampler must end at that picture."""
    training = DDPMScheduler.from_config(schedule(**ZERO_SNR))
    assert training.alphas_cumprod[-1] == 0
    sampler = sampling.make_sampler(schedule(**ZERO_SNR), name)
    assert (sampler.alphas_cumprod - training.alphas_cumprod).abs().max() < 1e-7  # theirs ends at 2**-24
    picture = torch.linspace(-1, 1, 12).reshape(1, 3, 2, 2)
    sampler.set_timesteps(20)
    assert sampler.timesteps[0] == 999
    x = sampler.init_noise_sigma * normal(0, randomness.DRAWING, [1], (3, 2, 2))
    for t in sampler.timesteps:
        scaled = sampler.scale_model_input(x, t)
        alpha = torch.tensor(np.interp(float(t), np.arange(1000), training.alphas_cumprod.double()))
        noise = (scaled - alpha.sqrt() * picture) / (1 - alpha).sqrt()
        velocity = (alpha.sqrt() * noise - (1 - alpha).sqrt() * picture).float()
        x = sampler.step(velocity, t, x, return_dict=False)[0]
    assert (x - picture).abs().max() < 0.1  # ddim ends at the noise of timestep 0, of standard deviation 0.03

    wrong = sampling.make_sampler(schedule(prediction_type="v_prediction"), name)
    assert (wrong.alphas_cumprod - training.alphas_cumprod).abs().max() > 0.004
    for steps in (2, 5, 25, 30, 111, 500, 999):
        assert is_sound(sampler, steps, name) and sampling.SAMPLERS[name].can_take(steps, 1000)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("pndm", {}, "--scheduler pndm can't draw with this model, whose schedule ends at zero signal"),
        ("dpm++", {"prediction_type": "epsilon"}, r"this model can't be drawn: .* and prediction_type epsilon"),
    ],
)
def test_what_can_not_be_drawn_from_noise_alone_is_refused(name, changes, message):
    with pytest.raises(UserError, match=message + ".*; or wait$"):
        sampling.require_drawable(schedule(**{**ZERO_SNR, **changes}), name, 25, "; or wait")


@pytest.mark.parametrize("name", ["dpm++", "euler", "ddim"])
def test_pictures_of_zero_terminal_snr_are_finite(name):
    parts = pipeline.build_tiny().freeze()
    parts.scheduler = PNDMScheduler.from_config(schedule(**ZERO_SNR))  # a class that does not know the setting
    assert parts.scheduler.config.rescale_betas_zero_snr
    assert draw(parts, [1], name, steps=4).float().std() > 1


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


def test_a_huge_label_takes_no_time():
    """The title of a book, as it is in the data."""
    began = time.monotonic()
    page = grid.image_grid(torch.zeros(1, 48, 32, 3, dtype=torch.uint8), columns=1, labels=["W" * 200_000])
    assert page.size == (140, 220) and time.monotonic() - began < 2
    font = ImageFont.load_default(11)
    assert grid.shorten_label("i" * 30, 128, font) == "i" * 30
    assert re.fullmatch(r"W{5,15}\.\.\.", grid.shorten_label("W" * 300, 128, font))
