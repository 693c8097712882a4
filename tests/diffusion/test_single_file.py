"""Single files (LDM layout): the round trip, diffusers as a second reader, and files that can't be used."""

import hashlib
import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import small_sd

from common.errors import UserError
from diffusion import architecture, ldm_names, pipeline, single_file
from diffusion.parts import NETWORKS
from diffusion.weights import networks_hash, save_pipeline, save_tensors


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_sd.shrink(monkeypatch)
        yield small_sd.build()


@pytest.fixture(scope="module")
def file(small, tmp_path_factory):
    return small_sd.write(small, tmp_path_factory.mktemp("single") / "small.safetensors")


def hashes(parts):
    return {name: networks_hash(getattr(parts, name)) for name in NETWORKS}


def changed(file, target, changes=(), without=(), **metadata):
    """A copy of a file with other tensors {name: tensor}, without those whose names begin so."""
    tensors = {name: tensor for name, tensor in load_file(file).items() if not name.startswith(tuple(without) or "/")}
    save_file({**tensors, **dict(changes)}, target, metadata or None)
    return target


def refusal(path):
    with pytest.raises(UserError) as caught:
        pipeline.load_parts(str(path))
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------------------------------------------------------------
# Sound files


def test_a_file_is_read_as_the_model_that_it_was_written_from(small, file):
    parts = pipeline.load_parts(str(file))
    assert hashes(parts) == hashes(small)
    assert architecture.architecture_of(parts) == architecture.architecture_of(small)
    assert architecture.read_architecture(str(file)) == architecture.architecture_of(small)
    assert parts.scheduler.config.prediction_type == "epsilon"
    assert pipeline.load_tokenizer(str(file))("a book").input_ids == small.tokenizer("a book").input_ids
    assert pipeline.load_schedule(str(file))["beta_end"] == 0.012
    assert not any(p.requires_grad or p.is_meta for name in NETWORKS for p in getattr(parts, name).parameters())


def test_diffusers_reads_the_same_model(small, file, tmp_path):
    from diffusers import StableDiffusionPipeline

    save_pipeline(small, tmp_path / "config", [], torch.float32)
    small.text_encoder.config.save_pretrained(tmp_path / "config" / "text_encoder")
    for name in ("unet", "vae"):
        getattr(small, name).save_config(tmp_path / "config" / name)
    loaded = StableDiffusionPipeline.from_single_file(
        str(file), config=str(tmp_path / "config"), local_files_only=True, torch_dtype=torch.float32
    )
    assert hashes(loaded) == hashes(small)


def test_metadata_and_hash(small, tmp_path):
    path = small_sd.write(small_sd.build(), tmp_path / "a.safetensors", torch.float16, **{"modelspec.title": "x"})
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    assert metadata["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data[8 + length :]).hexdigest()
    assert metadata["modelspec.prediction_type"] == "epsilon" and metadata["modelspec.title"] == "x"
    save_tensors(load_file(path), tmp_path / "b.safetensors", metadata)
    assert (tmp_path / "b.safetensors").read_bytes() == data and list(metadata) == sorted(metadata)


def test_half_precision_is_read_in_fp32(small, tmp_path):
    parts = pipeline.load_parts(str(small_sd.write(small_sd.build(), tmp_path / "half.safetensors", torch.bfloat16)))
    for name in NETWORKS:
        read, weights = (getattr(model, name).state_dict() for model in (parts, small))
        assert all(torch.equal(read[key], tensor.bfloat16().float()) for key, tensor in weights.items())


@pytest.mark.slow
def test_stable_diffusion_2_is_read_and_asks_what_it_predicts(small, tmp_path):
    networks = single_file.empty_networks(open_clip=True)
    torch.manual_seed(1)
    tensors, expected = {}, {}
    for part, network in networks.items():
        for key, tensor in network.state_dict().items():
            expected[part, key] = torch.randn(tensor.shape)
            config = network.config if part != "text_encoder" else {}
            stored = ldm_names.stored(part, key, config, open_clip=True)
            tensors.setdefault(stored.name, {})[stored.third or 0] = expected[part, key]
    path = tmp_path / "v2.safetensors"
    tensors = {name: torch.cat([thirds[i] for i in sorted(thirds)]) for name, thirds in tensors.items()}
    save_file(tensors, path)
    assert "does not say what it predicts: say which with --prediction_type v_prediction" in refusal(path)
    parts = single_file.load(path, "v_prediction")
    assert parts.scheduler.config.prediction_type == "v_prediction" and parts.tokenizer.pad_token == "!"
    read = {(part, key): tensor for part in NETWORKS for key, tensor in getattr(parts, part).state_dict().items()}
    assert read.keys() == expected.keys() and all(torch.equal(read[key], expected[key]) for key in read)
    said = single_file.inspect(changed(path, tmp_path / "said.safetensors", **{"modelspec.architecture": "x-768-v"}))
    assert single_file.build_scheduler(said).config.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    ("keys", "metadata", "asked", "predicts"),
    [
        ([], {}, "auto", "epsilon"),
        ([], {}, "v_prediction", "v_prediction"),
        ([], {"modelspec.prediction_type": "v"}, "auto", "v_prediction"),
        (["v_pred"], {}, "auto", "v_prediction"),
        (["v_pred", "ztsnr"], {}, "epsilon", "v_prediction"),  # the file's own word comes first
        ([], {"modelspec.prediction_type": "epsilon"}, "v_prediction", "epsilon"),
    ],
)
def test_what_it_predicts(file, tmp_path, keys, metadata, asked, predicts):
    header = single_file.SingleFile(file, open_clip=False, shapes={key: (0,) for key in keys}, metadata=metadata)
    schedule = single_file.build_scheduler(header, asked).config
    assert schedule.prediction_type == predicts
    assert schedule.get("rescale_betas_zero_snr", False) == ("ztsnr" in keys)
    assert (schedule["timestep_spacing"] == "trailing") == ("ztsnr" in keys)


def test_v_prediction_survives_the_round_trip(small, tmp_path):
    path = small_sd.write(small_sd.build(prediction_type="v_prediction"), tmp_path / "v.safetensors")
    assert pipeline.load_parts(str(path)).scheduler.config.prediction_type == "v_prediction"


def test_names_without_text_model_and_positions_are_read(small, file, tmp_path):
    old = {name.replace(".text_model.", "."): tensor for name, tensor in load_file(file).items()}
    old["cond_stage_model.transformer.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(old, tmp_path / "old.safetensors")
    assert hashes(pipeline.load_parts(str(tmp_path / "old.safetensors"))) == hashes(small)


# ---------------------------------------------------------------------------------------------------------------------
# Files that can't be used


def test_a_weight_that_half_precision_can_not_hold_is_not_written(small, tmp_path):
    parts = small_sd.build()
    parts.unet.conv_in.weight.data[0] = 1e6
    with pytest.raises(UserError, match=re.escape("input_blocks.0.0.weight is not finite in float16: give --dtype")):
        small_sd.write(parts, tmp_path / "big.safetensors", torch.float16)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "without", "message"),
    [
        ({}, ["first_stage_model."], "it is no whole model: it has no autoencoder; bring the file with all three"),
        ({}, ["first_stage_model.", "cond_stage_model."], "it has no autoencoder and no text encoder"),
        ({"model_ema.x": (1,)}, ["model.diffusion_model."], "the averaged (EMA) weights of its UNet alone"),
        (
            {"model.diffusion_model.input_blocks.0.0.weight": (32, 9, 3, 3)},
            [],
            "is an inpainting model: its UNet takes 9",
        ),
        ({"model.diffusion_model.label_emb.0.0.weight": (1,)}, [], "UNet takes more than the prompt"),
        ({"model.diffusion_model.motion.weight": (1,)}, [], "its UNet has 1 more weights, such as model.diffusion"),
        (
            {"first_stage_model.quant_conv.bias": (16,)},
            [],
            "1 weights have other shapes, such as first_stage_model.quant",
        ),
        ({}, ["first_stage_model.quant_conv.bias"], "1 weights are missing, such as first_stage_model.quant_conv.bias"),
        ({"conditioner.embedders.0.x": (1,)}, [], "it is Stable Diffusion XL in one file"),
        ({"model.diffusion_model.joint_blocks.0.x": (1,)}, [], "it is Stable Diffusion 3 in one file"),
        ({"model.diffusion_model.double_blocks.0.x": (1,)}, [], "it is Flux in one file"),
    ],
)
def test_files_of_other_kinds(file, tmp_path, changes, without, message):
    tensors = {name: torch.zeros(shape) for name, shape in changes.items()}
    assert message in refusal(changed(file, tmp_path / "other.safetensors", tensors, without))


def test_weights_that_are_not_finite_or_in_8_bits(file, tmp_path):
    name = "first_stage_model.quant_conv.bias"
    weights = load_file(file)[name]
    nan = changed(file, tmp_path / "nan.safetensors", {name: weights * float("nan")})
    assert f"{name} is not finite: the weights are damaged" in refusal(nan)
    fp8 = changed(file, tmp_path / "fp8.safetensors", {name: weights.to(torch.float8_e4m3fn)})
    assert "weights are in 8-bit precision (fp8), F8_E4M3: bring one in fp16, bf16 or fp32" in refusal(fp8)
    int8 = changed(file, tmp_path / "int8.safetensors", {name: weights.to(torch.int8)})
    assert "weights are quantized, I8" in refusal(int8)


def test_files_that_are_not_what_their_name_says(file, tmp_path):
    path = tmp_path / "model.safetensors"
    for data, message in {
        file.read_bytes()[:-1]: "is damaged or incomplete",
        file.read_bytes()[:1000]: "is damaged or incomplete",
        b"": "is damaged or incomplete",
        b"PK\x03\x04" + bytes(100): "is a pickle under another name, which can run code hidden in it",
        b"<!DOCTYPE html><html>": "is a web page, not the file",
        b"version https://git-lfs.github.com/spec/v1\n": "is a pointer of Git LFS in place of the file",
    }.items():
        path.write_bytes(data)
        assert message in refusal(path)
        for read in (architecture.read_architecture, pipeline.load_tokenizer):
            with pytest.raises(UserError, match=re.escape(message)):
                read(str(path))
