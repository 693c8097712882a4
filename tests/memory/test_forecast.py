import dataclasses
import pathlib
import sys

import pytest
import torch

import config
from bench import memory_check
from cli import checks
from common.errors import UserError
from config import TrainingOptions
from diffusion import architecture, lora, pipeline, sampling
from diffusion.lettering import build_lettering
from diffusion.parts import PARTS, eval_mode
from diffusion.placement import to_device
from diffusion.trainable import set_trainable
from diffusion.weights import base_state_dict
from memory import device_rules, forecast
from memory.live_bytes import LiveBytes

pytestmark = pytest.mark.real_forecast

BOTH = dict(train_unet=True, train_text_encoder=True)
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tiny():
    return architecture.read_architecture("tiny")


traced = {}  # one that several tests look at is made once


def trace(tiny, device="cpu", **changes):
    key = device, *sorted(changes.items())
    if key not in traced:
        traced[key] = forecast.trace(TrainingOptions(resolution="64x96", **changes), tiny, device)
    return traced[key]


def rounded(size, to):
    return -(-size // to) * to


# ---------------------------------------------------------------------------------------------------------------------
# Closed forms


@pytest.mark.slow
def test_weights_on_a_cpu_are_fp32(tiny):
    parts = pipeline.build_tiny()
    tensors = [t for name in ("vae", *PARTS) for t in getattr(parts, name).state_dict().values()]
    positions = parts.text_encoder.config.max_position_embeddings  # a buffer that is never saved: their numbers
    wanted = sum(rounded(4 * t.numel(), 64) for t in tensors) + rounded(8 * positions, 64)
    assert {sizes["weights"] for sizes in trace(tiny).values()} == {wanted}


@pytest.mark.slow
def test_weights_on_a_gpu_are_half_where_nothing_learns(tiny):
    parts = pipeline.build_tiny()
    wanted = rounded(8 * parts.text_encoder.config.max_position_embeddings, 512)
    for name in ("vae", *PARTS):
        item = 4 if name == "text_encoder" else 2  # the default: the text encoder learns
        wanted += sum(rounded(item * t.numel(), 512) for t in getattr(parts, name).state_dict().values())
    assert trace(tiny, "cuda")["training"]["weights"] == wanted


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
def test_optimizer_states(tiny, optimizer):
    """Two moments: of 4 bytes and a step count; or of a byte and an absolute maximum for each 256 (arXiv:2110.02861),
    with two tables for all, but of 4 bytes for less than 4096 numbers."""
    wanted = 0
    for p in pipeline.build_tiny().text_encoder.parameters():
        n = p.numel()
        if optimizer == "adamw":
            wanted += 2 * rounded(4 * n, 64) + 64
        elif n < 4096:
            wanted += 2 * rounded(4 * n, 64)
        else:
            wanted += 2 * rounded(n, 64) + 2 * rounded(4 * -(-n // 256), 64)
    tables = 0 if optimizer == "adamw" else 2 * 256 * 4
    assert trace(tiny, optimizer=optimizer)["training"]["optimizer"] == wanted + tables


@pytest.mark.slow
def test_gradients_are_there_from_the_second_batch_on(tiny):
    """Small pictures, so that weights and what belongs to them are most of it."""
    sizes = forecast.trace(TrainingOptions(resolution="32", batch_size=1, optimizer="adamw", **BOTH), tiny, "cpu")
    parts = pipeline.build_tiny()
    whole = sum(rounded(4 * p.numel(), 64) for name in PARTS for p in getattr(parts, name).parameters())
    assert 0.8 * whole < sizes["training"]["gradients"] <= whole  # highest is towards the end of the backward pass
    assert sizes["validation"]["gradients"] == sizes["sampling"]["gradients"] == 0
    accumulated = forecast.trace(TrainingOptions(batch_size=2, grad_acc_steps=4, **BOTH), tiny, "cpu")
    assert accumulated["training"]["gradients"] == whole  # the encoder's forward pass is highest, and they are there


@pytest.mark.slow
def test_gradients_are_never_all_there_if_each_is_used_at_once(tiny):
    sizes = forecast.trace(TrainingOptions(resolution="32", batch_size=1, fused_backward=True, **BOTH), tiny, "cpu")
    parts = pipeline.build_tiny()
    each = [4 * p.numel() for name in PARTS for p in getattr(parts, name).parameters()]
    assert max(sizes["training"].values()) and sizes["training"]["gradients"] < 0.2 * sum(each)


@pytest.mark.slow
def test_half_weights(tiny):
    """Of all networks, though --mixed_precision auto on a CPU is no: bf16 weights compute in bf16."""
    parts = pipeline.build_tiny()
    wanted = rounded(8 * parts.text_encoder.config.max_position_embeddings, 64)
    for name in ("vae", *PARTS):
        wanted += sum(rounded(2 * t.numel(), 64) for t in getattr(parts, name).state_dict().values())
    assert trace(tiny, weights_dtype="bf16", **BOTH)["training"]["weights"] == wanted


@pytest.mark.slow
def test_an_average_is_there_unless_it_is_on_the_cpu(tiny):
    """In fp32; while it stands in for the weights, they wait beside it."""
    text_encoder = sum(rounded(4 * p.numel(), 512) for p in pipeline.build_tiny().text_encoder.parameters())
    plain, average, away = (
        trace(tiny, "cuda", **words) for words in ({}, dict(ema_decay=0.999), dict(ema_decay=0.999, ema_device="cpu"))
    )
    assert average["training"]["weights"] == plain["training"]["weights"] + text_encoder
    assert sum(average["validation"].values()) >= sum(plain["validation"].values()) + 2 * text_encoder
    assert away == plain


@pytest.mark.slow
def test_with_cached_latents_the_autoencoder_is_there_for_encoding_and_previews(tiny):
    vae = sum(rounded(2 * t.numel(), 512) for t in pipeline.build_tiny().vae.state_dict().values())
    plain, cached = trace(tiny, "cuda"), trace(tiny, "cuda", cache_latents=True)
    assert list(cached) == ["encoding", "training", "validation", "sampling"]
    assert cached["encoding"]["weights"] == vae and cached["encoding"]["activations"] > 0
    for phase, less in dict(training=vae, validation=vae, sampling=0).items():
        assert cached[phase]["weights"] == plain[phase]["weights"] - less


@pytest.mark.slow
def test_with_cached_text_the_text_encoder_is_there_for_previews_alone(tiny):
    alone = dict(train_unet=True, train_text_encoder=False)
    plain, cached = trace(tiny, "cuda", **alone), trace(tiny, "cuda", cache_text=True, **alone)
    less = plain["training"]["weights"] - cached["training"]["weights"]
    weights = pipeline.build_tiny().text_encoder.state_dict().values()
    positions = 8 * tiny["text_encoder"]["max_position_embeddings"]
    assert less == sum(rounded(2 * t.numel(), 512) for t in weights) + rounded(positions, 512)
    assert plain["validation"]["weights"] - cached["validation"]["weights"] == less
    assert plain["sampling"]["weights"] == cached["sampling"]["weights"]


@pytest.mark.slow
def test_the_largest_bucket_counts(tiny):
    largest = forecast.largest_size(TrainingOptions(resolution="512x768", buckets=True))
    assert largest in {(512, 768), (768, 512), (576, 640)}
    assert forecast.largest_size(TrainingOptions(resolution="512x768")) == (512, 768)
    square, buckets = (forecast.trace(TrainingOptions(resolution="104", buckets=b), tiny, "cpu") for b in (False, True))
    assert sum(buckets["training"].values()) < sum(square["training"].values())  # 96x112
    assert buckets["sampling"] == square["sampling"]


# ---------------------------------------------------------------------------------------------------------------------
# Like a GPU


@pytest.mark.slow
def test_what_needs_less(tiny):
    """Each compared with the plain configuration, in the phase that it is about, on a GPU."""
    plain = dict(**BOTH, optimizer="adamw", grad_ckpt=False)
    totals = {phase: sum(sizes.values()) for phase, sizes in trace(tiny, "cuda", **plain).items()}

    def total(phase, **changes):
        return sum(trace(tiny, "cuda", **plain | changes)[phase].values())

    assert total("training", grad_ckpt=True) < totals["training"]
    assert total("training", batch_size=2, grad_acc_steps=2) < totals["training"]
    assert total("training", optimizer="adamw8bit") < totals["training"]
    assert total("sampling", num_samples=1) < totals["sampling"]
    assert "sampling" not in trace(tiny, "cuda", sample_every=0)


def test_adapters_alone_have_gradients_and_moments(tiny):
    """Over a base in half; moments in closed form, two in fp32 and a step counter for each weight."""
    words = dict(**BOTH, lora_rank=4, lora_dropout=0.1, optimizer="adamw", sample_every=0)
    sizes = trace(tiny, "cuda", **words)["training"]
    parts = pipeline.build_tiny()
    adapters = lora.make_trainable(parts, TrainingOptions(**words)).parameters()
    base = [t for name in ("vae", *PARTS) for t in base_state_dict(getattr(parts, name)).values()]
    positions = rounded(8 * parts.text_encoder.config.max_position_embeddings, 512)
    weights = sum(rounded(2 * t.numel(), 512) for t in base) + sum(rounded(4 * p.numel(), 512) for p in adapters)
    assert sizes["weights"] == weights + positions
    assert sizes["optimizer"] == sum(2 * rounded(4 * p.numel(), 512) + 512 for p in adapters)
    assert 0 <= sizes["gradients"] <= sum(rounded(4 * p.numel(), 512) for p in adapters)
    with pytest.raises(UserError, match="--lora_rank 99"):
        trace(tiny, "cuda", **words | {"lora_rank": 99})


def test_lettering_is_counted(tiny):
    """As a whole, in fp32, with its moments; the UNet stays frozen, and what its backward pass needs comes besides."""
    words = dict(train_text_encoder=False, train_lettering=True, optimizer="adamw", batch_size=1, num_samples=1)
    sizes, plain = trace(tiny, "cuda", **words), trace(tiny, "cuda", batch_size=1, num_samples=1)
    weights = list(build_lettering(pipeline.build_tiny()).parameters())
    assert sizes["training"]["optimizer"] == sum(2 * rounded(4 * p.numel(), 512) + 512 for p in weights)
    text_encoder = pipeline.build_tiny().text_encoder.parameters()
    half = sum(rounded(4 * p.numel(), 512) - rounded(2 * p.numel(), 512) for p in text_encoder)  # it is frozen here
    new = sum(rounded(4 * p.numel(), 512) for p in weights)
    assert sizes["sampling"]["weights"] == plain["sampling"]["weights"] - half + new


# ---------------------------------------------------------------------------------------------------------------------
# Against what is measured


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["--train_unet", "True", "--optimizer", "adamw"], ["--grad_ckpt", "False", "--batch_size", "2"]]
)
def test_forecast_of_tiny_is_what_is_measured(tiny, small_data, tmp_path, words):
    """The real script on a CPU; see bench/memory_check.py."""
    common = "--pretrained_model tiny --resolution 128x192 --max_steps 2 --steps 2 --num_samples 1 --num_workers 0"
    words = [*common.split(), "--data_root", str(small_data), "--output_dir", str(tmp_path), *words]
    options = checks.check(memory_check.parse(TrainingOptions, words)[0])
    assert forecast.forecast_memory(options, tiny, "cpu").peak == pytest.approx(memory_check.measure(words), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_sampling_phase_is_what_a_preview_takes(tiny, precision):
    words = dict(resolution="128x192", num_samples=1, steps=2, optimizer="adamw", mixed_precision=precision, **BOTH)
    options = TrainingOptions(**words)
    expected = forecast.trace(options, tiny, "cpu")["sampling"]
    parts = to_device(pipeline.build_tiny(), "cpu", precision, PARTS)
    set_trainable(parts, PARTS)
    live = LiveBytes(64, device_rules.cpu_workspace)
    with live, eval_mode(parts), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        sampling.draw_images(parts, ["A book cover"], [0], options)
    assert live.peak == pytest.approx(expected["activations"], rel=0.1)


# ---------------------------------------------------------------------------------------------------------------------
# Kept


@pytest.fixture
def traces(monkeypatch, tmp_path):
    """The options that were traced; the cache is empty."""
    traced = []

    def trace(options, architecture, device):
        traced.append((options, device))
        return {"training": {kind: 2**20 for kind in forecast.KINDS}, "sampling": {kind: 3 for kind in forecast.KINDS}}

    monkeypatch.setattr(forecast, "trace", trace)
    return traced, TrainingOptions(cache_dir=str(tmp_path))


def test_a_forecast_is_kept_by_all_that_matters(traces, tiny):
    traced, options = traces
    first = forecast.forecast_memory(options, tiny)
    assert forecast.forecast_memory(options, tiny) == first and len(traced) == 1
    for same in (dict(lr=1.0), dict(seed=3), dict(sample_every=7), dict(mixed_precision="bf16")):
        assert forecast.forecast_memory(dataclasses.replace(options, **same), tiny) == first
    assert len(traced) == 1
    for other in (dict(batch_size=2), dict(resolution="64"), dict(grad_acc_steps=2), dict(mixed_precision="no")):
        forecast.forecast_memory(dataclasses.replace(options, **other), tiny)
    assert len(traced) == 5
    forecast.forecast_memory(options, tiny, "cpu")
    forecast.forecast_memory(options, {**tiny, "unet": {**tiny["unet"], "layers_per_block": 2}})
    assert len(traced) == 7


@pytest.mark.slow
def test_the_key_has_all_code_of_ours_that_a_trace_runs(tiny):
    """Every file of the project that a function was called in, of a trace through all phases, is hashed."""
    called, previous = set(), sys.gettrace()

    def note(frame, event, arg):
        called.add(frame.f_code.co_filename)

    sys.settrace(note)
    try:
        trace(tiny, "cuda", cache_latents=True, ema_decay=0.9, buckets=True, fused_backward=True, batch_size=1)
    finally:
        sys.settrace(previous)
    paths = [pathlib.Path(name) for name in called]
    ours = {path for path in paths if path.is_relative_to(ROOT) and not path.is_relative_to(ROOT / ".venv")}
    ours -= {pathlib.Path(__file__)}
    assert {ROOT / "trainer/update.py", ROOT / "data/buckets.py", ROOT / "diffusion/ema.py"} <= ours
    assert ours <= set(forecast.code_files())


def test_a_damaged_forecast_is_made_again(traces, tiny, tmp_path):
    traced, options = traces
    first = forecast.forecast_memory(options, tiny)
    (file,) = (tmp_path / "plans").iterdir()
    for text in ("{", "[]", "{}", '{"training": 3}'):
        file.write_text(text)
        assert forecast.forecast_memory(options, tiny) == first
    assert len(traced) == 5


def test_the_sums_of_a_forecast(traces, tiny):
    made = forecast.forecast_memory(traces[1], tiny)
    assert made.peak_phase == "training"
    assert made.peak == 4 * 2**20 + forecast.CUDA_CONTEXT == sum(made.breakdown.values())
    assert made.total("sampling") == 12 + forecast.CUDA_CONTEXT


# Options that change the size of no tensor
IRRELEVANT = {
    *("data_root", "cache_dir", "test_fraction", "min_ascii", "include_desc", "summarize_desc", "summarizer"),
    *(
        "allow_extra_images",
        "allow_unpaired",
        "lora_alpha",
        "num_workers",
        "pretrained_model",
        "output_dir",
        "num_gpus",
        "seed",
        "tracker",
        "wandb_key",
        "wandb_project",
    ),
    *("wandb_entity", "upload", "steps", "scheduler", "run_id", "run_name", "num_examples", "epochs", "max_steps"),
    *("lr", "lr_text_encoder", "lr_scheduler", "warmup_steps", "weight_decay", "max_grad_norm", "caption_dropout"),
    *("huber_c", "noise_offset", "prediction_type", "zero_terminal_snr", "decorrelate_by"),
    *("lr_lettering", "letter_loss_weight"),
    *("save_every", "validate_every", "keep_versions", "save_dtype", "plan", "json", "vram_gb", "preset"),
}


def test_no_other_option_is_left_out_of_the_key():
    every = {field.name for field in dataclasses.fields(TrainingOptions)}
    assert every - config.memory_settings(TrainingOptions()).keys() == IRRELEVANT


@pytest.mark.slow
def test_stable_diffusion_is_traced_whole():
    """The model that the plan is for, at the size that is quickest: its weights are 4 bytes a trained parameter."""
    options = TrainingOptions(resolution="64", batch_size=1, num_samples=1, **BOTH)
    sizes = forecast.trace(options, architecture.read_architecture("sd15-random"), "cuda")["training"]
    trained = 859_520_964 + 123_060_480
    assert sizes["weights"] == pytest.approx(4 * trained + 2 * 83_653_863, rel=1e-3)
    assert sizes["optimizer"] == pytest.approx(trained * (2 + 8 / 256), rel=2e-3)
    assert sizes["gradients"] == pytest.approx(4 * trained, rel=0.05)
