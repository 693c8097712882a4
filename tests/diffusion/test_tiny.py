import hashlib

import pytest
import torch

from diffusion import encoding, pipeline
from diffusion.parts import PARTS


@pytest.fixture(scope="module")
def tiny():
    return pipeline.load_parts("tiny")


def digest(module):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values())).hexdigest()


def test_tiny_is_the_same_every_time_and_leaves_the_global_generator_alone(tiny):
    state = torch.get_rng_state()
    again = pipeline.build_tiny()
    assert torch.equal(state, torch.get_rng_state())
    for name in ("vae", *PARTS):
        assert digest(getattr(tiny, name)) == digest(getattr(again, name))


def test_tiny_tokenizer_knows_every_text_and_its_format_is_clips(tiny):
    tokenizer = tiny.tokenizer
    text = "A fantasy book cover by Čapek; 日本語, العربية & 🙂!"
    ids = tokenizer(text).input_ids
    assert ids[0] == tokenizer.bos_token_id and ids[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token_id not in ids[1:-1]  # it is the unknown token, too
    assert len(tokenizer("a book cover").input_ids) == 5  # whole words
    padded = tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert padded.shape == (1, 77)


def test_tiny_sees_mean_colours(tiny):
    """Its autoencoder against plain pooling; and pictures of one colour come back, but for the softened edge."""
    images = torch.rand(2, 3, 48, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = encoding.encode_images(tiny.vae, images, torch.zeros(2, 4, 6, 4)) / tiny.vae.config.scaling_factor
    means = torch.nn.functional.avg_pool2d(images, 8)
    torch.testing.assert_close(latents[:, :3], means, atol=1e-4, rtol=0)
    torch.testing.assert_close(latents[:, 3], means.mean(dim=1), atol=1e-4, rtol=0)
    plain = torch.tensor([-0.8, 0.1, 0.9])[None, :, None, None].expand(1, 3, 96, 64)
    drawn = encoding.decode_latents(tiny.vae, encoding.encode_images(tiny.vae, plain, torch.zeros(1, 4, 12, 8)))
    wanted = ((plain + 1) * 127.5).round()[0, :, 0, 0]
    assert (drawn[0, 16:-16, 16:-16] - wanted).abs().max() <= 1
