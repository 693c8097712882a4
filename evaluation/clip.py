"""A CLIP model for the metrics that need one: CLIP score (does a cover show its prompt) and CMMD."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from common.errors import UserError
from common.library_errors import LIBRARY_ERRORS, short_reason
from diffusion import pipeline, weights
from evaluation import features

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's training images


@dataclasses.dataclass(frozen=True)
class Clip:
    """A CLIP model."""

    name: str  # the model's, with the beginning of the hash of its weights
    extractor: features.Extractor  # its features are image embeddings, not normalised
    tokenizer: transformers.PreTrainedTokenizerBase
    model: transformers.CLIPModel

    def embed_texts(self, texts: Sequence[str], batch_size: int = 50) -> np.ndarray:
        """Embeddings of the texts, float64 (N, D), not normalised; tokens beyond CLIP's limit of 77 are cut off.

        UserError for an embedding that is not finite, or has length 0.
        """
        parts = []
        for first in range(0, len(texts), batch_size):
            chunk = list(texts[first : first + batch_size])
            text_config: Any = self.model.config.text_config  # transformers' hints allow a dict and None, too
            limit = min(text_config.max_position_embeddings, self.tokenizer.model_max_length)
            tokens = self.tokenizer(chunk, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            with torch.inference_mode():
                output = self.model.get_text_features(**tokens.to(self.model.device))
            parts.append(output.pooler_output.double().cpu().numpy())
        embeddings = np.concatenate(parts)
        if not np.isfinite(embeddings).all() or not embeddings.any(axis=1).all():
            raise UserError(
                f"--clip_model {self.name}: its embedding of a prompt is not finite, or 0: get a new copy of "
                "the model, or try without the GPU (CUDA_VISIBLE_DEVICES=-1)"
            )
        return embeddings


def load_clip(source: str, batch_size: int, device: torch.device) -> Clip:
    """The Clip in a hub id or folder, in float32 on `device`. UserError, with what to do, if it is not available.

    Whole covers are resized to CLIP's square, bicubic and antialiased, as the authors of CMMD do; CLIP's usual centre
    crop would cut off title and author.
    """
    pipeline.quiet_libraries()
    try:
        safely: Any = dict(trust_remote_code=False, weights_only=True)  # no code of the model's, no unsafe pickle
        loaded: Any = transformers.CLIPModel.from_pretrained(source, output_loading_info=True, **safely)
        model, loading_info = loaded
        tokenizer = transformers.CLIPTokenizer.from_pretrained(source, trust_remote_code=False)
    except LIBRARY_ERRORS as problem:
        raise UserError(
            f"--clip_model {source} can't be loaded as a CLIP model: {short_reason(problem)}; give a "
            "hub id such as openai/clip-vit-large-patch14-336, or a folder with such a model"
        ) from None
    if missing := sorted(loading_info["missing_keys"]):  # transformers would go on with random weights
        raise UserError(
            f"--clip_model {source} lacks {len(missing)} of CLIP's weights, such as {missing[0]}: bring the whole model"
        )
    if not weights.all_finite(model.state_dict().values()):  # said before hours of drawing
        raise UserError(f"--clip_model {source} has weights that are not finite: get a new copy of the model")
    weights_hash = weights.networks_hash(model)
    model = model.eval().to(device, torch.float32)
    mean, std = (torch.tensor(numbers, device=device).view(1, 3, 1, 1) for numbers in (MEAN, STD))
    side = model.config.vision_config.image_size
    extractor = features.Extractor(
        name="clip",
        score_name="CMMD",
        dims=model.config.projection_dim,
        weights_hash=weights_hash,
        resize="clean",
        batch_size=batch_size,
        device=device,
        prepare=lambda pixels: (features.resize_antialiased(pixels, side) / 255 - mean) / std,
        network=lambda batch: model.get_image_features(pixel_values=batch).pooler_output,
    )
    return Clip(f"{pathlib.Path(source).name}, {weights_hash[:8]}", extractor, tokenizer, model)
