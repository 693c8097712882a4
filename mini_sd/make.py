"""Train mini from scratch: images, tokenizer, autoencoder, then text encoder and UNet.

python -m mini_sd.make --work DIR      in the project's folder; the same command resumes after an interruption
"""

from __future__ import annotations

import argparse
import pathlib

from cli import launch, saved_options
from cli.parser import Parser
from common.errors import UserError


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

    from mini_sd.build import build_mini

    build_mini(options, out)
    return 0


if __name__ == "__main__":
    launch.run_script(main)
