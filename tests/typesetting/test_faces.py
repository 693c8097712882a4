"""Fonts: weights, widths, quotes, and the characters that are refused."""

import pytest
from PIL import ImageFont

from common.errors import UserError
from typesetting import faces
from typesetting.faces import (
    clean,
    extent,
    find_face,
    letter_offsets,
    missing,
    names_of,
    needs_shaping,
    open_font,
    require_settable,
)

SERIF, SANS = find_face("serif", 650), find_face("sans", 650)


def test_a_variable_font_opens_at_its_weight_not_at_its_thinnest():
    ink = [sum(open_font(SANS.path, weight, 100).getmask("H")) for weight in (200, 650, 900, 5000)]
    assert ink[0] < ink[1] < ink[2] == ink[3]
    assert ink[0] == sum(ImageFont.truetype(SANS.path, 100).getmask("H"))
    assert (SERIF.name, SANS.name) == ("EB Garamond", "Source Sans 3")


@pytest.mark.parametrize("face", [SERIF, SANS], ids=["serif", "sans"])
@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("Łódź, Őze, češtin, ßÆœ, №5 – — … “«»” €20 & Ωμέγα, Война и мир", []),
        ("A 😀 tale 😀", ["😀"]),
        ("水 book", ["水"]),
        ("كتاب", list("كتاب")),
        ("अ", ["अ"]),
        (" \u200d", []),
    ],
)
def test_characters_without_a_glyph(face, text, absent):
    assert missing(text, face) == absent


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("A 😀 tale", r"EB Garamond has no 😀 \(U\+1F600 GRINNING FACE\); give --typeset_font"),
        ("كتاب", r"has no ك \(U\+0643 ARABIC LETTER KAF\), .* and 1 more"),
        ("水", r"has no 水 \(U\+6C34 CJK UNIFIED IDEOGRAPH-6C34\)"),
        ("\U000e0fff", r"U\+E0FFF unnamed"),
    ],
)
def test_they_are_refused_by_name(text, named):
    with pytest.raises(UserError, match=f"the title can't be set: .*{named}") as refused:
        require_settable(text, SERIF, "the title")
    assert "\n" not in str(refused.value)
    assert names_of(["a"]) == "a (U+0061 LATIN SMALL LETTER A)"


def test_scripts_that_need_shaping_are_refused_where_there_is_none(monkeypatch):
    """With a font that has the letters, Pillow's basic layout would set them unjoined, and no one would notice."""
    joined = [c for c in "كא١क्ที\u0301\u200d" if needs_shaping(c)]
    assert joined == list("كא١क्ที\u0301\u200d") and not any(map(needs_shaping, "aÉßЖΩ水1-’"))
    monkeypatch.setattr(faces, "can_shape", lambda: True)
    require_settable("q\u0301", SERIF, "the title")
    monkeypatch.setattr(faces, "can_shape", lambda: False)
    with pytest.raises(UserError, match=r"the author .*\(U\+0301 COMBINING ACUTE ACCENT\) must be joined .* FriBidi"):
        require_settable("q\u0301", SERIF, "the author")


@pytest.mark.parametrize("content", [None, b"", b"not a font" * 99])
def test_a_file_that_is_no_font(tmp_path, content):
    path = tmp_path / "font.ttf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"--typeset_font .*font.ttf: .*; give serif or sans, or a TrueType"):
        find_face(str(path), 650)
    with pytest.raises(UserError, match="--typeset_font "):
        find_face(str(tmp_path), 650)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  The \n Glass\tCrown ", "The Glass Crown"),
        ("Ender's  'Game'", "Ender’s ‘Game’"),
        ('The "Best" ("worst") of "\'68"', "The “Best” (“worst”) of “’68”"),
        ("e\u0301t\u00ade\u200e \u2764\ufe0f", "éte \u2764"),
        (" \u200b ", ""),
    ],
)
def test_texts_are_cleaned(text, expected):
    assert clean(text, SERIF) == expected


def test_letterspaced_pairs_are_kerned():
    spaced, plain = letter_offsets(SERIF, "AVA", 0.1), extent(SERIF, "AVA")[0]
    assert len(spaced) == 4 and spaced[0] == 0
    assert spaced[-1] == pytest.approx(plain + 0.2, abs=0.01)
    apart = sum(extent(SERIF, letter)[0] for letter in "AVA")
    assert plain < apart if faces.can_shape() else plain == pytest.approx(apart)  # kerned by Raqm
