"""Scripts started as processes of their own, by the fork server: `Process` and `run` for subprocess' Popen and run.

Real processes: they have signals, exit statuses and files of their own; see fork_server.py for what they share.
"""

import contextlib
import json
import os
import pathlib
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types

Popen = subprocess.Popen  # the real one, which tests may replace
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SERVER = "TESTS_FORK_SERVER"  # the variable that names the server's socket
# Read by libraries when they are imported, which in a fork they are
AT_IMPORT = ("HF_HUB_OFFLINE", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "TRANSFORMERS_CACHE", "DIFFUSERS_VERBOSITY")


forbidden = None  # why nothing may be started now
started = {}  # pid -> the Process that had it last


def watch(event, given):
    """No start of the interpreter while it is forbidden, by whatever way."""
    if forbidden and event == "subprocess.Popen" and str(given[1][0]) == sys.executable:
        raise AssertionError(forbidden)


class Server:
    """The fork server of this test run, which ends with it."""

    def __init__(self, folder, *more):
        path = str(folder / "fork-server")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        environment.pop("PYTHONUNBUFFERED", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "support.fork_server", path, *more],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the tests
        )
        os.environ[SERVER] = path

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Process:
    """A program of Python in a fork: [sys.executable, "-m", MODULE, ...], or with "-c", CODE or FILE instead.

    The attributes, methods and arguments are subprocess.Popen's. It always has a session of its own. fresh: only
    libraries have been imported before, and none of the project's modules.
    """

    def __init__(
        self, words, *, cwd=None, env=None, stdin=None, stdout=None, stderr=None, text=False, bufsize=-1, **more
    ):
        assert not forbidden, forbidden
        self.args = words
        python, *words = map(str, words)
        environment = dict(os.environ if env is None else env)
        assert python == sys.executable, f"{python} is not for the fork server"
        for name in AT_IMPORT:
            assert environment.get(name, os.environ.get(name)) == os.environ.get(name), f"{name} is read at import"
        self.returncode, ends, opened = None, [], []
        for number, wanted in enumerate((stdin, stdout, stderr)):
            ours, theirs = None, number
            if wanted == subprocess.PIPE:
                reading, writing = os.pipe()
                ours, theirs = (writing, reading) if number == 0 else (reading, writing)
                opened.append(theirs)
            elif wanted == subprocess.STDOUT:
                theirs = ends[1]
            elif wanted == subprocess.DEVNULL:
                theirs = os.open(os.devnull, os.O_RDWR)
                opened.append(theirs)
            elif wanted is not None:
                theirs = wanted if isinstance(wanted, int) else wanted.fileno()
            mode = ("w" if number == 0 else "r") + ("" if text else "b")
            stream = None if ours is None else open(ours, mode, 0 if bufsize == 0 else -1)  # noqa: SIM115
            setattr(self, ("stdin", "stdout", "stderr")[number], stream)
            ends.append(theirs)

        request = {"words": words, "cwd": os.fspath(cwd or os.getcwd()), "env": environment}
        request["fresh"] = more.get("fresh", False)
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.connect(wait_for_server())
        socket.send_fds(self.connection, [json.dumps(request, default=str).encode()], ends)
        for end in opened:
            os.close(end)
        self.pid = self.hear()["pid"]
        started[self.pid] = self

    def hear(self, flags=0):
        message = self.connection.recv(1000, flags)
        assert message, "the fork server has ended"
        return json.loads(message)

    def poll(self):
        if self.returncode is None:
            with contextlib.suppress(BlockingIOError):
                self.end = self.hear(socket.MSG_DONTWAIT)
                self.returncode = os.waitstatus_to_exitcode(self.end["status"])
                self.connection.close()
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None:
            ready, _, _ = select.select([self.connection], [], [], timeout)
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def communicate(self, input=None, timeout=None):
        """(all of standard output, all of standard error), as far as they are pipes, when the process has ended."""
        texts = {}
        readers = [
            threading.Thread(target=lambda stream=stream: texts.update({stream: stream.read()}), daemon=True)
            for stream in (self.stdout, self.stderr)
            if stream
        ]
        for reader in readers:
            reader.start()
        if self.stdin:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(input or type(input or "")())
            with contextlib.suppress(BrokenPipeError):
                self.stdin.close()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
            if reader.is_alive():  # a child of the process has the pipe still
                raise subprocess.TimeoutExpired(self.args, timeout)
        for stream in (self.stdout, self.stderr):
            if stream:
                stream.close()
        return texts.get(self.stdout), texts.get(self.stderr)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream:
                stream.close()
        self.wait()


def start(words, **more):
    """subprocess.Popen, by the fork server if it is a program of Python."""
    python = isinstance(words, list) and str(words[0]) == sys.executable
    return (Process if python else Popen)(words, **more)


def wait4(pid, _):
    """os.wait4 for a Process: of what it used, the memory alone."""
    process = started[pid]
    process.wait()
    return pid, process.end["status"], types.SimpleNamespace(ru_maxrss=process.end["memory"])


def wait_for_server():
    """The path of the server's socket, which is there as soon as it listens."""
    path = os.environ[SERVER]
    for _ in range(600):
        if os.path.exists(path):
            return path
        time.sleep(0.05)
    raise AssertionError("the fork server does not come up")


def run(words, *, capture_output=False, timeout=None, check=False, **more):
    """subprocess.run by the fork server."""
    if capture_output:
        more |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = Process(words, **more)
    try:
        out, errors = process.communicate(timeout=timeout)
    except BaseException:
        process.kill()
        raise
    done = subprocess.CompletedProcess(words, process.returncode, out, errors)
    if check:
        done.check_returncode()
    return done
