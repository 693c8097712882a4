"""Masks that belong to samples: whatever else is in the batch, however often they are drawn."""

import pytest
import torch

import config
from diffusion import encoding, lora, pipeline
from diffusion.lora_dropout import KeyedDropout, LayerDropout
from diffusion.parts import enable_checkpointing


def test_a_mask_is_a_function_of_seed_sample_and_layer():
    dropout = KeyedDropout(0.25, seed=1, samples=[7, 8])
    layer, other = LayerDropout(dropout, "a"), LayerDropout(dropout, "b")
    x = torch.ones(2, 50, 40)
    both = layer(x)
    assert both.unique().tolist() == [0.0, pytest.approx(1 / 0.75)]
    assert (both == 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(layer(x), both) and not torch.equal(both[0], both[1]) and not torch.equal(other(x), both)
    dropout.samples = [8]
    assert torch.equal(layer(x[:1]), both[1:])
    dropout.seed = 2
    assert not torch.equal(layer(x[:1]), both[1:])
    assert layer.eval()(x) is x
    for samples in ([], [7, 8, 9]):
        dropout.samples = samples
        with pytest.raises(RuntimeError, match="unflatten"):
            layer.train()(x)  # a batch that nobody has named


def test_the_chunks_of_a_long_prompt_share_the_masks_of_their_sample():
    """As with --max_tokens 150: the text encoder reads two rows of 77 for each sample."""
    layer = LayerDropout(KeyedDropout(0.5, seed=1, samples=[7, 8]), "a")
    x = torch.ones(4, 77, 8)
    both = layer(x)
    layer.dropout.samples = [8]
    assert torch.equal(layer(x[2:]), both[2:]) and not torch.equal(both[2], both[3])

    options = config.TrainingOptions(lora_rank=4, lora_dropout=0.5, max_tokens=150)
    parts = pipeline.build_tiny()
    trainable = lora.make_trainable(parts, options)
    trainable.dropout.samples = [5, 6]
    states = encoding.encode_prompts(parts.tokenizer, parts.text_encoder, ["a river", "night"], 150, clip_skip=1)
    assert states.shape[:2] == (2, 154)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_checkpointing_sees_the_same_masks(dropout):
    gradients = []
    for checkpointing in (False, True):
        parts = pipeline.build_tiny()
        options = config.TrainingOptions(train_unet=True, train_text_encoder=False, lora_rank=4, lora_dropout=dropout)
        trainable = lora.make_trainable(parts, options)
        if checkpointing:
            enable_checkpointing(parts, trainable.names)
        with torch.no_grad():
            for p in trainable.parameters():
                p.add_(0.01)
        if trainable.dropout:
            trainable.dropout.samples = [5, 6]
        text = parts.text_encoder(torch.arange(2 * 77).reshape(2, 77), return_dict=False)[0]
        latents = torch.linspace(-1, 1, 2 * 4 * 12 * 8).view(2, 4, 12, 8)
        parts.unet(latents, torch.tensor([1, 900]), text, return_dict=False)[0].square().mean().backward()
        gradients.append([p.grad for p in trainable.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True)) and all(g.any() for g in gradients[0][::2])
