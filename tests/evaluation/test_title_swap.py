"""Title swaps with UNets whose change is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.book import Book
from diffusion import pipeline
from evaluation import title_swap
from evaluation.distances import TooFewImages

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
    return [
        title_swap.Swap(book, other, area) for book, other in zip(books, title_swap.other_books(books), strict=True)
    ]


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
