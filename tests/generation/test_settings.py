"""settings.json while several processes draw into one folder."""

import dataclasses
import threading

import pytest

from common.errors import UserError
from generation import settings
from generation.settings import SETTINGS, DrawingSettings, prompts_of, require_same_settings

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
