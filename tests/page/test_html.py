"""What the page is made of: pictures as data: URIs, commands that can be typed, facts in words."""

import base64
import dataclasses
import hashlib
import io
import pathlib
import shlex

import numpy as np
import pytest
from PIL import Image

import config
from checkpoints.run_folder import RunFolder
from checkpoints.scores import Score
from cli import parser
from generation.settings import DrawingSettings
from generation.version import Version
from page import html
from page.columns import Column

SETTINGS = DrawingSettings("v1", None, "w", "no", 0, "512x768", 50, 7.5, "pndm")


def column(version="v1", run=None, **changes):
    options = dataclasses.replace(config.InferenceOptions(output_dir="my runs"), **changes)
    version = Version(version, "tiny", run)
    runs = [run] if run else []
    return Column("a", version, options, pathlib.Path("my covers/v1"), runs, {}, SETTINGS)


@pytest.fixture
def run(tmp_path):
    """The folder of a run with a config.json."""
    from common.files import write_json

    folder = tmp_path / "a run"
    write_json(folder / "config.json", config.to_json(config.TrainingOptions(seed=7, steps=9)))
    return RunFolder(folder)


def decode(uri):
    kind, data = uri.split(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_small_pictures_lose_nothing_and_large_ones_little():
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (96, 64, 3), np.uint8)
    assert np.array_equal(np.asarray(decode(html.picture_uri(small))), small)
    ramp = np.linspace(0, 255, 512 * 768 * 3).reshape(768, 512, 3).astype(np.uint8)
    shown = decode(html.picture_uri(ramp))
    assert shown.size == (512, 768) and np.abs(np.asarray(shown).astype(int) - ramp).mean() < 2


def test_the_hash_is_what_a_browser_computes():
    digest = base64.b64encode(hashlib.sha256("ü = 1;\n".encode()).digest()).decode()
    assert html.csp_hash("ü = 1;\n") == f"'sha256-{digest}'"


def test_the_drawing_command_gives_the_options_back(run):
    shown = column(run=run, seed=7, steps=5, guidance_scale=3.0)
    words = shlex.split(html.score_command(shown, None))[3:]
    options, given = parser.parse(config.InferenceOptions, words)
    assert options.calc_fid and (options.version, options.run_id) == ("v1", "a run")
    assert (options.output_dir, options.save_dir) == ("my runs", "my covers")
    assert given["steps"] == 5  # the run has 9
    assert "seed" not in given  # comes from the run
    assert (
        parser.parse(config.InferenceOptions, shlex.split(html.score_command(column("v0"), None))[3:])[
            0
        ].pretrained_model
        == "tiny"
    )


def test_a_version_is_to_be_scored_like_the_others(run):
    def given(**score):
        words = shlex.split(html.score_command(column(run=run), Score(score)))[3:]
        return parser.parse(config.InferenceOptions, words)[1]

    like = given(n=150, fid_features="efficientnet", fid_resize="clean", split="all", fid_stats_path="my stats.npz")
    assert (like["num_imgs"], like["fid_features"], like["split"]) == (150, "efficientnet", "all")
    assert like["fid_stats_path"] == "my stats.npz" and "fid_resize" not in like
    like = given(n=20, fid_features="inception", fid_resize="legacy", fid_weights="my weights.pth")
    assert like["fid_resize"] == "legacy" and "fid_features" not in like
    assert like["fid_weights"] == "my weights.pth"


def test_what_the_data_folder_holds_is_told(small_data):
    from data.folder import open_data

    data = open_data(config.DataOptions(data_root=str(small_data), resolution="32x48"))
    facts = {what: (number, note) for what, number, note in html.data_facts(data)}
    assert facts["training split"][0] == 22 and facts["held out"][0] == 4 and facts["left out"] == (0, "")
    assert facts["genres"][0] == 3
    counts = dict(word.rsplit(" ", 1) for word in facts["genres"][1].split(", "))
    assert counts.keys() == {"Fantasy", "Romance", "Mystery"} and sum(map(int, counts.values())) == 2 * 26


@pytest.mark.parametrize(
    ("lines", "loss"),
    [
        ('{"step": 0, "validation_loss": 1.5}', 1.5),
        ('{"step": 0, "validation_loss": "a"}\n{"step": 0, "validation_loss": 2}', 2.0),
        ('{"step": 0, "validation_loss": NaN}\n{"step": 5, "validation_loss": 2}', None),
        ('{"step": 0, "validation_loss": true}\n[]\n{"step": false, "validation_loss": 3}', None),
        ("", None),
    ],
)
def test_the_loss_of_v0_is_a_number_or_not_shown(run, lines, loss):
    """A text in metrics.jsonl was a TypeError, after all drawing."""
    run.metrics.write_text(lines)
    facts = html.version_facts(column("v0", run), run)
    assert facts["validation_loss"] == loss and not isinstance(facts["validation_loss"], bool)
