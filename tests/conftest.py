"""Shared by all tests: one private cache, no internet, and small data drawn by the project itself."""

import functools
import gc
import hashlib
import itertools
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest
from support import forecast, processes

from cli import launch

gc.disable()  # until all is collected: imports make no garbage, and a search for it goes through all that they make
os.fsync = lambda file: None  # a wait of milliseconds, dozens of times in a training; no test cuts the power
launch.EXIT_SECONDS = 10**6  # tests call run_script in this process, which goes on after it
ROOT = processes.ROOT
os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers and diffusers are imported
os.environ["OMP_NUM_THREADS"] = "1"  # before torch is: tests share the cores by being many, and threads round otherwise
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
for name in [name for name in os.environ if name.startswith(("WANDB_", "TRACKIO_"))]:
    del os.environ[name]  # no test may reach anybody's account


def pytest_configure(config):
    """Before the workers start, and once for all of them: the cache folder, so that nothing of the user's is read or
    written, and the fork server. Both are named in the environment, which workers inherit."""
    sys.addaudithook(processes.watch)
    if not hasattr(config, "workerinput"):
        config.shared = tempfile.TemporaryDirectory(prefix="book-covers-tests-")
        os.environ["XDG_CACHE_HOME"] = config.shared.name
        if "not script" not in config.option.markexpr:  # make quick starts none
            config.server = processes.Server(pathlib.Path(config.shared.name))


def pytest_unconfigure(config):
    if hasattr(config, "server"):
        config.server.end()
    if hasattr(config, "shared"):
        config.shared.cleanup()


def pytest_collection_modifyitems(items):
    for item in items:
        if "browser" in item.fixturenames:
            item.add_marker("browser")
    items[:] = in_shares(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def in_shares(items, workers):
    """The tests in such an order that each worker begins with files of long tests, and ends with short ones.

    xdist's worksteal gives each worker an equal number of tests that stand together, and later the end of another's
    share to one that has done its own. Files stay together as far as that goes: they share fixtures.
    """
    if workers == 1:
        return list(items)
    files = [list(group) for _, group in itertools.groupby(items, key=lambda item: item.path)]
    costs = [sum(map(expected_seconds, file)) for file in files]
    shares, loads = [[] for _ in range(workers)], [0.0] * workers
    short = []
    for cost, file in sorted(zip(costs, files, strict=True), key=lambda pair: -pair[0]):
        lightest = loads.index(min(loads))
        if cost >= LONG_FILE and len(shares[lightest]) + len(file) <= len(items) // workers:
            shares[lightest] += file
            loads[lightest] += cost
        else:
            short += file
    ends = [len(items) * (worker + 1) // workers for worker in range(workers)]
    for worker, (share, end) in enumerate(zip(shares, ends, strict=True)):
        missing = end - (ends[worker - 1] if worker else 0) - len(share)
        share += short[:missing]
        del short[:missing]
    return list(itertools.chain(*shares))


LONG_FILE = 4  # seconds


def expected_seconds(item):
    """Roughly, by its marks."""
    return 5 if item.get_closest_marker("slow") else 2 if item.get_closest_marker("script") else 0.1


def pytest_collection_finish():
    """The garbage collector leaves alone what has been imported. It would go through it in each of many collections,
    which has been a fourth of a short training."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """While a test without the mark `script` runs, with all its fixtures, no program of Python can be started: `make
    quick` leaves such tests out, and means it."""
    marked = item.get_closest_marker("script")
    processes.forbidden = None if marked else f"{item.nodeid} starts a process: mark it script"
    try:
        return (yield)
    finally:
        processes.forbidden = None


@pytest.fixture(scope="session", autouse=True)
def the_real_forecast():
    """memory.forecast; what is called by that name is a stand-in, unless a test is marked real_forecast."""
    real = forecast.stand_in() if "torch" in sys.modules else None
    gc.freeze()  # its imports, too
    return real


@pytest.fixture(scope="session", autouse=True)
def eigenvalues_once():
    """Those of a large matrix, as Fréchet distances need, are computed once: most tests that score share their real
    covers, and one matrix of EfficientNet's features takes half a second."""
    if "numpy" in sys.modules:
        import numpy as np

        np.linalg.eigh, np.linalg.eigvalsh = map(remember, (np.linalg.eigh, np.linalg.eigvalsh))


def remember(function):
    known = {}  # hash of a matrix -> result

    @functools.wraps(function)
    def remembered(matrix, *more):
        if len(matrix) < 1000 or more:
            return function(matrix, *more)
        key = hashlib.sha256(matrix.tobytes()).digest()
        if key not in known:
            if len(known) == 8:  # 13 MB each, with vectors
                del known[next(iter(known))]
            known[key] = function(matrix)
        return known[key]

    return remembered


@pytest.fixture(autouse=True)
def forecast_of_this_test(request, the_real_forecast, monkeypatch):
    from memory import advice, suggestions
    from memory import forecast as memory_forecast

    if request.node.get_closest_marker("real_forecast"):
        for module in (memory_forecast, advice, suggestions):
            monkeypatch.setattr(module, "forecast_memory", the_real_forecast or memory_forecast.forecast_memory)


@pytest.fixture
def run_script():
    """Run a script as a user does, in its own process; returns the finished process with its text.

    fresh: it imports the project's modules itself; a test or two of each script do that. real: the interpreter is
    started, not forked, which costs ten seconds where torch is imported."""

    def run(script, *args, cwd=ROOT, timeout=240, real=False, fresh=False, **env):
        words = [sys.executable, "-m", script, *map(str, args)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **env}
        run = subprocess.run if real else functools.partial(processes.run, fresh=fresh)
        return run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)

    return run


@pytest.fixture
def forking(monkeypatch):
    """What is started by subprocess comes from the fork server."""
    monkeypatch.setattr(subprocess, "Popen", processes.start)


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """26 covers of random stripes in the Goodreads layout; 22 to train on and 4 held out, as df_*.csv say."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    root = tmp_path_factory.mktemp("small_data")
    images = root / "images" / "images"
    images.mkdir(parents=True)
    random = np.random.default_rng(0)
    rows = []
    for row in range(26):
        stripes = random.integers(0, 256, (6, 1, 3), np.uint8).repeat(16, 0).repeat(64, 1)
        Image.fromarray(stripes).save(images / f"{row}.jpg", quality=95)
        genres = random.choice(["Fantasy", "Romance", "Mystery"], 2, replace=False)
        rows.append([f"Author {row % 20}", f"It is about {row} things.", f"Book {row}", "|".join(genres)])
    table = pd.DataFrame(rows, columns=["book_authors", "book_desc", "book_title", "genres"])
    for name in ("edition", "format", "isbn", "pages", "rating", "rating_count", "review_count"):
        table[f"book_{name}"] = ""
    table["image_url"] = ""
    table.to_csv(root / "book_data.csv", index=False)
    for name, part in {"train": range(22), "test": range(22, 26)}.items():
        pd.Series(list(part)).to_csv(root / f"df_{name}.csv", index=False)
    return root


@pytest.fixture(scope="session")
def mixed_data(small_data, tmp_path_factory):
    """small_data with every third cover wider than high: at 32x48 there are 15 of 22, and 7, in two buckets."""
    from PIL import Image

    root = tmp_path_factory.mktemp("mixed") / "data"
    shutil.copytree(small_data, root)
    for row in range(0, 26, 3):
        path = root / "images" / "images" / f"{row}.jpg"
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, quality=95)
    return root
