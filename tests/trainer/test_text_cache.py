"""Cached text embeddings: what is kept, when it is computed anew, and that training on it is the same training."""

import json
import os
import pickle
import types

import numpy as np
import pytest
import torch
from support.training_runs import final_state, read_log

import config
import training
from cli import checks
from common import files
from common.errors import UserError
from data.folder import open_data
from data.prompts import TEMPLATES
from dataset import BookCoverDataset
from diffusion import encoding, pipeline
from diffusion.placement import DTYPES
from trainer import record_cache, text_cache
from trainer.batches import collate
from trainer.losses import Objective

COUNT = 5 * 5 + 2 + 1  # prompts of 5 books to train on and 2 held out, and the empty one


@pytest.fixture
def parts():
    return pipeline.build_tiny().freeze()


@pytest.fixture
def options(small_data, tmp_path):
    return config.TrainingOptions(
        data_root=str(small_data),
        cache_dir=str(tmp_path / "cache"),
        resolution="32x48",
        num_workers=0,
        train_unet=True,
        train_text_encoder=False,
        cache_text=True,
    )


@pytest.fixture
def encoded(monkeypatch):
    """Prompts that went through the text encoder."""
    seen, encode = [], encoding.encode_prompts

    def noting(tokenizer, text_encoder, prompts, *more):
        seen.extend(prompts)
        return encode(tokenizer, text_encoder, prompts, *more)

    monkeypatch.setattr(encoding, "encode_prompts", noting)
    return seen


def changed(options, **values):
    return config.TrainingOptions(**{**config.to_json(options), **values})


def sets_of(options, parts):
    data = open_data(options)
    books = data.books("train")[:5], data.books("test")[:2]
    return [BookCoverDataset(some, (32, 48), parts.tokenizer, options) for some in books]


def accelerator_of(precision="no", process=0, processes=1):
    return types.SimpleNamespace(  # accelerate has one precision for the whole life of a process
        mixed_precision=precision,
        device=torch.device("cpu"),
        is_main_process=process == 0,
        process_index=process,
        num_processes=processes,
        print=print,
        wait_for_everyone=lambda: None,
        autocast=lambda: torch.autocast("cpu", DTYPES[precision], enabled=precision != "no"),
    )


def cached(options, parts, precision="no", **processes):
    return text_cache.cache_text(*sets_of(options, parts), parts, options, accelerator_of(precision, **processes))


def paths_of(options):
    return sorted((config.cache_dir(options) / "text").glob("*/*.npy"))


def test_every_prompt_of_training_and_validation_is_in_it_once(options, parts, encoded):
    train_set, val_set = sets_of(options, parts)
    text = cached(options, parts)
    expected = {train_set.prompt(book, template) for book in train_set.books for template in TEMPLATES} | {""}
    expected |= {val_set.prompt(book) for book in val_set.books}
    assert set(encoded) == expected and len(encoded) == len(expected) == COUNT
    train_set.text = val_set.text = text
    drawn = {train_set.training_prompt(book, index) for book in train_set.books[:3] for index in range(60)}
    assert "" in drawn and len(drawn) == 3 * 5 + 1
    for prompt in drawn:
        with torch.no_grad():
            (states,) = encoding.encode_prompts(parts.tokenizer, parts.text_encoder, [prompt], 77, 1)
        assert torch.equal(text[prompt], states)
    item = val_set[0]
    assert set(item) == {"pixel_values", "hidden_states", "row"}
    assert torch.equal(item["hidden_states"], text[val_set.prompt(val_set.books[0])])
    assert torch.equal(pickle.loads(pickle.dumps(text))[""], text[""])


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("changes", [{}, {"clip_skip": 2, "max_tokens": 150, "include_desc": True}])
def test_losses_are_the_same_to_the_last_bit(options, parts, precision, changes):
    """Of a batch, in the precision that training computes in, which is the one that is kept."""
    options = changed(options, **changes)
    train_set, _ = sets_of(options, parts)
    text = cached(options, parts, precision)
    accelerator = accelerator_of(precision)
    objective = Objective(
        parts, parts.noise_scheduler, torch.device("cpu"), accelerator.autocast, 0, clip_skip=options.clip_skip
    )
    losses = []
    for train_set.text in (None, text):
        batch = collate(train_set, [(i, i) for i in range(5)])
        assert ("input_ids" in batch) == (train_set.text is None)
        with torch.no_grad():
            losses.append(objective.training_losses(batch, range(5)))
    assert batch["hidden_states"].dtype == DTYPES[precision]
    assert torch.equal(*losses) and losses[0].isfinite().all()


def test_just_what_changed_is_computed(options, parts, encoded, monkeypatch):
    def computed(precision="no", **changes):
        before = len(encoded)
        cached(changed(options, **changes), parts, precision)
        return len(encoded) - before

    assert computed() == COUNT
    assert computed() == computed(seed=5, resolution="64", batch_size=3, train_unet=True) == 0
    assert computed(caption_dropout=0.0) == 0
    assert computed(include_desc=True) == COUNT - 1  # other prompts: all but the empty one
    assert computed(clip_skip=2) == computed(max_tokens=150) == computed("bf16") == COUNT
    parts.text_encoder.float()
    parts.tokenizer.pad_token = "a</w>"
    assert computed() == COUNT  # another tokenizer
    with torch.no_grad():
        parts.text_encoder.final_layer_norm.bias += 1e-3
    assert computed() == COUNT  # other weights
    assert computed() == 0
    version = text_cache.importlib.metadata.version
    for library in text_cache.LIBRARIES:
        monkeypatch.setattr(
            text_cache.importlib.metadata, "version", lambda name, new=library: "9" if name == new else version(name)
        )
        assert computed() == COUNT


def test_what_is_damaged_or_lost_is_computed_again(options, parts, encoded, monkeypatch, capsys):
    monkeypatch.setattr(text_cache, "PROMPTS_PER_FILE", 20)
    good = cached(options, parts)
    numbers = {prompt: good[prompt].clone() for prompt in encoded}
    sizes = {len(np.load(path)): path for path in paths_of(options)}
    assert sorted(sizes) == [8, 20]
    data = bytearray(sizes[8].read_bytes())
    data[-7] ^= 1
    sizes[8].write_bytes(data)
    encoded.clear()
    again = cached(options, parts)
    assert len(encoded) == 8 and all(torch.equal(again[prompt], states) for prompt, states in numbers.items())
    assert (
        "text embeddings: 20 of 28 prompts are in the cache, 1 damaged file deleted; 8 to encode"
        in capsys.readouterr().out
    )


def test_a_stopped_start_keeps_what_it_has(options, parts, encoded, monkeypatch):
    to_array, left = text_cache.to_array, [18]

    def until(*given):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return to_array(*given)

    monkeypatch.setattr(text_cache, "to_array", until)
    with pytest.raises(KeyboardInterrupt):
        cached(options, parts)
    monkeypatch.setattr(text_cache, "to_array", to_array)
    encoded.clear()
    cached(options, parts)
    assert len(encoded) == 10


def test_each_process_encodes_its_share(options, parts, encoded, monkeypatch):
    """Process 1 of 2 alone: it gets the list of process 0, encodes half of it, and misses the other half."""
    train_set, val_set = sets_of(options, parts)
    prompts = [*train_set.training_prompts(), *map(val_set.prompt, val_set.books)]
    keys = [(text_cache.prompt_hash(prompt), "") for prompt in prompts]
    monkeypatch.setattr(record_cache.accelerate.utils, "broadcast_object_list", lambda _: [keys])
    with pytest.raises(UserError, match=r"what was just written to .*text is damaged"):
        cached(options, parts, process=1, processes=2)
    assert encoded == prompts[1::2]
    cached(options, parts, process=0, processes=2)  # finds them all once it has encoded its own
    assert encoded == [*prompts[1::2], *prompts[0::2]]


def test_a_full_disk_and_numbers_that_are_not_finite_are_one_line(options, parts, monkeypatch):
    usage = files.shutil.disk_usage("/")
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=1000))
        with pytest.raises(UserError, match=r"a cache of 28 text embeddings needs .* leave --cache_text out"):
            cached(options, parts)
    with torch.no_grad():
        parts.text_encoder.final_layer_norm.bias[0] = float("inf")
    with pytest.raises(UserError, match=r"prompt '': the text encoder's output is not finite in torch.float32; "):
        cached(options, parts)
    assert paths_of(options) == []


def test_a_text_encoder_that_learns_is_refused():
    with pytest.raises(UserError, match=r"--cache_text: .* give --train_text_encoder False"):
        checks.check(config.TrainingOptions(cache_text=True, train_unet=True))


@pytest.mark.script
@pytest.mark.slow
def test_a_run_is_the_same_with_and_without_it(small_data, tmp_path, monkeypatch, capsys):
    """Weights, losses and previews, to the last bit; once the cache is full, prompts are encoded for previews alone."""
    words = f"""--data_root {small_data} --output_dir {tmp_path}/runs --pretrained_model tiny --resolution 32x48
        --cache_dir {tmp_path}/cache --batch_size 5 --lr 1e-3 --num_workers 0 --max_steps 3 --sample_every 3
        --num_samples 2 --steps 2 --num_examples 10 --train_unet --train_text_encoder False --clip_skip 2""".split()
    assert training.main([*words, "--run_name", "without"]) == 0
    assert training.main([*words, "--run_name", "with", "--cache_text"]) == 0
    assert "text embeddings: 0 of 55 prompts are in the cache; 55 to encode" in capsys.readouterr().out
    monkeypatch.setattr(encoding, "encode_text", count := CountCalls(encoding.encode_text))
    assert training.main([*words, "--run_name", "again", "--cache_text_encoder_outputs", "True"]) == 0
    assert "text embeddings: 55 of 55 prompts are in the cache\n" in capsys.readouterr().out
    assert count.calls == 2 * 2 * 2  # two previews of two covers: each its prompt and the empty one
    runs = [tmp_path / "runs" / name for name in ("without", "with", "again")]
    assert final_state(runs[0]) == final_state(runs[1]) == final_state(runs[2])
    losses = [[line[n] for line in read_log(run) for n in ("loss", "validation_loss") if n in line] for run in runs]
    assert losses[0] == losses[1] == losses[2] and len(losses[0]) == 5
    pictures = [(run / "samples" / "000003.png").read_bytes() for run in runs]
    assert pictures[0] == pictures[1] == pictures[2]
    assert json.loads((runs[1] / "config.json").read_text())["clip_skip"] == 2 and os.listdir(tmp_path / "cache/text")


class CountCalls:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *given):
        self.calls += 1
        return self.function(*given)
