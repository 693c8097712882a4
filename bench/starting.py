"""Start-up times: --help of each script, and opening a data folder for the first and the second time.

    python -m bench.starting                  # about ten minutes: a data folder of 54,000 small covers

--help is timed as a process, from start to end; opening a folder within one process, without the imports.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import csv
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
from PIL import Image

import config
from bench import positive
from cli import launch
from cli.parser import Parser
from data.folder import open_data
from demo_data.books import COLUMNS

ROOT = pathlib.Path(__file__).resolve().parent.parent


def main(argv: list[str] | None = None) -> int:
    """Print the two tables."""
    parser = Parser(
        prog="python -m bench.starting", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=positive, default=54_000, help="rows of the data folder")
    parser.add_argument("--repeats", type=positive, default=5, help="repetitions of --help and of the second opening")
    parser.add_argument("--out", type=pathlib.Path, default="starting", help="folder for the data folder and its cache")
    args = parser.parse_args(argv)

    print("| command | seconds, median | least ... most |\n|---|---|---|")
    commands = {"python -c pass": ["-c", "pass"]}
    commands |= {f"python -m {name} --help": ["-m", name, "--help"] for name in config.SCRIPTS.values()}
    seconds = {name: [] for name in commands}
    for _ in range(args.repeats):
        for name, words in commands.items():
            began = time.monotonic()
            subprocess.run([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.monotonic() - began)
    for name, taken in seconds.items():
        print(f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f} ... {max(taken):.2f} |", flush=True)

    root = make_data_folder(args.out.resolve() / f"data-{args.rows}", args.rows)
    cache = args.out.resolve() / f"cache-{time.time_ns()}"
    options = config.StatsOptions(data_root=str(root), cache_dir=str(cache))
    print(f"\n| opening {args.rows} rows | seconds | covers that can be used |\n|---|---|---|")
    taken = []
    for _ in range(1 + args.repeats):
        began = time.monotonic()
        kept = len(open_data(options).kept)
        taken.append(time.monotonic() - began)
    print(f"| the first time, every picture is decoded | {taken[0]:.1f} | {kept} |")
    later = taken[1:]
    seconds = f"{statistics.median(later):.2f} ({min(later):.2f} ... {max(later):.2f})"
    print(f"| later, median (least ... most) | {seconds} | {kept} |")
    return 0


def make_data_folder(root: pathlib.Path, rows: int) -> pathlib.Path:
    """Makes a data folder in the Goodreads layout, with covers of 100x150 in random colours, unless it exists."""
    if (root / "book_data.csv").exists():
        return root
    images = root / "images" / "images"
    images.mkdir(parents=True, exist_ok=True)

    def save(row):
        coarse = np.random.default_rng(row).integers(0, 256, (6, 4, 3), np.uint8)
        Image.fromarray(coarse).resize((100, 150)).save(images / f"{row}.jpg", quality=85)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(save, range(rows)))
    with open(root / ".book_data.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, restval="")
        table.writeheader()
        for row in range(rows):
            record = dict(
                book_title=f"The book of {row}", book_authors=f"Ada Author {row % 999}", genres="Fiction|Fantasy"
            )
            table.writerow({**record, "book_desc": f"What happened in the year {row}. " * 20})
    (root / ".book_data.csv").rename(root / "book_data.csv")
    return root


if __name__ == "__main__":
    sys.exit(launch.run_script(main))
