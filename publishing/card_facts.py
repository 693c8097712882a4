"""What the model card of a version says, as the record in its model_card.json.

It is written when the version is saved, and gets scores and covers when it is scored. It has no path of the machine.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

import config
from checkpoints import catalog
from checkpoints.environment import read_environments
from checkpoints.records import SavedVersion
from checkpoints.run_folder import CARD_FACTS, RunFolder
from checkpoints.scores import Score
from cli import saved_options
from common.environment import PROJECT
from common.errors import UserError
from common.files import read_json
from diffusion.trainable import trained_parts

# Options that the card shows in another place, or that say nothing about the weights
LEFT_OUT = {
    *("train_unet", "train_text_encoder", "train_lettering", "lora_rank", "lora_alpha", "lora_targets"),
    *("resolution", "seed", "data_root", "pretrained_model", "num_workers", "allow_extra_images"),
    *("save_every", "validate_every", "sample_every", "keep_versions", "num_samples"),
    *(each.name for each in dataclasses.fields(config.TrackingOptions)),
}
PRIVATE_SETTINGS = ("fid_stats_path", "run_id")  # of a score: a path as it was typed; what the card knows


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Everything that a model card says of a version. None: not known, as of versions of before there were cards."""

    run_id: str
    version: str
    step: int  # optimizer updates done
    validation_loss: float | None
    base: str  # the model that training started from: hub id, built-in name, or the name of a folder
    base_model: str | None  # the same, if it is a hub id
    data: str  # name of the data folder
    resolution: str  # WIDTHxHEIGHT
    seed: int
    options: dict[str, Any]  # those that differ from the defaults
    parts: dict[str, int | None]  # trained part -> number of trained weights
    lora: dict[str, Any] | None  # rank, alpha, targets
    environment: dict[str, Any]  # common.environment.describe_environment, and the project's release
    total: int | None = None  # optimizer updates after which the run is complete
    start_loss: float | None = None  # validation loss of the pretrained model
    samples: int | None = None  # covers that the updates have seen, counted each time
    covers: int | None = None  # that it trains on
    held_out: int | None = None  # that the validation loss is computed on
    dtype: str | None = None  # of the weights in the version
    picture: str | None = None  # what covers.png shows, if there is one
    example: str | None = None  # a held-out picture's caption; None: prompts are built from titles
    drawn: list[list[str]] = field(default_factory=list)  # [title, prompt] of each cover in it, if they are known
    scores: dict[str, Any] = field(default_factory=dict)  # name of the score -> Score, as JSON
    start_scores: dict[str, Any] = field(default_factory=dict)  # the same of v0, measured in the same way

    @property
    def clip_skip(self) -> int:
        """As training's --clip_skip counts: 1 = the text encoder's last layer."""
        value = self.options.get("clip_skip")
        return value if isinstance(value, int) else 1

    @property
    def changed_schedule(self) -> bool:
        """Whether training changed the base model's noise schedule, or what it predicts: its versions say so, and the
        base model does not."""
        return bool({"prediction_type", "zero_terminal_snr"} & self.options.keys())

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CardFacts:
        """ValueError says what is wrong; unknown keys are ignored. The file may come from a tracker."""
        known = {each.name: value[each.name] for each in dataclasses.fields(cls) if each.name in value}
        for each in dataclasses.fields(cls):
            if each.name not in known:
                if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
                    raise ValueError(f"{each.name!r} is missing")
                continue
            given = known[each.name]
            kind, optional = str(each.type).removesuffix(" | None"), str(each.type).endswith(" | None")
            right = {"str": str, "int": int, "float": (int, float), "list": list, "dict": dict}[kind.split("[")[0]]
            if isinstance(given, bool) or not (isinstance(given, right) or (optional and given is None)):
                raise ValueError(f"{each.name!r} is {str(given)[:60]!r}")
        for pair in known.get("drawn", []):
            if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
                raise ValueError("'drawn' does not hold titles and prompts")
        if known["lora"] and not {"rank", "alpha", "targets"} <= known["lora"].keys():
            raise ValueError("'lora' has no rank, alpha or targets")
        facts = cls(**known)
        for entry in (*facts.scores.values(), *facts.start_scores.values()):
            Score.from_json(entry)
        return facts

    def with_scores(self, found: Mapping[str, Score], start: Mapping[str, Score]) -> CardFacts:
        """The facts with these scores {name: Score} of the version and of v0, and no others."""
        return dataclasses.replace(self, scores=scores_to_json(found), start_scores=scores_to_json(start))


def scores_to_json(found: Mapping[str, Score]) -> dict[str, Any]:
    """{name: score as JSON}, without what others need not know."""
    return {
        name: {key: value for key, value in score.to_json().items() if key not in PRIVATE_SETTINGS}
        for name, score in found.items()
    }


def make_facts(
    options: config.TrainingOptions, run_id: str, version: str, entry: SavedVersion, environment: Mapping[str, Any]
) -> CardFacts:
    """The facts that a run's options and its index tell; what only the training process knows is None."""
    defaults = {each.name: each for each in dataclasses.fields(options) if each.metadata["saved"]}
    changed = {name: getattr(options, name) for name, each in defaults.items() if name not in LEFT_OUT}
    changed = {
        name: without_folder(value) if defaults[name].metadata["path"] else value
        for name, value in changed.items()
        if value != defaults[name].default and defaults[name].metadata["path"] != "always"
    }
    lora = None
    if options.lora_rank:
        alpha = options.lora_alpha or options.lora_rank
        lora = {"rank": options.lora_rank, "alpha": alpha, "targets": options.lora_targets}
    return CardFacts(
        run_id=run_id,
        version=version,
        step=entry.step,
        validation_loss=entry.validation_loss,
        base=without_folder(options.pretrained_model),
        base_model=options.pretrained_model if is_hub_id(options.pretrained_model) else None,
        data=without_folder(options.data_root),
        resolution=options.resolution,
        seed=options.seed,
        options=changed,
        parts=dict.fromkeys(trained_parts(options)),
        lora=lora,
        environment={"release": release(), **environment},
    )


def facts_of_run(run: RunFolder, version: str) -> CardFacts:
    """The facts that a run's folder tells of a version without a model_card.json. UserError if the run is damaged."""
    options = saved_options.inherit(config.TrainingOptions, run.config, {})
    environments = read_environments(run)
    known = {key: value for key, value in (environments[-1] if environments else {}).items() if key != "step"}
    return make_facts(options, run.name, version, catalog.version_entry(run, version), known)


def read_facts(folder: Path, run: RunFolder | None, version: str) -> CardFacts:
    """The facts in a version's folder, or else those that its run tells. UserError if they are damaged."""
    path = folder / CARD_FACTS
    if path.exists():
        try:
            return CardFacts.from_json(read_json(path))
        except (ValueError, UserError) as problem:
            raise UserError(f"{path} is damaged ({problem}): delete it, and the card says what is known") from None
    if run is None:
        raise UserError(f"{folder} has no {CARD_FACTS} and is no version of a run: nothing is known for its model card")
    return facts_of_run(run, version)


def release() -> str | None:
    """The release of this project, from its pyproject.toml; None where that file is not."""
    try:
        return tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    except (OSError, ValueError, KeyError):
        return None


def is_hub_id(source: str) -> bool:
    """Whether --pretrained_model names a model of the hub, and no folder and nothing that is built in."""
    if source.count("/") != 1 or source in config.BUNDLED or os.path.exists(os.path.expanduser(source)):
        return False
    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return True


def without_folder(source: Any) -> Any:
    """The value of an option, or only the name of the folder if it is a path."""
    return source if not isinstance(source, str) or is_hub_id(source) else Path(source).name or source
