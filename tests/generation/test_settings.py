"""settings.json while several processes draw into one folder."""

import dataclasses
import threading

import pytest
import torch

import config
from checkpoints import scores
from common.errors import UserError
from diffusion import lora_file
from generation import settings
from generation.settings import SETTINGS, DrawingSettings, prompts_of, read_all, read_settings, require_same_settings
from generation.version import Version

DRAWN = DrawingSettings("v1", "one", "hash", "no", 1, "32x48", 5, 7.5, "dpm++")


def test_two_processes_that_draw_other_rows_lose_no_prompt(tmp_path, monkeypatch):
    """The second begins while the first is about to write what it has read."""
    path, write = tmp_path / SETTINGS, settings.write_json
    require_same_settings(path, DRAWN, {"0": "a door"})
    second = threading.Thread(target=require_same_settings, args=(path, DRAWN, {"2": "a tree"}))

    def write_late(*arguments):
        if second.ident is None:
            second.start()
            second.join(0.2)  # far more than it takes if nothing holds it up
        write(*arguments)

    monkeypatch.setattr(settings, "write_json", write_late)
    require_same_settings(path, DRAWN, {"1": "a book"})
    second.join()
    assert prompts_of(path, [2, 0, 1]) == ["a tree", "a door", "a book"]


def test_what_another_process_wrote_meanwhile_is_compared_too(tmp_path, monkeypatch):
    path, locked = tmp_path / SETTINGS, settings.locked

    def other_first(*arguments):
        monkeypatch.setattr(settings, "locked", locked)
        require_same_settings(path, DRAWN, {"1": "a tree"})
        return locked(*arguments)

    monkeypatch.setattr(settings, "locked", other_first)
    with pytest.raises(UserError, match=r"row 1 .* was drawn from another prompt, 'a tree'"):
        require_same_settings(path, DRAWN, {"1": "a book"})


def test_a_folder_that_has_everything_is_only_read(tmp_path, monkeypatch):
    """It may be read-only: then a lock could not be made."""
    path = tmp_path / SETTINGS
    require_same_settings(path, DRAWN, {"1": "a book"})
    monkeypatch.setattr(settings, "locked", None)  # would raise a TypeError
    require_same_settings(path, DRAWN, {"1": "a book"})


def test_a_prompt_that_is_gone_is_one_line(tmp_path):
    path = tmp_path / SETTINGS
    require_same_settings(path, DRAWN, {"1": "a book"})
    with pytest.raises(UserError, match=r"settings\.json has no prompt for row 7: .* run this command again$"):
        prompts_of(path, [1, 7])


def test_an_option_at_its_default_leaves_the_file_as_it_was_before_there_was_one():
    assert list(DRAWN.to_json()) == [
        *("version", "run_id", "weights", "precision", "seed", "resolution", "steps", "guidance_scale", "scheduler"),
        "vae_tiling",
    ]


def test_a_negative_prompt_stands_where_other_programs_write_it():
    first, second, *_ = dataclasses.replace(DRAWN, negative_prompt="blue").parameters("a book").split("\n")
    assert (first, second) == ("a book", "Negative prompt: blue")
    assert DRAWN.parameters("a book") == "a book\n" + DRAWN.parameters()


def test_how_to_repeat_what_is_there(tmp_path):
    """A setting that the file does not have is its option's default; and the other way round."""
    path, other = tmp_path / SETTINGS, dataclasses.replace(DRAWN, prediction_type="v_prediction")
    require_same_settings(path, DRAWN, {"1": "a book"})
    with pytest.raises(UserError, match=r"prediction_type None, .* it is v_prediction: give --prediction_type auto, "):
        require_same_settings(path, other, {})
    with pytest.raises(UserError, match=r"negative_prompt None, .* it is blue: leave --negative_prompt out, "):
        require_same_settings(path, dataclasses.replace(DRAWN, negative_prompt="blue"), {})
    path.unlink()
    require_same_settings(path, other, {"1": "a book"})
    with pytest.raises(UserError, match=r"v_prediction, and now it is None: give --prediction_type v_prediction, "):
        require_same_settings(path, DRAWN, {})


def test_a_lora_is_named_by_its_weights_and_only_where_there_is_one(tmp_path):
    adapter = (torch.ones(2, 4, 3, 3), torch.ones(16, 2, 1, 1))
    for name in ("a", "b"):
        lora_file.save_lora(tmp_path / name, {"unet": {"conv_in": adapter}}, 2, torch.float32)
    plain, first, second, half = (
        DrawingSettings.from_options(config.InferenceOptions(**options), Version("v0", "tiny", None), "hash")
        for options in (
            {},
            {"lora": str(tmp_path / "a")},
            {"lora": str(tmp_path / "b")},
            {"lora": str(tmp_path / "a"), "lora_scale": 0.5},
        )
    )
    assert first == second and first.lora == lora_file.lora_hash(tmp_path / "a")
    assert list(plain.to_json())[-1] == "vae_tiling" and "LoRA" not in plain.parameters()
    assert {**plain.to_json(), "lora": first.lora} == first.to_json()
    assert {**first.to_json(), "lora_scale": 0.5} == half.to_json()
    assert half.parameters().endswith(f", LoRA hash: {first.lora[:10]}, LoRA scale: 0.5")
    for drawn in (plain, first, half):
        assert DrawingSettings.from_json(drawn.to_json()) == drawn
    assert scores.differences([plain.to_json(), first.to_json()]) == ["lora"]
    assert scores.differences([first.to_json(), half.to_json()]) == ["lora_scale"]


def test_covers_with_letters_of_another_title_are_not_mixed(tmp_path):
    """The prompt may be the same: it is cut off where it is too long."""
    path, lettered = tmp_path / SETTINGS, dataclasses.replace(DRAWN, layout="rule")
    require_same_settings(path, lettered, {"1": "a book"}, {"1": ["It", "Ann Oak"]})
    require_same_settings(path, lettered, {"2": "a tree"}, {"2": ["", ""]})
    before = path.read_bytes()
    assert read_all(path) == (lettered, {"1": "a book", "2": "a tree"}, {"1": ["It", "Ann Oak"], "2": ["", ""]})
    for title, author in (("It", "Ann Lee"), ("Its", "Ann Oak")):
        with pytest.raises(UserError, match=r"row 1 in .* was drawn with other letters, 'It / Ann Oak': choose anoth"):
            require_same_settings(path, lettered, {"1": "a book"}, {"1": [title, author]})
    require_same_settings(path, lettered, {"1": "a book"})
    assert path.read_bytes() == before
    assert lettered.parameters().endswith(", Layout: rule")
    for wrong in ('"It"', '["It"]', '["It", 1]'):
        path.write_text(before.decode().replace(before.decode()[before.decode().index("[") :], f"{wrong}}}}}"))
        with pytest.raises(UserError, match="'letters' must map rows to title and author"):
            read_settings(path)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ("rule", "abc", "drawn with layout rule, and now it is abc: give --layout rule, choose another --save_dir"),
        ("abc", "rule", "drawn with layout abc, and now it is rule: give that file with --layout, choose another"),
        ("like abc", "rule", "layout like abc, and now it is rule: give --layout like with the same training covers, "),
    ],
)
def test_covers_with_another_layout_are_not_mixed(tmp_path, before, now, message):
    path = tmp_path / SETTINGS
    require_same_settings(path, dataclasses.replace(DRAWN, layout=before), {"1": "a book"}, {"1": ["It", ""]})
    with pytest.raises(UserError, match=message):
        require_same_settings(path, dataclasses.replace(DRAWN, layout=now), {"1": "a book"}, {"1": ["It", ""]})


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        ({}, {"lora": "abc"}, r"with lora None, and now it is abc: leave --lora out, choose another --save_dir"),
        ({"lora": "abc"}, {}, "with lora abc, and now it is None: give that LoRA file with --lora, choose"),
        ({}, {"lora_scale": 0.5}, r"with lora_scale None, and now it is 0\.5: give --lora_scale 1\.0, choose"),
        ({"lora_scale": 0.5}, {}, r"with lora_scale 0\.5, and now it is None: give --lora_scale 0\.5, choose"),
    ],
)
def test_covers_with_another_lora_are_not_mixed(tmp_path, before, now, message):
    """And that is said before the weights, which differ, too."""
    path = tmp_path / SETTINGS
    require_same_settings(path, dataclasses.replace(DRAWN, **before), {"1": "a book"})
    assert read_settings(path)[0] == dataclasses.replace(DRAWN, **before)
    with pytest.raises(UserError, match=message):
        require_same_settings(path, dataclasses.replace(DRAWN, weights="other", **now), {"1": "a book"})
