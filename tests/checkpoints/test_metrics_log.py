import json
import math

import pytest
import torch

from checkpoints.metrics_log import MetricsLog, MetricsTail, read_metrics
from trainer.loop import memory_gib


def test_a_resumed_log_forgets_what_came_after_its_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.log(0, validation_loss=1.5)
    for step in range(1, 6):
        log.log(step, loss=float(step))
    log.file.write('{"step": 6, "lo')  # killed while writing
    log.file.close()
    log = MetricsLog(path, 3)
    log.log(4, loss=40.0)
    assert read_metrics(path) == [
        {"step": 0, "validation_loss": 1.5},
        *({"step": step, "loss": float(step)} for step in (1, 2, 3)),
        {"step": 4, "loss": 40.0},
    ]
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_a_run_that_starts_again_begins_an_empty_log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, 0).log(0, validation_loss=1.0)
    MetricsLog(path, 0).log(0, validation_loss=2.0)
    assert read_metrics(path) == [{"step": 0, "validation_loss": 2.0}]


def test_what_is_not_finite_is_null(tmp_path):
    """JSON has no NaN: other tools could not read the line. Older runs have it, and 1e999 is read as infinity."""
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, 0)
    log.log(1, loss=math.nan, grad_norm=-math.inf, lr=1e-5, validation_bands=[0.5, math.nan])
    line = {"step": 1, "loss": None, "grad_norm": None, "lr": 1e-5, "validation_bands": [0.5, None]}
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == line
    log.file.write('{"step": 2, "loss": NaN, "lr": 1e999, "validation_bands": [-Infinity, {"deep": NaN}]}\n')
    log.file.flush()
    assert read_metrics(path) == [
        line,
        {"step": 2, "loss": None, "lr": None, "validation_bands": [None, {"deep": None}]},
    ]


def test_other_processes_write_nothing(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl", 0, write=False).log(1, loss=1.0)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_that_of_the_process():
    before = memory_gib(torch.device("cpu"))
    kept = torch.ones(2**27)  # half a GiB
    assert 0.4 < memory_gib(torch.device("cpu")) - before < 0.7
    assert kept[0] == 1


# ---------------------------------------------------------------------------------------------------------------------
# MetricsTail


def write(path, *lines):
    with path.open("ab") as file:
        file.writelines(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_the_tail_yields_each_step_once_and_holds_the_newest_back(path):
    tail = MetricsTail(path, after=-1)
    write(path, {"step": 0, "validation_loss": 1.5}, {"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.0})
    assert list(tail.steps()) == [(0, {"validation_loss": 1.5}), (1, {"loss": 1.0})]
    assert list(tail.steps()) == []
    write(path, {"step": 3, "loss": 3.0})
    assert list(tail.steps()) == [(2, {"loss": 2.0})]
    assert list(tail.steps(complete=True)) == [(3, {"loss": 3.0})]
    assert list(tail.steps(complete=True)) == []
    write(path, {"step": 4, "loss": 4.0})
    assert list(tail.steps(complete=True)) == [(4, {"loss": 4.0})]


def test_the_lines_of_a_step_become_one_even_if_they_come_one_by_one(path):
    tail = MetricsTail(path, after=-1)
    write(path, {"step": 1, "loss": 1.0, "grad_norm": None}, {"step": 1, "validation_loss": 2.0})
    assert list(tail.steps()) == []
    write(path, {"step": 1, "samples": "samples/000001.png"}, {"step": 2, "loss": 0.5})
    merged = {"loss": 1.0, "grad_norm": None, "validation_loss": 2.0, "samples": "samples/000001.png"}
    assert list(tail.steps()) == [(1, merged)]


def test_half_a_line_waits_for_its_end(path):
    tail = MetricsTail(path, after=-1)
    write(path, {"step": 1, "loss": 1.0}, b'{"step": 2, "lo')
    assert list(tail.steps(complete=True)) == [(1, {"loss": 1.0})]
    write(path, b'ss": 2.0}')
    assert list(tail.steps(complete=True)) == []  # it may be that more digits come
    write(path, b"\n")
    assert list(tail.steps(complete=True)) == [(2, {"loss": 2.0})]


@pytest.mark.parametrize(
    "damaged",
    [
        *(
            b"\n",
            b"{\n",
            b"[1]\n",
            b'"step"\n',
            b'{"loss": 3.0}\n',
            b'{"step": "2"}\n',
            b'{"step": 1.5}\n',
            b"\xff\xfe\0\n",
        ),
        *(
            b'{"step": true}\n',
            b'{"step": -1}\n',
            b'{"step": 1%s}\n' % (b"0" * 400),
            b'{"step": NaN}\n',
            b"[" * 10**5 + b"\n",
        ),
    ],
)
def test_damaged_lines_are_left_out(path, damaged):
    write(path, {"step": 1, "loss": 1.0}, damaged, {"step": 1, "speed": 2.0}, damaged)
    assert list(MetricsTail(path, after=-1).steps(complete=True)) == [(1, {"loss": 1.0, "speed": 2.0})]


def test_steps_up_to_after_are_left_out(path):
    write(path, *({"step": step, "loss": float(step)} for step in range(6)))
    assert [step for step, _ in MetricsTail(path, after=3).steps(complete=True)] == [4, 5]
    assert list(MetricsTail(path, after=5).steps(complete=True)) == []


def test_a_file_that_is_not_there_yet(path):
    tail = MetricsTail(path, after=-1)
    assert list(tail.steps()) == list(tail.steps(complete=True)) == []
    write(path, {"step": 1, "loss": 1.0})
    assert list(tail.steps(complete=True)) == [(1, {"loss": 1.0})]


def test_the_tail_reads_what_the_log_writes(path):
    tail, log = MetricsTail(path, after=-1), MetricsLog(path, 0)
    read = []
    for step in range(1, 8):
        log.log(step, loss=step / 10, title="Ä\u2028")
        if step % 3 == 0:
            read += tail.steps()
    read += tail.steps(complete=True)
    assert read == [(step, {"loss": step / 10, "title": "Ä\u2028"}) for step in range(1, 8)]
