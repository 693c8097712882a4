"""python -m export: what each --to writes, and what it refuses to write over."""

import dataclasses
import os
import pathlib

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import small_sd

import config
from checkpoints.run_folder import RunFolder
from cli import checks
from common.errors import UserError
from common.files import write_json
from diffusion import pipeline
from diffusion.lettering import build_lettering
from diffusion.lora_file import save_lora
from diffusion.lora_names import kohya_name
from diffusion.parts import NETWORKS
from diffusion.weights import save_pipeline, weights_hash
from publishing import files

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def small_version(tmp_path_factory):
    """Version v2 of run r, of the structure of Stable Diffusion 1.x, with a LoRA file."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_sd.shrink(monkeypatch)
        make_version(folder / "r", small_sd.build())
        adapter = torch.full((2, 64), 1 / 300), torch.full((64, 2), 1 / 3)
        save_lora(folder / "r" / "versions" / "v2" / files.LORA_FILE, {"unet": {LAYER: adapter}}, 3.3, torch.float32)
        yield folder


@pytest.fixture(scope="module")
def tiny_version(tmp_path_factory):
    """Version v2 of run t, with lettering."""
    folder, parts = tmp_path_factory.mktemp("runs"), pipeline.build_tiny()
    parts.lettering = build_lettering(parts)
    make_version(folder / "t", parts)
    return folder


def make_version(path, parts):
    run = RunFolder(path)
    save_pipeline(parts, run.version("v2"), list(parts.networks), torch.float32)
    write_json(run.config, {"pretrained_model": "tiny", "resolution": "64x96"})
    versions = {"v2": {"step": 40, "validation_loss": 0.5}}
    write_json(run.version_index, {"versions": versions, "aliases": {"latest": "v2"}})


def export(folder, target, **given):
    options = checks.check(config.ExportOptions(output_dir=str(folder), target=str(target), **given))
    files.export(*files.choose_version(options, {}))


def refusal(folder, target, **given):
    with pytest.raises(UserError) as caught:
        export(folder, target, **given)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def metadata(path):
    with safe_open(path, framework="pt") as opened:
        return opened.metadata()


@pytest.mark.slow
def test_single_is_the_same_model_and_says_what_it_is(small_version, tmp_path, capsys):
    export(small_version, tmp_path, dtype="fp32")
    path = tmp_path / "r-v2.safetensors"
    assert capsys.readouterr().out.startswith(f"wrote {path}: r-v2, ")
    source = pipeline.load_parts(str(small_version / "r" / "versions" / "v2"))
    assert weights_hash(pipeline.load_parts(str(path))) == weights_hash(source)
    said = metadata(path)
    assert said["modelspec.title"] == "r-v2" and said["modelspec.resolution"] == "64x96"
    assert said["modelspec.architecture"] == "stable-diffusion-v1" and "40 updates" in said["modelspec.description"]
    assert all(isinstance(value, str) for value in said.values())

    before = path.read_bytes()
    os.utime(small_version / "r" / "versions" / "v2", (0, 0))  # as when scoring writes the card anew
    export(small_version, path, dtype="fp32")  # its own file is replaced, by the same bytes
    assert path.read_bytes() == before
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}


def test_lora_is_the_versions_file_in_the_precision(small_version, tmp_path, capsys):
    export(small_version, tmp_path / "mine.safetensors", to="lora")
    weights = load_file(tmp_path / "mine.safetensors")
    name = kohya_name("unet", LAYER)
    assert torch.equal(weights[f"{name}.lora_up.weight"], torch.full((64, 2), 1 / 3).half())
    assert weights[f"{name}.alpha"] == torch.tensor(3.3)  # a setting, no weight
    said = metadata(tmp_path / "mine.safetensors")
    assert said["ss_network_dim"] == "2" and said["ss_output_name"] == "mine" and said["modelspec.title"] == "r-v2"
    assert "note" not in capsys.readouterr().out and not {"ss_clip_skip", "ss_v_parameterization"} & said.keys()


def test_what_training_changed_is_said_in_the_file_and_beside_it(small_version, tmp_path, monkeypatch, capsys):
    changed = {"clip_skip": 2, "prediction_type": "v_prediction"}
    monkeypatch.setattr(files, "run_options", lambda version: changed)
    monkeypatch.setattr(pipeline, "load_schedule", lambda source: changed)
    export(small_version, tmp_path / "mine.safetensors", to="lora")
    said, out = metadata(tmp_path / "mine.safetensors"), capsys.readouterr().out
    assert (said["ss_clip_skip"], said["modelspec.prediction_type"]) == ("2", "v")
    assert "clip_skip=1 in diffusers" in out and "a LoRA file has no noise schedule" in out
    _, version = files.choose_version(config.ExportOptions(output_dir=str(small_version)), {})
    assert files.description(version)["modelspec.usage_hint"] == "Clip skip 2"
    assert "usage_hint" not in str(files.description(dataclasses.replace(version, name="v0")))


def test_what_becomes_of_lettering_is_said(tiny_version, small_version):
    def notes(folder, to):
        options = config.ExportOptions(output_dir=str(folder), to=to)
        return files.notes(*files.choose_version(options, {}))

    for to in ("single", "lora"):
        assert any("no place for the version's lettering" in note for note in notes(tiny_version, to))
    for to in ("merged", "diffusers"):
        assert any("docs/lettering.md" in note for note in notes(tiny_version, to))
    assert not any("lettering" in note for to in ("single", "merged") for note in notes(small_version, to))


@pytest.mark.slow
def test_diffusers_copies_the_folder_and_merged_writes_another_precision(tiny_version, tmp_path):
    version = tiny_version / "t" / "versions" / "v2"
    export(tiny_version, tmp_path / "copy", to="diffusers")
    names = {path.relative_to(version) for path in version.rglob("*")}
    assert {path.relative_to(tmp_path / "copy") for path in (tmp_path / "copy").rglob("*")} == names
    for name in names:
        if (version / name).is_file():
            assert (tmp_path / "copy" / name).read_bytes() == (version / name).read_bytes()
            assert not (tmp_path / "copy" / name).samefile(version / name)

    export(tiny_version, tmp_path / "half", to="merged", dtype="bf16")
    source, half = pipeline.load_parts(str(version)), pipeline.load_parts(str(tmp_path / "half"))
    assert half.networks.keys() == {*NETWORKS, "lettering"}
    for name in half.networks:
        read, weights = (getattr(model, name).state_dict() for model in (half, source))
        assert all(torch.equal(read[key], tensor.bfloat16().float()) for key, tensor in weights.items())
    stored = load_file(tmp_path / "half" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    export(tiny_version, tmp_path / "half", to="merged")  # made here: it is replaced
    assert pipeline.load_parts(str(tmp_path / "half"))


def test_what_can_not_be_written(tiny_version, tmp_path):
    line = refusal(tiny_version, tmp_path / "x.safetensors")
    assert "t-v2 can't be written as a single file: it is not of the architecture of Stable Diffusion 1.x" in line
    assert line.endswith("--to diffusers and --to merged write a pipeline folder of any model")
    assert "has no LoRA, as only the versions of LoRA runs do" in refusal(
        tiny_version, tmp_path / "x.safetensors", to="lora"
    )
    assert "has no version v7" in refusal(tiny_version, tmp_path / "x.safetensors", version="v7")
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_stay(small_version, tiny_version, tmp_path):
    foreign = tmp_path / "model.safetensors"
    foreign.write_bytes(b"mine")
    assert "exists and was not made by this script: give --overwrite True" in refusal(small_version, foreign, to="lora")
    assert foreign.read_bytes() == b"mine"
    export(small_version, foreign, to="lora", overwrite=True)
    assert files.MARK in metadata(foreign)

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(b"a")
    for overwrite in (False, True):  # whatever is said, a folder of something else is not emptied
        line = refusal(tiny_version, pictures, to="diffusers", overwrite=overwrite)
        assert "exists and is no pipeline folder: choose a new folder" in line
    (pictures / "model_index.json").write_text("{}")
    assert "was not made by this script: give --overwrite True" in refusal(tiny_version, pictures, to="diffusers")
    export(tiny_version, pictures, to="diffusers", overwrite=True)
    assert not (pictures / "a.png").exists()

    version = tiny_version / "t" / "versions" / "v2"
    assert "is a folder of the run t" in refusal(tiny_version, version.with_name("v9"), to="diffusers")
    for target in (version, version / "x", version.parent):
        assert "lie one in the other" in refusal(tiny_version, target, to="diffusers", overwrite=True)
    (tiny_version / "t" / "samples").mkdir(exist_ok=True)
    (tiny_version / "t" / "samples" / "a.png").write_bytes(b"a")
    line = refusal(tiny_version, tiny_version / "t" / "samples", to="diffusers", overwrite=True)
    assert "is a folder of the run t" in line


def test_names_and_space(small_version, tiny_version, tmp_path, monkeypatch):
    assert "must end in .safetensors" in refusal(small_version, tmp_path / "model.ckpt", to="lora")
    (tmp_path / "file").write_text("x")
    assert "is a file: give the name of a new folder" in refusal(tiny_version, tmp_path / "file", to="merged")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    for folder, to in ((small_version, "single"), (small_version, "lora"), (tiny_version, "merged")):
        target = tmp_path / "new" / ("x" if to == "merged" else "x.safetensors")
        assert "nothing was written" in refusal(folder, target, to=to)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "where to? python -m export --to single FILE.safetensors"),
        ({"to": "merged"}, "where to? python -m export --to merged FOLDER"),
        ({"to": "hub"}, "--to hub: give the repository, --repo OWNER/NAME"),
        ({"to": "hub", "repo": "a/b", "target": "x"}, "--to hub writes no file here: leave out x"),
        ({"repo": "a/b", "target": "x"}, "only uploads have --repo, --private, --dry_run: add"),
        ({"to": "diffusers", "dtype": "fp16", "target": "x"}, "--to diffusers copies the weights as they are"),
    ],
)
def test_options_that_do_not_go_together(given, message):
    with pytest.raises(UserError) as caught:
        checks.check(config.ExportOptions(**given))
    assert message in str(caught.value)


@pytest.mark.slow
def test_a_folder_of_no_run_and_a_v_model(tmp_path, monkeypatch):
    small_sd.shrink(monkeypatch)
    folder = tmp_path / "anime"
    save_pipeline(small_sd.build(prediction_type="v_prediction"), folder, NETWORKS, torch.float32)
    target = pathlib.Path(tmp_path / "anime.safetensors")
    export(tmp_path / "no runs", target, version=str(folder))
    assert metadata(target)["modelspec.title"] == "anime" and metadata(target)["modelspec.prediction_type"] == "v"
    assert "v_pred" in load_file(target)
