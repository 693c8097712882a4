"""Covers from prompts: several of each, files of prompts, sheets."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import config
import sd_inference
from common.errors import UserError
from diffusion import pipeline, sampling
from generation import prompt_covers
from generation.grid import image_grid
from generation.prompt_covers import read_prompts, save_sheets, warn_of_long_texts
from generation.settings import DrawingSettings

V0 = ["--pretrained_model", "tiny", "--version", "v0", "--resolution", "32", "--steps", "2"]
DRAWN = DrawingSettings("v0", None, "hash", "no", 0, "32x32", 2, 7.5, "dpm++")


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def draw(folder, *words):
    """{name: time of its last change} of the pictures in the folder, after drawing into it."""
    words = [*V0, "--output_dir", folder / "none", "--save_dir", folder / "covers", *words]
    assert sd_inference.main([*map(str, words)]) == 0
    return {path.name: path.stat().st_mtime_ns for path in (folder / "covers").glob("*.png")}


def test_pictures_of_a_file_of_prompts(tmp_path, capsys, monkeypatch):
    """Picture K starts from latents K for every prompt, picture 0 is that of --prompt, and what is there stays."""
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa red book\r\n# no prompt\r\n\r\n  a blue tree  \na red book\n".encode())
    alone = draw(tmp_path, "--prompt", "a red book")
    first = draw(tmp_path, "--prompts_file", file, "--num_images", 2, "--batch_size", 3)
    assert re.search("drew 3 covers in .*; 1 were drawn before", capsys.readouterr().out)
    assert alone.items() <= first.items()
    assert len(first) == 5  # with the sheet

    parts = pipeline.load_parts("tiny")
    options = config.InferenceOptions(resolution="32", steps=2)
    found = {}
    for path in (tmp_path / "covers").glob("*.json"):
        record = json.loads(path.read_text())
        if "images" not in record:
            found[record["prompt"], record.get("image", 0)] = pixels(path.with_suffix(".png"))
            wanted = sampling.draw_images(parts, [record["prompt"]], [record.get("image", 0)], options)[0]
            assert np.array_equal(found[record["prompt"], record.get("image", 0)], wanted)
    assert sorted(found) == [(text, image) for text in ("a blue tree", "a red book") for image in (0, 1)]
    assert not np.array_equal(found["a red book", 0], found["a red book", 1])

    # Drawn again after one was lost: that one alone
    lost = next(path for path in (tmp_path / "covers").glob("v0_prompt_a-blue-tree_1_*.png"))
    lost.unlink()
    drawn = []
    monkeypatch.setattr(
        prompt_covers, "draw_images", lambda *given: drawn.extend(given[1]) or sampling.draw_images(*given)
    )
    again = draw(tmp_path, "--prompts_file", file, "--num_images", 2)
    assert drawn == ["a blue tree"] and again.keys() == first.keys()
    assert {name for name in first if again[name] != first[name]} == {lost.name, *(n for n in first if "_sheet" in n)}


def test_the_sheet_of_one_prompt(tmp_path):
    names = draw(tmp_path, "--prompt", "a red book", "--num_images", 3, "--negative_prompt", "blue")
    (sheet,) = (name for name in names if "_sheet_" in name)
    assert sheet.startswith("v0_prompt_a-red-book_sheet_") and len(names) == 4
    with Image.open(tmp_path / "covers" / sheet) as image:
        assert image.text["parameters"].startswith("a red book\nNegative prompt: blue\nSteps: 2, ")
    (second,) = (name for name in names if name.startswith("v0_prompt_a-red-book_1_"))
    with Image.open(tmp_path / "covers" / second) as image:
        assert image.text["parameters"].endswith(", Image: 1")


@pytest.mark.parametrize(
    ("prompts", "images", "shapes"),  # (rows, columns) of each sheet
    [
        (2, 1, [(1, 2)]),
        (70, 1, [(8, 8), (2, 3)]),
        (3, 2, [(2, 4)]),
        (3, 4, [(3, 4)]),
        (40, 2, [(8, 8), (4, 4)]),
        (2, 9, [(2, 8)] * 2),
    ],
)
def test_sheets_hold_every_picture_once_in_order(tmp_path, monkeypatch, prompts, images, shapes):
    pages = []

    def note(pictures, columns, labels, label_width):
        pages.append((pictures[:, 0, 0, 0].tolist(), columns, list(labels)))
        return image_grid(pictures[:1], 1)

    monkeypatch.setattr(prompt_covers, "image_grid", note)
    monkeypatch.setattr(prompt_covers, "read_png", lambda path: np.full((8, 8, 3), int(path), np.uint8))
    texts = [f"prompt {i}" for i in range(prompts)]
    saved = save_sheets(tmp_path, "v0", texts, list(range(prompts * images)), DRAWN)
    assert [(-(-len(shown) // columns), columns) for shown, columns, _ in pages] == shapes
    assert [number for shown, _, _ in pages for number in shown] == list(range(prompts * images))
    assert [label for _, _, labels in pages for label in labels] == texts
    assert len(set(saved)) == len(shapes)


def test_pictures_of_a_prompt_share_its_label():
    images = torch.zeros(4, 48, 32, 3, dtype=torch.uint8)
    one, shared = (
        np.asarray(image_grid(images, 2, labels, label_width)) < 128
        for labels, label_width in ((["W" * 15] * 4, 1), (["W" * 15, "i"], 2))
    )
    rows = slice(0, 16)  # above the first two
    assert one.shape == shared.shape and one[rows, 140:].any() and shared[rows, 120:160].any()
    assert not shared[rows, 200:].any()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no prompts: write one on each line"),
        (b"\n  \n# all of it\n", "has no prompts"),
        ("a café".encode("latin-1"), "is not text in UTF-8"),
        ("a book".encode("utf-16-le"), "is not text in UTF-8"),
        (None, "can't read --prompts_file .*: No such file or directory$"),
    ],
)
def test_a_file_without_prompts_is_one_line(tmp_path, content, message):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_prompts(str(path))
    with pytest.raises(UserError, match="Is a directory"):
        read_prompts(str(tmp_path))


def test_ten_thousand_prompts(tmp_path):
    (tmp_path / "many").write_text("".join(f"book {i}\n" for i in range(10_000)))
    found = read_prompts(str(tmp_path / "many"))
    assert len(found) == 10_000 and found["line 10000"] == "book 9999"


def test_prompts_that_are_too_long_are_named(capsys):
    tokenizer = pipeline.load_tokenizer("tiny")
    warn_of_long_texts(
        tokenizer, tokenizer.model_max_length, {f"line {i}": "a book " * 90 if i > 2 else "a book" for i in range(10)}
    )
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: line 3 has 182 tokens, and only the first 77 are read"
    assert len(lines) == 6 and lines[-1] == "warning: 2 more prompts are too long"
