"""Title swaps with UNets whose change is known."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from data.book import Book
from diffusion import pipeline
from diffusion.lettering import build_lettering
from evaluation import title_swap
from evaluation.distances import TooFewImages
from ocr.engine import Line

SIZE = (64, 96)


@pytest.fixture
def parts():
    return pipeline.build_tiny()


@pytest.fixture
def swaps(tmp_path):
    """Nine books, each with the next as the other, whose letters stand in a strip of 2 / 12 of the picture."""
    Image.new("RGB", SIZE, (200, 90, 30)).save(tmp_path / "cover.png")
    image = str(tmp_path / "cover.png")
    books = [Book(row=i, title=f"Title {i}", genres=("fantasy",), image=image) for i in range(9)]
    area = np.zeros(SIZE[::-1], bool)
    area[16:32] = True
    pages = np.zeros(SIZE[::-1], np.uint8), np.where(area, np.uint8(255), np.uint8(0))
    others = title_swap.other_books(books)
    return [title_swap.Swap(book, other, area, pages) for book, other in zip(books, others, strict=True)]


def shares(parts, swaps, batch_size=4):
    return title_swap.shares_inside(parts, swaps, SIZE, 0, batch_size, 77)


def with_change(parts, where):
    """Its UNet returns the sum of the states where `where` (H / 8, W / 8) is 1: another one for each prompt."""

    class UNet(torch.nn.Module):
        device, dtype, config = parts.unet.device, parts.unet.dtype, parts.unet.config

        def forward(self, latents, timestep, states, return_dict):
            return (states.sum((1, 2))[:, None, None, None] * where.expand(latents.shape),)

    parts.unet = UNet()
    return parts


def test_a_change_inside_the_boxes_is_1_and_an_even_one_the_share_of_the_area(parts, swaps):
    rows, columns = 96 // 8, 64 // 8
    strip = torch.zeros(rows, columns)
    strip[2:4] = 1
    for where, expected in ((strip, 1), (1 - strip, 0), (torch.ones(rows, columns), 2 / 12)):
        inside, areas = shares(with_change(parts, where), swaps)
        assert inside == pytest.approx(np.full(9, expected), abs=1e-12) and areas == pytest.approx(np.full(9, 2 / 12))


def test_a_batch_changes_nothing_in_a_true_unet(parts, swaps):
    inside, _ = shares(parts, swaps)
    again, _ = shares(parts, swaps, batch_size=9)
    assert np.allclose(inside, again, atol=1e-3) and np.all((inside > 0) & (inside < 1)) and np.ptp(inside) > 0


def test_with_lettering_the_page_changes_with_the_title(parts, swaps):
    """A UNet that sees no prompt, and a lettering of 1 x 1 convolutions: the change lies where the other page has
    letters, and is there at all."""

    class UNet(torch.nn.Module):
        device, dtype, config = parts.unet.device, parts.unet.dtype, parts.unet.config

        def __init__(self):
            super().__init__()
            self.conv_in, self.conv_out = parts.unet.conv_in, parts.unet.conv_out

        def forward(self, latents, timestep, states, return_dict):
            return (self.conv_in(latents),)  # the exit, which reaches further, is left out

    parts.lettering = build_lettering(parts)
    for convolution in (parts.lettering.entrance_in, parts.lettering.entrance_out):
        convolution.weight.data.zero_()
        convolution.weight.data[:, :, 1, 1] = 0.1
    parts.unet = UNet()
    inside, _ = shares(parts, swaps)
    assert inside == pytest.approx(np.ones(9), abs=1e-12)
    parts.lettering = None
    with pytest.raises(TooFewImages, match="8 books whose picture changes with the title, and there are 0"):
        shares(parts, swaps)


def test_a_swap_that_changes_nothing_is_left_out(parts, swaps):
    """CLIP's tokenizer makes small letters of capitals: the UNet sees the same prompt twice."""
    same = dataclasses.replace(swaps[4], other=dataclasses.replace(swaps[4].book, title="TITLE 4"))
    parts = with_change(parts, torch.ones(96 // 8, 64 // 8))
    inside, areas = shares(parts, [*swaps[:4], same, *swaps[5:]])
    assert inside == pytest.approx(np.full(8, 2 / 12)) and len(areas) == 8


def test_swaps_are_of_books_whose_title_is_read_on_their_cover(swaps, monkeypatch, tmp_path):
    book = swaps[0].book
    corners = ((0.1, 0.2), (0.9, 0.2), (0.9, 0.4), (0.1, 0.4))
    books = [
        dataclasses.replace(book, title="The Glass Crown", authors=("Ada Fenwick",)),
        dataclasses.replace(book, row=1, title="Winter Letters"),  # another text is on its cover
        *(dataclasses.replace(book, row=2, title=""), dataclasses.replace(book, row=3, caption="a red cover")),
    ]
    readings = {0: [Line("THE GLASS CROWN", 0.9, corners)], 1: [Line("A NOVEL", 0.9, corners)]}
    monkeypatch.setattr(title_swap, "read_covers", lambda covers, total, *_: [readings[i] for i in range(total)])
    (found,) = title_swap.find_swaps(books, SIZE, tmp_path)
    assert (found.book.row, found.other.row) == (0, 1)
    rows, columns = np.nonzero(found.area)
    assert rows.min() >= 0.2 * 96 - 1 and rows.max() <= 0.4 * 96 and columns.min() >= 0.1 * 64 - 1
    own, other = found.pages
    assert other.any() and (own != other).any()
    assert own[found.area].sum() > 0.9 * own.sum() > 0  # all but edges of the letters


def test_the_other_book_has_the_same_genre_if_there_is_one():
    books = [
        *(Book(0, "A", genres=("Fantasy",)), Book(1, "B", genres=("travel",)), Book(2, "A ", genres=("fantasy",))),
        *(Book(3, "C", genres=("fantasy", "travel")), Book(4, "", genres=("fantasy",))),
    ]
    assert [book.row for book in title_swap.other_books(books)] == [3, 2, 3, 0, 0]
    assert title_swap.other_books(books[:1]) == [None]


def test_too_few_are_refused(parts, swaps):
    with pytest.raises(TooFewImages, match="needs 8 books with a title"):
        shares(parts, swaps[:7])
