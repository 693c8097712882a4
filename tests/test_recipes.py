"""The recipes in configs/: they are sound, say why they set what they set, and stand in docs/recipes.md."""

import dataclasses
import json
import pathlib

import pytest

import config
from cli import parser
from config import TrainingOptions

ROOT = pathlib.Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "configs").glob("*.json"))
DEFAULTS = {field.name: field.default for field in dataclasses.fields(TrainingOptions)}


def test_there_are_the_recipes_that_the_docs_list():
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    listed = {line.split("`")[1] for line in text.splitlines() if line.startswith("| [`configs/")}
    assert listed == {f"configs/{path.name}" for path in RECIPES} and len(RECIPES) >= 5


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_sound_and_sets_what_it_says_alone(path, capsys):
    options, given = parser.parse(TrainingOptions, ["--config", str(path)])
    values = {name: value for name, value in json.loads(path.read_text()).items() if not name.startswith("_")}
    lora = "lora_rank" in values
    table = config.LORA_PRESETS if lora else config.PRESETS
    preset = (table[values["preset"]] if "preset" in values else {}) | (config.LORA_DEFAULTS if lora else {})
    assert given == {**preset, **values} and set(values) <= set(DEFAULTS)  # by no alias, and nothing of other scripts
    changed = {name for name, default in DEFAULTS.items() if getattr(options, name) != default}
    assert set(values) <= changed <= set(values) | set(preset), "an option that is the default says nothing"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_says_why_before_each_option(path):
    names = list(json.loads(path.read_text()))
    assert names[:2] == ["_about", "_start"]
    notes, options = names[2::2], names[3::2]
    assert notes == [f"_{name}" for name in options]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_command_that_a_recipe_names_starts_it(path):
    words = json.loads(path.read_text())["_start"].split()
    assert words[:3] == ["python", "-m", "training"]
    assert parser.parse(TrainingOptions, ["--config", str(path)])[1].items() <= parse_in(ROOT, words[3:]).items()


def parse_in(folder, words):
    return parser.parse(
        TrainingOptions, [str(folder / word) if word.startswith("configs/") else word for word in words]
    )[1]
