"""The text encoder's files have the keys of the hub's Stable Diffusion 1.x, which every tool finds; old files load."""

import json
import pathlib

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training_runs import without_prefix
from transformers import CLIPTextModel

import config
from checkpoints import versions
from checkpoints.run_folder import RunFolder
from common.errors import UserError
from diffusion import pipeline, sampling, source, weights
from diffusion.parts import NETWORKS
from diffusion.placement import DTYPES
from diffusion.trainable import set_trainable

FILE = "text_encoder/model.safetensors"
OLD_RUN = pathlib.Path(__file__).parent.parent / "fixtures" / "runs_v0_1" / "plain"


def names_in_transformers_4(layers):
    """The names in CLIPTextModel's state_dict as transformers 4.54.1 has them."""
    modules = ["layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    modules += [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    modules = [f"encoder.layers.{layer}.{module}" for layer in range(layers) for module in modules]
    names = {f"text_model.{module}.{kind}" for module in [*modules, "final_layer_norm"] for kind in ("weight", "bias")}
    return names | {f"text_model.embeddings.{kind}_embedding.weight" for kind in ("token", "position")}


def assert_equal(tensors, wanted):
    assert tensors.keys() == wanted.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == wanted[name].dtype and torch.equal(tensor, wanted[name]), name


def save_model(parts, folder, dtype=torch.float32):
    """A pipeline folder with networks as save_network writes them."""
    parts.pipeline().save_config(folder)
    for name in ("tokenizer", "scheduler"):
        getattr(parts, name).save_pretrained(folder / name)
    for name in NETWORKS:
        weights.save_network(getattr(parts, name), folder / name, dtype)


@pytest.fixture(scope="module")
def tiny():
    return pipeline.load_parts("tiny")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_saved_text_encoder_has_the_keys_of_older_transformers(tiny, tmp_path, precision):
    weights.save_network(tiny.text_encoder, tmp_path, DTYPES[precision])
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == names_in_transformers_4(layers=2)
    wanted = {name: tensor.to(DTYPES[precision]) for name, tensor in tiny.text_encoder.state_dict().items()}
    assert_equal(without_prefix(saved), wanted)


@pytest.mark.parametrize("learning", [["unet"], ["text_encoder"]])
def test_so_it_has_in_a_version_learned_or_not(tmp_path, learning):
    parts, run = pipeline.build_tiny(), RunFolder(tmp_path)
    trainable = set_trainable(parts, learning)
    versions.save_frozen(run, parts, trainable, "fp32")
    versions.save_version(run, "v1", trainable, "fp32")
    saved = load_file(run.version("v1") / FILE)
    assert saved.keys() == names_in_transformers_4(layers=2)
    assert_equal(without_prefix(saved), parts.text_encoder.state_dict())


def test_a_text_encoder_that_came_from_such_a_file_is_saved_alike(tiny, tmp_path):
    """transformers remembers the prefix of the file that it loaded; it must not come twice."""
    save_model(tiny, tmp_path / "first")
    save_model(pipeline.load_parts(str(tmp_path / "first")), tmp_path / "second")
    assert (tmp_path / "first" / FILE).read_bytes() == (tmp_path / "second" / FILE).read_bytes()


def test_transformers_finds_every_weight(tiny, tmp_path):
    weights.save_network(tiny.text_encoder, tmp_path, torch.float32)
    loaded, info = CLIPTextModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info  # missing, unexpected and mismatched keys, errors
    assert_equal(loaded.state_dict(), tiny.text_encoder.state_dict())


def test_a_model_loads_alike_with_the_old_keys_and_the_new(tiny, tmp_path):
    save_model(tiny, tmp_path)
    new = pipeline.load_parts(str(tmp_path))
    save_file(without_prefix(load_file(tmp_path / FILE)), tmp_path / FILE, metadata={"format": "pt"})
    old = pipeline.load_parts(str(tmp_path))
    for parts in (new, old):
        assert_equal(parts.text_encoder.state_dict(), tiny.text_encoder.state_dict())
        assert weights.weights_hash(parts) == weights.weights_hash(tiny)  # of the weights, not of the file


def test_a_version_of_an_old_run_loads_with_all_weights():
    folder = OLD_RUN / "versions" / "v1"
    saved = load_file(folder / FILE)
    assert not any(name.startswith("text_model.") for name in saved)
    assert_equal(pipeline.load_parts(str(folder)).text_encoder.state_dict(), saved)


def test_mini_has_these_keys_and_the_weights_that_it_always_had():
    saved, parts = load_file(source.MINI / FILE), pipeline.load_parts("mini")
    assert saved.keys() == names_in_transformers_4(layers=3)
    assert_equal(parts.text_encoder.half().state_dict(), without_prefix(saved))
    assert weights.weights_hash(pipeline.load_parts("mini")) == "6b6adf895707e30e424965da59e53548"


# ---------------------------------------------------------------------------------------------------------------------
# The scheduler's file

# That of stable-diffusion-v1-5, which leaves prediction_type and timestep_spacing open
SD15_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


@pytest.fixture
def version(tmp_path):
    """A saved version of a model that came with SD15_SCHEDULER."""
    pipeline.build_tiny().pipeline().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "scheduler" / "scheduler_config.json").write_text(json.dumps(SD15_SCHEDULER))
    parts = pipeline.load_parts(str(tmp_path / "model"))
    run, trainable = RunFolder(tmp_path / "run"), set_trainable(parts, ["unet"])
    versions.save_frozen(run, parts, trainable, "fp32")
    versions.save_version(run, "v1", trainable, "fp32")
    return run.version("v1")


def test_a_version_holds_the_schedulers_file_as_the_model_came_with_it(version, tmp_path):
    saved = json.loads((version / "scheduler" / "scheduler_config.json").read_text())
    assert saved.pop("_diffusers_version") and saved == {
        key: value for key, value in SD15_SCHEDULER.items() if key != "_diffusers_version"
    }
    again = pipeline.load_parts(str(version)).scheduler  # as a run that is resumed reads it
    weights.save_scheduler(again, tmp_path / "again")
    second = (tmp_path / "again" / "scheduler_config.json").read_text()
    assert second == (version / "scheduler" / "scheduler_config.json").read_text()


def test_plain_diffusers_draws_the_same_picture_from_a_version(version):
    """With the samplers that it makes of the version's own scheduler."""
    parts = pipeline.load_parts(str(version))
    plain = diffusers.StableDiffusionPipeline.from_pretrained(version, safety_checker=None)
    plain.set_progress_bar_config(disable=True)
    for name, sampler in sampling.SAMPLERS.items():
        options = config.InferenceOptions(resolution="32x48", steps=5, scheduler=name)
        ours = sampling.draw_images(parts, ["a red book"], [3], options)[0].int()
        plain.scheduler = sampler.cls.from_config(plain.scheduler.config)
        latents = sampling.starting_latents(parts, 0, [3], (32, 48))
        settings = dict(width=32, height=48, num_inference_steps=5, guidance_scale=7.5, latents=latents)
        theirs = plain("a red book", output_type="np", **settings).images[0]
        assert (torch.from_numpy(theirs * 255).round().int() - ours).abs().max() <= 1, name


# ---------------------------------------------------------------------------------------------------------------------
# Weights that are not finite


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_finite_is_what_isfinite_says(dtype):
    generator = torch.Generator().manual_seed(0)
    others = [torch.zeros(0, dtype=dtype), torch.tensor([2**40]), torch.tensor(1.0)]
    for wrong in (0.0, torch.finfo(dtype).max, torch.finfo(dtype).min, float("nan"), float("inf"), float("-inf")):
        for position in ((0, 0), (3, 4), (6, 10)):
            tensor = torch.randn(7, 11, generator=generator).to(dtype)
            tensor[position] = wrong
            assert weights.all_finite([*others, tensor.T]) == bool(tensor.isfinite().all())
    assert weights.all_finite([])


@pytest.mark.parametrize(("wrong", "precision"), [(float("nan"), "fp32"), (float("inf"), "bf16"), (1e5, "fp16")])
def test_a_weight_that_is_not_finite_is_not_saved(tiny, tmp_path, wrong, precision):
    """1e5 is finite in training, and infinite in a version of half precision."""
    tensor = tiny.text_encoder.state_dict()["final_layer_norm.bias"]
    before = tensor.clone()
    tensor[3] = wrong
    try:
        match = r"^text_encoder: its weight final_layer_norm\.bias is not finite in "
        with pytest.raises(UserError, match=match) as raised:
            weights.save_network(tiny.text_encoder, tmp_path / "text_encoder", DTYPES[precision])
        if wrong == 1e5:
            weights.save_network(tiny.text_encoder, tmp_path / "text_encoder", torch.bfloat16)
    finally:
        tensor.copy_(before)
    assert "\n" not in str(raised.value) and (tmp_path / "text_encoder").exists() == (wrong == 1e5)
