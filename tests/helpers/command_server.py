"""The process that commands of `running.py` are forked from: a script, with the socket of requests as its argument."""

import atexit
import gc
import json
import os
import signal
import socket
import sys
import threading
from importlib import import_module

from autoprune import cli
from autoprune.options import compose_command

# What commands import when they first need it.
_LATE = (
    *("autoprune.rl.searcher", "autoprune.evaluation.optional_branches", "autoprune.evaluation.traced"),
    *("autoprune.layers.tensorflow_tracing", "autoprune.training.tensorflow_batches", "sklearn.datasets"),
    *("torch._dynamo", "bokeh.plotting"),
)


def _serve(number):
    """Fork a process for each request; returns in those processes alone, with what each is asked to run."""
    import_module("autoprune.quiet")
    for name in (*cli.ABOUT, *_LATE):
        import_module(name if name in _LATE else f"autoprune.{name}")
    # Hydra looks for its plugins once.
    import_module("hydra.core.plugins").Plugins.instance()
    # Its parser gets faster with what it has read.
    compose_command("search", ["experiment=quick", "searcher=random", "+agent.options.n_steps=8"])
    # What is here already is no garbage: no process looks at all of it again.
    gc.collect()
    gc.freeze()
    # Nobody waits for the processes that wait for the commands.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Ctrl-C in the terminal is for the tests.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    asked = socket.socket(fileno=number)
    while size := asked.recv(8, socket.MSG_WAITALL):
        size = int.from_bytes(size, "big")
        first, ends, *_ = socket.recv_fds(asked, 1, 3)
        request = json.loads(first + asked.recv(size - 1, socket.MSG_WAITALL))
        if not os.fork():
            asked.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _begin(request, *ends)
            return request[0]
        for end in ends:
            os.close(end)
    os._exit(0)


def _begin(request, told, *printed):
    """Become the command; the process that was forked first stays behind and tells of its end."""
    module, arguments, cwd, environment = request
    child = os.fork()
    if child:
        for end in printed:
            os.close(end)
        os.write(told, b"%d\n" % child)
        _, status = os.waitpid(child, 0)
        os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
        os._exit(0)
    os.close(told)
    for number, end in enumerate(printed, 1):
        os.dup2(end, number)
        os.close(end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = cwd
    sys.argv = [f"autoprune.{module}", *arguments]


def _run(module):
    """Run the command, and end the process as the interpreter does, but for freeing what it shares with its parent.

    Going through a gigabyte of modules to free them would copy all of it.
    """
    try:
        code = cli.run_command(module)
    except SystemExit as ended:
        code = ended.code
    if not isinstance(code, int | None):
        sys.exit(code)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    _run(_serve(int(sys.argv[1])))
