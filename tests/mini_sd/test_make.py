"""The last step of making mini: the model is saved so that diffusers and this project load it."""

import json

import pytest
import torch

from common.errors import UserError
from diffusion import pipeline
from diffusion.parts import PARTS
from mini_sd import build, make


def test_a_saved_model_loads_again_in_half_precision(tmp_path, capsys):
    parts = pipeline.load_parts("mini")
    folder = tmp_path / "model"
    build.save_model(parts, folder)
    assert f"mini is in {folder}: " in capsys.readouterr().out
    loaded = pipeline.load_parts(str(folder))
    for name in ("vae", *PARTS):
        before, after = getattr(parts, name).state_dict(), getattr(loaded, name).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key].half().float(), after[key].float()) for key in before)
    vocab = json.loads((folder / "tokenizer" / "vocab.json").read_text())
    assert vocab == parts.tokenizer.get_vocab()
    assert (folder / "tokenizer" / "merges.txt").read_text().startswith("#version: 0.2\n")


def test_a_model_that_exists_is_not_overwritten(tmp_path):
    (tmp_path / "mini").mkdir()
    with pytest.raises(UserError, match="mini exists already: choose another --out, or remove it"):
        make.main(["--work", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["mini"]
