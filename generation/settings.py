"""Drawing settings: everything that determines a drawn cover besides its prompt and row, saved beside the covers."""

from __future__ import annotations

import dataclasses
import pathlib
import shlex
import typing
from collections.abc import Mapping, Sequence

import config
from common.errors import UserError
from common.files import read_json, write_json
from common.locks import locked
from diffusion.lora_file import lora_hash
from diffusion.placement import resolve_precision
from generation.version import Version

SETTINGS = "settings.json"  # in a folder of covers: the drawing settings, {row: prompt}, and what letters they show
REMEDY = "choose another --save_dir, or delete that folder"
WRITE_HINT = "free some space there or choose another --save_dir"
LORA = ("lora", "lora_scale")
OPTION_OF = config.setting_options("drawing")  # {setting that an option decides: the option}


@dataclasses.dataclass(frozen=True)
class DrawingSettings:
    """All that determines a drawn cover besides its prompt and row."""

    version: str
    run_id: str | None  # None: a model without a run
    weights: str  # hash of the weights, see diffusion.weights.weights_hash
    precision: str  # 'no', 'bf16' or 'fp16'
    seed: int
    resolution: str
    steps: int
    guidance_scale: float
    scheduler: str
    vae_tiling: bool | None = None  # True or None; files from before this option existed do not have it
    negative_prompt: str | None = None  # of the options below: None is the default, and then the file has no such key
    prediction_type: str | None = None
    lora: str | None = None  # hash of the file of --lora, see diffusion.lora_file.lora_hash
    lora_scale: float | None = None  # None: 1, or nothing to scale
    max_tokens: int | None = None
    clip_skip: int | None = None
    layout: str | None = None  # of a version with lettering, see glyph_pages.GlyphPages

    @classmethod
    def from_options(
        cls, options: config.InferenceOptions, version: Version, weights: str, layout: str | None = None
    ) -> DrawingSettings:
        """The settings that these options come to on this machine.

        weights: hash of the version's weights; layout: GlyphPages.layout of a version with lettering.
        """
        return cls(
            version=version.name,
            run_id=version.run.name if version.run else None,
            weights=weights,
            precision=resolve_precision(options.mixed_precision),
            seed=options.seed,
            resolution=options.resolution,
            steps=options.steps,
            guidance_scale=options.guidance_scale,
            scheduler=options.scheduler,
            vae_tiling=options.vae_tiling or None,
            negative_prompt=options.negative_prompt,
            prediction_type=None if options.prediction_type == "auto" else options.prediction_type,
            lora=lora_hash(options.lora) if options.lora else None,
            lora_scale=None if options.lora_scale == 1 else options.lora_scale,
            max_tokens=options.max_tokens if options.max_tokens > 77 else None,
            clip_skip=options.clip_skip if options.clip_skip > 1 else None,
            layout=layout,
        )

    def to_json(self) -> dict[str, typing.Any]:
        """The settings as a JSON object, always with the same order of keys.

        An option that came later has no key at its default: names of pictures are hashes of their settings, and stay.
        """
        always = ("run_id", "vae_tiling")
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None or name in always}

    def parameters(self, prompt: str = "", image: int = 0) -> str:
        """The settings as text, in the form that other programs write into a PNG file's "parameters".

        image: number of the picture among several of the prompt.
        """
        values = {
            "Steps": self.steps,
            "Sampler": self.scheduler,
            "CFG scale": self.guidance_scale,
            "Seed": self.seed,
            "Size": self.resolution,
            "Model hash": self.weights[:10],
            "Model": f"{self.run_id} {self.version}" if self.run_id else self.version,
            "Precision": self.precision,
        }
        if self.lora:
            values["LoRA hash"] = self.lora[:10]
        if self.lora_scale is not None:
            values["LoRA scale"] = self.lora_scale
        if self.clip_skip:
            values["Clip skip"] = self.clip_skip
        if self.prediction_type:
            values["Prediction type"] = self.prediction_type
        if self.layout:
            values["Layout"] = self.layout[:15]
        if image:
            values["Image"] = image
        negative = f"Negative prompt: {self.negative_prompt}" if self.negative_prompt else ""
        line = ", ".join(f"{name}: {value}" for name, value in values.items())
        return "\n".join(filter(None, [prompt, negative, line]))

    @classmethod
    def from_json(cls, raw: Mapping[str, typing.Any]) -> DrawingSettings:
        """The settings from a JSON object; other keys are ignored. ValueError names a key that is missing or wrong."""
        types, values = typing.get_type_hints(cls), {}
        for field in dataclasses.fields(cls):
            if field.name in raw:
                value = raw[field.name]
                allowed = typing.get_args(types[field.name]) or (types[field.name],)
                if type(value) not in allowed and not (float in allowed and type(value) is int):
                    raise ValueError(f"{field.name!r} is {value!r}")
                values[field.name] = value
            elif field.default is dataclasses.MISSING:
                raise ValueError(f"{field.name!r} is missing")
        return cls(**values)


def read_settings(path: pathlib.Path) -> tuple[DrawingSettings, dict[str, str]]:
    """(settings, {str(row): prompt}) from a settings.json. UserError if it cannot be read or has another structure."""
    settings, prompts, _ = read_all(path)
    return settings, prompts


def read_all(path: pathlib.Path) -> tuple[DrawingSettings, dict[str, str], dict[str, list[str]]]:
    """(settings, {str(row): prompt}, {str(row): [title, author] whose letters were drawn}) from a settings.json.

    UserError if it cannot be read or has another structure.
    """
    raw = read_json(path)
    prompts, letters = raw.get("prompts"), raw.get("letters", {})
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise UserError(f"can't use {path}: 'prompts' must map rows to prompts; {REMEDY}")
    if not isinstance(letters, dict) or not all(map(is_letters, letters.values())):
        raise UserError(f"can't use {path}: 'letters' must map rows to title and author; {REMEDY}")
    try:
        return DrawingSettings.from_json(raw), prompts, letters
    except ValueError as problem:
        raise UserError(f"can't use {path}: {problem}; {REMEDY}") from None


def is_letters(value: object) -> bool:
    """Whether a JSON value is [title, author]."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def require_same_settings(
    path: pathlib.Path,
    settings: DrawingSettings,
    prompts: Mapping[str, str],
    letters: Mapping[str, list[str]] | None = None,
) -> None:
    """Saves settings, prompts {str(row): prompt} and letters {str(row): [title, author]} of a folder of covers in
    `path`, its settings.json.

    Other processes that draw into the folder wait meanwhile, so none loses the prompts of another. UserError if the
    folder has covers that were drawn with other settings or from other prompts or letters, or can't be written.
    """
    if merge_rows(path, settings, prompts, letters or {}) is None:  # also where the folder is read-only
        return
    with locked(path, WRITE_HINT):
        merged = merge_rows(path, settings, prompts, letters or {})  # another process may have written since
        if merged is not None:
            write_json(path, {**settings.to_json(), **merged}, WRITE_HINT)


def merge_rows(
    path: pathlib.Path, settings: DrawingSettings, prompts: Mapping[str, str], letters: Mapping[str, list[str]]
) -> dict[str, typing.Any] | None:
    """The prompts, and the letters if there are any, that `path`, a settings.json, has to hold; None if it holds them
    already.

    UserError as require_same_settings.
    """
    unknown = [row for row in prompts if not path.exists() and (path.parent / f"{row}.png").exists()]
    if unknown:
        raise UserError(
            f"{path.parent} has covers, such as {unknown[0]}.png, and no {path.name} that says how they were drawn: "
            f"{REMEDY}"
        )
    saved, known, known_letters = read_all(path) if path.exists() else (settings, {}, {})
    names = [field.name for field in dataclasses.fields(settings)]
    for name in sorted(names, key=lambda name: name not in LORA):  # with another LoRA the weights are others, too
        before, value = getattr(saved, name), getattr(settings, name)
        if before != value:
            raise UserError(
                f"the covers in {path.parent} were drawn with {name} {before}, and now it is {value}: "
                + (f"{how_to_repeat(name, before)}, " if name in OPTION_OF else "")
                + REMEDY
            )
    for row, text in prompts.items():
        if known.get(row, text) != text:
            raise UserError(
                f"the cover of row {row} in {path.parent} was drawn from another prompt, {known[row]!r}: {REMEDY}"
            )
    for row, texts in letters.items():
        if known_letters.get(row, texts) != texts:
            raise UserError(
                f"the cover of row {row} in {path.parent} was drawn with other letters, "
                f"{' / '.join(known_letters[row])!r}: {REMEDY}"
            )
    merged, merged_letters = known | prompts, known_letters | letters
    if (merged, merged_letters) == (known, known_letters) and path.exists():
        return None
    return {"prompts": merged, **({"letters": merged_letters} if merged_letters else {})}


def how_to_repeat(name: str, before: typing.Any) -> str:
    """What to do so that a setting that an option decides is `before` again. None: the option's default."""
    if name == "lora":  # the setting is a hash, the option a file
        return "leave --lora out" if before is None else "give that LoRA file with --lora"
    if name == "layout" and before and before != config.InferenceOptions.layout:  # a hash, or like and a hash
        like = before.startswith("like")
        return "give --layout like with the same training covers" if like else "give that file with --layout"
    option = OPTION_OF[name]
    default = getattr(config.InferenceOptions, option)
    if before is None and default is None:
        return f"leave --{option} out"
    return f"give --{option} {shlex.quote(str(default if before is None else before))}"


def prompts_of(path: pathlib.Path, rows: Sequence[int]) -> list[str]:
    """The prompts that `path`, a settings.json, has for these rows. UserError if it lacks one."""
    _, known = read_settings(path)
    for row in rows:
        if str(row) not in known:
            raise UserError(f"{path} has no prompt for row {row}: it was changed meanwhile; run this command again")
    return [known[str(row)] for row in rows]
