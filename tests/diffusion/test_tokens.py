import pytest

from diffusion import pipeline
from diffusion.tokens import num_chunks, token_ids, token_limit


@pytest.fixture(scope="module")
def tokenizer():
    return pipeline.build_tiny().tokenizer


WORDS = ["a fantasy book cover with title the king", "", "the " * 75, "the night of the king " * 30]


def test_max_tokens_are_chunks_of_what_the_model_reads_at_once(tokenizer):
    assert [num_chunks(n) for n in (77, 150, 225)] == [1, 2, 3]
    assert [token_limit(tokenizer, n) for n in (77, 150, 225)] == [77, 152, 227]
    mini = pipeline.load_tokenizer("mini")
    assert [token_limit(mini, n) for n in (77, 150, 225)] == [40, 78, 116]


def test_one_chunk_is_what_the_tokenizer_makes(tokenizer):
    assert token_ids(tokenizer, WORDS, 77) == tokenizer(WORDS, padding="max_length", truncation=True).input_ids


def test_chunks_have_each_its_start_end_and_padding(tokenizer):
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    short, empty, full, long = token_ids(tokenizer, WORDS, 150)
    assert all(len(chunk) == 77 for ids in (short, empty, full, long) for chunk in ids)
    nothing = [start, end] + [pad] * 75
    whole = tokenizer(WORDS[3], truncation=False).input_ids[1:-1]  # 150 tokens
    assert len(whole) == 150
    assert long == [[start, *whole[:75], end], [start, *whole[75:], end]]
    for text, ids in zip(WORDS[:3], (short, empty, full), strict=True):  # up to 75 tokens: the first is as before
        assert ids == [*token_ids(tokenizer, [text], 77), nothing]
    three = token_ids(tokenizer, ["the night of the king " * 31], 225)[0]  # 5 more
    assert three == [*long, [start, *whole[:5], end] + [pad] * 70]
    assert token_ids(tokenizer, ["the night of the king " * 31], 150)[0] == long  # cut off
