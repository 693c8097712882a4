"""CLIP as a judge, where its weights are at hand: does a cover show its prompt, and do covers look like real ones?"""

from __future__ import annotations

import pathlib
from typing import NamedTuple

import numpy as np
import torch
import transformers

from common.errors import UserError, first_line
from diffusion import pipeline, weights
from evaluation import features

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of CLIP's own training


class Clip(NamedTuple):
    """A CLIP model. name: its own and the beginning of its weights' hash.

    extractor: see features.Extractor; its features are image embeddings, not normed.
    """

    name: str
    extractor: features.Extractor
    tokenizer: object
    model: torch.nn.Module

    def embed_texts(self, texts, batch_size=50):
        """float64 (N, D): the embeddings of texts, not normed; what goes beyond CLIP's 77 tokens is left out."""
        parts = []
        for first in range(0, len(texts), batch_size):
            chunk = list(texts[first : first + batch_size])
            most = self.model.config.text_config.max_position_embeddings
            tokens = self.tokenizer(chunk, padding=True, truncation=True, max_length=most, return_tensors="pt")
            with torch.inference_mode():
                output = self.model.get_text_features(**tokens.to(self.model.device))
            parts.append(output.pooler_output.double().cpu().numpy())
        return np.concatenate(parts)


def load(source, batch_size, device):
    """The Clip of a hub id or folder, in float32 on `device`. UserError if it can't be had, with what to do.

    Covers are shrunk whole to CLIP's square, antialiased and bicubic, as CMMD's authors do; CLIP's usual cut of the
    middle square would lose the bands where title and author stand.
    """

    pipeline.quiet_libraries()
    try:
        model, told = transformers.CLIPModel.from_pretrained(source, output_loading_info=True)
        tokenizer = transformers.CLIPTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as problem:
        raise UserError(
            f"--clip_model {source} can't be loaded as a CLIP model: {first_line(problem)[:200]}; give a "
            "hub id such as openai/clip-vit-large-patch14-336, or a folder with such a model"
        ) from None
    if told["missing_keys"]:  # transformers would go on with random weights
        raise UserError(
            f"--clip_model {source} lacks {len(told['missing_keys'])} of CLIP's weights, such as "
            f"{sorted(told['missing_keys'])[0]}: bring the whole model"
        )
    weights_hash = weights.networks_hash(model)
    model = model.eval().to(device, torch.float32)
    mean, deviation = (torch.tensor(numbers, device=device).view(1, 3, 1, 1) for numbers in (MEAN, DEVIATION))
    side = model.config.vision_config.image_size
    extractor = features.Extractor(
        name="clip",
        score_name="CMMD",
        dims=model.config.projection_dim,
        weights_hash=weights_hash,
        resize="clean",
        batch_size=batch_size,
        device=device,
        prepare=lambda pixels: (features.shrink(pixels, side) / 255 - mean) / deviation,
        network=lambda batch: model.get_image_features(pixel_values=batch).pooler_output,
    )
    return Clip(f"{pathlib.Path(source).name}, {weights_hash[:8]}", extractor, tokenizer, model)
