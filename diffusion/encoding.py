"""Images -> latents -> images, and prompts -> text embeddings: the two inputs of the UNet.

Shapes in docstrings are Stable Diffusion 1.x's: latents (B, 4, H/8, W/8), 77 tokens. `mini` has (B, 6, H/4, W/4), 40.
The scaling factor (latent diffusion, arXiv:2112.10752, D.1) is applied here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextModel, CLIPTokenizer

from common.errors import UserError
from diffusion.parts import Parts
from diffusion.tokens import token_ids


def encode_images(vae: AutoencoderKL, pixel_values: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) in [-1, 1] -> latents float32 (B, 4, H/8, W/8), scaled to about unit std.

    noise: standard normal, shaped like the latents; it draws from the encoder's posterior.
    """
    return draw_latents(vae, *posterior(vae, pixel_values), noise)


@torch.no_grad()
def posterior(vae: AutoencoderKL, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (B, 3, H, W) in [-1, 1] -> (mean, std) of the encoder's posterior, float32 (B, 4, H/8, W/8), unscaled.

    One image at a time, here and in decode: a batch would need several times the memory, at full resolution
    more than the UNet does.
    """
    distributions = [vae.encode(image).latent_dist for image in pixel_values.to(vae.dtype).split(1)]
    mean, std = ([getattr(one, name).float() for one in distributions] for name in ("mean", "std"))
    return torch.cat(mean), torch.cat(std)


def draw_latents(vae: AutoencoderKL, mean: torch.Tensor, std: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Latents float32 (B, 4, H/8, W/8), scaled: a draw from the posterior (mean, std) by standard normal noise."""
    return (mean + std * noise) * vae.config.scaling_factor


def decode_latents(vae: AutoencoderKL, latents: torch.Tensor, tiling: bool = False) -> torch.Tensor:
    """Scaled latents (B, 4, H/8, W/8) -> images uint8 (B, H, W, 3) on the CPU. NotFinite if they are not finite.

    tiling: in overlapping tiles, for images larger than those that the autoencoder was trained on.
    """
    require_finite(latents, "the latents")
    return to_pixels(decode(vae, latents, tiling))


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: torch.Tensor, tiling: bool = False) -> torch.Tensor:
    """Scaled latents (B, 4, H/8, W/8) -> images float32 (B, 3, H, W) on the CPU, about [-1, 1]."""
    vae.use_tiling = tiling
    latents = (latents / vae.config.scaling_factor).to(vae.dtype)
    images = torch.cat([vae.decode(one, return_dict=False)[0].float().cpu() for one in latents.split(1)])
    vae.use_tiling = False  # it would change encoding, too
    return images


def to_pixels(images: torch.Tensor) -> torch.Tensor:
    """Images float (B, 3, H, W) in [-1, 1] -> uint8 (B, H, W, 3). NotFinite if they are not finite.

    The only place where computed pictures become bytes: a NaN would become 0, a black picture like any other.
    """
    require_finite(images, "the decoded picture")
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class NotFinite(UserError):
    """A picture that was computed has values that are NaN or infinite. index: which one of its batch."""

    def __init__(self, message: str, index: int):
        super().__init__(message)
        self.index = index


def require_finite(values: torch.Tensor, what: str) -> None:
    """NotFinite for the first of the batch (B, ...) with a value that is NaN or infinite. what: their name."""
    finite = values.isfinite().flatten(1).all(1).tolist()
    if not all(finite):
        raise NotFinite(f"not finite (NaN or infinity) in {what}", finite.index(False))


def latent_shape(parts: Parts, size: tuple[int, int]) -> tuple[int, int, int]:
    """(4, H/8, W/8) of the latents of one image; size: (width, height) in pixels."""
    width, height = size
    return parts.unet.config.in_channels, height // parts.factor, width // parts.factor


def encode_prompts(
    tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, prompts: Sequence[str], max_tokens: int, clip_skip: int
) -> torch.Tensor:
    """Prompts -> encoder_hidden_states (B, N * 77, C) on the text encoder's device; see tokens.py and encode_text.

    All have the same length, whatever the prompts: so may those of prompts and negative prompts go together.
    """
    input_ids = torch.tensor(token_ids(tokenizer, prompts, max_tokens), dtype=torch.int64)
    return encode_text(text_encoder, input_ids.to(text_encoder.device), clip_skip)


def encode_text(text_encoder: CLIPTextModel, input_ids: torch.Tensor, clip_skip: int = 1) -> torch.Tensor:
    """input_ids int64 (B, 77), or (B, N, 77) for N chunks -> encoder_hidden_states (B, N * 77, C).

    clip_skip: which layer's output, counted from the last, as A1111's web UI and kohya's scripts count (diffusers'
    clip_skip is one less): 1 = the last, as SD 1.x uses it. The final layer norm is applied to each.
    """
    ids = input_ids.flatten(0, -2)
    if clip_skip == 1:
        states = text_encoder(ids, return_dict=False)[0]
    else:
        layers = text_encoder(ids, output_hidden_states=True).hidden_states  # of the embeddings, then of each layer
        states = text_encoder.final_layer_norm(layers[-clip_skip])
    return states.reshape(len(input_ids), -1, states.shape[-1])


def require_clip_skip(num_layers: int, clip_skip: int) -> None:
    """UserError unless a text encoder of so many layers has the layer that --clip_skip asks for."""
    if clip_skip > num_layers:
        raise UserError(
            f"--clip_skip {clip_skip}: this model's text encoder has {num_layers} layers; give 1 to {num_layers}"
        )


def freeze_skipped_layers(text_encoder: CLIPTextModel, clip_skip: int) -> None:
    """The layers that --clip_skip leaves out are not trained: no gradient reaches them."""
    for layer in list(text_encoder.encoder.layers)[len(text_encoder.encoder.layers) + 1 - clip_skip :]:
        layer.requires_grad_(False)
