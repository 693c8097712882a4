"""Letters that the UNet draws by a glyph page: a small network beside it, at its entrance and at its exit.

A glyph page is an image of the size of the cover, black, with title and author in white, in a plain font, where they
are to stand. It is pixel-unshuffled by the autoencoder's factor, so that each latent place has the pixels below it as
channels, and it changes the UNet at two places:

    entrance  convolutions of the page are added to conv_in's output: the UNet knows where letters stand, and makes room
              for them (the idea of T2I-Adapter, arXiv:2302.08453, and of glyph control, arXiv:2305.18259, at one place)
    exit      convolutions of the page and of the features that conv_out reads are added to its output: strokes need not
              find their way through the whole UNet. Only within REACH places of a letter: the rest is the UNet's

The last convolution of both begins at 0, as ControlNet's do (arXiv:2302.05543): at first the UNet draws what it drew
without. A blank page adds nothing, ever: that is what the half of classifier-free guidance without a prompt gets.
bench/RESULTS.md compares both with the entrance alone, and with a ControlNet.

The UNet itself stays plain. A version has the network in a folder of its own, and without it loads everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch.nn.functional import max_pool2d, pixel_unshuffle, silu

from common import randomness
from diffusion.parts import Parts

HIDDEN_CHANNELS = 64  # of a new one
REACH = 4  # latent places around a letter that the exit may change: a label or a shadow behind it
LARGEST = 16384  # of a setting, in a file that somebody else may have written


class LetteringModel(ModelMixin, ConfigMixin):
    """What a glyph page adds to the UNet. Pages are float (B, 1, H, W), 0 = nothing, 1 = letter."""

    @register_to_config
    def __init__(self, *, factor: int, channels: int, latent_channels: int, hidden_channels: int):
        """factor: pixels of a latent place's side; channels: of conv_in's output and conv_out's input; latent_channels:
        of conv_out's output."""
        super().__init__()
        pixels, hidden = factor**2, hidden_channels
        self.entrance_in = convolution(pixels, hidden, bias=False)
        self.entrance_out = convolution(hidden, channels, bias=False)  # no bias: of a blank page it makes 0
        self.exit_in = convolution(channels + pixels, hidden)
        self.exit_middle = convolution(hidden, hidden)
        self.exit_out = convolution(hidden, latent_channels)

    def entrance(self, pages: torch.Tensor) -> torch.Tensor:
        """(B, channels, H / factor, W / factor), what is added to conv_in's output."""
        return self.entrance_out(silu(self.entrance_in(self.unshuffled(pages))))

    def exit(self, pages: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """(B, latent_channels, H / factor, W / factor), what is added to conv_out's output.

        features: (B, channels, H / factor, W / factor), its input.
        """
        pixels = self.unshuffled(pages)
        hidden = silu(self.exit_in(torch.cat([features.to(pixels.dtype), pixels], dim=1)))
        hidden = hidden + silu(self.exit_middle(hidden))
        return self.exit_out(hidden) * (near_letters(pages, self.config.factor, REACH) > 0)

    def unshuffled(self, pages: torch.Tensor) -> torch.Tensor:
        """(B, factor^2, H / factor, W / factor), in the precision of the weights."""
        return pixel_unshuffle(pages.to(self.dtype), self.config.factor)


def convolution(inputs: int, outputs: int, bias: bool = True) -> torch.nn.Conv2d:
    """A 3x3 convolution that keeps height and width."""
    return torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def near_letters(pages: torch.Tensor, factor: int, reach: int) -> torch.Tensor:
    """(B, 1, H / factor, W / factor): the highest value of pages (B, 1, H, W) within `reach` latent places."""
    return max_pool2d(max_pool2d(pages, factor), 2 * reach + 1, stride=1, padding=reach)


def build_lettering(parts: Parts, seed: int = 0) -> LetteringModel:
    """A new LetteringModel that fits a model, where its UNet is, in fp32; it adds nothing yet. Its weights are a
    function of (seed, name of the layer)."""
    with torch.random.fork_rng(devices=[]), torch.device(parts.unet.device):  # torch draws weights, replaced below
        network = LetteringModel(
            factor=parts.factor,
            channels=parts.unet.conv_in.out_channels,
            latent_channels=parts.unet.conv_out.out_channels,
            hidden_channels=HIDDEN_CHANNELS,
        )
    for name, p in network.named_parameters():
        if p.is_meta:
            continue
        if name.endswith("bias") or "_out." in name:
            torch.nn.init.zeros_(p)
            continue
        number = int(randomness.rng(seed, randomness.LETTERING_WEIGHTS, randomness.key_of(name)).integers(2**63))
        weights = torch.empty(p.shape)  # on the CPU: another device would draw other numbers
        # He et al., arXiv:1502.01852: numbers neither grow nor fade from layer to layer
        torch.nn.init.kaiming_normal_(weights, generator=torch.Generator().manual_seed(number))
        p.data.copy_(weights)
    return network


def require_fitting(settings: Mapping[str, Any], parts: Parts) -> None:
    """ValueError unless these settings are those of a LetteringModel for this UNet and this autoencoder."""
    name = settings.get("_class_name", LetteringModel.__name__)
    if name != LetteringModel.__name__:
        raise ValueError(f"it is a {str(name)[:60]}, not a {LetteringModel.__name__}")
    for setting in ("factor", "channels", "latent_channels", "hidden_channels"):
        value = settings.get(setting)
        if type(value) is not int or not 1 <= value <= LARGEST:
            raise ValueError(f"{setting} in its config.json is {repr(value)[:20]}, not a whole number")
    for setting, value, of in (
        ("factor", parts.factor, "the autoencoder makes one latent of"),
        ("channels", parts.unet.conv_in.out_channels, "the UNet's conv_in returns"),
        ("latent_channels", parts.unet.conv_out.out_channels, "the UNet's conv_out returns"),
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

    def pages_for(output: torch.Tensor) -> torch.Tensor:
        """The pages of the UNet's batch, float in [0, 1]."""
        shown = pages.to(output.device).float() / 255
        if len(output) == 2 * len(shown):
            shown = torch.cat([torch.zeros_like(shown), shown])
        places = (shown.shape[0], *(side // parts.factor for side in shown.shape[2:]))
        if places != (output.shape[0], *output.shape[2:]):
            raise ValueError(f"pages {tuple(pages.shape)} do not fit the UNet's {tuple(output.shape)}")
        return shown

    def enter(_module: torch.nn.Module, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + lettering.entrance(pages_for(output)).to(output.dtype)

    def leave(_module: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
        return output + lettering.exit(pages_for(output), inputs[0]).to(output.dtype)

    handles = [parts.unet.conv_in.register_forward_hook(enter), parts.unet.conv_out.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
