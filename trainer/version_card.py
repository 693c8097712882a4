"""The model card of a version, with what only the training process knows of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

import config
from checkpoints.environment import read_environments
from checkpoints.records import SavedVersion, TrainingState
from checkpoints.run_folder import MODEL_CARD, RunFolder
from dataset import BookCoverDataset
from diffusion.trainable import Trainable
from publishing.card_facts import CardFacts, make_facts
from publishing.model_card import write_card
from trainer.batches import BatchSchedule


class Work(Protocol):
    """What a card is made from: session.Prepared and session.Session have it."""

    options: config.TrainingOptions
    run: RunFolder
    trainable: Trainable
    train_set: BookCoverDataset
    val_set: BookCoverDataset
    schedule: BatchSchedule


def write_version_card(
    work: Work, state: TrainingState, validation_loss: float | None, folder: Path, name: str
) -> None:
    """Write the card of version `name`, saved after state.step updates, into its folder; with the preview of that
    update as its picture, if there is one."""
    facts = version_facts(work, state, name, SavedVersion(state.step, validation_loss))
    preview = work.run.samples / f"{state.step:06d}.png"
    if not preview.is_file():
        write_card(folder, facts)
        return
    shown = min(work.options.num_samples, len(work.val_set.books))
    what = "pictures with their captions" if facts.example else "books with their titles"
    caption = f"a preview at this update, of {shown} held-out {what} above."
    write_card(folder, dataclasses.replace(facts, picture=caption), preview)


def restore_card(work: Work, state: TrainingState) -> None:
    """Write the card of the latest version of a run that is resumed, if it has none: one of an older release, or one
    that was made again after its folder had been lost."""
    name = state.version_index.aliases["latest"]
    folder = work.run.version(name)
    if not (folder / MODEL_CARD).exists():
        write_version_card(work, state, state.version_index.versions[name].validation_loss, folder, name)


def version_facts(work: Work, state: TrainingState, name: str, entry: SavedVersion) -> CardFacts:
    """The facts of a version's card."""
    start = read_environments(work.run)[-1]
    environment = {key: value for key, value in start.items() if key != "step"}
    facts = make_facts(work.options, work.run.name, name, entry, environment)
    weights = work.trainable.named_parameters()
    return dataclasses.replace(
        facts,
        parts={part: sum(p.numel() for p in weights[part].values() if p.requires_grad) for part in facts.parts},
        total=state.total,
        start_loss=state.start_loss,
        samples=work.schedule.pieces(state.step - 1)[-1].stop,
        covers=len(work.train_set.books),
        held_out=len(work.val_set.books),
        example=next((book.caption for book in work.val_set.books if book.caption), None),
        dtype={"no": "fp32"}.get(state.save_dtype, state.save_dtype),
    )
