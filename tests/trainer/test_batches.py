import types

import pytest

from trainer.batches import BatchSchedule, split_batches


@pytest.mark.parametrize(("count", "size"), [(22, 5), (20, 5), (3, 8), (7, 1)])
def test_the_samples_of_two_epochs_are_taken_once_each(count, size):
    schedule = BatchSchedule(count, size, seed=0)
    assert schedule.updates == -(-count // size)
    taken = [samples for step in range(2 * schedule.updates) for samples in schedule.pieces(step)]
    assert [sample for samples in taken for sample in samples] == list(range(2 * count))
    assert {len(samples) for samples in taken} <= {size, count % size or size}
    assert all(samples[0] // count == samples[-1] // count for samples in taken)  # no update spans two epochs


@pytest.mark.parametrize(("processes", "size"), [(1, 22), (2, 22), (3, 22), (4, 5), (2, 1)])
def test_processes_share_an_update_in_whole_batches(processes, size):
    ranks = [types.SimpleNamespace(process_index=i, num_processes=processes) for i in range(processes)]
    batches = [split_batches([range(100, 100 + size)], 4, rank) for rank in ranks]
    assert sorted(sample for own in batches for batch in own for sample in batch) == list(range(100, 100 + size))
    assert all(1 <= len(batch) <= 4 for own in batches for batch in own)
    assert max(map(len, batches)) - min(map(len, batches)) <= 1


def test_every_cover_is_one_sample_of_an_epoch():
    schedule = BatchSchedule(22, 5, seed=0)
    first, second = (schedule.dataset_indexes(range(start, start + 22)) for start in (0, 22))
    assert sorted(first) == sorted(second) == list(range(22)) and first != second
    assert schedule.dataset_indexes(range(25, 30)) == second[3:8]  # however an epoch is cut into batches
    assert BatchSchedule(22, 5, seed=1).dataset_indexes(range(22)) != first
