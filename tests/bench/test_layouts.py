"""bench.layouts: each way makes the same step, and has its line."""

import types

import pytest
import torch

from bench import layouts
from common.errors import UserError


def test_each_way_has_its_line(capsys):
    words = "--pretrained_model tiny --resolution 64 --batch_size 1 --ways plain channels_last --updates 1 --repeats 1"
    assert layouts.main(words.split()) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["plain", "channels_last"] and rows[1][2] == "1.00 x"


def test_the_layout_changes_no_result(monkeypatch):
    """Up to rounding."""
    errors, mse_loss = [], torch.nn.functional.mse_loss
    monkeypatch.setattr(torch.nn.functional, "mse_loss", lambda *pair: errors.append(mse_loss(*pair)) or errors[-1])
    torch.manual_seed(0)
    args = types.SimpleNamespace(pretrained_model="tiny", resolution="64", batch_size=1, bf16=False)
    update, _ = layouts.make_step(args)
    for way in ("plain", "channels_last", "plain"):
        update(*layouts.WAYS[way])
    plain, channels_last, again = (error.item() for error in errors)
    assert plain == again and channels_last == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "message"),
    [("--resolution 100", "multiples of 8"), ("--updates 0", "at least 1"), ("--ways plane", "invalid choice")],
)
def test_bad_words(words, message):
    with pytest.raises(UserError, match=message):
        layouts.main(words.split())
