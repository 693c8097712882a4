"""The model card of a version: README.md as the Hugging Face hub reads it, and covers.png, which it shows.

The card is a function of the facts in model_card.json. None of the three files is in the version's manifest: they
change when it is scored, and neither drawing nor resuming needs them.

The header is written by huggingface_hub, as YAML whatever the texts are. In the body every value is escaped on its way
into the template, unless it is Code, which stands in a block of code.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData
from PIL import Image

from checkpoints import scores
from checkpoints.run_folder import CARD_FACTS, CARD_PICTURE, MODEL_CARD, RunFolder
from checkpoints.scores import Score
from common.files import link_or_copy, remove, write_json, write_text
from common.locks import locked
from common.png import save_png
from common.terminal import printable
from config import parse_size
from data.book import Book, normalize_whitespace
from data.prompts import build_prompt
from publishing.card_facts import CardFacts, read_facts

TEMPLATES = pathlib.Path(__file__).parent / "templates"
# What Markdown may take for more than a letter, links that it finds by themselves included
MARKUP = re.compile(r"[\\`*\[\]<>|~&$@#]|(?<!\w)_|_(?!\w)|(?<=\w):(?=//)|(?<=www)\.")
WRITE_HINT = "free some space there"
# Licences of the models that most start from: what is fine-tuned from them comes under the same
LICENSES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "creativeml-openrail-m",
    "runwayml/stable-diffusion-v1-5": "creativeml-openrail-m",
    **{f"CompVis/stable-diffusion-v1-{n}": "creativeml-openrail-m" for n in range(1, 5)},
    **{f"stabilityai/stable-diffusion-2{end}": "openrail++" for end in ("", "-base", "-1", "-1-base")},
    "mini": "apache-2.0",  # mini_sd/README.md
}
MINIATURES = ("mini", "tiny")  # no other program reads them, so export refuses --to single
PART_NAMES = {"unet": "UNet", "text_encoder": "text encoder", "lettering": "lettering, a network beside the UNet"}
EXAMPLE = Book(row=0, title="The Silver Forest", authors=("Jane Doe",), genres=("fantasy",))  # until there are covers
# Types of metrics, unless the features are the official Inception's
OWN_TYPES = {"fid": "frechet_distance", "fid_infinity": "frechet_distance_infinity", "kid": "kernel_distance"}


class Code(str):
    """Text of a block of code, which is shown as it is. Each line of it begins with a word of ours."""


def escape(value: object) -> str:
    """A value as text of one line that Markdown shows letter by letter, in a paragraph or in a cell of a table."""
    if isinstance(value, Code):
        return value
    return MARKUP.sub(r"\\\g<0>", printable(normalize_whitespace(str(value))))


# ---------------------------------------------------------------------------------------------------------------------
# Files


def write_card(folder: Path, facts: CardFacts, picture: Path | Image.Image | None = None) -> None:
    """Write the card of the version in `folder`, and what it is made from.

    picture: what facts.picture describes, a PNG file or an image; None: there is none, or it is there already.
    """
    if isinstance(picture, Image.Image):
        save_png(folder / CARD_PICTURE, picture, WRITE_HINT)
    elif picture is not None:
        remove(folder / CARD_PICTURE)
        link_or_copy(picture, folder / CARD_PICTURE)
    write_json(folder / CARD_FACTS, facts.to_json(), WRITE_HINT)
    write_text(folder / MODEL_CARD, render(facts), WRITE_HINT)


def refresh_card(
    run: RunFolder, version: str, folder: Path, weights: str, picture: Image.Image, caption: str, drawn: list[list[str]]
) -> None:
    """Write the card of a version again, with its scores in the run's scores.json and with covers.

    folder: of the version. weights: their hash, which a score must have; an older version of that name may be scored
    there. picture, caption, drawn: see CardFacts. UserError if a file is damaged or can't be written.
    """
    with locked(run.scores):  # of two that score the same version at once, the later one knows both scores
        facts, saved = read_facts(folder, run, version), scores.read_scores(run)
        found = {name: each for name, each in saved.get(version, {}).items() if each.settings.get("weights") == weights}
        start = {name: each for name, each in saved.get("v0", {}).items() if name in found}
        start = {n: e for n, e in start.items() if not scores.differences([e.settings, found[n].settings])}
        facts = dataclasses.replace(facts.with_scores(found, start), picture=caption, drawn=drawn)
        write_card(folder, facts, picture)


# ---------------------------------------------------------------------------------------------------------------------
# Text


def render(facts: CardFacts, repo: str | None = None) -> str:
    """README.md. repo: OWNER/NAME on the hub, which its commands then load; None: the version's folder."""
    location = repo or f"path/to/{facts.version}"
    prompt = facts.drawn[0][1] if facts.drawn else facts.example or build_prompt(EXAMPLE)
    body = template().render(
        facts=facts,
        results=[score_table(facts, name) for name in facts.scores],
        trained=", ".join(describe_part(part, count) for part, count in facts.parts.items()) or "not known",
        libraries=describe_environment(facts.environment),
        picture=CARD_PICTURE,
        code=functools.partial(python_code, facts, location, prompt),
        export=export_commands(facts),
        number=scores.number,
    )
    return f"---\n{header(facts).to_yaml()}\n---\n\n{body}"


@functools.cache
def template() -> jinja2.Template:
    """The card's body."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        finalize=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md")


def header(facts: CardFacts) -> ModelCardData:
    """The metadata that the hub reads."""
    name = printable(normalize_whitespace(f"{facts.run_id} {facts.version}"))
    kind = {"base_model_relation": "adapter" if facts.lora else "finetune"} if facts.base_model else {}
    return ModelCardData(
        license=LICENSES.get(facts.base_model or facts.base),
        base_model=facts.base_model,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=["text-to-image", "stable-diffusion", "diffusers", "book-covers", *(["lora"] if facts.lora else [])],
        model_name=name,
        eval_results=[result for each in facts.scores.values() for result in eval_results(facts, each)] or None,
        **kind,
    )


def eval_results(facts: CardFacts, entry: Mapping[str, Any]) -> list[EvalResult]:
    """The metrics of one score, in the hub's form. entry: the score as JSON."""
    score = Score.from_json(entry)
    official = score.name == "FID"
    return [
        EvalResult(
            task_type="text-to-image",
            dataset_type="book-covers",
            dataset_name=printable(normalize_whitespace(facts.data)),
            dataset_split=str(score.settings.get("split", "test")),
            metric_type=key if official else OWN_TYPES.get(key, key),
            metric_name=value.name,
            metric_value=value.value,
            metric_args={"covers": value.n, "standard_error": value.error, "real_covers": value.real},
        )
        for key, value in score.values.items()
    ]


def score_table(facts: CardFacts, name: str) -> dict[str, Any]:
    """One score for the template: a table of its metrics for this version, v0 (if that is known) and real covers."""
    score = Score.from_json(facts.scores[name])
    start = Score.from_json(facts.start_scores[name]).values if name in facts.start_scores else {}
    better = {"lower": "lower", "higher": "higher", "real": "nearer to real covers"}
    rows = [
        (
            value.name,
            scores.text(value),
            *([scores.text(start[key]) if key in start else ""] if start else []),
            "" if value.real is None else scores.number(value.real),
            better[value.better],
        )
        for key, value in score.values.items()
    ]
    columns = ("metric", facts.version, *(["v0, before training"] if start else []), "real covers", "better is")
    return dict(
        columns=columns,
        rows=rows,
        settings=score.settings,
        n=score.n,
        notes=[f"{value.name}: {value.note}" for value in score.values.values() if value.note],
        skipped=[f"{scores.METRIC_NAMES.get(key, key)}: {reason}" for key, reason in score.skipped.items()],
    )


def describe_part(part: str, count: object) -> str:
    """A trained part, with the number of its trained weights if that is known."""
    return PART_NAMES.get(part, part) + (f" ({count:,} weights)" if isinstance(count, int) else "")


def describe_environment(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """[(what, which)] of the software and hardware that made the version."""
    libraries = environment.get("libraries")
    found = [(name, environment.get(name)) for name in ("release", "commit", "python", "device")]
    found += list(libraries.items()) if isinstance(libraries, dict) else []
    return [(str(name), str(value)) for name, value in found if value]


def python_code(facts: CardFacts, location: str, prompt: str) -> Code:
    """Python that draws one cover with diffusers. location: hub id or folder."""
    width, height = parse_size(facts.resolution)
    # The folder of a LoRA run's version has the whole base, too, and the schedule that training may have changed
    first = facts.base_model or location if facts.lora and not facts.changed_schedule else location
    skip = f", clip_skip={facts.clip_skip - 1}" if facts.clip_skip > 1 else ""  # diffusers counts from 0
    lines = [
        "import torch",
        "from diffusers import StableDiffusionPipeline",
        "",
        f'pipe = StableDiffusionPipeline.from_pretrained({quoted(first)}, dtype=torch.float16).to("cuda")',
        *([f"pipe.load_lora_weights({quoted(location)})"] if facts.lora else []),
        f"image = pipe({quoted(prompt)}, width={width}, height={height}{skip}).images[0]",
        'image.save("cover.png")',
    ]
    return Code("\n".join(lines))


def quoted(text: str) -> str:
    """The text in quotation marks for Python, on one line."""
    return json.dumps(printable(normalize_whitespace(text)), ensure_ascii=False)


def export_commands(facts: CardFacts) -> dict[str, Code]:
    """{form: the command that exports this version in that form}; none for a miniature, which no program reads."""
    if facts.base in MINIATURES:
        return {}
    start = [
        "python",
        "-m",
        "export",
        "--run_id",
        printable(normalize_whitespace(facts.run_id)),
        "--version",
        facts.version,
    ]
    forms = ("single", "lora") if facts.lora else ("single",)
    return {form: Code(shlex.join([*start, "--to", form, f"covers-{form}.safetensors"])) for form in forms}
