"""The run folder is the source of truth; a background thread uploads whatever the tracker does not have yet.

Training waits for the tracker only at its start, START_SECONDS at most, and at its end, as long as there is progress;
it never fails because of it.

    curves and pictures   metrics.jsonl, step by step        -> the tracker's run of the same id
    versions/vN           complete pipelines                 -> artifact stable_diffusion_model, alias <run_id>-vN
    state/<step>          with config.json, metrics.jsonl    -> artifact stable_diffusion_state, alias <run_id>-latest

latest and best of a run are the aliases <run_id>-latest and <run_id>-best: all runs of a project share one collection,
and trackers keep plain vN for their own count.
"""

from __future__ import annotations

import collections
import pathlib
import shlex
import threading
import time
from collections.abc import Callable

import config
from checkpoints import catalog
from checkpoints.metrics_log import MetricsTail
from checkpoints.run_folder import RunFolder
from checkpoints.state import read_state
from common.errors import UserError
from common.files import remove, require_free_space
from tracking import artifacts, asking, trackers
from tracking.published import (
    STATE,
    correct_published,
    forget_version,
    read_all_published,
    read_published,
    record_published,
)

ERROR_SECONDS = 10  # of waiting for uploads after an error
QUIET_SECONDS = 3  # of waiting at the end before a line says so
START_SECONDS = 60  # of waiting for the first answer of a tracker
CALL_SECONDS = 600  # in which a call of the tracker must return at the end of training, or it is given up
SLOWEST = 100_000  # bytes per second of an upload that is not given up
INTERVAL = 2.0  # seconds between looks at metrics.jsonl


class Uploader:
    """Keeps a tracker up to date with a run while in a `with` block. Does nothing if there is no tracker.

    The public methods, in the order of their use: the `with` block starts the thread; version_saved() wakes it after
    each save; the end of the block waits until everything is uploaded. The thread runs upload_loop(), which connects
    and then calls upload_missing() again and again.
    """

    def __init__(
        self,
        run: RunFolder,
        options: config.TrainingOptions,
        step: int,
        enabled: bool = True,
        say: Callable[[str], object] = print,
    ):
        """run: the run's folder. step: updates done so far. enabled: False for all processes but the first. say: prints
        one line."""
        self.run, self.options, self.step, self.say = run, options, step, say
        self.name = config.tracker(options) if enabled else "none"
        self.tracker: trackers.Tracker | None = None  # set once it was reached
        self.failing = False  # whether the last attempt failed
        self.remedy = ""  # what the user can do about that, if only the user can
        self.call_ends = 0.0  # when the call of the tracker that is going on is given up, by time.monotonic()
        self.started = threading.Event()  # the first attempt to connect is over
        self.files_lock = threading.Lock()  # held while versions or state are replaced, or copied for the upload
        self.wake, self.stopping = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.upload_loop, name="uploader", daemon=True)

    def __enter__(self) -> Uploader:
        """Connect and start the thread. UserError if published.json is damaged."""
        read_all_published(self.run)
        if self.name != "none":
            remove(self.run.upload)  # left by a killed process
            self.thread.start()
            if not self.started.wait(START_SECONDS):
                self.say(f"warning: {self.name} has not answered in {START_SECONDS} s; nothing waits for it any longer")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until the tracker has everything, then print what it lacks, if anything. Ctrl-C ends the wait; after an
        error it ends in ERROR_SECONDS, since a GPU may be held."""
        if self.name == "none":
            return
        self.failing |= not self.thread.is_alive()  # an error of ours has ended it
        self.stopping.set()
        if kind is KeyboardInterrupt:
            return
        self.call_ends = max(self.call_ends, time.monotonic() + CALL_SECONDS)  # the last uploads begin now
        self.wake.set()
        self.thread.join(QUIET_SECONDS)
        if self.thread.is_alive():
            self.say(
                f"{self.name}: still publishing; Ctrl-C leaves now, and this does the rest later: "
                f"{self.publish_command()}"
            )
        error_ends = time.monotonic() + ERROR_SECONDS
        while self.thread.is_alive() and time.monotonic() < (error_ends if kind else self.call_ends):
            self.thread.join(0.2)
        stuck = self.thread.is_alive()
        self.failing |= stuck
        try:
            if self.tracker and not stuck and not (kind and self.failing):  # or finish() would wait for the same
                self.tracker.finish()
        except UserError:
            self.failing = True
        missing = self.missing() + ["the last curves"] * self.failing
        if missing:
            lacks = f"{self.name} lacks {', '.join(missing)} of run {self.run.name}"
            if self.failing and self.remedy:
                lacks += f": {self.remedy}; then"
            else:
                lacks += ";"
            self.say(f"{lacks} publish with: {self.publish_command()}")

    def version_saved(self, name: str) -> None:
        """Upload version `name` and the training state, which have just been written. The tracker may have another
        version of that name: a run that was killed and resumed from an older state uses names again."""
        with self.files_lock:
            forget_version(self.run, name)
        self.wake.set()

    def missing(self) -> list[str]:
        """Names of the versions that the tracker lacks, or has under other aliases, oldest first; then STATE if it
        lacks the newest training state. It goes by published.json, which connect() has compared with the tracker."""
        if self.name not in config.STORES or self.options.upload == "none":
            return []
        published = read_published(self.run, trackers.location(self.options))
        version_index = catalog.read_version_index(self.run)
        moved = {name for alias, name in version_index.aliases.items() if published.aliases.get(alias) != name}
        entries = version_index.versions.items()
        names = [v for v, entry in entries if published.versions.get(v) != entry.step or v in moved]
        names = [v for v in names if (self.run.version(v)).is_dir()]
        if self.options.upload == "all":
            training_state, _ = read_state(self.run)
            if training_state and published.state != training_state.step:
                names.append(STATE)
        return names

    def publish_command(self) -> str:
        """The command line that uploads what is missing later."""
        online = ["env", "-u", "WANDB_MODE"] if self.name == "wandb" and trackers.is_offline() else []
        words = ["python", "-m", "runs", "--output_dir", self.options.output_dir, "--run_id", self.run.name]
        return shlex.join([*online, *words, "--tracker", self.name, "--publish"])

    # -----------------------------------------------------------------------------------------------------------------
    # The thread

    def upload_loop(self) -> None:
        """Connect, then upload what is new soon after it was written; after a failure, try again at the next save."""
        self.attempt(lambda: None)
        self.started.set()
        while not self.stopping.is_set():
            saved = self.wake.wait(INTERVAL)
            if saved:
                self.wake.clear()
            if saved or not self.failing:
                self.attempt(self.upload_missing)
        if not self.failing:
            self.attempt(self.upload_missing)  # what was written during the last upload

    def attempt(self, action: Callable[[], object]) -> None:
        """Connect, if that has not succeeded yet, and call `action`. The first failure in a row prints a warning, the
        first success after it a line that it is over."""
        try:
            if self.tracker is None:
                self.call_begins()
                self.connect()
            action()
        except (UserError, OSError) as problem:
            self.remedy = getattr(problem, "remedy", "")
            if not self.failing:
                later = "after that it is published by" if self.remedy else "it is published at a later save, or by"
                self.say(
                    f"warning: {problem}; nothing stops for it, and all is in {self.run}; {later}: "
                    f"{self.publish_command()}"
                )
            self.failing = True
            return
        if self.failing:
            self.say(f"{self.name} works again")
        self.failing = False

    def connect(self) -> None:
        """Start the tracker's run and set self.tracker. TrackerError if it can't be reached, or if another machine is
        ahead of this one: what that has published must not be replaced by something older."""
        tracker = trackers.connect(self.options, self.run.name)
        if tracker.stores_files:
            index = catalog.read_version_index(self.run)
            has = asking.ask_tracker(tracker, self.run.name, [*index.versions, *index.aliases])
            if has.state is not None and has.state > max(self.run.saved_steps(), default=self.step):
                raise trackers.TrackerError(
                    f"{self.name} has a newer state of run {self.run.name}, of update {has.state}, from another "
                    "machine: nothing is sent over it"
                )
            correct_published(self.run, tracker.location, has)
        tracker.start(self.run.path, config.to_json(self.options), self.step)
        self.say(f"{self.name}: {tracker.how_to_view}")
        self.metrics_tail = MetricsTail(self.run.metrics, after=tracker.last_step())
        self.unsent: collections.deque[tuple[int, dict]] = collections.deque()  # steps that were read, but not logged
        self.tracker = tracker

    def upload_missing(self) -> None:
        """Upload what is on disk and the tracker lacks: curves, then the training state and each version."""
        self.unsent.extend(self.metrics_tail.steps(complete=self.stopping.is_set()))
        while self.unsent:
            self.call_begins()
            self.log_step(*self.unsent[0])
            self.unsent.popleft()  # only now: what fails is logged at the next attempt
        while self.tracker.stores_files and self.upload_next():
            pass

    def call_begins(self, nbytes: int = 0) -> None:
        """Note that the tracker is called, to send `nbytes` bytes: __exit__ tells a slow upload from a hanging call."""
        self.call_ends = time.monotonic() + CALL_SECONDS + nbytes / SLOWEST

    def log_step(self, step: int, values: dict) -> None:
        """Log the values of one step: numbers, lists of numbers as name/0, name/1 ..., and pictures by their path."""
        paths = {name: self.run.path / value for name, value in values.items() if isinstance(value, str)}
        pictures = {name: path for name, path in paths.items() if path.is_file()}  # others are on another machine
        lists = {name: value for name, value in values.items() if isinstance(value, list)}
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        numbers |= {f"{name}/{i}": number for name, value in lists.items() for i, number in enumerate(value)}
        self.tracker.log(step, numbers, pictures)

    def upload_next(self) -> bool:
        """Upload something that the tracker lacks; False if it lacks nothing. First of all the newest state, and just
        before it the version that it continues from: with these two another machine can take over."""
        remove(self.run.upload)
        with self.files_lock:  # so that the two belong together
            names = self.missing()
            if STATE in names:
                latest = catalog.read_version_index(self.run).aliases["latest"]
                names = [name for name in names if name in (latest, STATE)]
            aliases = {name: artifacts.pack(self.run, name, self.run.upload / name) for name in names[:2]}
        for name in aliases:
            folder = self.run.upload / name
            self.require_store_space(folder)
            self.call_begins(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
            step = artifacts.send(self.tracker, folder, aliases[name])
            with self.files_lock:
                record_published(self.run, self.tracker.location, name, step, aliases[name])
        remove(self.run.upload)
        return bool(aliases)

    def require_store_space(self, folder: pathlib.Path) -> None:
        """UserError if the tracker keeps its files on this machine, and there is no space for those that are new."""
        if self.tracker.store:
            files = [path for path in folder.rglob("*") if path.is_file()]
            new = [path for path in files if not (self.run.frozen / path.relative_to(folder)).is_file()]
            published = read_published(self.run, self.tracker.location)
            needed = sum(path.stat().st_size for path in (new if published.versions else files))
            hint = "free some space there, move TRACKIO_DIR, or use --upload none"
            require_free_space(self.tracker.store, needed, f"a copy for {self.name}", hint)
