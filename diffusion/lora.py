"""Low-rank adaptation (LoRA, arXiv:2106.09685) while it is trained: PEFT's adapters in fp32 over a frozen model.

An adapted layer computes W x + alpha / rank * up(down(x)). `up` begins at 0, so that nothing changes at first, and
`down` uniformly, as PEFT has both. What is random is a function of (seed, layer) and (seed, sample, layer): a resumed
run, and several processes, go on as one that was left alone. lora_file.py has the trained adapters as a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer

import config
from common import randomness
from common.errors import UserError
from diffusion.lettering import build_lettering
from diffusion.lora_dropout import KeyedDropout, LayerDropout
from diffusion.lora_file import LORA_FILE, save_lora
from diffusion.parts import LETTERING, PARTS, Parts
from diffusion.placement import DTYPES
from diffusion.trainable import Trainable, set_trainable, trained_parts
from diffusion.weights import all_finite

# Ends of the names of the layers that each choice of --lora_targets adds to the one before
ATTENTION, ALL, CONVOLUTIONS = "attention", "all", "all+conv"
TARGETS = {
    "unet": {
        ATTENTION: ("to_q", "to_k", "to_v", "to_out.0"),
        ALL: ("ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
        CONVOLUTIONS: ("conv1", "conv2", "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv"),
    },
    "text_encoder": {
        ATTENTION: ("q_proj", "k_proj", "v_proj", "out_proj"),
        ALL: ("fc1", "fc2"),
        CONVOLUTIONS: (),
    },
}
ADAPTER = "default"  # PEFT's name of ours, in the names of its parameters


def make_trainable(parts: Parts, options: config.TrainingOptions) -> Trainable:
    """Make what the options ask for trainable, and nothing else: whole parts, or with --lora_rank adapters in them.

    Lettering is always trained as a whole; a model that has none gets a new one. UserError if a layer is too small for
    --lora_rank.
    """
    names = trained_parts(options)
    if LETTERING in names and parts.lettering is None:
        parts.lettering = build_lettering(parts, options.seed)
    return add_adapters(parts, names, options) if options.lora_rank else set_trainable(parts, names)


def add_adapters(parts: Parts, names: Sequence[str], options: config.TrainingOptions) -> AdapterTrainable:
    """Put an adapter into each target layer of the named ones of PARTS, make lettering trainable if it is named, too,
    and freeze all else. UserError as make_trainable."""
    rank, alpha = options.lora_rank, lora_alpha(options)
    adapted = [name for name in names if name in PARTS]
    layers = {name: target_layers(getattr(parts, name), TARGETS[name], options.lora_targets) for name in adapted}
    require_rank_fits(layers, rank)

    for name, network in parts.networks.items():
        network.requires_grad_(name == LETTERING and name in names).train(name in names)
    dropout = KeyedDropout(options.lora_dropout, options.seed)
    for part, targets in layers.items():
        network = getattr(parts, part)
        with torch.random.fork_rng(devices=[]):  # PEFT draws initial weights, which begin() replaces
            inject_adapter_in_model(
                LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights=True), network
            )
        for name, layer in adapted_layers(network).items():
            # Or an input in half precision is copied to fp32, then back by autocast, and kept for the backward pass
            layer.cast_input_dtype_enabled = False
            layer.requires_grad_(False)
            for adapter in (layer.lora_A, layer.lora_B):
                adapter.requires_grad_(True)
            begin(layer, options.seed, f"{part}.{name}")
            if dropout.p:
                layer.lora_dropout[ADAPTER] = LayerDropout(dropout, f"{part}.{name}")
        network.train()
    return AdapterTrainable({name: getattr(parts, name) for name in names}, dropout, alpha=alpha)


def lora_alpha(options: config.TrainingOptions) -> float:
    """--lora_alpha, or the rank, with which the adapter's output counts as it is."""
    return float(options.lora_alpha or options.lora_rank)


def target_layers(
    network: torch.nn.Module, ends: Mapping[str, Sequence[str]], targets: str
) -> dict[str, torch.nn.Module]:
    """{name: layer} of a network that --lora_targets means, in the network's order. ends: of TARGETS."""
    chosen = [end for choice in list(ends)[: list(ends).index(targets) + 1] for end in ends[choice]]
    return {
        name: module
        for name, module in network.named_modules()
        if any(f".{name}".endswith(f".{end}") for end in chosen)
    }


def require_rank_fits(layers: Mapping[str, Mapping[str, torch.nn.Module]], rank: int) -> None:
    """UserError if the rank is larger than the rank that a change of the smallest layer can have.

    layers: {part: {name: layer}}. That is the smaller number of its inputs and outputs (channels of a convolution).
    """
    sides = {
        (part, name): min(layer.weight.shape[:2]) for part, found in layers.items() for name, layer in found.items()
    }
    part, name = smallest = min(sides, key=sides.__getitem__)
    if rank > sides[smallest]:
        raise UserError(
            f"--lora_rank {rank}: {name} of the {part} has {sides[smallest]} channels at its smaller side; give "
            f"{sides[smallest]} at most"
        )


def adapted_layers(network: torch.nn.Module) -> dict[str, LoraLayer]:
    """{name: layer} of the layers that have an adapter."""
    return {name: module for name, module in network.named_modules() if isinstance(module, LoraLayer)}


def begin(layer: LoraLayer, seed: int, name: str) -> None:
    """The layer's initial adapter: `down` uniform in +-1/sqrt(inputs), as torch and PEFT begin a layer, `up` 0."""
    down, up = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
    if not down.is_meta:
        number = int(randomness.rng(seed, randomness.LORA_WEIGHTS, randomness.key_of(name)).integers(2**63))
        torch.nn.init.kaiming_uniform_(down, a=math.sqrt(5), generator=torch.Generator().manual_seed(number))
        torch.nn.init.zeros_(up)


# ---------------------------------------------------------------------------------------------------------------------
# What training works with


@dataclass(frozen=True, kw_only=True)
class AdapterTrainable(Trainable):
    """The adapters of the trained parts, which are frozen themselves; and lettering, as a whole.

    Names of parameters are those of PEFT's own files: to_q.lora_A.weight (down), to_q.lora_B.weight (up).
    """

    alpha: float

    @property
    def whole(self) -> list[str]:
        return [name for name in self.names if name == LETTERING]

    def named_parameters(self) -> dict[str, dict[str, torch.nn.Parameter]]:
        return {
            part: {name.replace(f".{ADAPTER}.", "."): p for name, p in network.named_parameters() if p.requires_grad}
            for part, network in self
        }

    def state_dict(self, part: str) -> dict[str, torch.Tensor]:
        return {name: p.detach().contiguous() for name, p in self.named_parameters()[part].items()}

    @torch.no_grad()
    def load_state_dict(self, part: str, tensors: dict[str, torch.Tensor]) -> None:
        weights = self.named_parameters()[part]
        if {name: p.shape for name, p in weights.items()} != {name: each.shape for name, each in tensors.items()}:
            raise RuntimeError(f"these are not the adapters of this {part}: other layers, or another --lora_rank")
        for name, p in weights.items():
            p.copy_(tensors[name])

    def settings(self, part: str) -> dict[str, Any]:
        return super().settings(part) if part in self.whole else {"lora_alpha": self.alpha}

    def save(self, folder: Path, dtype: str) -> None:
        weights = {part: self.state_dict(part) for part in self.names if part not in self.whole}
        AdapterWeights(weights, self.alpha, {part: self.networks[part] for part in self.whole}).save(folder, dtype)


@dataclass(frozen=True)
class AdapterWeights:
    """Adapters without their networks, as a training state has them: {part: {name of a parameter: weights}}; and the
    networks that were trained as a whole beside them, {part: network}."""

    weights: dict[str, dict[str, torch.Tensor]]
    alpha: float
    whole: dict[str, torch.nn.Module]

    def save(self, folder: Path, dtype: str) -> None:
        """Write LORA_FILE, and the networks, into a version's folder; see Trainable.save."""
        Trainable(self.whole).save(folder, dtype)
        adapters = {}
        for part, tensors in self.weights.items():
            for name, tensor in tensors.items():
                if not all_finite([tensor.to(DTYPES[dtype])]):
                    raise UserError(
                        f"{part}: its adapter {name} is not finite in {dtype}, and not saved: lower the learning rate "
                        "if training has diverged, else give --save_dtype fp32"
                    )
            modules = [name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")]
            adapters[part] = {
                name: (tensors[f"{name}.lora_A.weight"], tensors[f"{name}.lora_B.weight"]) for name in modules
            }
        save_lora(folder / LORA_FILE, adapters, self.alpha, DTYPES[dtype], {})
