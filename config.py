"""Every option of every script, once: dataclass fields -> argparse -> checked values -> JSON.

Only the standard library is imported here, so `--help` answers at once.

    options, given = config.parse(config.TrainingOptions)

`options` is a frozen dataclass; `given` holds just what the user typed or put in `--config FILE.json`, so that a
resumed run can tell a wish from a default. Precedence: default < the run's own config.json < --config < command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
import logging
import math
import os
import pathlib
import re
import sys
from dataclasses import dataclass


class UserError(Exception):
    """A mistake a person can mend. The message is one line: what, where, how to mend it. Scripts exit with 2."""


def option(default, help, *, none="", choices=None, least=None, above=None, most=None, resume="fixed", saved=True):
    """One option: its default, its meaning with its unit, and (for None) what None stands for.

    least/above/most bound numbers (>=, >, <=). resume="free" may change when a run is resumed without changing what
    was already learned; "fixed" may not. saved=False keeps it out of config.json (identity of a run, not a setting).
    """
    meta = dict(help=help, none=none, choices=choices, least=least, above=above, most=most, resume=resume, saved=saved)
    return dataclasses.field(default=default, metadata=meta)


# ---------------------------------------------------------------------------------------------------------------------
# The options


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """data"""

    data_root: str = option(
        "../book_dataset", "data folder in the Goodreads layout; 'demo' = covers drawn by code", resume="free"
    )
    cache_dir: str = option(
        None, "folder for derived files", none="the user's cache folder, ~/.cache/book-covers", resume="free"
    )
    resolution: str = option("512x768", "cover size in pixels, WIDTHxHEIGHT or one number; multiples of 8")
    test_fraction: float = option(
        0.1, "share of books held out, where df_train.csv/df_test.csv do not say", above=0, most=0.9
    )
    min_ascii: float = option(
        0.97, "least share of plain ASCII characters in title and description; 0 keeps every language", least=0, most=1
    )
    include_desc: bool = option(False, "let the prompt end with as much of the description as fits into 77 tokens")
    summarize_desc: bool = option(
        False, "with --include_desc: shorten descriptions with the --summarizer model first (cached)"
    )
    summarizer: str = option("facebook/bart-large-cnn", "hub id or folder of the transformers summarizer")
    num_workers: int = option(
        None, "threads and processes that read images", none="one for each core, at most 8", least=0, resume="free"
    )


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """model and run"""

    pretrained_model: str = option(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "hub id or local folder of a Stable Diffusion 1.x pipeline; 'tiny' = random weights, for tests",
    )
    output_dir: str = option("runs", "folder where runs live", resume="free")
    num_gpus: int = option(1, "processes to launch through Accelerate, one for each GPU", least=1)
    batch_size: int = option(4, "covers that go through the model at once, on each GPU", least=1)
    seed: int = option(0, "every random choice is a function of this seed and a position", least=0)
    mixed_precision: str = option(
        "auto",
        "arithmetic of the model; auto = bf16 where the GPU can, else fp16, and none on a CPU",
        choices=("auto", "no", "bf16", "fp16"),
    )


@dataclass(frozen=True, kw_only=True)
class DrawingOptions:
    """drawing"""

    steps: int = option(25, "sampling steps for each cover", least=1)
    guidance_scale: float = option(7.5, "classifier-free guidance scale; 1 = off", least=1)
    scheduler: str = option("dpm++", "sampler", choices=("dpm++", "ddim", "pndm", "euler"))
    num_samples: int = option(4, "held-out books in previews and in the grid", least=1, resume="free")


@dataclass(frozen=True, kw_only=True)
class FidOptions:
    """score"""

    fid_stats_path: str = option("fid_stats.npz", "file with the statistics of real covers")
    fid_features: str = option(
        "inception",
        "inception = the official FID network; efficientnet = ImageNet weights from pip, works offline, not FID",
        choices=("inception", "efficientnet"),
    )
    fid_weights: str = option(None, "file with the official FID Inception weights", none="downloaded by pytorch-fid")
    fid_resize: str = option(
        "clean", "clean = antialiased; legacy = as pytorch-fid does, to the digit", choices=("clean", "legacy")
    )
    fid_batch_size: int = option(50, "images that go through the feature network at once", least=1)
    split: str = option("test", "rows of the data folder to use", choices=("train", "test", "all"))


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(DrawingOptions, ModelOptions, DataOptions):
    """training"""

    run_id: str = option(None, "the run to resume", none="start a new run", saved=False)
    run_name: str = option(None, "id for the new run", none="made from date and time", saved=False)
    train_unet: bool = option(False, "fine-tune the UNet")
    train_text_encoder: bool = option(True, "fine-tune the CLIP text encoder")
    num_examples: int = option(None, "covers to train on, the first of the stable order", none="all", least=1)
    epochs: int = option(1, "passes over the training covers", least=1, resume="free")
    max_steps: int = option(
        None, "optimizer updates after which to stop", none="as many as --epochs makes", least=1, resume="free"
    )
    grad_acc_steps: int = option(1, "batches whose gradients are averaged into one optimizer update", least=1)
    lr: float = option(1e-5, "learning rate of the UNet", above=0)
    lr_text_encoder: float = option(1e-5, "learning rate of the text encoder", above=0)
    lr_scheduler: str = option(
        "constant",
        "learning-rate schedule, counted in optimizer updates",
        choices=("constant", "constant_with_warmup", "linear", "cosine"),
    )
    warmup_steps: int = option(0, "optimizer updates of linear warm-up (not with 'constant')", least=0)
    optimizer: str = option("adamw8bit", "8-bit AdamW of bitsandbytes, or plain AdamW", choices=("adamw8bit", "adamw"))
    weight_decay: float = option(0.01, "decoupled weight decay of AdamW", least=0)
    max_grad_norm: float = option(1.0, "gradients are clipped to this norm, over all trained parts", above=0)
    snr_gamma: float = option(
        None, "min-SNR-gamma weighting of the loss, arXiv:2303.09556; 5 is usual", none="every timestep alike", above=0
    )
    caption_dropout: float = option(
        0.1, "share of prompts left empty, so that guidance has an unconditional model", least=0, most=1
    )
    grad_ckpt: bool = option(True, "recompute activations in the backward pass to save memory", resume="free")
    save_every: int = option(500, "optimizer updates between saved versions", least=1, resume="free")
    validate_every: int = option(
        250, "optimizer updates between validation losses; each version gets one, too", least=1, resume="free"
    )
    sample_every: int = option(500, "optimizer updates between preview covers; 0 = none", least=0, resume="free")
    keep_versions: int = option(
        3, "versions that stay besides 'best' and 'latest', newest first", least=0, resume="free"
    )
    validation_rows: int = option(64, "held-out covers in the validation loss", least=1)


@dataclass(frozen=True, kw_only=True)
class InferenceOptions(FidOptions, DrawingOptions, ModelOptions, DataOptions):
    """inference"""

    run_id: str = option(None, "the run whose version is loaded", none="the newest run in --output_dir", saved=False)
    version: str = option("latest", "v0 = the pretrained start, v1 ..., latest, best, or a folder", saved=False)
    save_dir: str = option(None, "folder for the pictures", none="'covers' in the run's folder")
    prompt: str = option(None, "draw this one cover", none="a grid: prompt templates x held-out books")
    calc_fid: bool = option(False, "draw --num_imgs covers of --split and score them against --fid_stats_path")
    num_imgs: int = option(None, "covers to draw for the score, the first of the stable order", none="all", least=1)


@dataclass(frozen=True, kw_only=True)
class StatsOptions(FidOptions, DataOptions):
    """statistics"""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(DataOptions):
    """check"""

    pretrained_model: str = option(
        "tiny", "whose tokenizer counts the prompts' tokens: a hub id or folder; 'tiny' = the built-in toy tokenizer"
    )


EXAMPLES = {
    TrainingOptions: """
  python -m training --num_gpus=1 --train_text_encoder True --train_unet False
  python -m training --train_unet --train_text_encoder --lr 1e-5 --lr_text_encoder 2e-6 --epochs 8
  python -m training --run_id=ID                                    # go on where run ID stopped
  python -m training --pretrained_model tiny --data_root demo --resolution 64x96 --max_steps 20   # no GPU needed
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
    DatasetOptions: """
  python -m dataset --data_root ../book_dataset
  python -m dataset --data_root demo
""",
}


# ---------------------------------------------------------------------------------------------------------------------
# Text -> value. Each parser takes the text and returns the value or raises ValueError with what was expected.


def parse_bool(text):
    """True for true/1/yes/on, False for false/0/no/off, in any case; anything else is an error."""
    word = str(text).strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError("expected True or False")


def parse_int(text):
    if isinstance(text, (bool, float)) or not re.fullmatch(r"[+-]?\d+", str(text).strip()):
        raise ValueError("expected a whole number")
    return int(text)


def parse_float(text):
    try:
        value = math.nan if isinstance(text, bool) else float(text)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("expected a number")
    return value


def parse_str(text):
    if not isinstance(text, str) or not text.strip():
        raise ValueError("expected some text")
    return text


PARSERS = {"bool": parse_bool, "int": parse_int, "float": parse_float, "str": parse_str}


def parse_size(text):
    """'512x768' or '512' -> (width, height) in pixels. ValueError unless both are multiples of 8, 32 to 4096."""
    match = re.fullmatch(r"(\d+)(?:[xX](\d+))?", str(text).strip())
    width, height = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(32 <= side <= 4096 and side % 8 == 0 for side in (width, height)):
        raise ValueError("expected WIDTHxHEIGHT or one number, multiples of 8 from 32 to 4096, such as 512x768")
    return width, height


def check_value(field, raw):
    """The checked value of one option from text or JSON. ValueError says what was expected."""
    meta = field.metadata
    if raw is None and field.default is None:
        return None
    value = PARSERS[field.type](raw)
    if meta["choices"] and value not in meta["choices"]:
        raise ValueError("expected one of " + ", ".join(meta["choices"]))
    if meta["least"] is not None and value < meta["least"]:
        raise ValueError(f"expected at least {meta['least']}")
    if meta["above"] is not None and value <= meta["above"]:
        raise ValueError(f"expected more than {meta['above']}")
    if meta["most"] is not None and value > meta["most"]:
        raise ValueError(f"expected at most {meta['most']}")
    if field.name == "resolution":
        value = "{}x{}".format(*parse_size(value))
    return value


# ---------------------------------------------------------------------------------------------------------------------
# Command line and JSON -> options


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line; options may be written with - or _ between words."""

    def error(self, message):
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            near = difflib.get_close_matches(unknown[1], known, n=1)
            message = f"unknown option {unknown[1]}" + (f"; did you mean {near[0]}?" if near else "; see --help")
        raise UserError(message)


def build_parser(cls):
    """An argparse parser with one argument for each field of the options class `cls`, grouped by where it stands."""
    script = {"TrainingOptions": "training", "InferenceOptions": "sd_inference", "StatsOptions": "precalc_fid_stats"}
    parser = Parser(
        prog=f"python -m {script.get(cls.__name__, 'dataset')}",
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
    classes = (TrainingOptions, InferenceOptions, StatsOptions, DatasetOptions)
    return {field.name: field for cls in classes for field in dataclasses.fields(cls)}


def load_json(path):
    """Raw options of a --config or config.json file. UserError if it can't be read or isn't an object."""
    try:
        raw = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise UserError(f"can't read the options in {path}: {problem}") from None
    if not isinstance(raw, dict):
        raise UserError(f'{path} must hold one JSON object with an option a key, such as {{"seed": 1}}')
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
                raise UserError(f"{where}--{field.name}: {problem}, got {raw[field.name]!r}") from None
    return values


def read_command_line(cls, argv=None):
    """{name: checked value} of what the user typed or put in --config. argv: a list, or None for sys.argv[1:]."""
    words = vars(build_parser(cls).parse_args(normalize_argv(sys.argv[1:] if argv is None else argv)))
    path = words.pop("config", None)
    given = checked(cls, load_json(path), f"{path}: ") if path else {}
    return given | checked(cls, words, "")


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


def to_json(options):
    """The options as a dict for config.json, less those that name a run."""
    return {f.name: getattr(options, f.name) for f in dataclasses.fields(options) if f.metadata["saved"]}


def check(options):
    """The same options, if they go together. UserError says which do not and what to change."""

    def value(name, missing=None):
        return getattr(options, name, missing)

    if isinstance(options, TrainingOptions):
        if not (options.train_unet or options.train_text_encoder):
            raise UserError("nothing to train: give --train_unet True, --train_text_encoder True, or both")
        if options.warmup_steps and options.lr_scheduler == "constant":
            raise UserError("--warmup_steps has no effect on --lr_scheduler constant: use constant_with_warmup")
        if options.run_id and options.run_name:
            raise UserError("--run_id resumes a run and --run_name starts one: give one of the two")
        if options.run_name and not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", options.run_name):
            raise UserError("--run_name takes letters, digits, '-', '_' and '.', 100 at most")
    if value("summarize_desc") and not value("include_desc"):
        raise UserError("--summarize_desc shortens what --include_desc puts into the prompt: add --include_desc")
    if value("prompt") and value("calc_fid"):
        raise UserError("--prompt draws one cover and --calc_fid scores many: give one of the two")
    if value("fid_weights") and value("fid_features") != "inception":
        raise UserError("--fid_weights belongs to --fid_features inception: leave one of the two out")
    return options


# ---------------------------------------------------------------------------------------------------------------------
# What every script shares at its edges


def size(options):
    """(width, height) of covers in pixels."""
    return parse_size(options.resolution)


def cache_dir(options):
    """Path of the folder for derived files, made when needed. UserError if it can't be made."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    folder = pathlib.Path(options.cache_dir or pathlib.Path(base) / "book-covers").expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"can't make the cache folder {folder}: {problem}; choose another with --cache_dir") from None
    return folder


def num_workers(options):
    """How many threads or processes read images."""
    return min(8, os.cpu_count() or 1) if options.num_workers is None else options.num_workers


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
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `... | head` closed our output: nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
