"""Command line and JSON -> options: argparse made from the fields of config.py, and how every script begins and ends.

    options, given = command_line.parse(config.TrainingOptions)

`options` is a frozen dataclass; `given` holds just what the user typed or put in `--config FILE.json`, so that a
resumed run can tell a wish from a default. Precedence: default < the run's own config.json < --config < command line.
Only the standard library is imported here, so `--help` answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import os
import re
import sys

import config
from cli.checks import check
from cli.saved_options import checked, load_json
from common.errors import UserError
from config import (
    SCRIPTS,
    DatasetOptions,
    DoctorOptions,
    InferenceOptions,
    ReportOptions,
    RunsOptions,
    StatsOptions,
    TrainingOptions,
)

EXAMPLES = {
    TrainingOptions: """
  python -m training --num_gpus=1 --train_text_encoder True --train_unet False
  python -m training --train_unet --train_text_encoder --lr 1e-5 --lr_text_encoder 2e-6 --epochs 8
  python -m training --run_id=ID                                    # go on where run ID stopped
  python -m training --train_unet --pretrained_model mini --data_root demo --resolution 128x192 --batch_size 16 \\
      --optimizer adamw --grad_ckpt False --lr 1e-3 --max_steps 100    # minutes on two CPU cores, without internet
""",
    InferenceOptions: """
  python -m sd_inference --version=latest --run_id=ID --save_dir="./book dataset" --calc_fid=True
  python -m sd_inference --version=best                             # the grid of the newest run
  python -m sd_inference --version=v0 --prompt "A fantasy book cover with author Ursula K. Le Guin"
""",
    StatsOptions: """
  python -m precalc_fid_stats
  python -m precalc_fid_stats --data_root demo --fid_features efficientnet      # works without internet
""",
    ReportOptions: """
  python -m report                                                  # v0, best and latest of the newest run
  python -m report --run_id A,B --version v0,best --num_samples 12 --report_path ~/covers.html
""",
    RunsOptions: """
  python -m runs                                                    # every run: versions, losses, scores, size
  python -m runs --run_id ID --publish                              # what the tracker missed, when it is back
""",
    DatasetOptions: """
  python -m dataset --data_root ../book_dataset
  python -m dataset --data_root demo
""",
    DoctorOptions: """
  python -m doctor
  python -m doctor --output_dir /data/runs --cache_dir /data/cache  # whether those disks have room
""",
}


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line; options may be written with - or _ between words."""

    def error(self, message):
        unknown = re.match(r"unrecognized arguments: (-*)([^\s=]+)", message)  # less its value: that may be a key
        if unknown and unknown[1]:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            near = difflib.get_close_matches(f"--{unknown[2]}", known, n=1)
            message = f"unknown option {unknown[1]}{unknown[2]}"
            message += f"; did you mean {near[0]}?" if near else "; see --help"
        elif unknown:  # the word itself may be a key, too
            message = "a word stands where an option should be; write --option value or --option=value"
        raise UserError(message)


def build_parser(cls):
    """An argparse parser with one argument for each field of the options class `cls`, grouped by where it stands."""
    parser = Parser(
        prog=f"python -m {SCRIPTS[cls]}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        usage="%(prog)s [--option value ...]",
        epilog="Booleans: --flag, --no-flag, --flag True, --flag=False.\n\nexamples:" + EXAMPLES[cls].rstrip(),
    )
    parser.add_argument("--config", metavar="FILE.json", help="load saved options; the command line wins")
    for owner in cls.__mro__[:-1]:
        group = parser.add_argument_group(owner.__doc__)
        for field in dataclasses.fields(owner):
            if field.name not in owner.__annotations__:
                continue
            meta = field.metadata
            default = f"None = {meta['none']}" if field.default is None else field.default
            text = f"{meta['help']} (default: {default})".replace("%", "%%")
            kind = dict(help=text, metavar={"int": "N", "float": "X", "bool": "True|False"}.get(field.type, "TEXT"))
            if meta["choices"]:
                kind["metavar"] = "|".join(meta["choices"])
            if field.type == "bool":
                kind.update(nargs="?", const="True")
                group.add_argument(
                    f"--no-{field.name}", dest=field.name, action="store_const", const="False", help=argparse.SUPPRESS
                )
            group.add_argument(f"--{field.name}", **kind)
    return parser


def normalize_argv(argv):
    """--max-steps=3 -> --max_steps=3, --no_train_unet -> --no-train_unet; values are left alone."""
    result = []
    for word in argv:
        match = re.fullmatch(r"--(no[-_])?([A-Za-z][\w-]*)(=.*)?", word, re.DOTALL)
        if match:
            no, name, value = match.groups(default="")
            word = "--" + ("no-" if no and name else "") + name.replace("-", "_") + value
        result.append(word)
    return result


def read_command_line(cls, argv=None):
    """{name: checked value} of what the user typed or put in --config, and of what a --preset sets beside that.

    argv: a list, or None for sys.argv[1:].
    """
    words = vars(build_parser(cls).parse_args(normalize_argv(sys.argv[1:] if argv is None else argv)))
    path = words.pop("config", None)
    given = checked(cls, load_json(path), f"{path}: ") if path else {}
    if "wandb_key" in given:
        raise UserError(f"{path} holds a wandb_key: keys do not belong in files, set WANDB_API_KEY instead")
    given |= checked(cls, words, "")
    if "wandb_key" in given:
        hide_key(given["wandb_key"])
        given.setdefault("tracker", "wandb")
    return given | set_by_preset(cls, given)


def set_by_preset(cls, given):
    """{name: value} of what a --preset sets beside what was given, which is printed; {} without one."""
    preset = given.get("preset")
    if not preset:
        return {}
    if given.get("run_id"):
        raise UserError(
            "--preset is for a new run, and a resumed one keeps what it has: leave it out, or give flags that may "
            "change (--batch_size with --grad_acc_steps, --grad_ckpt, --ema_device, --vae_tiling)"
        )
    chosen = config.preset_options(preset, given, {field.name for field in dataclasses.fields(cls)})
    told = " ".join(f"--{name} {value}" for name, value in chosen.items()) or "nothing, since all was given"
    print(f"preset {preset} sets {told}", file=sys.stderr)
    return chosen


def hide_key(key):
    """Move the wandb key from the script's arguments, which wandb would write down, to the environment, where wandb and
    the processes that we launch look for it."""
    print("note: a key on the command line can be read in `ps` and in your shell's history; ", end="", file=sys.stderr)
    print("the environment variable WANDB_API_KEY is safer", file=sys.stderr)
    os.environ["WANDB_API_KEY"] = key
    words = []
    for word in normalize_argv(sys.argv):
        if words[-1:] == ["--wandb_key"]:
            words.pop()
        elif not word.startswith("--wandb_key="):
            words.append(word)
    if not any(re.match(r"--tracker(=|$)", word) for word in words):
        words += ["--tracker", "wandb"]
    sys.argv[:] = words


def parse(cls, argv=None):
    """(options, given) from the command line. UserError for any mistake."""
    given = read_command_line(cls, argv)
    return check(cls(**given)), given
