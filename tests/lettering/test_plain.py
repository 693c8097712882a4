"""The plain font of glyph pages."""

import pytest

from common.errors import UserError
from lettering.plain import plain_text, require_plain


def test_what_the_font_can_set():
    assert plain_text(" Ender's \n Spiel\u200b") == "Ender’s Spiel"
    assert plain_text("Ärger Łódź Мир Ἀθῆναι №") == "Ärger Łódź Мир Ἀθῆναι №"
    assert plain_text("A 水") == plain_text("🐉") == plain_text("") == ""
    with pytest.raises(UserError, match=r"the title can't be drawn: .* has no 水 .U.6C34"):
        require_plain("A 水", "the title")
