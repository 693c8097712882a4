"""Where the parts of Stable Diffusion come from, which of them learn, and the way between images and latents.

A model is always the five parts that StableDiffusionPipeline holds. `load_parts` takes them from a hub id, a local
folder (a saved version of a run is one) or builds `tiny`: the same classes at toy size with random weights.
"""

from __future__ import annotations

import contextlib
import pathlib
from dataclasses import dataclass

import torch

from config import UserError

PARTS = ("unet", "text_encoder")  # what can learn; the autoencoder and the tokenizer always stay as they are


@dataclass
class Parts:
    """Tokenizer and networks of one Stable Diffusion 1.x model, with the schedule it was trained on."""

    tokenizer: object  # transformers.CLIPTokenizer
    text_encoder: torch.nn.Module  # CLIPTextModel: input_ids (B, 77) -> (B, 77, C)
    vae: torch.nn.Module  # AutoencoderKL: images (B, 3, H, W) in [-1, 1] <-> latents (B, 4, H/8, W/8)
    unet: torch.nn.Module  # UNet2DConditionModel
    scheduler: object  # the sampler that the model came with; versions are saved with it

    @property
    def noise_scheduler(self):
        """The forward process of the same schedule, a DDPMScheduler: alphas_cumprod (1000,), prediction_type."""
        from diffusers import DDPMScheduler

        return DDPMScheduler.from_config(self.scheduler.config)

    def pipeline(self):
        """A StableDiffusionPipeline around these very parts (nothing is copied); no safety checker."""
        from diffusers import StableDiffusionPipeline

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.tokenizer,
            unet=self.unet,
            scheduler=self.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )


# ---------------------------------------------------------------------------------------------------------------------
# Loading


def load_parts(source):
    """The parts of `source`: 'tiny', a pipeline folder or a hub id; fp32, on the CPU, all frozen, in eval mode.

    UserError if it can't be had, with what was tried and what to do instead.
    """
    quiet_libraries()
    if source == "tiny":
        return freeze(build_tiny())

    from diffusers import StableDiffusionPipeline

    folder = local_folder(source)
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            source if folder is None else folder,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            use_safetensors=True,
            dtype=torch.float32,
            local_files_only=folder is not None,
        )
        tokenizer = require_vocabulary(pipe.tokenizer)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as problem:
        raise UserError(cannot_load(source, folder, problem)) from None
    return freeze(Parts(tokenizer, pipe.text_encoder, pipe.vae, pipe.unet, pipe.scheduler))


def load_tokenizer(source):
    """The CLIPTokenizer of `source` alone, without the networks. UserError if it can't be had."""
    if source == "tiny":
        return build_tiny_tokenizer()

    from transformers import CLIPTokenizer

    quiet_libraries()
    folder = local_folder(source)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(
            source if folder is None else folder, subfolder="tokenizer", local_files_only=folder is not None
        )
        return require_vocabulary(tokenizer)
    except (OSError, ValueError, TypeError, KeyError) as problem:
        raise UserError(cannot_load(source, folder, problem)) from None


def require_vocabulary(tokenizer):
    """The tokenizer, if it has one; transformers makes an empty one where there are no files. ValueError."""
    if len(tokenizer) < 256:
        raise ValueError("there is no tokenizer/vocab.json or tokenizer.json")
    return tokenizer


def token_counter(tokenizer):
    """A function text -> its number of tokens, the start and end tokens included."""
    return lambda text: len(tokenizer(text).input_ids)


def local_folder(source):
    """The folder that `source` names, or None if it is a hub id. UserError if it is a folder but not a pipeline."""
    folder = pathlib.Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "model_index.json").is_file():
            raise UserError(
                f"{folder} is not a Stable Diffusion pipeline: it has no model_index.json; "
                "give the folder that holds unet/, vae/, text_encoder/ and tokenizer/"
            )
        return folder
    if folder.exists() or source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UserError(f"--pretrained_model {source}: no such folder, and not a hub id such as owner/name")
    return None


def cannot_load(source, folder, problem):
    reason = " ".join(str(problem).split())[:300]
    if folder is not None:
        return f"can't load a Stable Diffusion pipeline with safetensors weights from {folder}: {reason}"
    return (
        f"can't get '{source}': it is no folder here, not in the Hugging Face cache, and the hub said: {reason} -- "
        f"on a machine with internet run `hf download {source} --local-dir DIR`, bring DIR here and give "
        "--pretrained_model DIR; or try things out with --pretrained_model tiny"
    )


def quiet_libraries():
    """The libraries' own progress bars and notes off: our scripts say what is going on."""
    import diffusers
    import huggingface_hub
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    huggingface_hub.utils.logging.set_verbosity_error()


def freeze(parts, learning=()):
    """Let just the named parts learn (see PARTS): they get requires_grad and train mode, all others neither."""
    for name in ("vae", *PARTS):
        learns = name in learning
        getattr(parts, name).requires_grad_(learns).train(learns)
    return parts


@contextlib.contextmanager
def evaluating(parts):
    """Inside: no gradients, and every part in eval mode; after: train mode again for those that learn."""
    modes = {name: getattr(parts, name).training for name in PARTS}
    for name in modes:
        getattr(parts, name).eval()
    with torch.no_grad():
        yield
    for name, training in modes.items():
        getattr(parts, name).train(training)


def enable_checkpointing(parts, learning):
    """Gradient checkpointing wherever a backward pass goes through.

    The UNet needs it even when it is frozen, since the text encoder's gradient comes through it. diffusers checkpoints
    whenever gradients are on; transformers only in train mode, which a learning text encoder is in (see freeze).
    """
    parts.unet.enable_gradient_checkpointing()
    if "text_encoder" in learning:
        parts.text_encoder.activation_checkpointing_enable({"use_reentrant": False})


def pick_precision(wish):
    """'no', 'bf16' or 'fp16' for --mixed_precision: auto is bf16 where the GPU computes in it, else fp16."""
    if wish != "auto":
        if wish == "fp16" and not torch.cuda.is_available():
            raise UserError("--mixed_precision fp16 needs a CUDA GPU: leave it out, or use bf16 or no")
        return wish
    if not torch.cuda.is_available():
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def place(parts, device, precision, learning=()):
    """Move everything to the device; what does not learn goes to half precision if `precision` says so."""
    half = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for name in ("vae", *PARTS):
        getattr(parts, name).to(device, torch.float32 if name in learning else half)
    return parts


# ---------------------------------------------------------------------------------------------------------------------
# Images <-> latents. The scaling factor (latent diffusion, arXiv:2112.10752, D.1) lives here and nowhere else.


@torch.no_grad()
def encode_images(vae, pixel_values, noise):
    """Images (B, 3, H, W) in [-1, 1] -> latents float32 (B, 4, H/8, W/8), scaled to about unit std.

    noise: standard normal, shaped like the latents; it draws from the encoder's posterior.
    """
    posterior = vae.encode(pixel_values.to(vae.dtype)).latent_dist
    latents = posterior.mean.float() + posterior.std.float() * noise
    return latents * vae.config.scaling_factor


@torch.no_grad()
def decode_latents(vae, latents):
    """Latents (B, 4, H/8, W/8) -> images uint8 (B, H, W, 3) on the CPU."""
    images = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0].float()
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()


def latent_shape(parts, size):
    """(4, H/8, W/8) for a (width, height) in pixels."""
    width, height = size
    factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)
    return parts.unet.config.in_channels, height // factor, width // factor


def encode_text(text_encoder, input_ids):
    """input_ids int64 (B, 77) -> encoder_hidden_states (B, 77, C): the last hidden state, as SD 1.x uses it."""
    return text_encoder(input_ids, return_dict=False)[0]


# ---------------------------------------------------------------------------------------------------------------------
# tiny: Stable Diffusion's own classes at toy size, for tests and first steps. It has learned nothing.

TINY_WORDS = """
a an and the of in with by for to is book cover title author titled written
fantasy romance mystery horror history historical science fiction poetry children adventure classics thriller young
adult night day house garden river sea king queen shadow light secret last first little great lost
"""


def build_tiny():
    """Parts of `tiny`, the same weights every time; about 0.25 M parameters; leaves torch's global generator alone.

    UNet and text encoder have random weights, the autoencoder has those of see_mean_colours.
    """
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = build_tiny_tokenizer()
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
            scaling_factor=2.5,  # makes latents of covers have about unit std
        )
        see_mean_colours(vae)
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
    scheduler = PNDMScheduler(  # as Stable Diffusion 1.5 has it
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return Parts(tokenizer, text_encoder, vae, unet, scheduler)


@torch.no_grad()
def see_mean_colours(vae):
    """Weights by hand: latents 0 to 2 are the mean red, green and blue of each 8 x 8 pixels, latent 3 their mean.

    Every layer passes channels 0 to 2 on. The group norm would divide by the picture's own contrast; channels 3 and 4,
    constantly +100 and -100, outweigh it by far. Channel 7 is 0: what a picture adds to all channels alike is found
    there and subtracted. SiLU is the identity to float precision for the large values that the norm's bias makes.
    """
    colours, ends = [0, 1, 2], {3: 100.0, 4: -100.0}
    passing = list(range(8))
    for part in (vae.encoder, vae.decoder):
        for p in part.parameters():
            p.zero_()
        for i in colours:  # a pixel, or a latent, as it is
            part.conv_in.weight[i, i, 1, 1] = 1
        for i, value in ends.items():
            part.conv_in.bias[i] = value
        part.conv_norm_out.weight.fill_(100 / 2)  # the deviation of (100, -100, 0, 0, 0, 0, 0, 0)
        part.conv_norm_out.bias.fill_(30)
        for i in colours:
            part.conv_out.weight[i, i, 1, 1] = 1
            part.conv_out.weight[i, 7, 1, 1] = -1
    for block in vae.encoder.down_blocks[:-1]:
        for i in passing:  # the mean of 2 x 2
            block.downsamplers[0].conv.weight[i, i, :2, :2] = 1 / 4
    soft = torch.tensor([1.0, 2.0, 1.0]) / 4
    for block in vae.decoder.up_blocks[:-1]:
        for i in passing:
            if i in colours:  # doubled, then softened
                block.upsamplers[0].conv.weight[i, i] = torch.outer(soft, soft)
            else:
                block.upsamplers[0].conv.weight[i, i, 1, 1] = 1
    for i in colours:
        vae.encoder.conv_out.weight[3, i, 1, 1] = 1 / 3
    vae.encoder.conv_out.weight[3, 7, 1, 1] = -1
    vae.encoder.conv_out.bias[4:] = -20  # log variance of the posterior: as good as none
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[:, :, None, None])
        conv.bias.zero_()


def build_tiny_tokenizer():
    """A byte-level BPE tokenizer in CLIP's format: every byte, with and without end of word, and a few whole words."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    vocab = letters + [letter + "</w>" for letter in letters]
    merges = []
    for word in TINY_WORDS.split():  # each word is built up from its first letter: a, au, aut, ... author</w>
        symbols = [*word[:-1], word[-1] + "</w>"]
        left = symbols[0]
        for right in symbols[1:]:
            if left + right not in vocab:
                vocab.append(left + right)
                merges.append((left, right))
            left += right
    vocab += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=merges, model_max_length=77)
