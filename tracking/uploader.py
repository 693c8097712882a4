"""The disk is the truth, a tracker its mirror: what a run's folder holds and the tracker lacks is sent by a thread of
its own. Training waits for the tracker at its start alone, half a minute at most, and never fails for it.

    curves and pictures   metrics.jsonl, step by step        -> the tracker's run of the same id
    versions/vN           complete pipelines                 -> artifact stable_diffusion_model, alias <run_id>-vN
    state/<step>          with config.json, metrics.jsonl    -> artifact stable_diffusion_state, alias <run_id>-latest

latest and best of a run are the aliases <run_id>-latest and <run_id>-best: all runs of a project share one collection,
and trackers keep plain vN for their own count.
"""

from __future__ import annotations

import collections
import shlex
import threading

import config
from checkpoints import catalog, state
from checkpoints.metrics_log import MetricsTail
from common.errors import UserError
from common.files import remove, require_free_space
from tracking import artifacts, trackers
from tracking.published import STATE, forget_version, read_published, record_published

INTERVAL = 2.0  # seconds between looks at metrics.jsonl
UPLOAD = "upload"  # a folder in the run's


class Uploader:
    """Keeps a tracker up to date with a run while in a `with` block. Does nothing where there is no tracker."""

    def __init__(self, run, options, step, enabled=True, say=print):
        """step: updates done so far. enabled: False for all processes but the first. say: prints one line."""
        self.run, self.options, self.step, self.say = run, options, step, say
        self.name = config.tracker(options) if enabled else "none"
        self.tracker = None  # until it can be reached
        self.failing = False
        self.disk = threading.Lock()  # held while versions or state are replaced, or copied to be sent
        self.wake, self.ending = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.work, name="mirror", daemon=True)

    def __enter__(self):
        if self.name != "none":
            remove(self.run / UPLOAD)  # what a killed process has left
            self.attempt(lambda: None)  # connects
            self.thread.start()
        return self

    def __exit__(self, kind, *_):
        """Wait until the tracker has everything, then say what it lacks, if anything. Ctrl-C ends the wait."""
        if self.name == "none":
            return
        self.failing |= not self.thread.is_alive()  # by a mistake of ours
        self.ending.set()
        if kind is KeyboardInterrupt:
            return
        self.wake.set()
        self.thread.join(3)
        if self.thread.is_alive():
            self.say(
                f"{self.name}: still publishing; Ctrl-C leaves now, and this does the rest later: {self.command()}"
            )
        while self.thread.is_alive():
            self.thread.join(0.2)
        try:
            if self.tracker:
                self.tracker.finish()
        except UserError:
            self.failing = True
        missing = self.missing() + ["the last curves"] * self.failing
        if missing:
            self.say(f"{self.name} lacks {', '.join(missing)} of run {self.run.name}; publish with: {self.command()}")

    def saved(self, name):
        """Version `name` and the state were written and are to be published; also if a version of that name was, as
        when a run is killed and resumed from an older state."""
        with self.disk:
            forget_version(self.run, name)
        self.wake.set()

    def work(self):
        """The thread: what is new is sent soon; after a failure, the next save is the next try."""
        while not self.ending.is_set():
            saved = self.wake.wait(INTERVAL)
            if saved:
                self.wake.clear()
            if saved or not self.failing:
                self.attempt(self.catch_up)
        if not self.failing:
            self.attempt(self.catch_up)  # what came while it was busy

    def attempt(self, action):
        """Connect, if need be, and act. A failure is told once, and when it is over."""
        try:
            if self.tracker is None:
                self.connect()
            action()
        except (UserError, OSError) as problem:
            if not self.failing:
                self.say(
                    f"warning: {problem}; nothing stops for it, and all is in {self.run}; what {self.name} misses is "
                    f"published at a later save, or by: {self.command()}"
                )
            self.failing = True
            return
        if self.failing:
            self.say(f"{self.name} works again")
        self.failing = False

    def connect(self):
        """Have self.tracker. TrackerError if it can't be reached, or if another machine is ahead of this one: what it
        has published must not be replaced by something older."""
        tracker = trackers.connect(self.options, self.run.name)
        newest = tracker.find(trackers.STATES, f"{self.run.name}-latest")
        if newest and newest.metadata["step"] > max(catalog.steps_on_disk(self.run), default=self.step):
            raise trackers.TrackerError(
                f"{self.name} has a newer state of run {self.run.name}, of update {newest.metadata['step']}, from "
                "another machine: nothing is sent over it"
            )
        tracker.start(self.run, config.to_json(self.options), self.step)
        self.say(f"{self.name}: {tracker.look}")
        self.curves = MetricsTail(self.run / "metrics.jsonl", after=tracker.last_step())
        self.unsent = collections.deque()  # (step, values) that were read but not logged yet
        self.tracker = tracker

    def catch_up(self):
        """Send what is there and the tracker lacks: curves, then each version, then the newest state."""
        self.unsent.extend(self.curves.steps(complete=self.ending.is_set()))
        while self.unsent:
            step, values = self.unsent[0]
            paths = {name: self.run / value for name, value in values.items() if isinstance(value, str)}
            pictures = {name: path for name, path in paths.items() if path.is_file()}  # or is on another machine
            lists = {name: value for name, value in values.items() if isinstance(value, list)}
            numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
            numbers |= {f"{name}/{i}": number for name, value in lists.items() for i, number in enumerate(value)}
            self.tracker.log(step, numbers, pictures)
            self.unsent.popleft()
        while self.tracker.stores_files and self.publish_next():
            pass

    def publish_next(self):
        """Send something that the tracker lacks; False if there is nothing. First of all the newest state, and just
        before it the version that it goes on from: with these two another machine can take over."""
        remove(self.run / UPLOAD)
        with self.disk:  # so that the two belong together
            names = self.missing()
            if STATE in names:
                latest = catalog.read_version_index(self.run)["aliases"]["latest"]
                names = [name for name in names if name in (latest, STATE)]
            aliases = {name: artifacts.pack(self.run, name, self.run / UPLOAD / name) for name in names[:2]}
        for name in aliases:
            folder = self.run / UPLOAD / name
            self.require_room(folder)
            step = artifacts.send(self.tracker, folder, aliases[name])
            with self.disk:
                record_published(self.run, self.tracker.where, name, step, aliases[name])
        remove(self.run / UPLOAD)
        return bool(aliases)

    def require_room(self, folder):
        """UserError if the tracker keeps its files on this machine, and there is no room for those that are new."""
        if self.tracker.store:
            files = [path for path in folder.rglob("*") if path.is_file()]
            new = [path for path in files if not (self.run / "untouched" / path.relative_to(folder)).is_file()]
            has = read_published(self.run, self.tracker.where)
            needed = sum(path.stat().st_size for path in (new if has["versions"] else files))
            hint = "free some space there, move TRACKIO_DIR, or use --upload none"
            require_free_space(self.tracker.store, needed, f"a copy for {self.name}", hint)

    def missing(self):
        """Names of the versions that the tracker lacks, or has under other aliases, oldest first, and "state"."""
        if self.name not in config.STORES or self.options.upload == "none":
            return []
        has = read_published(self.run, trackers.where(self.options))
        ledger = catalog.read_version_index(self.run)
        moved = {name for alias, name in ledger["aliases"].items() if has["aliases"].get(alias) != name}
        names = [v for v in ledger["versions"] if v not in has["versions"] or v in moved]
        names = [v for v in names if (self.run / "versions" / v).is_dir()]
        if self.options.upload == "all":
            position, _ = state.read_position(self.run)
            if position and has[STATE] != position["step"]:
                names.append(STATE)
        return names

    def command(self):
        """What publishes the rest, by hand."""
        words = ["python", "-m", "runs", "--output_dir", self.options.output_dir, "--run_id", self.run.name]
        return shlex.join([*words, "--tracker", self.name, "--publish"])
