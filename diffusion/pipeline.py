"""Where the parts of Stable Diffusion come from, which of them learn, and the way between images and latents.

A model is always the five parts that StableDiffusionPipeline holds. `load_parts` takes them from a hub id, a local
folder (a saved version of a run is one), takes the bundled `mini` (mini_sd/) or builds one of MADE_BY_CODE: the same
classes with random weights.

Shapes in docstrings are Stable Diffusion 1.x's: latents (B, 4, H/8, W/8), 77 tokens. `mini` has (B, 6, H/4, W/4), 40.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
from dataclasses import dataclass

import torch
from safetensors import SafetensorError

from common.files import read_json, write_json
from config import UserError

LIBRARY_ERRORS = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)  # of a source that is bad
DTYPES = {"no": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
MADE_BY_CODE = ("tiny", "sd15-random")  # models that need no files; tiny.py, sd15.py
MINI = pathlib.Path(__file__).parent.parent / "mini_sd"  # the bundled miniature, a pipeline folder
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
    """The parts of `source`: 'mini', one of MADE_BY_CODE, a pipeline folder or a hub id; in fp32, on the CPU, frozen.

    UserError if it can't be had or is incomplete, with what was tried and what to do instead.
    """
    from diffusion import sd15

    quiet_libraries()
    if source == "tiny":
        return freeze(build_tiny())
    if source == "sd15-random":
        return freeze(Parts(*sd15.build()))

    import diffusers
    from transformers import CLIPTextModel

    where = local_folder(source) or source
    try:
        index = diffusers.StableDiffusionPipeline.load_config(where)
        unet = load_network(diffusers.UNet2DConditionModel, where, "unet", dtype=torch.float32)
        vae = load_network(diffusers.AutoencoderKL, where, "vae", dtype=torch.float32)
        text_encoder = load_network(CLIPTextModel, where, "text_encoder", dtype=torch.float32)
        scheduler = getattr(diffusers, index["scheduler"][1]).from_pretrained(where, subfolder="scheduler")
        require_one_model(unet.config, vae.config, text_encoder.config)
        if "beta_start" not in scheduler.config:
            raise ValueError("it is not a Stable Diffusion 1.x model")
    except (*LIBRARY_ERRORS, SafetensorError) as problem:
        raise UserError(cannot_load(source, problem)) from None
    return freeze(Parts(load_tokenizer(source), text_encoder, vae, unet, scheduler))


def require_one_model(unet, vae, text_encoder):
    """ValueError unless networks with these configs go together as those of Stable Diffusion 1.x do."""
    channels = unet.in_channels, unet.out_channels, vae.latent_channels
    if unet.cross_attention_dim != text_encoder.hidden_size or len(set(channels)) > 1:
        raise ValueError("it is not a Stable Diffusion 1.x model")


def build_tiny():
    """The Parts of `tiny`, the same weights every time."""
    from diffusion import tiny

    return Parts(*tiny.build())


def load_network(cls, where, name, **kwargs):
    """One network of a pipeline. ValueError if its file lacks weights, which the libraries would make up."""
    network, info = cls.from_pretrained(where, subfolder=name, use_safetensors=True, output_loading_info=True, **kwargs)
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ValueError(f"{name} lacks {len(missing)} weights, such as {missing[0]}")
    return network


def load_tokenizer(source):
    """The CLIPTokenizer of `source` alone, without the networks. UserError if it can't be had."""
    from diffusion import tiny

    quiet_libraries()
    if source in MADE_BY_CODE:
        return tiny.build_tokenizer()

    from diffusers import StableDiffusionPipeline
    from transformers import CLIPTokenizer

    where = local_folder(source) or source
    try:
        StableDiffusionPipeline.load_config(where)  # fails at once where the hub can't be reached
        return require_vocabulary(CLIPTokenizer.from_pretrained(where, subfolder="tokenizer"))
    except LIBRARY_ERRORS as problem:
        raise UserError(cannot_load(source, problem)) from None


def require_vocabulary(tokenizer):
    """The tokenizer, if it has one; transformers makes an empty one where there are no files. ValueError."""
    if len(tokenizer) < 256:
        raise ValueError("there is no tokenizer/vocab.json or tokenizer.json")
    return tokenizer


def local_folder(source):
    """The folder that `source` names, or None if it is a hub id. UserError if it is a folder but not a pipeline."""
    if source == "mini":
        return MINI
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


def cannot_load(source, problem):
    reason = " ".join(str(problem).split())[:300]
    if local_folder(source):
        return f"can't load a Stable Diffusion 1.x pipeline with safetensors weights from {source}: {reason}"
    reason = reason.split(" To enable repo look-ups")[0]  # advice to programmers
    return (
        f"can't get '{source}': it is no folder here, not in the Hugging Face cache, and the hub said: {reason} -- "
        f"on a machine with internet run `hf download {source} --local-dir DIR`, bring DIR here and give "
        "--pretrained_model DIR; or try things out with --pretrained_model mini --resolution 128x192"
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


def weights_hash(parts):
    """What the drawn covers depend on: the networks_hash of all parts."""
    return networks_hash(parts.vae, *(getattr(parts, name) for name in PARTS))


def networks_hash(*networks):
    """A hash, hex, of all weights as they are now, on the CPU."""
    digest = hashlib.blake2b(digest_size=16)
    for network in networks:
        for key, tensor in sorted(network.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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


def place(parts, device, precision, learning=(), weights_dtype="fp32"):
    """Move everything to the device; what does not learn goes to half precision if `precision` says so.

    weights_dtype: precision of the parts that learn.
    """
    for name in ("vae", *PARTS):
        getattr(parts, name).to(device, DTYPES[weights_dtype if name in learning else precision])
    return parts


@contextlib.contextmanager
def on_device(network, device):
    """Inside: the network is on the device; after: where it was."""
    home = network.device
    network.to(device)
    try:
        yield
    finally:
        network.to(home)


def save_network(network, folder, dtype):
    """Write a network as its library does, with weights of `dtype`; the network itself stays as and where it is."""
    import transformers

    from_transformers = isinstance(network, transformers.PreTrainedModel)
    with torch.device("meta"):  # a second one without memory, so that nothing is cast or copied on the GPU
        if from_transformers:
            copy = type(network)(network.config)
        else:
            copy = type(network).from_config({**network.config, "_name_or_path": ""})  # no path of this machine
    weights = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()}
    copy.load_state_dict(weights, assign=True)
    copy.save_pretrained(folder)
    if from_transformers:
        # diffusers loads any weights in fp32 unless told otherwise, transformers as config.json says: both alike, so
        # that from_pretrained(folder) works without a word about precision
        path = folder / "config.json"
        write_json(path, read_json(path) | {"dtype": "float32"})


# ---------------------------------------------------------------------------------------------------------------------
# Images <-> latents. The scaling factor (latent diffusion, arXiv:2112.10752, D.1) lives here and nowhere else.


def encode_images(vae, pixel_values, noise):
    """Images (B, 3, H, W) in [-1, 1] -> latents float32 (B, 4, H/8, W/8), scaled to about unit std.

    noise: standard normal, shaped like the latents; it draws from the encoder's posterior.
    """
    return draw_latents(vae, *posterior(vae, pixel_values), noise)


@torch.no_grad()
def posterior(vae, pixel_values):
    """Images (B, 3, H, W) in [-1, 1] -> (mean, deviation) of the encoder's posterior, float32 (B, 4, H/8, W/8) each.

    One image at a time, here and in decode_latents: several would need several times the memory, at full resolution
    more than the UNet does.
    """
    distributions = [vae.encode(image).latent_dist for image in pixel_values.to(vae.dtype).split(1)]
    mean, std = ([getattr(one, name).float() for one in distributions] for name in ("mean", "std"))
    return torch.cat(mean), torch.cat(std)


def draw_latents(vae, mean, std, noise):
    """Latents float32 (B, 4, H/8, W/8), scaled: a draw from the posterior (mean, std) by standard normal noise."""
    return (mean + std * noise) * vae.config.scaling_factor


@torch.no_grad()
def decode_latents(vae, latents, tiling=False):
    """Latents (B, 4, H/8, W/8) -> images uint8 (B, H, W, 3) on the CPU.

    tiling: in overlapping tiles, if an image is larger than those the autoencoder was made for.
    """
    vae.use_tiling = tiling
    latents = (latents / vae.config.scaling_factor).to(vae.dtype)
    images = [vae.decode(one, return_dict=False)[0].float().cpu() for one in latents.split(1)]
    vae.use_tiling = False  # encoding goes on as it was
    images = torch.cat(images)
    return ((images + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def latent_shape(parts, size):
    """(4, H/8, W/8) for a (width, height) in pixels."""
    width, height = size
    factor = 2 ** (len(parts.vae.config.block_out_channels) - 1)
    return parts.unet.config.in_channels, height // factor, width // factor


def encode_text(text_encoder, input_ids):
    """input_ids int64 (B, 77) -> encoder_hidden_states (B, 77, C): the last hidden state, as SD 1.x uses it."""
    return text_encoder(input_ids, return_dict=False)[0]
