"""An error or a signal ends a script with all its processes and threads, soon, with the right status and one line."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from support import processes
from support.training_runs import digest, read_log, wait_for_update

import training

pytestmark = [pytest.mark.script, pytest.mark.slow]
SECONDS = 20  # in which a script must end; workers that do not answer have 4 of them
NO_WORKERS = "--num_workers 0"


@pytest.fixture
def covers(small_data, tmp_path):
    """A data folder of the test's own."""
    return shutil.copytree(small_data, tmp_path / "data")


@pytest.fixture
def words(covers, tmp_path):
    """Words for a run in which nothing is due for long."""
    fixed = f"""--data_root {covers} --output_dir {tmp_path}/runs --pretrained_model tiny --resolution 32x48
        --batch_size 5 --lr 1e-3 --train_unet --train_text_encoder False --sample_every 0 --validation_rows 4
        --run_name run --max_steps 4000 --save_every 4000 --validate_every 4000"""
    return fixed.split()


@pytest.fixture
def run(tmp_path):
    return tmp_path / "runs" / "run"


@contextlib.contextmanager
def script(*words):
    """`python -m WORDS` in a process, which is killed with all its children at the end of the block."""
    process = processes.Process(
        [sys.executable, "-m", *map(str, words)],
        cwd=processes.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        for one in [*children(process), *([process] if process.poll() is None else [])]:
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                one.kill()


def children(process):
    """All processes of the script's session but itself."""
    return [p for p in psutil.process_iter() if p.pid != process.pid and session_of(p.pid) == process.pid]


def session_of(pid):
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)


def ended(process, status, line=None):
    """What a script said that must end now, with this status, and nothing of it left. line: a piece of its only one on
    standard error that is no progress bar."""
    began = time.monotonic()
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == status, errors
    while children(process):
        assert time.monotonic() - began < SECONDS, children(process)
        time.sleep(0.1)
    if line:
        told = [one for one in errors.replace("\r", "\n").splitlines() if one.strip() and "%|" not in one]
        assert len(told) == 1 and told[0].startswith("error: ") and line in told[0], errors
        return told[0]
    return errors


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cover_that_goes_missing(words, run, covers, workers):
    with script("training", *words, "--num_workers", workers) as process:
        wait_for_update(run, 5, process)
        (covers / "images" / "images" / "7.jpg").unlink()
        assert "7.jpg" in ended(process, 2, "error: row 7: ")


@pytest.mark.parametrize(("what", "workers"), [("cuda", 0), ("cuda", 2), ("bug", 0), ("bug", 2), ("user", 1)])
def test_an_error_in_the_loop(words, workers, what):
    line = {"cuda": "the GPU has failed: CUDA error: ", "bug": None, "user": "nothing to be done"}[what]
    with script("support.failing_training", what, *words, "--num_workers", workers) as process:
        errors = ended(process, 2 if line else 1, line)
    assert errors.count("Traceback") == (0 if line else 1) and (line or "ZeroDivisionError") in errors


@pytest.mark.parametrize(("workers", "number"), [(1, signal.SIGKILL), (2, signal.SIGKILL), (2, signal.SIGTERM)])
def test_a_killed_worker(words, run, tmp_path, workers, number):
    """The run goes on from its last save, by the command that the line has, as if nothing had happened."""
    common = [*words, "--num_workers", workers, "--save_every", 3]
    with script("training", *common) as process:
        wait_for_update(run, 5, process)
        one = children(process)[0]
        one.send_signal(number)
        if number == signal.SIGTERM:  # which workers ignore, for it may be meant for the whole group
            wait_for_update(run, len(losses(run)) + 20, process)
            return
        line = ended(process, 2, NO_WORKERS)
    assert "Killed" in line or "one of them has died" in line  # its pipe may be seen to break before the signal
    command = line[line.index("python -m training ") :]
    assert command.endswith(NO_WORKERS)
    steps = len(losses(run)) // 3 * 3 + 3
    assert training.main([*shlex.split(command)[3:], "--max_steps", str(steps)]) == 0
    whole = [*map(str, common), "--num_workers", "0", "--run_name", "whole", "--max_steps", str(steps)]
    assert training.main(whole) == 0
    assert state_of(run) == state_of(run.with_name("whole"))


def state_of(run):
    """{file: hash} of the tensors in the newest training state."""
    return {path.name: digest(path) for path in max((run / "state").iterdir()).iterdir() if path.suffix != ".json"}


def losses(run):
    return [line["loss"] for line in read_log(run) if "loss" in line]


@pytest.mark.parametrize(("how", "workers"), [("stopped", 1), ("stopped", 2), ("hanging", 2)])
def test_a_worker_that_does_not_answer(words, run, covers, workers, how):
    """One that is stopped, or all in a read that never ends."""
    with script("support.failing_training", "impatient", *words, "--num_workers", workers) as process:
        wait_for_update(run, 5, process)
        if how == "stopped":
            children(process)[0].send_signal(signal.SIGSTOP)
        else:
            path = covers / "images" / "images" / "7.jpg"
            os.mkfifo(path.with_suffix(".pipe"))
            path.with_suffix(".pipe").rename(path)
        assert " 4 s" in ended(process, 2, NO_WORKERS)


@pytest.mark.parametrize("to_all", [False, True])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal(words, run, number, status, to_all):
    """The first waits for the update, which here never ends: the workers are stopped."""
    with script("training", *words, "--num_workers", 2) as process:
        wait_for_update(run, 5, process)
        for worker in children(process):
            worker.send_signal(signal.SIGSTOP)
        time.sleep(1)
        for _ in range(2):
            (os.killpg if to_all else os.kill)(process.pid, number)
            time.sleep(1)
        errors = ended(process, status)
    assert "Traceback" not in errors and errors.endswith("interrupted\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_the_group_finishes_the_update_and_saves(words, run, number, status):
    with script("training", *words, "--num_workers", 2) as process:
        wait_for_update(run, 5, process)
        os.killpg(process.pid, number)
        ended(process, status)
    stopped = len(losses(run))
    assert training.main(["--output_dir", str(run.parent), "--run_id", "run", "--max_steps", str(stopped)]) == 0


def test_shared_memory_too_small(words, run):
    """/dev/shm of 64 KiB, where a batch takes 90 KB."""
    inside = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", inside, "sh"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("this machine has no user namespaces")
    command += [sys.executable, "-m", "training", *words, "--num_workers", "1"]
    done = subprocess.run(command, cwd=processes.ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    line = done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and line.startswith("error: ")
    assert "/dev/shm" in line and NO_WORKERS in line


HANGING = """
import pathlib, sys, threading
from cli import launch
from common.errors import UserError
from common.prefetch import read_ahead
from data.image_index import check_folder
from data import image_index

never = threading.Event()
launch.EXIT_SECONDS = 1

def reading():
    for number in read_ahead(lambda number: never.wait() if number else number, range(100), 2):
        raise UserError("reading failed")

def checking():
    folder = pathlib.Path(sys.argv[1])
    for name in "01":
        (folder / f"{name}.jpg").touch()
    image_index.check_file = lambda path, *_: never.wait() if "1" in path[-6:] else 1 / 0
    check_folder(folder, ["0.jpg", "1.jpg"], folder / "index.csv", 2)

def stopping():
    threading.Thread(target=never.wait).start()
    raise KeyboardInterrupt(15)

launch.run_script(WHAT)
"""


@pytest.mark.parametrize(("what", "status"), [("reading", 2), ("checking", 1), ("stopping", 143)])
def test_threads_that_hang(tmp_path, what, status):
    """Threads whose work never ends do not keep a script that fails."""
    words = [sys.executable, "-c", HANGING.replace("WHAT", what), tmp_path]
    began = time.monotonic()
    process = processes.Process(words, cwd=processes.ROOT, stderr=subprocess.PIPE, text=True)
    try:
        _, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == status, errors
    assert time.monotonic() - began < SECONDS


UPLOADING = """
import pathlib, sys, threading
import config
from checkpoints.run_folder import RunFolder
from cli import launch
from common.errors import UserError
from tracking import uploader
from tracking.uploader import Uploader

launch.EXIT_SECONDS = uploader.ERROR_SECONDS = 1

def main():
    options = config.TrainingOptions(output_dir=sys.argv[1], tracker="trackio")
    Uploader.attempt = lambda self, action: (
        self.started.is_set() and threading.current_thread() is self.thread and threading.Event().wait()
    )
    Uploader.missing = lambda self: ["v1"]
    with Uploader(RunFolder(pathlib.Path(sys.argv[1]) / "one"), options, 0) as uploader:
        uploader.wake.set()
        raise UserError("training failed")

launch.run_script(main)
"""


def test_an_upload_that_hangs(tmp_path):
    """After an error it is not waited for, and what is missing is said, with the command that publishes it."""
    (tmp_path / "one").mkdir()
    words = [sys.executable, "-c", UPLOADING, tmp_path]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = processes.Process(words, cwd=processes.ROOT, **pipes)
    try:
        said, errors = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 2 and errors == "error: training failed\n", errors
    assert "trackio lacks v1, the last curves of run one; publish with: python -m runs " in said


def test_an_output_that_is_closed_while_training(words, run):
    """As when `| tee` dies: it is no success, and the line says how to go on."""
    with script("training", *words, "--num_workers", "0", "--validate_every", "20") as process:
        wait_for_update(run, 5, process)
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(SECONDS) == 2
    line = errors.splitlines()[-1]
    assert "Traceback" not in errors and line.startswith(
        "error: nobody reads any more what training prints; go on with"
    )
