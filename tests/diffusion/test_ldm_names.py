"""Names in a single file, against what is known of Stable Diffusion 1.5's, and against diffusers' own reader."""

import pytest
import torch
from diffusers.loaders import single_file_utils as diffusers_reader

from diffusion import ldm_names, sd15

COUNTS = {"unet": 686, "vae": 248, "text_encoder": 196}  # weights of Stable Diffusion 1.5
SAMPLES = {
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (320, 320),
    "model.diffusion_model.input_blocks.3.0.op.weight": (320, 320, 3, 3),
    "model.diffusion_model.middle_block.1.transformer_blocks.0.ff.net.0.proj.weight": (10240, 1280),
    "model.diffusion_model.output_blocks.2.1.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.5.2.conv.weight": (1280, 1280, 3, 3),
    "model.diffusion_model.output_blocks.11.0.skip_connection.weight": (320, 640, 1, 1),
    "model.diffusion_model.time_embed.2.bias": (1280,),
    "first_stage_model.encoder.mid.attn_1.q.weight": (512, 512, 1, 1),
    "first_stage_model.decoder.up.0.block.0.nin_shortcut.weight": (128, 256, 1, 1),
    "first_stage_model.decoder.up.1.upsample.conv.weight": (256, 256, 3, 3),
    "first_stage_model.post_quant_conv.weight": (4, 4, 1, 1),
    "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight": (768, 768),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768),
}


@pytest.fixture(scope="module")
def networks():
    with torch.device("meta"):
        text_encoder, vae, unet = sd15.build_networks()
    return {"unet": unet, "vae": vae, "text_encoder": text_encoder}


def names_of(part, network):
    config = network.config.to_dict() if part == "text_encoder" else network.config
    return {key: ldm_names.stored(part, key, config).name for key in network.state_dict()}


def test_the_whole_model_has_the_names_and_shapes_of_the_published_file(networks):
    from diffusion.single_file import ldm_tensors

    written = {}
    for part, network in networks.items():
        tensors = ldm_tensors(part, network)
        assert len(tensors) == COUNTS[part] == len(network.state_dict())
        written |= tensors
    assert len(written) == sum(COUNTS.values())
    for name, shape in SAMPLES.items():
        assert tuple(written[name].shape) == shape, name


def test_diffusers_reads_every_name_back(networks):
    """Its reader is a code of its own, from LDM to diffusers."""
    readers = {
        "unet": lambda file, network: diffusers_reader.convert_ldm_unet_checkpoint(file, network.config),
        "vae": lambda file, network: diffusers_reader.convert_ldm_vae_checkpoint(file, network.config),
        "text_encoder": lambda file, network: diffusers_reader.convert_ldm_clip_checkpoint(file),
    }
    for part, network in networks.items():
        marks = {name: torch.tensor([i]) for i, name in enumerate(names_of(part, network).values())}
        if part == "vae":  # it takes what was a 1x1 convolution apart
            marks = {name: mark.reshape(1, 1, 1, 1) if ".attn_1." in name else mark for name, mark in marks.items()}
        back = readers[part](dict(marks), network)
        back = {key.removeprefix("text_model."): int(mark) for key, mark in back.items()}
        assert back == {key: i for i, key in enumerate(names_of(part, network))}


def test_names_of_open_clip_against_diffusers():
    """2.x: query, key and value are thirds of one tensor."""
    with torch.device("meta"):
        text_encoder, _, _ = sd15.build_networks(**sd15.CHANGES_OF_SD2)
    stored = {key: ldm_names.stored("text_encoder", key, {}, open_clip=True) for key in text_encoder.state_dict()}
    names = {place.name for place in stored.values()}
    file, width = {}, text_encoder.config.hidden_size
    for i, name in enumerate(sorted(names)):
        file[name] = torch.full((3 * width, 1) if name.endswith("in_proj_weight") else (3 * width,), float(i))
        if ".in_proj_" in name:
            for third in range(3):
                file[name][third * width : (third + 1) * width] += third / 4
    back = diffusers_reader.convert_open_clip_checkpoint(text_encoder, dict(file))
    back = {key.removeprefix("text_model."): tensor for key, tensor in back.items()}
    assert back.keys() == stored.keys()
    for key, (name, third) in ((key, (place.name, place.third)) for key, place in stored.items()):
        expected = file[name] if third is None else file[name][third * width : (third + 1) * width]
        assert torch.equal(back[key], expected), key


def test_a_weight_that_the_layout_has_not():
    with pytest.raises(KeyError):
        ldm_names.stored("unet", "add_embedding.linear_1.weight", sd15.UNET)
