import hashlib
import logging
import types
import warnings

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from support import model_folders
from transformers import CLIPTextConfig, CLIPTextModel

from checkpoints import versions
from common.errors import UserError
from diffusion import encoding, objective, pipeline, source, weights
from diffusion import pipeline as diffusion_pipeline
from diffusion.parts import NETWORKS, PARTS, enable_checkpointing, eval_mode, turn_off_dropout
from diffusion.placement import DTYPES, resolve_precision, to_device
from diffusion.trainable import set_trainable


@pytest.fixture(scope="module")
def tiny():
    return pipeline.load_parts("tiny")


def digest(module):
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in module.state_dict().values())).hexdigest()


def test_a_saved_pipeline_loads_with_the_same_weights(tiny, tmp_path):
    tiny.pipeline().save_pretrained(tmp_path / "saved")
    parts = pipeline.load_parts(str(tmp_path / "saved"))
    for name in ("vae", *PARTS):
        assert digest(getattr(parts, name)) == digest(getattr(tiny, name))
        assert not any(p.requires_grad for p in getattr(parts, name).parameters())
    assert parts.tokenizer("book cover").input_ids == tiny.tokenizer("book cover").input_ids
    assert torch.equal(parts.noise_scheduler.alphas_cumprod, tiny.noise_scheduler.alphas_cumprod)


def test_encoding_draws_from_the_posterior_with_the_noise_it_is_given(tiny):
    images = torch.linspace(-1, 1, 3 * 16 * 24).reshape(1, 3, 24, 16)
    posterior = tiny.vae.encode(images).latent_dist
    factor = tiny.vae.config.scaling_factor
    assert torch.equal(encoding.encode_images(tiny.vae, images, torch.zeros(1, 4, 3, 2)), posterior.mean * factor)
    noise = torch.full((1, 4, 3, 2), 2.0)
    wanted = (posterior.mean + 2 * (0.5 * posterior.logvar).exp()) * factor
    torch.testing.assert_close(encoding.encode_images(tiny.vae, images, noise), wanted)
    assert encoding.latent_shape(tiny, (16, 24)) == (4, 3, 2)


def test_decoding_undoes_the_scaling_and_rounds_to_bytes(tiny):
    latents = torch.randn(2, 4, 3, 2, generator=torch.Generator().manual_seed(0))
    images = encoding.decode_latents(tiny.vae, latents)
    plain = tiny.pipeline().image_processor.postprocess(
        tiny.vae.decode(latents / tiny.vae.config.scaling_factor)[0].detach(), output_type="np"
    )
    assert images.shape == (2, 24, 16, 3) and images.dtype == torch.uint8
    assert (images.double() - torch.from_numpy(plain) * 255).abs().max() <= 0.5 + 1e-4


@pytest.mark.parametrize("trained", [["unet"], ["text_encoder"], ["unet", "text_encoder"]])
def test_set_trainable_makes_just_these_trainable(trained):
    parts = pipeline.build_tiny()
    assert set_trainable(parts, trained).names == trained
    for name in ("vae", *PARTS):
        module = getattr(parts, name)
        assert module.training == (name in trained)
        assert all(p.requires_grad == (name in trained) for p in module.parameters())
    with eval_mode(parts):
        assert not parts.unet.training and not torch.is_grad_enabled()
    assert parts.unet.training == ("unet" in trained) and torch.is_grad_enabled()


def saved_bytes(parts):
    """Bytes that autograd keeps for the backward pass of a loss through text encoder and UNet."""
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    ids = parts.tokenizer("a book", padding="max_length", return_tensors="pt").input_ids
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        text = encoding.encode_text(parts.text_encoder, ids)
        out = parts.unet(torch.randn(1, 4, 12, 8), torch.tensor([5]), text, return_dict=False)[0]
    out.square().mean().backward()
    weights = {p.data_ptr() for name in PARTS for p in getattr(parts, name).parameters()}
    return sum(size for pointer, size in kept.items() if pointer not in weights)


@pytest.mark.parametrize("trained", [["text_encoder"], ["unet"], ["unet", "text_encoder"]])
def test_checkpointing_saves_memory_and_changes_no_gradient(trained):
    gradients, sizes = [], []
    for checkpointing in (False, True):
        parts = pipeline.build_tiny()
        set_trainable(parts, trained)
        if checkpointing:
            enable_checkpointing(parts, trained)
        torch.manual_seed(0)
        sizes.append(saved_bytes(parts))
        gradients.append([p.grad for name in trained for p in getattr(parts, name).parameters()])
    assert sizes[1] < 0.5 * sizes[0], sizes
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nope", "no such folder, and not a hub id"),
        ("./nope/x", "no such folder"),
        ("someone/some-model", "hf download someone/some-model --local-dir DIR"),
    ],
)
def test_sources_that_can_not_be_had(source, message):
    for load in (pipeline.load_parts, pipeline.load_tokenizer):
        with pytest.raises(UserError, match=message):
            load(source)


def test_a_folder_that_is_not_a_pipeline(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match=r"not a Stable Diffusion pipeline: it has no model_index\.json"):
        pipeline.load_parts(str(tmp_path))
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "unet": ["x", "Y"]}')
    with pytest.raises(UserError, match="its unet is Y, not a UNet2DConditionModel"):
        pipeline.load_parts(str(tmp_path))
    (tmp_path / "model_index.json").write_text("not json")
    with pytest.raises(UserError, match=r"can't load a Stable Diffusion model from .*: model_index\.json: "):
        pipeline.load_parts(str(tmp_path))


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_a_pipeline_with_a_damaged_weights_file(tiny, tmp_path, name):
    tiny.pipeline().save_pretrained(tmp_path)
    (weights,) = (tmp_path / name).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"can't load a Stable Diffusion model: .*\.safetensors is damaged or incompl"):
        pipeline.load_parts(str(tmp_path))


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_a_network_that_lacks_weights_is_refused(tiny, tmp_path, name):
    """The libraries would make the missing ones up."""
    from safetensors.torch import load_file, save_file

    tiny.pipeline().save_pretrained(tmp_path)
    (path,) = (tmp_path / name).glob("*.safetensors")
    weights = load_file(path)
    del weights[sorted(weights)[3]]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{name}: 1 weights are missing, such as "):
        pipeline.load_parts(str(tmp_path))


def set_nan(tensors):
    tensors[sorted(tensors)[0]].view(-1)[-1] = float("nan")


def set_infinity(tensors):
    tensors[sorted(tensors)[1]].view(-1)[0] = -float("inf")


def set_shape(tensors):
    tensors[sorted(tensors)[0]] = torch.zeros(3, 3)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize(
    ("change", "message"),
    [(set_nan, "is not finite"), (set_infinity, "is not finite"), (set_shape, "shape")],
)
def test_damaged_weights_are_one_line(tiny, tmp_path, name, change, message):
    getattr(tiny, name).save_pretrained(tmp_path / name)
    model_folders.edit_weights(tmp_path / model_folders.FILES[name], change)
    with source.library_errors_as_one_line("tiny"), pytest.raises((ValueError, RuntimeError), match=message):
        pipeline.load_network(tmp_path, name)


def test_half_precision_weights_are_loaded_in_fp32(tiny, tmp_path):
    weights.save_network(tiny.unet, tmp_path / "unet", torch.float16)
    loaded = pipeline.load_network(tmp_path, "unet")
    assert loaded.dtype == torch.float32 and torch.equal(loaded.conv_in.weight, tiny.unet.conv_in.weight.half().float())


def build_with_dropout():
    """tiny with dropout in both networks, in train mode."""
    parts = pipeline.build_tiny()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts.unet = UNet2DConditionModel.from_config({**parts.unet.config, "dropout": 0.3, "_use_default_values": []})
        settings = parts.text_encoder.config.to_dict() | {"attention_dropout": 0.2}
        parts.text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(settings))
    set_trainable(parts, PARTS)
    return parts


def gradients(parts, torch_seed):
    """Of the loss of one cover, with torch's global generator at torch_seed."""
    parts.unet.zero_grad(), parts.text_encoder.zero_grad()
    text = encoding.encode_text(parts.text_encoder, torch.arange(77)[None])
    latents, noise = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    torch.manual_seed(torch_seed)
    objective.loss(parts.unet, parts.noise_scheduler, latents, text, noise, torch.tensor([500])).sum().backward()
    return torch.cat([p.grad.flatten() for name in PARTS for p in getattr(parts, name).parameters()])


def test_dropout_is_off_so_that_nothing_depends_on_torchs_generator(tiny):
    parts = build_with_dropout()
    with torch.random.fork_rng(devices=[]):
        assert not torch.equal(gradients(parts, 0), gradients(parts, 1))
        assert turn_off_dropout(parts) == {"unet": 0.3, "text_encoder": 0.2}
        plain = gradients(parts, 0)
        assert torch.equal(plain, gradients(parts, 1))
        enable_checkpointing(parts, PARTS)
        assert torch.equal(plain, gradients(parts, 2))
    assert parts.unet.config.dropout == 0.3 and parts.text_encoder.config.attention_dropout == 0.2  # saved as it came
    assert turn_off_dropout(parts) == turn_off_dropout(pipeline.build_tiny()) == {}


def test_a_pipeline_leaves_an_old_scheduler_as_it_came_and_says_nothing():
    """diffusers would set steps_offset and clip_sample in the model's own scheduler, with a page of warnings."""
    parts = pipeline.build_tiny()
    parts.scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    before = dict(parts.scheduler.config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = parts.pipeline()
    assert (
        {name: parts.scheduler.config[name] for name in before} == before
        and before["steps_offset"] == 0
        and before["clip_sample"]
    )
    assert made.scheduler.config.steps_offset == 1 and made.unet is parts.unet


def test_the_hash_knows_every_weight(tiny):
    parts = pipeline.build_tiny()
    assert weights.weights_hash(parts) == weights.weights_hash(tiny)
    with torch.no_grad():
        list(parts.text_encoder.parameters())[-1][0] += 1e-6
    assert weights.weights_hash(parts) != weights.weights_hash(tiny)


def test_fp16_without_a_gpu_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert resolve_precision("auto") == "no"
    with pytest.raises(UserError, match="fp16 needs a CUDA GPU"):
        resolve_precision("fp16")


def test_what_does_not_learn_goes_to_half_precision():
    parts = to_device(pipeline.build_tiny().freeze(), torch.device("cpu"), "bf16", ["text_encoder"])
    assert (parts.unet.dtype, parts.vae.dtype, parts.text_encoder.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Saving


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_network_is_saved_in_a_precision_and_stays_as_it_was(tiny, tmp_path, name, precision):
    from safetensors.torch import load_file

    network, dtype = getattr(tiny, name), DTYPES[precision]
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    pointers = [tensor.data_ptr() for tensor in network.state_dict().values()]
    weights.save_network(network, tmp_path / name, dtype)
    assert [tensor.data_ptr() for tensor in network.state_dict().values()] == pointers
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert network.dtype == torch.float32

    (path,) = (tmp_path / name).glob("*.safetensors")
    saved = load_file(path)
    assert {tensor.dtype for tensor in saved.values() if tensor.is_floating_point()} == {dtype}
    size = sum(tensor.numel() for tensor in before.values()) * dtype.itemsize
    assert size <= path.stat().st_size < 1.2 * size + 20_000  # and a header

    loaded = type(network).from_pretrained(tmp_path / name)
    assert loaded.dtype == torch.float32
    assert loaded.state_dict().keys() == before.keys()
    for key, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, before[key].to(dtype).to(tensor.dtype)), key


def test_a_network_that_is_in_half_precision_is_saved_in_another(tmp_path):
    unet = pipeline.build_tiny().unet.to(torch.bfloat16)
    unet.register_to_config(_name_or_path="/home/me/model")  # as one that was loaded has it
    weights.save_network(unet, tmp_path, torch.float32)
    assert "/home/me" not in (tmp_path / "config.json").read_text()
    loaded = type(unet).from_pretrained(tmp_path)
    assert unet.dtype == torch.bfloat16 and loaded.dtype == torch.float32
    for a, b in zip(unet.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(a.float(), b)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_pipeline_of_saved_networks_loads_and_draws_without_a_word(tmp_path, caplog, monkeypatch, precision):
    """By StableDiffusionPipeline.from_pretrained(folder) alone."""
    import diffusers
    import transformers
    from diffusers import StableDiffusionPipeline

    parts = diffusion_pipeline.build_tiny()
    parts.pipeline().save_config(tmp_path)
    for name in ("tokenizer", "scheduler"):
        getattr(parts, name).save_pretrained(tmp_path / name)
    for name in NETWORKS:
        weights.save_network(getattr(parts, name), tmp_path / name, DTYPES[precision])
    drawing = dict(num_inference_steps=1, height=32, width=32, output_type="np")
    for library in (diffusers, transformers):  # other tests have silenced them
        logger = logging.getLogger(library.__name__)
        monkeypatch.setattr(logger, "level", logging.WARNING)
        monkeypatch.setattr(logger, "propagate", True)  # to caplog
        logger.manager._clear_cache()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*(dtype|precision|float)")
        pipeline = StableDiffusionPipeline.from_pretrained(tmp_path)
        pipeline.set_progress_bar_config(disable=True)
        image = pipeline("a book", generator=torch.Generator().manual_seed(0), **drawing).images[0]
    assert {getattr(pipeline, name).dtype for name in NETWORKS} == {torch.float32}
    assert image.shape == (32, 32, 3) and image.std() > 0
    said = [record.getMessage() for record in caplog.records if record.name.startswith(("diffusers", "transformers"))]
    assert [line for line in said if "safety checker" not in line] == []
    loaded = diffusion_pipeline.load_parts(str(tmp_path))
    again = loaded.pipeline()
    again.set_progress_bar_config(disable=True)
    assert (again("a book", generator=torch.Generator().manual_seed(0), **drawing).images[0] == image).all()


@pytest.mark.parametrize(
    ("save_dtype", "precision", "kept"),
    [
        ("no", "no", torch.float32),
        ("bf16", "bf16", torch.bfloat16),
        ("fp16", "fp16", torch.float16),
        ("no", "bf16", torch.float32),  # versions in fp32 on request
        ("fp16", "bf16", torch.float32),  # fp16 has not the range of bf16: a resumed run would compute with others
        ("bf16", "fp16", torch.float32),
        ("bf16", "no", torch.float32),  # half-precision versions of a run that computes in fp32
    ],
)
def test_untouched_parts_are_kept_so_that_a_resumed_run_computes_alike(save_dtype, precision, kept):
    kept_dtype = DTYPES[versions.frozen_dtype(types.SimpleNamespace(save_dtype=save_dtype, precision=precision))]
    assert kept_dtype == kept
    weights = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 1e-3
    first = weights.to(DTYPES[precision])
    assert torch.equal(weights.to(kept_dtype).to(DTYPES[precision]), first)


def test_mini_is_a_name_of_the_bundled_folder():
    assert source.local_folder("mini") == source.MINI
    parts = pipeline.load_parts("mini")
    assert weights.weights_hash(parts) == weights.weights_hash(pipeline.load_parts(str(source.MINI)))
    assert parts.tokenizer("a book").input_ids == pipeline.load_tokenizer("mini")("a book").input_ids
    assert encoding.latent_shape(parts, (128, 192)) == (parts.vae.config.latent_channels, 48, 32)
