"""The child's end of `child.py`: imports a module, and answers requests until nobody asks any more.

python -m autoprune.workers.serve MODULE [SCRATCH FOLDER]
"""

import importlib
import json
import os
import queue
import shutil
import signal
import sys
import threading
import time
import traceback
from typing import Any

_WATCH_SECONDS = 5
_EXIT_SECONDS = 25
# Keras imports these if they are installed, for functions that no child calls; they take half of its start.
_UNNEEDED = ("IPython", "matplotlib", "sklearn")


def main() -> None:
    """Serve the module that the command line names; end at once when the parent is gone, even in the midst of work."""
    # Libraries print to standard output, which is for messages: keep a private copy of it and send theirs to the log.
    sys.stdout.flush()
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # A line that something has begun while Python started ends here.
    channel.write("\n")
    requests: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    working = threading.Event()
    working.set()  # with the import, which nobody waits for either once the parent is gone
    threading.Thread(target=_receive, args=(requests, working), daemon=True).start()
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    sending = threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with sending:
            channel.write(json.dumps(message) + "\n")

    try:
        if sys.argv[1].startswith("autoprune."):  # All of these need Keras.
            _import_keras()
        handle = importlib.import_module(sys.argv[1]).make_handler()
        working.clear()
        send({"ready": True})
        while (message := requests.get()) is not None:
            number = message["id"]
            answer = handle(message["request"], lambda event, number=number: send({"id": number, "event": event}))
            # Before it is sent: the next request may come at once.
            working.clear()
            send({"id": number, "answer": answer, "resident": resident_bytes()})
    except BrokenPipeError:
        _leave()
    except BaseException:  # noqa: BLE001 - the parent finds it in the log
        traceback.print_exc()
        sys.stderr.flush()
        # An interpreter in which a thread still reads standard input cannot end in order.
        os._exit(1)
    # It ends in order, which frees its devices; libraries may hang in that.
    _remove_scratch()
    if hasattr(signal, "alarm"):
        signal.alarm(_EXIT_SECONDS)


def _import_keras() -> None:
    """Import Keras while it cannot find what only slows its start; what comes later may import that."""
    hidden = [name for name in _UNNEEDED if name not in sys.modules]
    absent: Any = None  # Python's mark of a module that must not be imported.
    sys.modules.update(dict.fromkeys(hidden, absent))
    try:
        importlib.import_module("keras")
    finally:
        for name in hidden:
            del sys.modules[name]


def _receive(requests: queue.SimpleQueue[dict[str, Any] | None], working: threading.Event) -> None:
    """Body of a thread. Standard input ends with the parent, or when the parent wants no more."""
    for line in sys.stdin:
        working.set()
        requests.put(json.loads(line))
    if working.is_set():
        _leave()
    requests.put(None)


def _watch_parent(parent: int) -> None:
    """Body of a thread. A process that the parent has forked may keep this one's standard input open."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    _leave()


def _leave() -> None:
    """End at once: nobody waits for an answer any more."""
    _remove_scratch()
    os._exit(1)


def _remove_scratch() -> None:
    for folder in sys.argv[2:]:
        shutil.rmtree(folder, ignore_errors=True)


def resident_bytes() -> int:
    """Memory of this process, so that the other end can replace it before it grows too large."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # elsewhere than on Linux: the most it has held
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
