import torch

from tracking import MetricsLog, memory_gib, read_metrics


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


def test_other_processes_write_nothing(tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl", 0, write=False).log(1, loss=1.0)
    assert list(tmp_path.iterdir()) == []


def test_memory_is_that_of_the_process():
    before = memory_gib(torch.device("cpu"))
    kept = torch.ones(2**27)  # half a GiB
    assert 0.4 < memory_gib(torch.device("cpu")) - before < 0.7
    assert kept[0] == 1
