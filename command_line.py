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
import logging
import os
import re
import shlex
import sys

import presets
from checks import check, check_value
from config import (
    DatasetOptions,
    DoctorOptions,
    InferenceOptions,
    ReportOptions,
    RunsOptions,
    StatsOptions,
    TrackingOptions,
    TrainingOptions,
    UserError,
)
from files import read_json, write_json

SCRIPTS = {
    TrainingOptions: "training",
    InferenceOptions: "sd_inference",
    StatsOptions: "precalc_fid_stats",
    ReportOptions: "report",
    RunsOptions: "runs",
    DatasetOptions: "dataset",
    DoctorOptions: "doctor",
}
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


def known_fields():
    """name -> field, over all scripts."""
    return {field.name: field for cls in SCRIPTS for field in dataclasses.fields(cls)}


def load_json(path):
    """Raw options of a --config or config.json file. UserError if it can't be read or has an unknown option."""
    raw = read_json(path)
    for name in raw.keys() - known_fields().keys():
        near = difflib.get_close_matches(name, known_fields(), n=1)
        raise UserError(f"{path}: unknown option '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
    return raw


def checked(cls, raw, where):
    """{name: checked value} for those of the raw options that `cls` has. UserError names the option and `where`."""
    values = {}
    for field in dataclasses.fields(cls):
        if field.name in raw:
            try:
                values[field.name] = check_value(field, raw[field.name])
            except ValueError as problem:
                got = "" if "wandb_key" in f"{field.name} {raw[field.name]}" else f", got {raw[field.name]!r}"
                raise UserError(f"{where}--{field.name}: {problem}{got}") from None
    return values


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
    chosen = presets.flags(preset, given, {field.name for field in dataclasses.fields(cls)})
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


def inherit(cls, saved_path, given, names=None):
    """Options of a run with `given` on top: what the user did not say comes from the run's config.json.

    names: the options to take from the run; None = all that are saved.
    """
    saved = {k: v for k, v in load_json(saved_path).items() if names is None or k in names}
    return check(cls(**(checked(cls, saved, f"{saved_path}: ") | given)))


def inherit_tracker(cls, saved_path, given):
    """The options that were given, and the tracker of the run, if it is on this disk."""
    tracking = {field.name for field in dataclasses.fields(TrackingOptions)}
    return inherit(cls, saved_path, given, tracking) if saved_path.exists() else check(cls(**given))


def refuse_changes(cls, saved_path, given):
    """UserError that names the first given option which would change what the run has already done."""
    saved = checked(cls, load_json(saved_path), f"{saved_path}: ")
    for field in dataclasses.fields(cls):
        name = field.name
        if name in given and field.metadata["resume"] == "fixed" and field.metadata["saved"]:
            was = saved.get(name, field.default)
            if given[name] != was:
                raise UserError(
                    f"--{name} {given[name]} would change the past of this run, which has {was}: "
                    f"leave --{name} out to go on, or start a new run without --run_id"
                )


def hold_to(path, asked):
    """Keep what a folder is made for, {option: value}, in the JSON file `path`. UserError if it was made for something
    else: what lies there would pass for what is asked for now."""
    before = read_json(path) if path.exists() else asked
    for name, value in asked.items():
        if before.get(name) != value:
            raise UserError(
                f"{path.parent} was made with --{name} {before.get(name)}, and now it is {value}: choose another "
                "folder, or remove this one"
            )
    write_json(path, asked)


def command(cls, values, always=()):
    """The command line that gives the script of `cls` these options {name: value}: those that are not the default, and
    those named in `always`; nothing that is never saved."""
    words = ["python", "-m", SCRIPTS[cls]]
    for field in dataclasses.fields(cls):
        value = values.get(field.name, field.default)
        if field.metadata["saved"] and (value != field.default or field.name in always):
            words += [f"--{field.name}", str(value)]
    return shlex.join(words)


def of_run(script, options, run):
    """The command line that has a script go on with a run. run: its folder."""
    return f"python -m {script} --output_dir {shlex.quote(options.output_dir)} --run_id {run.name}"


# ---------------------------------------------------------------------------------------------------------------------
# How a script begins and ends


def launch_on_gpus(num_gpus, script, argv=None):
    """Run `script` again in num_gpus processes through `accelerate launch` and never return; nothing to do for one
    process, or inside a launched one. UserError if the machine has fewer GPUs."""
    if num_gpus == 1 or "LOCAL_RANK" in os.environ:
        return
    import torch

    if torch.cuda.device_count() < num_gpus:
        raise UserError(f"--num_gpus {num_gpus}: this machine has {torch.cuda.device_count()} that torch can use")
    words = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_gpus)]
    os.execv(sys.executable, [*words, script, *(sys.argv[1:] if argv is None else argv)])


def run_script(main):
    """Run a script's main() and leave: a UserError becomes one line on standard error and exit status 2."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of 4-bit kernels that we do not use
    try:
        code = main()
    except UserError as problem:
        # a DataLoader worker hands its error on inside the text of a traceback: the sentence is at the end
        print("error: " + " ".join(str(problem).rsplit("UserError: ", 1)[-1].split()), file=sys.stderr)
        code = 2
    except OSError as problem:  # BrokenPipeError: `... | head` closed our output, and nothing is wrong
        if isinstance(problem, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        else:
            print(f"error: {problem}", file=sys.stderr)
            code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)
