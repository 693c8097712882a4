"""A process that has imported everything, and forks itself for each script that a test starts.

A start of a script spends 9 to 11 seconds of CPU time on imports alone; a fork has them. What a fork does else is what
a new process does: a session of its own, the working directory, environment and standard streams that the test gives,
`__main__` run anew, and an exit status, a traceback or a death by signal that are the interpreter's own.

    python -m support.fork_server SOCKET [bare]        # bare: it imports nothing

One server serves the whole test run, all workers of pytest-xdist; it imports when the first script is asked for, and
ends, with all its children, when its standard input does: with the process that started it, however that ends.
processes.py has the other side. The talk on the socket, a message each: {"words", "cwd", "env", "fresh"} with the
three standard streams -> {"pid"} -> {"status", "memory", "seconds"}, as wait4 gives them, when the child has ended.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import io
import json
import os
import pathlib
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import threading
import types

from support import forecast

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Scripts start by being run, so they are not imported here; dataset.py is a module, too
SCRIPTS = {"report", "training", "sd_inference", "precalc_fid_stats", "runs"}
MOST = 200_000  # bytes in a message


def import_everything():
    """The libraries and modules that scripts import, and no more: no thread, and no state that a fork would have."""
    import logging

    gc.disable()
    os.fsync = lambda file: None  # as in conftest.py
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # as every script does first
    for name in ("accelerate", "bitsandbytes", "diffusers", "pandas", "torch", "torchvision", "transformers"):
        importlib.import_module(name)
    modules = [*ROOT.glob("*.py"), *(path for room in ROOT.glob("*/__init__.py") for path in room.parent.glob("*.py"))]
    for path in sorted(modules):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name not in SCRIPTS and path.parent.name not in ("tests", "mini_sd", "bench", "experiments"):
            importlib.import_module(name)
    gc.freeze()  # a child's garbage collector leaves alone, and shared, what was there before
    gc.enable()
    if len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("an import has started a thread, which a fork would lack")


def serve(listener, prepare):
    """Fork a child for each request; `prepare` before the first. Returns the request in the child, and None in the
    server, at its end."""
    children = {}  # pid -> (its pidfd, connection to who asked)
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ, "end")
        selector.register(listener, selectors.EVENT_READ, "ask")
        while True:
            for key, _ in selector.select():
                if key.data == "end":
                    for pid in children:
                        os.kill(pid, signal.SIGKILL)  # it may not have come to setsid yet
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(pid, signal.SIGKILL)
                    return None
                if key.data == "ask":
                    connection, _ = listener.accept()
                    if prepare:
                        prepare()
                        prepare = None
                    text, streams, _, _ = socket.recv_fds(connection, MOST, 3)
                    request = json.loads(text)
                    pid = os.fork()
                    if pid == 0:
                        connection.close()
                        for pidfd, other in children.values():
                            os.close(pidfd)
                            other.close()
                        begin(request, streams)
                        return request
                    for stream in streams:
                        os.close(stream)
                    children[pid] = os.pidfd_open(pid), connection
                    selector.register(children[pid][0], selectors.EVENT_READ, pid)
                    tell(connection, pid=pid)
                else:
                    pidfd, connection = children.pop(key.data)
                    selector.unregister(pidfd)
                    os.close(pidfd)
                    _, status, used = os.wait4(key.data, 0)
                    tell(connection, status=status, memory=used.ru_maxrss, seconds=used.ru_utime + used.ru_stime)
                    connection.close()


def tell(connection, **message):
    with contextlib.suppress(ConnectionError):  # a test need not wait for what it started
        connection.send(json.dumps(message).encode())


def begin(request, streams):
    """Make this process, just forked, one that was just started."""
    os.setsid()
    if request.get("fresh"):
        forget_the_project()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    threads = os.environ.get("OMP_NUM_THREADS")
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup may have started the tests
    tempfile.tempdir = None  # TMPDIR may be another
    if "torch" in sys.modules:
        sys.modules["numpy"].random.seed()  # as its import does; random, of the standard library, sees to it itself
        sys.modules["torch"].default_generator.seed()
        if os.environ.get("OMP_NUM_THREADS") != threads:  # which torch has read; to set them starts some
            sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count()))
    if "TQDM_MININTERVAL" in os.environ:  # which tqdm reads when it is imported
        seconds, bar = float(os.environ["TQDM_MININTERVAL"]), sys.modules["tqdm"].tqdm
        bar.__init__ = functools.partialmethod(bar.__init__, mininterval=seconds)
    unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    # Streams of their own: those of the server remember whether it could seek in its output
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    sys.stdout = sys.__stdout__ = open_stream(1, encoding or sys.stdout.encoding, errors or "strict")
    sys.stderr = sys.__stderr__ = open_stream(2, encoding or sys.stderr.encoding, "backslashreplace")
    sys.stdout.reconfigure(write_through=unbuffered)
    sys.stderr.reconfigure(write_through=unbuffered, line_buffering=not unbuffered)


def forget_the_project():
    """What runs imports the project's modules itself, in its own order, as after a start of the interpreter."""
    for name, module in list(sys.modules.items()):
        path = getattr(module, "__file__", None) or ""
        ours = path.startswith(f"{ROOT}/") and "site-packages" not in path
        if ours and name != "__main__" and not name.startswith("support"):
            del sys.modules[name]


def open_stream(number, encoding, errors):
    """A text stream to a file descriptor, as the interpreter opens its own."""
    return io.TextIOWrapper(open(number, "wb", -1, closefd=False), encoding, errors)


def main_of(request):
    """Become `python WORDS`: set what the interpreter would set. Returns a function without arguments: the program."""
    kind, *words = request["words"]
    libraries = [path for path in sys.path if path and not pathlib.Path(path).is_relative_to(ROOT)]
    libraries += [path for path in sys.path if "site-packages" in path and path not in libraries]
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv[:] = words
    if kind == "-m":
        sys.path[:] = [os.getcwd(), *given, *libraries]
        if words[0].startswith("support."):  # a program of the tests'
            sys.path.append(str(ROOT / "tests"))
        return lambda: runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    if kind == "-c":
        sys.argv[0] = "-c"
        sys.path[:] = ["", *given, *libraries]
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        return lambda: exec(compile(words[0], "<string>", "exec"), vars(module))
    sys.argv.insert(0, kind)
    sys.path[:] = [str(pathlib.Path(kind).parent), *given, *libraries]
    return lambda: runpy.run_path(kind, run_name="__main__")


def end(program):
    """Run a program and leave as the interpreter does, but for taking all modules apart, which costs half a second."""
    status, interrupted = 1, False
    try:
        program()
        status = 0
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            status = (left.code or 0) & 0xFF
        else:
            print(left.code, file=sys.stderr)
    except BaseException as problem:
        interrupted = isinstance(problem, KeyboardInterrupt)
        sys.excepthook(*sys.exc_info())
    threading._shutdown()  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120
    if interrupted:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(status)


def main():
    """Serve; in a child, return its program."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(sys.argv[1])
        listener.listen(100)
        request = serve(listener, import_everything if len(sys.argv) == 2 else None)
    if request is None:
        return None
    if "memory.forecast" in sys.modules and not os.environ.get(forecast.REAL):
        forecast.stand_in()
    return main_of(request)


if __name__ == "__main__":
    program = main()
    if program:
        end(program)
