import dataclasses
import json
import os
import pathlib
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.model_folders import edit_json, edit_weights

from common.errors import UserError
from config import DatasetOptions
from data import summarizer as data_summarizer
from data.book import Book
from data.prompts import build_prompt
from dataset import BookCoverDataset, load_descriptions
from diffusion.pipeline import load_tokenizer

LONG = "the great king of the sea " * 20


@pytest.fixture(scope="module")
def summarizer(tmp_path_factory):
    """A folder with a toy BART: random weights, and a tokenizer of whole words. What it writes makes no sense."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(set(LONG.split())), "in", "house", "night", "old"]
    tokens = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    names = dict(bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    folder = tmp_path_factory.mktemp("summarizer")
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, model_max_length=64, **names).save_pretrained(folder)
    sizes = dict(d_model=16, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_layers=1, decoder_layers=1)
    heads = dict(encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=64)
    ids = dict(bos_token_id=0, pad_token_id=1, eos_token_id=2, decoder_start_token_id=2, forced_eos_token_id=2)
    config = transformers.BartConfig(vocab_size=len(words), **sizes, **heads, **ids)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.BartForConditionalGeneration(config)
    model.generation_config.update(min_length=20, max_length=50, no_repeat_ngram_size=3, num_beams=4)  # as BART-CNN has
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def options(summarizer, tmp_path):
    chosen = dict(include_desc=True, summarize_desc=True, summarizer=summarizer, cache_dir=str(tmp_path))
    return DatasetOptions(**chosen)


def count_words(text):
    return len(text.split()) + 2


def make_books(count):
    return [Book(i, f"Title {i}", ("Ann Lee",), ("Horror",), f"in house {i} {LONG}") for i in range(count)]


def books_desc(i):
    return make_books(i + 1)[i].desc.strip()


def cached(tmp_path):
    (path,) = (tmp_path / "summaries").iterdir()
    return json.loads(path.read_text())


def test_only_descriptions_that_do_not_fit_are_summarized(options, tmp_path, monkeypatch):
    given, generate = [], data_summarizer.generate
    monkeypatch.setattr(
        data_summarizer,
        "generate",
        lambda tokenizer, model, texts: (given.extend(texts), generate(tokenizer, model, texts))[1],
    )
    books = [*make_books(2), Book(7, "T", desc="Short\n enough."), Book(8, "T"), Book(9, "T", desc=books_desc(0))]
    texts = data_summarizer.summarize(books, count_words, 77, options)
    assert texts[7] == "Short enough." and texts[8] == ""
    assert sorted(given) == sorted({books_desc(0), books_desc(1)})  # the same description is summarized once
    assert texts[0] == texts[9] and texts[0] != books_desc(0)
    assert 0 < len(texts[0].split()) <= data_summarizer.MAX_LENGTH and "<" not in texts[0]


def test_summaries_are_made_once_and_go_on_after_a_stop(options, tmp_path, monkeypatch):
    monkeypatch.setattr(data_summarizer, "BATCH_SIZE", 2)
    books, generate = make_books(5), data_summarizer.generate
    batches = []

    def stops(tokenizer, model, texts):
        batches.append(texts)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return generate(tokenizer, model, texts)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(data_summarizer, "generate", stops)
        data_summarizer.summarize(books, count_words, 77, options)
    assert len(cached(tmp_path)) == 4

    with monkeypatch.context() as patch:
        batches.clear()
        patch.setattr(data_summarizer, "generate", lambda *args: (batches.append(args[2]), generate(*args))[1])
        texts = data_summarizer.summarize(books, count_words, 77, options)
    assert [len(batch) for batch in batches] == [1] and len(cached(tmp_path)) == 5

    monkeypatch.setattr(data_summarizer, "load_summarizer", None)  # not even loaded when all are known
    assert data_summarizer.summarize(books, count_words, 77, options) == texts


def test_another_summarizer_has_summaries_of_its_own(options, tmp_path, summarizer):
    other = shutil.copytree(summarizer, tmp_path / "other")
    for chosen in (options, dataclasses.replace(options, summarizer=str(other))):
        data_summarizer.summarize(make_books(1), count_words, 77, chosen)
    assert len(list((tmp_path / "summaries").iterdir())) == 2


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', ""])
def test_a_damaged_cache_is_made_anew(options, tmp_path, text):
    texts = data_summarizer.summarize(make_books(1), count_words, 77, options)
    (path,) = (tmp_path / "summaries").iterdir()
    path.write_text(text)
    assert data_summarizer.summarize(make_books(1), count_words, 77, options) == texts
    assert [summary for summary, _ in cached(tmp_path).values()] == [texts[0]]


def test_a_damaged_summary_alone_is_made_again(options, tmp_path, monkeypatch):
    books, generate, given = make_books(3), data_summarizer.generate, []
    texts = data_summarizer.summarize(books, count_words, 77, options)
    (path,) = (tmp_path / "summaries").iterdir()
    sound = cached(tmp_path)
    first, (summary, checksum) = next(iter(sound.items()))
    monkeypatch.setattr(data_summarizer, "generate", lambda *args: (given.append(args[2]), generate(*args))[1])
    for value in ([f"{summary}x", checksum], [summary], [], [3, checksum], 3, None):
        path.write_text(json.dumps(sound | {first: value}))
        assert data_summarizer.summarize(books, count_words, 77, options) == texts and cached(tmp_path) == sound
    assert [len(batch) for batch in given] == [1] * 6
    path.write_text(json.dumps({key: text for key, (text, _) in sound.items()}))  # as older releases wrote it
    assert data_summarizer.summarize(books, count_words, 77, options) == texts and len(given) == 6


def test_an_empty_summary_leaves_the_description(options, monkeypatch):
    monkeypatch.setattr(data_summarizer, "generate", lambda tokenizer, model, texts: [""] * len(texts))
    assert data_summarizer.summarize(make_books(1), count_words, 77, options) == {0: books_desc(0)}


def test_the_prompt_ends_with_the_summary_and_fits(options, monkeypatch):
    monkeypatch.setattr(
        data_summarizer, "generate", lambda tokenizer, model, texts: ["The king of the sea."] * len(texts)
    )
    tokenizer, books = load_tokenizer("tiny"), make_books(1)
    data = BookCoverDataset(books, (32, 48), tokenizer, options)
    assert data.prompt(books[0]) == build_prompt(books[0]) + ". The king of the sea."
    assert load_descriptions(books, tokenizer, DatasetOptions()) == {}
    assert load_descriptions(books, tokenizer, DatasetOptions(include_desc=True)) == {0: books[0].desc}


@pytest.mark.parametrize("source", ["nobody/no-such-summarizer", "EMPTY", "~nosuchuser/x", "a" * 300])
def test_a_summarizer_that_cannot_be_had(options, tmp_path, source):
    if source == "EMPTY":
        source = str(tmp_path / "empty")
        os.mkdir(source)
    options = dataclasses.replace(options, summarizer=source)
    with pytest.raises(UserError, match=r"can't get the summarizer .*--summarizer DIR; or leave out --summarize_desc"):
        data_summarizer.summarize(make_books(1), count_words, 77, options)


class Attack:
    """In a pickle: makes a folder when it is read."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.fixture
def copy(summarizer, tmp_path):
    return pathlib.Path(shutil.copytree(summarizer, tmp_path / "copy"))


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_summarizer_is_never_run(copy, tmp_path, monkeypatch, file):
    """Nor is anybody asked on stdin, where a pipe may hold a y."""
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    (copy / "own.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    own = {"AutoConfig": "own.C", "AutoModelForSeq2SeqLM": "own.M", "AutoTokenizer": ["own.T", None]}
    changes = {"model_type": "own"} if file == "config.json" else {"tokenizer_class": "T"}
    edit_json(copy / file, auto_map=own, **changes)
    if file == "config.json":
        with pytest.raises(UserError, match="needs code that comes with it, and such code is not run here") as caught:
            data_summarizer.load_summarizer(str(copy))
        assert "\n" not in str(caught.value)
    else:  # tokenizer.json says all
        data_summarizer.load_summarizer(str(copy))
    assert not (tmp_path / "ran").exists()


def test_a_pickled_summarizer_is_read_without_running_what_it_holds(copy, summarizer, tmp_path):
    weights = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(weights, copy / "pytorch_model.bin")
    model, wanted = (data_summarizer.load_summarizer(folder)[1] for folder in (str(copy), summarizer))
    for tensor, other in zip(model.state_dict().values(), wanted.state_dict().values(), strict=True):
        assert torch.equal(tensor, other)
    torch.save(weights | {"x": Attack(tmp_path / "ran")}, copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="can't get the summarizer") as caught:
        data_summarizer.load_summarizer(str(copy))
    assert not (tmp_path / "ran").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["missing weight", "cut off", "not an object", "wrong type"])
def test_a_damaged_summarizer_is_one_line(copy, damage):
    path = copy / "model.safetensors"
    if damage == "missing weight":
        edit_weights(path, lambda tensors: tensors.pop("model.encoder.layers.0.fc1.bias"))
    elif damage == "cut off":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "not an object":
        (copy / "config.json").write_text("[]")
    else:
        edit_json(copy / "config.json", d_model="x")
    with pytest.raises(UserError, match="can't get the summarizer") as caught:
        data_summarizer.load_summarizer(str(copy))
    assert "\n" not in str(caught.value)
