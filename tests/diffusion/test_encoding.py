"""Text embeddings: which layer, and prompts of several chunks. (Latents: tests/diffusion/test_pipeline.py.)"""

import pytest
import torch
from transformers import CLIPTextModel

from common.errors import UserError
from diffusion import encoding, pipeline

PROMPTS = ["a fantasy book cover with title the night", "the king " * 70]  # 8 and 140 tokens


@pytest.fixture(scope="module")
def parts():
    return pipeline.load_parts("tiny")


@torch.no_grad()
def encode(parts, prompts, max_tokens=77, clip_skip=1):
    return encoding.encode_prompts(parts.tokenizer, parts.text_encoder, prompts, max_tokens, clip_skip)


def test_clip_skip_is_that_of_diffusers_plus_one(parts, monkeypatch):
    # diffusers looks for the final layer norm where older releases of transformers had it
    monkeypatch.setattr(CLIPTextModel, "text_model", property(lambda self: self), raising=False)
    pipe = parts.pipeline()
    assert parts.text_encoder.config.num_hidden_layers == 2
    for ours, theirs in {1: None, 2: 1}.items():
        with torch.no_grad():
            expected, _ = pipe.encode_prompt(PROMPTS, "cpu", 1, False, clip_skip=theirs)
        assert torch.equal(encode(parts, PROMPTS, clip_skip=ours), expected)
    assert not torch.equal(encode(parts, PROMPTS, clip_skip=2), encode(parts, PROMPTS))
    encoding.require_clip_skip(2, 2)
    with pytest.raises(UserError, match=r"--clip_skip 3: .*2 layers"):
        encoding.require_clip_skip(2, 3)


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_chunks_are_encoded_one_by_one_and_joined(parts, clip_skip):
    """By hand: the second prompt's 140 tokens are 75 and 65, each between the tokenizer's own start and end."""
    states = encode(parts, PROMPTS, 150, clip_skip)
    assert states.shape == (2, 154, parts.text_encoder.config.hidden_size)
    first, second = ("the king " * 37 + "the", "king " + "the king " * 32)
    by_hand = [encode(parts, [text], clip_skip=clip_skip)[0] for text in (first, second)]
    assert torch.equal(states[1], torch.cat(by_hand))
    alone = [encode(parts, [text], clip_skip=clip_skip)[0] for text in (PROMPTS[0], "")]
    assert torch.equal(states[0], torch.cat(alone))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_that_are_skipped_do_not_learn(checkpointing):
    parts = pipeline.build_tiny()
    text_encoder = parts.text_encoder.train()
    encoding.freeze_skipped_layers(text_encoder, 1)
    assert all(p.requires_grad for p in text_encoder.parameters())
    encoding.freeze_skipped_layers(text_encoder, 2)
    if checkpointing:
        text_encoder.activation_checkpointing_enable({"use_reentrant": False})
    encoding.encode_prompts(parts.tokenizer, text_encoder, PROMPTS, 77, 2).square().sum().backward()
    without = {name for name, p in text_encoder.named_parameters() if p.grad is None}
    assert without == {name for name, _ in text_encoder.named_parameters() if name.startswith("encoder.layers.1.")}
    assert without == {name for name, p in text_encoder.named_parameters() if not p.requires_grad}
