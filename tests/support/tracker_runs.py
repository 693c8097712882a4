"""Runs as training leaves them, but for the weights, for the tests of trackers; trackio in a folder of the tests."""

import hashlib
import json
import os
import pathlib
import shutil
import sys

import config
from checkpoints import catalog
from checkpoints.records import TrainingState, VersionIndex
from tracking import artifacts, trackers
from tracking.published import record_published

SHARED = {"model_index.json": 300, "unet/weights.safetensors": 40_000, "tokenizer/vocab.json": 2000}  # path: bytes
TRAINED = "text_encoder/model.safetensors"


def own_trackio(tmp_path_factory):
    """Let trackio keep everything in a folder of the tests; it reads TRACKIO_DIR once, when it is imported."""
    if "trackio" not in sys.modules:
        os.environ["TRACKIO_DIR"] = str(tmp_path_factory.mktemp("trackio"))
    import trackio

    folder = pathlib.Path(trackio.utils.TRACKIO_DIR)
    assert str(folder) == os.environ["TRACKIO_DIR"] and folder.is_relative_to(tmp_path_factory.getbasetemp())
    return folder


def noise(size, *seed):
    """Bytes that are a function of the seed."""
    return hashlib.shake_128(repr(seed).encode()).digest(size)


def make_run(options, run_id="one", steps=(10, 20), losses=(0.5, 0.25), seed=0):
    """A run's folder as training leaves it, but for the contents of the weights: a version for each of `steps`."""
    run, index = catalog.run_folder(options.output_dir, run_id), VersionIndex()
    for path, size in SHARED.items():
        (run / "frozen" / path).parent.mkdir(parents=True, exist_ok=True)
        (run / "frozen" / path).write_bytes(noise(size, path))
    for step, loss in zip(steps, losses, strict=True):
        index, name = index.with_version(step, loss, keep_versions=9)
        add_version(run, name, seed)
    (run / "config.json").write_text(json.dumps(config.to_json(options)))
    write_index(run, index)
    write_state(run, index, steps[-1], seed)
    lines = [{"step": 0, "validation_loss": 1.0}, *({"step": s, "loss": s / 100} for s in range(1, steps[-1] + 1))]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def write_index(run, index):
    (run / "versions.json").write_text(json.dumps(index.to_json()))


def add_version(run, name, seed=0):
    folder = run / "versions" / name
    shutil.copytree(run / "frozen", folder, copy_function=os.link)
    (folder / TRAINED).parent.mkdir()
    (folder / TRAINED).write_bytes(noise(9000, name, seed))


def write_state(run, index, step, seed=0):
    shutil.rmtree(run / "state", ignore_errors=True)
    folder = run / "state" / f"{step:09d}"
    folder.mkdir(parents=True)
    state = TrainingState(step, 8, "no", "no", "of the data", index, total=100, start_loss=1.0)
    (folder / "position.json").write_text(json.dumps(state.to_json()))
    (folder / "text_encoder.safetensors").write_bytes(noise(18_000, step, seed))
    (folder / "optimizer.pt").write_bytes(noise(7000, step, seed))


def read(folder):
    """{path: bytes} of the files under a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file()
    }


def publish_all(options, run, *names):
    """Send what is named, or all there is, to the tracker; as the uploader does."""
    tracker = trackers.connect(options, run.name)
    tracker.start(run.path, {}, 0)
    tracker.log(max(0, tracker.last_step()), {"loss": 1.0}, {})  # trackio finds no run that never logged anything
    for name in names or [*catalog.read_version_index(run).versions, "state"]:
        folder = run / "upload"
        aliases = artifacts.pack(run, name, folder)
        record_published(run, tracker.location, name, artifacts.send(tracker, folder, aliases), aliases)
        shutil.rmtree(folder)
    tracker.finish()
