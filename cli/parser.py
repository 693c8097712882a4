"""The command line: an argparse parser made from the option classes of config.py, with --help, --config and --preset.

    options, given = parser.parse(config.TrainingOptions)

`options` is a frozen dataclass. `given` has only the options that the user has set on the command line, in --config
FILE.json or by --preset; all others can come from the run's config.json. Precedence, highest first: command line,
--config, --preset, the run's config.json, defaults. Only the standard library is imported here, so that --help is
instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import config
from cli.checks import Options, check, type_name
from cli.saved_options import parse_value, read_options, select
from common.errors import UserError
from config import (
    SCRIPTS,
    DatasetOptions,
    DoctorOptions,
    ExportOptions,
    InferenceOptions,
    ReportOptions,
    RunsOptions,
    StatsOptions,
    TrainingOptions,
    TypesetOptions,
    option_names,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DESCRIPTIONS: dict[type[DataclassInstance], str] = {
    TrainingOptions: "Fine-tune the UNet, the CLIP text encoder, or both of Stable Diffusion 1.x on book covers.",
    InferenceOptions: "Draw book covers with a version of a run, and score them against real covers.",
    StatsOptions: "Compute the statistics of real covers that sd_inference --calc_fid scores against.",
    ReportOptions: "Write one HTML page that shows versions of runs side by side.",
    RunsOptions: "List the runs with their versions, losses and scores; upload or delete files in a tracker.",
    DatasetOptions: "Check a data folder: which books can be used, how they are split, what the prompts look like.",
    DoctorOptions: "Check whether this machine can train: GPU, driver, libraries, memory, disk; and what to do if not.",
    TypesetOptions: "Set title and author as type on a picture, or on those of a folder: NAME.png -> NAME.typeset.png.",
    ExportOptions: "Write a version of a run as a file or folder that other programs load.",
}
EXAMPLES: dict[type[DataclassInstance], str] = {
    TrainingOptions: """
  python -m training --num_gpus=1 --train_text_encoder True --train_unet False
  python -m training --train_unet --train_text_encoder --lr 1e-5 --lr_text_encoder 2e-6 --epochs 8
  python -m training --run_id=ID                # resume run ID where it stopped

  # minutes on two CPU cores, without internet
  python -m training --train_unet --pretrained_model mini --data_root demo --resolution 128x192 \\
      --batch_size 16 --optimizer adamw --grad_ckpt False --lr 1e-3 --max_steps 100
""",
    InferenceOptions: """
  python -m sd_inference --version=latest --run_id=ID --save_dir="./book dataset" --calc_fid=True
  python -m sd_inference --version=best         # the grid of the newest run
  python -m sd_inference --version=v0 --prompt "A fantasy book cover with author Ursula K. Le Guin"
""",
    StatsOptions: """
  python -m precalc_fid_stats
  python -m precalc_fid_stats --data_root demo --fid_features efficientnet    # without internet
""",
    ReportOptions: """
  python -m report                              # v0, best and latest of the newest run
  python -m report --run_id A,B --version v0,best --num_samples 12 --report_path ~/covers.html
""",
    RunsOptions: """
  python -m runs                                # all runs: versions, losses, scores, size
  python -m runs --run_id ID --publish          # upload what could not be uploaded while training
""",
    DatasetOptions: """
  python -m dataset --data_root ../book_dataset
  python -m dataset --data_root demo
""",
    DoctorOptions: """
  python -m doctor
  python -m doctor --output_dir /data/runs --cache_dir /data/cache    # check other disks
""",
    TypesetOptions: """
  python -m typeset cover.png --title "The Glass Crown" --author "Ada Fenwick"
  python -m typeset cover.png --title "The Glass Crown" --typeset_font sans --typeset_place bottom --out set.png
  python -m typeset covers --books books.csv --out typeset    # books.csv: file,title,author
""",
    ExportOptions: """
  python -m export --version best covers.safetensors       # for A1111, Forge, ComfyUI
  python -m export --to lora ~/ComfyUI/models/loras        # -> RUN-VERSION.safetensors in that folder
  python -m export --run_id ID --version v3 --to merged --dtype bf16 my-model
""",
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Breaks lines at spaces only, so that names with hyphens can be copied."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)


class Parser(argparse.ArgumentParser):
    """argparse whose errors are a UserError of one line."""

    def error(self, message: str) -> NoReturn:
        """UserError for a wrong command line. It never repeats a value, which may be a key."""
        unknown = re.match(r"unrecognized arguments: (-*)([^\s=]+)", message)
        if unknown and unknown[1]:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            near = difflib.get_close_matches(f"--{unknown[2]}", known, n=1)
            message = f"unknown option {unknown[1]}{unknown[2]}"
            message += f"; did you mean {near[0]}?" if near else "; see --help"
        elif unknown:
            message = "a word stands where an option should be; write --option value or --option=value"
        raise UserError(message)


def build_parser(cls: type[DataclassInstance]) -> Parser:
    """An argparse parser with an argument for each option, in the groups of the classes that `cls` is made of.

    It parses options to text, and leaves out those that are not given; read_command_line converts the values.
    """
    parser = Parser(
        prog=f"python -m {SCRIPTS[cls]}",
        formatter_class=HelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        usage=" ".join(["%(prog)s", *map(str.upper, option_names(cls, "positional", True)), "[--option value ...]"]),
        description=DESCRIPTIONS[cls],
        epilog="True or False: --flag is short for --flag True, --no-flag for --flag False.\n\nexamples:"
        + EXAMPLES[cls].rstrip(),
    )
    parser.add_argument(
        "--config", metavar="FILE.json", help="read options from a JSON file, see configs/; the command line wins"
    )
    for owner in cls.__mro__[:-1]:
        group = parser.add_argument_group(owner.__doc__)
        for field in dataclasses.fields(owner):
            if field.name in owner.__annotations__:
                add_option(group, field)
    return parser


def add_option(group: argparse._ArgumentGroup, field: dataclasses.Field[Any]) -> None:
    """Add the argument of one option, with its help. Its aliases and --no- forms are accepted and not listed."""
    facts, kind = field.metadata, type_name(field)
    notes = [f"default: {facts['none'] if field.default is None else field.default}"]
    notes += [f"alias: --{alias}" for alias in facts["aliases"]]
    text = f"{facts['help']} ({'; '.join(notes)})".replace("%", "%%")
    metavar = {"int": "N", "float": "X", "bool": "True|False"}.get(kind, "TEXT")
    accepted: dict[str, Any] = dict(dest=field.name, metavar="|".join(map(str, facts["choices"] or ())) or metavar)
    if kind == "bool":
        accepted |= dict(nargs="?", const="True")
    if facts["positional"]:
        group.add_argument(field.name, nargs="?", metavar=field.name.upper(), help=text)
        return
    for name in (field.name, *facts["aliases"]):
        group.add_argument(f"--{name}", help=text if name == field.name else argparse.SUPPRESS, **accepted)
        if kind == "bool":
            group.add_argument(
                f"--no-{name}", dest=field.name, action="store_const", const="False", help=argparse.SUPPRESS
            )


def normalize_argv(argv: Sequence[str]) -> list[str]:
    """--max-steps=3 -> --max_steps=3, --no_train_unet -> --no-train_unet; values are left alone."""
    result = []
    for word in argv:
        match = re.fullmatch(r"--(no[-_])?([A-Za-z][\w-]*)(=.*)?", word, re.DOTALL)
        if match:
            no, name, value = match.groups(default="")
            word = "--" + ("no-" if no and name else "") + name.replace("-", "_") + value
        result.append(word)
    return result


def read_command_line(cls: type[DataclassInstance], argv: Sequence[str] | None = None) -> dict[str, Any]:
    """{option: value} of what the user has given on the command line or in --config, and of what a --preset sets.

    argv: the arguments; None = sys.argv[1:]. Of an option that is given twice the last one counts. UserError for any
    value that is wrong by itself.
    """
    texts = vars(build_parser(cls).parse_args(normalize_argv(sys.argv[1:] if argv is None else argv)))
    given = {}
    if path := texts.pop("config", None):
        given = select(cls, read_options(path))
        for name in option_names(cls, "secret", True):
            if name in given:
                raise UserError(f"{path} holds a {name}: keys do not belong in files, set WANDB_API_KEY instead")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    given |= {name: parse_value(field, texts[name], f"--{name}") for name, field in fields.items() if name in texts}
    if "wandb_key" in given:
        move_key_to_environment(given["wandb_key"])
        given.setdefault("tracker", "wandb")
    return given | lora_values(cls, given) | preset_values(cls, given)


def lora_values(cls: type[DataclassInstance], given: Mapping[str, Any]) -> dict[str, Any]:
    """{option: value} of what --lora_rank sets in a new run, less what the user has given; it is printed."""
    if not given.get("lora_rank") or given.get("run_id"):  # a resumed run keeps what it has
        return {}
    possible = {field.name for field in dataclasses.fields(cls)} - given.keys()
    values = {name: value for name, value in config.LORA_DEFAULTS.items() if name in possible}
    trained = {"lr": given.get("train_unet"), "lr_text_encoder": given.get("train_text_encoder", True)}
    if said := " ".join(f"--{name} {value:g}" for name, value in values.items() if trained[name]):
        print(f"--lora_rank sets {said}", file=sys.stderr)
    return values


def preset_values(cls: type[DataclassInstance], given: Mapping[str, Any]) -> dict[str, Any]:
    """{option: value} of what --preset sets, less what the user has given; it is printed. {} without --preset."""
    preset = given.get("preset")
    if not preset:
        return {}
    if given.get("run_id"):
        raise UserError(
            "--preset is for a new run, and a resumed one keeps what it has: leave it out, or give options that may "
            "change (--batch_size with --grad_acc_steps, --grad_ckpt, --ema_device, --vae_tiling)"
        )
    possible = {field.name for field in dataclasses.fields(cls)} - given.keys()
    table = config.LORA_PRESETS if given.get("lora_rank") else config.PRESETS
    values = {name: value for name, value in table[preset].items() if name in possible}  # in the table's order
    summary = " ".join(f"--{name} {value}" for name, value in values.items()) or "nothing, since all was given"
    print(f"preset {preset} sets {summary}", file=sys.stderr)
    return values


def move_key_to_environment(key: str) -> None:
    """Set WANDB_API_KEY, and remove --wandb_key from sys.argv.

    wandb writes sys.argv down; the environment is where wandb and the processes that we launch find the key.
    """
    print(
        "note: a key on the command line can be read in `ps` and in your shell's history; the environment variable "
        "WANDB_API_KEY is safer",
        file=sys.stderr,
    )
    os.environ["WANDB_API_KEY"] = key
    words: list[str] = []
    for word in normalize_argv(sys.argv):
        if words[-1:] == ["--wandb_key"]:
            words.pop()
        elif not word.startswith("--wandb_key="):
            words.append(word)
    if not any(re.match(r"--tracker(=|$)", word) for word in words):
        words += ["--tracker", "wandb"]
    sys.argv[:] = words


def parse(cls: type[Options], argv: Sequence[str] | None = None) -> tuple[Options, dict[str, Any]]:
    """(options, {option: value} of those that were given) from the command line. UserError for any mistake."""
    given = read_command_line(cls, argv)
    return check(cls(**given)), given
