"""What --decorrelate does to the text encoder: entanglement of its states before and after each run.

python -m bench.decorrelate runs/A runs/B

The excess distance correlation of the states of titles and genres in one prompt, as --metrics entanglement has it, on
the first 240 held-out books, but without the UNet's part and without covers: seconds a version.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib

import numpy as np
import torch

import config
from checkpoints.metrics_log import read_metrics
from common.files import read_json
from data.book import Book
from data.folder import open_data
from data.prompts import genres_of, title_first
from diffusion import encoding, pipeline
from evaluation.distance_correlation import correlation, excess_of_rows
from evaluation.distances import jackknife_stderr
from evaluation.entanglement import MAX_BOOKS


@torch.no_grad()
def text_numbers(model: str, books: list[Book]) -> str:
    """Of the text encoder of a model's folder: the excess with its standard error, and how its states of genres go
    along with the genres themselves (R*), which a term that destroyed them would bring to 0."""
    parts = pipeline.load_parts(model)
    prompts = [title_first(book) for book in books]
    states = encoding.states_of_spans(parts, [p.text for p in prompts], [(p.title, p.genres) for p in prompts])
    title, genres = (torch.stack([pair[i].mean(0) for pair in states]).double().numpy() for i in (0, 1))
    statistic = excess_of_rows(genres, title, [genres_of(book)[0] for book in books])
    every = sorted({genre for book in books for genre in genres_of(book)})
    has = np.array([[genre in genres_of(book) for genre in every] for book in books], float)
    excess, error = statistic(np.arange(len(books))), jackknife_stderr(statistic, len(books))
    return f"{excess:.3f} ± {error:.3f} | {correlation(genres, has):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=pathlib.Path, nargs="+")
    runs = parser.parse_args().runs
    fields = {field.name for field in dataclasses.fields(config.TrainingOptions)}
    saved = {run: read_json(run / "config.json") for run in runs}
    options = config.TrainingOptions(**{k: v for k, v in saved[runs[0]].items() if k in fields})
    usable = [book for book in open_data(options).books("test") if title_first(book)][:MAX_BOOKS]

    print("| run | --decorrelate | excess, text | R* of genres and their states | validation loss | the term's value |")
    print("|---|---|---|---|---|---|")
    print(f"| v0 | | {text_numbers(options.pretrained_model, usable)} | | |")
    for run in runs:
        lines = read_metrics(run / "metrics.jsonl")
        losses = [line["validation_loss"] for line in lines if "validation_loss" in line]
        terms = [line["decorrelation"] for line in lines if "decorrelation" in line]
        weight = f"{saved[run]['decorrelate']:g} by {saved[run]['decorrelate_by']}" if terms else "0"
        term = f"{terms[0]:.3f} to {terms[-1]:.3f}" if terms else ""
        latest = max(run.glob("versions/v*"), key=lambda path: int(path.name[1:]))
        numbers = text_numbers(str(latest), usable)
        print(f"| {run.name} | {weight} | {numbers} | {losses[0]:.4f} to {losses[-1]:.4f} | {term} |")


if __name__ == "__main__":
    main()
