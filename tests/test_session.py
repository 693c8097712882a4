import pytest

from common.errors import UserError
from trainer import session


@pytest.mark.parametrize(
    ("name", "message"), [("fingerprint", "the covers under --data_root"), ("window", "with its 8")]
)
def test_another_past_is_refused(name, message):
    now = {"fingerprint": "a", "window": 4}
    session.refuse_other_past(dict(now), now)
    with pytest.raises(UserError, match=message):
        session.refuse_other_past({**now, name: 8}, now)
