"""A small CLIP with random weights from a folder: embeddings as transformers' own, scores as torchmetrics'."""

import pathlib

import numpy as np
import pytest
import torch
from PIL import Image

from common.errors import UserError
from diffusion import pipeline
from evaluation import clip as evaluation_clip
from evaluation import distances


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIP that transformers loads: 2 layers, 16 dimensions, squares of 32 pixels, and the tokenizer of `tiny`."""
    import transformers

    tokenizer = pipeline.build_tiny().tokenizer
    torch.manual_seed(0)
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    ends = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    text = dict(**small, **ends, vocab_size=len(tokenizer), max_position_embeddings=77)
    vision = dict(**small, image_size=32, patch_size=8)
    configuration = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    folder = tmp_path_factory.mktemp("clip")
    transformers.CLIPModel(configuration).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(folder):
    return evaluation_clip.load_clip(str(folder), 4, torch.device("cpu"))


@pytest.fixture(scope="module")
def squares():
    return np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)


TEXTS = ["a book", "a poster of a whale", "a cover with a very long title " * 30, "night", "red", "a book"]


def test_embeddings_are_those_of_transformers(clip, folder, squares):
    import transformers

    processor = transformers.CLIPImageProcessor.from_pretrained(folder)
    tokens = clip.tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        pixels = processor([Image.fromarray(s) for s in squares], return_tensors="pt")["pixel_values"]
        images = clip.model.get_image_features(pixel_values=pixels).pooler_output
        texts = clip.model.get_text_features(**tokens).pooler_output
    assert np.allclose(clip.extractor(squares), images, atol=1e-5)
    assert np.allclose(clip.embed_texts(TEXTS, batch_size=len(TEXTS)), texts, atol=1e-6)
    assert clip.extractor(squares).shape == clip.embed_texts(TEXTS).shape == (6, 16)


def test_the_score_is_torchmetrics(clip, folder, squares, monkeypatch):
    import transformers
    from torchmetrics.functional.multimodal import clip_score

    # torchmetrics still expects a tensor where transformers 5 gives an output
    for name in ("get_image_features", "get_text_features"):
        old = getattr(type(clip.model), name)
        monkeypatch.setattr(type(clip.model), name, lambda *a, old=old, **k: old(*a, **k).pooler_output)
    images = [torch.from_numpy(square).permute(2, 0, 1) for square in squares]
    processor = transformers.CLIPProcessor(transformers.CLIPImageProcessor.from_pretrained(folder), clip.tokenizer)
    pairs = zip(images, TEXTS, strict=True)
    expected = [clip_score(image, text, lambda: (clip.model, processor)).item() for image, text in pairs]
    monkeypatch.undo()
    got, error = distances.clip_score(clip.extractor(squares), clip.embed_texts(TEXTS))
    assert got == pytest.approx(np.mean(expected), abs=1e-3) and error > 0


def test_a_whole_cover_is_seen_not_its_middle_square(clip):
    """Bands at the top and bottom of a tall cover change its embedding."""
    plain = np.full((1, 96, 64, 3), 128, np.uint8)
    banded = plain.copy()
    banded[:, :12], banded[:, -12:] = 255, 0
    assert np.abs(clip.extractor(plain) - clip.extractor(banded)).max() > 1e-3


@pytest.mark.parametrize("source", ["/nowhere/clip", "openai/not-on-this-disk"])
def test_no_model_is_one_line_with_a_remedy(source):
    with pytest.raises(UserError, match=f"--clip_model {source} can't be loaded .* give a hub id such as"):
        evaluation_clip.load_clip(source, 4, torch.device("cpu"))


def test_another_kind_of_model_is_refused(tmp_path):
    pipeline.build_tiny().pipeline().save_pretrained(tmp_path / "sd")
    assert pathlib.Path(tmp_path / "sd" / "unet").is_dir()
    with pytest.raises(UserError, match="can't be loaded as a CLIP model"):
        evaluation_clip.load_clip(str(tmp_path / "sd"), 4, torch.device("cpu"))


def test_a_model_without_all_of_its_weights_is_refused(folder, tmp_path):
    """transformers would fill in random ones, other ones at each start."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "half")
    path = tmp_path / "half" / "model.safetensors"
    kept = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("text_model")}
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lacks \d+ of CLIP's weights, such as text_model"):
        evaluation_clip.load_clip(str(tmp_path / "half"), 4, torch.device("cpu"))


def test_a_model_with_weights_that_are_not_finite_is_refused_before_anything_is_drawn(folder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "model.safetensors"
    weights = load_file(path)
    weights["text_model.embeddings.position_embedding.weight"][-1, -1] = float("nan")  # no short prompt comes so far
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"^--clip_model .*copy has weights that are not finite: get a new copy"):
        evaluation_clip.load_clip(str(tmp_path / "copy"), 4, torch.device("cpu"))


def test_a_pickled_model_is_read_without_running_what_it_holds(clip, folder, tmp_path):
    import os
    import shutil

    from safetensors.torch import load_file

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    shutil.copytree(folder, tmp_path / "copy")
    weights = load_file(tmp_path / "copy" / "model.safetensors")
    (tmp_path / "copy" / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "copy" / "pytorch_model.bin")
    loaded = evaluation_clip.load_clip(str(tmp_path / "copy"), 4, torch.device("cpu"))
    assert loaded.extractor.weights_hash == clip.extractor.weights_hash
    torch.save(weights | {"x": Attack()}, tmp_path / "copy" / "pytorch_model.bin")
    with pytest.raises(UserError, match="can't be loaded as a CLIP model") as caught:
        evaluation_clip.load_clip(str(tmp_path / "copy"), 4, torch.device("cpu"))
    assert not (tmp_path / "ran").exists() and "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut off", "not an object", "wrong type"])
def test_a_damaged_model_is_one_line(folder, tmp_path, damage):
    import shutil

    shutil.copytree(folder, tmp_path / "copy")
    config, weights = tmp_path / "copy" / "config.json", tmp_path / "copy" / "model.safetensors"
    if damage == "cut off":
        weights.write_bytes(weights.read_bytes()[:-50])
    else:
        text = config.read_text().replace('"projection_dim": 16', '"projection_dim": "x"')
        config.write_text("[]" if damage == "not an object" else text)
    with pytest.raises(UserError, match="can't be loaded as a CLIP model") as caught:
        evaluation_clip.load_clip(str(tmp_path / "copy"), 4, torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 0.0])
def test_embeddings_that_are_not_finite_or_0_are_one_line(clip, wrong):
    weight = clip.model.text_projection.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(wrong)
        try:
            with pytest.raises(
                UserError, match=r"^--clip_model .*: its embedding of a prompt is not finite, or 0: get"
            ):
                clip.embed_texts(TEXTS)
        finally:
            weight.copy_(before)
    assert np.isfinite(clip.embed_texts(TEXTS)).all()
