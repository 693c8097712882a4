"""Real covers -> reference statistics: features of every cover of a split, their mean and covariance, one file.

python -m precalc_fid_stats --data_root DIR --resolution 512x768
"""

from __future__ import annotations

import time

import command_line
import config


def main(argv=None):
    options, _ = command_line.parse(config.StatsOptions, argv)

    import sys

    import torch

    import covers
    import dataset
    import features
    import metrics

    # Everything that can be wrong comes before the long work
    start = time.monotonic()
    metrics.require_writable(options.fid_stats_path)
    extractor = features.load_extractor(options, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    data = dataset.open_data(options)
    books = data.books(options.split)
    if len(books) < 2:
        raise config.UserError(f"statistics need at least 2 covers, and --split {options.split} has {len(books)}")

    def read(book):  # -> uint8 (H, W, 3), the very pixels of dataset.load_image
        return covers.read(book.image, config.size(options))

    images = features.read_ahead(read, books, config.num_workers(options))
    moments = metrics.moments(images, extractor, len(books), f"{options.split} covers")
    metrics.save_stats(options.fid_stats_path, moments, metrics.stats_info(options, extractor, data))

    if warning := metrics.warn_small(moments.n, extractor.dims):
        print(f"warning: {warning}", file=sys.stderr)
    print(
        f"{moments.n} real covers ({options.split}, {options.resolution}), {extractor.dims} features for "
        f"{extractor.score_name}, {extractor.resize} resize -> {options.fid_stats_path} "
        f"in {time.monotonic() - start:.1f} s"
    )


if __name__ == "__main__":
    command_line.run_script(main)
