import types

import pytest

from trainer import batches as trainer_batches
from trainer.batches import BatchSchedule


@pytest.mark.parametrize(("count", "window"), [(22, 5), (20, 5), (3, 8), (7, 1)])
def test_the_places_of_two_epochs_are_taken_once_each(count, window):
    plan = BatchSchedule(count, window, seed=0)
    assert plan.updates == -(-count // window)
    taken = [places for step in range(2 * plan.updates) for places in plan.pieces(step)]
    assert [place for places in taken for place in places] == list(range(2 * count))
    assert {len(places) for places in taken} <= {window, count % window or window}
    assert all(places[0] // count == places[-1] // count for places in taken)  # no update spans two epochs


@pytest.mark.parametrize(("processes", "size"), [(1, 22), (2, 22), (3, 22), (4, 5), (2, 1)])
def test_processes_share_an_update_in_whole_batches(processes, size):
    ranks = [types.SimpleNamespace(process_index=i, num_processes=processes) for i in range(processes)]
    batches = [trainer_batches.batches_of([range(100, 100 + size)], 4, rank) for rank in ranks]
    assert sorted(place for own in batches for batch in own for place in batch) == list(range(100, 100 + size))
    assert all(1 <= len(batch) <= 4 for own in batches for batch in own)
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_every_cover_stands_at_one_place_of_an_epoch():
    plan = BatchSchedule(22, 5, seed=0)
    first, second = (plan.indexes(range(start, start + 22)) for start in (0, 22))
    assert sorted(first) == sorted(second) == list(range(22)) and first != second
    assert plan.indexes(range(25, 30)) == second[3:8]  # however an epoch is cut into batches
    assert BatchSchedule(22, 5, seed=1).indexes(range(22)) != first
