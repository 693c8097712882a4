"""A version, or the training state of an exact resume, as one artifact in a tracker: upload and download.

Each artifact says in its metadata, and in a file about.json of its own, which run, version and step it belongs to. The
metadata also has size and SHA-256 of every file, against which a download is checked.
"""

from __future__ import annotations

import contextlib
import datetime
import pathlib
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from tqdm import tqdm

import config
from checkpoints import catalog, versions
from checkpoints.records import SavedVersion, TrainingState, VersionIndex
from checkpoints.run_folder import POSITION, RunFolder
from checkpoints.state import read_state
from common.errors import UserError
from common.files import (
    atomic_write,
    link_or_copy_tree,
    read_json,
    remove,
    remove_dead_temporary_files,
    require_free_space,
    write_json,
)
from common.hashing import file_sha256
from common.locks import file_lock
from common.manifest import read_manifest
from tracking import trackers
from tracking.artifact_info import ArtifactInfo, FileInfo, not_ours
from tracking.asking import find_artifact
from tracking.base import Artifact, ArtifactTracker
from tracking.published import STATE, read_published, record_published

SPACE_HINT = "free some space there or choose another --output_dir, and give this command again"
ABOUT, CONFIG, METRICS = "about.json", "config.json", "metrics.jsonl"

# ---------------------------------------------------------------------------------------------------------------------
# Upload: from the run's folder to the tracker


def pack(run: RunFolder, name: str, folder: pathlib.Path) -> list[str]:
    """Copy version `name`, or the training state if the name is STATE, to `folder`; returns its aliases.

    The copy is made of hard links, where the file system has them, so a version that is pruned meanwhile is uploaded
    all the same.
    """
    if name == STATE:
        training_state, source = read_state(run)
        if training_state is None or source is None:
            raise UserError(f"run {run.name} has no training state in {run.states}")
        about = {"version": training_state.version_index.aliases["latest"], "step": training_state.step}
        aliases = ["latest"]
    else:
        version_index, source = catalog.read_version_index(run), run.version(name)
        # with the options of the run, a machine that downloads only this version can draw with it
        about = {"version": name, **version_index.versions[name].to_json(), "options": read_json(run.config)}
        aliases = [name, *version_index.aliases_of(name)]
    link_or_copy_tree(source, folder)
    if name == STATE:
        for extra in (run.config, run.metrics):
            shutil.copyfile(extra, folder / extra.name)
    # trackers store an artifact whose files are all known under the name that it had first: `sent` makes each differ
    kind, sent = (STATE if name == STATE else "version"), datetime.datetime.now(datetime.UTC).isoformat()
    write_json(folder / ABOUT, {"run_id": run.name, "kind": kind, "sent": sent, **about})
    return aliases


def send(tracker: ArtifactTracker, folder: pathlib.Path, aliases: Sequence[str]) -> int:
    """Upload a packed folder under <run_id>-<alias> for each alias; returns its step."""
    about = read_json(folder / ABOUT)
    collection = trackers.STATES if about["kind"] == STATE else trackers.VERSIONS
    metadata = {**about, "files": list_files(folder)}
    for path, file in (read_manifest(folder) or {}).items():
        if metadata["files"].get(path) != [file.nbytes, file.sha256]:
            raise UserError(f"{path} of {about['version']}, a {about['kind']} of run {about['run_id']}, is damaged")
    tracker.publish(collection, folder, [f"{about['run_id']}-{alias}" for alias in aliases], metadata)
    return about["step"]


def list_files(folder: pathlib.Path) -> dict[str, list]:
    """{path relative to the folder: [size in bytes, SHA-256]} of the files under a folder, as JSON has it."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[path.relative_to(folder).as_posix()] = [path.stat().st_size, file_sha256(path)]
    return files


# ---------------------------------------------------------------------------------------------------------------------
# Download: from the tracker to a run's folder


def fetch_run(options: config.TrainingOptions, run_id: str, locked: bool = False) -> None:
    """Download the training state of a run, with its version, if the tracker has a newer one than the disk.

    Everything is checked before it takes its place; the state comes last, and a download that was cut off goes on
    where it was. locked: whether the caller holds the run's lock. UserError if something is damaged or the disk is
    full, or if the tracker can't be reached and nothing is on disk.
    """
    run = catalog.run_folder(options.output_dir, run_id)
    if run.config.exists() and not trackers.can_store_files(options):
        return  # wandb offline, which the user chose
    try:
        tracker = trackers.connect(options, run_id)
        found = find_artifact(tracker, trackers.STATES, run_id, "latest")
    except trackers.TrackerError as problem:
        if run.saved_steps():
            return  # the uploader warns when the run starts and the tracker still can't be reached
        raise not_fetched(problem, f"a state of run {run_id}", options.output_dir) from None
    if found and found[1].step > max(run.saved_steps(), default=-1):
        fetch_state_and_version(tracker, run, *found, locked)
    try:
        version_index = catalog.read_version_index(run)
    except UserError:
        if not run.saved_steps():
            raise
        version_index = VersionIndex()  # damaged: resuming restores it from the training state
    latest = version_index.aliases.get("latest")
    if latest and not run.version(latest).is_dir():  # somebody has deleted it
        found = find_artifact(tracker, trackers.VERSIONS, run_id, latest)
        if found and found[1].step == version_index.versions[latest].step:
            with file_lock(run.fetch_lock):
                if not run.version(latest).is_dir():  # or another process has fetched it meanwhile
                    download_version(tracker, run, *found)
    tracker.finish()


def not_fetched(problem: trackers.TrackerError, what: str, output_dir: str) -> trackers.TrackerError:
    """The error for something that is neither on this disk nor can be fetched; with what can be done about it."""
    if problem.remedy:
        return problem
    remedy = "try again when it can be reached, or say with --output_dir where the run is"
    return trackers.TrackerError(f"{problem}; {what} is not in {output_dir} either", remedy)


def fetch_state_and_version(
    tracker: ArtifactTracker, run: RunFolder, artifact: Artifact, info: ArtifactInfo, locked: bool
) -> None:
    """Download a training state and the version that it continues from, unless another process has just done so.

    UserError if another process trains the run: its files would be replaced.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    with file_lock(run.fetch_lock):  # several processes may start at once
        if info.step in run.saved_steps():
            return
        with nullcontext() if locked else run.lock():
            fetch_both(tracker, run, artifact, info)


def fetch_both(tracker: ArtifactTracker, run: RunFolder, artifact: Artifact, info: ArtifactInfo) -> None:
    """Download a training state and its version into a run that nobody else changes."""
    found = find_artifact(tracker, trackers.VERSIONS, run.name, info.version)
    if not found:
        raise UserError(
            f"{tracker.name} has a state of run {run.name}, but not its {info.version}: it can't be resumed"
        )
    download_version(tracker, run, *found)
    download_state(tracker, run, artifact, info)
    print(f"fetched update {info.step} of run {run.name} ({info.version}) from {tracker.name}")


def download_state(tracker: ArtifactTracker, run: RunFolder, artifact: Artifact, info: ArtifactInfo) -> None:
    """Download state/<step> of a run that has info.version already, and the files that a resumed run begins from.

    UserError, with the run as it was, if the state is damaged or lists versions that are none of ours.
    """
    info.require_files((POSITION, CONFIG, METRICS), tracker.name)
    with atomic_write(run.state(info.step), SPACE_HINT) as folder:
        download(tracker, artifact, info, folder, f"state of update {info.step}")
        version_index = read_downloaded_state(folder, info, tracker.name).version_index
        aliases = aliases_in_tracker(tracker, run.name, version_index)
        options = read_json(folder / CONFIG)
        versions.restore_frozen(run, info.version, versions.own_names(options))
        known = catalog.read_version_index(run).versions
        for name in version_index.versions.keys() - {info.version}:
            if known.get(name) != version_index.versions[name]:  # from another past of the run; fetched on demand
                remove(run.version(name))
        write_json(run.version_index, version_index.to_json())
        (folder / CONFIG).replace(run.config)
        (folder / METRICS).replace(run.metrics)
        for name, entry in version_index.versions.items():
            record_published(run, tracker.location, name, entry.step, aliases[name])
        record_published(run, tracker.location, STATE, info.step)


def read_downloaded_state(folder: pathlib.Path, info: ArtifactInfo, source: str) -> TrainingState:
    """The position.json of a downloaded state; the names in its version index are safe to join to paths.

    source: the tracker's name. UserError if it is damaged, or does not fit the artifact's metadata.
    """
    what = f"the state of update {info.step} of run {info.run_id} in {source}"
    try:
        state = TrainingState.from_json(read_json(folder / POSITION), folder / POSITION)
    except UserError as problem:
        raise not_ours(f"{what} is damaged ({problem})") from None
    if state.step != info.step:
        raise not_ours(f"{what} is of another update")
    if state.version_index.aliases.get("latest") != info.version:
        raise not_ours(f"{what} does not belong to {info.version}")
    return state


def aliases_in_tracker(tracker: ArtifactTracker, run_id: str, version_index: VersionIndex) -> dict[str, list[str]]:
    """{version: those of its aliases in the index that it has in the tracker, too}.

    A later version, which the resumed run will not have, may have taken an alias: it is uploaded again.
    """
    aliases: dict[str, list[str]] = {name: [] for name in version_index.versions}
    for alias, name in version_index.aliases.items():
        found = find_artifact(tracker, trackers.VERSIONS, run_id, alias)
        if found and (found[1].version, found[1].step) == (name, version_index.versions[name].step):
            aliases[name].append(alias)
    return aliases


def fetch_version(options: config.TrainingOptions | config.InferenceOptions, run_id: str, version: str) -> None:
    """Download one version (vN, latest or best) of a run into <run>/fetched, if it is not on disk; of v0, which is the
    model that the run started from, only the run's config.json that names it.

    If the run is trained on this machine, what is on disk comes first; else the tracker says what the alias means, and
    if it can't be reached, what it meant the last time. A training that goes on meanwhile is not disturbed.
    """
    run = catalog.run_folder(options.output_dir, run_id)
    name, home = catalog.find_version(run, version)
    on_disk = (home.version(name)).is_dir() if home else version == "v0" and run.config.exists()
    trained_here = bool(run.saved_steps())
    if on_disk and (trained_here or version not in ("latest", "best")):
        return
    try:
        tracker = trackers.connect(options, run_id)
        if version == "v0":
            found = find_artifact(tracker, trackers.VERSIONS, run_id, "latest")
            info = found[1] if found else None
        else:
            info = download_beside_run(tracker, run, name if trained_here else version)
        tracker.finish()
    except trackers.TrackerError as problem:
        if on_disk:
            return
        raise not_fetched(problem, f"version {version} of run {run_id}", options.output_dir) from None
    if info and not run.config.exists():
        if info.options is None:
            raise not_ours(f"{tracker.name} has {info.version} of run {run_id} without the run's options")
        write_json(run.config, info.options)


def download_beside_run(tracker: ArtifactTracker, run: RunFolder, version: str) -> ArtifactInfo | None:
    """Download a version into <run>/fetched and add it to the versions.json there; returns its metadata, or None if
    the tracker has no such version."""
    home = run.fetched
    found = find_artifact(tracker, trackers.VERSIONS, run.name, version)
    if not found:
        return None
    artifact, info = found
    home.path.mkdir(parents=True, exist_ok=True)
    with file_lock(home.fetch_lock):  # several processes may draw at once
        remove_dead_temporary_files(home.versions)
        download_version(tracker, home, artifact, info)
        index = catalog.read_version_index(home)
        saved = SavedVersion(info.step, info.validation_loss)
        moved = {version: info.version} if version != info.version else {}
        index = VersionIndex(index.versions | {info.version: saved}, index.aliases | moved)
        write_json(home.version_index, index.to_json())
    return info


def download_version(tracker: ArtifactTracker, home: RunFolder, artifact: Artifact, info: ArtifactInfo) -> None:
    """Download <home>/versions/<name>, unless it is there and of that very step: a run that was resumed from an older
    state has used the name again."""
    name, folder = info.version, home.version(info.version)
    if not folder.is_dir() or read_published(home, tracker.location).versions.get(name) != info.step:
        with atomic_write(folder, SPACE_HINT) as temporary:
            download(tracker, artifact, info, temporary, name)
        record_published(home, tracker.location, name, info.step)


def download(tracker: ArtifactTracker, artifact: Artifact, info: ArtifactInfo, folder: pathlib.Path, what: str) -> None:
    """Download the files of an artifact into `folder`. UserError unless each has the size and hash in the metadata.

    what: the artifact in words, for messages.
    """
    require_free_space(folder.parent.parent, info.nbytes, what, SPACE_HINT)
    errors: list[BaseException] = []
    thread = threading.Thread(target=collect_error, args=(errors, tracker.download, artifact, folder), daemon=True)
    with tqdm(total=info.nbytes, desc=f"fetching {what} from {tracker.name}", unit="B", unit_scale=True) as bar:
        thread.start()
        while thread.is_alive():  # the libraries do not report their progress; the folder's size does
            thread.join(0.5)
            bar.update(bytes_under(folder) - bar.n)
    with trackers.tracker_errors(tracker.name, tracker.remedies):
        for error in errors:
            raise error
    downloaded = {path: FileInfo(*entry) for path, entry in list_files(folder).items()}
    for path in sorted({*info.files, *downloaded}):
        if info.files.get(path) != downloaded.get(path):
            raise UserError(
                f"{what} of {info.run_id} came damaged from {tracker.name} ({path} is not what was sent): nothing of "
                "it was kept; try again"
            )
    with contextlib.suppress(FileNotFoundError):
        (folder / ABOUT).unlink()


def collect_error(errors: list[BaseException], function: Callable, *args: object) -> None:
    """Call a function; append what it raises to `errors`, for the thread that waits for this one."""
    try:
        function(*args)
    except BaseException as error:
        errors.append(error)


def bytes_under(folder: pathlib.Path) -> int:
    """Bytes of the files under a folder that another thread is writing to."""
    size = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # renamed meanwhile
            size += path.stat().st_size if path.is_file() else 0
    return size
