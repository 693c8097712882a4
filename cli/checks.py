"""Checks of options, before any work: of each value by itself when it is read, and then of all of them together.

Only the standard library is imported here.
"""

from __future__ import annotations

import dataclasses
import math
import re
from typing import TYPE_CHECKING, Any, TypeVar

import config
from common.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Options = TypeVar("Options", bound="DataclassInstance")
LARGEST = 1e15  # number in an option: far beyond any that makes sense, and the product of two is still a float32

# ---------------------------------------------------------------------------------------------------------------------
# Text or JSON value -> value of an option. Each parser raises ValueError that says what was expected.


def parse_bool(value: Any) -> bool:
    """True for true, 1, yes and on, False for false, 0, no and off, in any case."""
    word = str(value).strip().lower()
    if word in ("true", "1", "yes", "on"):
        return True
    if word in ("false", "0", "no", "off"):
        return False
    raise ValueError("expected True or False")


def parse_int(value: Any) -> int:
    """A whole number, written in digits; not 2.0 and not 1e3."""
    if isinstance(value, (bool, float)) or not re.fullmatch(r"[+-]?\d{1,100}", str(value).strip()):
        raise ValueError("expected a whole number")
    return int(value)


def parse_float(value: Any) -> float:
    """A finite number, of a size that the networks' arithmetic can take."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("expected a number")
    if abs(number) > LARGEST:
        raise ValueError(f"expected a number of at most {LARGEST:g}")
    return number


def parse_str(value: Any) -> str:
    """Text that is not blank and can be written as UTF-8."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected some text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("expected text in UTF-8") from None
    return value


PARSERS = {"bool": parse_bool, "int": parse_int, "float": parse_float, "str": parse_str}


def check_value(field: dataclasses.Field[Any], raw: Any) -> Any:
    """The value of one option from text or JSON. ValueError says what was expected."""
    facts = field.metadata
    if raw is None and field.default is None:
        return None
    value = PARSERS[type_name(field)](raw)
    if facts["choices"] and value not in facts["choices"]:
        raise ValueError("expected one of " + ", ".join(map(str, facts["choices"])))
    if facts["ge"] is not None and value < facts["ge"]:
        raise ValueError(f"expected at least {facts['ge']}")
    if facts["gt"] is not None and value <= facts["gt"]:
        raise ValueError(f"expected more than {facts['gt']}")
    if facts["le"] is not None and value > facts["le"]:
        raise ValueError(f"expected at most {facts['le']}")
    return facts["normalize"](value) if facts["normalize"] else value


def type_name(field: dataclasses.Field[Any]) -> str:
    """bool, int, float or str: the type of an option's value where it is not None."""
    return str(field.type).removesuffix(" | None")


def split_list(text: str) -> list[str]:
    """The entries of a list that is separated by commas, in order, without blanks and repetitions."""
    return list(dict.fromkeys(entry.strip() for entry in text.split(",") if entry.strip()))


def chosen_metrics(options: config.InferenceOptions) -> list[str]:
    """The metrics that --metrics selects, in the order of config.METRICS and MODEL_METRICS.

    UserError if it names another one or none.
    """
    known = (*config.METRICS, *config.MODEL_METRICS)
    names = split_list(options.metrics)
    for name in names:
        if name not in ("all", *known):
            raise UserError(f"--metrics {name}: expected all, or some of {', '.join(known)}, separated by commas")
    if not names:
        raise UserError(f"--metrics: name at least one of {', '.join(known)}, or all")
    return [name for name in known if name in names or ("all" in names and name in config.METRICS)]


# ---------------------------------------------------------------------------------------------------------------------
# Options together


def check(options: Options) -> Options:
    """The same options, if they can be combined. UserError says which can't, and what to change."""

    def value(name: str, missing: Any = None) -> Any:
        return getattr(options, name, missing)

    if isinstance(options, config.TrainingOptions):
        check_training(options)
    if isinstance(options, config.InferenceOptions | config.ReportOptions):
        given = any(getattr(options, field.name) != field.default for field in dataclasses.fields(config.TypeOptions))
        if given and not options.typeset:
            raise UserError("--typeset_width, --typeset_font and --typeset_place: add --typeset True")
    if isinstance(options, config.InferenceOptions):
        check_inference(options)
    if isinstance(options, config.TypesetOptions):
        if not options.picture:
            raise UserError("which picture? python -m typeset PICTURE --title TITLE, or FOLDER --books FILE.csv")
        if bool(options.title) == bool(options.books):
            raise UserError("give --title TITLE for one picture, or --books FILE.csv for a folder")
        if options.author and options.books:
            raise UserError("--author is for one picture, and --books has a column of them: leave one of the two out")
    if isinstance(options, config.ExportOptions):
        check_export(options)
    if (
        isinstance(options, config.RunsOptions)
        and not options.run_id
        and (options.publish or options.prune or options.verify)
    ):
        raise UserError("--publish, --prune and --verify work on one run: say which with --run_id")
    if value("tracker") not in (None, "wandb") and value("wandb_key"):
        raise UserError(f"--wandb_key turns wandb on, and --tracker says {value('tracker')}: leave one of the two out")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", value("wandb_project", "-")):
        raise UserError("--wandb_project takes letters, digits, '-', '_' and '.', 128 at most")
    if value("summarize_desc") and not value("include_desc"):
        raise UserError("--summarize_desc shortens what --include_desc puts into the prompt: add --include_desc")
    if value("negative_prompt") and value("guidance_scale") == 1:
        raise UserError(
            "--negative_prompt has no effect with --guidance_scale 1, which is no guidance: give a larger "
            "--guidance_scale, or leave --negative_prompt out"
        )
    if value("fid_features") == "efficientnet" and value("fid_resize") == "legacy":
        raise UserError(
            "--fid_resize legacy repeats what pytorch-fid does with Inception: with --fid_features efficientnet use "
            "--fid_resize clean"
        )
    if value("fid_weights") and value("fid_features") != "inception":
        raise UserError("--fid_weights belongs to --fid_features inception: leave one of the two out")
    return options


def check_training(options: config.TrainingOptions) -> None:
    """UserError if the options of training can't be combined."""
    if not (options.train_unet or options.train_text_encoder or options.train_lettering):
        raise UserError(
            "nothing to train: give --train_unet True, --train_text_encoder True, --train_lettering True, or several"
        )
    if options.lr_lettering != config.TrainingOptions.lr_lettering and not options.train_lettering:
        raise UserError(
            "--lr_lettering is about lettering that is trained: add --train_lettering True, or leave it out"
        )
    if options.cache_text and options.train_text_encoder:
        raise UserError(
            "--cache_text: what the text encoder makes of a prompt changes as it learns: give --train_text_encoder "
            "False, or leave --cache_text out"
        )
    if options.warmup_steps and options.lr_scheduler == "constant":
        raise UserError("--warmup_steps has no effect on --lr_scheduler constant: use constant_with_warmup")
    if (options.json or options.vram_gb) and not options.plan:
        raise UserError("--json and --vram_gb are about --plan: add --plan, or leave them out")
    if options.run_id and options.run_name:
        raise UserError("--run_id resumes a run and --run_name starts one: give one of the two")
    if options.run_name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", options.run_name):
        raise UserError("--run_name takes letters, digits, '-', '_' and '.', 100 at most")
    check_updates(options)
    check_lora(options)
    check_loss(options)
    check_decorrelation(options)


def check_inference(options: config.InferenceOptions) -> None:
    """UserError if the options of drawing and scoring can't be combined."""
    chosen_metrics(options)
    if "clip" in split_list(options.metrics) and not options.clip_model:
        raise UserError("--metrics clip needs a CLIP model: give --clip_model, a hub id or a folder")
    if not options.calc_fid and (options.metrics != "all" or options.clip_model):
        raise UserError("--metrics and --clip_model are about scores: add --calc_fid True, or leave them out")
    check_prompts(options)


def check_prompts(options: config.InferenceOptions) -> None:
    """UserError for options on prompts that can't be combined."""
    if options.prompt and options.prompts_file:
        raise UserError("--prompt is one prompt and --prompts_file has many: give one of the two")
    if options.prompt and options.calc_fid:
        raise UserError("--prompt draws one cover and --calc_fid scores many: give one of the two")
    if options.prompts_file and options.calc_fid:
        raise UserError("--prompts_file draws prompts and --calc_fid scores covers of books: give one of the two")
    if options.num_images > 1 and not (options.prompt or options.prompts_file):
        raise UserError("--num_images is about --prompt and --prompts_file: add one of them, or leave it out")
    if options.author and not options.title:
        raise UserError("--author stands below a title: add --title TITLE, or leave --author out")
    if options.title and not options.prompt:
        raise UserError("--title and --author are of the book of one --prompt: add that, or leave them out")
    if options.typeset and options.prompt and not options.title:
        raise UserError("--typeset True sets a title as type, and --prompt has none: add --title TITLE")
    if options.typeset and options.prompts_file:
        raise UserError(
            "--typeset True is for books with titles, and --prompts_file has none: leave one of the two out; "
            "python -m typeset PICTURE --title TITLE sets type on a picture afterwards"
        )


def check_loss(options: config.TrainingOptions) -> None:
    """UserError for options of the loss and of the noise that have no effect, or can't be combined."""
    if options.debiased_loss and options.snr_gamma:
        raise UserError("--debiased_loss and --snr_gamma are two weightings of the timesteps: leave one of the two out")
    if options.huber_c != config.TrainingOptions.huber_c and options.loss != "huber":
        raise UserError("--huber_c belongs to --loss huber: add that, or leave it out")
    if options.zero_terminal_snr and options.prediction_type == "epsilon":
        raise UserError(
            "--zero_terminal_snr needs v-prediction: give --prediction_type v_prediction, or leave one of the two out"
        )


def check_decorrelation(options: config.TrainingOptions) -> None:
    """UserError if --decorrelate can't be combined with other options."""
    if not options.decorrelate:
        if options.decorrelate_by != config.TrainingOptions.decorrelate_by:
            raise UserError("--decorrelate_by: it says how --decorrelate works: add that, such as 0.1, or leave it out")
        return
    if not options.train_text_encoder:
        raise UserError(
            "--decorrelate changes the text encoder: give --train_text_encoder True, or leave --decorrelate out"
        )
    if options.fused_backward:
        raise UserError(
            "--fused_backward updates each weight as soon as one backward pass gives its gradient, and --decorrelate "
            "has passes of its own: give --fused_backward False, or leave --decorrelate out"
        )


def check_updates(options: config.TrainingOptions) -> None:
    """UserError if --fused_backward or --weights_dtype bf16 can't be combined with other options. See
    trainer/optimizers.py."""
    if options.fused_backward:
        for name, needed in {"grad_acc_steps": 1, "num_gpus": 1}.items():
            if getattr(options, name) != needed:
                raise UserError(
                    f"--fused_backward updates each weight as soon as one batch gives its gradient: give --{name} "
                    f"{needed} (now {getattr(options, name)}), or --fused_backward False"
                )
        if options.mixed_precision == "fp16":
            raise UserError(
                "--fused_backward can't use the loss scaler that fp16 needs: give --mixed_precision bf16 or no, "
                "or --fused_backward False"
            )
    if options.weights_dtype == "bf16" and options.mixed_precision not in ("auto", "bf16"):
        raise UserError(
            f"--weights_dtype bf16 computes in bf16, and --mixed_precision is {options.mixed_precision}: give "
            "--mixed_precision bf16, or --weights_dtype fp32"
        )


def check_lora(options: config.TrainingOptions) -> None:
    """UserError if the options of LoRA can't be combined with each other or with the rest."""
    if options.lora_rank is None:
        for name in ("lora_alpha", "lora_targets", "lora_dropout"):
            if getattr(options, name) != getattr(config.TrainingOptions, name):
                raise UserError(f"--{name} is about LoRA adapters: add --lora_rank, such as 16, or leave it out")
        return
    if not (options.train_unet or options.train_text_encoder):
        raise UserError(
            "--lora_rank: there is nothing to put adapters into, since lettering is trained as a whole: give "
            "--train_unet True or --train_text_encoder True, or leave --lora_rank out"
        )
    if options.lora_targets == "all+conv" and not options.train_unet:
        raise UserError("--lora_targets all+conv: the text encoder has no convolutions; give all, or --train_unet True")
    if options.weights_dtype == "bf16":
        raise UserError(
            "--weights_dtype bf16 is about weights that are trained, and LoRA adapters stay in fp32: leave it out; "
            "--mixed_precision is the precision of the model below them"
        )


def check_export(options: config.ExportOptions) -> None:
    """UserError if the options of export can't be combined."""
    to_hub = options.to == "hub"
    if to_hub and not options.repo:
        raise UserError("--to hub: give the repository, --repo OWNER/NAME")
    if not to_hub and (options.repo or options.private or options.dry_run):
        raise UserError("only uploads have --repo, --private, --dry_run: add --to hub, or leave them out")
    if not to_hub and not options.target:
        what = "FILE.safetensors" if options.to in ("single", "lora") else "FOLDER"
        raise UserError(f"where to? python -m export --to {options.to} {what}")
    if to_hub and options.target:
        raise UserError(f"--to hub writes no file here: leave out {options.target}")
    if options.dtype and options.to == "diffusers":
        raise UserError("--to diffusers copies the weights as they are: for another precision give --to merged")
