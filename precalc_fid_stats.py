"""Real covers -> reference statistics: features of every cover of a split, their mean and covariance, one file.

python -m precalc_fid_stats --data_root DIR --resolution 512x768
"""

from __future__ import annotations

import config
from cli import launch, parser


def main(argv: list[str] | None = None) -> None:
    """Measure the covers of --split and write --fid_stats_path."""
    options, _ = parser.parse(config.StatsOptions, argv)

    from evaluation import precalculate

    precalculate.write_statistics(options)


if __name__ == "__main__":
    launch.run_script(main)
