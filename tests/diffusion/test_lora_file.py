"""LoRA files: what we write is what others read, what others write is read; merged weights equal the closed form."""

import copy
import json
import math
import re

import diffusers
import peft
import pytest
import torch
from diffusers.utils import convert_state_dict_to_diffusers
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from common.errors import UserError
from diffusion import lora_file, lora_names, pipeline, sd15, weights
from diffusion.lora_file import LORA_FILE, merge_lora, read_lora, save_lora
from diffusion.parts import PARTS, Parts

RANK, ALPHA = 4, 2.0


@pytest.fixture(scope="module")
def tiny():
    return pipeline.load_parts("tiny")


def random_adapters(parts):
    """Adapters of everything that a LoRA can change, large enough to see; all numbers are in fp16, too."""
    generator, adapters = torch.Generator().manual_seed(7), {}
    for part, modules in lora_names.adaptable(parts).items():
        for name, module in modules.items():
            rows, columns, *kernel = module.weight.shape
            down = torch.randn(RANK, columns, *kernel, generator=generator) / 10
            up = torch.randn(rows, RANK, *(1 for _ in kernel), generator=generator) / 10
            adapters.setdefault(part, {})[name] = (down.half().float(), up.half().float())
    return adapters


@pytest.fixture(scope="module")
def adapters(tiny):
    return random_adapters(tiny)


@pytest.fixture(scope="module")
def good(adapters, tmp_path_factory):
    """A LoRA file for tiny, as we write it."""
    path = tmp_path_factory.mktemp("lora") / LORA_FILE
    save_lora(path, adapters, ALPHA, torch.float32)
    return path


def weights_of(parts):
    return {part: {k: v.clone() for k, v in getattr(parts, part).state_dict().items()} for part in PARTS}


def assert_close(parts, others):
    for part in PARTS:
        ours, theirs = (dict(getattr(each, part).state_dict()) for each in (parts, others))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Merging


@pytest.mark.parametrize("scale", [1.0, -0.5, 0.0])
def test_merged_weights_equal_the_closed_form(tiny, adapters, good, scale):
    parts = copy.deepcopy(tiny)
    before = weights_of(parts)
    merge_lora(parts, good, scale)
    for part, after in weights_of(parts).items():
        for key, weight in after.items():
            module, wanted = key.removesuffix(".weight"), before[part][key]
            if key.endswith(".weight") and module in adapters[part]:
                down, up = adapters[part][module]
                change = torch.einsum("orxy,rikl->oikl", up, down) if up.dim() == 4 else up @ down
                wanted = wanted + scale * ALPHA / RANK * change
                assert scale == 0 or not torch.allclose(weight, before[part][key], atol=1e-3)
            torch.testing.assert_close(weight, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("source", "scale"), [("tiny", 1.0), ("mini", 0.3)])
def test_diffusers_fuses_the_same_weights(source, scale, tmp_path):
    """And reads every key: an adapter of each module."""
    ours = pipeline.load_parts(source)
    theirs, adapters = copy.deepcopy(ours).pipeline(), random_adapters(ours)
    # Only mini has these, and diffusers takes their names for some of SDXL's
    adapters["unet"] = {name: each for name, each in adapters["unet"].items() if not name.startswith("add_embedding.")}
    save_lora(tmp_path / LORA_FILE, adapters, ALPHA, torch.float32)
    merge_lora(ours, tmp_path / LORA_FILE, scale)
    theirs.load_lora_weights(tmp_path)
    for part in PARTS:
        loaded = {name for name, module in getattr(theirs, part).named_modules() if hasattr(module, "lora_A")}
        assert loaded == set(adapters[part])
    theirs.fuse_lora(lora_scale=scale)
    theirs.unload_lora_weights()
    assert_close(ours, theirs)


def test_the_merge_does_not_depend_on_the_order_of_sums(tiny, adapters, good, tmp_path):
    """Products of fp16 are exact in float64: with the ranks in another order, the same bits."""
    order = torch.tensor([3, 1, 0, 2])
    shuffled = {
        part: {name: (down[order], up[:, order]) for name, (down, up) in modules.items()}
        for part, modules in adapters.items()
    }
    save_lora(tmp_path / LORA_FILE, shuffled, ALPHA, torch.float32)
    hashes = set()
    for path in (good, tmp_path / LORA_FILE):
        parts = copy.deepcopy(tiny)
        merge_lora(parts, path, 0.7)
        hashes.add(weights.weights_hash(parts))
    assert len(hashes) == 1


def test_a_folder_with_a_lora_file_is_loaded_with_it(tiny, good, tmp_path):
    tiny.pipeline().save_pretrained(tmp_path)
    assert not pipeline.has_lora(str(tmp_path)) and not pipeline.has_lora("tiny")
    (tmp_path / LORA_FILE).write_bytes(good.read_bytes())
    assert pipeline.has_lora(str(tmp_path))
    for scale in (1.0, 0.5):
        wanted = copy.deepcopy(tiny)
        merge_lora(wanted, good, scale)
        loaded = pipeline.load_parts(str(tmp_path), lora_scale=scale)
        assert weights.weights_hash(loaded) == weights.weights_hash(wanted)
        assert not any(p.requires_grad for p in loaded.unet.parameters())


# ---------------------------------------------------------------------------------------------------------------------
# Our files


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_what_is_saved_is_read_again(tiny, adapters, tmp_path, dtype):
    save_lora(tmp_path / "one.safetensors", adapters, 1.3, dtype)
    saved = load_file(tmp_path / "one.safetensors")
    assert len(saved) == 3 * sum(map(len, adapters.values()))
    assert {tensor.dtype for key, tensor in saved.items() if not key.endswith(".alpha")} == {dtype}
    read = read_lora(tmp_path / "one.safetensors", tiny)
    for part, modules in adapters.items():
        assert read[part].keys() == modules.keys()
        for name, (down, up) in modules.items():
            adapter = read[part][name]
            assert torch.equal(adapter.down, down.to(dtype)) and torch.equal(adapter.up, up.to(dtype))
            assert adapter.factor == pytest.approx(1.3 / RANK, rel=1e-7)


def test_metadata_say_what_the_file_is_and_the_bytes_are_always_the_same(adapters, good, tmp_path):
    with safe_open(good, framework="pt") as opened:
        metadata = opened.metadata()
    assert metadata == {
        "format": "pt",
        "ss_v2": "False",
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "4",
        "ss_network_alpha": "2",
        "ss_network_args": '{"conv_dim": "4", "conv_alpha": "2"}',
        "ss_output_name": "pytorch_lora_weights",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "pytorch_lora_weights",
    }
    texts = {f"k{i}": f"\u00e4{i}" for i in range(30)} | {"modelspec.title": "Mine"}
    save_lora(tmp_path / "a", adapters, ALPHA, torch.float16, texts)
    save_lora(tmp_path / "b", adapters, ALPHA, torch.float16, dict(reversed(texts.items())))
    with safe_open(tmp_path / "a", framework="pt") as opened:
        assert opened.metadata() == metadata | texts | {"ss_output_name": "a"}
    first, second = ((tmp_path / name).read_bytes() for name in ("a", "b"))
    names = list(json.loads(first[8 : 8 + int.from_bytes(first[:8], "little")])["__metadata__"])
    assert names == sorted(names)  # safetensors itself writes them in another order each time
    assert first.replace(b'"ss_output_name":"a"', b'"ss_output_name":"b"') == second
    assert load_file(tmp_path / "a").keys() == load_file(good).keys()


def test_a_lora_of_stable_diffusion_2_says_so(tmp_path):
    layer = {"mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (torch.ones(2, 1024), torch.ones(8, 2))}
    save_lora(tmp_path / LORA_FILE, {"unet": layer}, 1, torch.float32)
    with safe_open(tmp_path / LORA_FILE, framework="pt") as opened:
        texts = opened.metadata()
    assert (texts["ss_v2"], texts["ss_base_model_version"], texts["ss_network_args"]) == ("True", "sd_v2", "{}")
    assert texts["modelspec.architecture"] == "stable-diffusion-v2-512/lora"


@pytest.mark.parametrize(("number", "dtype"), [(math.nan, torch.float32), (1e6, torch.float16)])
def test_what_is_not_finite_is_not_saved(tmp_path, number, dtype):
    (tmp_path / LORA_FILE).write_bytes(b"older")
    layer = {"conv_in": (torch.ones(2, 4, 3, 3), torch.full((8, 2, 1, 1), number))}
    with pytest.raises(UserError, match=r"lora_up of conv_in is not finite in float\d\d, and not saved"):
        save_lora(tmp_path / LORA_FILE, {"unet": layer}, 1, dtype)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"older"]


def names_that_others_look_for():
    """What ComfyUI, A1111 and kohya's tools call the modules of Stable Diffusion 1.5, by its plan: four levels, two
    resnets each on the way down and three on the way up, attention in all but the lowest."""
    attention = ["proj_in", "proj_out"]
    attention += [f"transformer_blocks_0_{layer}" for layer in ("ff_net_0_proj", "ff_net_2")]
    attention += [
        f"transformer_blocks_0_attn{i}_{layer}" for i in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out_0")
    ]
    blocks = [(f"down_blocks_{i}", 2, i < 3, "downsamplers" if i < 3 else "") for i in range(4)]
    blocks += [(f"up_blocks_{i}", 3, i > 0, "upsamplers" if i < 3 else "") for i in range(4)]
    names = ["conv_in", "conv_out", "time_embedding_linear_1", "time_embedding_linear_2"]
    names += [f"mid_block_attentions_0_{layer}" for layer in attention]
    names += [f"mid_block_resnets_{i}_{layer}" for i in range(2) for layer in ("conv1", "conv2", "time_emb_proj")]
    for block, resnets, attends, sampler in blocks:
        for i in range(resnets):
            widened = block.startswith("up") or (i == 0 and block in ("down_blocks_1", "down_blocks_2"))
            names += [f"{block}_resnets_{i}_{layer}" for layer in ("conv1", "conv2", "time_emb_proj")]
            names += [f"{block}_resnets_{i}_conv_shortcut"] * widened
            names += [f"{block}_attentions_{i}_{layer}" for layer in attention] * attends
        names += [f"{block}_{sampler}_0_conv"] * bool(sampler)
    names = [f"lora_unet_{name}" for name in names]
    layers = ("self_attn_q_proj", "self_attn_k_proj", "self_attn_v_proj", "self_attn_out_proj", "mlp_fc1", "mlp_fc2")
    return names + [f"lora_te_text_model_encoder_layers_{i}_{layer}" for i in range(12) for layer in layers]


def test_our_names_are_those_that_others_look_for():
    with torch.device("meta"):
        modules = lora_names.adaptable(Parts(None, *sd15.build_networks(), None))
    ours = [lora_names.kohya_name(part, name) for part, named in modules.items() for name in named]
    assert sorted(ours) == sorted(names_that_others_look_for())  # each once
    assert sum("_attn1_" in name or "_attn2_" in name for name in ours) == 128
    assert sum("_self_attn_" in name for name in ours) == 48
    named = sum(1 for part, each in modules.items() for name in each for _ in {*lora_names.other_names(part, name)})
    assert len(lora_names.known_names(modules)) == named + len(ours)  # no two modules share a name


# ---------------------------------------------------------------------------------------------------------------------
# Others' files


def with_adapters(parts, **settings):
    """A copy of the model with PEFT's adapters on all modules, which are random and not merged."""
    adapted = copy.deepcopy(parts)
    generator = torch.Generator().manual_seed(3)
    for part, modules in lora_names.adaptable(parts).items():
        network = getattr(adapted, part)
        network.add_adapter(peft.LoraConfig(r=RANK, lora_alpha=6, target_modules=[*modules], **settings))
        for name, parameter in network.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) / 10
    return adapted


def save_as_diffusers(adapted, folder, metadata):
    """A LoRA file of diffusers' own, in the way of its training scripts."""
    states = {part: peft.get_peft_model_state_dict(getattr(adapted, part)) for part in PARTS}
    settings = {}
    if metadata:
        settings = {
            f"{part}_lora_adapter_metadata": {
                key: sorted(value) if isinstance(value, set) else value
                for key, value in getattr(adapted, part).peft_config["default"].to_dict().items()
            }
            for part in PARTS
        }
    diffusers.StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=states["unet"],
        text_encoder_lora_layers=convert_state_dict_to_diffusers(states["text_encoder"]),
        **settings,
    )


@torch.no_grad()
def outputs_of(parts):
    ids = torch.arange(77)[None] % 200
    text = parts.text_encoder(ids).last_hidden_state
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return text, parts.unet(latents, torch.tensor([500]), text).sample


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"to_q": 1, "mlp.fc1": 9.0}}])
def test_diffusers_file_draws_as_pefts_adapters_do(tiny, tmp_path, settings):
    adapted, merged = with_adapters(tiny, **settings), copy.deepcopy(tiny)
    save_as_diffusers(adapted, tmp_path, metadata=True)
    merge_lora(merged, tmp_path / LORA_FILE)
    wanted = outputs_of(adapted)
    torch.testing.assert_close(outputs_of(merged), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(outputs_of(tiny)[1], wanted[1], atol=1e-2)


def test_without_metadata_alpha_is_the_rank(tiny, tmp_path):
    """So diffusers and kohya's tools take it, though PEFT trained with another one."""
    save_as_diffusers(with_adapters(tiny), tmp_path, metadata=False)
    merged, theirs = copy.deepcopy(tiny), copy.deepcopy(tiny).pipeline()
    merge_lora(merged, tmp_path / LORA_FILE)
    theirs.load_lora_weights(tmp_path)
    theirs.fuse_lora()
    theirs.unload_lora_weights()
    assert_close(merged, theirs)
    assert {each.factor for named in read_lora(tmp_path / LORA_FILE, tiny).values() for each in named.values()} == {1.0}


def test_pefts_own_file_is_read_with_the_alpha_beside_it(tiny, tmp_path):
    network = copy.deepcopy(tiny.unet)
    adapted = peft.get_peft_model(
        network, peft.LoraConfig(r=RANK, lora_alpha=6, target_modules=["to_q", "conv1"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path)
    merged = copy.deepcopy(tiny)
    merge_lora(merged, tmp_path / "adapter_model.safetensors")
    wanted = adapted.merge_and_unload().state_dict()
    torch.testing.assert_close(dict(merged.unet.state_dict()), dict(wanted), rtol=0, atol=1e-6)
    (tmp_path / lora_file.PEFT_CONFIG).unlink()
    with pytest.raises(UserError, match=r"its adapter_config\.json, which has alpha, is not beside it"):
        merge_lora(merged, tmp_path / "adapter_model.safetensors")


def test_the_names_of_diffusers_first_releases(tiny, good, tmp_path):
    """diffusers' converter makes them of ours: '...attn1.processor.to_q_lora.down.weight'."""
    renamed, _ = diffusers.StableDiffusionPipeline.lora_state_dict(good)
    assert any(".processor.to_out_lora.up" in key for key in renamed) and any(".to_k_lora." in key for key in renamed)
    save_file(renamed, tmp_path / "old.safetensors")
    ours, theirs = read_lora(good, tiny), read_lora(tmp_path / "old.safetensors", tiny)
    for part in PARTS:
        assert ours[part].keys() == theirs[part].keys()
        for name, adapter in ours[part].items():
            assert torch.equal(adapter.down, theirs[part][name].down) and torch.equal(adapter.up, theirs[part][name].up)
    alone = {key.removeprefix("unet."): tensor for key, tensor in renamed.items() if key.startswith("unet.")}
    save_file(alone, tmp_path / "alone.safetensors")
    assert read_lora(tmp_path / "alone.safetensors", tiny).keys() == {"unet"}


def test_a_convolution_of_1x1_may_be_written_as_a_linear_layer(tiny, tmp_path):
    name = "down_blocks.0.attentions.0.proj_in"
    rows, columns, *_ = tiny.unet.get_submodule(name).weight.shape
    down, up = torch.randn(2, columns), torch.randn(rows, 2)
    merged = []
    for number, adapter in enumerate([(down, up), (down[..., None, None], up[..., None, None])]):
        save_lora(tmp_path / f"{number}", {"unet": {name: adapter}}, 2, torch.float32)
        merged.append(copy.deepcopy(tiny))
        merge_lora(merged[-1], tmp_path / f"{number}")
    assert weights.weights_hash(merged[0]) == weights.weights_hash(merged[1]) != weights.weights_hash(tiny)


def test_alpha_may_be_a_whole_number_in_a_list(tiny, good, tmp_path):
    tensors = {key: t.long()[None] if key.endswith(".alpha") else t for key, t in load_file(good).items()}
    save_file(tensors, tmp_path / "whole.safetensors")
    assert {each.factor for each in read_lora(tmp_path / "whole.safetensors", tiny)["unet"].values()} == {0.5}


def test_the_hash_is_that_of_the_weights(adapters, good, tmp_path):
    save_lora(tmp_path / "other name", adapters, ALPHA, torch.float32, {"more": "text"})
    assert lora_file.lora_hash(tmp_path / "other name") == lora_file.lora_hash(good)
    save_lora(tmp_path / "other alpha", adapters, ALPHA + 1, torch.float32)
    assert lora_file.lora_hash(tmp_path / "other alpha") != lora_file.lora_hash(good)


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes

NAME = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
DOWN, UP = f"{NAME}.lora_down.weight", f"{NAME}.lora_up.weight"
ONE = torch.ones(2, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_te2_text_model_encoder_layers_0_mlp_fc1.alpha": ONE}, "it was made for Stable Diffusion XL"),
        ({"lora_unet_input_blocks_4_1_proj_in.lora_up.weight": ONE}, "it was made for Stable Diffusion XL"),
        ({"unet.mid_block.attentions.0.transformer_blocks.3.attn1.to_q.lora_A.weight": ONE}, "Stable Diffusion XL"),
        ({"lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": ONE}, "it was made for Flux"),
        ({"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": ONE}, "it was made for Flux"),
        ({"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": ONE}, "it was made for Stable Diffusion 3 or"),
        ({"lora_unet_joint_blocks_0_x_block_mlp_fc1.lora_down.weight": ONE}, "it was made for Stable Diffusion 3 or"),
        ({"lora_te_text_model_encoder_layers_2_mlp_fc1.alpha": ONE}, "it was made for a model of another architecture"),
        ({DOWN: torch.ones(4, 1024)}, "it was made for Stable Diffusion 2.x: unet.down_blocks.0.attentions.0"),
        ({DOWN: torch.ones(4, 2048)}, "it was made for Stable Diffusion XL: unet"),
        ({DOWN: torch.ones(4, 33)}, "it was made for another model: unet"),
        ({UP: torch.ones(17, 4)}, "it was made for another model: unet"),
        ({DOWN: torch.ones(4, 32, 3, 3)}, "it was made for another model: unet"),
        ({DOWN: torch.ones(3, 32)}, "the rank of unet.down_blocks.0.attentions.0"),
        ({UP: torch.ones(16, 4, 2, 1)}, "the rank of unet"),
        ({DOWN: torch.ones(4)}, "the rank of unet"),
        ({DOWN: torch.ones(0, 32), UP: torch.ones(16, 0)}, "the rank of unet"),
        ({DOWN: None}, "has no down matrix: the file is incomplete"),
        ({UP: None}, "has no up matrix: the file is incomplete"),
        ({DOWN: None, UP: None}, "has no (up|down) matrix: the file is incomplete"),
        ({UP: torch.full((16, 4), math.inf)}, f"{UP} is not finite: the file is damaged"),
        ({f"{NAME}.alpha": torch.tensor(math.nan)}, "alpha is not finite: the file is damaged"),
        ({f"{NAME}.alpha": torch.ones(3)}, "has 3 numbers: damaged"),
        ({UP: torch.ones(16, 4, dtype=torch.int8)}, "is int8, not a floating-point number"),
        ({NAME.replace("lora_unet_", "unet.") + ".lora_A.weight": ONE}, "has nothing for its unet.down_blocks_0_att"),
        ({f"{NAME}.lora_A.weight": ONE}, "twice, under two names"),
        ({f"{NAME}.dora_scale": ONE}, "it is a DoRA"),
        ({f"{NAME}.hada_w1_a": ONE}, "it is a LoHa"),
        ({f"{NAME}.lokr_w1": ONE}, "it is a LoKr"),
        ({f"{NAME}.lora_mid.weight": ONE}, "it is a LoCon in Tucker decomposition"),
        ({f"{NAME}.diff_b": ONE}, "it is one with changes of whole weights"),
        ({f"{NAME}.lora_B.bias": ONE}, "it is one with biases"),
        ({"bundle_emb.x.string_to_param.*": ONE}, "it is one with embeddings"),
        ({f"{NAME}.reference": ONE}, f"it has {NAME}.reference, which belongs to no plain LoRA"),
        ({"model.diffusion_model.out.2.weight": ONE}, "it is a whole model, not a LoRA: use it as --pretrained_model"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(tiny, good, tmp_path, changes, message):
    tensors = {key: t for key, t in (load_file(good) | changes).items() if t is not None}
    save_file(tensors, tmp_path / "bad.safetensors")
    refuses(tiny, tmp_path / "bad.safetensors", message)


@pytest.mark.parametrize(
    ("texts", "made_for"),
    [
        (
            {"modelspec.architecture": "hunyuan\nvideo/lora"},
            "hunyuan video/lora: this model has nothing for its lora_x",
        ),
        ({"ss_base_model_version": "sd_v2"}, "sd_v2: this"),
        ({"ss_base_model_version": "sd_v1"}, "a model of another architecture or size: this"),
    ],
)
def test_metadata_say_what_the_names_do_not(tiny, tmp_path, texts, made_for):
    save_file({"lora_x.lora_up.weight": ONE}, tmp_path / LORA_FILE, texts)
    refuses(tiny, tmp_path / LORA_FILE, f"it was made for {made_for}")


def refuses(parts, path, message):
    """merge_lora raises one line with the path, and the weights stay as they were."""
    before = weights.weights_hash(parts)
    with pytest.raises(UserError, match=f"^can't use the LoRA {re.escape(str(path))}: .*{message}") as caught:
        merge_lora(parts, path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert weights.weights_hash(parts) == before


def test_files_that_are_no_lora(tiny, good, tmp_path):
    data, bad = good.read_bytes(), tmp_path / "bad.safetensors"
    for content, message in {
        data[:-5]: "it is damaged or cut short",
        data[:1000]: "it is damaged or cut short",
        data[:5]: "it is damaged or cut short",
        b"": "it is damaged or cut short",
        b"version https://git-lfs.github.com/spec/v1": "it is a pointer of Git LFS",
    }.items():
        bad.write_bytes(content)
        refuses(tiny, bad, message)
    torch.save({"a": ONE}, bad)
    refuses(tiny, bad, "it is a pickle")
    torch.save({"a": ONE}, bad, _use_new_zipfile_serialization=False)
    refuses(tiny, bad, "it is a pickle")
    save_file({"down_blocks.0.resnets.0.conv1.weight": ONE}, bad)
    refuses(tiny, bad, "it is no LoRA: it has weights such as down_blocks")
    save_file({}, bad)
    refuses(tiny, bad, "it is no LoRA: it has no weights")
    refuses(tiny, tmp_path / "gone.safetensors", "there is no such file")
    refuses(tiny, tmp_path, "it is a folder: give the file in it")
    refuses(tiny, good.parent, f"it is a folder: give {good}")
    (tmp_path / "old.pt").write_bytes(b"")
    refuses(tiny, tmp_path / "old.pt", "it is a pickle")


@pytest.mark.parametrize("size", [0x1080, 0x4B50])
def test_a_file_whose_first_bytes_are_those_of_a_pickle_is_read(tiny, tmp_path, size):
    """They are the size of its header: 4,224 bytes begin with 80, 19,280 with PK."""
    path, adapters = tmp_path / LORA_FILE, {"unet": {"conv_in": (torch.ones(2, 4, 3, 3), torch.ones(16, 2, 1, 1))}}
    save_lora(path, adapters, 2, torch.float32, {"filler": ""})
    filler = size - int.from_bytes(path.read_bytes()[:8], "little")
    save_lora(path, adapters, 2, torch.float32, {"filler": "x" * filler})
    data = path.read_bytes()
    assert data[:2] in (b"\x80\x10", b"PK")
    assert read_lora(path, tiny)["unet"].keys() == {"conv_in"}
    path.write_bytes(data[:-1])
    refuses(tiny, path, "it is damaged or cut short")


@pytest.mark.parametrize(
    "text", ["{", "[1]", '{"unet.lora_alpha": "x"}', '{"unet.alpha_pattern": {"(": 1}}', "[" * 9**5]
)
def test_damaged_settings_are_one_line(tiny, tmp_path, text):
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(2, 16), f"{name}.lora_B.weight": torch.ones(16, 2)}
    save_file(tensors, tmp_path / LORA_FILE, metadata={lora_file.DIFFUSERS_SETTINGS: text})
    refuses(tiny, tmp_path / LORA_FILE, "damaged")


def test_a_full_disk_leaves_the_older_file(adapters, tmp_path, monkeypatch):
    path = tmp_path / LORA_FILE
    path.write_bytes(b"older")

    def fail(*_):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("diffusion.weights.save_file", fail)
    with pytest.raises(UserError, match=r"can't write .*No space left on device .*; free some space"):
        save_lora(path, adapters, ALPHA, torch.float32)
    assert path.read_bytes() == b"older"
    assert [each.name for each in tmp_path.iterdir()] == [LORA_FILE]
