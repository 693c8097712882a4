"""What updates the weights: each way against the plain one, against closed forms, and through the real script."""

import json
import math
import types

import accelerate
import bitsandbytes
import pytest
import torch
import transformers

import config
import training
from checkpoints import state
from checkpoints.run_folder import RunFolder
from cli import parser, saved_options
from common import randomness
from common.errors import UserError
from diffusion import encoding, lora, objective, pipeline
from diffusion.noise import normal
from diffusion.placement import to_device
from diffusion.trainable import set_trainable
from diffusion.weights import base_state_dict
from trainer import optimizers

BOTH = ["unet", "text_encoder"]


def make_options(**given):
    return config.TrainingOptions(train_unet=True, lr=1e-3, lr_text_encoder=2e-3, seed=3, **given)


def make(dtype="fp32", **given):
    """(parts, Optimizer) as session.start makes them, on the CPU."""
    parts = to_device(pipeline.build_tiny(), torch.device("cpu"), "no", BOTH, dtype)
    trainable = set_trainable(parts, BOTH)
    optimizer = optimizers.make(make_options(weights_dtype=dtype, **given), trainable, accelerate.Accelerator(cpu=True))
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # as torch's schedulers do
    return parts, optimizer


def learn(parts, optimizer, updates=range(3), check=None):
    """Real updates of both parts on random latents and tokens; returns the norms of their gradients."""
    norms = []
    for update in updates:
        latents = normal(0, randomness.POSTERIOR, [update, 100 + update], (4, 12, 8))
        noise = normal(0, randomness.NOISE, [update, 100 + update], (4, 12, 8))
        input_ids = torch.arange(2 * 77).reshape(2, 77) + update
        optimizer.begin(update, 1 / (1 + update))
        text = encoding.encode_text(parts.text_encoder, input_ids)
        timesteps = torch.tensor([100, 900])
        objective.loss(parts.unet, parts.noise_scheduler, latents, text, noise, timesteps).mean().backward()
        norms.append(optimizer.clip().item())
        optimizer.step()
    return norms


def weights_of(parts):
    return [p.detach() for name in BOTH for p in getattr(parts, name).parameters()]


def equal(ours, theirs):
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# Which optimizer


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adamw8bit", bitsandbytes.optim.AdamW8bit),
        ("paged_adamw8bit", bitsandbytes.optim.AdamW8bit),
        ("adamw", torch.optim.AdamW),
        ("adafactor", optimizers.Adafactor),
    ],
)
def test_each_trained_part_has_its_own_rate(name, kind):
    options = make_options(optimizer=name, weight_decay=0.03)
    parts = pipeline.build_tiny()
    optimizer = optimizers.build(options, set_trainable(parts, BOTH))
    assert type(optimizer) is kind and getattr(optimizer, "is_paged", False) == name.startswith("paged")
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 2e-3]
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.03}
    for group, part in zip(optimizer.param_groups, (parts.unet, parts.text_encoder), strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in part.parameters()]


def moments_in_bytes(name, weights):
    """What the moments of a list of weights take, in closed form."""
    total = 0
    for p in weights:
        n = p.numel()
        if name == "adamw":
            total += 2 * 4 * n + 4  # and a step counter
        elif name == "adafactor":  # rows and columns of a matrix, or a vector; the weight's own size
            total += 4 * (p.shape[0] + n // p.shape[0] if p.ndim > 1 else n) + 4
        elif n < 4096:
            total += 2 * 4 * n
        else:  # a byte each, a scale for each 256, two code books
            total += 2 * n + 2 * 4 * math.ceil(n / 256) + 2 * 4 * 256
    return total


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["adamw8bit", "paged_adamw8bit", "adamw", "adafactor"])
def test_the_moments_take_what_they_should(name, dtype):
    parts, optimizer = make(dtype, optimizer=name)
    learn(parts, optimizer, range(1))
    assert state.optimizer_nbytes(optimizer) == moments_in_bytes(name, weights_of(parts))


def test_on_a_cpu_paged_is_the_plain_8_bit_one():
    """bitsandbytes 0.50 has pages on GPUs alone."""
    (plain, plain_optimizer), (paged, paged_optimizer) = make(optimizer="adamw8bit"), make(optimizer="paged_adamw8bit")
    assert learn(plain, plain_optimizer) == learn(paged, paged_optimizer)
    assert equal(weights_of(plain), weights_of(paged))


def test_with_a_loss_scaler_adamw_lets_accelerate_see_what_it_leaves_out():
    trainable = set_trainable(pipeline.build_tiny(), BOTH)
    assert optimizers.build(make_options(optimizer="adamw"), trainable).defaults["fused"]
    assert not optimizers.build(make_options(optimizer="adamw"), trainable, scaler=object()).defaults["fused"]


# ---------------------------------------------------------------------------------------------------------------------
# Adafactor


def test_adafactor_is_the_papers_algorithm_on_matrices():
    """Algorithm 4 of arXiv:1804.04235 with absolute steps, in float64, for a convolution, a matrix and a vector."""
    random = torch.Generator().manual_seed(0)
    shapes = [(6, 5, 3, 3), (4, 7), (9,)]
    weights = [torch.nn.Parameter(torch.randn(shape, generator=random)) for shape in shapes]
    optimizer = optimizers.Adafactor([{"params": weights, "lr": 0.01}], weight_decay=0.1)
    wanted = [p.detach().double().flatten(1) if p.ndim > 1 else p.detach().double() for p in weights]
    rows, columns, vector = [0, 0, 0], [0, 0, 0], 0
    for t in (1, 2, 3):
        beta = 1 - t**-0.8
        for i, p in enumerate(weights):
            p.grad = torch.randn(p.shape, generator=random) * 10.0**-i
            grad = p.grad.double().reshape(wanted[i].shape)
            square = grad.square() + 1e-30
            if p.ndim > 1:
                rows[i] = beta * rows[i] + (1 - beta) * square.sum(1)
                columns[i] = beta * columns[i] + (1 - beta) * square.sum(0)
                second = torch.outer(rows[i], columns[i]) / rows[i].sum()
            else:
                second = vector = beta * vector + (1 - beta) * square
            update = grad / second.sqrt()
            update /= max(1, update.square().mean().sqrt().item())
            wanted[i] = wanted[i] * (1 - 0.01 * 0.1) - 0.01 * update
        optimizer.step()
    for p, w in zip(weights, wanted, strict=True):
        torch.testing.assert_close(p.detach().double(), w.reshape(p.shape), rtol=1e-5, atol=1e-6)
        assert p.grad.shape == p.shape


def test_adafactor_equals_the_librarys_on_matrices_and_works_on_any_layout():
    layouts = []
    for layout in (torch.contiguous_format, torch.channels_last):
        random = torch.Generator().manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(6, 5, 3, 3, generator=random).to(memory_format=layout))
        optimizer = optimizers.Adafactor([{"params": [weight], "lr": 0.01}], weight_decay=0)
        weight.grad = torch.randn(6, 5, 3, 3, generator=random)
        flat = torch.nn.Parameter(weight.detach().clone().flatten(1))
        flat.grad = weight.grad.flatten(1).clone()
        optimizer.step()
        transformers.Adafactor([flat], lr=0.01, scale_parameter=False, relative_step=False).step()
        assert torch.equal(weight.detach().flatten(1), flat.detach())
        layouts.append(weight.detach().contiguous())
    assert torch.equal(*layouts)


# ---------------------------------------------------------------------------------------------------------------------
# Inside the backward pass


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor"])
def test_fused_backward_without_clipping_is_bit_for_bit_the_plain_mode(name):
    given = dict(optimizer=name, max_grad_norm=1e9)
    (plain, plain_optimizer), (fused, fused_optimizer) = make(**given), make(fused_backward=True, **given)
    norms = learn(plain, plain_optimizer)
    assert learn(fused, fused_optimizer) == pytest.approx(norms, rel=1e-5)  # of the whole gradient in both
    assert equal(weights_of(plain), weights_of(fused))
    assert not equal(weights_of(fused), weights_of(pipeline.build_tiny()))


def test_fused_backward_clips_each_weights_own_gradient():
    """Gradients of constant norm in closed form: those of sum(c x) are c."""
    parts, optimizer = make(optimizer="adamw", fused_backward=True, max_grad_norm=0.5)
    first, second, *_ = parts.unet.parameters()
    optimizer.begin(0, 1)
    ((first * 3).sum() + (second * 1e-3).sum()).backward()
    norms = 3 * math.sqrt(first.numel()), 1e-3 * math.sqrt(second.numel())
    assert norms[0] > 0.5 > norms[1]
    assert optimizer.clip().item() == pytest.approx(math.hypot(*norms), rel=1e-6)
    for p, grad in ((first, 3 * 0.5 / norms[0]), (second, 1e-3)):  # the first moment is a tenth of the gradient
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.full_like(p, 0.1 * grad), rtol=1e-4, atol=0)


def test_fused_backward_never_has_two_gradients():
    parts, optimizer = make(optimizer="adamw", fused_backward=True)
    weights = [p for name in BOTH for p in getattr(parts, name).parameters()]
    alive = []
    for p in weights:  # hooks run in the order in which they were made: this one after the update
        p.register_post_accumulate_grad_hook(lambda _: alive.append(sum(p.grad is not None for p in weights)))
    learn(parts, optimizer, range(1))
    assert len(alive) > 200 and set(alive) == {0}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_weights_keep_their_memory_and_lose_their_gradients(dtype):
    parts, optimizer = make(dtype, optimizer="adamw", fused_backward=True)
    before = [(p.data_ptr(), p.dtype, p.shape) for p in weights_of(parts)]
    learn(parts, optimizer, range(1))
    assert [(p.data_ptr(), p.dtype, p.shape) for p in weights_of(parts)] == before
    assert all(p.grad is None for name in BOTH for p in getattr(parts, name).parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_that_is_not_finite_shows_in_the_norm(fused):
    parts, optimizer = make("bf16", optimizer="adamw", fused_backward=fused)
    first, second, *_ = parts.unet.parameters()
    optimizer.begin(0, 1)
    ((first * math.inf).sum() + second.sum()).backward()
    assert not math.isfinite(optimizer.clip().item())
    optimizer.step()
    optimizer.begin(1, 1)  # nothing of it is left for the next update
    second.sum().backward()
    assert optimizer.clip().item() == pytest.approx(math.sqrt(second.numel()), rel=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# bf16


def test_stochastic_rounding_is_right_in_the_mean():
    """A value at a fraction f between neighbours a distance u apart is rounded up with probability f: the mean of n
    roundings has a standard error of u sqrt(f (1 - f) / n)."""
    n = 40_000
    random = torch.Generator().manual_seed(0)
    values = torch.randn(60, generator=random) * 10.0 ** torch.arange(-30, 30)
    values = values.to(torch.float32)
    rounded = optimizers.round_stochastically(values.repeat(n, 1), random).double()
    pattern = values.view(torch.int32)
    toward_zero = (pattern & -65536).view(torch.float32).double()
    away = ((pattern & -65536) + 65536).view(torch.float32).double()
    u, f = (away - toward_zero).abs(), (pattern & 65535).double() / 65536
    assert ((rounded == toward_zero) | (rounded == away)).all()
    assert (rounded == away).any(0).sum() > 55 and (rounded == toward_zero).any(0).sum() > 55
    error = (rounded.mean(0) - values.double()).abs() / (u * (f * (1 - f) / n).sqrt())
    assert error.max() < 4.5  # of 60 normal deviates, once in 2,500 seeds
    nearest = values.bfloat16().double()
    assert ((nearest - values.double()).abs() > 50 * u * (0.25 / n) ** 0.5).sum() > 20  # which rounding to it is not


def test_what_bf16_has_stays_and_so_does_what_is_not_finite():
    random = torch.Generator().manual_seed(0)
    every = torch.arange(1 << 16, dtype=torch.int32).sub(1 << 15).to(torch.int16).view(torch.bfloat16)
    rounded = optimizers.round_stochastically(every.float(), random)
    assert torch.equal(rounded.isnan(), every.isnan())
    assert torch.equal(rounded[~every.isnan()].view(torch.int16), every[~every.isnan()].view(torch.int16))
    patterns = torch.tensor([0x7FFFFFFF, 0x7F800001, -1, 0x7FC00000], dtype=torch.int32)  # NaNs, CUDA's own first
    assert optimizers.round_stochastically(patterns.view(torch.float32).repeat(1000), random).isnan().all()


def test_updates_too_small_for_bf16_are_not_lost():
    """1e-4 of a weight of 1, whose neighbours in bf16 are 2^-7 and 2^-8 away: rounding to nearest never moves it."""
    parts, optimizer = make("bf16", optimizer="adamw", weight_decay=0.0)
    weight = next(p for p in parts.unet.parameters() if p.numel() > 4000)
    weight.data.fill_(1)
    optimizer.param_groups[0]["initial_lr"] = 1e-4
    for update in range(100):
        optimizer.begin(update, 1)
        weight.grad = torch.ones_like(weight)  # for constant gradients Adam's steps are of size lr
        optimizer.clip()
        optimizer.step()
    n = weight.numel()
    # away from 1 it goes by steps of at most 2^-8; each of the 100 updates adds a variance of at most 1e-4 x 2^-8
    standard_error = math.sqrt(100 * 1e-4 * 2**-8 / n)
    assert weight.float().mean().item() == pytest.approx(1 - 100 * 1e-4, abs=5 * standard_error)
    assert torch.tensor(1 - 1e-4).bfloat16() == 1


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "adafactor"])
def test_an_update_of_bf16_weights_is_that_of_fp32_rounded(name, fused):
    """Before the first rounding, given the same gradient: within one neighbour of the fp32 result."""
    given = dict(optimizer=name, max_grad_norm=0.01)
    parts, optimizer = make("bf16", fused_backward=fused, **given)
    exact = pipeline.build_tiny()
    trainable = set_trainable(exact, BOTH)
    for p, q in zip(weights_of(exact), weights_of(parts), strict=True):
        p.copy_(q)
    plain = optimizers.build(make_options(**given), trainable)
    weight, twin = parts.unet.conv_in.weight, exact.unet.conv_in.weight
    slope = torch.linspace(-1, 1, weight.numel()).reshape(weight.shape).bfloat16()
    optimizer.begin(0, 1)
    (weight * slope).sum().backward()
    optimizer.clip()
    optimizer.step()
    (twin * slope.float()).sum().backward()
    torch.nn.utils.clip_grad_norm_([twin], 0.01)
    plain.step()
    gap = (weight.detach().float() - twin.detach()).abs()
    assert (gap <= twin.detach().abs() * 2**-7).all()
    assert (weight.detach().float() != twin.detach()).any()  # it was rounded


def test_random_bits_are_a_function_of_seed_update_and_weight(monkeypatch):
    real = optimizers.round_stochastically

    def seeds(seed, updates, fused=False):
        """{weight's number: the generator's seed for each update}."""
        parts, optimizer = make("bf16", optimizer="adamw", fused_backward=fused)
        optimizer.seed, used, order = seed, {}, {id(p): i for i, p in enumerate(optimizer.parameters)}

        def note(values, generator):
            used.setdefault(order[id(note.weight)], []).append(generator.initial_seed())
            return real(values, generator)

        real_update = optimizer.update
        optimizer.update = lambda p, scale: (setattr(note, "weight", p), real_update(p, scale))
        monkeypatch.setattr(optimizers, "round_stochastically", note)
        learn(parts, optimizer, updates)
        return used

    whole = seeds(0, [0, 1])
    every = [number for numbers in whole.values() for number in numbers]
    assert len(every) == len(set(every)) > 400  # none is used twice
    assert {i: numbers[1:] for i, numbers in whole.items()} == seeds(0, [1])  # whatever was before
    assert seeds(0, [0, 1], fused=True) == whole  # in whatever order
    assert not set(every) & {number for numbers in seeds(1, [0]).values() for number in numbers}


# ---------------------------------------------------------------------------------------------------------------------
# Going on


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["adamw8bit", "paged_adamw8bit", "adamw", "adafactor"])
def test_moments_come_back_bit_for_bit(name, dtype, fused, tmp_path):
    """One goes on, and another with its weights and saved moments."""
    given = dict(optimizer=name, fused_backward=fused)
    parts, optimizer = make(dtype, **given)
    learn(parts, optimizer, range(2))
    torch.save(optimizer.state_dict(), tmp_path / "moments.pt")
    resumed, resumed_optimizer = make(dtype, **given)
    for p, q in zip(weights_of(resumed), weights_of(parts), strict=True):
        p.copy_(q)
    resumed_optimizer.load_state_dict(torch.load(tmp_path / "moments.pt", weights_only=True))
    before = [p.clone() for p in weights_of(parts)]
    learn(parts, optimizer, range(2, 3))
    learn(resumed, resumed_optimizer, range(2, 3))
    assert equal(weights_of(resumed), weights_of(parts)) and not equal(before, weights_of(parts))


FIXED = """--pretrained_model tiny --resolution 32x48 --train_unet --lr 1e-3 --num_workers 0 --validation_rows 4
    --save_every 2"""


def assert_same_end(whole, run):
    """State, newest version and preview of two runs are the same bytes."""
    for pattern in ("state/000000004/*", "versions/v2/*/*", "samples/*.png"):
        files = [path.relative_to(whole) for path in whole.glob(pattern)]
        assert files
        for file in files:
            assert (whole / file).read_bytes() == (run / file).read_bytes() or file.name == "position.json", file


@pytest.mark.slow
@pytest.mark.script
def test_a_resumed_run_of_the_smallest_preset_is_bit_identical(mixed_data, tmp_path, run_script):
    """Paged 8-bit AdamW inside the backward pass, weights in bf16, their average on the CPU; in buckets.

    In processes of their own, since accelerate has one precision for a process."""
    words = [*FIXED.split(), "--data_root", mixed_data, "--output_dir", tmp_path, "--sample_every", "3", "--steps", "2"]
    words += ["--num_samples", "1", "--preset", "6gb", "--ema_decay", "0.9", "--buckets"]
    whole = run_script("training", *words, "--run_name", "whole", "--max_steps", "4")
    assert whole.returncode == 0, whole.stderr
    assert "preset 6gb sets --batch_size 1 --optimizer paged_adamw8bit --fused_backward True" in whole.stderr
    assert "Paged" not in whole.stderr  # the library's own warning
    assert run_script("training", *words, "--run_name", "run", "--max_steps", "2").returncode == 0
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "preset" not in saved and (saved["weights_dtype"], saved["batch_size"]) == ("bf16", 1)
    resumed = run_script("training", "--output_dir", tmp_path, "--run_id", "run", "--max_steps", "4")
    assert resumed.returncode == 0 and "preset" not in resumed.stderr, resumed.stderr
    assert_same_end(tmp_path / "whole", tmp_path / "run")


# ---------------------------------------------------------------------------------------------------------------------
# What can go wrong


def test_a_loss_that_is_not_finite_never_reaches_the_weights(small_data, tmp_path, monkeypatch):
    """Of the third update, inside whose backward pass weights would change: what was saved before stays the newest."""
    from trainer.losses import Objective

    real, finite = Objective.training_losses, []

    def third_is_nan(self, batch, sample_indexes):
        losses = real(self, batch, sample_indexes)
        finite.append(weights_of(self.parts)[0].isfinite().all())
        return losses * (math.nan if len(finite) == 3 else 1)

    monkeypatch.setattr(Objective, "training_losses", third_is_nan)
    backwards = []
    real_backward = accelerate.Accelerator.backward
    monkeypatch.setattr(
        accelerate.Accelerator, "backward", lambda self, loss: (backwards.append(loss), real_backward(self, loss))
    )
    words = [*FIXED.split(), "--data_root", str(small_data), "--output_dir", str(tmp_path), "--run_name", "run"]
    with pytest.raises(UserError, match=r"update 3: the loss \(nan\) .* the last good version is v1"):
        training.main([*words, "--sample_every", "0", "--fused_backward", "--max_steps", "4"])
    assert len(backwards) == 2 and len(finite) == 3
    assert state.read_state(RunFolder(tmp_path / "run"))[0].step == 2


def test_a_gradient_that_is_not_finite_ends_a_fused_run_before_anything_is_saved(small_data, tmp_path, monkeypatch):
    real = accelerate.Accelerator.backward
    monkeypatch.setattr(accelerate.Accelerator, "backward", lambda self, loss: real(self, loss * math.inf))
    words = [*FIXED.split(), "--data_root", str(small_data), "--output_dir", str(tmp_path), "--run_name", "run"]
    with pytest.raises(UserError, match=r"update 1: the loss .* or its gradient is not finite"):
        training.main([*words, "--sample_every", "0", "--fused_backward", "--max_steps", "4", "--save_every", "1"])
    assert not list((tmp_path / "run" / "state").iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--fused_backward --grad_acc_steps 2", r"give --grad_acc_steps 1 \(now 2\), or --fused_backward False"),
        ("--preset 6gb --grad_acc_steps 2", r"give --grad_acc_steps 1 \(now 2\), or --fused_backward False"),
        ("--fused_backward --num_gpus 2", r"give --num_gpus 1 \(now 2\)"),
        ("--fused_backward --mixed_precision fp16", "can't use the loss scaler"),
        ("--weights_dtype bf16 --mixed_precision no", "--mixed_precision is no: give --mixed_precision bf16"),
        ("--weights_dtype bf16 --mixed_precision fp16", "--mixed_precision is fp16"),
        ("--weights_dtype fp16", "expected one of fp32, bf16"),
        ("--optimizer sgd", "expected one of adamw8bit, adamw, paged_adamw8bit, adafactor"),
        ("--ema_decay 1", "expected at most"),
        ("--ema_device cuda", "expected one of auto, cpu"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(words, message, capsys):
    with pytest.raises(UserError, match=message) as caught:
        parser.parse(config.TrainingOptions, words.split())
    assert "\n" not in str(caught.value)


def test_what_only_the_machine_can_tell_is_refused_too(monkeypatch):
    fused, bf16 = make_options(fused_backward=True), make_options(weights_dtype="bf16")
    optimizers.require_possible(fused, "no", 1), optimizers.require_possible(bf16, "bf16", 2)
    with pytest.raises(UserError, match="needs, and this GPU does not compute in bf16: give --mixed_precision no"):
        optimizers.require_possible(fused, "fp16", 1)
    with pytest.raises(UserError, match="before 2 processes could share its gradient"):
        optimizers.require_possible(fused, "no", 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(UserError, match="this GPU does not compute in bf16; give --weights_dtype fp32 --fused"):
        optimizers.require_possible(bf16, "bf16", 1)


@pytest.mark.parametrize(
    "word", ["--optimizer adamw", "--fused_backward False", "--weights_dtype fp32", "--ema_decay 0.5"]
)
def test_a_resumed_run_keeps_its_optimizer_and_precision(word, tmp_path):
    options = make_options(optimizer="adafactor", fused_backward=True, weights_dtype="bf16", ema_decay=0.9)
    (tmp_path / "config.json").write_text(json.dumps(config.to_json(options)))
    given = parser.read_command_line(config.TrainingOptions, word.split())
    with pytest.raises(UserError, match=f"{word} would change the past"):
        saved_options.refuse_changes(config.TrainingOptions, tmp_path / "config.json", given)


def test_a_resumed_run_steps_as_its_own_precision_asks():
    """A state saved with AdamW's fused kernel, in a run that goes on with fp16's loss scaler: no fused kernel there."""

    def made(scaler):
        trainable = set_trainable(pipeline.build_tiny(), BOTH)
        accelerator = types.SimpleNamespace(scaler=scaler, prepare=lambda inner: inner, device=torch.device("cpu"))
        return optimizers.make(make_options(optimizer="adamw"), trainable, accelerator)

    first, second = made(None), made(object())
    sum(p.sum() for p in first.parameters).backward()
    first.accelerated.step()
    second.load_state_dict(first.state_dict())
    assert [group["fused"] for group in first.param_groups] == [True, True]
    assert [group["fused"] for group in second.param_groups] == [False, False]
    assert len(second.state) == len(second.parameters)


# ---------------------------------------------------------------------------------------------------------------------
# Adapters


@pytest.mark.parametrize("name", ["adamw8bit", "paged_adamw8bit", "adamw", "adafactor"])
def test_adapters_learn_and_their_networks_do_not(name):
    """With each optimizer, and inside the backward pass with the very same numbers."""
    states = []
    for fused in (False, True):
        options = make_options(lora_rank=4, optimizer=name, fused_backward=fused, max_grad_norm=1e9)
        parts = pipeline.build_tiny()
        trainable = lora.make_trainable(parts, options)
        optimizer = optimizers.make(options, trainable, accelerate.Accelerator(cpu=True))
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        assert [len(group["params"]) for group in optimizer.param_groups] == [2 * 32, 2 * 8]  # down and up of each
        before = trainable.state_dict("unet") | trainable.state_dict("text_encoder")
        before = {key: tensor.clone() for key, tensor in before.items()}
        learn(parts, optimizer, updates=range(2))
        states.append(trainable.state_dict("unet") | trainable.state_dict("text_encoder"))
        assert not any(torch.equal(tensor, before[key]) for key, tensor in states[-1].items())
        for part, original in zip((parts.unet, parts.text_encoder), weights_by_part(), strict=True):
            kept = base_state_dict(part)
            assert all(torch.equal(kept[key], tensor) for key, tensor in original.items())
    assert all(torch.equal(tensor, states[1][key]) for key, tensor in states[0].items())


def weights_by_part():
    parts = pipeline.build_tiny()
    return parts.unet.state_dict(), parts.text_encoder.state_dict()
