"""Models of other kinds, and settings that no model should have: one line each, before any weights are read."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from support import model_folders
from transformers import CLIPTextConfig, CLIPTextModel

from common.errors import UserError
from diffusion import architecture, encoding, objective, pipeline, supported

INDEX, UNET, VAE, TEXT = "model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json"
TOKENIZER, SCHEDULER = "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """tiny as a pipeline folder."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    pipeline.build_tiny().pipeline().save_pretrained(path)
    return path


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of it."""
    return model_folders.copy(whole, tmp_path / "copy")


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (INDEX, {"_class_name": "StableDiffusionXLPipeline"}, "it is a StableDiffusionXLPipeline; give a Stable Diff"),
        (INDEX, {"_class_name": "StableDiffusion3Pipeline"}, "it is a StableDiffusion3Pipeline"),
        (INDEX, {"_class_name": "FluxPipeline"}, "it is a FluxPipeline"),
        (INDEX, {"_class_name": "PixArtAlphaPipeline"}, "it is a PixArtAlphaPipeline"),
        (INDEX, {"text_encoder": ["transformers", "T5EncoderModel"]}, "its text_encoder is T5EncoderModel, not a CLIP"),
        (INDEX, {"unet": ["evil", "Evil"]}, "its unet is Evil, not a UNet2DConditionModel"),
        (INDEX, {"vae": ...}, "its vae is missing"),
        (INDEX, {"vae": 5}, r"model_index\.json: vae is 5, not \[library, class\]"),
        (UNET, {"_class_name": "FluxTransformer2DModel"}, "its denoising network is a FluxTransformer2DModel"),
        (UNET, {"time_cond_proj_dim": 256}, r"it is a latent consistency model \(LCM\)"),
        (UNET, {"addition_embed_type": "text_time"}, "it is Stable Diffusion XL or its refiner"),
        (UNET, {"addition_embed_type": "image"}, "as Kandinsky's does"),
        (UNET, {"class_embed_type": "projection"}, "as unCLIP does"),
        (UNET, {"class_embed_type": "identity"}, "as unCLIP does"),
        (UNET, {"num_class_embeds": 1000}, "also takes a class"),
        (UNET, {"encoder_hid_dim": 1024}, "projects its conditions"),
        (UNET, {"attention_type": "gated"}, "it is GLIGEN"),
        (UNET, {"in_channels": 9}, "it is an inpainting model: its UNet takes 9 channels"),
        (UNET, {"in_channels": 8}, "it is an InstructPix2Pix model"),
        (UNET, {"in_channels": 5}, "it is a depth-to-image model"),
        (UNET, {"cross_attention_dim": 2048}, "expects text embeddings of width 2048, and its text encoder makes 32"),
        (UNET, {"quantization_config": {"load_in_8bit": True}}, "the weights of its unet are quantized"),
        (VAE, {"latent_channels": 16}, "its UNet takes 4 channels and returns 4, and its autoencoder makes 16"),
        (VAE, {"scaling_factor": None}, "scaling_factor in vae/config.json is None"),
        (VAE, {"scaling_factor": "x"}, "scaling_factor in vae/config.json is 'x'"),
        (VAE, {"scaling_factor": 0}, "scaling_factor in vae/config.json is 0"),
        (VAE, {"scaling_factor": float("nan")}, "scaling_factor in vae/config.json is nan"),
        (VAE, {"scaling_factor": 1e-320}, "scaling_factor in vae/config.json is 1e-320"),
        (VAE, {"scaling_factor": 10**400}, "scaling_factor in vae/config.json is 1000"),
        (UNET, {"norm_eps": float("nan")}, "a number in unet/config.json is not finite"),
        (TEXT, {"layer_norm_eps": float("inf")}, "a number in text_encoder/config.json is not finite"),
        (VAE, {"shift_factor": 0.1}, "its autoencoder shifts the latents"),
        (VAE, {"in_channels": 1}, "not one of RGB images"),
        (TEXT, {"model_type": "t5"}, "the text encoder is of the kind t5, not CLIP's"),
        (TEXT, {"hidden_size": "x"}, "'hidden_size' expected int, got str"),
        (TEXT, {"hidden_act": "no_such"}, "there is no 'no_such'"),
    ],
)
def test_another_kind_of_model_is_one_line_that_names_it(folder, file, changes, message):
    model_folders.edit_json(folder / file, **changes)
    for read in (architecture.read_architecture, pipeline.load_parts):
        with pytest.raises(UserError, match=message) as caught:
            read(str(folder))
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize("file", [INDEX, UNET, VAE, TEXT, SCHEDULER, TOKENIZER])
@pytest.mark.parametrize("text", ["[]", "3", "{", None])
def test_a_configuration_of_the_wrong_shape_is_one_line(folder, file, text):
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    if file == TOKENIZER and text is None:
        pipeline.load_parts(str(folder))  # it needs none: tokenizer.json says all
        return
    with pytest.raises(UserError) as caught:
        pipeline.load_parts(str(folder))
    assert file.split("/")[0] in str(caught.value) and "\n" not in str(caught.value)


def test_a_vae_without_a_scaling_factor_has_that_of_stable_diffusion(folder):
    """As the first ones on the hub."""
    model_folders.edit_json(folder / VAE, scaling_factor=...)
    assert pipeline.load_parts(str(folder)).vae.config.scaling_factor == 0.18215


def test_a_pipeline_of_other_name_with_the_same_parts_loads(folder):
    model_folders.edit_json(folder / INDEX, _class_name="StableDiffusionImg2ImgPipeline")
    pipeline.load_parts(str(folder))


def test_stable_diffusion_2_loads_and_trains(folder):
    """Linear projections, heads by block, penultimate layer as the last, gelu, v-prediction, another padding."""
    parts = pipeline.build_tiny()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        changes = dict(use_linear_projection=True, attention_head_dim=[2, 4], cross_attention_dim=64)
        parts.unet = UNet2DConditionModel.from_config({**parts.unet.config, **changes, "_use_default_values": []})
        settings = parts.text_encoder.config.to_dict()
        settings |= dict(hidden_size=64, hidden_act="gelu", num_attention_heads=4, num_hidden_layers=3)
        parts.text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(settings))
    parts.pipeline().save_pretrained(folder)
    model_folders.edit_json(folder / SCHEDULER, _class_name="DDIMScheduler", prediction_type="v_prediction")
    model_folders.edit_json(folder / INDEX, scheduler=["diffusers", "DDIMScheduler"])
    model_folders.edit_json(folder / TOKENIZER, pad_token="a</w>")
    loaded = pipeline.load_parts(str(folder))
    assert loaded.noise_scheduler.config.prediction_type == "v_prediction"
    tokens = loaded.tokenizer("book", padding="max_length", return_tensors="pt").input_ids
    assert tokens.shape == (1, 77) and tokens[0, -1] == loaded.tokenizer.convert_tokens_to_ids("a</w>")
    loaded.unet.requires_grad_(True)
    text = encoding.encode_text(loaded.text_encoder, tokens)
    latents, noise = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    settings = objective.LossSettings(snr_gamma=5.0)
    objective.loss(
        loaded.unet, loaded.noise_scheduler, latents, text, noise, torch.tensor([500]), settings
    ).sum().backward()
    assert loaded.unet.conv_in.weight.grad.abs().sum() > 0


# ---------------------------------------------------------------------------------------------------------------------
# The noise schedule


@pytest.mark.parametrize(
    "entry",
    [
        ["diffusers", "DPMSolverSDEScheduler"],  # needs torchsde
        ["diffusers", "NoSuchScheduler"],
        ["diffusers", "StableDiffusionPipeline"],
        ["diffusers", "__doc__"],
        ["os", "system"],
    ],
)
def test_of_a_scheduler_that_is_not_here_the_noise_schedule_is_read(folder, entry):
    settings = dict(beta_end=0.02, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    model_folders.edit_json(folder / SCHEDULER, _class_name=entry[1], **settings)
    index = {"scheduler": entry}
    scheduler = supported.load_scheduler(folder, index)
    wanted = DDPMScheduler(beta_start=0.00085, beta_schedule="scaled_linear", **settings)
    found = DDPMScheduler.from_config(scheduler.config)
    assert type(scheduler).__name__ == "DDIMScheduler"
    assert torch.equal(found.alphas_cumprod, wanted.alphas_cumprod) and found.alphas_cumprod[-1] == 0
    assert found.config.prediction_type == "v_prediction"


def test_a_scheduler_that_is_here_stays_what_it_is(folder):
    for name in ("PNDMScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler"):
        assert type(supported.load_scheduler(folder, {"scheduler": ["diffusers", name]})).__name__ == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta_start": "x"}, "unsupported operand"),
        ({"beta_end": 2.0}, "betas are not all between 0 and 1"),
        ({"beta_end": -0.1, "beta_schedule": "linear"}, "betas are not all between 0 and 1"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas has 2 values, and num_train_timesteps is 1000"),
        ({"beta_end": 1.0}, "its betas leave no signal at the last timestep"),
        ({"beta_start": 0.0, "beta_end": 0.0}, "its betas are so small that they add no noise"),
        ({"trained_betas": [float("nan")] * 1000}, "betas are not all between 0 and 1"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0, not a whole number from 1 to 100000"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps is 1000000000, not a whole number"),  # 4 GB of betas
        ({"beta_schedule": "no_such"}, "no_such is not implemented"),
        ({"prediction_type": "flow_prediction"}, "prediction_type is 'flow_prediction'"),
    ],
)
def test_a_noise_schedule_of_another_kind_is_one_line(folder, changes, message):
    model_folders.edit_json(folder / SCHEDULER, **changes)
    with pytest.raises(UserError, match=f"scheduler: .*{message}"):
        pipeline.load_parts(str(folder))


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "NoSuchScheduler"])
def test_a_scheduler_of_another_kind_of_model_is_one_line(folder, name):
    """Flow matching, and noise by sigma; of a class that is not known not even defaults are."""
    (folder / SCHEDULER).write_text(json.dumps({"_class_name": name, "num_train_timesteps": 1000}))
    with pytest.raises(ValueError, match=f"{name} has no beta_start: it is not the noise schedule of Stable Diffusion"):
        supported.load_scheduler(folder, {"scheduler": ["diffusers", name]})


# ---------------------------------------------------------------------------------------------------------------------
# How many tokens are read


@pytest.mark.parametrize(("limit", "expected"), [(..., 77), (512, 77), (77, 77), (20, 20), (77.0, 77)])
def test_the_limit_is_the_smaller_of_tokenizer_and_text_encoder(folder, limit, expected):
    model_folders.edit_json(folder / TOKENIZER, model_max_length=limit)
    for tokenizer in (pipeline.load_tokenizer(str(folder)), pipeline.load_parts(str(folder)).tokenizer):
        assert tokenizer.model_max_length == expected
        assert len(tokenizer("a book " * 99, padding="max_length", truncation=True).input_ids) == expected


@pytest.mark.parametrize("limit", ["77", 0, -1, None])
def test_a_limit_that_is_no_number_is_one_line(folder, limit):
    model_folders.edit_json(folder / TOKENIZER, model_max_length=limit)
    if limit is None:  # transformers reads it as none
        assert pipeline.load_tokenizer(str(folder)).model_max_length == 77
        return
    with pytest.raises(UserError, match=r"tokenizer: model_max_length is .*, not a number of tokens"):
        pipeline.load_tokenizer(str(folder))


def test_a_tokenizer_of_another_model_is_one_line(folder):
    """A token beyond the text encoder's embeddings would be an IndexError in the middle of an epoch."""
    model_folders.edit_json(folder / TEXT, vocab_size=600)
    with pytest.raises(UserError, match="it has a token 694, and the text encoder knows 600"):
        pipeline.load_tokenizer(str(folder))
