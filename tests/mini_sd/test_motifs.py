"""The motifs of mini's posters."""

import random

import numpy as np
import pytest

from demo_data.canvas import Art, Palette
from mini_sd.motifs import MOTIFS

PALETTE = Palette("#dde6ee", "#b0c4d8", "#ffcc33", "#b03030", "#203040")
BACKGROUND = (1, 2, 3)


def draw(motif, seed):
    """Where a motif of radius 16 leaves paint on a canvas of 96x96: a boolean array."""
    art = Art((48, 48), random.Random(seed))
    art.image.paste(BACKGROUND, (0, 0, art.w, art.h))
    motif(art, art.pen(0.5, 0.5, 16 / 96), art.rng, PALETTE)
    return (np.asarray(art.image) != BACKGROUND).any(axis=-1)


@pytest.mark.parametrize("name", MOTIFS)
def test_a_motif_fills_its_place_and_no_more(name):
    motif, genres = MOTIFS[name]
    assert len(set(genres.split("|"))) >= 2  # a caption takes one of them
    for seed in range(4):
        painted = draw(motif, seed)
        assert np.array_equal(painted, draw(motif, seed))
        rows, columns = np.nonzero(painted)
        assert len(rows) > 0, "nothing is drawn"
        if name != "lantern":  # which shines on everything around it
            assert np.abs(np.stack([rows, columns]) - 48).max() < 1.75 * 16, "too large"
