"""Which model --run_id and --version name, where the run's own model is not where it was."""

import json

import pytest
import torch

import config
from common.errors import UserError
from diffusion import lora_file, pipeline, weights
from generation.version import Version, choose_version, load_version, require_drawable


@pytest.mark.parametrize("version", ["v0", "v1"])
def test_a_run_whose_model_was_moved(tmp_path, version):
    run = tmp_path / "runs" / "one"
    (run / "versions" / "v1").mkdir(parents=True)
    (run / "versions.json").write_text(
        json.dumps({"versions": {"v1": {"step": 2, "validation_loss": 1.0}}, "aliases": {"latest": "v1"}})
    )
    saved = {"pretrained_model": "/gone/model", "tracker": "none", "resolution": "64x96"}
    (run / "config.json").write_text(json.dumps(saved))
    given = {"output_dir": str(run.parent), "run_id": "one", "version": version, "pretrained_model": "tiny"}
    options, found = choose_version(config.InferenceOptions(**given), given)
    assert options.resolution == "64x96" and found.run.name == "one"
    assert found.source == ("tiny" if version == "v0" else str(run / "versions" / "v1"))

    (run / "config.json").write_text(json.dumps(saved | {"pretrained_model": str(run)}))  # it is there
    with pytest.raises(UserError, match=r"run one started from .*, not from --pretrained_model tiny"):
        choose_version(config.InferenceOptions(**given), given)


@pytest.mark.parametrize(("zero_terminal_snr", "inherited"), [(False, "v_prediction"), (True, "auto")])
def test_v0_of_a_run_with_zero_terminal_snr_is_drawn_as_its_model_is(tmp_path, zero_terminal_snr, inherited):
    """Of one with --prediction_type alone it is drawn by that: the model's own configuration may be wrong."""
    run = tmp_path / "runs" / "one"
    (run / "versions" / "v1").mkdir(parents=True)
    (run / "versions.json").write_text(
        json.dumps({"versions": {"v1": {"step": 2, "validation_loss": 1.0}}, "aliases": {"latest": "v1"}})
    )
    saved = {"pretrained_model": "tiny", "tracker": "none", "prediction_type": "v_prediction"}
    (run / "config.json").write_text(json.dumps(saved | {"zero_terminal_snr": zero_terminal_snr}))
    for version in ("v0", "v1"):  # alike, so that they can stand side by side
        given = {"output_dir": str(run.parent), "run_id": "one", "version": version}
        assert choose_version(config.InferenceOptions(**given), given)[0].prediction_type == inherited
        given["prediction_type"] = "epsilon"
        assert choose_version(config.InferenceOptions(**given), given)[0].prediction_type == "epsilon"
    options = config.InferenceOptions(prediction_type="v_prediction")
    assert load_version(options, "tiny", "cpu")[0].scheduler.config.prediction_type == "v_prediction"


# ---------------------------------------------------------------------------------------------------------------------
# LoRA


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """The model `tiny` as a folder with a LoRA in it, and another LoRA file beside."""
    folder = tmp_path_factory.mktemp("loras")
    pipeline.build_tiny().pipeline().save_pretrained(folder / "version")
    for path, seed in ((folder / "version" / lora_file.LORA_FILE, 1), (folder / "other.safetensors", 2)):
        generator = torch.Generator().manual_seed(seed)
        adapter = (torch.randn(2, 4, 3, 3, generator=generator), torch.randn(16, 2, 1, 1, generator=generator))
        lora_file.save_lora(path, {"unet": {"conv_in": adapter}}, 2, torch.float32)
    return folder


@pytest.mark.parametrize(
    ("source", "own", "other"),
    [("tiny", 0, 1), ("version", 1, 0), ("version", 0.5, 0), ("version", 0, 0), ("version", 1, -0.5)],
)
def test_the_scale_is_that_of_the_lora_file_or_of_the_versions_own(loras, source, own, other):
    source = source if source == "tiny" else str(loras / "version")
    chosen = dict(lora=str(loras / "other.safetensors"), lora_scale=other) if other else dict(lora_scale=own)
    options = config.InferenceOptions(mixed_precision="no", **chosen)
    require_drawable(options, Version("v1", source, None))
    parts, weights_hash = load_version(options, source, torch.device("cpu"))
    wanted = pipeline.build_tiny()
    for path, scale in ((loras / "version" / lora_file.LORA_FILE, own), (loras / "other.safetensors", other)):
        if scale:
            lora_file.merge_lora(wanted, path, scale)
    assert weights_hash == weights.weights_hash(parts) == weights.weights_hash(wanted)


def test_a_scale_without_a_lora_and_a_file_that_is_none_are_one_line_before_anything_is_loaded(loras, tmp_path):
    version = Version("v2", "tiny", None)
    with pytest.raises(UserError, match=r"^--lora_scale 0.5: v2 has no LoRA to scale .*: leave --lora_scale out, or"):
        require_drawable(config.InferenceOptions(lora_scale=0.5), version)
    whole = (loras / "other.safetensors").read_bytes()
    for content in (b"", whole[:-1]):
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(UserError, match=r"^can't use the LoRA .*/bad.safetensors: it is damaged or cut short"):
            require_drawable(config.InferenceOptions(lora=str(tmp_path / "bad.safetensors")), version)
