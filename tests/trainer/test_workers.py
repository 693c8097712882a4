"""What goes wrong with loader workers is one line; whole processes are in tests/scripts/test_exits.py."""

import pytest
import torch

from common.errors import UserError
from trainer import workers

REMEDY = "go on without them: --num_workers 0"


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "), "memory may have run out"),
        (RuntimeError("unable to open shared memory object </torch_1> in read-write mode"), "/dev/shm is too small"),
        (OSError(28, "No space left on device"), "/dev/shm is too small"),
        (OSError(24, "Too many open files"), "too many open files, see ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "too many open files, see ulimit -n"),
        (TimeoutError("no batch has come for 300 s"), "no batch has come for 300 s"),
        (EOFError(), "EOFError"),
    ],
)
def test_each_cause_is_one_line_with_the_remedy(problem, reason):
    error = workers.failure(problem, REMEDY)
    assert isinstance(error, UserError) and "\n" not in str(error)
    assert reason in str(error) and str(error).endswith(REMEDY)


def test_without_workers_the_batches_are_the_loaders_own():
    loader = torch.utils.data.DataLoader(range(6), batch_size=2)
    with workers.running_batches(loader, REMEDY) as batches:
        assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]
