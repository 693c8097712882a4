"""tiny: Stable Diffusion's own classes at toy size, untrained, for tests and first steps."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = """
a an and the of in with by for to is book cover title author titled written
fantasy romance mystery horror history historical science fiction poetry children adventure classics thriller young
adult night day house garden river sea king queen shadow light secret last first little great lost
"""


def build() -> tuple[CLIPTokenizer, CLIPTextModel, AutoencoderKL, UNet2DConditionModel, PNDMScheduler]:
    """(tokenizer, text_encoder, vae, unet, scheduler), in the order of parts.Parts; the same weights every time.

    About 0.25 M parameters. UNet and text encoder have random weights, the autoencoder has those of
    set_mean_colour_weights. torch's global generator is left alone.
    """
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=32,
            attention_head_dim=4,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=1,
            sample_size=64,
            scaling_factor=2.5,  # brings latents of covers to about unit std
        )
        set_mean_colour_weights(vae)
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    return tokenizer, text_encoder, vae, unet, build_scheduler()


def build_scheduler() -> PNDMScheduler:
    """The noise schedule and sampler that Stable Diffusion 1.5 was published with."""
    return PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    )


@torch.no_grad()
def set_mean_colour_weights(vae: AutoencoderKL) -> None:
    """Set weights by hand: latents 0 to 2 are the mean red, green, blue of each 8 x 8 pixels, latent 3 is their mean.

    Every layer passes channels 0 to 2 through. The group norm would divide by the image's own contrast; channels 3 and
    4, constantly +100 and -100, outweigh it by far. Channel 7 carries 0: the offset that the norm gives all channels
    is read there and subtracted. SiLU is the identity to float precision for the large values that the norm's bias
    makes.
    """
    colours, constants = [0, 1, 2], {3: 100.0, 4: -100.0}
    channels = range(8)
    for half in (vae.encoder, vae.decoder):
        for p in half.parameters():
            p.zero_()
        for i in colours:  # each pixel, or latent, unchanged
            half.conv_in.weight[i, i, 1, 1] = 1
        for i, value in constants.items():
            half.conv_in.bias[i] = value
        half.conv_norm_out.weight.fill_(100 / 2)  # the standard deviation of (0, 0, 0, 100, -100, 0, 0, 0)
        half.conv_norm_out.bias.fill_(30)
        for i in colours:
            half.conv_out.weight[i, i, 1, 1] = 1
            half.conv_out.weight[i, 7, 1, 1] = -1
    for block in vae.encoder.down_blocks[:-1]:
        for i in channels:  # the mean of 2 x 2
            block.downsamplers[0].conv.weight[i, i, :2, :2] = 1 / 4
    blur = torch.tensor([1.0, 2.0, 1.0]) / 4
    for block in vae.decoder.up_blocks[:-1]:
        for i in channels:
            if i in colours:  # upsampled to twice the size, then blurred
                block.upsamplers[0].conv.weight[i, i] = torch.outer(blur, blur)
            else:
                block.upsamplers[0].conv.weight[i, i, 1, 1] = 1
    for i in colours:
        vae.encoder.conv_out.weight[3, i, 1, 1] = 1 / 3
    vae.encoder.conv_out.weight[3, 7, 1, 1] = -1
    vae.encoder.conv_out.bias[4:] = -20  # log variance of the posterior: practically none
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
        conv.bias.zero_()


def build_tokenizer() -> CLIPTokenizer:
    """A byte-level BPE tokenizer in CLIP's format: every byte, with and without end of word, and a few whole words."""
    letters = sorted(ByteLevel.alphabet())
    vocab = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in WORDS.split():  # each word is built up from its first letter: a, au, aut, ... author</w>
        symbols = [*word[:-1], word[-1] + "</w>"]
        left = symbols[0]
        for right in symbols[1:]:
            if left + right not in vocab:
                vocab.append(left + right)
                merges.append((left, right))
            left += right
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=merges, model_max_length=77)
