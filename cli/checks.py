"""Options are checked before any work: each value by itself as it is read, then whether they go together.

Only the standard library is imported here.
"""

from __future__ import annotations

import math
import re

import config
from common.errors import UserError

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
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("expected text in UTF-8") from None
    return text


PARSERS = {"bool": parse_bool, "int": parse_int, "float": parse_float, "str": parse_str}


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
        value = "{}x{}".format(*config.parse_size(value))
    return value


def check(options):
    """The same options, if they go together. UserError says which do not and what to change."""

    def value(name, missing=None):
        return getattr(options, name, missing)

    if isinstance(options, config.TrainingOptions):
        if not (options.train_unet or options.train_text_encoder):
            raise UserError("nothing to train: give --train_unet True, --train_text_encoder True, or both")
        if options.warmup_steps and options.lr_scheduler == "constant":
            raise UserError("--warmup_steps has no effect on --lr_scheduler constant: use constant_with_warmup")
        if (options.json or options.vram_gb) and not options.plan:
            raise UserError("--json and --vram_gb are about --plan: add --plan, or leave them out")
        if options.run_id and options.run_name:
            raise UserError("--run_id resumes a run and --run_name starts one: give one of the two")
        if options.run_name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", options.run_name):
            raise UserError("--run_name takes letters, digits, '-', '_' and '.', 100 at most")
        check_updates(options)
    if isinstance(options, config.InferenceOptions):
        config.chosen_metrics(options)
        if "clip" in config.words(options.metrics) and not options.clip_model:
            raise UserError("--metrics clip needs a CLIP model: give --clip_model, a hub id or a folder")
        if not options.calc_fid and (options.metrics != "all" or options.clip_model):
            raise UserError("--metrics and --clip_model are about scores: add --calc_fid True, or leave them out")
    if isinstance(options, config.RunsOptions) and (options.publish or options.prune) and not options.run_id:
        raise UserError("--publish and --prune work on one run: say which with --run_id")
    if value("tracker") not in (None, "wandb") and value("wandb_key"):
        raise UserError(f"--wandb_key turns wandb on, and --tracker says {options.tracker}: leave one of the two out")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", value("wandb_project", "-")):
        raise UserError("--wandb_project takes letters, digits, '-', '_' and '.', 128 at most")
    if value("summarize_desc") and not value("include_desc"):
        raise UserError("--summarize_desc shortens what --include_desc puts into the prompt: add --include_desc")
    if value("prompt") and value("calc_fid"):
        raise UserError("--prompt draws one cover and --calc_fid scores many: give one of the two")
    if value("fid_features") == "efficientnet" and value("fid_resize") == "legacy":
        raise UserError(
            "--fid_resize legacy repeats what pytorch-fid does with Inception: with --fid_features efficientnet use "
            "--fid_resize clean"
        )
    if value("fid_weights") and value("fid_features") != "inception":
        raise UserError("--fid_weights belongs to --fid_features inception: leave one of the two out")
    return options


def check_updates(options):
    """UserError if the ways to update weights in little memory do not go with the rest. See optimizers.py."""
    if options.fused_backward:
        for name, needed in {"grad_acc_steps": 1, "num_gpus": 1}.items():
            if getattr(options, name) != needed:
                raise UserError(
                    f"--fused_backward updates each weight as soon as one batch's gradient is there: give --{name} "
                    f"{needed} (now {getattr(options, name)}), or --fused_backward False"
                )
        if options.mixed_precision == "fp16":
            raise UserError(
                "--fused_backward has no place for the loss scaler that fp16 needs: give --mixed_precision bf16 or no, "
                "or --fused_backward False"
            )
    if options.weights_dtype == "bf16" and options.mixed_precision not in ("auto", "bf16"):
        raise UserError(
            f"--weights_dtype bf16 computes in bf16, and --mixed_precision is {options.mixed_precision}: give "
            "--mixed_precision bf16, or --weights_dtype fp32"
        )
