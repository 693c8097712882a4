"""What is kept of OCR: covers are read once, and damage is found."""

import json

import pytest
from support.lettered_covers import demo, draw

from common.errors import UserError
from ocr import readings
from ocr.engine import Line, read_text


@pytest.fixture
def counted(monkeypatch):
    """The covers that OCR reads, counted."""
    calls = []

    def read(image):
        calls.append(image)
        return read_text(image)

    monkeypatch.setattr(readings, "read_text", read)
    return calls


WORDS = ("RAVEN", "HERON", "MAGPIE", "TERN")


def some_covers(count=3):
    return [draw((0.1, 0.3, 20, WORDS[i]), size=(128, 192)) for i in range(count)]


@pytest.mark.slow
def test_covers_are_read_once(tmp_path, counted, capfd):
    images = some_covers()
    first = readings.read_covers(iter(images), 3, tmp_path / "new", "reading v1")
    assert [[line.text for line in reading] for reading in first] == [["RAVEN"], ["HERON"], ["MAGPIE"]]
    assert len(counted) == 3
    progress = capfd.readouterr()
    assert progress.out == "" and "reading v1" in progress.err and "3/3" in progress.err
    more = readings.read_covers([*reversed(images), *some_covers(4)], 7, tmp_path / "new")
    assert len(counted) == 4 and more[:6] == [*reversed(first), *first]
    turned = images[0].reshape(128, 192, 3)  # the same bytes, but another picture
    readings.read_covers([turned], 1, tmp_path / "new")
    assert len(counted) == 5


@pytest.mark.slow
def test_threads_read_the_same_lines(tmp_path):
    images = [demo(row)[0] for row in range(4)]
    serial = readings.read_covers(images, 4, tmp_path / "a", workers=0)
    assert readings.read_covers(images, 4, tmp_path / "b", workers=3) == serial


@pytest.mark.slow
def test_a_stopped_run_loses_nothing_and_damaged_lines_do_not_count(tmp_path, counted):
    images = some_covers()

    def stopped():
        yield images[0]
        yield images[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        readings.read_covers(stopped(), 3, tmp_path, workers=0)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    assert whole.count(b"\n") == len(counted) == 2

    first, second = whole.splitlines(keepends=True)
    path.write_bytes(
        first + b'\xff\n[1]\n{"cover": "0"}\n{"cover": [], "lines": 1}\n' + second[:50]
    )  # killed as it wrote
    found = readings.read_covers(images, 3, tmp_path)
    assert len(counted) == 4  # the second and the third
    assert [reading[0].text for reading in found] == ["RAVEN", "HERON", "MAGPIE"]
    assert readings.read_covers(images, 3, tmp_path) == found and len(counted) == 4


@pytest.mark.slow
def test_another_engine_reads_anew(tmp_path, counted, monkeypatch):
    images = some_covers(1)
    readings.read_covers(images, 1, tmp_path)
    monkeypatch.setattr(readings, "engine_hash", lambda: "another")
    readings.read_covers(images, 1, tmp_path)
    assert len(counted) == 2 and len(list(tmp_path.iterdir())) == 2


def test_a_cached_reading_with_a_changed_letter_is_read_again_and_said(tmp_path, monkeypatch, capsys):
    """Each line has its checksum: one flipped bit would be another letter, and another legibility."""
    cache = tmp_path / "readings.jsonl"
    images = some_covers(3)
    read = iter([[Line("RAVEN", 0.9)], [Line("HERON", 0.95), Line("é\u2028", 1.0)], []])
    monkeypatch.setattr(readings, "read_text", lambda image: next(read))
    first = readings.ReadingsCache(cache)
    found = [first.read(image) for image in images]
    assert [readings.ReadingsCache(cache).read(image) for image in images] == found and capsys.readouterr().err == ""

    good = cache.read_bytes()
    lines = good.splitlines(keepends=True)
    old = json.dumps({"cover": "0" * 64, "lines": [["as before", 1.0]]}).encode() + b"\n"
    deep = b"[" * 100_000 + b"\n"
    for damaged in (
        lines[0].replace(b"RAVEN", b"RAVEM"),
        lines[0].replace(b"0.9", b"0.8"),
        lines[0][:-9] + b"\n",
        old,
        deep,
    ):
        cache.write_bytes(b"".join([damaged, *lines[1:]]))
        monkeypatch.setattr(readings, "read_text", lambda image: [Line("RAVEN", 0.9)])
        again = readings.ReadingsCache(cache)
        assert "lines damaged or without a checksum, whose covers are read again: 1\n" in capsys.readouterr().err
        assert [again.read(image) for image in images] == found
        assert sorted(cache.read_bytes().splitlines(keepends=True)) == sorted(lines)
    readings.ReadingsCache(cache)
    assert capsys.readouterr().err == ""


def test_a_cache_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't cache OCR results.*--cache_dir"):
        readings.read_covers(some_covers(1), 1, tmp_path / "file" / "cache")
