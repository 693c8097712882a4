"""The fork server: what it starts is a process like any other, and it is gone when the tests are."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from support import processes
from support.training_runs import final_state, read_log

pytestmark = pytest.mark.script


def both(code, *words, **more):
    """What a real start of the interpreter makes of the code, and what a fork."""
    command = [sys.executable, "-c", code, *words]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pair = [kind(command, **pipes, **more) for kind in (processes.Popen, processes.Process)]
    said = [process.communicate("a line\n", timeout=60) for process in pair]
    return [(process.returncode, *text) for process, text in zip(pair, said, strict=True)]


@pytest.mark.parametrize(
    "code",
    [
        "",
        "import sys; sys.exit()",
        "import sys; sys.exit(3)",
        "import sys; sys.exit(300)",
        "import sys; sys.exit(-1)",
        "import sys; sys.exit('told on standard error')",
        "import os; os._exit(9)",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "raise KeyboardInterrupt",
        "1 / 0",
        "import atexit; atexit.register(print, 'the end'); print('begin')",
        "import atexit; atexit.register(print, 'the end'); 1 / 0",
        "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('waited for'))).start()",
        "import sys; print(sys.stdin.read(), end='')",
        "print('a', flush=True); import os; os.system('echo b'); print('c')",
        "import os, multiprocessing as m; p = m.Process(target=print, args=['child']); p.start(); p.join()",
    ],
)
def test_it_ends_like_a_process_that_was_started(code):
    (status, out, errors), forked = both(code)
    assert forked[:2] == (status, out)
    assert forked[2].splitlines()[-1:] == errors.splitlines()[-1:]  # of a traceback, where it was is not compared


def test_it_begins_like_a_process_that_was_started(tmp_path):
    code = """
import os, random, signal, sys, tempfile, threading
print(sys.argv, os.getcwd(), sorted(os.environ.items()), sys.path[0], tempfile.gettempdir(), __name__)
print([signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE)])
print(threading.active_count(), len(os.listdir("/proc/self/task")), sorted(os.listdir("/proc/self/fd")))
print(os.getsid(0) == os.getpid(), sys.stdout.isatty(), sys.stdout.encoding, sys.stderr.line_buffering)
"""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "LANG": "C.UTF-8"}
    environment["OMP_NUM_THREADS"] = "1"  # as the server has it: to set another number starts a thread
    real, forked = both(code, "word", "-x", cwd=tmp_path, env=environment, start_new_session=True)
    assert real[1].splitlines() == forked[1].splitlines() and str(tmp_path) in real[1]
    assert real[0] == forked[0] == 0


def test_a_fresh_one_has_imported_libraries_alone():
    code = (
        "import sys; print(*sorted({'torch', 'diffusers', 'config', 'memory.forecast', 'cli.launch'} & {*sys.modules}))"
    )
    for fresh, has in ((True, "diffusers torch"), (False, "cli.launch config diffusers memory.forecast torch")):
        done = processes.run([sys.executable, "-c", code], capture_output=True, text=True, fresh=fresh)
        assert done.stdout == f"{has}\n", done.stderr


@pytest.mark.parametrize("script", ["report", "runs", "sd_inference", "training"])
def test_scripts_import_in_their_own_order(script, tmp_path, run_script):
    done = run_script(script, "--output_dir", tmp_path, "--run_id", "none", fresh=True)
    assert done.returncode == 2 and "no run none in " in done.stderr.splitlines()[-1], done.stderr


def test_random_numbers_are_those_of_a_new_process():
    code = """
import random, uuid, numpy, torch
print(random.random(), numpy.random.random(), uuid.uuid4(), numpy.random.default_rng().random(), torch.rand(1).item())
print(torch.get_num_threads(), numpy.random.default_rng(1).random(), torch.manual_seed(1).initial_seed(), torch.rand(1))
"""
    (status, real, _), (_, forked, _) = both(code)
    again = processes.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert status == 0 and real.splitlines()[1] == forked.splitlines()[1] == again.splitlines()[1]
    seen = [number for out in (real, forked, again) for number in out.splitlines()[0].split()]
    assert len(seen) == len(set(seen)) == 15


@pytest.mark.slow
def test_scripts_do_the_same_to_the_bit_when_they_start_for_real(small_data, tmp_path):
    """Training, with covers read by two workers, and then a cover of that run: weights, optimizer, losses, pictures.
    For real, one start of the interpreter runs both scripts, for it costs ten seconds."""
    words = f"""--data_root {small_data} --run_name r --pretrained_model tiny --resolution 32x48
        --batch_size 5 --lr 1e-3 --lr_text_encoder 1e-3 --num_workers 2 --sample_every 2 --num_samples 2 --steps 2
        --validation_rows 4 --train_unet --train_text_encoder --max_steps 4 --ema_decay 0.9""".split()
    pair = [
        (
            ["training", *words, "--output_dir", str(tmp_path / name)],
            ["sd_inference", "--output_dir", str(tmp_path / name), "--version", "v1", "--prompt", "A cover"],
        )
        for name in ("real", "forked")
    ]
    pipes = dict(cwd=processes.ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finish(
        processes.Popen([sys.executable, "-c", IN_TURN, json.dumps(pair[0])], **pipes),
        processes.Process([sys.executable, "-m", *pair[1][0]], **pipes),
    )
    finish(processes.Process([sys.executable, "-m", *pair[1][1]], **pipes))
    one, other = tmp_path / "real" / "r", tmp_path / "forked" / "r"
    assert final_state(one) == final_state(other)
    logs = [read_log(run) for run in (one, other)]
    for line in (line for log in logs for line in log):
        line.pop("images_per_s", None), line.pop("memory_gib", None)
    assert logs[0] == logs[1]
    assert_same_files(one / "samples", other / "samples", 3)
    assert_same_files(one / "covers", other / "covers", 2)


IN_TURN = """
import json, runpy, sys
for sys.argv[0], *sys.argv[1:] in json.loads(sys.argv[1]):
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as left:
        assert not left.code, sys.argv
"""


def finish(*started):
    for process in started:
        out, _ = process.communicate(timeout=280)
        assert process.returncode == 0, out


def assert_same_files(one, other, count):
    files = [path.relative_to(one) for path in one.glob("*.*")]
    assert len(files) == count
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes() or file.suffix == ".json", file


def test_signals_and_time_limits():
    sleeping = [sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(60)"]
    with processes.Process(sleeping, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n" and process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.05)
        process.terminate()
        assert process.wait(timeout=20) == process.returncode == -signal.SIGTERM
        process.kill()  # it has ended already: nothing happens
    with pytest.raises(subprocess.TimeoutExpired):
        processes.run(sleeping, capture_output=True, timeout=0.05)


def test_what_libraries_read_when_they_are_imported_can_not_be_another():
    with pytest.raises(AssertionError, match="HF_HUB_OFFLINE is read at import"):
        processes.run([sys.executable, "-c", ""], env={**os.environ, "HF_HUB_OFFLINE": "0"})


OWNER = """
import pathlib, subprocess, sys, time
from support import processes
server = processes.Server(pathlib.Path(sys.argv[1]), "bare")
child = processes.Process([sys.executable, "-c", "import time; time.sleep(60)"])
print(server.process.pid, child.pid, flush=True)
time.sleep(60)
"""


def test_the_server_and_its_children_end_with_who_started_it(tmp_path):
    environment = {**os.environ, "PYTHONPATH": f"{processes.ROOT}:{processes.ROOT / 'tests'}"}
    command = [sys.executable, "-c", OWNER, tmp_path]
    owner = processes.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    pids = owner.stdout.readline().split()
    assert len(pids) == 2 and all(running(pid) for pid in pids)
    owner.kill()
    owner.communicate(timeout=20)  # all three have its standard output
    deadline = time.monotonic() + 20
    while any(running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def running(pid):
    path = pathlib.Path("/proc", pid, "stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"
