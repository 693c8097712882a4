"""What a tracker stores of a run as one artifact, both ways: a version, or the training state of an exact resume.

Each artifact says in its metadata, and in a file about.json of its own, which run, version and update it is. The
metadata also has size and SHA-256 of every file, against which a download is checked.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
import shutil
import threading

import filelock
from tqdm import tqdm

from checkpoints import catalog, state, versions
from checkpoints.run_folder import FREE_SPACE_HINT
from common.errors import UserError
from common.files import atomic_write, link_or_copy, read_json, remove, require_free_space, write_json
from diffusion.parts import PARTS
from tracking import trackers
from tracking.published import STATE, read_published, record_published

ABOUT, CONFIG, METRICS = "about.json", "config.json", "metrics.jsonl"
LOCK = ".fetch.lock"

# ---------------------------------------------------------------------------------------------------------------------
# From the run's folder to the tracker


def pack(run, name, folder):
    """Make `folder` a copy of version `name`, or of the training state if name is "state"; returns its aliases.

    The copy is of hard links, where the file system has them; what is pruned meanwhile is sent all the same.
    """
    if name == STATE:
        position, source = state.read_position(run)
        about = {"version": position["ledger"]["aliases"]["latest"], "step": position["step"]}
        aliases = ["latest"]
    else:
        ledger, source = catalog.read_version_index(run), run / "versions" / name
        # with the options of the run, a machine that fetches just this version knows how to draw with it
        about = {"version": name, **ledger["versions"][name], "options": read_json(run / CONFIG)}
        aliases = [name, *catalog.aliases_of(ledger, name)]
    shutil.copytree(source, folder, copy_function=link_or_copy)
    if name == STATE:
        for extra in (CONFIG, METRICS):
            shutil.copy2(run / extra, folder)
    # trackers take files that they have, all alike, for the artifact that they came in first: this one is never alike
    kind, sent = (STATE if name == STATE else "version"), datetime.datetime.now(datetime.UTC).isoformat()
    write_json(folder / ABOUT, {"run_id": run.name, "kind": kind, "sent": sent, **about})
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
# From the tracker to a run's folder


def bring_run(options, run_id):
    """Bring the training state of a run, with its version, if the tracker has one that is newer than what is on disk.

    Everything is checked before it counts; the state comes last, and a fetch that was cut off goes on where it was.
    UserError if something is damaged or the disk is full, or if the tracker can't be reached and nothing is on disk.
    """
    run = catalog.run_path(options.output_dir, run_id)
    try:
        tracker = trackers.connect(options, run_id)
        state = tracker.find(trackers.STATES, f"{run_id}-latest")
    except trackers.TrackerError:
        if catalog.steps_on_disk(run):
            return  # it is said when the run begins and the tracker still can't be reached
        raise
    if state and state.metadata["step"] > max(catalog.steps_on_disk(run), default=-1):
        step, version = state.metadata["step"], require_version_name(state.metadata["version"])
        run.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(run / LOCK):  # several processes may start at once
            if step not in catalog.steps_on_disk(run):
                found = tracker.find(trackers.VERSIONS, f"{run_id}-{version}")
                if not found:
                    raise UserError(
                        f"{tracker.name} has a state of run {run_id}, but not its {version}: it can't go on"
                    )
                fetch_version(tracker, run, found)
                fetch_state(tracker, run, state, version)
                print(f"fetched update {step} of run {run_id} ({version}) from {tracker.name}")
    ledger = catalog.read_version_index(run)
    latest = ledger["aliases"].get("latest")
    if latest and not (run / "versions" / latest).is_dir():  # somebody has deleted it
        found = tracker.find(trackers.VERSIONS, f"{run_id}-{latest}")
        if found and found.metadata["step"] == ledger["versions"][latest]["step"]:
            fetch_version(tracker, run, found)
    tracker.finish()


def fetch_state(tracker, run, artifact, version):
    """Bring state/<step> of a run whose version is there already, and the files that a resumed run begins from."""
    step = artifact.metadata["step"]
    with atomic_write(run / "state" / f"{step:09d}", FREE_SPACE_HINT) as folder:
        download(tracker, artifact, folder, f"state of update {step}")
        options = read_json(folder / CONFIG)
        versions.restore_frozen(run, version, [part for part in PARTS if options[f"train_{part}"]])
        ledger, known = read_json(folder / catalog.POSITION)["ledger"], catalog.read_version_index(run)["versions"]
        for name in ledger["versions"].keys() - {version}:
            if known.get(name) != ledger["versions"][name]:  # from another past of the run; fetched when asked for
                remove(run / "versions" / name)
        write_json(run / "versions.json", ledger)
        for name in (CONFIG, METRICS):
            (folder / name).replace(run / name)
        for name, entry in ledger["versions"].items():
            record_published(run, tracker.where, name, entry["step"])
        for alias, name in ledger["aliases"].items():
            meant, entry = tracker.find(trackers.VERSIONS, f"{run.name}-{alias}"), ledger["versions"][name]
            # or else a version came after that state, which the run will not have had: the alias is sent again
            if meant and (meant.metadata["version"], meant.metadata["step"]) == (name, entry["step"]):
                record_published(run, tracker.where, name, entry["step"], [alias])
        record_published(run, tracker.where, STATE, step)


def bring_version(options, run_id, version):
    """Bring one version (vN, latest or best) of a run into <run>/fetched, if it is not on disk; of v0, which is the
    model that the run began with, just the run's config.json that names it.

    Where the run is trained on this machine, what is on disk comes first; else the tracker says what the alias means,
    and if it can't be reached, what it meant the last time. A training that goes on meanwhile is not disturbed.
    """
    run = catalog.run_path(options.output_dir, run_id)
    name, home = catalog.find_version(run, version)
    on_disk = (home / "versions" / name).is_dir() if home else version == "v0" and (run / CONFIG).exists()
    trained_here = bool(catalog.steps_on_disk(run))
    if on_disk and (trained_here or version not in ("latest", "best")):
        return
    try:
        tracker = trackers.connect(options, run_id)
        if version == "v0":
            found = tracker.find(trackers.VERSIONS, f"{run_id}-latest")
            about = found.metadata if found else None
        else:
            about = list_fetched(tracker, run, name if trained_here else version)
        tracker.finish()
    except trackers.TrackerError:
        if on_disk:
            return
        raise
    if about and not (run / CONFIG).exists():
        write_json(run / CONFIG, about["options"])


def list_fetched(tracker, run, version):
    """Have a version in <run>/fetched, and in the versions.json there; returns what about.json says, or None."""
    home = run / catalog.FETCHED
    found = tracker.find(trackers.VERSIONS, f"{run.name}-{version}")
    if not found:
        return None
    home.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(home / LOCK):  # several processes may draw at once
        name, ledger = fetch_version(tracker, home, found), catalog.read_version_index(home)
        ledger["versions"][name] = {key: found.metadata[key] for key in ("step", "validation_loss")}
        if version != name:
            ledger["aliases"][version] = name
        write_json(home / "versions.json", ledger)
    return found.metadata


def fetch_version(tracker, home, artifact):
    """Bring <home>/versions/<name> of the version that is `artifact`, unless it is there and of that very update (a run
    that was resumed from an older state has used the name again); returns its name."""
    name, step = require_version_name(artifact.metadata["version"]), artifact.metadata["step"]
    if not (home / "versions" / name).is_dir() or read_published(home, tracker.where)["versions"].get(name) != step:
        with atomic_write(home / "versions" / name, FREE_SPACE_HINT) as folder:
            download(tracker, artifact, folder, name)
        record_published(home, tracker.where, name, step)
    return name


def require_version_name(name):
    """It becomes a folder's name, and comes from elsewhere."""
    if not re.fullmatch(r"v\d+", str(name)):
        raise UserError(f"the tracker has a version called {name!r}: that is none of ours")
    return name


def download(tracker, artifact, folder, what):
    """Fetch the files of an artifact into `folder`. UserError unless they are, byte for byte, those that were sent."""
    sent = artifact.metadata["files"]
    size = sum(size for size, _ in sent.values())
    require_free_space(folder.parent.parent, size, what)
    problems = []
    fetching = threading.Thread(target=note_problem, args=(problems, tracker.download, artifact, folder), daemon=True)
    with tqdm(total=size, desc=f"fetching {what} from {tracker.name}", unit="B", unit_scale=True) as bar:
        fetching.start()
        while fetching.is_alive():  # the libraries tell nothing of their progress; the folder does
            fetching.join(0.5)
            bar.update(size_of(folder) - bar.n)
    with trackers.blaming(tracker.name):
        for problem in problems:
            raise problem
    came = list_files(folder)
    for path in sorted({*sent, *came}):
        if sent.get(path) != came.get(path):
            raise UserError(
                f"{what} of {artifact.metadata['run_id']} came damaged from {tracker.name} ({path} is not what was "
                "sent): nothing of it was kept; try again"
            )
    with contextlib.suppress(FileNotFoundError):
        (folder / ABOUT).unlink()


def note_problem(problems, action, *words):
    """Act; what it raises is noted for the thread that waits."""
    try:
        action(*words)
    except BaseException as problem:
        problems.append(problem)


def size_of(folder):
    """Bytes of the files under a folder that others are writing to."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            size += path.stat().st_size if path.is_file() else 0
    return size
