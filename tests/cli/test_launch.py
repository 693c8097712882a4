"""How a script ends: one line on standard error and an exit status, whatever has happened."""

import io
import logging
import os
import signal
import sys

import pytest

from cli import launch
from common.errors import UserError


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a main() as a script; returns (exit status, standard output, standard error)."""

    def run(main, **environment):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as left:
            launch.run_script(main)
        return left.value.code, *capsys.readouterr()

    return run


def failing(problem):
    def main():
        raise problem

    return main


@pytest.mark.parametrize(
    ("problem", "status", "line"),
    [
        (UserError("row 3:\n  wrong"), 2, "error: row 3: wrong\n"),
        (UserError("the title \x1b[2J is gone"), 2, "error: the title \\x1b[2J is gone\n"),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
        (BrokenPipeError(32, "Broken pipe"), 2, "error: [Errno 32] Broken pipe\n"),  # of a server: our output is open
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt(signal.SIGTERM), 143, "interrupted\n"),
        (RuntimeError("CUDA error: unknown error"), 2, "error: the GPU has failed: CUDA error: unknown error; "),
        (MemoryError(), 2, "error: the computer's memory is full: "),
    ],
)
def test_an_error_is_one_line(run, problem, status, line):
    code, out, errors = run(failing(problem))
    assert (code, out) == (status, "") and errors.startswith(line) and errors.count("\n") == 1


def test_a_mistake_of_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        launch.run_script(failing(ZeroDivisionError()))


def test_where_cuda_failed_can_be_seen(monkeypatch):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    with pytest.raises(RuntimeError, match="CUDA error"):
        launch.run_script(failing(RuntimeError("CUDA error: device-side assert triggered")))


def test_the_environment_is_cleaned_before_anything_is_imported(run):
    def main():
        assert "ACCELERATE_MIXED_PRECISION" not in os.environ
        return 0

    code, _, errors = run(main, ACCELERATE_MIXED_PRECISION="fp16")
    assert (code, errors) == (0, "note: ACCELERATE_MIXED_PRECISION=fp16 is not used; use --mixed_precision\n")
    code, _, errors = run(main, ACCELERATE_USE_FSDP="true")
    assert code == 2 and errors.startswith("error: ACCELERATE_USE_FSDP is set")


def test_warnings_of_bitsandbytes_about_kernels_are_not_shown_and_errors_are(run):
    run(lambda: 0)
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    assert not logger.isEnabledFor(logging.WARNING) and logger.isEnabledFor(logging.ERROR)


def test_letters_that_the_terminal_lacks(monkeypatch):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))
    with pytest.raises(SystemExit) as left:
        launch.run_script(lambda: print("saved in Umschläge"))
    assert left.value.code is None and output.getvalue() == b"saved in Umschl\\xe4ge\n"


@pytest.mark.parametrize("lines", [1, 10_000])
def test_an_output_that_nobody_reads(monkeypatch, capfd, lines):
    """With one line the pipe is written to when the script has ended."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(SystemExit) as left:
            launch.run_script(lambda: print("line\n" * lines))
    assert left.value.code == 0 and capfd.readouterr().err == ""


@pytest.mark.parametrize(("num_gpus", "status"), [(1, None), (2, None), (4, 2)])
def test_the_processes_of_a_launcher_are_those_that_work(monkeypatch, num_gpus, status):
    settings = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    if status is None:
        assert launch.launch_on_gpus(num_gpus, "training.py") is None
    else:
        with pytest.raises(UserError, match="--num_gpus 4, and the launcher has started 2"):
            launch.launch_on_gpus(num_gpus, "training.py")
