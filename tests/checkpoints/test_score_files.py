"""metrics.json and scores.json: what is written, which older files are read, and which damaged ones are refused."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import runs
from checkpoints import scores
from checkpoints.run_folder import RunFolder
from checkpoints.scores import Score, ScoreValue
from common.errors import UserError
from common.files import write_json
from evaluation import evaluate
from tracking.listing import ListedVersion, print_scores

ROOT = Path(__file__).parents[2]
VALUE = {"name": "FID", "value": 12.5, "error": 0.5, "real": 3.25, "n": 50, "better": "lower", "note": None}
SCORE = {
    **{"version": "v2", "run_id": "run", "weights": "5a0c", "precision": "fp32", "seed": 0, "resolution": "64x96"},
    **{"steps": 25, "guidance_scale": 7.5, "scheduler": "dpm++", "vae_tiling": None, "score": "FID"},
    **{"fid_features": "inception", "fid_stats_path": "fid_stats.npz", "split": "test", "dims": 2048, "n": 50},
    **{"n_reference": 900, "fid_resize": "clean", "features_hash": "67", "reference": "f", "rows": "8c"},
    **{"distance": 12.5, "values": {"fid": VALUE, "kid": {**VALUE, "error": None, "note": "few"}}},
    "skipped": {"clip": "no model"},
}


@pytest.mark.parametrize("score", [SCORE, {**SCORE, "skipped": {}}, {"score": "FID", "n": 5, "distance": 3.0}])
def test_a_file_that_is_read_and_written_keeps_its_bytes(tmp_path, score):
    """Today's files and those from before there were metrics besides the distance."""
    path, again = tmp_path / "metrics.json", tmp_path / "again.json"
    write_json(path, score)
    write_json(again, scores.read_score(path).to_json())
    assert again.read_bytes() == path.read_bytes()


def test_a_score_has_typed_fields(tmp_path):
    write_json(tmp_path / "metrics.json", SCORE)
    score = scores.read_score(tmp_path / "metrics.json")
    assert (score.name, score.n, score.distance, score.skipped) == ("FID", 50, 12.5, {"clip": "no model"})
    assert score.values["fid"] == ScoreValue("FID", 12.5, 0.5, 3.25, 50, "lower", None)
    assert score.settings["steps"] == 25 and not {"values", "skipped", "distance"} & score.settings.keys()
    assert scores.read_score(tmp_path / "none.json") is None


def test_unknown_keys_of_a_score_are_kept_and_those_of_a_value_ignored():
    newer = {**SCORE, "colour": [1, 2], "values": {"fid": {**VALUE, "unit": "px"}}}
    assert Score.from_json(newer).to_json() == {**SCORE, "colour": [1, 2], "values": {"fid": VALUE}}


def test_an_older_value_may_lack_its_note():
    assert ScoreValue.from_json({key: VALUE[key] for key in VALUE if key != "note"}) == ScoreValue.from_json(VALUE)


def test_adding_a_score_leaves_the_others_as_they_are(tmp_path):
    write_json(tmp_path / "scores.json", {"v1": {"FD": {**SCORE, "score": "FD"}}, "v2": {"FID": SCORE}})
    scores.add_score(RunFolder(tmp_path), "v2", Score.from_json({**SCORE, "n": 99}))
    scores.add_score(RunFolder(tmp_path), "v3", Score.from_json(SCORE))
    expected = {"v1": {"FD": {**SCORE, "score": "FD"}}, "v2": {"FID": {**SCORE, "n": 99}}, "v3": {"FID": SCORE}}
    assert json.loads((tmp_path / "scores.json").read_text()) == expected


# ---------------------------------------------------------------------------------------------------------------------
# Damaged files


def with_value(**changes):
    value = {key: value for key, value in {**VALUE, **changes}.items() if value != "absent"}
    return {**SCORE, "values": {"fid": value}}


DAMAGED = [
    ({**SCORE, "values": None}, '"values" is not a JSON object'),
    ({**SCORE, "values": 3}, '"values" is not a JSON object'),
    ({**SCORE, "values": [VALUE]}, '"values" is not a JSON object'),
    ({**SCORE, "values": {"fid": 3}}, "value 'fid': it is not a JSON object"),
    ({**SCORE, "values": {"fid": {}}}, "value 'fid': it has no \"name\""),
    (with_value(name="absent"), "value 'fid': it has no \"name\""),
    (with_value(name=7), "value 'fid': it has no \"name\""),
    (with_value(value="absent"), "value 'fid': its \"value\" is not a number"),
    (with_value(value=None), "value 'fid': its \"value\" is not a number"),
    (with_value(value="12"), "value 'fid': its \"value\" is not a number"),
    (with_value(value=True), "value 'fid': its \"value\" is not a number"),
    (with_value(value=float("nan")), "value 'fid': its \"value\" is not finite"),
    (with_value(value=10**400), "value 'fid': its \"value\" is not finite"),
    (with_value(error=float("inf")), "value 'fid': its \"error\" is not finite"),
    (with_value(error=-0.5), "value 'fid': its \"error\" is negative"),
    (with_value(error=[]), "value 'fid': its \"error\" is not a number"),
    (with_value(real=float("nan")), "value 'fid': its \"real\" is not finite"),
    (with_value(n=None), "value 'fid': its \"n\" is not a whole number"),
    (with_value(n=2.5), "value 'fid': its \"n\" is not a whole number"),
    (with_value(n=-1), "value 'fid': its \"n\" is not a whole number"),
    (with_value(better="bigger"), "value 'fid': its \"better\" is not one of lower, higher, real"),
    (with_value(better=["lower"]), "value 'fid': its \"better\" is not one of lower, higher, real"),
    (with_value(note={}), "value 'fid': its \"note\" is not a text"),
    ({**SCORE, "distance": "far"}, 'its "distance" is not a number'),
    ({**SCORE, "distance": float("nan")}, 'its "distance" is not finite'),
    ({**SCORE, "skipped": None}, '"skipped" is not a JSON object'),
    ({**SCORE, "skipped": {"clip": 3}}, '"skipped" does not hold texts'),
    ({**SCORE, "score": None}, 'it has no "score"'),
    ({**SCORE, "n": "50"}, 'its "n" is not a whole number'),
    ({}, 'it has no "score"'),
    ({**SCORE, "score": "FID\x1b[2J"}, 'it has no "score"'),
    (with_value(name="FID\x1b[2J"), "value 'fid': it has no \"name\""),
    (with_value(note="two\nlines"), "value 'fid': its \"note\" is not a text"),
    ({**SCORE, "skipped": {"clip": "\x07"}}, '"skipped" does not hold texts'),
    ({**SCORE, "guidance_scale": float("nan")}, "a number in its settings is not finite"),
    ({**SCORE, "unknown": {"deep": [1, {"x": float("inf")}]}}, "a number in its settings is not finite"),
]


@pytest.mark.parametrize(("score", "problem"), DAMAGED, ids=[f"{i}" for i in range(len(DAMAGED))])
def test_a_score_of_another_shape_is_one_line_that_names_the_file(tmp_path, score, problem):
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(score))
    with pytest.raises(UserError) as raised:
        scores.read_score(path)
    message = str(raised.value)
    assert message.startswith(f"can't read {path} as a score: {problem}") and "; delete it" in message
    assert "\n" not in message

    (tmp_path / "scores.json").write_text(json.dumps({"v1": {"FID": SCORE}, "v2\n": {"FID": score}}))
    with pytest.raises(UserError) as raised:
        scores.read_scores(RunFolder(tmp_path))
    message = str(raised.value)
    expected = f"can't read {tmp_path / 'scores.json'} as scores: score 'FID' of 'v2\\n': {problem}"
    assert message.startswith(expected) and "; delete it, and score" in message and "\n" not in message


def test_a_number_too_large_for_a_float_is_not_finite(tmp_path):
    """JSON's 1e999 is no NaN for its parser."""
    (tmp_path / "metrics.json").write_text('{"score": "FID", "n": 5, "guidance_scale": 1e999}')
    with pytest.raises(UserError, match="a number in its settings is not finite; delete it"):
        scores.read_score(tmp_path / "metrics.json")


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_neither_made_nor_written(tmp_path, wrong):
    for field in ("value", "error", "real"):
        with pytest.raises(scores.NotFiniteError, match=r"^FID is not finite \(value"):
            scores.make_value("FID", **{"value": 1.0, "n": 5, "better": "lower", field: np.float64(wrong)})
    by_hand = Score({"score": "FID", "n": 5}, {"fid": ScoreValue("FID", wrong, None, None, 5, "lower")})
    run, path = RunFolder(tmp_path), tmp_path / "metrics.json"
    scores.add_score(run, "v1", Score.from_json(SCORE))
    scores.update_score(path, lambda _: Score.from_json(SCORE))
    before = run.scores.read_bytes(), path.read_bytes()
    with pytest.raises(
        UserError, match=f"^can't write {run.scores}: of the score 'FID', value 'fid': its \"value\" is not"
    ):
        scores.add_score(run, "v2", by_hand)
    with pytest.raises(UserError, match=f"^can't write {path}: of the score 'FID', value 'fid'"):
        scores.update_score(path, lambda _: by_hand)
    with pytest.raises(UserError, match="a number in its settings is not finite"):
        scores.update_score(path, lambda _: Score({"score": "FID", "n": 5, "guidance_scale": wrong}))
    assert (run.scores.read_bytes(), path.read_bytes()) == before


# ---------------------------------------------------------------------------------------------------------------------
# Two at once


def test_two_that_measure_one_folder_at_once_lose_nothing(tmp_path):
    """--metrics fid and --metrics legibility: both began before either wrote, and one's values were lost."""
    path, inside, go_on = tmp_path / "metrics.json", threading.Event(), threading.Event()

    def measured(key):
        settings = {key: value for key, value in SCORE.items() if key not in ("values", "skipped", "distance")}
        return settings, {key: ScoreValue.from_json({**VALUE, "name": key})}, {}

    def write(key, wait):
        def change(existing):
            inside.set()
            wait()
            return evaluate.merge_scores(existing, *measured(key))

        scores.update_score(path, change)

    first = threading.Thread(target=write, args=("fid", go_on.wait), daemon=True)
    second = threading.Thread(target=write, args=("title_accuracy", lambda: None), daemon=True)
    first.start()
    assert inside.wait(20)
    second.start()
    second.join(0.2)
    go_on.set()
    first.join(20), second.join(20)
    score = scores.read_score(path)
    assert list(score.values) == ["fid", "title_accuracy"] and score.distance == 12.5


@pytest.mark.script
def test_two_processes_write_one_scores_json(tmp_path):
    code = """if True:
        import sys
        from checkpoints import scores
        from checkpoints.run_folder import RunFolder
        from pathlib import Path
        print("ready", flush=True)
        sys.stdin.readline()
        for i in range(25):
            scores.add_score(RunFolder(Path(sys.argv[1])), f"v{i}", scores.Score({"score": sys.argv[2], "n": i}))
    """
    both = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path, name], stdin=-1, stdout=-1, cwd=ROOT, text=True)
        for name in ("FD", "FID")
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n"), process.stdin.flush()
    assert [process.communicate()[0] for process in both] == ["", ""] and not any(p.returncode for p in both)
    found = scores.read_scores(RunFolder(tmp_path))
    assert {name: {*of_version} for name, of_version in found.items()} == {f"v{i}": {"FD", "FID"} for i in range(25)}


# ---------------------------------------------------------------------------------------------------------------------
# Files without scores


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "NaN", '{"v0": 3}', '{"v0": null}', '{"v0": []}'])
def test_a_file_without_scores_says_what_to_do(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(UserError, match=r"^can't read .*/scores\.json.*; delete it, and score the run's versions"):
        scores.read_scores(RunFolder(tmp_path))


@pytest.mark.script
def test_the_listing_exits_2_without_a_traceback(run_script, tmp_path):
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    (run / "scores.json").write_text(json.dumps({"v0": {"FID": with_value(value=float("nan"))}}))
    done = run_script("runs", "--output_dir", run.parent)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: can't read {run / 'scores.json'} as scores: score 'FID' of 'v0': ")


def test_a_damaged_run_does_not_hide_the_others(tmp_path, capsys):
    for name in ("good", "bad"):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "config.json").write_text('{"pretrained_model": "tiny"}')
    (run / "scores.json").write_text("[]")
    assert runs.main(["--output_dir", str(tmp_path / "runs")]) == 0
    output = capsys.readouterr()
    assert "good  (" in output.out and "bad  (" not in output.out
    assert output.err.startswith("warning: can't read") and output.err.count("\n") == 1
    assert runs.main(["--output_dir", str(tmp_path / "runs"), "--run_id", "good"]) == 0
    assert not capsys.readouterr().err
    with pytest.raises(UserError, match="can't read"):
        runs.main(["--output_dir", str(tmp_path / "runs"), "--run_id", "bad"])


# ---------------------------------------------------------------------------------------------------------------------
# Listing


def test_a_version_that_only_a_tracker_has_stands_beside_scored_ones(capsys):
    """It comes without scores."""
    scored = ListedVersion("v2", 2, 0.5, ["latest"], ["disk"], 9000, {"FID": Score.from_json(SCORE)})
    versions = {"v2": scored, "v1": ListedVersion("v1", 1, 0.5, [], ["wandb"], 9000, {})}
    print_scores(versions)
    assert capsys.readouterr().out.splitlines()[0].split() == ["metric", "v2", "real", "covers"]
