"""published.json: which tracker has what of a run."""

from __future__ import annotations

from common.files import read_json, write_json

STATE = "state"  # beside names of versions
PUBLISHED = "published.json"


# ---------------------------------------------------------------------------------------------------------------------
# published.json remembers which tracker has what of a run


def all_published(run):
    return read_json(run / PUBLISHED) if (run / PUBLISHED).exists() else {}


def read_published(run, place):
    """What the tracker at `place` (see trackers.where) has: {"versions": {name: step}, "aliases": {alias: name},
    "state": step or None}."""
    return {"versions": {}, "aliases": {}, STATE: None} | all_published(run).get(place, {})


def record_published(run, place, name, step, aliases=()):
    """The tracker at `place` now has a version, under these aliases, or the state, of update `step`."""
    has = read_published(run, place)
    if name == STATE:
        has[STATE] = step
    else:
        has["versions"][name] = step
        has["aliases"] |= dict.fromkeys(aliases, name)
    write_json(run / PUBLISHED, {**all_published(run), place: has})


def forget_version(run, name):
    """No tracker has the version any more, since another now has that name."""
    published = all_published(run)
    if any([has["versions"].pop(name, None) is not None for has in published.values()]):
        write_json(run / PUBLISHED, published)
