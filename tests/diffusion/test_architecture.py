import shutil

import pytest
import torch

import config
from common.errors import UserError
from diffusion import architecture, pipeline
from diffusion.parts import PARTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """tiny as a pipeline folder without weights."""
    path = tmp_path_factory.mktemp("pretrained")
    pipeline.build_tiny().pipeline().save_pretrained(path)
    for file in path.glob("*/*.safetensors"):
        file.unlink()
    return path


def test_a_folder_needs_no_weights(folder):
    assert architecture.read_architecture(str(folder)) == architecture.read_architecture("tiny")


def test_the_default_model_needs_no_network():
    """conftest.py has turned the hub off."""
    default = config.ModelOptions.pretrained_model
    assert architecture.read_architecture(default) == architecture.read_architecture("sd15-random")


def test_networks_are_built_again_from_it():
    parts = pipeline.build_tiny()
    with torch.device("meta"):
        again = architecture.build_parts(architecture.architecture_of(parts))
    for name in ("vae", *PARTS):
        shapes = {key: t.shape for key, t in getattr(parts, name).state_dict().items()}
        assert {key: t.shape for key, t in getattr(again, name).state_dict().items()} == shapes


@pytest.mark.parametrize("damage", ["missing", "not JSON", "other"])
def test_a_bad_folder_is_one_line(folder, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    file = copy / "unet" / "config.json"
    if damage == "missing":
        file.unlink()
    else:
        text = file.read_text()
        file.write_text("{" if damage == "not JSON" else text.replace('"DownBlock2D"', '"NoSuchBlock"'))
    with pytest.raises(UserError, match="can't load a Stable Diffusion") as caught:
        architecture.read_architecture(str(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["/nowhere/at/all", "no-such/model", "tinny"])
def test_a_source_that_is_not_there_is_one_line(source):
    with pytest.raises(UserError, match=source):
        architecture.read_architecture(source)
