"""The stats file of real covers: mean and covariance of the features of every cover of a split."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import torch

from common.errors import UserError
from data.folder import open_data
from evaluation import distances, feature_cache, features, reference

if TYPE_CHECKING:
    import config


def write_statistics(options: config.StatsOptions) -> None:
    """Compute the statistics of the real covers of --split and write them to --fid_stats_path.

    UserError if the file cannot be written, the data folder is unusable or the split has fewer than 2 covers.
    """
    # Check everything before the long work
    start = time.monotonic()
    reference.require_writable(options.fid_stats_path)
    extractor = features.load_extractor(options, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    data = open_data(options)
    books = data.books(options.split)
    if len(books) < 2:
        raise UserError(f"statistics need at least 2 covers, and --split {options.split} has {len(books)}")

    moments = distances.Moments(extractor.dims)
    for block in feature_cache.real_features(books, options, extractor, f"{options.split} covers"):
        moments.update(block)
    reference.save_stats(options.fid_stats_path, moments, reference.stats_info(options, extractor, data))

    if warning := distances.small_sample_warning(moments.n, extractor.dims):
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"{moments.n} real covers ({options.split}, {options.resolution}), {extractor.dims} features for "
        f"{extractor.score_name}, {extractor.resize} resize -> {options.fid_stats_path} "
        f"in {time.monotonic() - start:.1f} s"
    )
