"""Real covers -> reference statistics: features of every cover of a split, their mean and covariance, one file."""

from __future__ import annotations

import sys
import time

import torch

from common.errors import UserError
from data.folder import open_data
from evaluation import distances, feature_cache, features, reference


def write_statistics(options):
    """Measure the covers of options.split and write options.fid_stats_path. options: config.StatsOptions."""
    # Everything that can be wrong comes before the long work
    start = time.monotonic()
    reference.require_writable(options.fid_stats_path)
    extractor = features.load_extractor(options, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    data = open_data(options)
    books = data.books(options.split)
    if len(books) < 2:
        raise UserError(f"statistics need at least 2 covers, and --split {options.split} has {len(books)}")

    moments = distances.Moments(extractor.dims)
    for block in feature_cache.of_books(books, options, extractor, f"{options.split} covers"):
        moments.update(block)
    reference.save_stats(options.fid_stats_path, moments, reference.stats_info(options, extractor, data))

    if warning := distances.warn_small(moments.n, extractor.dims):
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"{moments.n} real covers ({options.split}, {options.resolution}), {extractor.dims} features for "
        f"{extractor.score_name}, {extractor.resize} resize -> {options.fid_stats_path} "
        f"in {time.monotonic() - start:.1f} s"
    )
