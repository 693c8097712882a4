"""Real covers -> reference statistics: features of every cover of a split, their mean and covariance, one file.

python -m precalc_fid_stats --data_root DIR --resolution 512x768
"""

from __future__ import annotations

import time

import config
from cli import parser


def main(argv=None):
    from evaluation import distances, feature_cache, features, reference

    options, _ = parser.parse(config.StatsOptions, argv)

    import sys

    import torch

    import dataset

    # Everything that can be wrong comes before the long work
    start = time.monotonic()
    reference.require_writable(options.fid_stats_path)
    extractor = features.load_extractor(options, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    data = dataset.open_data(options)
    books = data.books(options.split)
    if len(books) < 2:
        raise config.UserError(f"statistics need at least 2 covers, and --split {options.split} has {len(books)}")

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


if __name__ == "__main__":
    parser.run_script(main)
