import pickle

import pytest
from huggingface_hub.errors import StrictDataclassFieldValidationError

from common.library_errors import LIBRARY_ERRORS, short_reason


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (OSError("Error no file\n  named x."), "Error no file named x"),
        (KeyError("no_such"), "there is no 'no_such'"),
        (ValueError(), "ValueError"),
        (ImportError("\nX requires torchsde. You can install it with pip"), "X requires torchsde"),
        (ValueError("a: torch.Size([3]). If you want to instead overwrite weights, pass y"), "a: torch.Size([3])"),
        (RuntimeError("x" * 999), "x" * 300),
        (pickle.UnpicklingError("weights only"), "weights only"),
    ],
)
def test_a_librarys_error_is_one_short_line(problem, reason):
    assert isinstance(problem, LIBRARY_ERRORS) and short_reason(problem) == reason


def test_a_setting_of_the_wrong_type_is_an_error_of_the_libraries():
    assert issubclass(StrictDataclassFieldValidationError, LIBRARY_ERRORS)
    assert not issubclass(KeyboardInterrupt, LIBRARY_ERRORS)
