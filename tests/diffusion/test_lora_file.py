"""LoRA files: what we write is what others read, what others write is read; merged weights equal the closed form."""

import copy

import pytest
import torch

from diffusion import pipeline
from diffusion.lora_file import LORA_FILE, merge_lora, save_lora
from diffusion.lora_names import adaptable
from diffusion.parts import PARTS


@pytest.fixture(scope="module")
def tiny():
    return pipeline.load_parts("tiny")


def random_adapters(parts, rank=4):
    """Adapters of everything that a LoRA can change, large enough to see."""
    generator, adapters = torch.Generator().manual_seed(7), {}
    for part, modules in adaptable(parts).items():
        for name, module in modules.items():
            rows, columns, *kernel = module.weight.shape
            down = torch.randn(rank, columns, *kernel, generator=generator) / 10
            up = torch.randn(rows, rank, *(1 for _ in kernel), generator=generator) / 10
            adapters.setdefault(part, {})[name] = (down, up)
    return adapters


def weights_of(parts):
    return {part: {k: v.clone() for k, v in getattr(parts, part).state_dict().items()} for part in PARTS}


@pytest.mark.parametrize("scale", [1.0, -0.5, 0.0])
def test_merged_weights_equal_the_closed_form(tiny, tmp_path, scale):
    parts, adapters = copy.deepcopy(tiny), random_adapters(tiny)
    save_lora(tmp_path / LORA_FILE, adapters, 2, torch.float32)
    before = weights_of(parts)
    merge_lora(parts, tmp_path / LORA_FILE, scale)
    for part, after in weights_of(parts).items():
        for key, weight in after.items():
            module = key.removesuffix(".weight")
            wanted = before[part][key]
            if key.endswith(".weight") and module in adapters[part]:
                down, up = adapters[part][module]
                change = torch.einsum("orxy,rikl->oikl", up, down) if up.dim() == 4 else up @ down
                wanted = wanted + scale * 2 / 4 * change
                assert scale == 0 or not torch.allclose(weight, before[part][key])
            torch.testing.assert_close(weight, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_diffusers_fuses_the_same_weights(tiny, tmp_path, scale):
    """Every key is used, too: diffusers names those that it does not know as unexpected, and raises none."""
    ours, theirs = copy.deepcopy(tiny), copy.deepcopy(tiny).pipeline()
    adapters = random_adapters(tiny)
    save_lora(tmp_path / LORA_FILE, adapters, 2, torch.float32)
    merge_lora(ours, tmp_path / LORA_FILE, scale)
    theirs.load_lora_weights(tmp_path, adapter_name="ours")
    for part in PARTS:
        loaded = {name for name, module in getattr(theirs, part).named_modules() if hasattr(module, "lora_A")}
        assert loaded == set(adapters[part])
    theirs.fuse_lora(lora_scale=scale)
    theirs.unload_lora_weights()
    for part in PARTS:
        torch.testing.assert_close(
            dict(getattr(ours, part).state_dict()), dict(getattr(theirs, part).state_dict()), rtol=0, atol=1e-6
        )
