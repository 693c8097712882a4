"""Train mini from scratch: images, tokenizer, autoencoder, then text encoder and UNet.

python -m mini_sd.make --work DIR      in the project's folder; the same command resumes after an interruption
"""

from __future__ import annotations

import argparse
import json
import pathlib

import torch

from cli import launch, saved_options
from cli.parser import Parser
from common.errors import UserError
from common.files import atomic_write, read_json, write_text
from diffusion import pipeline, weights
from diffusion.parts import Parts
from mini_sd import autoencoder, denoiser, pictures, words


def main(argv: list[str] | None = None) -> int:
    """Train mini in the folder --work, then write the model to --out."""
    parser = Parser(prog="python -m mini_sd.make", description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=pathlib.Path, required=True, help="folder for images and states, about 2 GB")
    parser.add_argument("--out", type=pathlib.Path, help="folder for the model (default: WORK/mini)")
    parser.add_argument("--posters", type=int, default=8000, help="number of posters, a multiple of 100")
    parser.add_argument("--sheets", type=int, default=6000, help="number of sheets of lettering, a multiple of 100")
    parser.add_argument("--autoencoder_steps", type=int, default=4000, help="updates of the autoencoder")
    parser.add_argument("--decoder_steps", type=int, default=1500, help="further updates of the decoder alone")
    parser.add_argument("--small_steps", type=int, default=2000, help="of text encoder and UNet at half resolution")
    parser.add_argument("--denoiser_steps", type=int, default=6000, help="and then at full resolution")
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, default=True, help="bf16 autocast, as mini had"
    )
    options = parser.parse_args(argv)
    settings = {name: value for name, value in vars(options).items() if name not in ("work", "out")}
    for name, value in settings.items():
        if name in ("posters", "sheets") and (value < 100 or value % 100):
            raise UserError(f"--{name} {value}: expected a multiple of 100")
        if name.endswith("_steps") and value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    saved_options.require_same_options(options.work / "asked.json", settings)
    out = options.out or options.work / "mini"
    if out.exists():
        raise UserError(f"{out} exists already: choose another --out, or remove it")

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
    return 0


def save_model(parts: Parts, folder: pathlib.Path) -> None:
    """Saves the pipeline in half precision; its tokenizer also as vocab.json and merges.txt, as CLIP's usually is."""
    with atomic_write(folder) as temporary:
        parts.pipeline().save_config(temporary)
        for name in ("tokenizer", "scheduler"):
            getattr(parts, name).save_pretrained(temporary / name)
        for name in ("vae", "unet", "text_encoder"):
            weights.save_network(getattr(parts, name), temporary / name, torch.float16)
        tokenizer = read_json(temporary / "tokenizer" / "tokenizer.json")["model"]
        write_text(temporary / "tokenizer" / "vocab.json", json.dumps(tokenizer["vocab"], ensure_ascii=False))
        merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in tokenizer["merges"]]
        write_text(temporary / "tokenizer" / "merges.txt", "\n".join(["#version: 0.2", *merges, ""]))
        size = sum(file.stat().st_size for file in temporary.rglob("*") if file.is_file())
    print(f"mini is in {folder}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    launch.run_script(main)
