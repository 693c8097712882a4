"""Letters that the UNet draws by a glyph page: a small network beside it, whose output is added to that of conv_in.

A glyph page is an image of the size of the cover, black, with title and author in white, in a plain font, where they
are to stand. The idea is that of glyph control (arXiv:2305.18259) and T2I-Adapter (arXiv:2302.08453), at one place: the
page is pixel-unshuffled by the autoencoder's factor, so that each latent place has the pixels below it as channels,
and goes through a few convolutions. The last of them begins at 0, as ControlNet's do (arXiv:2302.05543): at first the
UNet draws what it drew without. No layer has a bias, so a blank page adds nothing, ever: that is what the half of
classifier-free guidance without a prompt gets.

The UNet itself stays plain. A version has the network in a folder of its own, and without it loads everywhere.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config

from common import randomness
from diffusion.parts import LETTERING, Parts

HIDDEN_LAYERS = 1  # of a new one; each is as wide as conv_in's output
LARGEST = 16384  # of a setting, in a file that somebody else may have written


class LetteringModel(ModelMixin, ConfigMixin):
    """A glyph page -> what it adds to the output of the UNet's conv_in."""

    @register_to_config
    def __init__(self, *, factor: int, channels: int, hidden_channels: int, layers: int):
        """factor: pixels of a latent place's side; channels: of conv_in's output; layers: hidden ones, of
        hidden_channels each, with SiLU."""
        super().__init__()
        widths = [factor**2, *[hidden_channels] * layers, channels]
        self.convolutions = torch.nn.ModuleList(
            torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False) for inputs, outputs in itertools.pairwise(widths)
        )

    def forward(self, pages: torch.Tensor) -> torch.Tensor:
        """Pages float (B, 1, H, W), 0 = nothing, 1 = letter -> (B, channels, H / factor, W / factor)."""
        hidden = torch.nn.functional.pixel_unshuffle(pages.to(self.dtype), self.config.factor)
        *inner, last = self.convolutions
        for convolution in inner:
            hidden = torch.nn.functional.silu(convolution(hidden))
        return last(hidden)


def build_lettering(parts: Parts, seed: int = 0) -> LetteringModel:
    """A new LetteringModel that fits a model, where its UNet is, in fp32; it adds nothing yet. Its weights are a
    function of (seed, name of the layer)."""
    channels = parts.unet.conv_in.out_channels
    with torch.random.fork_rng(devices=[]), torch.device(parts.unet.device):  # torch draws weights, replaced below
        network = LetteringModel(factor=parts.factor, channels=channels, hidden_channels=channels, layers=HIDDEN_LAYERS)
    *inner, last = network.convolutions
    if not last.weight.is_meta:
        for i, convolution in enumerate(inner):
            key = randomness.key_of(f"{LETTERING}.convolutions.{i}")
            number = int(randomness.rng(seed, randomness.LETTERING_WEIGHTS, key).integers(2**63))
            weights = torch.empty(convolution.weight.shape)  # on the CPU: another device would draw other numbers
            # He et al., arXiv:1502.01852: numbers neither grow nor fade from layer to layer
            torch.nn.init.kaiming_normal_(weights, generator=torch.Generator().manual_seed(number))
            convolution.weight.data.copy_(weights)
        torch.nn.init.zeros_(last.weight)
    return network


def require_fitting(settings: Mapping[str, Any], parts: Parts) -> None:
    """ValueError unless these settings are those of a LetteringModel for this UNet and this autoencoder."""
    name = settings.get("_class_name", LetteringModel.__name__)
    if name != LetteringModel.__name__:
        raise ValueError(f"it is a {str(name)[:60]}, not a {LetteringModel.__name__}")
    lowest = {"factor": 1, "channels": 1, "hidden_channels": 1, "layers": 0}
    for setting, low in lowest.items():
        value = settings.get(setting)
        if type(value) is not int or not low <= value <= LARGEST:
            raise ValueError(f"{setting} in its config.json is {repr(value)[:20]}, not a whole number")
    for setting, value, of in (
        ("factor", parts.factor, "the autoencoder makes one latent of"),
        ("channels", parts.unet.conv_in.out_channels, "the UNet's conv_in returns"),
    ):
        if settings[setting] != value:
            what = "x".join([str(value)] * 2) + " pixels" if setting == "factor" else f"{value} channels"
            raise ValueError(f"its {setting} is {settings[setting]}, and {of} {what}: they are not of one model")


@contextlib.contextmanager
def lettering_pages(parts: Parts, pages: torch.Tensor | None) -> Iterator[None]:
    """Inside, the UNet draws with these pages, uint8 (B, 1, H, W), 255 = letter; without, if `pages` is None or if the
    model has no lettering.

    The UNet's batch is B, or 2 B with classifier-free guidance: its first half, without the prompt, gets no letters.
    """
    lettering = parts.lettering
    if pages is None or lettering is None:
        yield
        return

    def add_letters(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        added = lettering(pages.to(output.device).float() / 255).to(output.dtype)
        if len(output) == 2 * len(added):
            added = torch.cat([torch.zeros_like(added), added])
        if added.shape != output.shape:
            raise ValueError(f"pages {tuple(pages.shape)} add {tuple(added.shape)} to {tuple(output.shape)}")
        return output + added

    handle = parts.unet.conv_in.register_forward_hook(add_letters)
    try:
        yield
    finally:
        handle.remove()
