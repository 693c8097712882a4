"""What all trackers share: one kind of error, without the key; and the calls of the one that does nothing."""

import pytest

from common.errors import UserError
from tracking.base import STATES, VERSIONS, Tracker, TrackerError, tracker_errors


def test_an_error_of_a_library_is_one_line_without_secrets(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://me:secret@host")
    with pytest.raises(TrackerError) as caught, tracker_errors("wandb"):
        raise OSError(f"refused:\n{'k' * 40} at http://me:secret@host.")
    assert str(caught.value) == "wandb: refused: *** at ***"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("refused by http://me:pa55word@proxy:3128/x", "refused by http://***@proxy:3128/x"),
        ("GET https://h.org/a?write_token=5ecret&x=1 gave 500", "GET https://h.org/a?write_token=***&x=1 gave 500"),
        ("https://h/a?X-Amz-Signature=0a1b2c&api_key=77", "https://h/a?X-Amz-Signature=***&api_key=***"),
        ("header Authorization: Bearer abcdef0123456789abcdef", "header Authorization: Bearer ***"),
        ("token hf_abcdefghijklmnopqrstuv is not valid", "token hf_*** is not valid"),
        ("run one at https://api.wandb.ai/me?page=2", "run one at https://api.wandb.ai/me?page=2"),
    ],
)
def test_what_looks_like_a_secret_is_not_shown(text, shown):
    with pytest.raises(TrackerError) as caught, tracker_errors("wandb"):
        raise OSError(text)
    assert str(caught.value) == f"wandb: {shown}"


@pytest.mark.parametrize("name", ["WANDB_API_KEY", "TRACKIO_WRITE_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"])
def test_a_secret_of_the_environment_is_not_shown(monkeypatch, name):
    monkeypatch.setenv(name, "s3cr3t-value")
    with pytest.raises(TrackerError, match=r"^trackio: bad \*\*\*, \*\*\*$"), tracker_errors("trackio"):
        raise ValueError("bad s3cr3t-value, s3cr3t-value")


def test_what_can_help_stands_in_the_line():
    remedies = {"no entity": "correct --wandb_entity", "entity": "never reached"}
    line = r"^wandb: No Entity x; correct --wandb_entity$"
    with pytest.raises(TrackerError, match=line) as caught, tracker_errors("wandb", remedies):
        raise ValueError("No Entity x.")
    assert caught.value.remedy == "correct --wandb_entity"
    with pytest.raises(TrackerError, match=r"^wandb: no route$") as caught, tracker_errors("wandb", remedies):
        raise ValueError("no route")
    assert caught.value.remedy == ""


def test_an_error_of_this_project_passes_unchanged():
    problem = UserError("a full disk")
    with pytest.raises(UserError) as caught, tracker_errors("wandb"):
        raise problem
    assert caught.value is problem


def test_no_tracker_has_nothing_and_deletes_nothing(tmp_path):
    tracker = Tracker()
    tracker.start(tmp_path, {}, 3)
    tracker.log(4, {"loss": 1.0}, {})
    tracker.finish()
    assert tracker.last_step() == -1 and not tracker.stores_files
    assert tracker.find(VERSIONS, "one-v1") is None and list(tracker.list_artifacts(STATES)) == []
    with pytest.raises(NotImplementedError):
        tracker.delete(None)
    assert list(tmp_path.iterdir()) == []
