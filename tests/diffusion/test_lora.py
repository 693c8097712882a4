"""Adapters while they are trained: where they begin, which layers have one, what a version of them is."""

import dataclasses
import types

import pytest
import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from safetensors.torch import load_file

import config
from checkpoints import versions
from checkpoints.run_folder import RunFolder
from common.errors import UserError
from diffusion import lora, pipeline, sampling, sd15
from diffusion.lora_file import LORA_FILE
from diffusion.parts import PARTS, eval_mode
from diffusion.placement import to_device
from diffusion.weights import base_state_dict, networks_hash, weights_hash


def make_options(**given):
    words = dict(train_unet=True, train_text_encoder=True, lora_rank=4, lora_targets="all+conv", seed=3)
    return config.TrainingOptions(**words | given)


def make(**given):
    """(parts, their adapters) of tiny."""
    parts = pipeline.build_tiny()
    return parts, lora.make_trainable(parts, make_options(**given))


def learned(**given):
    """The same, with adapters that change something."""
    parts, trainable = make(**given)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in trainable.parameters():
            p.add_(torch.randn(p.shape, generator=generator) / 20)
    return parts, trainable


def predict(parts):
    """What the UNet makes of some noise and a prompt."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 12, 8, generator=generator).to(parts.unet.dtype)
    with eval_mode(parts):
        text = parts.text_encoder(torch.arange(2 * 77).reshape(2, 77), return_dict=False)[0]
        return parts.unet(latents, torch.tensor([100, 900]), text, return_dict=False)[0]


def test_at_first_the_pretrained_model_is_drawn():
    options = dataclasses.replace(make_options(), resolution="64", steps=2, scheduler="ddim")
    pictures = []
    for parts in (pipeline.build_tiny().freeze(), make()[0]):
        with eval_mode(parts):
            pictures.append(sampling.draw_images(parts, ["A book cover"], [0], options))
    assert torch.equal(torch.as_tensor(pictures[0]), torch.as_tensor(pictures[1]))


def test_where_adapters_begin_depends_on_the_seed_alone():
    def states(**given):
        trainable = make(**given)[1]
        return {part: trainable.state_dict(part) for part in PARTS}

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = states()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    again, attention, other = states(), states(lora_targets="attention"), states(seed=4)
    for part in PARTS:
        assert again[part].keys() == first[part].keys() >= attention[part].keys()
        for name, tensor in first[part].items():
            assert torch.equal(tensor, again[part][name])
            assert torch.equal(tensor, attention[part].get(name, tensor))  # whichever others there are
            if name.endswith("lora_B.weight"):
                assert not tensor.any()
            else:  # as PEFT and torch begin a layer: uniform, standard deviation 1/sqrt(3 inputs)
                inputs = tensor[0].numel()
                assert tensor.abs().max() <= inputs**-0.5 and not torch.equal(tensor, other[part][name])
                assert tensor.std() == pytest.approx((3 * inputs) ** -0.5, rel=0.35)
    same_shape = [t for name, t in first["unet"].items() if "to_q.lora_A" in name]
    assert not torch.equal(same_shape[0], same_shape[1])


def names_of(network, targets, part="unet"):
    return set(lora.target_layers(network, lora.TARGETS[part], targets))


def test_which_layers_have_an_adapter():
    """Stable Diffusion 1.5's: 16 transformers with two attentions, and 12 layers of its text encoder."""
    with torch.device("meta"):
        text_encoder, _, unet = sd15.build_networks()
    attention, everything, conv = (names_of(unet, targets) for targets in ("attention", "all", "all+conv"))
    assert len(attention) == 16 * 2 * 4 and len(everything - attention) == 16 * 4 and everything < conv
    blocks = [
        (name, module)
        for name, module in unet.named_modules()
        if isinstance(module, ResnetBlock2D | Downsample2D | Upsample2D)
    ]
    kernels = {
        f"{name}.{inner}"
        for name, module in blocks
        for inner, layer in module.named_modules()
        if isinstance(layer, torch.nn.Conv2d)
    }
    assert conv - everything == kernels
    assert len(names_of(text_encoder, "attention", "text_encoder")) == 12 * 4
    all_linear = {name for name, module in text_encoder.named_modules() if isinstance(module, torch.nn.Linear)}
    assert names_of(text_encoder, "all", "text_encoder") == all_linear
    assert names_of(text_encoder, "all+conv", "text_encoder") == all_linear


def test_only_adapters_are_trained():
    parts, trainable = make(train_text_encoder=False)
    assert trainable.names == ["unet"] and trainable.whole == []
    assert all(("lora_" in name) == p.requires_grad for name, p in parts.unet.named_parameters())
    assert not any(p.requires_grad for network in (parts.text_encoder, parts.vae) for p in network.parameters())
    assert parts.unet.training and not parts.text_encoder.training
    assert len(trainable.parameters()) == 2 * len(names_of(pipeline.build_tiny().unet, "all+conv"))


def test_a_rank_that_a_layer_cannot_have_is_refused():
    with pytest.raises(UserError, match=r"--lora_rank 17: .* of the unet has 16 channels .* give 16 at most"):
        make(lora_rank=17)
    make(lora_rank=16, train_text_encoder=False)
    with pytest.raises(UserError, match="of the text_encoder has 32 channels"):
        make(lora_rank=33, train_unet=False, lora_targets="all")


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_version_has_what_was_trained(tmp_path, scale):
    """The base once, under its own names; the adapters in one file, and merged when it is loaded."""
    parts, trainable = learned(lora_alpha=3.0)
    run = RunFolder(tmp_path)
    versions.save_frozen(run, parts, trainable, "fp32")
    versions.save_version(run, "v1", trainable, "fp32")
    folder = run.version("v1")
    links = {path.name: path.stat().st_nlink for path in folder.rglob("*.safetensors")}
    assert links.pop(LORA_FILE) == 1 and set(links.values()) == {2}
    assert LORA_FILE in (folder / "sha256.json").read_text()

    base = pipeline.build_tiny()
    assert weights_hash(pipeline.load_parts(str(folder), lora_scale=None)) == weights_hash(base)
    assert weights_hash(pipeline.load_parts(str(folder), lora_scale=0.0)) == weights_hash(base)
    for name, part in (("unet", parts.unet), ("text_encoder", parts.text_encoder)):
        for layer in lora.adapted_layers(part).values():
            assert layer.scaling[lora.ADAPTER] == 3 / 4, name
            layer.scaling[lora.ADAPTER] *= scale
    wanted = predict(parts)
    torch.testing.assert_close(
        predict(pipeline.load_parts(str(folder), lora_scale=scale)), wanted, rtol=1e-4, atol=1e-5
    )
    assert (predict(base) - wanted).abs().max() > 0.01


def test_the_base_is_in_half_and_the_adapters_are_not():
    parts, trainable = learned()
    before = {part: trainable.state_dict(part) for part in PARTS}
    to_device(parts, "cpu", "bf16", trainable.whole)
    assert parts.unet.dtype == parts.text_encoder.dtype == torch.bfloat16  # what samplers go by
    for part, network in trainable:
        kinds = {("lora_" in name, p.dtype) for name, p in network.named_parameters()}
        assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
        now = trainable.state_dict(part)
        assert all(torch.equal(now[name], tensor) for name, tensor in before[part].items())
    with torch.autocast("cpu", torch.bfloat16):
        assert predict(parts).isfinite().all()


def test_what_was_saved_is_restored_exactly():
    _, trainable = learned()
    _, other = make()
    for part in PARTS:
        other.load_state_dict(part, trainable.state_dict(part))
        assert all(torch.equal(t, other.state_dict(part)[name]) for name, t in trainable.state_dict(part).items())
    wrong = make(lora_rank=2, train_unet=False, lora_targets="attention")[1]
    for tensors in (trainable.state_dict("text_encoder"), {}):
        with pytest.raises(RuntimeError, match="not the adapters of this"):
            wrong.load_state_dict("text_encoder", tensors)


def test_nothing_that_overflows_is_saved(tmp_path):
    _, trainable = learned()
    with torch.no_grad():
        trainable.parameters()[0][0] = 1e6
    with pytest.raises(UserError, match=r"unet: its adapter down_blocks.* is not finite in fp16"):
        trainable.save(tmp_path, "fp16")
    trainable.save(tmp_path, "fp32")
    assert load_file(tmp_path / LORA_FILE)


def test_the_networks_own_weights_stay():
    parts, trainable = make(train_text_encoder=False)
    base = pipeline.build_tiny().unet
    kept = types.SimpleNamespace(state_dict=lambda: base_state_dict(parts.unet))
    assert networks_hash(kept) == networks_hash(base)
    assert trainable.nbytes() == 4 * sum(p.numel() for p in trainable.parameters())
