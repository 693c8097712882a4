"""bench.typeset_read: scenes without lettering, and a line for each font."""

import numpy as np
import pytest
from PIL import Image

from bench import typeset_read
from common.errors import UserError
from demo_data.books import COLUMNS


def test_each_font_has_its_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(typeset_read, "read_text", lambda image: [])  # OCR is slow, and tested elsewhere
    words = f"--scenes 1 --width 200 --fonts serif sans --out {tmp_path}"
    assert typeset_read.main(words.split()) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row[:9] for row in rows[1:]] == [[font, "demo", "1", *["0.00"] * 6] for font in ("serif", "sans")]
    assert all(float(row[9]) >= 4.5 for row in rows[1:])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sans-demo-00.png", "serif-demo-00.png"]


def test_scenes_and_covers(tmp_path):
    scene = typeset_read.demo_scene(3)
    assert scene.picture.size == (512, 768) and scene.title and scene.authors
    assert np.array_equal(scene.picture, typeset_read.demo_scene(3).picture)
    folder = tmp_path / "images" / "images"
    folder.mkdir(parents=True)
    Image.new("RGB", (40, 60)).save(folder / "0.jpg")
    rows = [dict.fromkeys(COLUMNS, "") | {"book_title": title, "book_authors": "A|B"} for title in ("It", "Next")]
    lines = [",".join(cells) for cells in (COLUMNS, *(row.values() for row in rows))]
    (tmp_path / "book_data.csv").write_text("\n".join(lines))
    ((_, title, authors),) = typeset_read.covers(tmp_path)  # the second has no cover
    assert (title, authors) == ("Next", ("A",))


@pytest.mark.parametrize("words", ["--scenes 0", "--width x"])
def test_bad_words(words):
    with pytest.raises(UserError):
        typeset_read.main(words.split())
