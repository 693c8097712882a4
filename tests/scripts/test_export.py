"""python -m export, and a run that starts from a single file."""

import json
import re

import pytest
import torch
from support import small_sd

import export
import sd_inference
import training
from common.errors import UserError
from diffusion import pipeline
from diffusion.weights import networks_hash


@pytest.mark.slow
def test_a_run_that_starts_from_a_single_file(small_data, tmp_path, monkeypatch, capsys):
    """It is resumed, drawn and exported in another working directory: the file is found again."""
    small_sd.shrink(monkeypatch)
    (tmp_path / "models").mkdir()
    file = small_sd.write(small_sd.build(), tmp_path / "models" / "m.safetensors", torch.float16)
    monkeypatch.chdir(tmp_path)
    words = f"""--data_root {small_data} --resolution 64 --batch_size 2 --num_examples 4 --validation_rows 2
        --train_unet --num_workers 0 --sample_every 0 --mixed_precision no --run_name r
        --pretrained_model models/m.safetensors"""
    assert training.main([*words.split(), "--max_steps", "1"]) == 0
    config = json.loads((tmp_path / "runs" / "r" / "config.json").read_text())
    assert config["pretrained_model"] == str(file)

    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    where = ["--output_dir", "../runs", "--run_id", "r"]
    assert training.main([*where, "--max_steps", "2"]) == 0
    assert sd_inference.main([*where, "--version", "v0", "--prompt", "a book", "--steps", "1"]) == 0
    assert len(list((tmp_path / "runs" / "r" / "covers").glob("v0_*.png"))) == 1
    capsys.readouterr()
    assert export.main([*where, "--dtype", "fp32", "."]) == 0
    assert capsys.readouterr().out.startswith("wrote r-v2.safetensors: r-v2, ")
    first, exported = pipeline.load_parts(str(file)), pipeline.load_parts("r-v2.safetensors")
    assert networks_hash(exported.vae) == networks_hash(first.vae)
    assert networks_hash(exported.unet) != networks_hash(first.unet)

    file.rename(tmp_path / "models" / "moved.safetensors")
    with pytest.raises(UserError, match=re.escape(f"--pretrained_model {file}: no such file")):
        sd_inference.main([*where, "--version", "v0", "--prompt", "a book", "--steps", "1"])
    moved = ["--version", "v0", "--pretrained_model", str(tmp_path / "models" / "moved.safetensors")]
    assert sd_inference.main([*where, *moved, "--prompt", "a ship", "--steps", "1"]) == 0


@pytest.mark.script
def test_what_can_not_be_exported_is_one_line(run_script, tmp_path):
    finished = run_script("export", "--version", "best", "--output_dir", tmp_path, tmp_path / "x.safetensors")
    assert finished.returncode == 2 and finished.stderr.count("\n") == 1 and finished.stderr.startswith("error: ")
