"""Layouts by rule, like a training cover, and from files."""

from lettering.layout import layout_by_rule


def test_by_rule_the_title_is_at_one_end_and_the_author_at_the_other():
    for place in ("top", "bottom"):
        lines = layout_by_rule("The Glass Crown", "Ada Fenwick", (128, 192), place).lines
        parts = [line.part for line in lines]
        assert parts == sorted(parts, reverse=place == "top")
        assert lines[-1].corners[3][1] > 0.9 and lines[0].corners[0][1] < 0.1
