"""Covers with known letters, for the tests of what reads them."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.book import Book
from demo_data import books, folder
from ocr.engine import read_text


def draw(*texts, size=(256, 384), ink="black", paper="beige"):
    """A cover uint8 (H, W, 3) with each (x, y, letter height, text) on it; x, y in shares of the cover."""
    image = Image.new("RGB", size, paper)
    for x, y, height, text in texts:
        place = (x * size[0], y * size[1])
        ImageDraw.Draw(image).text(place, text, fill=ink, font=ImageFont.load_default(height))
    return np.asarray(image)


def demo(row, **kwargs):
    """(cover, its book) of a row of the demo data."""
    record = books.book_record(row)
    book = Book(row, record["book_title"], tuple(record["book_authors"].split("|")))
    return np.asarray(folder.draw_row(row, **kwargs)[0].convert("RGB")), book


def texts(image):
    return [line.text for line in read_text(image)]
