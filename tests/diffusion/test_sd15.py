import pytest
import torch

from diffusion import pipeline, sd15, tiny, weights


@pytest.mark.parametrize(
    ("index", "count"), [(0, 123_060_480), (1, 83_653_863), (2, 859_520_964)], ids=["text_encoder", "vae", "unet"]
)
def test_it_has_the_published_models_parameters(index, count):
    with torch.device("meta"):
        network = sd15.build_networks()[index]
    assert sum(p.numel() for p in network.parameters()) == count


def test_its_tokenizer_fits_its_text_encoder():
    tokenizer = pipeline.load_tokenizer("sd15-random")
    assert tokenizer.model_max_length == sd15.TEXT_ENCODER["max_position_embeddings"]
    assert len(tokenizer) <= sd15.TEXT_ENCODER["vocab_size"]


def test_load_parts_builds_it_the_same_every_time_and_leaves_the_generator_alone(monkeypatch):
    """At toy size: the real one takes 4 GiB."""
    small = tiny.build()
    for name, network in zip(("TEXT_ENCODER", "VAE", "UNET"), small[1:4], strict=True):
        settings = network.config.to_dict() if name == "TEXT_ENCODER" else network.config
        smaller = {key: settings[key] for key in getattr(sd15, name)}
        monkeypatch.setattr(sd15, name, smaller)
    state = torch.get_rng_state()
    first, second = pipeline.load_parts("sd15-random"), pipeline.load_parts("sd15-random")
    assert torch.equal(state, torch.get_rng_state())
    assert weights.weights_hash(first) == weights.weights_hash(second)
    assert not any(p.requires_grad for p in first.unet.parameters())
    assert first.scheduler.config == small[4].config
