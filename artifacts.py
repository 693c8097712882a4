"""What a tracker stores of a run as one artifact, both ways: a version, or the training state of an exact resume.

Each artifact says in its metadata, and in a file about.json of its own, which run, version and update it is. The
metadata also has size and SHA-256 of every file, against which a download is checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
from concurrent.futures import ThreadPoolExecutor, wait

import filelock
from tqdm import tqdm

import checkpoint
import trackers
from config import UserError
from files import publish, read_json, write_json
from models import PARTS

STATE = "state"
ABOUT, CONFIG, METRICS, PUBLISHED = "about.json", "config.json", "metrics.jsonl", "published.json"

# ---------------------------------------------------------------------------------------------------------------------
# From the run's folder to the tracker


def pack(run, name, folder):
    """Make `folder` a copy of version `name`, or of the training state if name is "state"; returns its aliases.

    The copy is of hard links, so it costs nothing, and what is pruned meanwhile is sent all the same. None, and no
    folder, if it was pruned just now.
    """
    if name == STATE:
        position, source = checkpoint.read_position(run)
        about = {"version": position["ledger"]["aliases"]["latest"], "step": position["step"]}
        aliases = ["latest"]
    else:
        ledger, source = checkpoint.read_ledger(run), run / "versions" / name
        if name not in ledger["versions"]:
            return None
        # with the options of the run, a machine that fetches just this version knows how to draw with it
        about = {"version": name, **ledger["versions"][name], "options": read_json(run / CONFIG)}
        aliases = [name, *(alias for alias, version in ledger["aliases"].items() if version == name)]
    shutil.copytree(source, folder, copy_function=checkpoint.link_or_copy)
    if name == STATE:
        for extra in (CONFIG, METRICS):
            shutil.copy2(run / extra, folder)
    # trackers take files that they have, all alike, for the artifact that they came in first: this one is never alike
    write_json(folder / ABOUT, {"run_id": run.name, "kind": STATE if name == STATE else "version", **about})
    return aliases


def send(tracker, folder, aliases):
    """Publish a packed folder under <run_id>-<alias> for each alias; returns the update that it is of."""
    about = read_json(folder / ABOUT)
    collection = trackers.STATES if about["kind"] == STATE else trackers.VERSIONS
    metadata = {**about, "files": list_files(folder)}
    tracker.publish(collection, folder, [f"{about['run_id']}-{alias}" for alias in aliases], metadata)
    return about["step"]


def list_files(folder):
    """{path: [bytes, sha256]} of the files under a folder."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with open(path, "rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = [path.stat().st_size, digest]
    return files


# ---------------------------------------------------------------------------------------------------------------------
# published.json remembers which tracker has what of a run: {place: {"versions": {name: step}, "state": step}}


def all_published(run):
    return read_json(run / PUBLISHED) if (run / PUBLISHED).exists() else {}


def read_published(run, place):
    """{"versions": {name: step}, "state": step or None}: what the tracker at `place` (see trackers.where) has."""
    return all_published(run).get(place, {"versions": {}, STATE: None})


def remember(run, place, name, step):
    """The tracker at `place` now has a version, or the state, of update `step`."""
    has = read_published(run, place)
    news = {STATE: step} if name == STATE else {"versions": {**has["versions"], name: step}}
    write_json(run / PUBLISHED, {**all_published(run), place: {**has, **news}})


def forget(run, name):
    """No tracker has the version any more, since another now has that name."""
    published = all_published(run)
    if any([has["versions"].pop(name, None) is not None for has in published.values()]):
        write_json(run / PUBLISHED, published)


# ---------------------------------------------------------------------------------------------------------------------
# From the tracker to a run's folder


def bring_run(options, run_id):
    """Bring the training state of a run, with its version, if the tracker has one that is newer than what is on disk.

    Everything is checked before it counts; the state comes last, and a fetch that was cut off goes on where it was.
    UserError if something is damaged or the disk is full, or if the tracker can't be reached and nothing is on disk.
    """
    run = checkpoint.run_folder(options.output_dir, run_id)
    try:
        tracker = trackers.connect(options, run_id)
        state = tracker.find(trackers.STATES, f"{run_id}-latest")
    except trackers.TrackerError:
        if steps_on_disk(run):
            return  # it is said when the run begins and the tracker still can't be reached
        raise
    if state and state.metadata["step"] > max(steps_on_disk(run), default=-1):
        step, version = state.metadata["step"], require_version_name(state.metadata["version"])
        run.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(run / ".fetch.lock"):  # several processes may start at once
            if step not in steps_on_disk(run):
                if fetch_version(tracker, run, version) is None:
                    raise UserError(
                        f"{tracker.name} has the state of run {run_id}, but not its {version}: it can't go on"
                    )
                fetch_state(tracker, run, state, version)
    tracker.finish()


def steps_on_disk(run):
    return [int(folder.name) for folder in (run / "state").glob("[0-9]*")]


def fetch_state(tracker, run, artifact, version):
    """Bring state/<step> of a run whose version is there already, and the files that a resumed run begins from."""
    step = artifact.metadata["step"]
    with publish(run / "state" / f"{step:09d}", checkpoint.ROOM) as folder:
        download(tracker, artifact, folder, f"state of update {step}")
        options = read_json(folder / CONFIG)
        checkpoint.restore_untouched(run, version, [part for part in PARTS if options[f"train_{part}"]])
        write_json(run / "versions.json", read_json(folder / checkpoint.POSITION)["ledger"])
        for name in (CONFIG, METRICS):
            (folder / name).replace(run / name)
        remember(run, tracker.where, STATE, step)


def bring_version(options, run_id, version):
    """Bring one version (vN, latest or best) of a run, if it is not on disk, and list it in versions.json; of v0, which
    is the model that the run began with, just the run's config.json that names it.

    Where the run is trained on this machine, what is on disk comes first; else the tracker says what the alias means,
    and if it can't be reached, what it meant the last time.
    """
    run = checkpoint.run_folder(options.output_dir, run_id)
    ledger = checkpoint.read_ledger(run)
    name = ledger["aliases"].get(version, version)
    on_disk = (run / "versions" / name).is_dir()
    if (on_disk and (name == version or steps_on_disk(run))) or (version == "v0" and (run / CONFIG).exists()):
        return
    try:
        tracker = trackers.connect(options, run_id)
        if version == "v0":
            latest = tracker.find(trackers.VERSIONS, f"{run_id}-latest")
            if latest:
                write_json(run / CONFIG, latest.metadata["options"])
            about = None
        else:
            about = fetch_version(tracker, run, version)
        tracker.finish()
    except trackers.TrackerError:
        if on_disk:
            return
        raise
    if about:
        name = about["version"]
        if not (run / CONFIG).exists():
            write_json(run / CONFIG, about["options"])
        ledger["versions"][name] = {key: about[key] for key in ("step", "validation_loss")}
        if version != name:
            ledger["aliases"][version] = name
        write_json(run / "versions.json", ledger)


def fetch_version(tracker, run, version):
    """Bring the folder of a version (vN, latest or best), unless it is there and of that very update (a run that was
    resumed from an older state has used the name again); returns what about.json says, or None."""
    artifact = tracker.find(trackers.VERSIONS, f"{run.name}-{version}")
    if artifact is None:
        return None
    name = require_version_name(artifact.metadata["version"])
    step = artifact.metadata["step"]
    if not (run / "versions" / name).is_dir() or read_published(run, tracker.where)["versions"].get(name) != step:
        with publish(run / "versions" / name, checkpoint.ROOM) as folder:
            download(tracker, artifact, folder, name)
        remember(run, tracker.where, name, step)
    return artifact.metadata


def require_version_name(name):
    """It becomes a folder's name, and comes from elsewhere."""
    if not re.fullmatch(r"v\d+", str(name)):
        raise UserError(f"the tracker has a version called {name!r}: that is none of ours")
    return name


def download(tracker, artifact, folder, what):
    """Fetch the files of an artifact into `folder`. UserError unless they are, byte for byte, those that were sent."""
    sent = artifact.metadata["files"]
    size = sum(size for size, _ in sent.values())
    checkpoint.require_room(folder.parent.parent, size, what)
    with (
        trackers.blaming(tracker.name),
        ThreadPoolExecutor(1) as background,
        tqdm(total=size, desc=f"fetching {what} from {tracker.name}", unit="B", unit_scale=True) as bar,
    ):
        fetching = background.submit(tracker.download, artifact, folder)
        while not fetching.done():  # the libraries tell nothing of their progress; the folder does
            wait([fetching], timeout=0.5)
            bar.update(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) - bar.n)
        fetching.result()
    came = list_files(folder)
    for path in sorted({*sent, *came}):
        if sent.get(path) != came.get(path):
            raise UserError(
                f"{what} of {artifact.metadata['run_id']} came damaged from {tracker.name} ({path} is not what was "
                "sent): nothing of it was kept; try again"
            )
    with contextlib.suppress(FileNotFoundError):
        (folder / ABOUT).unlink()
