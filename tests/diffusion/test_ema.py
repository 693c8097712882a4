import pytest
import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file
from support.training_runs import without_prefix

import training
from checkpoints import catalog, state
from checkpoints.run_folder import RunFolder
from common.errors import UserError
from diffusion import ema, pipeline
from diffusion.trainable import set_trainable

BOTH = ["unet", "text_encoder"]


def weights_of(parts):
    return [p.detach() for name in BOTH for p in getattr(parts, name).parameters()]


def move(parts, n):
    """As an update would: other weights after each n."""
    random = torch.Generator().manual_seed(n)
    for p in weights_of(parts):
        p.add_(torch.randn(p.shape, generator=random).to(p.dtype) * 0.1)


@pytest.mark.parametrize("decay", [0.2, 0.999])
def test_the_average_is_that_of_diffusers(decay):
    parts = pipeline.build_tiny()
    trainable = set_trainable(parts, BOTH)
    ours, theirs = ema.EMA(trainable, decay), EMAModel([p for _, p in ema.EMA(trainable, 0).pairs()], decay)
    for n in range(6):
        move(parts, n)
        ours.update(n)
        weights = [torch.nn.Parameter(p) for p in weights_of(parts)]
        theirs.step(weights)
    for (_, average), shadow in zip(ours.pairs(), theirs.shadow_params, strict=True):
        torch.testing.assert_close(average, shadow, rtol=1e-5, atol=1e-6)


def test_the_average_in_closed_form():
    """One weight of 0, 1, 2 ... after update 0, 1, 2 ...; decay 0.15: the warm-up has 0, 2/11, then the limit."""
    trainable = set_trainable(pipeline.build_tiny(), ["text_encoder"])
    average = ema.EMA(trainable, 0.15, "cpu")
    weight, mean = average.pairs()[0]
    wanted = 0.0
    for n, d in enumerate([0, 0.15, 0.15]):
        weight.data.fill_(n)
        average.update(n)
        wanted = d * wanted + (1 - d) * n
        torch.testing.assert_close(mean, torch.full_like(mean, wanted))
    slow = ema.EMA(trainable, 0.9)
    _, mean = slow.pairs()[0]
    before = mean[0, 0].item()
    weight.data.fill_(5)
    slow.update(1)
    assert mean[0, 0].item() == pytest.approx(before * 2 / 11 + 5 * 9 / 11)


def test_an_average_of_bf16_weights_is_fp32():
    """A thousandth of the way at each update, which bf16 could not go."""
    parts = pipeline.build_tiny()
    parts.unet.bfloat16()
    average = ema.EMA(set_trainable(parts, ["unet"]), 0.999)
    weight, mean = average.pairs()[0]
    mean.fill_(1)
    weight.data.fill_(2)
    for _ in range(10):
        average.update(10**6)
    torch.testing.assert_close(mean, torch.full_like(mean, 2 - 0.999**10))
    assert {mean.dtype for _, mean in average.pairs()} == {torch.float32}
    assert average.nbytes == 4 * sum(p.numel() for p in parts.unet.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_applied_puts_the_average_in_place_and_takes_it_back(dtype):
    parts = pipeline.build_tiny()
    parts.unet.to(dtype)
    average = ema.EMA(set_trainable(parts, BOTH), 0.9)
    for n in range(3):
        move(parts, n)
        average.update(n)
    before, places = [p.clone() for p in weights_of(parts)], [p.data_ptr() for p in weights_of(parts)]
    means = [mean.clone() for _, mean in average.pairs()]
    with pytest.raises(KeyError), ema.ema_weights(average):
        for p, mean in zip(weights_of(parts), means, strict=True):
            assert torch.equal(p, mean.to(p.dtype))
        raise KeyError
    assert all(torch.equal(p, b) for p, b in zip(weights_of(parts), before, strict=True))
    assert all(torch.equal(a, b) for (_, a), b in zip(average.pairs(), means, strict=True))
    assert [p.data_ptr() for p in weights_of(parts)] == places
    with ema.ema_weights(None):
        pass


WORDS = """--pretrained_model tiny --resolution 32x48 --lr_text_encoder 2e-3 --num_workers 0 --validation_rows 4
    --batch_size 5 --sample_every 0 --max_steps 3 --validate_every 1"""


def test_versions_have_the_average_and_the_state_has_both(small_data, tmp_path):
    """Three updates; the average of their weights is worked out here from three runs that stop earlier."""
    words = [*WORDS.split(), "--data_root", str(small_data), "--output_dir", str(tmp_path), "--save_dtype", "fp32"]
    words += ["--optimizer", "adamw"]
    states, file = [], "text_encoder/model.safetensors"
    assert training.main([*words, "--run_name", "plain", "--save_every", "1"]) == 0
    for version in ("v1", "v2", "v3"):
        states.append(without_prefix(load_file(tmp_path / "plain" / "versions" / version / file)))
    assert training.main([*words, "--run_name", "averaged", "--ema_decay", "0.99", "--ema_device", "cpu"]) == 0
    _, folder = state.read_state(RunFolder(tmp_path / "averaged"))
    saved = load_file(folder / "text_encoder.safetensors")
    average = load_file(folder / "text_encoder_average.safetensors")
    version = without_prefix(load_file(tmp_path / "averaged" / "versions" / "v1" / file))
    for name, weights in states[2].items():
        assert torch.equal(saved[name], weights)  # training itself goes on from the weights
        assert torch.equal(version[name], average[name])
        wanted = 3 / 12 * (2 / 11 * states[0][name] + 9 / 11 * states[1][name]) + 9 / 12 * weights
        torch.testing.assert_close(average[name], wanted, rtol=1e-5, atol=1e-7)
    assert any((saved[name] != average[name]).any() for name in saved)

    entry = catalog.read_version_index(RunFolder(tmp_path / "averaged")).versions["v1"]
    plain = catalog.read_version_index(RunFolder(tmp_path / "plain")).versions
    assert entry.validation_loss not in {entry.validation_loss for entry in plain.values()}


def test_a_damaged_average_is_named(small_data, tmp_path):
    words = [*WORDS.split(), "--data_root", str(small_data), "--output_dir", str(tmp_path)]
    assert training.main([*words, "--run_name", "run", "--ema_decay", "0.99"]) == 0
    path = state.read_state(RunFolder(tmp_path / "run"))[1] / "text_encoder_average.safetensors"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"text_encoder_average\.safetensors"):
        training.main(["--output_dir", str(tmp_path), "--run_id", "run", "--max_steps", "4"])
