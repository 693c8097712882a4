"""What a model card knows: from a run's options, without any path of the machine, and back from its JSON."""

import json

import pytest

import config
from checkpoints.records import SavedVersion
from checkpoints.scores import Score, ScoreValue
from common.errors import UserError
from publishing.card_facts import CardFacts, is_hub_id, make_facts, read_facts

SCORE = Score(
    {"score": "FD", "n": 4, "fid_stats_path": "/home/me/s.npz"}, {"fid": ScoreValue("FD", 2, 1, 1, 4, "lower")}
)


def facts(**options):
    return make_facts(config.TrainingOptions(**options), "one", "v1", SavedVersion(3, 0.5), {"python": "3.11.7"})


def test_options_that_differ_are_named_and_no_path_is(tmp_path):
    (tmp_path / "model").mkdir()
    found = facts(
        data_root=str(tmp_path / "books"),
        output_dir=str(tmp_path / "runs"),
        cache_dir=str(tmp_path / "cache"),
        pretrained_model=str(tmp_path / "model"),
        summarizer=str(tmp_path / "model"),
        lr=3e-5,
        wandb_project="secret",
    )
    assert found.options == {"lr": 3e-5, "summarizer": "model"}
    assert (found.base, found.base_model, found.data, found.step, found.parts) == (
        *("model", None, "books", 3),
        {"text_encoder": None},
    )
    assert str(tmp_path) not in json.dumps(found.to_json())
    assert facts().base_model == facts().base == "stable-diffusion-v1-5/stable-diffusion-v1-5"


def test_a_hub_id_is_no_folder_and_nothing_built_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("owner/name")
    (tmp_path / "owner" / "name").mkdir(parents=True)
    for source in ("owner/name", "tiny", "mini", "/a/b", "~/b", "../b", "a/b/c", "a--b/c", "a b/c"):
        assert not is_hub_id(source), source


def test_facts_are_read_as_they_were_written_and_damage_is_one_line(tmp_path):
    whole = facts().with_scores({"FD": SCORE}, {})
    assert "fid_stats_path" not in whole.scores["FD"]
    assert CardFacts.from_json(json.loads(json.dumps(whole.to_json()))) == whole
    damaged = [{"step": "3"}, {"drawn": [["title"]]}, {"scores": {"FD": {}}}, {"options": []}, {"base": None}]
    damaged += [{"parts": None}, {"lora": {"rank": 4}}, {"drawn": [["title", 5]]}]
    for change in damaged:
        (tmp_path / "model_card.json").write_text(json.dumps(whole.to_json() | change))
        with pytest.raises(UserError, match=r"model_card.json is damaged .*: delete it") as problem:
            read_facts(tmp_path, None, "v1")
        assert "\n" not in str(problem.value)
    (tmp_path / "model_card.json").unlink()
    with pytest.raises(UserError, match="is no version of a run"):
        read_facts(tmp_path, None, "v1")
