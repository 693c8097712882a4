"""Trains mini: images, tokenizer, autoencoder, text encoder and UNet, one after the other; saves the pipeline."""

from __future__ import annotations

import argparse
import json
import pathlib

import torch

from common.files import atomic_write, read_json, write_text
from diffusion import pipeline, weights
from diffusion.parts import Parts
from mini_sd import autoencoder, denoiser, pictures, words


def build_mini(options: argparse.Namespace, out: pathlib.Path) -> None:
    """Trains mini in options.work and saves it to the folder `out`. options: those of mini_sd.make."""
    pipeline.quiet_libraries()
    posters, captions = pictures.ensure_images(options.work, "posters", pictures.draw_posters, options.posters)
    sheets, _ = pictures.ensure_images(options.work, "sheets", pictures.draw_sheets, options.sheets)
    tokenizer = words.build_tokenizer(captions)
    sources, bf16 = [posters, sheets], options.bf16
    vae = autoencoder.train(options.work, sources, options.autoencoder_steps, bf16)
    latents = denoiser.encode_all(options.work / f"latents-{options.posters}.npy", vae, posters)
    denoiser.standardize(vae, latents)
    half = options.work / f"latents-{options.posters}-half.npy"
    small = denoiser.encode_all(half, vae, posters, denoiser.halve)
    autoencoder.train_decoder(options.work, vae, sources, options.decoder_steps, bf16)
    parts = denoiser.build(tokenizer, vae)
    stages = [(small, options.small_steps, 4e-4), (latents, options.denoiser_steps, 8e-4)]
    denoiser.train(options.work, parts, stages, captions, bf16=bf16)
    save_model(parts, out)


def save_model(parts: Parts, folder: pathlib.Path) -> None:
    """Saves the pipeline in half precision; its tokenizer also as vocab.json and merges.txt, as CLIP's usually is."""
    with atomic_write(folder) as temporary:
        parts.pipeline().save_config(temporary)
        parts.tokenizer.save_pretrained(temporary / "tokenizer")
        weights.save_scheduler(parts.scheduler, temporary / "scheduler")
        for name in ("vae", "unet", "text_encoder"):
            weights.save_network(getattr(parts, name), temporary / name, torch.float16)
        tokenizer = read_json(temporary / "tokenizer" / "tokenizer.json")["model"]
        write_text(temporary / "tokenizer" / "vocab.json", json.dumps(tokenizer["vocab"], ensure_ascii=False))
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in tokenizer["merges"]]
        write_text(temporary / "tokenizer" / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))
        size = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file())
    print(f"mini is in {folder}: {size / 1e6:.1f} MB")
