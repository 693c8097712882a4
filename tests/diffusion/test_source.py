"""What people give as --pretrained_model, and the line that each gets."""

import pathlib
import re
import shutil

import pytest
import torch
from safetensors.torch import save_file
from support import model_folders
from support.model_folders import FILES

from common.errors import UserError
from diffusion import pipeline, source
from diffusion.parts import NETWORKS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """tiny as a pipeline folder."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    pipeline.build_tiny().pipeline().save_pretrained(path)
    return path


def refusal(folder):
    with pytest.raises(UserError) as caught:
        source.local_folder(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same_weights(one, other, dtype=torch.float32):
    """Whether all weights of `one`, in fp32, are those of `other` after a cast to dtype."""
    states = [{name: getattr(parts, name).state_dict() for name in NETWORKS} for parts in (one, other)]
    return all(
        tensor.dtype == torch.float32 and torch.equal(tensor, states[1][name][key].to(dtype).float())
        for name in NETWORKS
        for key, tensor in states[0][name].items()
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "it is empty; give a Stable Diffusion 1.x or 2.x model, such as stable-diffusion-v1-5/"),
        ({"adapter_config.json": '{"peft_type": "LORA"}'}, "it is an adapter (LoRA), which needs the model"),
        ({"config.json": '{"_class_name": "ControlNetModel"}'}, "it holds one network (ControlNetModel), not a whole"),
        ({"config.json": '{"model_type": "bart"}'}, "it holds one network (bart), not a whole model"),
        ({"config.json": "[]"}, "it must hold one JSON object"),
        ({"snapshots/abc/model_index.json": "{}"}, "snapshots/abc has one: give that folder"),  # the hub's cache
        ({"model.ckpt": ""}, "model.ckpt is a pickle, which can run code hidden in it"),
        ({"notes.txt": "x"}, "it has no model_index.json; give the folder that holds unet/, vae/, text_encoder/"),
    ],
)
def test_folders_that_are_no_pipeline(tmp_path, files, message):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert message in refusal(tmp_path)


@pytest.mark.parametrize("text", ["~nosuchuser/x", "a" * 300, "a\0b", "/" + "a" * 300])
def test_what_can_be_no_path_is_one_line(text):
    with pytest.raises(UserError, match="no such folder, and not a hub id"):
        source.local_folder(text)


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(pathlib.Path, "iterdir", refuse)
    assert "it can't be read ([Errno 13] Permission denied" in refusal(tmp_path)


def test_a_folder_inside_a_pipeline_is_told_to_give_the_whole(folder):
    assert refusal(folder / "unet").endswith(f"(UNet2DConditionModel), not a whole model; give {folder}")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["lora_unet_mid.lora_down.weight"], "is a LoRA, which needs the model it was made for"),
        (["unet.mid.to_q.lora_A.weight"], "is a LoRA, which needs the model it was made for"),
        (["conditioner.embedders.0.x", "model.diffusion_model.x"], "is Stable Diffusion XL in one file; give"),
        (["double_blocks.0.img_attn.qkv.weight"], "is the network of Flux; give"),
        (["down_blocks.0.resnets.0.conv1.weight"], "is the UNet of a pipeline folder; give that folder"),
        (["model.diffusion_model.input_blocks.0.0.weight"], "is no whole model: it has no autoencoder and no text"),
        (["anything"], "is no whole model: none of its weights has a name"),
    ],
)
def test_a_single_file_is_told_what_it_is(tmp_path, names, message):
    path = tmp_path / "some model.safetensors"
    save_file({name: torch.zeros(2) for name in names}, path)
    assert f"some model.safetensors {message}" in refusal(path)
    assert f"some model.safetensors {message}" in refusal(tmp_path)  # the folder it lies in


@pytest.mark.parametrize("name", ["model.ckpt", "model.pt", "model.safetensors", "model.zip"])
def test_a_file_that_is_not_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"anything")
    kinds = {".safetensors": "is damaged or incomplete", ".zip": "is no file of weights"}
    assert f"{name} {kinds.get(path.suffix, 'is a pickle')}" in refusal(path)


def test_a_folder_with_a_whole_model_in_one_file_is_told_to_give_the_file(tmp_path):
    path = tmp_path / "model.safetensors"
    starts = ("model.diffusion_model.x", "first_stage_model.x", "cond_stage_model.transformer.x")
    save_file({name: torch.zeros(2) for name in starts}, path)
    assert refusal(tmp_path).endswith(f"model.safetensors is a whole model in one file: give {path}")
    assert source.single_file_path(str(path)) == path and source.single_file_path(str(tmp_path)) is None


@pytest.mark.parametrize("text", ["models/gone.safetensors", "models/gone.ckpt"])
def test_a_file_that_is_gone_is_not_asked_of_the_hub(text):
    with pytest.raises(UserError, match=f"--pretrained_model {re.escape(text)}: no such file"):
        source.local_folder(text)


def test_the_command_for_a_pickle_is_python(tmp_path):
    path = tmp_path / "it's a model.ckpt"
    path.write_bytes(b"anything")
    code = re.search(r'python -c "(.*)", and give', refusal(path))[1]
    calls = []
    code = code.replace("from diffusers import StableDiffusionPipeline as P; ", "")

    class P:
        @staticmethod
        def from_single_file(*args, **kwargs):
            calls.append((args, kwargs))
            return P

        @staticmethod
        def save_pretrained(target):
            calls.append(target)

    exec(code, {"P": P})
    assert calls == [((str(path),), {"safety_checker": None}), str(path.with_suffix(""))]


# ---------------------------------------------------------------------------------------------------------------------
# Files of weights


def test_a_folder_with_fp16_files_alone_is_loaded_in_fp32(folder, tmp_path):
    copy = model_folders.copy(folder, tmp_path / "copy")
    model_folders.rename_to_fp16(copy)
    assert not list(copy.glob("*/*model.safetensors"))
    assert same_weights(pipeline.load_parts(str(copy)), pipeline.load_parts(str(folder)), torch.float16)


def test_plain_files_come_before_a_variant(folder, tmp_path):
    copy = model_folders.copy(folder, tmp_path / "copy")
    model_folders.rename_to_fp16(copy)
    for path in FILES.values():
        shutil.copy(folder / path, copy / path)
    assert source.find_variant(copy, "unet") is None
    assert same_weights(pipeline.load_parts(str(copy)), pipeline.load_parts(str(folder)))


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files(folder, tmp_path, variant):
    copy, parts = model_folders.copy(folder, tmp_path / "copy"), pipeline.load_parts(str(folder))
    for name, size in (("unet", "200KB"), ("text_encoder", "40KB")):
        (copy / FILES[name]).unlink()
        getattr(parts, name).save_pretrained(copy / name, max_shard_size=size, variant=variant)
        assert len(list((copy / name).glob("*.safetensors"))) > 1 and source.find_variant(copy, name) == variant
    assert same_weights(pipeline.load_parts(str(copy)), parts)
    sorted((copy / "unet").glob("*.safetensors"))[0].unlink()
    with pytest.raises(UserError, match=r"unet: .*00001-of-.* is required"):
        pipeline.load_parts(str(copy))


@pytest.mark.parametrize("names", [("unet", "vae", "text_encoder"), ("text_encoder",)])
def test_pickles_are_not_read_and_the_command_converts_them(folder, tmp_path, names):
    copy = model_folders.copy(folder, tmp_path / "copy")
    model_folders.rename_to_pickle(copy, names)
    with pytest.raises(UserError, match=rf"has the weights of its {names[0]} as a pickle \(.*\.bin\)") as caught:
        pipeline.load_parts(str(copy))
    code, target = re.search(r'python -c "(.*)", and give --pretrained_model (.*)$', str(caught.value)).groups()
    exec(code)
    assert pathlib.Path(target) == tmp_path / "copy-safetensors"
    assert same_weights(pipeline.load_parts(target), pipeline.load_parts(str(folder)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged or incomplete"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "run `git lfs pull` there"),
        (None, "has no diffusion_pytorch_model.safetensors: bring the whole model"),
    ],
)
def test_a_file_of_weights_that_is_not_whole(folder, tmp_path, content, message):
    copy = model_folders.copy(folder, tmp_path / "copy")
    path = copy / FILES["vae"]
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        source.find_variant(copy, "vae")
    (copy / FILES["unet"]).rename(copy / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    with pytest.raises(UserError, match=r"unet/ has no .*, only diffusion_pytorch_model\.non_ema\.safetensors"):
        source.find_variant(copy, "unet")


# ---------------------------------------------------------------------------------------------------------------------
# The hub


def test_a_hub_repository_without_the_files_is_told_apart_from_no_internet():
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    def wrapped(cause):
        problem = OSError("me/model does not appear to have a file named model_index.json.")
        problem.__cause__ = cause
        cause.__context__ = problem  # a circle, as the libraries make them
        return problem

    line = source.load_error_message("me/model", wrapped(EntryNotFoundError("404")))
    assert line.startswith("the hub's me/model is not a Stable Diffusion pipeline") and "hf download" not in line
    line = source.load_error_message("me/model", wrapped(LocalEntryNotFoundError("offline")))
    assert line.startswith("can't get 'me/model': it is no folder here") and "hf download me/model" in line


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """Puts a folder into an empty cache of the hub's; the hub itself is off in tests."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder, name):
        home = tmp_path / "hub" / f"models--{name.replace('/', '--')}"
        snapshot = model_folders.copy(folder, home / "snapshots" / ("a" * 40))
        (home / "refs").mkdir()
        (home / "refs" / "main").write_text("a" * 40)
        return snapshot

    return put


def test_a_hub_model_with_fp16_files_alone_is_loaded(folder, hub_cache):
    model_folders.rename_to_fp16(hub_cache(folder, "me/half"))
    assert same_weights(pipeline.load_parts("me/half"), pipeline.load_parts(str(folder)), torch.float16)


def test_a_hub_model_without_weights_is_one_line(folder, hub_cache, caplog):
    (hub_cache(folder, "me/none") / FILES["unet"]).unlink()
    with pytest.raises(UserError, match=r"can't get 'me/none': .* named diffusion_pytorch_model\.safetensors -- "):
        pipeline.load_parts("me/none")
    assert not caplog.records
