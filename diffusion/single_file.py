"""A whole Stable Diffusion model in one safetensors file, in the layout of latent diffusion (LDM), as A1111 and ComfyUI
use it: read, and written.

Such a file has weights alone, half or single precision. The rest is known of Stable Diffusion 1.x and 2.x: settings of
the networks (sd15.py), tokenizer (clip_tokenizer.py) and noise schedule.
"""

from __future__ import annotations

import contextlib
import hashlib
import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import accelerate
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import CLIPTokenizer

from common.errors import UserError
from common.files import atomic_write
from common.library_errors import short_reason
from diffusion import clip_tokenizer, ldm_names, sd15
from diffusion.ldm_names import Stored
from diffusion.parts import NETWORKS, Parts
from diffusion.source import GIVE_ANOTHER, describe_names, require_whole
from diffusion.supported import CHANNELS
from diffusion.weights import all_finite, save_tensors

UNET, VAE = ldm_names.UNET, ldm_names.VAE
DTYPES = ("F64", "F32", "F16", "BF16")  # safetensors' names of the precisions that are read
# Keys without a value by which others tell apart models that predict v, and those with no signal at the last timestep
V_PREDICTION, ZERO_SNR = "v_pred", "ztsnr"
ASK = "say which with --prediction_type v_prediction (the 768 models) or epsilon (the base models)"


@dataclass(frozen=True)
class SingleFile:
    """What the header of a file says, that was found to be a model of Stable Diffusion 1.x or 2.x."""

    path: pathlib.Path
    open_clip: bool  # it is 2.x, with OpenCLIP's text encoder
    shapes: Mapping[str, tuple[int, ...]]  # of all tensors, by their names in the file
    metadata: Mapping[str, str]

    def stored(self, part: str, key: str, config: Mapping[str, Any]) -> Stored:
        """Where the file has a weight of a network; some merges of 1.x leave out `text_model.`."""
        found = ldm_names.stored(part, key, config, self.open_clip)
        if found.name not in self.shapes and found.name.startswith(ldm_names.CLIP):
            return Stored(found.name.replace(".text_model.", ".", 1))
        return found


# ---------------------------------------------------------------------------------------------------------------------
# Reading


def inspect(path: pathlib.Path) -> SingleFile:
    """What a file is, by its header alone. UserError if it is damaged, or no model that can be used here."""
    require_whole(path)
    with safe_open(path, framework="pt") as opened:
        names = list(opened.keys())
        slices = {name: opened.get_slice(name) for name in names}
        shapes = {name: tuple(piece.get_shape()) for name, piece in slices.items()}
        dtypes = {name: piece.get_dtype() for name, piece in slices.items()}
        metadata = opened.metadata() or {}
    open_clip = any(name.startswith(ldm_names.OPEN_CLIP) for name in shapes)
    file = SingleFile(path, open_clip, shapes, metadata)
    if what := describe_names(list(shapes)) or other_architecture(file) or other_precision(dtypes):
        raise UserError(f"{path} can't be used here: it is {what}; {GIVE_ANOTHER}")
    return file


def other_architecture(file: SingleFile) -> str | None:
    """What a whole model is whose weights are not those of Stable Diffusion 1.x or 2.x; None if they are."""
    channels = file.shapes.get(f"{UNET}input_blocks.0.0.weight", (0, 4))[1]
    if channels != 4:
        return f"{CHANNELS.get(channels, 'another kind of model')}: its UNet takes {channels} channels, not 4"
    if others := [name for name in file.shapes if name.startswith(f"{UNET}label_emb.")]:
        return f"a model whose UNet takes more than the prompt ({others[0]}), such as Stable Diffusion XL or unCLIP"
    missing, different, known = [], [], set()
    for part, network in empty_networks(file.open_clip).items():
        for key, tensor in network.state_dict().items():
            stored = file.stored(part, key, network.config.to_dict() if part == "text_encoder" else network.config)
            known.add(stored.name)
            found, expected = file.shapes.get(stored.name), tuple(tensor.shape)
            if stored.third is not None:
                expected = (3 * expected[0], *expected[1:])
            if found is None:
                missing.append(stored.name)
            elif without_ones(found) != without_ones(expected):
                different.append(f"{stored.name} of shape {list(found)} and not {list(expected)}")
    name = "Stable Diffusion 2.x" if file.open_clip else "Stable Diffusion 1.x"
    if missing:
        return f"no whole model of {name}: {len(missing)} weights are missing, such as {missing[0]}"
    if different:
        return f"no model of {name}: {len(different)} weights have other shapes, such as {different[0]}"
    if others := [name for name in file.shapes if name.startswith(UNET) and name not in known]:
        return f"no model of {name}: its UNet has {len(others)} more weights, such as {others[0]}"
    return None


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 1x1 convolution is a linear layer: LDM writes the VAE's attention as the first, diffusers as the second."""
    return (*shape[:2], *(side for side in shape[2:] if side != 1))


def other_precision(dtypes: Mapping[str, str]) -> str | None:
    """In which precision weights are that can't be trained; None if there are none."""
    starts, no_weight = (UNET, VAE, "cond_stage_model."), ".position_ids"  # 0, 1, 2, ...
    weights = {
        name: dtype for name, dtype in dtypes.items() if name.startswith(starts) and not name.endswith(no_weight)
    }
    others = set(weights.values()) - set(DTYPES)
    if not others:
        return None
    what = "in 8-bit precision (fp8)" if any(dtype.startswith("F8") for dtype in others) else "quantized"
    return f"a model whose weights are {what}, {', '.join(sorted(others))}: bring one in fp16, bf16 or fp32"


def empty_networks(open_clip: bool) -> dict[str, torch.nn.Module]:
    """{part: network} of Stable Diffusion 2.x (open_clip) or 1.x, without memory for weights."""
    with accelerate.init_empty_weights():  # it leaves alone what is no weight, such as the positions of tokens
        text_encoder, vae, unet = sd15.build_networks(**(sd15.CHANGES_OF_SD2 if open_clip else {}))
    return {"unet": unet, "vae": vae, "text_encoder": text_encoder}


def load(path: pathlib.Path, prediction_type: str = "auto") -> Parts:
    """The model in a file, in fp32 on the CPU. UserError if it can't be used here; see inspect and build_scheduler.

    prediction_type: what the UNet predicts if the file does not say.
    """
    file = inspect(path)
    scheduler = build_scheduler(file, prediction_type)
    networks = empty_networks(file.open_clip)
    with reading(path), safe_open(path, framework="pt") as opened:
        for part, network in networks.items():
            config = network.config.to_dict() if part == "text_encoder" else network.config
            weights = {}
            for key, tensor in network.state_dict().items():
                stored = file.stored(part, key, config)
                weights[key] = read_weight(opened, stored, tuple(tensor.shape))
                if not all_finite([weights[key]]):
                    raise UserError(f"{path}: {stored.name} is not finite: the weights are damaged; bring it again")
            network.load_state_dict(weights, assign=True)
    return Parts(tokenizer=build_tokenizer(file), scheduler=scheduler, **networks)


def read_weight(opened: Any, stored: Stored, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight from an opened file, in fp32."""
    if stored.third is None:
        tensor = opened.get_tensor(stored.name)
    else:
        tensor = opened.get_slice(stored.name)[stored.third * shape[0] : (stored.third + 1) * shape[0]]
    return tensor.to(torch.float32).reshape(shape).contiguous()


@contextlib.contextmanager
def reading(path: pathlib.Path) -> Iterator[None]:
    """What safetensors raises inside becomes a UserError."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as problem:
        raise UserError(f"can't read {path}: {short_reason(problem)}") from None


def build_tokenizer(file: SingleFile) -> CLIPTokenizer:
    return clip_tokenizer.build("!" if file.open_clip else clip_tokenizer.END)


def build_scheduler(file: SingleFile, prediction_type: str = "auto") -> DDIMScheduler | PNDMScheduler:
    """The noise schedule of a model, with what its UNet predicts.

    That is what the file says; else what prediction_type says, if that is not auto; else noise (epsilon) in a model of
    1.x. UserError for one of 2.x: some predict noise, others v, and their weights look alike.
    """
    said = said_prediction_type(file)
    if said is None and prediction_type == "auto" and file.open_clip:
        raise UserError(f"{file.path} is Stable Diffusion 2.x, and does not say what it predicts: {ASK}")
    chosen = said or (prediction_type if prediction_type != "auto" else "epsilon")
    schedule = sd15.SCHEDULE | dict(prediction_type=chosen)
    if ZERO_SNR in file.shapes:
        spacing = "trailing"  # or diffusers would not begin at the last timestep
        return DDIMScheduler(**schedule, clip_sample=False, rescale_betas_zero_snr=True, timestep_spacing=spacing)
    return PNDMScheduler(**schedule, skip_prk_steps=True)


def said_prediction_type(file: SingleFile) -> str | None:
    """What a file says that its UNet predicts: by its metadata, by a key, by the architecture that it names."""
    said = file.metadata.get("modelspec.prediction_type", "").lower()
    architecture = file.metadata.get("modelspec.architecture", "")
    if said in ("v", "v_prediction", "v-prediction") or V_PREDICTION in file.shapes or architecture.endswith("768-v"):
        return "v_prediction"
    return "epsilon" if said.startswith("eps") or architecture.endswith("v2-512") else None


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write(parts: Parts, path: pathlib.Path, dtype: torch.dtype, metadata: Mapping[str, str]) -> None:
    """Write a model of Stable Diffusion 1.x as a single file, atomically; its networks are cast to dtype in place.

    metadata: what the header says besides, without prediction type and hash. UserError if a weight is not finite in
    `dtype`.
    """
    tensors = {}
    for part in tqdm(NETWORKS, desc=f"convert to {str(dtype).removeprefix('torch.')}", disable=None, leave=False):
        network = getattr(parts, part).to("cpu", dtype)
        tensors |= ldm_tensors(part, network)
    for name, tensor in tensors.items():
        if not all_finite([tensor]):
            raise UserError(f"{name} is not finite in {str(dtype).removeprefix('torch.')}: give --dtype bf16 or fp32")
    schedule = parts.noise_scheduler.config
    predicts_v = schedule.prediction_type == "v_prediction"
    if predicts_v:
        tensors[V_PREDICTION] = torch.zeros(0, dtype=dtype)
    if schedule.rescale_betas_zero_snr:
        tensors[ZERO_SNR] = torch.zeros(0, dtype=dtype)
    known = {
        "modelspec.prediction_type": "v" if predicts_v else "epsilon",
        "modelspec.hash_sha256": f"0x{tensors_sha256(tensors)}",
    }
    with atomic_write(path, "free some space there or choose another place") as temporary:
        save_tensors(tensors, temporary, {**metadata, **known})


def ldm_tensors(part: str, network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """{name in the file: weight} of a network of Stable Diffusion 1.x. KeyError for a weight that the layout lacks."""
    config = network.config.to_dict() if part == "text_encoder" else network.config
    tensors = {}
    for key, tensor in network.state_dict().items():
        name = ldm_names.stored(part, key, config).name
        if part == "vae" and ".attn_1." in name and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        tensors[name] = tensor.contiguous()
    return tensors


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of what stands after the header of a file with these tensors, of one dtype: they lie there by name."""
    digest = hashlib.sha256()
    for _, tensor in sorted(tensors.items()):
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
