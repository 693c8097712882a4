"""Records of a run's JSON files: what is written is read, and anything else is one line that names the file."""

import json
import math
import pathlib

import pytest

from checkpoints.records import SavedVersion, TrainingState, VersionIndex
from common.errors import UserError

PATH = pathlib.Path("runs/one/state/000000004/position.json")
INDEX = {
    "versions": {"v1": {"step": 2, "validation_loss": None}, "v2": {"step": 4, "validation_loss": 0.5}},
    "aliases": {"latest": "v2", "best": "v2"},
}
STATE = {
    **{"step": 4, "window": 8, "precision": "no", "save_dtype": "fp16", "fingerprint": "ab", "ledger": INDEX},
    **{"batch_size": 4, "total": 10, "start_loss": 0.7},
}


def index_of(value):
    return VersionIndex.from_json(value, pathlib.Path("versions.json"), "mend it")


def test_what_is_written_is_read_byte_by_byte():
    for state in (STATE, {key: value for key, value in STATE.items() if key != "batch_size"}):
        assert json.dumps(TrainingState.from_json(state, PATH).to_json()) == json.dumps(state)
    assert json.dumps(index_of(INDEX).to_json()) == json.dumps(INDEX)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("step", value) for value in (None, "4", -1, 4.0, True, 1e30, [], 10**12)),
        *(("window", value) for value in (None, 0, "8", False)),
        *((key, value) for key in ("precision", "save_dtype") for value in (None, 3, "fp8", [])),
        *(("fingerprint", value) for value in (None, 3)),
        *(("total", value) for value in (None, 0, "10")),
        *(("start_loss", value) for value in (None, "0.7", math.nan, math.inf, True, 10**400)),
        *(("batch_size", value) for value in (0, "4", 1.5)),
        *(("ledger", value) for value in (None, 3, [], {}, {"versions": {}}, {"versions": [], "aliases": {}})),
    ],
)
def test_a_damaged_training_state_is_one_line(key, value):
    with pytest.raises(UserError, match=r"position\.json") as problem:
        TrainingState.from_json({**STATE, key: value}, PATH)
    assert "\n" not in str(problem.value)


def test_a_key_with_another_letter_is_noticed():
    for key in STATE.keys() - {"batch_size"}:
        state = {("x" + name[1:] if name == key else name): value for name, value in STATE.items()}
        with pytest.raises(UserError, match=r"position\.json"):
            TrainingState.from_json(state, PATH)


@pytest.mark.parametrize("name", ["../../../prey", "/etc", "v0", "v", "v1/..", "latest", "", "v01", "v" + "9" * 30])
def test_no_name_of_a_version_leads_out_of_the_run(name):
    entry = {"step": 1, "validation_loss": 0.1}
    for value in ({"versions": {name: entry}, "aliases": {}}, {"versions": {}, "aliases": {"latest": name}}):
        with pytest.raises(UserError, match=r"versions\.json.*mend it"):
            index_of(value)


@pytest.mark.parametrize(
    "value",
    [
        *(None, [], 3, {}, {"versions": {}}, {"aliases": {}}),
        {"versions": {"v1": 3}, "aliases": {}},
        {"versions": {"v1": {}}, "aliases": {}},
        {"versions": {"v1": {"step": 1}}, "aliases": {}},
        {"versions": {"v1": {"step": "1", "validation_loss": None}}, "aliases": {}},
        {"versions": {"v1": {"step": 1, "validation_loss": "low"}}, "aliases": {}},
        {"versions": {"v1": {"step": 1, "validation_loss": math.nan}}, "aliases": {}},
        {"versions": {"v1": {"step": 1, "validation_loss": -(10**400)}}, "aliases": {}},
        {"versions": {}, "aliases": {"latest": "v1"}},
        {"versions": INDEX["versions"], "aliases": {"newest": "v1"}},
        {"versions": INDEX["versions"], "aliases": {"latest": ["v1"]}},
    ],
)
def test_a_damaged_index_is_one_line(value):
    with pytest.raises(UserError, match=r"versions\.json.*mend it") as problem:
        index_of(value)
    assert "\n" not in str(problem.value)


def test_best_is_the_lowest_validation_loss_and_keep_versions_drops_the_others():
    index, names = VersionIndex(), []
    for step, loss in enumerate([0.5, 0.3, None, 0.4, 0.6], start=1):
        index, name = index.with_version(step, loss, keep_versions=1)
        names.append(name)
    assert names == ["v1", "v2", "v3", "v4", "v5"]
    assert index.aliases == {"latest": "v5", "best": "v2"} and list(index.versions) == ["v2", "v4", "v5"]
    assert index.versions["v4"] == SavedVersion(4, 0.4)
    assert index.aliases_of("v5") == ["latest"] and index.aliases_of("v4") == []
