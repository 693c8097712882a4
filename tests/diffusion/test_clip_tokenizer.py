"""CLIP's tokenizer, bundled."""

import pathlib

from diffusion import clip_tokenizer


def test_it_gives_the_numbers_that_clip_was_published_with():
    tokenizer = clip_tokenizer.build()
    assert len(tokenizer) == 49408 and tokenizer.model_max_length == 77
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    astronaut = [49406, 320, 8853, 539, 550, 18376, 6765, 320, 4558, 49407]
    assert tokenizer("A photograph of an astronaut riding a horse").input_ids == astronaut


def test_padding_is_the_end_in_1_and_an_exclamation_mark_in_2():
    for mark, number in (("<|endoftext|>", 49407), ("!", 0)):
        tokenizer = clip_tokenizer.build(mark)
        assert tokenizer("a", padding="max_length").input_ids == [49406, 320, 49407] + [number] * 74


def test_its_licence_lies_beside_it():
    text = (pathlib.Path(clip_tokenizer.MERGES).parent / "LICENSE").read_text()
    assert "MIT License" in text and "OpenAI" in text
