"""The model card: what the hub reads in its header, and a body that no text of a user breaks out of."""

import ast
import dataclasses
import json

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

import config
from checkpoints import scores
from checkpoints.records import SavedVersion
from checkpoints.run_folder import RunFolder
from checkpoints.scores import Score, ScoreValue
from diffusion import pipeline
from diffusion.parts import NETWORKS
from diffusion.placement import DTYPES
from diffusion.weights import save_pipeline
from publishing.card_facts import make_facts
from publishing.model_card import refresh_card, render, write_card

SETTINGS = {
    "n": 4,
    "n_reference": 9,
    "split": "test",
    "steps": 3,
    "scheduler": "dpm++",
    "guidance_scale": 7.5,
    "seed": 0,
}
SETTINGS |= {"weights": "w"}
NASTY = "x|y `code` **b** _i_ <script>a</script> ![i](j) [l](m) https://a.b www.c.d &lt; \\| \n---\n# h\n```\n- l\u202e"


def score(value=20.0, name="FD", **more):
    values = {
        "fid": ScoreValue(name, value, 1.5, 3.0, 4, "lower", "a note"),
        "memorisation": ScoreValue("memorisation", 0.01, None, 0.01, 4, "real"),
    }
    return Score({"score": name, **SETTINGS, **more}, values, {"clip": "no model"}, value)


def facts(text="plain", **changes):
    options = config.TrainingOptions(pretrained_model="owner/name", lr=3e-5, resolution="64x64")
    found = make_facts(options, f"r{text}", "v1", SavedVersion(3, 0.5), {"commit": text, "libraries": {"torch": text}})
    found = found.with_scores({"FD": score()}, {"FD": score(30.0)})
    more = dict(base=text, data=text, picture=text, drawn=[[text, text], [text, text]], options={"summarizer": text})
    return dataclasses.replace(found, **more | changes)


def test_lettering_is_a_part_of_its_own():
    text = render(facts(parts={"unet": 5, "lettering": 7}))
    assert "lettering, a network beside the UNet (7 weights)" in text and "docs/lettering.md" in text
    assert "Without a glyph page, letters in the pictures" in text and "- Letters in" not in text
    assert "lettering" not in render(facts()) and "- Letters in the pictures can't be read" in render(facts())


def test_the_hub_reads_the_header():
    found = facts(data="books", base_model="runwayml/stable-diffusion-v1-5")
    data = ModelCard(render(found)).data
    assert (data.license, data.base_model) == ("creativeml-openrail-m", "runwayml/stable-diffusion-v1-5")
    assert (data.library_name, data.pipeline_tag) == ("diffusers", "text-to-image")
    assert "stable-diffusion" in data.tags and "lora" not in data.tags
    assert data.model_name == "rplain v1"
    first, second = data.eval_results
    assert (first.metric_type, first.metric_name, first.metric_value) == ("frechet_distance", "FD", 20.0)
    assert (first.dataset_name, first.dataset_split) == ("books", "test")
    assert first.metric_args == {"covers": 4, "standard_error": 1.5, "real_covers": 3.0}
    assert second.metric_type == "memorisation"
    official = ModelCard(render(found.with_scores({"FID": score(name="FID")}, {}))).data
    assert official.eval_results[0].metric_type == "fid"


def test_what_is_not_known_is_left_out():
    data = ModelCard(render(facts(base="folder", base_model=None, scores={}))).data.to_dict()
    assert not {"license", "base_model", "base_model_relation", "model-index"} & data.keys()
    assert "This version has not been scored." in render(facts(scores={}))
    assert "lora" in ModelCard(render(facts(lora={"rank": 4, "alpha": 2, "targets": "all"}))).data.tags


def tokens(card):
    """Kind, depth and place of everything that Markdown sees in the body, its text left out."""
    _, _, body = card.partition("\n---\n")
    found = []
    for token in MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(body):
        found.append((token.type, token.level, token.map))
        found += [child.type for child in token.children or () if child.type not in ("text", "text_special")]
    return found


def test_no_text_breaks_out_of_its_place():
    plain, nasty = render(facts()), render(facts(NASTY))
    assert tokens(nasty) == tokens(plain)
    assert len(tokens(plain)) > 200  # or nothing was compared
    header, _, _ = nasty.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(header)["library_name"] == "diffusers"
    assert "\u202e" not in nasty and "http://a" not in nasty and "https\\://a.b www\\.c.d" in nasty
    assert render(facts("LoRA|", lora={"rank": 4, "alpha": 2, "targets": NASTY})) != plain


def test_the_same_facts_are_the_same_bytes():
    assert render(facts()) == render(facts()) and render(facts(), "a/b") != render(facts())
    assert 'from_pretrained("a/b"' in render(facts(), "a/b")


def python_of(card):
    return card.split("```python\n")[1].split("\n```")[0]


def test_its_python_draws_a_cover(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_pipeline(pipeline.load_parts("tiny"), tmp_path / "v1", NETWORKS, DTYPES["fp16"])
    code = python_of(render(facts(drawn=[["t", 'a "cover"\nof a book']]), str(tmp_path / "v1")))
    on_cpu = code.replace('"cuda"', '"cpu"').replace("float16", "float32")
    on_cpu = on_cpu.replace("width=", "num_inference_steps=1, width=")
    assert len(code.splitlines()) == 6 and on_cpu.count("num_inference_steps") == 1
    exec(on_cpu, {})
    assert Image.open("cover.png").size == (64, 64)
    lora = python_of(render(facts(NASTY, lora={"rank": 4, "alpha": 2, "targets": None}), "a/b"))
    ast.parse(lora)
    assert 'from_pretrained("owner/name"' in lora and 'load_lora_weights("a/b")' in lora
    local = python_of(render(facts(base_model=None, lora={"rank": 4, "alpha": 2, "targets": None})))
    assert 'from_pretrained("path/to/v1"' in local and 'load_lora_weights("path/to/v1")' in local


@pytest.mark.parametrize("lora", [None, {"rank": 4, "alpha": 2, "targets": None}])
def test_a_miniature_is_not_offered_to_other_programs(lora):
    card = render(facts(base="mini", base_model=None, lora=lora))
    assert "can't load it" in card and "-m export" not in card
    assert "-m export" in render(facts(base="folder", base_model=None, lora=lora))


def test_it_says_what_drawing_needs_besides():
    """diffusers' clip_skip is one less than ours; a base model on the hub has not the schedule of training."""
    lora = {"rank": 4, "alpha": 2, "targets": "all"}
    plain, skipped = render(facts(lora=lora)), render(facts(lora=lora, options={"clip_skip": 2}))
    assert "clip" not in python_of(plain) and "height=64, clip_skip=1)" in python_of(skipped)
    assert "lip skip" not in plain and "trained with clip skip 2" in skipped
    changed = render(facts(lora=lora, options={"zero_terminal_snr": True}))
    assert python_of(changed).count('"path/to/v1"') == 2 and "owner/name" not in python_of(changed)
    assert "another noise schedule" in changed and "another noise schedule" not in skipped


@pytest.fixture
def run(tmp_path):
    run = RunFolder(tmp_path / "one")
    run.version("v1").mkdir(parents=True)
    write_card(run.version("v1"), facts(picture=None, drawn=[], scores={}, start_scores={}))
    return run


def test_scoring_renews_the_card_with_scores_of_these_weights_alone(run):
    before = (run.version("v1") / "README.md").read_text()
    assert "covers.png" not in before and "not been scored" in before
    scores.add_score(run, "v1", score(21.5))
    scores.add_score(run, "v1", score(77.5, name="old", weights="of an older v1"))
    scores.add_score(run, "v0", score(88.5, weights="w0"))
    refresh_card(run, "v1", run.version("v1"), "w", Image.new("RGB", (8, 8)), "two covers", [["t", "a prompt"]])
    after = (run.version("v1") / "README.md").read_text()
    assert "| 21.50 ± 1.5 | 88.50 ± 1.5 | 3 |" in after and "77.5" not in after and "| 1 | a prompt |" in after
    assert Image.open(run.version("v1") / "covers.png").size == (8, 8)
    scores.add_score(run, "v0", score(88.5, steps=50))  # drawn in another way: not beside it
    refresh_card(run, "v1", run.version("v1"), "w", Image.new("RGB", (8, 8)), "two covers", [["t", "a prompt"]])
    assert "88.50" not in (run.version("v1") / "README.md").read_text()
    assert json.loads((run.version("v1") / "model_card.json").read_text())["drawn"] == [["t", "a prompt"]]
