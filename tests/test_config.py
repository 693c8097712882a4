import dataclasses
import inspect

import pytest

import command_line
import config
from config import InferenceOptions, TrainingOptions, UserError


def parse(words, cls=TrainingOptions):
    return command_line.parse(cls, words)[0]


def test_inference_options_that_exclude_each_other():
    with pytest.raises(UserError, match="give one of the two"):
        parse(["--prompt", "a book", "--calc_fid"], InferenceOptions)
    with pytest.raises(UserError, match="--fid_weights belongs to"):
        parse(["--fid_features", "efficientnet", "--fid_weights", "w.pth"], InferenceOptions)


@pytest.mark.parametrize(("text", "size"), [("512x768", (512, 768)), ("64", (64, 64)), ("64X96", (64, 96))])
def test_resolution(text, size):
    assert config.size(parse(["--resolution", text])) == size


def test_every_option_is_owned_once_and_explained():
    owners = {}
    for cls in (TrainingOptions, InferenceOptions, config.StatsOptions):
        for owner in cls.__mro__[:-1]:
            for name in inspect.get_annotations(owner):
                assert owners.setdefault(name, owner) is owner or name == "run_id", f"{name} is declared twice"
        for field in dataclasses.fields(cls):
            assert field.metadata["help"]
            assert (field.default is None) == bool(field.metadata["none"]), f"{field.name}: what does None mean?"
            if field.default is not None:
                assert config.check_value(field, field.default) == field.default
