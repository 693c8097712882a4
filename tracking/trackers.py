"""Trackers behind one small set of calls: wandb, trackio (the same calls, no account), tensorboard, or none.

    tracker = trackers.connect(options, run_id)
    artifact = tracker.find(trackers.VERSIONS, alias)             # None, or it has .metadata and can be downloaded
    tracker.start(folder, run_config, step)                       # the run of that id, new or resumed
    tracker.log(step, {"loss": 0.5}, {"samples": path})
    tracker.publish(trackers.VERSIONS, folder, aliases, metadata)
    tracker.finish()

What a library raises comes out as TrackerError, one line without the key.
"""

from __future__ import annotations

import contextlib
import netrc
import os
import pathlib
import textwrap
import types
import urllib.parse

import numpy
from PIL import Image

import config
from common.errors import UserError
from common.files import remove

VERSIONS = ("stable_diffusion_model", "model")  # artifact collection and its type: complete pipelines
STATES = ("stable_diffusion_state", "state")  # what an exact resume needs
PATIENCE = 24 * 3600  # seconds that the upload of one artifact may take
OFFLINE = ("offline", "dryrun")  # values of WANDB_MODE
REACHED = 30  # seconds in which wandb must answer when a run starts


class TrackerError(UserError):
    """The tracker can't be reached, or refuses; training goes on without it."""


@contextlib.contextmanager
def blaming(name):
    """Whatever the library raises inside is a TrackerError: these libraries raise many kinds, of network and disk."""
    try:
        yield
    except UserError:
        raise
    except Exception as problem:
        reason = str(problem) or type(problem).__name__
        for secret in filter(None, [os.environ.get("WANDB_API_KEY"), os.environ.get("TRACKIO_SERVER_URL")]):
            reason = reason.replace(secret, "***")
        raise TrackerError(f"{name}: {textwrap.shorten(reason, 200, placeholder=' ...').rstrip('.')}") from None


def connect(options, run_id):
    """The tracker that the options name, for one run. Nothing is sent before start(). UserError if it has no key."""
    name = config.tracker(options)
    if name == "wandb":
        require_key(options)
        return Wandb(options, run_id)
    if name == "trackio":
        return Trackio(options, run_id)
    return TensorBoard() if name == "tensorboard" else Tracker()


def require_key(options):
    """UserError if wandb is to be used and its key is missing or no key: known before the long work."""
    key = os.environ.get("WANDB_API_KEY")
    if config.tracker(options) != "wandb" or os.environ.get("WANDB_MODE") in OFFLINE:
        return
    if key and len(key) < 40:
        raise UserError("the wandb key is too short, it has 40 letters and digits or more: see wandb.ai/authorize")
    if not key:
        host = urllib.parse.urlparse(wandb_url()).hostname
        with contextlib.suppress(OSError, netrc.NetrcParseError):
            key = netrc.netrc(os.environ.get("NETRC")).authenticators(host)
    if not key:
        raise UserError(
            "wandb has no key: set WANDB_API_KEY, give --wandb_key, run `wandb login` once, or use --tracker none"
        )


def where(options):
    """What names the place that a tracker keeps things in, so that published.json can tell one from another."""
    name = config.tracker(options)
    if name == "wandb":
        return f"wandb {'/'.join([wandb_url(), options.wandb_entity or '-', options.wandb_project])}"
    if name == "trackio":
        remote = os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL", "").split("?")[0]
        return f"trackio {remote or os.environ.get('TRACKIO_DIR', '-')}/{options.wandb_project}"
    return name


def wandb_url():
    return os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"


class Tracker:
    """No tracker, and what the others have in common."""

    name = "none"
    stores_files = False  # whether publish and find work
    look = ""  # how to see the curves, in words
    store = None  # the folder where published files go, if that is on this machine

    def start(self, folder, run_config, step):
        """Begin or resume the run. folder: the run's; step: the updates that it has done."""

    def last_step(self):
        """The last step that was logged, by this process or an earlier one; -1 if none was."""
        return -1

    def log(self, step, values, pictures):
        """values: {name: number}; pictures: {name: path of a PNG}. Steps must not fall."""

    def score(self, step, values):
        """Scores {name: number} of the version that was saved at `step`, which may be long past."""

    def find(self, collection, alias):
        """The artifact that has the alias now, or None. It has .metadata and .aliases."""

    def listing(self, collection):
        """Every artifact of the collection, of all runs of the project; [] if there is none."""
        return []

    def finish(self):
        """Send what is buffered and let go."""


class TensorBoard(Tracker):
    """Curves and pictures as event files in the run's folder."""

    name = "tensorboard"

    def start(self, folder, run_config, step):
        self.look = f"tensorboard --logdir {folder.parent}"
        with blaming(self.name):
            from torch.utils.tensorboard import SummaryWriter

            # all is written again from metrics.jsonl: a killed run's file has a torn end
            remove(folder / "tensorboard")
            self.writer = SummaryWriter(folder / "tensorboard")

    def log(self, step, values, pictures):

        with blaming(self.name):
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)
            for name, path in pictures.items():
                self.writer.add_image(name, numpy.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")
            self.writer.flush()

    def finish(self):
        with blaming(self.name):
            self.writer.close()


class Remote(Tracker):
    """What wandb and trackio do by the very same calls. `library` is the module, `run` its run once it has started."""

    stores_files = True

    def __init__(self, options, run_id):
        self.options, self.run_id, self.run = options, run_id, None
        self.where = where(options)

    def log(self, step, values, pictures):
        with blaming(self.name):
            images = {name: self.library.Image(str(path)) for name, path in pictures.items()}
            self.run.log({**values, **images}, step=step)

    def publish(self, collection, folder, aliases, metadata):
        """Store the files of `folder` as the next artifact of the collection; returns when they are there.

        Files that the collection has already are not sent again. An alias leaves the artifact that had it.
        """
        name, kind = collection
        with blaming(self.name):
            artifact = self.library.Artifact(name, type=kind, metadata=metadata)
            self.add_folder(artifact, folder)
            self.run.log_artifact(artifact, aliases=aliases).wait(timeout=PATIENCE)

    def finish(self):
        if self.run is not None:
            with blaming(self.name):
                self.run.finish()


class Wandb(Remote):
    """wandb, online; with WANDB_MODE=offline curves and pictures for `wandb sync`, and no files."""

    name = "wandb"

    def __init__(self, options, run_id):
        super().__init__(options, run_id)
        self.offline = os.environ.get("WANDB_MODE") in OFFLINE
        self.stores_files = not self.offline
        os.environ.setdefault("WANDB_SILENT", "true")  # read at import; its many notes would break the progress bars
        with blaming(self.name):
            import wandb

            self.library = wandb

    def start(self, folder, run_config, step):
        self.begun = -1  # the last step of earlier lives, where the server can't say it
        if self.offline:
            # the new folder has everything from the first step on and takes the place of the earlier ones; unless some
            # of that was synced: then they all stay, and the new one goes on after them
            earlier = list(folder.glob(f"wandb/offline-run-*-{self.run_id}"))
            if any(list(life.glob("*.synced")) for life in earlier):
                self.begun, earlier = step, []
            for life in earlier:
                remove(life)
        settings = self.library.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            init_timeout=REACHED,  # seconds; the defaults wait for hours or days where there is no network
            finish_timeout=REACHED,
            finish_timeout_raises=True,
            x_graphql_retry_max=3,
            x_graphql_retry_wait_max_seconds=REACHED / 5,
        )
        with blaming(self.name):
            try:
                self.run = self.library.init(
                    project=self.options.wandb_project,
                    entity=self.options.wandb_entity,
                    id=self.run_id,
                    name=self.run_id,
                    resume="allow",
                    config=run_config,
                    dir=folder,
                    settings=settings,
                )
            except Exception:
                self.library.teardown()  # or the next try is told that the id is in use
                raise
        self.look = f"offline, {pathlib.Path(self.run.dir).parent}" if self.offline else self.run.url

    def last_step(self):
        return self.begun if self.offline else self.run.starting_step - 1

    def path(self, name):
        """project/name or entity/project/name."""
        return "/".join(filter(None, [self.options.wandb_entity, self.options.wandb_project, name]))

    def score(self, step, values):
        if self.offline:
            raise TrackerError("wandb: offline (WANDB_MODE)")
        with blaming(self.name):
            self.library.Api().run(self.path(self.run_id)).summary.update(values)

    def listing(self, collection):
        if self.offline:
            return []
        with blaming(self.name):
            try:
                return list(self.library.Api().artifacts(collection[1], self.path(collection[0])))
            except (ValueError, self.library.errors.CommError) as problem:
                # the second is what it says where a project has no such collection yet
                if "not found" in str(problem) or "Unable to parse 'Artifacts'" in str(problem):
                    return []
                raise

    @staticmethod
    def add_folder(artifact, folder):
        # "immutable" and skip_cache, or else the disk would hold every file three times
        artifact.add_dir(str(folder), policy="immutable", skip_cache=True)

    def find(self, collection, alias):
        if self.offline:
            return None
        with blaming(self.name):
            try:
                return self.library.Api().artifact(self.path(f"{collection[0]}:{alias}"), type=collection[1])
            except self.library.errors.CommError as problem:
                if "not found" in str(problem):
                    return None
                raise

    @staticmethod
    def download(artifact, folder):
        artifact.download(root=str(folder), skip_cache=True)


class Trackio(Remote):
    """trackio: local, in TRACKIO_DIR; or where TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say."""

    name = "trackio"

    def __init__(self, options, run_id):
        super().__init__(options, run_id)
        with blaming(self.name):
            import trackio
            import trackio.run

            for module in (trackio, trackio.run, trackio.utils):  # they announce every start and end on standard output
                module.print = lambda *_, **__: None
            self.library = trackio
            if not (os.environ.get("TRACKIO_SPACE_ID") or os.environ.get("TRACKIO_SERVER_URL")):
                self.store = pathlib.Path(trackio.utils.TRACKIO_DIR)
                self.store.mkdir(parents=True, exist_ok=True)

    def start(self, folder, run_config, step):
        with blaming(self.name):
            self.open(config=run_config, resume="allow")
        self.look = f"trackio show --project {self.options.wandb_project}"

    def open(self, **how):
        """Have self.run. ValueError if the run must be there, to be read from or added to, and is not."""
        self.run = self.library.init(
            self.options.wandb_project, name=self.run_id, embed=False, auto_log_cpu=False, **how
        )

    def last_step(self):
        # no public call tells it; without it a run that was killed and resumed would log some steps twice
        return self.run._next_step - 1

    def score(self, step, values):
        with blaming(self.name):
            if self.run is None:
                self.open(resume="must")
        self.log(min(step, max(self.last_step(), 0)), values, {})  # never ahead of curves that are still to come

    def find(self, collection, alias):
        with blaming(self.name):
            try:
                if self.run is None:
                    self.open(resume="must")
                return self.run.use_artifact(f"{collection[0]}:{alias}", type=collection[1])
            except ValueError as problem:
                if "not found" in str(problem) or "does not exist" in str(problem):  # the alias, or the run
                    return None
                raise

    def listing(self, collection):
        if self.store is None:
            raise TrackerError("trackio: what a server or a Space has can't be listed")
        with blaming(self.name):
            from trackio.sqlite_storage import SQLiteStorage

            names = {
                artifact["name"]: artifact for artifact in SQLiteStorage.list_artifacts(self.options.wandb_project)
            }
            count = names[collection[0]]["latest_version"] + 1 if collection[0] in names else 0
            return [
                types.SimpleNamespace(
                    **SQLiteStorage.get_artifact_manifest(self.options.wandb_project, collection[0], f"v{i}")
                )
                for i in range(count)
            ]

    @staticmethod
    def add_folder(artifact, folder):
        artifact.add_dir(str(folder))

    @staticmethod
    def download(artifact, folder):
        artifact.download(str(folder))

    def finish(self):
        super().finish()
        with contextlib.suppress(RuntimeError):  # or it finishes "the current run" once more at exit
            self.library.finish()
