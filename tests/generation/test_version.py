"""Which model --run_id and --version name, where the run's own model is not where it was."""

import json

import pytest

import config
from common.errors import UserError
from generation.version import choose_version, load_version


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
